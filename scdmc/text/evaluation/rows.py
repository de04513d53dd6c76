"""Rows of scores as they grow: what is there is not computed again."""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

import pandas as pd

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, read_json_object, remove, write_json

ROWS_FILE, RUN_FILE = "rows.csv", "run.json"


# Name in ``run.json`` of the tasks all of whose rows were there at the end of a run.
FINISHED = "finished"


# What only one task depends on, so that rows of others may say nothing of it.
OF_ONE_TASK = ("captions", "generator")


KEY = ("task", "mode", "data_set", "fold", "method", "seed")


# `type` names a type of cells where a score is of one; it is empty where the score is of all.
COLUMNS = (*KEY, "type", "metric", "value")


@dataclass(frozen=True)
class Unit:
    """What is computed at once, and is either whole among the rows or not there.

    Attributes
    ----------
    task, mode, data_set, method
        What was asked of which cells, and who answered.
    fold
        Number of the pair of types that is held out; 0 in other modes.
    seed
        Of the training; 0 where nothing is drawn.
    """

    task: str
    mode: str
    data_set: str
    fold: int
    method: str
    seed: int


@dataclass(frozen=True)
class Score:
    """A number.

    Attributes
    ----------
    metric, value
        Its name, and the number.
    type
        The type of cells that it is of; "" for all.
    """

    metric: str
    value: float
    type: str = ""


class KeptRows:
    """The rows of a folder, which are written as a whole after every unit.

    Attributes
    ----------
    table
        All rows so far, with :data:`COLUMNS`.
    """

    def __init__(self, folder: Path, facts: Mapping[str, object], is_forgotten: bool = False) -> None:
        """Read the rows that are there.

        Parameters
        ----------
        folder
            Where ``rows.csv`` and ``run.json`` lie, and what else a run keeps for the next one: that goes with them.
        facts
            What must be the same for all rows, as JSON has it.
        is_forgotten
            Whether all that is there goes.

        Raises
        ------
        ScDMCError
            If they are of other data, of another model or of other settings, or damaged.
        """
        self._path, run = Path(folder) / ROWS_FILE, Path(folder) / RUN_FILE
        self.table, known = pd.DataFrame(columns=list(COLUMNS)), {}
        if not is_forgotten and self._path.is_file():
            known = self._known_facts(run, facts)
            self.table = _read(self._path)
        elif is_forgotten or not run.is_file() or _differing_facts(run, facts):
            remove(Path(folder))  # a run that was stopped before its first row left states of its own cells and model
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._run, self._facts = run, {**known, **facts}
        write_json(run, self._facts)
        self._done = {Unit(*key) for key in self.table[list(KEY)].itertuples(index=False, name=None)}

    def _known_facts(self, path: Path, facts: Mapping[str, object]) -> dict[str, object]:
        """What is known of the rows: another task may have left more than this one says."""
        differing = _differing_facts(path, facts)
        if differing:
            raise ScDMCError(
                f"{path.parent} holds rows with another {', '.join(differing)}; choose another --output_dir, or pass "
                "--overwrite, which forgets them"
            )
        return read_json_object(path, "what the rows were computed with")

    def is_done(self, unit: Unit) -> bool:
        """True where a unit is among the rows."""
        return unit in self._done

    @property
    def whole(self) -> pd.DataFrame:
        """The rows of tasks that a run has finished: of others there may be too few to say anything."""
        return self.table[self.table["task"].isin(self._facts.get(FINISHED, []))]

    def finish(self, task: str) -> None:
        """Write down that all rows of a task are there."""
        self._facts[FINISHED] = sorted({task, *self._facts.get(FINISHED, [])})
        write_json(self._run, self._facts)

    def add(self, unit: Unit, scores: Iterable[Score]) -> None:
        """Append the scores of a unit, and write the file."""
        rows = [(*astuple(unit), score.type, score.metric, float(score.value)) for score in scores]
        more = pd.DataFrame(rows, columns=list(COLUMNS))
        self.table = pd.concat([self.table, more], ignore_index=True) if len(self.table) else more
        self._done.add(unit)
        with atomic_path(self._path) as temporary:
            self.table.to_csv(temporary, index=False)


def _differing_facts(path: Path, facts: Mapping[str, object]) -> list[str]:
    """Names of the facts that ``run.json`` has not, or has otherwise."""
    before = read_json_object(path, "what the rows were computed with")
    unsaid = set(OF_ONE_TASK) - set(before)
    return [name for name, value in facts.items() if name not in unsaid and before.get(name) != value]


def _read(path: Path) -> pd.DataFrame:
    texts = dict.fromkeys(("task", "mode", "data_set", "method", "type", "metric"), str)
    try:
        table = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values={"value": ["", "nan"]})
        return table[list(COLUMNS)].astype({"fold": int, "seed": int, "value": float})
    except (ValueError, KeyError) as error:
        raise ScDMCError(
            f"{path} holds no rows of text_eval.py ({str(error).splitlines()[0]}); pass --overwrite"
        ) from error


def metric_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds, or over pairs that were held out.

    Parameters
    ----------
    rows
        With :data:`COLUMNS`; rows of single types are left out.

    Returns
    -------
    Columns task, mode, data_set, method, metric, mean, sd (NaN for one value), n; in the order of the rows.
    """
    whole = rows[(rows["type"] == "") & rows["value"].notna()]
    grouped = whole.groupby(["task", "mode", "data_set", "method", "metric"], sort=False)["value"]
    return grouped.agg(mean="mean", sd="std", n="size").reset_index()


def type_table(rows: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """Scores of single types, as :func:`metric_table`, with the column ``type``."""
    of_types = rows[(rows["type"] != "") & rows["metric"].isin(tuple(metrics)) & rows["value"].notna()]
    keys = ["task", "mode", "data_set", "method", "type", "metric"]
    return of_types.groupby(keys, sort=False)["value"].agg(mean="mean", sd="std", n="size").reset_index()
