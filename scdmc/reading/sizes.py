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


def require_stored(dataset: Any, source: str) -> None:
    """Refuse an HDF5 dataset that claims far more values than the file holds, which would be made up by a fill value.

    Raises
    ------
    ScDMCError
        With both sizes.
    """
    if dataset.shape is None:
        return
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    if claimed > HARMLESS_BYTES:
        _require_ratio(claimed, dataset.id.get_storage_size(), source)
    if dataset.chunks is not None:
        _require_chunk(math.prod(dataset.chunks) * dataset.dtype.itemsize, source)


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
