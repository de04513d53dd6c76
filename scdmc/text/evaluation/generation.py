"""The task generation: cells that a generator makes of texts, beside baselines and controls, row by row."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.errors import ScDMCError
from scdmc.progress import progress_bar
from scdmc.reports.page import KeyNumber, Section, Verdict
from scdmc.text.evaluation.cells import EvaluationInputs
from scdmc.text.evaluation.rows import KeptRows, Score, Unit, metric_table
from scdmc.text.evaluation.tables import score_table
from scdmc.text.pseudo_cells.evaluation import (
    BEST_AUC,
    LEAST_CORRELATION,
    OURS,
    REAL,
    SLOPES,
    TRAINED,
    generation_tasks,
    verdict_in_words,
)

GENERATION = "generation"


# Judges that a constant for each type cannot please; what is printed. The page and metrics.csv have all.
HEADLINE = ("AUC", "gene correlation r", "LFC slope", "kNN 10")


def evaluate_generation(inputs: EvaluationInputs, rows: KeptRows) -> None:
    """Add the rows that are missing.

    Parameters
    ----------
    inputs
        The corpus, the text model with its generator, and the files of counts.
    rows
        What is there, and where rows go.

    Raises
    ------
    ScDMCError
        If no text model is named, or its generator cannot be judged on this corpus.
    """
    given = inputs.generator
    if given is None:
        raise ScDMCError("--tasks generation needs --text_model and --counts_path")
    tasks = generation_tasks(inputs.corpus.corpus, given.model, given.counts_paths, given.counts)
    # Real cells are not drawn, so that one seed tells all.
    runs = [
        (task, Unit(GENERATION, task.mode, task.data_set, 0, task.method, seed))
        for task in tasks
        for seed in (inputs.options.seeds[:1] if task.method == REAL else inputs.options.seeds)
    ]
    runs = [(task, unit) for task, unit in runs if not rows.is_done(unit)]
    for task, unit in progress_bar(runs, unit=" scores", desc=GENERATION):
        rows.add(unit, [Score(metric, value) for metric, value in task.score(unit.seed).items()])


def generation_headline(metrics: pd.DataFrame) -> pd.DataFrame:
    """The scores that count, of the terms that were trained on; methods x (data set, score) as text."""
    chosen = metrics[(metrics["mode"] == TRAINED) & metrics["metric"].isin(HEADLINE)]
    return _table(chosen, ("data_set", "metric"))


def _table(metrics: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Methods in the order of the rows; what the verdict is about comes first."""
    methods = list(dict.fromkeys(metrics["method"]))
    if "data_set" not in columns:
        metrics = metrics.sort_values("metric", key=lambda names: names.map(_place_in_headline), kind="stable")
    return score_table(metrics, columns, methods)


def _place_in_headline(metric: str) -> int:
    return HEADLINE.index(metric) if metric in HEADLINE else len(HEADLINE)


def generation_verdict(metrics: pd.DataFrame) -> Verdict:
    """What the scores say: a forest, genes that vary together, and fold changes; neighbours alone decide nothing.

    Parameters
    ----------
    metrics
        Of the task, from :func:`scdmc.text.evaluation.rows.metric_table`.
    """
    own = metrics[(metrics["mode"] == TRAINED) & (metrics["method"] == OURS)]
    of_set = {name: part.set_index("metric")["mean"] for name, part in own.groupby("data_set", sort=False)}
    auc = {name: scores["AUC"] for name, scores in of_set.items()}
    is_good = [
        scores["AUC"] <= BEST_AUC
        and scores["gene correlation r"] >= LEAST_CORRELATION
        and SLOPES[0] <= scores["LFC slope"] <= SLOPES[1]
        for scores in of_set.values()
    ]
    level = "good" if all(is_good) else "caution"
    worst = max(auc.values())
    return Verdict(
        level,
        f"Cells made of texts are told from real ones with an AUC of {np.mean(list(auc.values())):.2f}",
        tuple(f"{name}: {verdict_in_words(metrics, name)}." for name in of_set),
        (KeyNumber("AUC, the worst data set", f"{worst:.2f}", f"0.5 is real; aim {BEST_AUC}"),),
    )


def generation_sections(rows: pd.DataFrame, folder: Path) -> list[Section]:
    """A section for each kind of text, with a table for each data set; ``folder`` gets no figure."""
    metrics = metric_table(rows)
    sections = []
    for mode, of_mode in metrics.groupby("mode", sort=False):
        tables = [
            (f"{name}, {mode}", _table(of_set, ("metric",)).reset_index())
            for name, of_set in of_mode.groupby("data_set", sort=False)
        ]
        text = (
            "Cells made of texts beside test cells. AUC and the distances are better the lower they are; kNN is better "
            "the closer it is to that of real test cells, and a constant for each type can exceed it."
        )
        sections.append(Section(f"Generated cells: {mode}", text, tables))
    return sections
