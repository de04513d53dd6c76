"""Writing outputs so that a reader never sees half of one."""

import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scdmc.errors import ScDMCError
from scdmc.file_names import file_name_of
from scdmc.locks import LOCK_IN_FOLDER, claim_output, is_alive

# What is not whole yet ends in this, before its suffix; and the hidden folder of results within their folder.
PARTIAL, RESULTS = ".partial", "results"

# No file that scDMC writes comes near this; what is read takes ten times as much memory.
MAX_JSON_BYTES = 2**28
# Half of a character that is written as two: alone it is no text that could be written again.
HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def require_new_file(path: Path, overwrite: bool) -> None:
    """Refuse an output file that is a folder, cannot be written, is there already, or is being written by another run.

    In a script, other runs are kept from it until the script ends (:func:`scdmc.locks.claim_output`), and what killed
    runs left of it is removed.

    Parameters
    ----------
    path
        The file that is about to be written.
    overwrite
        True if the user passed ``--overwrite``.

    Raises
    ------
    ScDMCError
        If the file is there and ``overwrite`` is False, or it could not be written in the end.
    """
    path = Path(path)
    if path.is_dir():
        raise ScDMCError(f"{path} is a folder; name a file")
    require_no_device(path)
    require_absent(path, overwrite)
    require_writable_folder(path.parent)
    if claim_output(path):
        remove_leftovers(path)
        require_absent(path, overwrite)  # a run that has just ended may have written it


def require_absent(path: Path, overwrite: bool) -> None:
    """Refuse what is there already, unless it may be overwritten."""
    if os.path.lexists(path) and not overwrite:
        raise ScDMCError(f"{path} exists already; choose another place or pass --overwrite")


def require_no_device(path: Path) -> None:
    """Refuse a device, a pipe or a socket, which a file must not take the place of.

    Raises
    ------
    ScDMCError
        If there is something of that kind, itself or behind a symbolic link.
    """
    if is_special(path):
        raise ScDMCError(f"{path} is a device, a pipe or a socket; name a file")


def is_special(path: Path) -> bool:
    """True for a device, a pipe or a socket, itself or behind a symbolic link."""
    return path.exists() and not path.is_file() and not path.is_dir()


def require_new_folder(path: Path, overwrite: bool) -> None:
    """Refuse an output folder that is a file, cannot be written, holds something, or is being written by another run.

    In a script, other runs are kept from it until the script ends (:func:`scdmc.locks.claim_output`), and what killed
    runs left of it is removed.

    Parameters
    ----------
    path
        The folder that is about to be written. An empty one counts as absent.
    overwrite
        True if the user passed ``--overwrite``.

    Raises
    ------
    ScDMCError
        If the folder holds something and ``overwrite`` is False, or it could not be written in the end.
    """
    path = Path(path)
    require_writable_folder(path)
    if claim_output(path):
        remove_leftovers(path)
    if not overwrite and holds_something(path):
        raise ScDMCError(f"{path} exists already; choose another place or pass --overwrite")


def holds_something(folder: Path) -> bool:
    """True for a folder with anything in it but a lock."""
    return folder.is_dir() and any(path.name != LOCK_IN_FOLDER for path in folder.iterdir())


def require_writable_folder(path: Path) -> None:
    """Refuse a folder in which nothing can be written; one that is absent needs a parent in which it can be made."""
    path = Path(path)
    nearest = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
    if not nearest.is_dir():
        raise ScDMCError(f"{nearest} is no folder, so nothing can be written in {path}; choose another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ScDMCError(f"{nearest} cannot be written to (permission denied); choose another place")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` and rename it to ``path`` when the block ends without an error.

    Works for files and folders; what stood at ``path`` before is replaced only at the very end, and only by its kind.

    Raises
    ------
    ScDMCError
        If a file should replace a folder, or a folder a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_path(path)
    remove(temporary)
    try:
        yield temporary
        require_no_device(path)
        if path.exists() and path.is_dir() != temporary.is_dir():
            is_there, wanted = ("folder", "file") if path.is_dir() else ("file", "folder")
            raise ScDMCError(f"{path} is a {is_there}; a {wanted} cannot take its place")
        if path.is_dir():
            remove(path)  # of a symbolic link the link only
        temporary.replace(path)
    finally:
        remove(temporary)


def partial_path(path: Path) -> Path:
    """What an output is called before it is whole; the run's number tells whose it is."""
    # The suffix stays last: writers such as savefig choose the format by it.
    return path.with_name(f".{path.stem}.{os.getpid()}{PARTIAL}{path.suffix}")


def remove_leftovers(path: Path) -> None:
    """Delete what killed runs left of an output that nobody else writes now (:mod:`scdmc.locks`).

    That is what :func:`atomic_path` calls it before it is whole; and in a folder, the hidden folder of its results and
    its manifest. Other hidden files there may be of a run on another machine.
    """
    path = Path(path)
    of_output = re.compile(rf"\.{re.escape(path.stem)}\.(\d+){re.escape(PARTIAL + path.suffix)}")
    in_folder = re.compile(rf"\.(?:{RESULTS}|manifest)\.(\d+){re.escape(PARTIAL)}(?:\.json)?")
    candidates = [(file, of_output) for file in path.parent.iterdir()] if path.parent.is_dir() else []
    candidates += [(file, in_folder) for file in path.iterdir()] if path.is_dir() else []
    for candidate, pattern in candidates:
        match = pattern.fullmatch(candidate.name)
        if match and (int(match[1]) == os.getpid() or not is_alive(int(match[1]))):
            remove(candidate)


def remove(path: Path) -> None:
    """Delete a file or a folder if it is there; of a link, the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write ``content`` as indented JSON, atomically; the same content gives the same bytes."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")


def read_json_object(path: Path, what: str) -> dict:
    """Read a JSON object.

    Parameters
    ----------
    path
        The file.
    what
        What the file should be, for the error message ("gene medians", say).

    Raises
    ------
    ScDMCError
        If the file is absent, larger than any of its kind, or does not hold a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise ScDMCError(f"{path}: no such file ({what})")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ScDMCError(
            f"{path} ({what}) has {path.stat().st_size / 2**20:,.0f} MiB; no more than {MAX_JSON_BYTES / 2**20:,.0f} "
            "MiB of JSON are read"
        )
    try:
        text = path.read_text(encoding="utf8")
        content = json.loads(text)
        if HALF_CHARACTER.search(text):
            json.dumps(content, ensure_ascii=False).encode("utf8")
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise ScDMCError(f"{path} ({what}) is not JSON: {error}") from error
    except RecursionError:
        raise ScDMCError(f"{path} ({what}) is nested too deeply to be read") from None
    if not isinstance(content, dict):
        raise ScDMCError(f"{path} ({what}) should hold a JSON object, not a {type(content).__name__}")
    return content


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_sha256(path: Path) -> str:
    """The same, computed once in a process as long as the file stays what it is."""
    state = Path(path).stat()
    return _sha256_of_state(Path(path).absolute(), state.st_ino, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256_of_state(path: Path, inode: int, size: int, modified: int) -> str:
    return sha256_of_file(path)


def names_of_files(paths: Sequence[Path], flag: str) -> list[str]:
    """What data sets are called, their files without suffix; refuses two of one name, whose results would mix.

    The names serve as names of folders, too: none is hidden, or a way out of the folder that it lies in, as the stem of
    ``...h5ad`` is; and none differs from another by upper and lower case only.
    """
    names = [file_name_of(path.name) if path.stem.startswith(".") else path.stem for path in paths]
    alike = [name.casefold() for name in names]
    twice = sorted({name for name in names if alike.count(name.casefold()) > 1})
    if twice:
        raise ScDMCError(f"{flag}: two data sets are called {', '.join(twice)}; rename a file")
    return names


def without_folders(word: str) -> str:
    """A word of a command line with only the last part of each absolute path; other words stay."""
    return re.sub(r"""(?<![^='",])/(?:[^/'",]*/)*(?=[^/'",])""", "", word)
