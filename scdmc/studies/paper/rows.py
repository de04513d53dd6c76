"""The rows of the paper's tables as they grow: a row that is there is not computed again."""

from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from scdmc.cells.scores import metric_rows
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, read_json_object, remove, write_json

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
        (data set, method) -> with which seeds it failed in this run, and why; these are tried again in the next.
    """

    def __init__(self, folder: Path, forgotten: Collection[str] = ()) -> None:
        """Read the rows that are there, without those of data sets that the user wants to be forgotten.

        Rows that are forgotten stay on the disk until :meth:`require_same_run` has let the run begin.
        """
        self.folder, self.path = folder, folder / ROWS_FILE
        self.failures: dict[tuple[str, str], str] = {}
        self.table = pd.DataFrame(columns=list(COLUMNS))
        self.is_changed = bool(forgotten)
        if not self.path.is_file():
            return
        try:
            table = _read(self.path)
        except ScDMCError:
            if not forgotten:
                raise
            return  # it holds no rows that could be kept
        self.table = table[~table["dataset"].isin(forgotten)]

    def is_done(self, dataset: str, run: str, seed: int) -> bool:
        """True where this run is among the rows."""
        found = self.table[["dataset", "run", "seed"]] == [dataset, run, seed]
        return bool(found.all(axis=1).any())

    def add(self, dataset: str, run: str, seed: int, task: str, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Append the scores of the methods of a run, and write the file, which is replaced as a whole."""
        rows = [row for method, of in scores.items() for row in metric_rows(task, method, of)]
        more = pd.DataFrame(rows).assign(dataset=dataset, run=run, seed=seed)[list(COLUMNS)]
        self.table = pd.concat([self.table, more], ignore_index=True) if len(self.table) else more
        self._write()

    def add_failure(self, dataset: str, method: str, seed: int, why: str) -> None:
        """Keep that a method failed; what it does with another seed changes nothing of that."""
        before = self.failures.get((dataset, method))
        self.failures[(dataset, method)] = "; ".join([*([before] if before else []), f"with seed {seed}: {why}"])

    def require_same_run(self, facts: Mapping[str, object], checksums: Mapping[str, str]) -> None:
        """Refuse to add rows of another model, other data or other settings to those that are there.

        What the rows are computed with is written to ``run.json``, and rows that are forgotten go.

        Parameters
        ----------
        facts
            What must be the same for all rows.
        checksums
            Data set -> SHA-256 of its file.

        Raises
        ------
        ScDMCError
            Naming what differs; or if nobody knows what the rows were computed with.
        """
        path, known = self.folder / RUN_FILE, {}
        if len(self.table):
            known = self._known_datasets(path, facts, checksums)
        if self.is_changed:
            self._write()
        write_json(path, {**facts, "datasets": {**known, **checksums}})

    def _known_datasets(self, path: Path, facts: Mapping[str, object], checksums: Mapping[str, str]) -> dict[str, str]:
        """Checksums of the data sets of the rows, after everything has been compared."""
        if not path.is_file():
            raise ScDMCError(
                f"{self.folder} holds {ROWS_FILE} without {RUN_FILE}, so that nobody knows of which model its rows "
                f"are; choose another folder, or delete {ROWS_FILE}"
            )
        before = read_json_object(path, "what the rows were computed with")
        of_rows = set(self.table["dataset"])
        known = {name: value for name, value in before.get("datasets", {}).items() if name in of_rows}
        differing = [name for name, value in facts.items() if before.get(name) != value]
        differing += [name for name in checksums if name in of_rows and known.get(name) != checksums[name]]
        if differing:
            raise ScDMCError(
                f"{self.folder} holds rows of {', '.join(sorted(of_rows))} with another {', '.join(differing)}; choose "
                "another folder, or forget these rows with --overwrite, for all of these data sets"
            )
        return known

    def _write(self) -> None:
        if self.table.empty:
            remove(self.path)
            return
        with atomic_path(self.path) as temporary:
            self.table.to_csv(temporary, index=False)


def _read(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype={"dataset": str, "run": str, "method": str})
        table = table[list(COLUMNS)].astype({"seed": int, "value": float})
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise ScDMCError(
            f"{path} holds no rows of this benchmark ({str(error).splitlines()[0]}); pass --overwrite"
        ) from error
    return table
