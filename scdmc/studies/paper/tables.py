"""The tables of the paper's tasks: every method of ours and others, and what others have published on the same sets."""

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.files import atomic_path
from scdmc.reports.page import Bold, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance
from scdmc.reports.tables import ScoreTable, markdown, score_texts, write_csv
from scdmc.studies.paper.data import PaperFile
from scdmc.studies.paper.options import ANNOTATION, DEFAULT, METRICS, PUBLISHED_SETTING
from scdmc.studies.paper.rows import PaperRows

THE_PAPER = "the paper"  # its numbers are not filled in until somebody reads them off


BEST_BASELINE = "best baseline"


READS_OURS = "the pre-trained encoder"  # no baseline, though it is not fine-tuned


OURS = (PUBLISHED_SETTING, DEFAULT)


def published_figures() -> pd.DataFrame:
    """What others have published: task, dataset, method, cited, metric, value, note, source."""
    file = importlib.resources.files("scdmc.studies.paper").joinpath("published_figures.csv")
    with importlib.resources.as_file(file) as path:
        return pd.read_csv(path, dtype=str).astype({"value": float})


@dataclass(frozen=True)
class PaperTable(ScoreTable):
    """Scores of a task on a data set.

    Attributes
    ----------
    fewer_seeds
        Method -> a note on its seeds, where these are fewer than those of the table.
    """

    fewer_seeds: Mapping[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """Which methods failed, and which are means of fewer seeds than the title says: a line each."""
        return [*super().notes, *(f"{name}: {note}" for name, note in self.fewer_seeds.items())]


def score_table(rows: PaperRows, task: str, dataset: str) -> PaperTable | None:
    """Methods x scores of a task on a data set, means over seeds; None where there is no row."""
    table = rows.table[(rows.table["dataset"] == dataset) & (rows.table["metric"].isin(METRICS[task]))]
    is_annotation = table["task"] == ANNOTATION
    table = table[is_annotation if task == ANNOTATION else ~is_annotation]
    failures = {method: why for (of, method), why in rows.failures.items() if of == dataset}
    if table.empty:
        return None
    methods = list(dict.fromkeys([*table["method"], *failures]))
    groups = table.groupby(["method", "metric"], sort=False)["value"]
    means, deviations = (of.unstack().reindex(methods)[list(METRICS[task])] for of in (groups.mean(), groups.std()))
    n_seeds = table["seed"].nunique()
    title = f"{dataset}, {task}" + (f": mean ± sd of {n_seeds} seeds" if n_seeds > 1 else ": one seed")
    fair = np.ones(len(methods), dtype=bool)
    of_methods = table.groupby("method", sort=False)["seed"].unique()
    fewer = {
        method: f"only {len(seeds)} of {n_seeds} seeds ({', '.join(map(str, sorted(seeds)))})"
        for method, seeds in of_methods.items()
        if len(seeds) < n_seeds
    }
    return PaperTable(title, means, deviations if n_seeds > 1 else None, fair, failures, fewer)


def beside_others(table: ScoreTable, task: str, dataset: str) -> pd.DataFrame:
    """Scores x (our two rows, the best baseline, published methods, the paper), as text; the paper's column is empty.

    The best baseline of each score is the highest of the rows that are not ours.
    """
    texts = score_texts(table.means, table.deviations)
    dash = pd.Series("–", index=table.means.columns)
    columns = {name: texts.loc[name] if name in texts.index else dash for name in OURS}
    others = table.means[[not (name.startswith("scDMC") or READS_OURS in name) for name in table.means.index]]
    best = {
        metric: f"{texts.loc[of.idxmax(), metric]} ({of.idxmax()})" if of.notna().any() else "–"
        for metric, of in others.items()
    }
    columns[BEST_BASELINE] = pd.Series(best)
    figures = published_figures()
    figures = figures[(figures["task"] == task) & (figures["dataset"] == dataset)]
    for (method, cited), of in figures.groupby(["method", "cited"], sort=False):
        values = of.set_index("metric")["value"].map("{:.3f}".format)
        columns[f"{method} ({cited})"] = values.reindex(table.means.columns).fillna("–")
    columns[THE_PAPER] = dash
    found = pd.DataFrame(columns)
    found.index.name = "score"
    return found


def write_paper_tables(
    folder: Path,
    rows: PaperRows,
    tasks: Mapping[str, Sequence[str]],
    files: Mapping[str, PaperFile],
    is_tiny: bool,
    made: Provenance,
) -> dict[str, list[ScoreTable]]:
    """Write ``TASK.csv``, ``TASK.md`` and ``TASK.report.html`` of each task that has rows.

    Parameters
    ----------
    folder
        Where to.
    rows
        All scores.
    tasks
        Task -> its data sets.
    files
        The data sets that were opened, for the pages.
    is_tiny
        True if the rows measure nothing; the pages say so.
    made
        From what.

    Returns
    -------
    Task -> its tables.
    """
    written = {}
    warning = "A tiny run: it shows that everything runs; its numbers mean nothing. " if is_tiny else ""
    for task, datasets in tasks.items():
        tables = {name: table for name in datasets if (table := score_table(rows, task, name)) is not None}
        if not tables:
            continue
        written[task] = list(tables.values())
        write_csv(folder / f"{task}.csv", _long(tables))
        parts, sections = [f"{warning}Bold: the best of a column, and all within one sd of it.\n"], []
        for name, table in tables.items():
            others = beside_others(table, task, name)
            parts += [f"## {table.title}\n", markdown(table.texts, table.is_best), *(f"- {n}\n" for n in table.notes)]
            parts += ["Beside what others have published:\n", markdown(others, np.zeros(others.shape, bool), "score")]
            sections.append(_section(table, others, files.get(name), warning))
        parts += ["Sources of published figures:\n", *(f"- {line}" for line in _sources(task))]
        with atomic_path(folder / f"{task}.md") as temporary:
            temporary.write_text("\n".join(parts) + "\n", encoding="utf8")
        sections.append(Section("Sources of published figures", points=_sources(task)))
        write_report(
            folder / f"{task}.report.html", f"The paper's data: {task}", sections, _verdict(tables, is_tiny), made
        )
    return written


def _verdict(tables: Mapping[str, ScoreTable], is_tiny: bool) -> Verdict:
    """How many data sets have scores, and what may be read from them."""
    failures = [note for table in tables.values() for note in table.notes]
    headline = f"Scores of {len(tables)} of the paper's data sets" if len(tables) > 1 else (
        f"Scores of one of the paper's data sets: {next(iter(tables))}"
    )  # fmt: skip
    if is_tiny:
        return Verdict("bad", f"{headline}, which mean nothing", ("A tiny run shows only that everything runs.",))
    means = "Methods within one standard deviation of the best are bold: they are level."
    return Verdict("caution" if failures else "good", headline, (means, *failures))


def _long(tables: Mapping[str, ScoreTable]) -> pd.DataFrame:
    rows = []
    for name, table in tables.items():
        for method, of in table.means.iterrows():
            for metric, mean in of.items():
                sd = np.nan if table.deviations is None else table.deviations.loc[method, metric]
                rows.append({"dataset": name, "method": method, "metric": metric, "mean": mean, "sd": sd})
    return pd.DataFrame(rows)


def _section(table: ScoreTable, others: pd.DataFrame, file: PaperFile | None, warning: str) -> Section:
    texts = table.texts.astype(object)
    for row, column in np.argwhere(table.is_best):
        texts.iat[row, column] = Bold(texts.iat[row, column])
    texts.index.name = "method"
    about = "" if file is None else "\n\n".join(file.about)
    shown = [("Mean and standard deviation; bold: the best, and all within one sd of it.", texts)]
    shown.append(("Beside what others have published; the column of the paper is empty.", others))
    return Section(table.title, warning + about, shown, points=table.notes)


def _sources(task: str) -> list[str]:
    figures = published_figures()
    of_task = figures[figures["task"] == task]
    groups = of_task.groupby(["source", "note"], sort=False)
    return [
        f"{source} ({note}): {', '.join(dict.fromkeys(of['method'] + ' on ' + of['dataset']))}"
        for (source, note), of in groups
    ]
