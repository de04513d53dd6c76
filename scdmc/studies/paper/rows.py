"""The rows of the paper's tables as they grow: a row that is there is not computed again."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from scdmc.cells.scores import metric_rows
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, read_json_object, write_json

ROWS_FILE, RUN_FILE = "rows.csv", "run.json"


# `run` names what is computed at once: the baselines of annotation, say.
COLUMNS = ("dataset", "run", "seed", "task", "method", "metric", "value")


class PaperRows:
    """Rows of a folder: one for each data set, method, seed and score.

    Attributes
    ----------
    folder
        Where ``rows.csv`` lies.
    table
        All rows so far, with :data:`COLUMNS`.
    failures
        (data set, method) -> why it failed in this run; it is tried again in the next.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / ROWS_FILE
        self.failures: dict[tuple[str, str], str] = {}
        self.table = pd.DataFrame(columns=list(COLUMNS))
        if self.path.is_file():
            self.table = _read(self.path)

    def is_done(self, dataset: str, run: str, seed: int) -> bool:
        """True where this run is among the rows."""
        found = self.table[["dataset", "run", "seed"]] == [dataset, run, seed]
        return bool(found.all(axis=1).any())

    def add(self, dataset: str, run: str, seed: int, task: str, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Append the scores of the methods of a run, and write the file, which is replaced as a whole."""
        rows = [row for method, of in scores.items() for row in metric_rows(task, method, of)]
        more = pd.DataFrame(rows).assign(dataset=dataset, run=run, seed=seed)[list(COLUMNS)]
        self.table = pd.concat([self.table, more], ignore_index=True) if len(self.table) else more
        with atomic_path(self.path) as temporary:
            self.table.to_csv(temporary, index=False)
        self.failures = {key: why for key, why in self.failures.items() if key[1] not in scores or key[0] != dataset}


def _read(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype={"dataset": str, "run": str, "method": str})
        table = table[list(COLUMNS)].astype({"seed": int, "value": float})
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise ScDMCError(
            f"{path} holds no rows of this benchmark ({str(error).splitlines()[0]}); pass --overwrite"
        ) from error
    return table


def require_same_run(folder: Path, facts: Mapping[str, object], checksums: Mapping[str, str]) -> None:
    """Refuse to add rows of another model, other data or other settings to those that are there; write what these are.

    Parameters
    ----------
    folder
        Of the rows.
    facts
        What must be the same for all rows.
    checksums
        Data set -> SHA-256 of its file.

    Raises
    ------
    ScDMCError
        Naming what differs.
    """
    path, before = folder / RUN_FILE, {}
    if path.is_file():
        before = read_json_object(path, "what the rows were computed with")
    known = before.get("datasets", {})
    differing = [name for name, value in facts.items() if name in before and before[name] != value]
    differing += [name for name, value in checksums.items() if known.get(name, value) != value]
    if differing:
        raise ScDMCError(
            f"{folder} holds rows with another {', '.join(differing)}; choose another folder, or forget these rows "
            "with --overwrite"
        )
    write_json(path, {**facts, "datasets": {**known, **checksums}})
