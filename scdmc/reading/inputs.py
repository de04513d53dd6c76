"""The inputs of a folder: every entry is taken, or part of what is taken, or passed over for a reason that is said."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scdmc.errors import ScDMCError, shown_names
from scdmc.reading.kinds import MTX, MTX_NAME, inputs_below, kind_of
from scdmc.reading.mtx import mtx_files

logger = logging.getLogger(__name__)


TAKEN, PART, SKIPPED = "taken", "part", "skipped"


# Cell Ranger names what holds cells, and what holds all droplets, alike but for a word.
FILTERED, RAW = "filtered", "raw"


CELL_RANGER_NAME = re.compile(
    r"(?P<before>.*)(?P<what>filtered|raw)(?P<after>_(?:feature|gene|peak)_bc_matri(?:x|ces)(?:_h5|_mex)?)(?:\.h5)?"
)


# The log shows so many entries of a folder; the report has them all.
SHOWN_IN_LOG = 20


@dataclass(frozen=True)
class Entry:
    """What becomes of a file or folder in a folder of inputs.

    Attributes
    ----------
    path
        The file or folder.
    status
        ``taken``, ``part`` (of an input) or ``skipped``.
    why
        The reason.
    may_hold_cells
        True if its user may think that its cells are read.
    """

    path: Path
    status: str
    why: str
    may_hold_cells: bool = True

    def to_dict(self) -> dict[str, str]:
        """What the report of a folder says of it."""
        return {"name": self.path.name, "status": self.status, "why": self.why}


def survey_folder(directory: Path) -> list[Entry]:
    """What becomes of each entry of a folder, in the order of their names (docs/tokenize.md, "Files of a folder").

    A ``.zarr`` store or 10x folder is itself its only input.

    Raises
    ------
    ScDMCError
        If there is no such folder.
    """
    directory = Path(directory)
    if directory.is_file():
        raise ScDMCError(f"{directory} is a file; name the folder that holds it")
    if not directory.is_dir():
        raise ScDMCError(f"{directory}: no such folder")
    itself = kind_of(directory.resolve())
    if itself.name is not None:
        whole = directory if directory.name not in ("", "..") else directory.resolve()
        return [Entry(whole, TAKEN, itself.name), *(_beside_matrix(directory) if itself.name == MTX else [])]
    paths = sorted(directory.iterdir())
    parts = _parts_of_triples(paths)
    entries = [_entry(path, parts) for path in paths]
    return _once_each(entries)


def input_files(input_directory: Path) -> list[Path]:
    """The inputs in a folder, in the order of their names; what is passed over is in the log.

    Raises
    ------
    ScDMCError
        If the folder is absent or holds none.
    """
    return taken_files(survey_folder(input_directory), input_directory)


def taken_files(entries: Sequence[Entry], input_directory: Path) -> list[Path]:
    """The inputs among the entries of a folder (:func:`survey_folder`); what is passed over is in the log.

    Raises
    ------
    ScDMCError
        If there are none.
    """
    skipped = [entry for entry in entries if entry.status == SKIPPED]
    taken = [entry.path for entry in entries if entry.status == TAKEN]
    if not taken:
        shown = [f"{entry.path.name} ({entry.why})" for entry in skipped]
        raise ScDMCError(
            f"{input_directory}: there is no .h5ad file (nor .zarr, .loom, 10x .h5, nor a 10x folder with matrix.mtx)"
            + (f", only {shown_names(shown, 3)}" if shown else "")
        )
    for entry in skipped[:SHOWN_IN_LOG]:
        level = logging.WARNING if entry.may_hold_cells else logging.INFO
        logger.log(level, "%s%s is passed over: %s",
                   "warning: " if entry.may_hold_cells else "", entry.path, entry.why)  # fmt: skip
    if len(skipped) > SHOWN_IN_LOG:
        logger.warning(
            "warning: %s: %d more files are passed over; the report names all", input_directory,
            len(skipped) - SHOWN_IN_LOG,
        )  # fmt: skip
    return taken


def warnings_of(entries: Sequence[Entry]) -> list[str]:
    """A sentence for each entry that may hold cells and is not taken."""
    return [
        f"{entry.path.name} is passed over: {entry.why}"
        for entry in entries
        if entry.status == SKIPPED and entry.may_hold_cells
    ]


def _beside_matrix(directory: Path) -> list[Entry]:
    """The entries of a folder that is an input itself."""
    parts = {path.name for path in mtx_files(directory).values()}
    return [
        Entry(path, PART, "of the 10x folder")
        if path.name in parts
        else Entry(path, SKIPPED, "the folder itself is the input, since it holds a matrix.mtx",
                   kind_of(path).name is not None and not path.name.startswith("."))
        for path in sorted(directory.iterdir())
    ]  # fmt: skip


def _parts_of_triples(paths: Sequence[Path]) -> dict[Path, str]:
    """File -> the matrix to which it belongs; of a matrix without its files nothing, and the reason for itself."""
    parts = {}
    for path in paths:
        if path.name.startswith(".") or not path.is_file() or not MTX_NAME.fullmatch(path.name):
            continue
        try:
            files = mtx_files(path)
        except ScDMCError as error:
            parts[path] = str(error)
        else:
            parts |= {file: path.name for what, file in files.items() if what != "matrix"}
    return parts


def _entry(path: Path, parts: dict[Path, str]) -> Entry:
    if path.name.startswith("._"):
        return Entry(path, SKIPPED, "a note that a Mac leaves beside a file, without data", may_hold_cells=False)
    if path.name.startswith("."):
        return Entry(path, SKIPPED, "hidden (its name starts with a dot)", may_hold_cells=False)
    if path in parts:
        is_matrix = MTX_NAME.fullmatch(path.name) is not None
        return Entry(path, SKIPPED, parts[path]) if is_matrix else Entry(path, PART, f"of {parts[path]}")
    kind = kind_of(path)
    if kind.name is not None:
        return Entry(path, TAKEN, kind.name)
    return Entry(path, SKIPPED, *_folder(path) if path.is_dir() else (kind.reason, kind.may_hold_cells))


def _folder(path: Path) -> tuple[str, bool]:
    below = inputs_below(path)
    if not below:
        return "a folder without inputs", False
    number = "1 input" if len(below) == 1 else f"{len(below)} inputs"
    return (
        f"a folder with {number} ({shown_names(below, 3)}): folders below are not read; "
        "name it as --data_path, or move its inputs up", True,
    )  # fmt: skip


def _once_each(entries: Sequence[Entry]) -> list[Entry]:
    """Of the files of one run of Cell Ranger take the cells, once: filtered before raw, ``.h5`` before its folder."""
    taken = {entry.path.name for entry in entries if entry.status == TAKEN}

    def judged(entry: Entry) -> Entry:
        match = CELL_RANGER_NAME.fullmatch(entry.path.name)
        if entry.status != TAKEN or match is None:
            return entry
        filtered = f"{match['before']}{FILTERED}{match['after']}"
        if match["what"] == RAW:
            beside = [name for name in (f"{filtered}.h5", filtered) if name in taken]
            if beside:
                return Entry(entry.path, SKIPPED, f"holds all droplets; {beside[0]} holds the cells among them", False)
        if entry.path.suffix != ".h5" and f"{entry.path.name}.h5" in taken:
            return Entry(entry.path, SKIPPED, f"holds the same cells as {entry.path.name}.h5", may_hold_cells=False)
        return entry

    return [judged(entry) for entry in entries]
