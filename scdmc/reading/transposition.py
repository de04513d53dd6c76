"""Matrices that do not lie cell by cell on the disk, brought into that order through a temporary file."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np
import scipy.sparse

from scdmc.errors import ScDMCError

logger = logging.getLogger(__name__)


# Entries of a matrix: rows (cells), columns (genes) and values, each of shape (n_entries,).
Entries = tuple[np.ndarray, np.ndarray, np.ndarray]


# What is turned, and what is read back, at a time: some 200 MiB with all copies.
ENTRIES_IN_MEMORY = 1 << 21


# A group is a contiguous piece of the temporary file; their numbers fit 16 bits, which sort fastest.
MOST_GROUPS = 1 << 16


class EntriesByCell:
    """Entries of a matrix in a temporary file, grouped by neighbouring cells; a group fits into memory.

    Parameters
    ----------
    file
        Open file of records (row, column, value); closing it deletes it. Entries of a group stand together, in any
        order of its cells.
    offsets
        Shape (n_cells + 1,), int64: number of entries before each cell.
    n_genes
        Number of columns.
    dtype
        Type of the values.
    """

    def __init__(self, file: BinaryIO, offsets: np.ndarray, n_genes: int, dtype: np.dtype) -> None:
        self.offsets = offsets
        self.n_genes = n_genes
        self.record_type = record_type(dtype)
        self.group_starts = _group_starts(offsets)
        self._file = file
        self._read: tuple[int, scipy.sparse.csr_matrix] | None = None

    def rows(self, start: int, stop: int) -> scipy.sparse.csr_matrix:
        """Rows start:stop, shape (stop - start, n_genes)."""
        first, last = np.searchsorted(self.group_starts, [start, max(start, stop - 1)], side="right") - 1
        parts = []
        for number in range(first, last + 1):
            first_row = self.group_starts[number]
            parts.append(self._group(number)[max(start - first_row, 0) : max(stop - first_row, 0)])
        return parts[0] if len(parts) == 1 else scipy.sparse.vstack(parts, format="csr")

    def close(self) -> None:
        """Delete the temporary file."""
        self._file.close()
        self._read = None

    def _group(self, number: int) -> scipy.sparse.csr_matrix:
        """Cells of one group; the last one read is kept, because rows are asked for one after the other."""
        if self._read is None or self._read[0] != number:
            self._read = None
            first_row, end_row = np.append(self.group_starts, len(self.offsets) - 1)[number : number + 2]
            first, end = int(self.offsets[first_row]), int(self.offsets[end_row])
            self._file.seek(first * self.record_type.itemsize)
            records = np.frombuffer(self._file.read((end - first) * self.record_type.itemsize), dtype=self.record_type)
            rows = records["row"] - first_row
            order = np.argsort(rows.astype(np.uint16) if end_row - first_row < 1 << 16 else rows, kind="stable")
            parts = (
                records["value"][order],
                records["column"][order].astype(np.int32),
                self.offsets[first_row : end_row + 1] - first,
            )
            self._read = number, scipy.sparse.csr_matrix(parts, shape=(end_row - first_row, self.n_genes))
        return self._read[1]


def record_type(dtype: np.dtype) -> np.dtype:
    """Type of one entry in the temporary file."""
    return np.dtype([("row", np.uint32), ("column", np.uint32), ("value", dtype)])


def entries_by_cell(
    batches: Callable[[], Iterable[Entries]], shape: tuple[int, int], dtype: np.dtype, source: str, reason: str
) -> EntriesByCell:
    """Turn a matrix that comes in any order: one pass counts the entries of each cell, another one lays them down.

    Parameters
    ----------
    batches
        Gives all entries, some at a time (at most about :data:`ENTRIES_IN_MEMORY`); called twice.
    shape
        (n_cells, n_genes).
    dtype
        Type of the values.
    source, reason
        What is turned and why, for the log and for error messages.

    Raises
    ------
    ScDMCError
        If the temporary folder has no room.
    """
    counted = np.zeros(shape[0], dtype=np.int64)
    for rows, _, _ in batches():
        counted += np.bincount(rows, minlength=shape[0])
    offsets = np.concatenate([[0], np.cumsum(counted)])
    size = int(offsets[-1]) * record_type(dtype).itemsize
    logger.info(
        "%s %s; bringing it into the order of the cells through a temporary file of %.1f MiB in %s",
        source, reason, size / 2**20, _temporary_folder(source),
    )  # fmt: skip
    turned = EntriesByCell(_temporary_file(size, source), offsets, shape[1], dtype)
    try:
        _lay_down(turned, batches(), source)
    except BaseException:
        turned.close()
        raise
    return turned


def _lay_down(turned: EntriesByCell, batches: Iterable[Entries], source: str) -> None:
    """Write every entry into the piece of the file that belongs to its group."""
    starts, record = turned.group_starts, turned.record_type
    sizes = np.diff(np.append(starts, len(turned.offsets) - 1))
    group_of_row = np.repeat(np.arange(len(starts), dtype=np.uint16), sizes)
    ends = turned.offsets[starts]
    for rows, columns, values in batches:
        group = group_of_row[rows]
        order = np.argsort(group, kind="stable")
        records = _records((rows[order], columns[order], values[order]), record)
        counted = np.bincount(group, minlength=len(starts))
        bounds = np.concatenate([[0], np.cumsum(counted)])
        for number in np.flatnonzero(counted):
            write_records(turned._file, ends[number], records[bounds[number] : bounds[number + 1]], source)
        ends = ends + counted


def spool(entries: Iterable[Entries], shape: tuple[int, int], source: str) -> EntriesByCell:
    """Bring a matrix that can be read only once, and slowly, into the order of the cells; values become float64.

    Where the entries come cell by cell, one temporary file is enough; it is turned through a second one elsewhere.

    Parameters
    ----------
    entries
        All entries, some at a time.
    shape
        (n_cells, n_genes).
    source
        What is read, for the log and for error messages.

    Raises
    ------
    ScDMCError
        If the temporary folder has no room.
    """
    dtype = np.dtype(np.float64)
    file = _temporary_file(0, source)
    try:
        counted, is_by_cell = _write_spool(file, entries, shape[0], source)
    except BaseException:
        file.close()
        raise
    if is_by_cell:
        return EntriesByCell(file, np.concatenate([[0], np.cumsum(counted)]), shape[1], dtype)
    with file:
        return entries_by_cell(
            lambda: _read_spool(file, record_type(dtype)), shape, dtype, source, "does not list its entries by cell"
        )


def _write_spool(file: BinaryIO, entries: Iterable[Entries], n_rows: int, source: str) -> tuple[np.ndarray, bool]:
    """Entries of each row, shape (n_rows,), and whether they came row after row."""
    counted, n_written, last, is_by_cell = np.zeros(n_rows, dtype=np.int64), 0, 0, True
    for batch in entries:
        rows = batch[0]
        if len(rows):
            is_by_cell = is_by_cell and rows[0] >= last and bool((rows[1:] >= rows[:-1]).all())
            last = rows[-1]
        counted += np.bincount(rows, minlength=n_rows)
        write_records(file, n_written, _records(batch, record_type(np.dtype(np.float64))), source)
        n_written += len(rows)
    return counted, is_by_cell


def _read_spool(file: BinaryIO, record: np.dtype) -> Iterator[Entries]:
    file.seek(0)
    while content := file.read(ENTRIES_IN_MEMORY * record.itemsize):
        records = np.frombuffer(content, dtype=record)
        yield records["row"], records["column"], records["value"]


def _records(entries: Entries, record: np.dtype) -> np.ndarray:
    records = np.empty(len(entries[0]), dtype=record)
    for name, values in zip(("row", "column", "value"), entries, strict=True):
        records[name] = values
    return records


def write_records(file: BinaryIO, position: int, records: np.ndarray, source: str) -> None:
    """Write records from the given record on; a full disk becomes an error that names the folder."""
    content = memoryview(records.view(np.uint8))
    try:
        file.seek(int(position) * records.dtype.itemsize)
        while content:
            content = content[file.write(content) :]
    except OSError as error:
        raise _no_room(source, str(error.strerror)) from error


def _group_starts(offsets: np.ndarray) -> np.ndarray:
    """First cell of each group of cells with about :data:`ENTRIES_IN_MEMORY` entries; shape (n_groups,), int64."""
    size = max(ENTRIES_IN_MEMORY, int(offsets[-1]) // (MOST_GROUPS - 2))
    entries = np.arange(0, int(offsets[-1]), size)
    return np.unique(np.concatenate([[0], np.searchsorted(offsets, entries, side="right") - 1]))


def _temporary_folder(source: str) -> str:
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise ScDMCError(f"{source}: {error.strerror}; name a folder with the environment variable TMPDIR") from error


def _temporary_file(size: int, source: str) -> BinaryIO:
    """A file without a name where the system can do so: it is gone whatever becomes of this process."""
    folder = _temporary_folder(source)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise _no_room(source, f"{size / 2**30:.1f} GiB are needed and {free / 2**30:.1f} GiB are free")
    try:
        # Unbuffered: after a failed write nothing is left that closing the file would try to write again.
        return tempfile.TemporaryFile(dir=folder, buffering=0)
    except OSError as error:
        raise _no_room(source, str(error.strerror)) from error


def _no_room(source: str, detail: str) -> ScDMCError:
    return ScDMCError(
        f"{source}: no room for a temporary file in {_temporary_folder(source)} ({detail}); "
        "free some, or name another folder with the environment variable TMPDIR"
    )
