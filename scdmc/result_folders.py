"""Folders of results that are whole: written under a hidden name, published at once, and known by a manifest.

``manifest.json`` names every file of a folder with its size and SHA-256, and the command that wrote them. A folder that
is new gets its name by one rename. In a folder that is there already, the manifest comes first and says that the folder
is being replaced; then the files take their places one by one; then the manifest says that the folder is whole. What
reads such a folder asks :func:`require_whole`, so that a killed run leaves the old results, the new ones, or a refusal.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from scdmc.errors import ScDMCError, shown_names
from scdmc.files import (
    PARTIAL,
    RESULTS,
    holds_something,
    known_sha256,
    partial_path,
    read_json_object,
    remove,
    remove_leftovers,
    sha256_of_file,
    without_folders,
    write_json,
)
from scdmc.locks import command_of_run, lies_apart, output_lock
from scdmc.version import __version__

logger = logging.getLogger(__name__)

MANIFEST_FILE, FORMAT = "manifest.json", 1


_kept: set[Path] = set()


@contextmanager
def result_folder(path: Path) -> Iterator[Path]:
    """Give a hidden folder for all results, and publish them in the folder ``path`` when the block ends.

    Nothing is published if the block ends with an error, unless it has said that the results are there
    (:func:`keep_results`). What the folder holds of an earlier run goes; other files in it stay.

    Parameters
    ----------
    path
        The folder of results.

    Raises
    ------
    ScDMCError
        If another run writes there, or something that is not ours is in the way.
    """
    path = Path(path)
    with output_lock(path) as is_exclusive:
        if is_exclusive:
            remove_leftovers(path)
        _manifest_to_replace(path)
        hidden = _hidden_folder(path)
        remove(hidden)
        hidden.mkdir(parents=True)
        is_done = False
        try:
            yield hidden
            is_done = True
        finally:
            if not is_done and hidden in _kept:
                logger.warning("warning: the results are kept in %s; what failed came after them", path)
            if is_done or hidden in _kept:
                _publish(hidden, path)
            _kept.discard(hidden)
            remove(hidden)


@contextmanager
def extended_folder(path: Path, is_replaced: Callable[[str], bool]) -> Iterator[Path]:
    """Give a hidden folder as :func:`result_folder` does, with copies of the results that are there already.

    Without a manifest all files are results but hidden ones, such as locks.

    Parameters
    ----------
    path
        The folder of results that gets more.
    is_replaced
        Of the name of a file, relative to the folder: whether the block writes it anew, so that it is not copied.

    Raises
    ------
    ScDMCError
        If another run writes there, or the files are not those that one run wrote there.
    """
    with result_folder(path) as hidden:
        manifest = read_manifest(path)
        names = _visible_files(Path(path)) if manifest is None else list(manifest["files"])
        names = [name for name in names if not is_replaced(name)]
        require_whole(path, *names)
        for name in names:
            (hidden / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(path) / name, hidden / name)
        yield hidden


def _visible_files(folder: Path) -> list[str]:
    """Files of a folder, relative to it, but those that are hidden or in a hidden folder."""
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return [file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts)]


def keep_results(folder: Path) -> None:
    """Say that the results are there, and what follows are figures and pages: an error in those loses no result.

    Parameters
    ----------
    folder
        What :func:`result_folder` gave. Nothing happens for another folder.
    """
    _kept.add(Path(folder))


def require_whole(folder: Path, *names: str) -> None:
    """Refuse to read a folder whose files are not those that one run wrote there.

    Parameters
    ----------
    folder
        A folder of results. One without a manifest (of another tool, say) is taken as it is.
    names
        The files that are about to be read; one that is neither there nor in the manifest is passed over.

    Raises
    ------
    ScDMCError
        If a run was killed while it replaced the results, or a file is not the one of the manifest.
    """
    folder, manifest, prefix = _folder_with_manifest(Path(folder))
    if manifest is None:
        return
    if not manifest["is_whole"]:
        raise ScDMCError(
            f"{folder} was being replaced when a run ended, so its files do not belong together; repeat that run with "
            f"--overwrite{_shown_command(manifest)}"
        )
    for name in names:
        _require_as_written(folder, prefix + name, manifest)


def _folder_with_manifest(folder: Path) -> tuple[Path, dict | None, str]:
    """The folder whose manifest speaks of a folder's files, that manifest, and what stands before their names in it."""
    manifest = read_manifest(folder)
    if manifest is None:
        parent, prefix = folder.absolute().parent, f"{folder.absolute().name}/"
        of_parent = read_manifest(parent)
        if of_parent and any(name.startswith(prefix) for name in of_parent["files"]):
            return parent, of_parent, prefix
    return folder, manifest, ""


def is_whole(folder: Path) -> bool:
    """False for a folder whose results were being replaced when a run ended."""
    manifest = read_manifest(folder)
    return manifest is None or manifest["is_whole"]


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Read several files of a folder of results: refuse if another run replaces them meanwhile."""
    before = read_manifest(folder)
    yield
    if read_manifest(folder) != before:
        raise ScDMCError(f"{folder} was replaced while it was read; try again")


def read_manifest(folder: Path) -> dict | None:
    """What a folder of results says of its files; None where nothing is said.

    Raises
    ------
    ScDMCError
        If the manifest is damaged, or of a later version of scDMC.
    """
    path = Path(folder) / MANIFEST_FILE
    if not path.is_file():
        return None
    content = read_json_object(path, "manifest of results")
    if "scdmc_manifest" not in content:
        return None  # a file of that name of somebody else
    if content["scdmc_manifest"] != FORMAT:
        raise ScDMCError(f"{path} has version {content['scdmc_manifest']}, but this scDMC reads {FORMAT}; update scDMC")
    files = content.get("files")
    is_sound = isinstance(content.get("is_whole"), bool) and isinstance(files, dict)
    if not is_sound or not all(isinstance(entry, dict) for entry in files.values()):
        raise ScDMCError(f"{path} is damaged; repeat the run with --overwrite")
    return content


def _require_as_written(folder: Path, name: str, manifest: Mapping) -> None:
    path, entry = folder / name, manifest["files"].get(name)
    is_there = path.is_file()
    if entry is None and not is_there:
        return
    if entry is None:
        reason = "was not written by the run that wrote the rest"
    elif not is_there:
        reason = "is missing"
    elif path.stat().st_size != entry.get("bytes"):
        reason = f"has {path.stat().st_size:,} bytes, not the {entry.get('bytes')} that were written"
    elif known_sha256(path) != entry.get("sha256"):
        reason = "has other content than was written"
    else:
        return
    raise ScDMCError(
        f"{path} {reason}; copy the whole folder again, or repeat the run with --overwrite{_shown_command(manifest)}; "
        f"if this is your own change, delete {folder / MANIFEST_FILE}"
    )


def _shown_command(manifest: Mapping) -> str:
    words = manifest.get("command")
    return f" ({' '.join(map(str, words))})" if isinstance(words, list) and words else ""


def _hidden_folder(path: Path) -> Path:
    """Beside a folder that is new, or empty and can be replaced; else in it."""
    if not path.is_dir():
        return partial_path(path)
    real = Path(os.path.realpath(path))
    if holds_something(path) or lies_apart(real) or real == Path.cwd():
        return path / f".{RESULTS}.{os.getpid()}{PARTIAL}"
    return partial_path(real)


def _publish(hidden: Path, path: Path) -> None:
    names = sorted(file.relative_to(hidden).as_posix() for file in hidden.rglob("*") if not file.is_dir())
    files = {name: {"bytes": (hidden / name).stat().st_size, "sha256": sha256_of_file(hidden / name)} for name in names}
    manifest = {
        "scdmc_manifest": FORMAT,
        "scdmc": __version__,
        "command": [without_folders(word) for word in command_of_run()],
        "is_whole": True,
        "files": files,
    }
    if hidden.parent != path and not holds_something(path):
        write_json(hidden / MANIFEST_FILE, manifest)
        if path.is_dir():
            shutil.copymode(path, hidden)
        hidden.rename(os.path.realpath(path))
        return
    older = _manifest_to_replace(path)
    if not older:
        _name_files_of_others(path, names)
    _require_no_obstacle(hidden, path, names)
    # Names of the older run stay known until its files are gone, whatever happens to this one.
    old_names = {*older.get("files", ()), *older.get("older_files", ())} - set(names)
    write_json(path / MANIFEST_FILE, {**manifest, "is_whole": False, "older_files": sorted(old_names)})
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (hidden / name).replace(path / name)
    for name in old_names:
        _remove_old(path, name)
    write_json(path / MANIFEST_FILE, manifest)


def _manifest_to_replace(path: Path) -> Mapping:
    """The manifest of the results that a folder holds so far, empty if there is none or it says nothing of files."""
    file = path / MANIFEST_FILE
    if not os.path.lexists(file):
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or "scdmc_manifest" not in content:
        raise ScDMCError(f"{file} is not of scDMC, which writes a file of that name; rename it")
    return content if isinstance(content.get("files"), dict) else {}


def _name_files_of_others(path: Path, names: list[str]) -> None:
    """Name the files that stay beside the results, where no manifest tells whose they are."""
    others = sorted(file.name for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    others = [name for name in others if name not in names]
    if others:
        logger.warning(
            "%s holds files that are not of this run: %s; delete them if an earlier version of scDMC wrote them",
            path, shown_names(others),
        )  # fmt: skip


def _require_no_obstacle(hidden: Path, path: Path, names: list[str]) -> None:
    """Refuse to replace a folder by a file or a file by a folder; the results get a visible name of their own."""
    for name in names:
        obstacles = [path / name] if (path / name).is_dir() else []
        obstacles += [path / part for part in Path(name).parents if os.path.lexists(path / part)
                      and not (path / part).is_dir()]  # fmt: skip
        if obstacles:
            kept = path / f"results_of_{os.getpid()}"
            hidden.rename(kept)
            raise ScDMCError(f"{obstacles[0]} is in the way of {name}; move it. The results are kept in {kept}")


def _remove_old(folder: Path, name: str) -> None:
    """Delete a file of the older results, and the folder in which it was the last one."""
    file = folder / name
    if ".." in file.parts or not file.parent.resolve().is_relative_to(folder.resolve()):
        return  # no run of ours wrote such a name
    if not file.is_dir():
        file.unlink(missing_ok=True)
    for parent in file.relative_to(folder).parents[:-1]:
        try:
            (folder / parent).rmdir()
        except OSError:  # something else is in it, or it is gone
            break
