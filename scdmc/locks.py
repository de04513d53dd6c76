"""Which run this is, and that no other run writes the same output: a lock for each output file or folder.

A lock is a hidden file beside the output, ``.NAME.lock``, on which the run holds a record lock of the operating system
(``fcntl.lockf``). The system gives such a lock back when the process ends, however it ends, and processes that the run
forks do not inherit it: a worker that outlives a killed run keeps nobody out.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scdmc.errors import ScDMCError

logger = logging.getLogger(__name__)


# Another process holds the lock; the file system has no locks.
HELD, NO_LOCKS = frozenset({errno.EACCES, errno.EAGAIN}), frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP})


# What killed runs leave in a lock begins like this; a file of somebody else is neither emptied nor deleted.
SIGNED = b'{"pid": '


# A run writes who it is right after it has taken a lock; another one that finds nothing looks again.
SECONDS_TO_SIGN = 0.5


# Where the lock of a folder lies that nothing may be put beside.
LOCK_IN_FOLDER = ".scdmc.lock"


@dataclass
class _Lock:
    path: Path
    descriptor: int
    new_folders: list[Path]
    is_exclusive: bool
    depth: int = 1
    process: int = field(default_factory=os.getpid)


@dataclass
class _Script:
    command: tuple[str, ...]
    outputs: ExitStack = field(default_factory=ExitStack)


_held: dict[Path, _Lock] = {}
_scripts: list[_Script] = []


@contextmanager
def script_run(command: Sequence[str]) -> Iterator[None]:
    """While a script runs: remember its command, and give back at the end what it claimed (:func:`claim_output`)."""
    script = _Script(tuple(command))
    _scripts.append(script)
    try:
        with script.outputs:
            yield
    finally:
        _scripts.remove(script)


def command_of_run() -> tuple[str, ...]:
    """Words of the command that runs; none in a notebook."""
    return _scripts[-1].command if _scripts else ()


def claim_output(path: Path) -> bool:
    """Keep other runs from writing an output until the script that runs has ended.

    Outside of a script nothing is claimed: a notebook has no end, and what writes there takes the lock itself.

    Returns
    -------
    True if nobody else writes the output now; False outside of a script, and where there are no locks.

    Raises
    ------
    ScDMCError
        If another run writes it.
    """
    if not _scripts:
        return False
    return _scripts[-1].outputs.enter_context(output_lock(path))


@contextmanager
def output_lock(path: Path) -> Iterator[bool]:
    """Keep other runs from writing an output file or folder meanwhile; a run may lock what it has locked already.

    Yields
    ------
    True, or False where the file system has no locks.

    Raises
    ------
    ScDMCError
        If another run writes it, naming that run; or if a file of somebody else has the name of the lock.
    """
    path = lock_path(path)
    lock = _held.get(path)
    if lock is None:
        lock = _held[path] = _taken(path)
    else:
        lock.depth += 1
    try:
        yield lock.is_exclusive
    finally:
        lock.depth -= 1
        if not lock.depth:
            del _held[path]
            _give_back(lock)


def lock_path(path: Path) -> Path:
    """Where the lock of an output lies: beside it, or in it where its parent folder is not ours to write in."""
    path = Path(path)
    if path.is_dir():
        path = Path(os.path.realpath(path))
        if lies_apart(path):
            return path / LOCK_IN_FOLDER
    return Path(os.path.realpath(path.parent)) / f".{path.name}.lock"


def lies_apart(folder: Path) -> bool:
    """True for a folder that nothing in its parent can take the place of: a mounted one, or the parent is read-only."""
    return os.path.ismount(folder) or not os.access(folder.parent, os.W_OK | os.X_OK)


def is_alive(process: int) -> bool:
    """True if this machine runs a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _taken(path: Path) -> _Lock:
    new_folders = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Never through a link: what it leads to would be emptied.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # a run that has just ended took its empty folder away
            continue
        is_exclusive = _lock_file(path, descriptor)
        if _is_still_there(path, descriptor):
            break
        os.close(descriptor)  # the run that held it has just deleted it
    earlier = os.pread(descriptor, 65_536, 0)
    # A run may have been killed while it signed.
    if earlier[: len(SIGNED)] != SIGNED[: len(earlier)]:
        os.close(descriptor)
        raise ScDMCError(f"{path} is not of scDMC, which locks an output by a file of that name; rename it")
    lock = _Lock(path, descriptor, new_folders, is_exclusive)
    signature = {"pid": os.getpid(), "host": socket.gethostname(), "command": list(command_of_run())}
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(signature).encode("utf8"), 0)
    except OSError:  # the disk is full
        _give_back(lock)
        raise
    return lock


def _lock_file(path: Path, descriptor: int) -> bool:
    """Lock an open file; False where the file system cannot."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            raise _refusal(path, descriptor) from error
        if error.errno not in NO_LOCKS:
            raise
        logger.warning("warning: %s: no locks there, so nothing keeps a second run from this output", path.parent)
        return False
    return True


def _is_still_there(path: Path, descriptor: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _refusal(path: Path, descriptor: int) -> ScDMCError:
    """What is said to the second run; ``descriptor`` is closed."""
    signature, deadline = b"", time.monotonic() + SECONDS_TO_SIGN
    while not signature and time.monotonic() < deadline:
        signature = os.pread(descriptor, 65_536, 0)
        time.sleep(0 if signature else 0.02)
    os.close(descriptor)
    try:
        run = json.loads(signature)
        who = f"process {run['pid']} on {run['host']}" + f" ({' '.join(run['command'])})" * bool(run["command"])
    except (ValueError, TypeError, KeyError):
        who = "another process"
    output = path.parent if path.name == LOCK_IN_FOLDER else path.with_name(path.name[1:].removesuffix(".lock"))
    return ScDMCError(f"{output} is being written by {who}; wait until that run has ended, or choose another place")


def _give_back(lock: _Lock) -> None:
    """Delete the file while it is still locked, so that nobody's lock is deleted; and folders made for it alone."""
    if lock.process == os.getpid():  # not in a forked child, which holds nothing
        lock.path.unlink(missing_ok=True)
        for folder in lock.new_folders:
            try:
                folder.rmdir()
            except OSError:  # there is an output in it
                break
    os.close(lock.descriptor)
