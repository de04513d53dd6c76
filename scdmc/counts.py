"""Raw counts: finding them in a file or an AnnData, reading them in blocks of cells, refusing what is not a count."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.errors import ScDMCError

if TYPE_CHECKING:
    import anndata

# Where raw counts are looked for without --layer; other layers ("spliced") are only taken by name.
COUNT_PLACES = ("X", "layers/counts", "raw/X")
CELLS_IN_SAMPLE = 200
# Of a matrix by columns, where a cell's values lie scattered.
VALUES_IN_SAMPLE = 200_000
BLOCK_SIZE = 1024


@dataclass(frozen=True)
class Counts:
    """Counts of one data set, read in blocks of cells.

    Attributes
    ----------
    name
        File name, or what the user should see in its place.
    layer
        Where the counts come from: ``X``, ``layers/NAME`` or ``raw/X``.
    obs, var
        Annotation of the cells and of the genes (of ``raw`` where the counts come from there).
    is_normalized
        True if no place held integers and the user passed ``--allow_normalized``.
    read_rows
        Returns the rows start:stop as CSR of shape (stop - start, n_genes), unchecked.
    where_else
        Where raw counts may lie if these turn out to be none, for the error message.
    """

    name: str
    layer: str
    obs: pd.DataFrame
    var: pd.DataFrame
    is_normalized: bool
    read_rows: Callable[[int, int], scipy.sparse.csr_matrix]
    where_else: str

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.obs)

    def blocks(
        self, start: int = 0, stop: int | None = None, block_size: int = BLOCK_SIZE
    ) -> Iterator[tuple[int, scipy.sparse.csr_matrix]]:
        """Yield (first row, counts of shape (at most block_size, n_genes)), checked.

        Raises
        ------
        ScDMCError
            If a block holds a value that is no count.
        """
        stop = self.n_cells if stop is None else stop
        for first in range(start, stop, block_size):
            block = self.read_rows(first, min(first + block_size, stop))
            self._require_counts(block, first)
            yield first, block

    def _require_counts(self, block: scipy.sparse.csr_matrix, first_row: int) -> None:
        is_fine = _is_non_negative(block.data) if self.is_normalized else _is_count(block.data)
        if is_fine.all():
            return
        entry = int(np.argmin(is_fine))
        row = int(np.searchsorted(block.indptr, entry, side="right")) - 1
        raise ScDMCError(
            f"{self.name}: {self.layer} holds {block.data[entry]} for cell {str(self.obs.index[first_row + row])!r}, "
            f"gene {str(self.var.index[block.indices[entry]])!r}, which is no count; "
            f"raw counts are integers of at least 0; {self.where_else}"
        )


@contextmanager
def open_counts(path: Path, layer: str | None = None, allow_normalized: bool = False) -> Iterator[Counts]:
    """Open the raw counts of an ``.h5ad`` without loading the matrix.

    Parameters
    ----------
    path
        The ``.h5ad``.
    layer
        ``X``, ``raw`` or the name of a layer; without it the first of X, ``layers['counts']``, ``raw.X`` that holds
        non-negative integers. One that holds nothing but zeros is passed over where another holds values.
    allow_normalized
        Take the first of them with values even if no place holds integers.

    Raises
    ------
    ScDMCError
        If the file is no ``.h5ad``, the layer is absent, or no place holds raw counts.
    """
    path = Path(path)
    if not path.is_file():
        raise ScDMCError(f"{path}: no such file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ScDMCError(f"{path} is not a readable .h5ad file ({_first_line(error)})") from error
    with file:
        yield _counts_of_file(file, path, layer, allow_normalized)


def _counts_of_file(file: h5py.File, path: Path, layer: str | None, allow_normalized: bool) -> Counts:
    import anndata

    elements = {place: file[place] for place in COUNT_PLACES if place in file}
    elements |= {f"layers/{name}": file["layers"][name] for name in file.get("layers", {})}
    missing = [key for key in ("obs", "var") if key not in file]
    if missing or not elements:
        raise ScDMCError(f"{path} is an HDF5 file but no .h5ad: it lacks {', '.join(missing) or 'X'}")
    places = {place: _Place(element) for place, element in elements.items()}
    place, is_normalized = _choose_place(path.name, places, layer, allow_normalized)
    obs = anndata.io.read_elem(file["obs"])
    var = anndata.io.read_elem(file["raw/var" if place == "raw/X" else "var"])
    _require_shape(path.name, place, elements[place], obs, var)
    where_else = _where_else(places, [place])
    return Counts(path.name, place, obs, var, is_normalized, places[place].reader.rows, where_else)


def counts_of_adata(
    adata: "anndata.AnnData", layer: str | None = None, allow_normalized: bool = False, name: str = "adata"
) -> Counts:
    """Raw counts of an AnnData in memory; the rules are those of :func:`open_counts`."""
    places = {"X": _Place(adata.X)} if adata.X is not None else {}
    places |= {f"layers/{key}": _Place(matrix) for key, matrix in adata.layers.items()}
    if adata.raw is not None:
        places["raw/X"] = _Place(adata.raw.X)
    place, is_normalized = _choose_place(name, places, layer, allow_normalized)
    var = adata.raw.var if place == "raw/X" else adata.var
    where_else = _where_else(places, [place])
    return Counts(name, place, adata.obs, var, is_normalized, places[place].reader.rows, where_else)


def cell_totals(obs: pd.DataFrame, rows: np.ndarray, totals: np.ndarray, source: str) -> np.ndarray:
    """Total counts of cells: ``obs['n_counts']`` where present, else the sum over all genes of the file.

    Returns
    -------
    Shape (n_rows,), float64.
    """
    if "n_counts" not in obs:
        return totals
    column = obs["n_counts"].iloc[rows]
    try:
        return column.to_numpy(dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ScDMCError(f"{source}: obs['n_counts'] should hold numbers, but holds {column.iloc[0]!r}") from error


def passes_filter(counts: Counts) -> np.ndarray:
    """True where ``obs['filter_pass']`` is 1, or where a file has no such column; shape (n_cells,)."""
    if "filter_pass" not in counts.obs:
        return np.ones(counts.n_cells, dtype=bool)
    return (counts.obs["filter_pass"] == 1).fillna(False).to_numpy(dtype=bool)


def input_files(input_directory: Path) -> list[Path]:
    """The ``.h5ad`` files of a folder, in the order of their names.

    Raises
    ------
    ScDMCError
        If the folder is absent or holds none.
    """
    directory = Path(input_directory)
    if not directory.is_dir():
        raise ScDMCError(f"{directory}: no such folder")
    files = sorted(path for path in directory.glob("*.h5ad") if not path.name.startswith("."))
    if not files:
        others = sorted(path.name for path in directory.iterdir())[:3]
        raise ScDMCError(f"{directory}: there is no .h5ad file" + (f", only {', '.join(others)}" if others else ""))
    return files


class _ArrayReader:
    """Rows of a matrix, in memory or dense on disk."""

    def __init__(self, matrix: object) -> None:
        self.matrix = matrix.tocsr() if scipy.sparse.issparse(matrix) else matrix
        self.n_rows = matrix.shape[0]

    def rows(self, start: int, stop: int) -> scipy.sparse.csr_matrix:
        return scipy.sparse.csr_matrix(self.matrix[start:stop])

    def sample(self) -> np.ndarray:
        return _values_of_some_rows(self)


class _H5RowsReader:
    """Rows of a CSR matrix on disk: two contiguous reads a block."""

    def __init__(self, group: h5py.Group) -> None:
        self.group = group
        self.indptr = group["indptr"][:].astype(np.int64)
        self.n_rows = len(self.indptr) - 1
        self.n_columns = int(_shape(group)[1])

    def rows(self, start: int, stop: int) -> scipy.sparse.csr_matrix:
        first, last = self.indptr[start], self.indptr[stop]
        parts = (
            self.group["data"][first:last],
            self.group["indices"][first:last],
            self.indptr[start : stop + 1] - first,
        )
        return scipy.sparse.csr_matrix(parts, shape=(stop - start, self.n_columns))

    def sample(self) -> np.ndarray:
        return _values_of_some_rows(self)


class _H5ColumnsReader:
    """Rows of a CSC matrix on disk: they lie scattered, so all is read and turned once, when rows are asked for."""

    def __init__(self, group: h5py.Group) -> None:
        self.group = group

    @cached_property
    def matrix(self) -> scipy.sparse.csr_matrix:
        import anndata

        return scipy.sparse.csr_matrix(anndata.io.read_elem(self.group))

    def rows(self, start: int, stop: int) -> scipy.sparse.csr_matrix:
        return self.matrix[start:stop]

    def sample(self) -> np.ndarray:
        values = self.group["data"]
        return _first_and_middle(lambda start, stop: values[start:stop], len(values), VALUES_IN_SAMPLE)


_Reader = _ArrayReader | _H5RowsReader | _H5ColumnsReader


def _values_of_some_rows(reader: _ArrayReader | _H5RowsReader) -> np.ndarray:
    return _first_and_middle(lambda start, stop: reader.rows(start, stop).data, reader.n_rows, CELLS_IN_SAMPLE)


def _first_and_middle(read: Callable[[int, int], np.ndarray], length: int, size: int) -> np.ndarray:
    """What ``read(start, stop)`` gives for the first ``size`` and for as many from the middle on."""
    starts = {0, max(0, min(length // 2, length - size))}
    return np.concatenate([read(start, min(start + size, length)) for start in sorted(starts)])


class _Place:
    """A matrix that may hold the raw counts. Nothing of it is read before it is asked for."""

    def __init__(self, matrix: object) -> None:
        self.matrix = matrix

    @cached_property
    def reader(self) -> _Reader:
        if isinstance(self.matrix, h5py.Group):
            return _H5RowsReader(self.matrix) if _is_csr(self.matrix) else _H5ColumnsReader(self.matrix)
        return _ArrayReader(self.matrix)

    @cached_property
    def sample(self) -> np.ndarray:
        """Some of the stored values."""
        return self.reader.sample()

    @property
    def is_filled(self) -> bool:
        """True if there is a value other than 0 in the sample."""
        return bool(self.sample.any())


def _is_csr(group: h5py.Group) -> bool:
    return group.attrs.get("encoding-type", group.attrs.get("h5sparse_format")) in ("csr_matrix", "csr")


def _shape(element: h5py.Group | h5py.Dataset) -> Sequence[int]:
    if isinstance(element, h5py.Dataset):
        return element.shape
    return element.attrs["shape"] if "shape" in element.attrs else element.attrs["h5sparse_shape"]


def _require_shape(
    name: str, place: str, element: h5py.Group | h5py.Dataset, obs: pd.DataFrame, var: pd.DataFrame
) -> None:
    if tuple(_shape(element)) != (len(obs), len(var)):
        raise ScDMCError(
            f"{name}: {place} has shape {tuple(map(int, _shape(element)))}, "
            f"but there are {len(obs)} cells in obs and {len(var)} genes in var"
        )


def _choose_place(
    name: str, places: Mapping[str, _Place], layer: str | None, allow_normalized: bool
) -> tuple[str, bool]:
    """The place of the raw counts, and whether it holds normalised values that the user allowed."""
    candidates = _candidates(name, places, layer)
    for place in candidates:
        if places[place].is_filled and _is_count(places[place].sample).all():
            return place, False
    # A place without any value holds no counts, but where all are so, the cells are simply empty.
    filled = [place for place in candidates if places[place].is_filled]
    if candidates and not filled:
        return candidates[0], False
    if allow_normalized and filled:
        return filled[0], True
    shown = [f"{place} holds {_shown_values(places[place].sample)}" for place in filled]
    shown = "; ".join(shown) or "there is no X, layers['counts'] or raw"
    raise ScDMCError(
        f"{name}: no raw counts (integers of at least 0): {shown}; {_where_else(places, candidates)}, "
        "or pass --allow_normalized"
    )


def _candidates(name: str, places: Iterable[str], layer: str | None) -> list[str]:
    """The places in which raw counts are looked for: that of the layer the user named, or the usual ones."""
    if layer is None:
        return [place for place in COUNT_PLACES if place in places]
    place = {"X": "X", "raw": "raw/X"}.get(layer, f"layers/{layer}")
    if place not in places:
        raise ScDMCError(f"{name}: there is no layer {layer!r}; there are {_layer_names(places)}")
    return [place]


def _where_else(places: Iterable[str], tried: Sequence[str]) -> str:
    """Where the user may find raw counts that are not in the places tried."""
    others = _layer_names(place for place in places if place not in tried)
    if others:
        return f"name the layer of raw counts with --layer (there are {others})"
    return "look for raw counts in layers or raw of the original file"


def _layer_name(place: str) -> str:
    return "raw" if place == "raw/X" else place.removeprefix("layers/")


def _layer_names(places: Iterable[str]) -> list[str]:
    return [_layer_name(place) for place in places]


def _shown_values(values: np.ndarray) -> str:
    wrong = values[~_is_count(values)]
    return ", ".join(f"{value:.4g}" for value in wrong[:3])


def _is_count(values: np.ndarray) -> np.ndarray:
    """True where a value is a non-negative integer; NaN and infinity are none."""
    if values.dtype.kind in "bu":
        return np.ones(len(values), dtype=bool)
    return (values >= 0) & (values == np.floor(values)) & (values < np.inf)


def _is_non_negative(values: np.ndarray) -> np.ndarray:
    return (values >= 0) & (values < np.inf)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
