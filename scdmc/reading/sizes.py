"""What arrays claim to hold, against what a file can hold: refused before memory is taken for it."""

import math
from pathlib import Path
from typing import Any

from scdmc.errors import COPY_AGAIN, ScDMCError

# Below this any claim is harmless; above, no method packs values of a real data set as tightly.
HARMLESS_BYTES, PACKED_AT_MOST = 2**30, 10_000


MAX_CHUNK_BYTES = 2**31


# A file (a shard) may hold many chunks.
HARMLESS_CHUNKS, CHUNKS_OF_A_FILE = 1_000_000, 10_000


def require_stored(dataset: Any, file_name: str) -> None:
    """Refuse an HDF5 dataset that claims far more values than the file holds, which would be made up by a fill value.

    Raises
    ------
    ScDMCError
        With both sizes.
    """
    # By the calls of HDF5 itself: a file may hold hundreds of datasets, and almost all are harmless.
    n_bytes = dataset.id.get_type().get_size()
    claimed = dataset.id.get_space().get_simple_extent_npoints() * n_bytes
    if claimed > HARMLESS_BYTES:
        _require_ratio(claimed, dataset.id.get_storage_size(), f"{file_name}: {dataset.name}")
    chunks = dataset.chunks
    if chunks is not None:
        _require_chunk(math.prod(chunks) * n_bytes, f"{file_name}: {dataset.name}")


def require_stored_zarr(array: Any, folder: Path, source: str) -> None:
    """The same for an array of zarr, whose absent chunks are read as the fill value.

    Parameters
    ----------
    array
        The array; zarr is not asked for its chunks, which it would look for one by one.
    folder
        Where they lie.
    source
        The array, for the message.

    Raises
    ------
    ScDMCError
        With both sizes.
    """
    item = getattr(array.dtype, "itemsize", 1) or 1
    if 0 in array.chunks and 0 not in array.shape:
        raise ScDMCError(f"{source} lies in chunks of no values; {COPY_AGAIN}")
    claimed = math.prod(array.shape) * item
    _require_chunk(math.prod(array.chunks) * item, source)
    n_chunks = math.prod(-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True) if chunk)
    if claimed > HARMLESS_BYTES or n_chunks > HARMLESS_CHUNKS:
        files = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
        _require_ratio(claimed, sum(files), source)
        if n_chunks > HARMLESS_CHUNKS + CHUNKS_OF_A_FILE * len(files):
            raise ScDMCError(f"{source} should have {n_chunks:,} chunks, but there are {len(files):,} files of it")


def _require_ratio(claimed: int, stored: int, source: str) -> None:
    if claimed > PACKED_AT_MOST * stored:
        raise ScDMCError(
            f"{source} claims {claimed / 2**30:,.1f} GiB of values, but the file holds {stored:,} bytes of them; "
            + COPY_AGAIN
        )


def _require_chunk(n_bytes: int, source: str) -> None:
    if n_bytes > MAX_CHUNK_BYTES:
        raise ScDMCError(
            f"{source} lies in chunks of {n_bytes / 2**30:,.1f} GiB, each of which would have to be in memory; "
            "write the file again with smaller ones"
        )
