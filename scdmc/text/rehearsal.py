"""A training of a text model on a few cells, in seconds: whether all of it works, and what the whole would take."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from scdmc.disk import shown_size
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory
from scdmc.text.corpus import TRAIN, Corpus
from scdmc.text.model import TextSpace
from scdmc.text.options import TextTrainingOptions
from scdmc.text.training import STEPS_WITHOUT_ONE, train
from scdmc.text.training_data import VALIDATION, training_data

FEW_CELLS, FEW_STEPS = 60, 3


def rehearsed(
    corpus: Corpus,
    data_sets: Sequence[str],
    encoder: ScDMCModel,
    model_directory: ModelDirectory,
    space: TextSpace,
    options: TextTrainingOptions,
) -> dict[str, str]:
    """Train three steps on 60 cells of each data set; nothing is written.

    Parameters
    ----------
    corpus, data_sets
        Cells, and the data sets that are trained on.
    encoder, model_directory
        What reads the cells.
    space
        The training texts.
    options
        What is trained, and how.

    Returns
    -------
    What to say of it, by name.
    """
    obs, draw = corpus.cells.obs, np.random.default_rng(options.seed)
    is_usable = obs["split"].isin((TRAIN, VALIDATION)).to_numpy()
    of_set = {name: np.flatnonzero(is_usable & (obs["dataset"].astype(str) == name)) for name in data_sets}
    rows = np.concatenate([np.sort(draw.permutation(rows)[:FEW_CELLS]) for rows in of_set.values()])
    n_cells = sum(map(len, of_set.values()))
    few_options = replace(options, n_components=min(options.n_components, len(rows)))
    began = time.perf_counter()
    data = training_data(
        replace(corpus, cells=corpus.cells.select(rows)), data_sets, encoder, model_directory, space, few_options
    )
    encoded = time.perf_counter()
    trained = train(data.sets, space, few_options, FEW_STEPS)
    of_step = (time.perf_counter() - encoded) / FEW_STEPS
    n_steps = options.max_steps + len(data_sets) * min(STEPS_WITHOUT_ONE, options.max_steps) * (len(data_sets) > 1)
    seconds = encoded - began
    said = {
        "data sets": f"{len(data_sets)}, with {len(space.terms)} terms",
        "training cells": f"{(obs['split'].to_numpy()[np.concatenate(list(of_set.values()))] == TRAIN).sum():,}",
        "encoding": f"{seconds * n_cells / len(rows) / 60:.1f} min, {len(rows) / seconds:.0f} cells/s",
    }
    if options.projector != "ridge":
        speed = f"{options.batch_size / of_step:,.0f} cells/s" if of_step > 0 else ""
        said["steps"] = f"{n_steps:,} at most, those for the temperature included"
        said["training"] = f"{n_steps * of_step / 60:.1f} min at most, {speed}"
    if trained.reader is not None:
        n_bytes = sum(each.states.n_bytes for each in data.sets) * n_cells / len(rows)
        said["weights of the Q-Former"] = f"{sum(each.numel() for each in trained.reader.parameters()):,}"
        said["states of genes"] = shown_size(n_bytes)
    return said
