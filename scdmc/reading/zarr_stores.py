"""What a zarr store draws from elsewhere, and what its arrays claim to hold: looked at before anything is read."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.errors import ScDMCError
from scdmc.reading.sizes import require_stored_zarr

if TYPE_CHECKING:
    import zarr

MAX_DEPTH = 30


def require_own_store(path: Path) -> None:
    """Refuse a store with a link that leads out of it, a pipe or a device: a reader would copy it, or wait for it.

    Raises
    ------
    ScDMCError
        Naming the first such entry.
    """
    root = os.path.realpath(path)
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ScDMCError(f"{path}: {os.path.relpath(folder, root)[:80]} lies in more than {MAX_DEPTH} folders")
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    _require_inside(entry, root, path)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, depth + 1))
                elif not entry.is_file(follow_symlinks=False):
                    raise ScDMCError(f"{path}: {os.path.relpath(entry.path, root)} is a pipe or a device")


def _require_inside(entry: os.DirEntry, root: str, path: Path) -> None:
    target = os.path.realpath(entry.path)
    if not Path(target).is_relative_to(root):
        raise ScDMCError(
            f"{path}: {os.path.relpath(entry.path, root)} is a link that leads out of the store; "
            "put the files themselves there, if you trust it"
        )


def require_sane_arrays(group: "zarr.Group", parts: Iterable[str], path: Path) -> None:
    """Refuse an array that claims far more values than its store holds.

    Parameters
    ----------
    group
        The open store.
    parts
        Names of what is read at its top.
    path
        The store, for the message.

    Raises
    ------
    ScDMCError
        Naming the array and the sizes.
    """
    for part in parts:
        element = group.get(part)
        if element is None:
            continue
        members = [(part, element)] if hasattr(element, "shape") else element.members(max_depth=MAX_DEPTH)
        for _, member in members:
            if hasattr(member, "shape"):
                require_stored_zarr(member, path / member.path, f"{path.name}: {member.name}")
