"""Writing HDF5 so that a full disk ends in one error, not in a crash.

Where a write fails, the HDF5 library keeps what it could not write, tries again when the process ends, and may bring it
down with a segmentation fault. So a script whose HDF5 file has failed ends without asking the library
(:func:`scdmc.cli.parser.script` looks at :func:`has_failed`).
"""

import errno
import os
import re
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

_failed: list[Path] = []  # files that could not be written in this process


def has_failed() -> bool:
    """True if the HDF5 library of this process holds something that it cannot write."""
    return bool(_failed)


@contextmanager
def hdf5_file(path: Path, mode: str) -> Iterator[h5py.File]:
    """An HDF5 file to be written; where that fails, the error is raised and the file let go of.

    Parameters
    ----------
    path
        The file, of a temporary name (:func:`scdmc.files.atomic_path`): after an error it is of no use.
    mode
        As of ``h5py.File``: ``w`` or ``a``.

    Raises
    ------
    OSError
        With the number of the error and the name of the file, if the disk is full, say.
    """
    with _without_a_word_of_closing():
        descriptor, file = None, None
        try:
            file = h5py.File(path, mode)
            descriptor = file.id.get_vfd_handle()
            yield file
            # What the library holds in memory is written here, where an error can be raised: at closing it could not.
            file.flush()
        except BaseException as error:
            number = _number_of(error)
            if number:
                _failed.append(Path(path))
                _let_go(file, descriptor)
                raise OSError(number, os.strerror(number), str(path)) from error
            if file is not None:
                file.close()
            raise
        file.close()


@contextmanager
def _without_a_word_of_closing() -> Iterator[None]:
    """Objects of h5py that cannot be closed print tracebacks of their own; after an error they stay silent for good."""
    of_process, of_objects = sys.excepthook, sys.unraisablehook

    def silent(kind: type, error: BaseException, trace: types.TracebackType | None) -> None:
        if not _is_of_h5py(trace):
            of_process(kind, error, trace)

    def silent_object(unraisable: "sys.UnraisableHookArgs") -> None:
        if "h5py" not in repr(unraisable.object) and not _is_of_h5py(unraisable.exc_traceback):
            of_objects(unraisable)

    sys.excepthook, sys.unraisablehook = silent, silent_object
    try:
        yield
    finally:
        if not has_failed():
            sys.excepthook, sys.unraisablehook = of_process, of_objects


def _is_of_h5py(trace: types.TracebackType | None) -> bool:
    """True for an error that was raised in h5py."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "h5py" in trace.tb_frame.f_code.co_filename


def _let_go(file: h5py.File | None, descriptor: int | None) -> None:
    """Close a file that cannot be written: what the library still has to write goes to nowhere."""
    if descriptor is None:
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
    try:
        file.close()
    except (OSError, RuntimeError, ValueError):
        return  # it reads back what was never written; the process ends without it


def _number_of(error: BaseException) -> int:
    """The number of a system's error in writing, which h5py may say in words only; 0 for none."""
    while error is not None:
        if isinstance(error, OSError | RuntimeError):
            named = re.search(r"errno = (\d+)", str(error))
            number = int(named[1]) if named else getattr(error, "errno", None)
            if number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE):
                return number
        error = error.__cause__ or error.__context__
    return 0
