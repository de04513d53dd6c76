"""Archives and packed files of sources: nothing is unpacked outside of the folder that is meant."""

import functools
import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from scdmc.disk import require_space, shown_size
from scdmc.errors import COPY_AGAIN, ScDMCError

DAMAGES = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, RuntimeError, NotImplementedError)


BLOCK_BYTES = 1 << 20


# A packed file does not say how large it is: so much of what is free on the disk may be filled by it.
MOST_OF_FREE = 0.9


@dataclass(frozen=True)
class _Member:
    """A file of an archive: its path there, its size, and what opens it."""

    name: str
    size: int
    open: Callable[[], BinaryIO]


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
        If the archive is damaged, or any path in it leaves its folder: absolute ones, ``..``, and links. If two files
        of it have one place, or the disk has no room for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    with _damage_of(path), _members(path) as members:
        wanted = {member: PurePosixPath(member.name) for member in members if is_wanted(PurePosixPath(member.name))}
        _require_places(path, list(wanted.values()))
        require_space(folder, sum(member.size for member in wanted), f"what {path.name} unpacks to")
        for member, place in wanted.items():
            target = folder.joinpath(*place.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as packed, target.open("wb") as out:
                shutil.copyfileobj(packed, out, BLOCK_BYTES)
            found.append(target)
    return found


def gunzipped(path: Path, folder: Path) -> Path:
    """A gzipped file unpacked into a folder; one that is not gzipped is returned as it is.

    Raises
    ------
    ScDMCError
        If the file is damaged, or would fill the disk.
    """
    if path.suffix != ".gz":
        return path
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.stem
    most = int(MOST_OF_FREE * shutil.disk_usage(folder).free)
    with _damage_of(path), gzip.open(path, "rb") as packed, target.open("wb") as out:
        while block := packed.read(BLOCK_BYTES):
            if out.tell() + len(block) > most:
                raise ScDMCError(
                    f"{path} unpacks to more than {shown_size(most)}, which would fill the disk of {folder}; make room "
                    "or choose another place"
                )
            out.write(block)
    return target


@contextmanager
def _members(path: Path) -> Iterator[list[_Member]]:
    """The files of an open archive, after all its names have been looked at."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            links = {info.filename for info in infos if (info.external_attr >> 28) == 0xA}
            _require_inside(path, [info.filename for info in infos], links)
            files = [info for info in infos if not info.is_dir()]
            yield [_Member(info.filename, info.file_size, functools.partial(archive.open, info)) for info in files]
        return
    with tarfile.open(path) as archive:
        infos = archive.getmembers()
        odd = {info.name for info in infos if not (info.isfile() or info.isdir())}
        _require_inside(path, [info.name for info in infos], odd)
        files = [info for info in infos if info.isfile()]
        yield [_Member(info.name, info.size, functools.partial(archive.extractfile, info)) for info in files]


def _require_places(path: Path, places: list[PurePosixPath]) -> None:
    """Refuse files without a name, two of one place, and a file below a file."""
    taken = set()
    below = {parent for place in places for parent in place.parents}
    for place in places:
        if not place.name or place in taken or place in below:
            what = "a file that another one is in the way of" if place.name else "a file without a name"
            raise ScDMCError(f"{path} holds {str(place)!r}, {what}: {COPY_AGAIN}")
        taken.add(place)


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
