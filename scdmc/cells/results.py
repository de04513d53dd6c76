"""Results for people: an AnnData with embeddings, labels and tables added."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd

from scdmc.cells.viewers import MAP_KEY, ForViewers, add_for_viewers, add_to_adata, key_of_map, key_of_map_in
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
    viewers: ForViewers | None = None,
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
    viewers
        What is said of them.
    """
    table = cells.obs.set_index("cell_id").drop(columns=ROW_COLUMN, errors="ignore")
    table.index = table.index.astype(str)
    with atomic_path(path) as temporary, results_file(temporary, data_path, table) as file:
        rows = cells.obs[ROW_COLUMN].to_numpy() if is_h5ad(data_path) else np.arange(len(cells))
        add_to_file(file, rows, obs or {}, obsm or {}, viewers or ForViewers())


def add_to_file(
    file: h5py.File,
    rows: np.ndarray,
    obs: Mapping[str, np.ndarray],
    obsm: Mapping[str, np.ndarray],
    viewers: ForViewers,
) -> None:
    """Add results of some cells to an open ``.h5ad``, and what viewers look for (:mod:`scdmc.cells.viewers`).

    Parameters
    ----------
    file
        With n_cells cells.
    rows, obs, obsm
        See :func:`add_results`. A map (``X_umap``) gets another name where the file has one that is not ours.
    viewers
        What is said of them.
    """
    n_cells = number_of_cells(file)
    add_obs(file, {name: obs_column(values, rows, n_cells) for name, values in obs.items()})
    map_key = key_of_map(file) if MAP_KEY in obsm else None
    for name, values in obsm.items():
        matrix = np.full((n_cells, values.shape[1]), np.nan, dtype=np.float32)
        matrix[rows] = values
        new_obsm(file, map_key if name == MAP_KEY else name, matrix.shape)[:] = matrix
    add_for_viewers(file, viewers, obs, map_key)


def add_results(
    adata: "anndata.AnnData",
    rows: np.ndarray,
    obs: Mapping[str, np.ndarray],
    obsm: Mapping[str, np.ndarray],
    viewers: ForViewers | None = None,
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
    viewers
        What is said of them.
    """
    map_key = key_of_map_in(adata) if MAP_KEY in obsm else None
    for name, values in obs.items():
        adata.obs[name] = obs_column(values, rows, adata.n_obs)
    for name, values in obsm.items():
        matrix = np.full((adata.n_obs, values.shape[1]), np.nan, dtype=np.float32)
        matrix[rows] = values
        adata.obsm[map_key if name == MAP_KEY else name] = matrix
    add_to_adata(adata, viewers or ForViewers(), obs, map_key)


def obs_column(values: np.ndarray, rows: np.ndarray, n_cells: int) -> np.ndarray | pd.Categorical:
    """Results of some cells as a column of obs: text as categories, numbers as float32; missing for other cells."""
    is_text = values.dtype.kind == "O"
    column = np.full(n_cells, None if is_text else np.nan, dtype=object if is_text else np.float32)
    column[rows] = values
    return pd.Categorical(column, _in_order(column)) if is_text else column


def _in_order(column: np.ndarray) -> list[str]:
    """The categories of a column of text; clusters are in the order of their numbers."""
    names = sorted(set(column[~pd.isna(column)]))
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names
