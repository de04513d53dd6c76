"""Reading a pickled dictionary name -> number (Geneformer's gene medians) without running what a pickle may hold.

A pickle is a program. This one may build dictionaries, text and numbers and call two stand-ins for numpy's scalars;
whatever else it asks for is refused before it runs.
"""

import io
import pickle
from pathlib import Path

import numpy as np

from scdmc.errors import ScDMCError

# Whatever a damaged pickle may raise.
UNPICKLING_ERRORS = (
    pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError,
    MemoryError,
)  # fmt: skip


def is_pickle(path: Path) -> bool:
    """True for a file named as a pickle."""
    return Path(path).suffix in (".pkl", ".pickle")


def read_pickled_numbers(path: Path, what: str) -> dict[str, object]:
    """Read a pickled dictionary of plain values; numpy scalars become Python numbers.

    Parameters
    ----------
    path
        The file.
    what
        What the file should be, for the error message ("gene medians", say).

    Raises
    ------
    ScDMCError
        If the file is absent, damaged, holds no dictionary by text, or asks for anything but numbers and text.
    """
    path = Path(path)
    if not path.is_file():
        raise ScDMCError(f"{path}: no such file ({what})")
    try:
        content = _NumbersUnpickler(io.BytesIO(path.read_bytes())).load()
    except UNPICKLING_ERRORS as error:
        raise ScDMCError(f"{path} ({what}) is no pickled dictionary of numbers: {error}") from error
    if type(content) is not dict or not all(type(name) is str for name in content):
        raise ScDMCError(f"{path} ({what}) should hold a dictionary name -> number, not a {type(content).__name__}")
    return content


class _NumberType:
    """Stands in for ``numpy.dtype``: a plain type of floats or integers."""

    def __init__(self, name: str, *_: object) -> None:
        dtype = np.dtype(name) if isinstance(name, str) else np.dtype(object)
        if dtype.kind not in "fiu":
            raise pickle.UnpicklingError(f"values of type {name!r}, which are no numbers")
        self.dtype = dtype

    def __setstate__(self, state: tuple) -> None:
        # (version, byte order, ...); numpy restores the order of bytes this way.
        if state[1] in "<>":
            self.dtype = self.dtype.newbyteorder(state[1])


def _number(number_type: _NumberType, content: bytes) -> float | int:
    """Stands in for ``numpy.core.multiarray.scalar``."""
    return np.frombuffer(content, number_type.dtype, count=1)[0].item()


# numpy has had two names for its core.
KNOWN = {
    ("numpy", "dtype"): _NumberType,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
}


class _NumbersUnpickler(pickle.Unpickler):
    """Unpickler that knows numpy's scalars and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        """What the pickle may call by this name."""
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which may run code; it was not run")
        return KNOWN[module, name]
