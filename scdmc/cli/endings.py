"""How a script ends: which failures are for the user to mend, in which words, and what becomes of its streams."""

import errno
import io
import os
import re
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from scdmc.errors import ScDMCError

USER_ERROR_STATUS = 2


INTERRUPTED_STATUS = 130


# What a shell reports of a program that a closed pipe has ended: 128 + SIGPIPE.
BROKEN_PIPE_STATUS = 141


# Disks, permissions, names and limits are for the user to mend; any other OSError is a bug.
USER_ERRNOS = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE,
        errno.EACCES, errno.EROFS, errno.EPERM,
        errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR,
        errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    }
)  # fmt: skip


# How libraries say in an OSError, ImportError or RuntimeError that no memory was left.
NO_MEMORY = re.compile(r"can(?:no|')t allocate memory|failed to map segment|out of memory|unable to allocate", re.I)


# What may be a failure for the user to mend; :func:`message_for_user` decides.
CATCHABLE = (ScDMCError, OSError, MemoryError, ImportError, RuntimeError, UnicodeEncodeError)


def message_for_user(error: BaseException) -> str | None:
    """One line that says what to mend, or None where the error is a bug and deserves its traceback.

    Parameters
    ----------
    error
        One of :data:`CATCHABLE`.
    """
    if isinstance(error, ScDMCError):
        return str(error)
    text = _first_line(error)
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        # NotImplementedError and RecursionError are RuntimeErrors, too; neither speaks of memory.
        detail = f" ({text})" if text else ""
        return f"there is not enough memory{detail}; use a machine with more, or give less at a time"
    if isinstance(error, UnicodeEncodeError):
        if error.reason != "surrogates not allowed":
            return None
        return f"{error.object!r} is a name that is not UTF-8; rename the file or folder"
    if isinstance(error, OSError) and error.errno in USER_ERRNOS:
        reason = error.strerror.splitlines()[0] if error.strerror else text
        return f"{error.filename}: {reason}" if error.filename else reason
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def make_streams_safe() -> None:
    """Let characters that the terminal's encoding lacks be printed as escapes, not end the script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def printed_to_the_end() -> Iterator[None]:
    """Write out what was printed before the script counts as done; at the end of the process it would be too late.

    Raises
    ------
    ScDMCError
        If standard output cannot be written, to a full disk for example.
    BrokenPipeError
        If nobody reads it any more.
    """
    try:
        yield
    except SystemExit:
        _flush()
        raise
    _flush("; the files that the script wrote are complete")


def _flush(what_holds: str = "") -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ScDMCError(f"standard output cannot be written ({error.strerror}){what_holds}") from error


def discard_what_cannot_be_printed() -> None:
    """Point standard output and errors that cannot be written at nothing: Python writes what is left at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)


def leave_without_hdf5(status: int) -> None:
    """End the process at once where HDF5 could not write: its own end of the process would crash."""
    output = sys.modules.get("scdmc.reading.hdf5_output")
    if output is not None and output.has_failed():
        discard_what_cannot_be_printed()
        os._exit(status)


def reader_is_gone() -> bool:
    """True if standard output or errors are a pipe that nobody reads any more, as after ``| head``."""
    for stream in (sys.stdout, sys.stderr):
        try:
            descriptor = stream.fileno()
        except (AttributeError, io.UnsupportedOperation):
            continue
        poll = select.poll()
        poll.register(descriptor, 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            return True
    return False
