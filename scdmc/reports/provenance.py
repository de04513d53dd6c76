"""How a page was made: command, version, date, seed, inputs, model, time taken.

Source: docs/reliability.md, "The same bytes".
"""

import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from scdmc.dates import date_of_results, is_date_fixed
from scdmc.files import known_sha256, without_folders
from scdmc.locks import command_of_run
from scdmc.version import __version__

# Of all inputs of a page together: more takes long to read once more.
MOST_HASHED_BYTES = 2 * 10**9


NOT_HASHED = f"not computed: at most {MOST_HASHED_BYTES // 10**9} GB of all inputs are read once more"


MOST_FILES_OF_FOLDER = 20


@dataclass(frozen=True)
class Provenance:
    """What a page was made from.

    Attributes
    ----------
    inputs
        Files and folders that were read.
    model
        Name of the model; "" for none.
    seed
        Of all that is drawn by chance; None where nothing is.
    began
        When the work began, as ``time.time()`` gives it; None if that is not known.
    settings
        More that a reader may ask for: name -> value.
    """

    inputs: tuple[Path, ...] = ()
    model: str = ""
    seed: int | None = None
    began: float | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


def date_text() -> str:
    """The date of the results (:func:`scdmc.dates.date_of_results`), to the minute."""
    return f"{date_of_results():%Y-%m-%d %H:%M} UTC"


def command_text() -> str:
    """The command that runs, without folders of this machine; that of a notebook is not known."""
    if not command_of_run():
        return "called from Python"
    script, *words = command_of_run()
    program = sys.argv[0] if sys.argv else ""
    shown = program.split(" ") if program.startswith("scdmc ") else ["python", script]
    return shlex.join([*shown, *map(without_folders, words)])


def size_text(n_bytes: int) -> str:
    """A size as people read it."""
    size, unit = float(n_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{n_bytes:,} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def time_text(seconds: float) -> str:
    """A time as people read it."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def facts_of(made: Provenance) -> dict[str, str]:
    """Name -> text of all but the inputs, in the order of the page."""
    facts = {"command": command_text(), "scDMC": __version__, "date": date_text()}
    if made.seed is not None:
        facts["seed"] = str(made.seed)
    if made.model:
        facts["model"] = made.model
    # It differs from run to run.
    if made.began is not None and not is_date_fixed():
        facts["time taken"] = time_text(max(time.time() - made.began, 0))
    return facts | {str(name): str(value) for name, value in made.settings.items()}


def table_of_inputs(made: Provenance) -> pd.DataFrame:
    """Columns input, size, sha256: one row for each file, and for a folder one more than for its first files.

    Files are hashed in their order, as long as no more than :data:`MOST_HASHED_BYTES` are read in all.
    """
    rows, left = [], MOST_HASHED_BYTES
    for path in made.inputs:
        for file, name, size, hashed in _files_of(Path(path)):
            if file is not None and file.is_file():
                n_bytes = file.stat().st_size
                size, hashed = size_text(n_bytes), NOT_HASHED
                if n_bytes <= left:
                    hashed, left = known_sha256(file), left - n_bytes
            rows.append((name, size, hashed))
    return pd.DataFrame(rows, columns=["input", "size", "sha256"])


def _files_of(path: Path) -> Iterator[tuple[Path | None, str, str, str]]:
    """Files to hash with their names, and what is said in place of size and hash of what is none."""
    if not path.is_dir():
        yield path, path.name, "–", "not there any more"
        return
    name = f"{path.absolute().name}/"
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    shown = files[:MOST_FILES_OF_FOLDER]
    total = sum(file.stat().st_size for file in files)
    left = f"of its first {len(shown)} files below" if len(shown) < len(files) else "of each file below"
    yield None, name, f"{size_text(total)} in {len(files):,} file{'s' * (len(files) != 1)}", left if files else "–"
    for file in shown:
        yield file, name + file.relative_to(path).as_posix(), "–", "not there any more"
