"""Raw counts: finding them in a file or an AnnData, reading them in blocks of cells, refusing what is not a count."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
    """

    name: str
    layer: str
    obs: pd.DataFrame
    var: pd.DataFrame
    is_normalized: bool
    read_rows: Callable[[int, int], scipy.sparse.csr_matrix]

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
            "raw counts are integers of at least 0"
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
        non-negative integers.
    allow_normalized
        Take X even if no place holds integers.

    Raises
    ------
    ScDMCError
        If the file is no ``.h5ad``, the layer is absent, or no place holds raw counts.
    """
    import anndata

    path = Path(path)
    if not path.is_file():
        raise ScDMCError(f"{path}: no such file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ScDMCError(f"{path} is not a readable .h5ad file ({_first_line(error)})") from error
    with file:
        places = {place: file[place] for place in COUNT_PLACES if place in file}
        places |= {f"layers/{name}": file["layers"][name] for name in file.get("layers", {})}
        missing = [key for key in ("obs", "var") if key not in file]
        if missing or not places:
            raise ScDMCError(f"{path} is an HDF5 file but no .h5ad: it lacks {', '.join(missing) or 'X'}")
        readers = {place: _reader_of(element) for place, element in places.items()}
        place, is_normalized = _choose_place(path.name, readers, layer, allow_normalized)
        obs = anndata.io.read_elem(file["obs"])
        var = anndata.io.read_elem(file["raw/var" if place == "raw/X" else "var"])
        _require_shape(path.name, place, places[place], obs, var)
        yield Counts(path.name, place, obs, var, is_normalized, readers[place].rows)


def counts_of_adata(
    adata: "anndata.AnnData", layer: str | None = None, allow_normalized: bool = False, name: str = "adata"
) -> Counts:
    """Raw counts of an AnnData in memory; the rules are those of :func:`open_counts`."""
    places = {"X": adata.X} if adata.X is not None else {}
    places |= {f"layers/{key}": matrix for key, matrix in adata.layers.items()}
    if adata.raw is not None:
        places["raw/X"] = adata.raw.X
    readers = {place: _ArrayReader(matrix) for place, matrix in places.items()}
    place, is_normalized = _choose_place(name, readers, layer, allow_normalized)
    var = adata.raw.var if place == "raw/X" else adata.var
    return Counts(name, place, adata.obs, var, is_normalized, readers[place].rows)


class _ArrayReader:
    """Rows of a matrix in memory, sparse or dense."""

    def __init__(self, matrix: object) -> None:
        self.matrix = matrix.tocsr() if scipy.sparse.issparse(matrix) else matrix
        self.n_rows = matrix.shape[0]

    def rows(self, start: int, stop: int) -> scipy.sparse.csr_matrix:
        return scipy.sparse.csr_matrix(self.matrix[start:stop])


class _H5SparseReader:
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


def _reader_of(element: h5py.Group | h5py.Dataset) -> "_ArrayReader | _H5SparseReader":
    import anndata

    if isinstance(element, h5py.Dataset):
        return _ArrayReader(element)
    if _is_csr(element):
        return _H5SparseReader(element)
    # Rows of a CSC matrix lie scattered over the file: it is read once and turned.
    return _ArrayReader(anndata.io.read_elem(element))


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
    name: str, readers: dict[str, "_ArrayReader | _H5SparseReader"], layer: str | None, allow_normalized: bool
) -> tuple[str, bool]:
    """The place of the raw counts, and whether it holds normalised values that the user allowed."""
    if layer is not None:
        place = {"X": "X", "raw": "raw/X"}.get(layer, f"layers/{layer}")
        if place not in readers:
            raise ScDMCError(f"{name}: there is no layer {layer!r}; there are {_layer_names(readers)}")
        candidates = [place]
    else:
        candidates = [place for place in COUNT_PLACES if place in readers]
    for place in candidates:
        if _is_count(_sample(readers[place])).all():
            return place, False
    if allow_normalized and candidates:
        return candidates[0], True
    shown = [f"{place} holds {_shown_values(_sample(readers[place]))}" for place in candidates]
    shown = "; ".join(shown) or "there is no X, layers['counts'] or raw"
    others = [other for other in _layer_names(readers) if other not in {_layer_name(place) for place in candidates}]
    where = (
        f"name the layer of raw counts with --layer (there are {others})" if others else "look for raw counts elsewhere"
    )
    raise ScDMCError(
        f"{name}: no raw counts (integers of at least 0): {shown}; {where}, "
        "in layers or raw of the original file, or pass --allow_normalized"
    )


def _layer_name(place: str) -> str:
    return "raw" if place == "raw/X" else place.removeprefix("layers/")


def _layer_names(places: object) -> list[str]:
    return [_layer_name(place) for place in places]


def _sample(reader: "_ArrayReader | _H5SparseReader") -> np.ndarray:
    """Stored values of the first cells and of some in the middle."""
    middle = reader.n_rows // 2
    starts = {0, max(0, min(middle, reader.n_rows - CELLS_IN_SAMPLE))}
    blocks = [reader.rows(start, min(start + CELLS_IN_SAMPLE, reader.n_rows)).data for start in sorted(starts)]
    return np.concatenate(blocks)


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
