"""Archives and packed files of sources: nothing is unpacked outside of the folder that is meant."""

import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from scdmc.errors import COPY_AGAIN, ScDMCError

DAMAGES = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, RuntimeError, NotImplementedError)


def unpacked(path: Path, folder: Path, is_wanted: Callable[[PurePosixPath], bool]) -> list[Path]:
    """Unpack the files of an archive that are wanted.

    Parameters
    ----------
    path
        ``.tar``, ``.tar.gz`` or ``.zip``.
    folder
        Where to; it is made.
    is_wanted
        Says of a path in the archive whether it is needed.

    Returns
    -------
    The files, in the order of the archive.

    Raises
    ------
    ScDMCError
        If the archive is damaged, or any path in it leaves its folder: absolute ones, ``..``, and links.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    with _damage_of(path):
        for name, content in _members(path):
            place = PurePosixPath(name)
            if not is_wanted(place):
                continue
            target = folder.joinpath(*place.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with content() as packed, target.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
            found.append(target)
    return found


def gunzipped(path: Path, folder: Path) -> Path:
    """A gzipped file unpacked into a folder; one that is not gzipped is returned as it is."""
    if path.suffix != ".gz":
        return path
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.stem
    with _damage_of(path), gzip.open(path, "rb") as packed, target.open("wb") as out:
        shutil.copyfileobj(packed, out, 1 << 20)
    return target


def _members(path: Path) -> Iterator[tuple[str, Callable]]:
    """Name and opener of each file of an archive, after all its names have been looked at."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            links = {info.filename for info in infos if (info.external_attr >> 28) == 0xA}
            _require_inside(path, [info.filename for info in infos], links)
            for info in infos:
                if not info.is_dir():
                    yield info.filename, lambda info=info: archive.open(info)
        return
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        odd = {member.name for member in members if not (member.isfile() or member.isdir())}
        _require_inside(path, [member.name for member in members], odd)
        for member in members:
            if member.isfile():
                yield member.name, lambda member=member: archive.extractfile(member)


def _require_inside(path: Path, names: Iterable[str], links: set[str]) -> None:
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        leaves = name.startswith(("/", "\\")) or ".." in parts or (parts and ":" in parts[0])
        if leaves or name in links or "\0" in name:
            what = "a link" if name in links else "a path that leaves its folder"
            raise ScDMCError(f"{path} holds {name!r}, {what}; it is not unpacked: download the archive from its source")


@contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGES as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of the file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ScDMCError(f"{path} cannot be unpacked ({reason}): {COPY_AGAIN}") from error
