"""Results for people: an AnnData with embeddings, labels and tables added."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizedCells

if TYPE_CHECKING:
    import anndata
from scdmc.reading.options import is_h5ad


def annotated_data(
    data_path: Path,
    cells: TokenizedCells,
    obs: Mapping[str, np.ndarray] | None = None,
    obsm: Mapping[str, np.ndarray] | None = None,
) -> "anndata.AnnData":
    """The user's AnnData with results added; parquet gives an AnnData without genes.

    Parameters
    ----------
    data_path
        Where the cells came from.
    cells
        The cells as they were read (:func:`scdmc.cells.data.read_cells`).
    obs, obsm
        Results, one row per cell of ``cells``. Cells of an ``.h5ad`` that were left out
        (``filter_pass``) get missing values.
    """
    import anndata

    if is_h5ad(data_path):
        adata = anndata.read_h5ad(data_path)
        rows = cells.obs[ROW_COLUMN].to_numpy()
    else:
        table = cells.obs.set_index("cell_id")
        table.index = table.index.astype(str)
        adata = anndata.AnnData(obs=table)
        rows = np.arange(len(cells))
    add_results(adata, rows, obs or {}, obsm or {})
    return adata


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
