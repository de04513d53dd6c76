"""Text that is unpacked while it is read: what a small file can unpack to is bounded."""

import gzip
import io
from pathlib import Path
from typing import BinaryIO

# Longer than any line of a table of cells, genes or counts.
LONGEST_LINE = 2**20


def open_lines(path: Path, most_bytes: int | None = None) -> BinaryIO:
    """Open text, perhaps gzipped (``.gz``), to be read as bytes.

    Parameters
    ----------
    path
        The file.
    most_bytes
        So much text is read, and no more.

    Raises
    ------
    ValueError
        While reading, if a line is longer than :data:`LONGEST_LINE`, or the text than ``most_bytes``.
    """
    opener = gzip.open if Path(path).suffix == ".gz" else open
    file = opener(path, "rb")
    return io.BufferedReader(_Bounded(file, most_bytes), LONGEST_LINE)


class _Bounded(io.RawIOBase):
    def __init__(self, file: BinaryIO, most_bytes: int | None) -> None:
        super().__init__()
        self.file, self.most_bytes = file, most_bytes
        self.n_read = self.n_of_line = 0

    def readable(self) -> bool:
        """It is there to be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes."""
        n_read = self.file.readinto(buffer)
        if n_read:
            end_of_line = bytes(buffer[:n_read]).rfind(b"\n")
            self.n_of_line = n_read - 1 - end_of_line if end_of_line >= 0 else self.n_of_line + n_read
            self.n_read += n_read
            if self.n_of_line > LONGEST_LINE:
                raise ValueError(f"a line is longer than {LONGEST_LINE:,} bytes")
            if self.most_bytes is not None and self.n_read > self.most_bytes:
                raise ValueError(f"there is more text than {self.most_bytes / 2**30:.1f} GiB")
        return n_read

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        super().close()
