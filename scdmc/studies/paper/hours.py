"""How long the tables take, computed from the speed of the model on this machine and the numbers of cells."""

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from scdmc.annotation.fine_tuning import adapted_settings
from scdmc.annotation.study import Place
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory
from scdmc.model.storage import load_model
from scdmc.public_data.paper.options import BMMC, IMMUNE, MS, MYELOID, PBMC10K, ZHENG68K
from scdmc.studies.paper.options import ANNOTATION, DATASETS, PUBLISHED_FINE_TUNING
from scdmc.studies.synthetic_cells import synthetic_cells

# As the sources state them; of MS and Myeloid in the selection of scGPT (Cui et al. 2024), a part of the source.
STATED_CELLS = {ZHENG68K: 68_579, MS: 21_312, MYELOID: 13_178, PBMC10K: 11_990, BMMC: 90_261, IMMUNE: 33_506}


OF_A_SELECTION = dict.fromkeys((MS, MYELOID), "Cui et al. 2024, a selection: at least")


TIMED_CELLS, WARM_UP_CELLS = 32, 4


# A step of training is a pass forwards and one backwards, which takes about twice as long.
PASSES_OF_TRAINING = 3


TRAINED_SHARE = 0.7


# The three models that are trained: in the published setting, by default, and from random weights.
BY_DEFAULT, VIEWS_AND_BASELINES = 2, 3


def seconds_per_cell(model_directory: ModelDirectory, place: Place) -> float:
    """Time of one pass of a cell with as many tokens as the model reads, which is the longest there can be."""
    encoder = place(load_model(model_directory.path, ScDMCModel))
    for n_cells in (WARM_UP_CELLS, TIMED_CELLS):
        cells = synthetic_cells(np.full(n_cells, model_directory.context))
        # Genes that a smaller vocabulary lacks become others: what they are does not matter.
        ids = (np.minimum(of, encoder.config.vocab_size - 1) for of in (cells.rank_ids, cells.expression_ids))
        cells = replace(cells, **dict(zip(("rank_ids", "expression_ids"), ids, strict=True)))
        start = time.perf_counter()
        cell_embeddings(encoder, cells)
    return (time.perf_counter() - start) / TIMED_CELLS


def hours_table(n_cells: Mapping[str, int | None], seconds: float, n_seeds: int, hidden_size: int) -> pd.DataFrame:
    """Hours of the encoder for each data set.

    Parameters
    ----------
    n_cells
        Data set -> its cells; None where the file is not there, for the number that its source states.
    seconds
        Of one pass of one cell.
    n_seeds, hidden_size
        Of the run, and of the model.

    Returns
    -------
    Columns dataset, cells, known from, passes, hours; the last row is the sum.
    """
    rows = []
    for name, found in n_cells.items():
        cells = STATED_CELLS[name] if found is None else found
        passes = float(cells)  # each cell is embedded once for clustering and integration
        if name in DATASETS[ANNOTATION]:
            n_trained = round(TRAINED_SHARE * cells)
            epochs = BY_DEFAULT * adapted_settings(n_trained, hidden_size).epochs + PUBLISHED_FINE_TUNING["epochs"]
            per_seed = epochs * (PASSES_OF_TRAINING * n_trained + 0.1 * cells) + (BY_DEFAULT + 1) * cells
            passes = n_seeds * per_seed + VIEWS_AND_BASELINES * cells
        known = OF_A_SELECTION.get(name, "its source") if found is None else "the file"
        rows.append((name, cells, known, round(passes), passes * seconds / 3600))
    table = pd.DataFrame(rows, columns=["dataset", "cells", "known from", "passes", "hours"])
    total = ("all", table["cells"].sum(), "", table["passes"].sum(), table["hours"].sum())
    return pd.concat([table, pd.DataFrame([total], columns=table.columns)], ignore_index=True)
