"""The file-system events of a process under one folder, counted, and the one at which it kills itself.

Python tells of its own events (:func:`sys.addaudithook`): a file opened for writing, a rename, a removal, a new
folder. Libraries in C do not; so the calls that write through them count as well, before and after.
"""

import functools
import os
import signal
import sys
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Event of Python -> which of its arguments are paths, and which the folders that these are relative to.
AUDITED = {
    "os.rename": ((0, 1), (2, 3)),
    "os.link": ((0, 1), (2, 3)),
    "os.symlink": ((1,), (2,)),
    "os.remove": ((0,), (1,)),
    "os.rmdir": ((0,), (1,)),
    "os.mkdir": ((0,), (2,)),
    "os.truncate": ((0,), ()),
    "os.chmod": ((0,), (2,)),
}


class Events:
    """A counter that kills the process before the event of one number."""

    def __init__(self, folder: Path, kill_at: int | None):
        self.folder, self.kill_at, self.pid, self.n = os.path.realpath(folder), kill_at, os.getpid(), 0

    def count(self) -> None:
        """One more; it may be the last."""
        if os.getpid() == self.pid:  # workers have the counter from their parent
            self.n += 1
            if self.n == self.kill_at:
                os.kill(self.pid, signal.SIGKILL)

    def is_inside(self, path: object, folder: object = None) -> bool:
        """Whether a path, relative to an open folder or not, lies in the folder that is watched."""
        if isinstance(path, int):
            return False
        path = os.fsdecode(path)
        if isinstance(folder, int) and folder >= 0 and not path.startswith("/"):
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)  # noqa: PTH115, PTH118  called often
        return os.path.abspath(path).startswith(self.folder)  # noqa: PTH100

    def hear(self, event: str, arguments: tuple) -> None:
        """Python's audit hook."""
        if event == "open":
            path, _, flags = arguments
            if path is not None and flags & WRITING and self.is_inside(path):
                self.count()
        elif event in AUDITED:
            paths, folders = AUDITED[event]
            of_path = [*(arguments[place] for place in folders), *[None] * len(paths)]
            if any(self.is_inside(arguments[place], folder) for place, folder in zip(paths, of_path, strict=False)):
                self.count()


def count_events(folder: Path, kill_at: int | None = None) -> Events:
    """Count the events of this process under a folder from now on."""
    events = Events(folder, kill_at)
    sys.addaudithook(events.hear)
    count_native_writes(events)
    return events


def count_native_writes(events: Events) -> None:
    """Count the calls that write through HDF5, Arrow and safetensors, before and after."""
    import h5py
    import pyarrow.parquet
    import safetensors.numpy
    import safetensors.torch

    for owner, name in (
        (h5py.File, "close"),
        (h5py.Group, "create_dataset"),
        (pyarrow.parquet.ParquetWriter, "write_table"),
        (pyarrow.parquet.ParquetWriter, "close"),
        (safetensors.torch, "save_file"),
        (safetensors.numpy, "save_file"),
    ):
        replace_everywhere(getattr(owner, name), counted(getattr(owner, name), events), owner, name)


def counted(function, events):
    """The same function, with an event before and after it."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        events.count()
        result = function(*args, **kwargs)
        events.count()
        return result

    return call


def replace_everywhere(old, new, owner, name):
    """Put a function in the place of another, where it is defined and in the modules that have imported it."""
    setattr(owner, name, new)
    for module in [module for key, module in sys.modules.items() if key.startswith("scdmc") or key == "__main__"]:
        for key, value in list(vars(module).items()):
            if value is old:
                setattr(module, key, new)
