"""Embeddings that users bring: a matrix of ``obsm``, or a file that is joined to the cells by their names."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd

from scdmc.cells.options import OwnEmbeddings
from scdmc.errors import ScDMCError, shown_names
from scdmc.reading.h5ad import read_obs
from scdmc.reading.hdf5_links import require_own_content
from scdmc.reading.matrix_readers import reading
from scdmc.reading.options import is_counts, is_h5ad
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizedCells

if TYPE_CHECKING:
    import anndata


SUFFIXES = (".npy", ".csv", ".h5ad")


def require_own_embeddings(own: OwnEmbeddings, paths: Sequence[Path]) -> None:
    """Refuse, before any work, embeddings that cannot be read: files that are absent, keys that are not in the data.

    Parameters
    ----------
    own
        The embeddings.
    paths
        The data.

    Raises
    ------
    ScDMCError
        Naming what is wrong.
    """
    for name, path in own.files.items():
        if not path.is_file():
            raise ScDMCError(f"--embedding_files {name}: {path}: no such file")
        if path.suffix.lower() not in SUFFIXES:
            raise ScDMCError(f"--embedding_files {name}: {path.name} is none of {', '.join(SUFFIXES)}")
        if path.suffix.lower() == ".npy" and len(paths) > 1:
            raise ScDMCError(
                f"--embedding_files {name}: an .npy is joined by the order of the cells, and there are {len(paths)} "
                "data sets; give a .csv or an .h5ad with names of cells"
            )
    for path in paths if own.obsm else ():
        if not is_h5ad(path):
            raise ScDMCError(f"{path} holds no obsm, as --embeddings needs it; give an .h5ad, or --embedding_files")
        require_own_content(path)
        with reading(str(path)), h5py.File(path, "r") as file:
            _require_keys(own.obsm, list(file.get("obsm", ())), str(path))


def read_own_embeddings(own: OwnEmbeddings, data_path: Path, cells: TokenizedCells) -> dict[str, np.ndarray]:
    """The embeddings of some cells of a data set.

    Parameters
    ----------
    own
        The embeddings (:func:`require_own_embeddings`).
    data_path
        Where the cells come from.
    cells
        The cells.

    Returns
    -------
    Name -> matrix, float32, shape (n_cells, n_dimensions).

    Raises
    ------
    ScDMCError
        If a file cannot be read, lacks cells, holds a cell twice, or has another number of rows; if a matrix has not
        two dimensions, or a value is no finite number.
    """
    found = {}
    rows = cells.obs[ROW_COLUMN].to_numpy() if is_counts(data_path) else np.arange(len(cells))
    names = cells.obs["cell_id"].to_numpy(dtype=str)
    if own.obsm:
        with reading(str(data_path)), h5py.File(data_path, "r") as file:
            for key in own.obsm:
                found[key] = _matrix(_element(file["obsm"][key]), f"{data_path}: obsm[{key!r}]")[rows]
    for name, path in own.files.items():
        found[name] = _from_file(name, path, (data_path, rows, names))
    return {name: _finite(matrix, f"embedding {name!r}", names) for name, matrix in found.items()}


def own_embeddings_of(
    adata: "anndata.AnnData", keys: Sequence[str], rows: np.ndarray, names: np.ndarray
) -> dict[str, np.ndarray]:
    """Embeddings of some cells of an AnnData in memory.

    Parameters
    ----------
    adata
        The AnnData.
    keys
        Of its ``obsm``.
    rows, names
        The cells, shape (n_cells,), and what they are called.

    Returns
    -------
    Key -> matrix, float32, shape (n_cells, n_dimensions).

    Raises
    ------
    ScDMCError
        As :func:`read_own_embeddings`.
    """
    keys = OwnEmbeddings(keys).obsm
    _require_keys(keys, list(adata.obsm), "adata")
    matrices = {key: _matrix(adata.obsm[key], f"adata.obsm[{key!r}]")[rows] for key in keys}
    return {key: _finite(matrix, f"adata.obsm[{key!r}]", names) for key, matrix in matrices.items()}


def _require_keys(keys: Sequence[str], there: list[str], where: str) -> None:
    for key in keys:
        if key not in there:
            known = f"there are {shown_names(sorted(there), 20)}" if there else "it is empty"
            raise ScDMCError(f"{where}: obsm has no {key!r}; {known}")


def _from_file(name: str, path: Path, data: tuple[Path, np.ndarray, np.ndarray]) -> np.ndarray:
    """The rows of a file that belong to some cells of the data: its path, rows and names of the cells."""
    data_path, rows, names = data
    where = f"--embedding_files {name}: {path}"
    if path.suffix.lower() == ".npy":
        matrix = _matrix(_load_npy(path, where), where)
        n_cells = len(read_obs(data_path)) if is_counts(data_path) else len(rows)
        if len(matrix) != n_cells:
            raise ScDMCError(
                f"{where} has {len(matrix):,} rows, and {data_path} {n_cells:,} cells; an .npy is joined by the order "
                "of the cells, so give a row for each, or a .csv with names of cells"
            )
        return matrix[rows]
    table = _read_csv(path, where) if path.suffix.lower() == ".csv" else _read_h5ad(name, path, where)
    repeated = table.index[table.index.duplicated()].unique()
    if len(repeated):
        raise ScDMCError(f"{where}: {len(repeated):,} cells stand there more than once: {shown_names(repeated)}")
    place = table.index.get_indexer(names)
    missing = names[place < 0]
    if len(missing):
        raise ScDMCError(
            f"{where} lacks {len(missing):,} of the {len(names):,} cells of {data_path}: {shown_names(missing)}; the "
            f"file's cells are called {shown_names(table.index, 3)}"
        )
    return table.to_numpy()[place]


def _load_npy(path: Path, where: str) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ScDMCError(f"{where} is no array of numbers that numpy.save wrote: {error}") from error


def _read_csv(path: Path, where: str) -> pd.DataFrame:
    """Names of cells in the first column, numbers in the others."""
    try:
        table = pd.read_csv(path, index_col=0, dtype={0: str}, encoding="utf8")
    except (ValueError, UnicodeDecodeError) as error:  # pandas' ParserError is one
        raise ScDMCError(f"{where} is no table with names of cells in its first column: {error}") from error
    text = [column for column in table if not pd.api.types.is_numeric_dtype(table[column])]
    if text:
        raise ScDMCError(
            f"{where}: columns that hold no numbers: {shown_names(text)}; the first column names the cells, and all "
            "others are numbers"
        )
    matrix = _matrix(table.to_numpy(), where)
    return pd.DataFrame(matrix, table.index.astype(str))


def _read_h5ad(name: str, path: Path, where: str) -> pd.DataFrame:
    """``obsm[NAME]`` or ``obsm[X_NAME]``; of a file without obsm its X."""
    require_own_content(path)
    cells = read_obs(path).index.astype(str)
    with reading(str(path)), h5py.File(path, "r") as file:
        keys = list(file.get("obsm", ()))
        key = next((key for key in (name, f"X_{name}") if key in keys), None)
        if key is None and keys:
            raise ScDMCError(
                f"{where}: obsm has neither {name!r} nor {f'X_{name}'!r}; there are {shown_names(keys, 20)}; give the "
                "embedding the name of one of them"
            )
        if key is None and "X" not in file:
            raise ScDMCError(f"{where} holds no matrix; put the embedding into its obsm or X")
        element = _element(file["X"] if key is None else file["obsm"][key])
    return pd.DataFrame(_matrix(element, where), cells)


def _element(element: h5py.Dataset | h5py.Group) -> object:
    import anndata

    return anndata.io.read_elem(element)


def _matrix(values: object, where: str) -> np.ndarray:
    """A matrix of numbers, float32, shape (n_cells, n_dimensions)."""
    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ScDMCError(f"{where} has the shape {values.shape}; an embedding has a row for each cell, and columns")
    if values.dtype.kind not in "fiub":
        raise ScDMCError(f"{where} holds {values.dtype}, and an embedding holds real numbers")
    return values.astype(np.float32)


def _finite(matrix: np.ndarray, where: str, names: np.ndarray) -> np.ndarray:
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise ScDMCError(
            f"{where}: {len(bad):,} of {len(matrix):,} cells have a value that is no finite number: "
            f"{shown_names(names[bad])}; leave these cells out of the data, or mend the embedding"
        )
    return matrix
