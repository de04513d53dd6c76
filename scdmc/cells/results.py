"""Results for people: an AnnData with embeddings, labels and tables added."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scdmc.files import atomic_path
from scdmc.reading.h5ad import add_obs, new_obsm, number_of_cells, results_file
from scdmc.reading.options import is_h5ad
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizedCells

if TYPE_CHECKING:
    import anndata


def write_annotated(
    path: Path,
    data_path: Path,
    cells: TokenizedCells,
    obs: Mapping[str, np.ndarray] | None = None,
    obsm: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a copy of the user's ``.h5ad`` with results added; other data give their cells without genes.

    Parameters
    ----------
    path
        The ``.h5ad`` to write.
    data_path
        Where the cells came from (:func:`scdmc.reading.h5ad.require_room_for_results` says before the work whether
        results can be added).
    cells
        The cells as they were read (:func:`scdmc.cells.data.read_cells`).
    obs, obsm
        Results, one row per cell of ``cells``. Cells of an ``.h5ad`` that were left out (``filter_pass``) get missing
        values.
    """
    table = cells.obs.set_index("cell_id").drop(columns=ROW_COLUMN, errors="ignore")
    table.index = table.index.astype(str)
    with atomic_path(path) as temporary, results_file(temporary, data_path, table) as file:
        n_cells = number_of_cells(file)
        rows = cells.obs[ROW_COLUMN].to_numpy() if is_h5ad(data_path) else np.arange(len(cells))
        add_obs(file, {name: obs_column(values, rows, n_cells) for name, values in (obs or {}).items()})
        for name, values in (obsm or {}).items():
            matrix = np.full((n_cells, values.shape[1]), np.nan, dtype=np.float32)
            matrix[rows] = values
            new_obsm(file, name, matrix.shape)[:] = matrix


def add_results(
    adata: "anndata.AnnData", rows: np.ndarray, obs: Mapping[str, np.ndarray], obsm: Mapping[str, np.ndarray]
) -> None:
    """Add results of some cells to an AnnData, in place; the other cells get missing values.

    Parameters
    ----------
    adata
        n_cells cells.
    rows
        Shape (n_results,): the cells that the results are of.
    obs, obsm
        Name -> results, n_results rows each.
    """
    for name, values in obs.items():
        adata.obs[name] = obs_column(values, rows, adata.n_obs)
    for name, values in obsm.items():
        matrix = np.full((adata.n_obs, values.shape[1]), np.nan, dtype=np.float32)
        matrix[rows] = values
        adata.obsm[name] = matrix


def obs_column(values: np.ndarray, rows: np.ndarray, n_cells: int) -> np.ndarray | pd.Categorical:
    """Results of some cells as a column of obs: text as categories, numbers as float32; missing for other cells."""
    is_text = values.dtype.kind == "O"
    column = np.full(n_cells, None if is_text else np.nan, dtype=object if is_text else np.float32)
    column[rows] = values
    return pd.Categorical(column) if is_text else column
