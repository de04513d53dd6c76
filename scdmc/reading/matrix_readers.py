"""Rows of count matrices, however these lie in memory or on the disk, in bounded memory."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.sparse

from scdmc.errors import COPY_AGAIN, ScDMCError
from scdmc.reading import transposition
from scdmc.reading.transposition import Entries, EntriesByCell, entries_by_cell

CELLS_IN_SAMPLE = 200


# Of a matrix by genes, where a cell's values lie scattered.
VALUES_IN_SAMPLE = 200_000


# Of a dense matrix on the disk; 16 MiB of float32.
DENSE_VALUES_IN_MEMORY = 1 << 22


# A dense matrix whose chunks need more for the cells of one row of chunks is turned through a temporary file.
DENSE_BYTES_IN_MEMORY = 1 << 27


# What the libraries that read HDF5, zarr and compressed chunks raise for a damaged file, or one that was made to harm.
DAMAGE = (
    OSError, RuntimeError, ValueError, KeyError, EOFError, zlib.error, TypeError, AttributeError, IndexError,
    ArithmeticError,
)  # fmt: skip


# What HDF5 and zarr say of a compression that needs a plug-in.
NO_FILTER = ("required filter", "filter is not registered", "can't open directory", "plugin", "unknown codec",
             "codec not available")  # fmt: skip


ADVICE_FOR_FILTERS = (
    "pip install hdf5plugin and run again, or write the file again with gzip where it was made: "
    "anndata.read_h5ad(FILE).write_h5ad(NEW, compression='gzip')"
)


class Array(Protocol):
    """An array of HDF5, zarr or NumPy."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, key: object) -> np.ndarray: ...


class MatrixReader(ABC):
    """A matrix whose rows, the cells, can be read a block at a time.

    Attributes
    ----------
    shape
        (n_cells, n_genes).
    dtype
        Type in which the values are stored.
    """

    shape: tuple[int, int]
    dtype: np.dtype

    @abstractmethod
    def rows(self, start: int, stop: int) -> scipy.sparse.csr_matrix:
        """Rows start:stop, shape (stop - start, n_genes); not to be changed by who reads them."""

    def sample(self) -> np.ndarray:
        """Some of the stored values, cheap to read."""
        return _first_and_middle(lambda start, stop: self.rows(start, stop).data, self.shape[0], CELLS_IN_SAMPLE)

    def close(self) -> None:  # noqa: B027
        """Delete the temporary file if there is one."""


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turn what a library raises while it reads into an error that names the file; for nothing but the reading."""
    try:
        yield
    except DAMAGE as error:
        if lacks_filter(error):
            raise ScDMCError(
                f"{source} cannot be read ({first_line(error)}): it is compressed by a filter that this Python lacks; "
                f"{ADVICE_FOR_FILTERS}"
            ) from error
        raise damaged(source, first_line(error)) from error
    except MemoryError as error:
        raise ScDMCError(f"{source} needs more memory than there is ({first_line(error)})") from error


def lacks_filter(error: Exception) -> bool:
    """True if HDF5 or zarr says that it cannot decompress what it reads."""
    text = str(error).lower()
    return any(words in text for words in NO_FILTER)


def damaged(source: str, detail: str) -> ScDMCError:
    """The error for a file that contradicts itself or cannot be decompressed."""
    return ScDMCError(f"{source} cannot be read ({detail}); {COPY_AGAIN}")


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def reader_of(element: object, source: str) -> MatrixReader:
    """Reader of a matrix of AnnData on the disk (HDF5 or zarr): dense, CSR or CSC.

    Parameters
    ----------
    element
        Array or group.
    source
        File and place, for error messages.

    Raises
    ------
    ScDMCError
        If it is no matrix of numbers, or its parts contradict each other.
    """
    if hasattr(element, "shape"):
        return dense_reader(element, source)
    attributes = element.attrs
    encoding = attribute_text(attributes.get("encoding-type", attributes.get("h5sparse_format")))
    shape = attributes.get("shape", attributes.get("h5sparse_shape"))
    if encoding not in ("csr_matrix", "csr", "csc_matrix", "csc") or shape is None:
        raise ScDMCError(f"{source} is of the kind {encoding or 'unknown'}; it should be a dense matrix, CSR or CSC")
    with reading(source):
        shape = (int(shape[0]), int(shape[1]))
    is_csr = encoding.startswith("csr")
    parts = sparse_parts(element, shape[0] if is_csr else shape[1], source)
    return RowsReader(*parts, shape, source) if is_csr else columns_reader(*parts, shape, source)


def attribute_text(value: object) -> str | None:
    """An attribute of HDF5 or zarr as text, however long its text may be by its type; None where there is none."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size == 1 else None
    return None if value is None else text_of(value)


def text_of(value: object) -> str:
    """A value of HDF5 as text, whether it is stored as bytes or not."""
    return value.decode("utf8", "replace") if isinstance(value, bytes) else str(value)


def sparse_parts(group: Mapping[str, Array], n_major: int, source: str) -> tuple[Array, Array, np.ndarray]:
    """Data, indices and offsets of a compressed matrix of n_major rows (CSR) or columns (CSC), which must fit."""
    missing = [name for name in ("data", "indices", "indptr") if name not in group]
    if missing:
        raise damaged(source, f"it lacks {', '.join(missing)}")
    data, indices, indptr = (group[name] for name in ("data", "indices", "indptr"))
    if not all(len(getattr(part, "shape", None) or ()) == 1 for part in (data, indices, indptr)):
        raise damaged(source, "data, indices and indptr should be vectors")
    if indptr.shape[0] != n_major + 1:
        raise damaged(source, f"indptr has {indptr.shape[0]:,} entries for {n_major:,} rows or columns")
    if indptr.dtype.kind not in "iu" or indices.dtype.kind not in "iu":
        raise damaged(source, "indptr and indices should be integers")
    with reading(source):
        offsets = indptr[:].astype(np.int64)
    if offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise damaged(source, "indptr does not ascend from 0")
    if not offsets[-1] == data.shape[0] == indices.shape[0]:
        raise damaged(
            source,
            f"indptr ends at {offsets[-1]:,}, but there are {data.shape[0]:,} values, {indices.shape[0]:,} indices",
        )
    _require_chunks(data, indices, offsets, source)
    return data, indices, offsets


def _require_chunks(data: Array, indices: Array, offsets: np.ndarray, source: str) -> None:
    """Refuse a zarr store that lacks chunks: zarr would read zeros there, and counts would be lost silently."""
    # A chunk of zeros need not be written; stored counts are above 0, but the indices of a chunk may all be 0.
    for array, n_unwritten in ((data, 0), (indices, _chunks_of_distinct_rows(indices, offsets))):
        # Shards count as if each were full, also the last one.
        missing = getattr(array, "nchunks", 0) - getattr(array, "nchunks_initialized", 0)
        if missing > n_unwritten:
            raise damaged(source, f"{missing} of the {array.nchunks} chunks of {array.name} are missing")


def _chunks_of_distinct_rows(indices: Array, offsets: np.ndarray) -> int:
    """How many chunks hold no two entries of one row, so that all their indices may be 0."""
    if not hasattr(indices, "nchunks_initialized"):
        return 0
    first_entries = np.arange(0, indices.shape[0], indices.chunks[0])
    last_entries = np.minimum(first_entries + indices.chunks[0], indices.shape[0]) - 1
    row_starts = np.unique(offsets)
    n_starts = np.searchsorted(row_starts, last_entries, side="right")
    n_starts -= np.searchsorted(row_starts, first_entries, side="right")
    return int(np.count_nonzero(n_starts == last_entries - first_entries))


def require_numbers(dtype: np.dtype, source: str) -> None:
    """Refuse a matrix of text, say."""
    if dtype.kind not in "biuf":
        raise ScDMCError(f"{source} holds values of the type {dtype}, which are no counts")


class MemoryReader(MatrixReader):
    """Rows of a matrix in memory, or of one that AnnData keeps on the disk."""

    def __init__(self, matrix: object, source: str) -> None:
        require_numbers(np.dtype(matrix.dtype), source)
        if scipy.sparse.issparse(matrix) and matrix.format in ("csr", "csc"):
            # Otherwise the first sum over such a matrix would end the process.
            is_csr = matrix.format == "csr"
            require_range(matrix.indices, matrix.shape[is_csr], "gene" if is_csr else "cell", source)
        self.matrix = matrix.tocsr() if scipy.sparse.issparse(matrix) else matrix
        self.shape, self.dtype = matrix.shape, np.dtype(matrix.dtype)

    def rows(self, start: int, stop: int) -> scipy.sparse.csr_matrix:
        """See :class:`MatrixReader`."""
        rows = self.matrix[start:stop]
        # A block of a Dask array is only a plan of it.
        rows = rows.compute() if hasattr(rows, "compute") else rows
        return scipy.sparse.csr_matrix(rows if scipy.sparse.issparse(rows) else _plain(np.asarray(rows)))


class RowsReader(MatrixReader):
    """Rows of a CSR matrix on the disk: two contiguous reads a block."""

    def __init__(self, data: Array, indices: Array, offsets: np.ndarray, shape: tuple[int, int], source: str) -> None:
        require_numbers(data.dtype, source)
        self.shape, self.dtype = shape, data.dtype
        self.offsets = offsets
        self.source = source
        self._data, self._indices = _Vector(data, source), _Vector(indices, source)

    def rows(self, start: int, stop: int) -> scipy.sparse.csr_matrix:
        """See :class:`MatrixReader`."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        indices = self._indices.read(first, last)
        require_range(indices, self.shape[1], "gene", self.source)
        parts = (_plain(self._data.read(first, last)), indices, self.offsets[start : stop + 1] - first)
        return scipy.sparse.csr_matrix(parts, shape=(stop - start, self.shape[1]))


class TurnedReader(MatrixReader):
    """Rows of a matrix that has to be turned first, which happens when rows are asked for."""

    def __init__(
        self,
        turn: Callable[[], EntriesByCell],
        sample: Callable[[], np.ndarray],
        shape: tuple[int, int],
        dtype: np.dtype,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._turn, self._sample = turn, sample

    @cached_property
    def _turned(self) -> EntriesByCell:
        return self._turn()

    def rows(self, start: int, stop: int) -> scipy.sparse.csr_matrix:
        """See :class:`MatrixReader`."""
        return self._turned.rows(start, stop)

    def sample(self) -> np.ndarray:
        """See :class:`MatrixReader`."""
        return self._sample()

    def close(self) -> None:
        """See :class:`MatrixReader`."""
        if "_turned" in self.__dict__:
            self._turned.close()
            del self._turned


class SomeColumns(MatrixReader):
    """Some columns of another reader."""

    def __init__(self, reader: MatrixReader, is_kept: np.ndarray) -> None:
        self.reader, self.columns = reader, np.flatnonzero(is_kept)
        self.shape, self.dtype = (reader.shape[0], len(self.columns)), reader.dtype

    def rows(self, start: int, stop: int) -> scipy.sparse.csr_matrix:
        """See :class:`MatrixReader`."""
        return self.reader.rows(start, stop)[:, self.columns]

    def sample(self) -> np.ndarray:
        """See :class:`MatrixReader`; of a matrix that has to be turned, values of all columns."""
        return self.reader.sample() if isinstance(self.reader, TurnedReader) else super().sample()

    def close(self) -> None:
        """See :class:`MatrixReader`."""
        self.reader.close()


def columns_reader(
    data: Array, indices: Array, offsets: np.ndarray, shape: tuple[int, int], source: str
) -> TurnedReader:
    """Reader of a CSC matrix on the disk, in which the values of a cell lie scattered."""
    require_numbers(data.dtype, source)
    dtype = _plain(np.empty(0, data.dtype)).dtype

    def batches() -> Iterator[Entries]:
        values, rows = _Vector(data, source), _Vector(indices, source)
        for start in range(0, int(offsets[-1]), transposition.ENTRIES_IN_MEMORY):
            stop = min(start + transposition.ENTRIES_IN_MEMORY, int(offsets[-1]))
            in_range = rows.read(start, stop).astype(np.int64)
            require_range(in_range, shape[0], "cell", source)
            columns = np.repeat(np.arange(shape[1]), np.diff(np.clip(offsets, start, stop)))
            yield in_range, columns, _plain(values.read(start, stop))

    def sample() -> np.ndarray:
        return _first_and_middle(_Vector(data, source).read, data.shape[0], VALUES_IN_SAMPLE)

    def turn() -> EntriesByCell:
        return entries_by_cell(batches, shape, dtype, source, "lies gene by gene on the disk (CSC)")

    return TurnedReader(turn, sample, shape, data.dtype)


def dense_reader(array: Array, source: str, cells_axis: int = 0) -> MatrixReader:
    """Reader of a dense matrix on the disk whose cells lie along the given axis.

    Chunks that hold few genes of very many cells would be decompressed again for every block of cells; such a matrix
    is turned.
    """
    require_numbers(array.dtype, source)
    if len(array.shape or ()) != 2:
        raise ScDMCError(f"{source} has {len(array.shape or ())} dimensions instead of 2")
    band = _DenseBands(array, source, cells_axis)
    chunk_cells = band.chunk[0]
    if chunk_cells * band.shape[1] * array.dtype.itemsize <= DENSE_BYTES_IN_MEMORY:
        return band
    dtype = _plain(np.empty(0, array.dtype)).dtype

    def turn() -> EntriesByCell:
        reason = f"lies in chunks of {chunk_cells:,} cells and {band.chunk[1]:,} genes"
        return entries_by_cell(band.entries, band.shape, dtype, source, reason)

    def sample() -> np.ndarray:
        return next(iter(band.entries()), (None, None, np.empty(0, dtype)))[2]

    return TurnedReader(turn, sample, band.shape, array.dtype)


class _DenseBands(MatrixReader):
    """Rows of a dense matrix on the disk, read in bands of whole chunks; the last band read is kept."""

    def __init__(self, array: Array, source: str, cells_axis: int) -> None:
        self.array, self.source, self.cells_axis = array, source, cells_axis
        self.dtype = array.dtype
        self.shape = self._cells_first(array.shape)
        self.chunk = self._cells_first(getattr(array, "chunks", None) or (1, 1))
        self.height = _whole_chunks(self.chunk[0], DENSE_VALUES_IN_MEMORY // max(1, self.shape[1]))
        self._read: tuple[int, scipy.sparse.csr_matrix] | None = None

    def rows(self, start: int, stop: int) -> scipy.sparse.csr_matrix:
        """See :class:`MatrixReader`."""
        parts = [
            self._band(first)[max(start - first, 0) : stop - first]
            for first in range(start - start % self.height, max(stop, start + 1), self.height)
        ]
        return parts[0] if len(parts) == 1 else scipy.sparse.vstack(parts, format="csr")

    def entries(self) -> Iterator[Entries]:
        """All values other than 0, tile after tile of whole chunks."""
        width = _whole_chunks(self.chunk[1], DENSE_VALUES_IN_MEMORY // self.chunk[0])
        for first_cell in range(0, self.shape[0], self.chunk[0]):
            for first_gene in range(0, self.shape[1], width):
                cells = slice(first_cell, first_cell + self.chunk[0])
                tile = self._tile(cells, slice(first_gene, first_gene + width))
                rows, columns = np.nonzero(tile)
                for start in range(0, len(rows), transposition.ENTRIES_IN_MEMORY):
                    part = slice(start, start + transposition.ENTRIES_IN_MEMORY)
                    yield first_cell + rows[part], first_gene + columns[part], tile[rows[part], columns[part]]

    def _band(self, first: int) -> scipy.sparse.csr_matrix:
        if self._read is None or self._read[0] != first:
            self._read = None
            values = self._tile(slice(first, first + self.height), slice(None))
            step = max(1, DENSE_VALUES_IN_MEMORY // max(1, self.shape[1]))
            parts = [scipy.sparse.csr_matrix(values[row : row + step]) for row in range(0, max(1, len(values)), step)]
            self._read = first, parts[0] if len(parts) == 1 else scipy.sparse.vstack(parts, format="csr")
        return self._read[1]

    def _tile(self, cells: slice, genes: slice) -> np.ndarray:
        with reading(self.source):
            tile = self.array[cells, genes] if self.cells_axis == 0 else self.array[genes, cells].T
        return _plain(tile)

    def _cells_first(self, pair: Sequence[int]) -> tuple[int, int]:
        return int(pair[self.cells_axis]), int(pair[1 - self.cells_axis])


def _whole_chunks(chunk: int, most: int) -> int:
    """The largest multiple of the chunk's length that is at most ``most``; one chunk at least."""
    return chunk * max(1, most // chunk)


class _Vector:
    """A vector on the disk that is read forwards; what was read of a chunk beyond the end of a block is kept."""

    def __init__(self, array: Array, source: str) -> None:
        self.array, self.source = array, source
        self.chunk = (getattr(array, "chunks", None) or (1,))[0]
        self._start, self._kept = 0, np.empty(0, array.dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Values start:stop."""
        kept_end = self._start + len(self._kept)
        if not (self._start <= start and stop <= kept_end):
            is_continued = self._start <= start < kept_end
            first = kept_end if is_continued else start - start % self.chunk
            end = min(stop + -stop % self.chunk, self.array.shape[0])
            with reading(self.source):
                values = self.array[first:end]
            if is_continued:
                values = np.concatenate([self._kept[start - self._start :], values])
                first = start
            self._start, self._kept = first, values
        return self._kept[start - self._start : stop - self._start]


def _plain(values: np.ndarray) -> np.ndarray:
    """Values in a type that scipy's sparse matrices know: of this machine's byte order, and no float16."""
    dtype = np.dtype(np.float32) if values.dtype == np.float16 else values.dtype.newbyteorder("=")
    return values.astype(dtype, copy=False)


def require_range(indices: np.ndarray, n: int, what: str, source: str, first: int = 0) -> None:
    """Refuse indices outside of 0 to n - 1; the message counts from ``first``, as the file does."""
    if len(indices) and not (indices.min() >= 0 and indices.max() < n):
        wrong = int(indices[np.argmax((indices < 0) | (indices >= n))]) + first
        raise damaged(source, f"it holds a value for {what} {wrong:,} of {n:,}, counted from {first}")


def _first_and_middle(read: Callable[[int, int], np.ndarray], length: int, size: int) -> np.ndarray:
    """What ``read(start, stop)`` gives for the first ``size`` and for as many from the middle on."""
    starts = {0, max(0, min(length // 2, length - size))}
    return np.concatenate([read(start, min(start + size, length)) for start in sorted(starts)])
