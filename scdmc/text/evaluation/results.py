"""The results of an evaluation: tables, figures and the page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.files import atomic_path
from scdmc.reports.page import Verdict, write_report
from scdmc.reports.provenance import Provenance
from scdmc.reports.tables import markdown, write_csv
from scdmc.result_folders import keep_results, result_folder
from scdmc.text.evaluation.rows import metric_table, type_table
from scdmc.text.evaluation.scores import OF_TYPES
from scdmc.text.evaluation.tasks import TASKS_BY_NAME

# From bad to good: a page of several tasks has the worst level of them.
LEVELS = ("bad", "caution", "good")


def write_results(folder: Path, rows: pd.DataFrame, made: Provenance) -> str:
    """Write ``metrics.csv``, ``per_type.csv``, ``metrics.md``, figures and ``report.html``, all or nothing.

    Parameters
    ----------
    folder
        Where.
    rows
        With the columns of :data:`scdmc.text.evaluation.rows.COLUMNS`, of one task or several.
    made
        From what.

    Returns
    -------
    The headline scores of each task as a Markdown table, for people.
    """
    metrics = metric_table(rows)
    own = {name: metrics[metrics["task"] == name] for name in TASKS_BY_NAME if (metrics["task"] == name).any()}
    tables = [TASKS_BY_NAME[name].headline(scores) for name, scores in own.items()]
    text = "\n".join(markdown(table, np.zeros(table.shape, dtype=bool)) for table in tables)
    with result_folder(folder) as hidden:
        write_csv(hidden / "metrics.csv", metrics)
        write_csv(hidden / "per_type.csv", type_table(rows, OF_TYPES))
        with atomic_path(hidden / "metrics.md") as temporary:
            temporary.write_text(text, encoding="utf8")
        keep_results(hidden)
        sections = []
        for name in own:
            sections += TASKS_BY_NAME[name].sections(rows[rows["task"] == name], hidden)
        verdicts = [TASKS_BY_NAME[name].verdict(scores) for name, scores in own.items()]
        title = "Cells and texts, evaluated"
        write_report(hidden / "report.html", title, sections, _joined(verdicts), made)
    return text


def _joined(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict for all tasks: the worst level, the headlines, all reasons, the first number of each."""
    if len(verdicts) == 1:
        return verdicts[0]
    return Verdict(
        min((each.level for each in verdicts), key=LEVELS.index),
        "; ".join(each.headline for each in verdicts),
        tuple(reason for each in verdicts for reason in each.reasons),
        tuple(each.numbers[0] for each in verdicts),
    )
