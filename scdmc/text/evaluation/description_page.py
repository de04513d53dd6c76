"""What the rows of the task description say, in words, tables and figures."""

from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.annotation.figures import confusion_matrix_figure
from scdmc.file_names import file_name_of
from scdmc.reports.figures import save_figure
from scdmc.reports.page import KeyNumber, Section, Verdict
from scdmc.text.evaluation.caption_scores import NO_TERM
from scdmc.text.evaluation.rows import metric_table
from scdmc.text.evaluation.scores import TAKEN_FOR
from scdmc.text.evaluation.speakers import ANOTHER_CELL, METHODS, OURS, REGRESSION
from scdmc.text.evaluation.tables import score_table, tables_of_types
from scdmc.text.ontology import CellOntology

# What captions should reach on each data set: names that are right, and how far below a logistic regression.
LEAST_ACCURACY, FARTHEST = 0.82, 0.05


# No better than this above what is said of another cell is bad.
NO_BETTER = 0.1


HEADLINE = ("name_accuracy", "ontology_distance", "rouge_l")


NAMES = {
    "name_accuracy": "name right",
    "equal_or_ancestor": "equal or ancestor",
    "valid_names": "valid names",
    "ontology_distance": "ontology distance",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "text_mmd": "text MMD",
}


ORDER = [method.name for method in METHODS]


def description_headline(metrics: pd.DataFrame) -> pd.DataFrame:
    """Three of the scores; methods x (data set, score) as text."""
    chosen = metrics[metrics["metric"].isin(HEADLINE)].replace({"metric": NAMES})
    return score_table(chosen, ("data_set", "metric"), ORDER)


def description_verdict(metrics: pd.DataFrame) -> Verdict:
    """What the scores say: names are right, as often as a logistic regression has them, and because of the cell.

    Parameters
    ----------
    metrics
        Of the task, from :func:`scdmc.text.evaluation.rows.metric_table`.
    """
    right = metrics[metrics["metric"] == "name_accuracy"].pivot(index="data_set", columns="method", values="mean")
    right = right.loc[list(dict.fromkeys(metrics["data_set"]))]
    ours, regression, another = (right[name].round(3) for name in (OURS, REGRESSION, ANOTHER_CELL))
    is_reached = (ours >= LEAST_ACCURACY) & (ours >= regression - FARTHEST)
    is_of_the_cell = ours >= another + NO_BETTER
    level = "good" if is_reached.all() else "caution"
    if not is_of_the_cell.all():
        level = "bad"
    reasons = [
        f"{name}: {ours[name]:.3f} of the cells are called what they are, {regression[name]:.3f} by a logistic "
        f"regression of its labels, {another[name]:.3f} with what was found in another cell; "
        f"{'this reaches' if is_reached[name] else 'this misses'} the aim, at least {LEAST_ACCURACY} and at most "
        f"{FARTHEST} below the regression{'' if is_of_the_cell[name] else ', but hardly because of the cell'}."
        for name in right.index
    ]
    worst = ours.idxmin()
    number = KeyNumber(
        "Names that are right, the worst data set", f"{ours[worst]:.3f}", f"logistic regression {regression[worst]:.3f}"
    )
    headline = f"Captions call {ours.mean():.2f} of the test cells what they are"
    if len(ours) > 1:
        headline += ", in the mean of the data sets"
    return Verdict(level, headline, tuple(reasons), (number,))


def description_sections(rows: pd.DataFrame, folder: Path) -> list[Section]:
    """Tables of each data set, figures of what was said of which type, and scores of single types.

    Parameters
    ----------
    rows
        Of the task, with the columns of :data:`scdmc.text.evaluation.rows.COLUMNS`.
    folder
        Where figures go.
    """
    metrics = metric_table(rows)
    tables = [
        (str(name), score_table(of_set, ("metric",), ORDER).rename(columns=NAMES).reset_index())
        for name, of_set in metrics.groupby("data_set", sort=False)
    ]
    text = (
        "Captions of test cells. A name is what stands before the first full stop. Steps of the ontology are counted "
        "for names that are terms. BLEU and ROUGE-L are high already where only the frame of a caption is right. The "
        "text MMD is about 0 where all captions together are like the true ones, whichever cell gets which. So the "
        "name is what counts."
    )
    return [Section("Captions", text, tables, _figures(rows, folder)), _section_of_types(rows)]


def _section_of_types(rows: pd.DataFrame) -> Section:
    own = tables_of_types(rows[rows["method"] == OURS])
    tables = [(f"Names of {name}, by the language model", table) for name, table in own]
    return Section("Types in captions", "Mean over the seeds.", tables)


def _figures(rows: pd.DataFrame, folder: Path) -> list[tuple[str, Path]]:
    """What the language model of the first seed calls the cells of each type."""
    ontology, figures = CellOntology.load(), []
    chosen = rows[(rows["method"] == OURS) & rows["metric"].str.startswith(TAKEN_FOR)]
    for name, of_set in chosen[chosen["seed"] == chosen["seed"].min()].groupby("data_set", sort=False):
        said = of_set["metric"].str.removeprefix(TAKEN_FOR)
        true, called = (
            [each if each == NO_TERM else ontology[each].label for each in ids] for ids in (of_set["type"], said)
        )
        cells = of_set["value"].to_numpy(dtype=int)
        right = int(cells[(of_set["type"] == said).to_numpy()].sum())
        title = f"{name}: {right:,} of {cells.sum():,} cells are called what they are"
        figure = confusion_matrix_figure(np.repeat(true, cells), np.repeat(called, cells), title)
        figures.append((title, save_figure(figure, folder / f"captions_{file_name_of(name)}")))
    return figures
