"""Whether there is room on the disk, asked before hours of work rather than after."""

import shutil
from pathlib import Path

from scdmc.errors import ScDMCError


def require_space(path: Path, n_bytes: int, what: str) -> None:
    """Refuse to begin where the result will not fit on the disk.

    Parameters
    ----------
    path
        The file or folder that will be written; it need not be there yet.
    n_bytes
        How much it will take, at least.
    what
        What will take it, for the message: "the input with embeddings".

    Raises
    ------
    ScDMCError
        With the space that is needed and the space that is free.
    """
    path = Path(path).absolute()
    folder = next(parent for parent in (path, *path.parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise ScDMCError(
            f"{path}: {what} needs {shown_size(n_bytes)}, and {shown_size(free)} are free there; make room or choose "
            "another place"
        )


def shown_size(n_bytes: float) -> str:
    """A size for people: 3 bytes, 1.5 MiB, 2,048.0 GiB."""
    if n_bytes < 1024:
        return f"{n_bytes:.0f} bytes"
    for unit in ("KiB", "MiB"):
        n_bytes /= 1024
        if n_bytes < 1024:
            return f"{n_bytes:.1f} {unit}"
    return f"{n_bytes / 1024:,.1f} GiB"
