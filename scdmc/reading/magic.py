"""The first bytes of files, which say what they are. Nothing heavy is imported here, so that refusals are quick."""

from pathlib import Path

HDF5_MAGIC, PARQUET_MAGIC = b"\x89HDF\r\n\x1a\n", b"PAR1"


def file_start(path: Path, n_bytes: int = 8) -> bytes:
    """The first bytes of a file; none of what cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(n_bytes)
    except OSError:
        return b""
