"""What the rows of the task annotation say, in words, tables and figures."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.annotation.figures import confusion_matrix_figure, reliability_figure
from scdmc.file_names import file_name_of
from scdmc.reports.figures import save_figure
from scdmc.reports.page import KeyNumber, Section, Verdict
from scdmc.text.evaluation.methods import COMPONENTS, METHODS, OURS, PERMUTED
from scdmc.text.evaluation.rounds import HELD_OUT_AMONG_ALL, HELD_OUT_PAIR, LEFT_OUT, MODES, NEW_DATA, TEST_CELLS
from scdmc.text.evaluation.rows import metric_table
from scdmc.text.evaluation.scores import BIN, TAKEN_FOR
from scdmc.text.evaluation.tables import score_table, tables_of_types
from scdmc.text.ontology import CellOntology

# Better on each new data set is good; no better than this above permuted texts is bad.
GOOD, NO_BETTER = 0.75, 0.1


# Two scores that lie so near are called the same.
SAME = 0.02


GENES = "genes named in the definition"


MEANING = {
    TEST_CELLS: "Cells of the training data sets that were kept for the test; candidates are the terms of the set.",
    NEW_DATA: "Files that no training saw; candidates are their own types, and no label of theirs was used.",
    LEFT_OUT: "Each data set of the corpus left out of the training in turn; candidates are its own types.",
    HELD_OUT_PAIR: "Two types held out of all data sets with their descendants, cells and texts; candidates are these "
    "two. Mean and deviation are over the pairs.",
    HELD_OUT_AMONG_ALL: "The same trainings; candidates are all types of the data set.",
}


# The page shows these; metrics.csv has all.
NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "ontology_distance": "ontology distance",
    "equal_or_ancestor": "equal or ancestor",
    "ece": "ECE",
    "none_auroc": "none-of-these AUROC",
    "share_without_label": "without a label",
    "pair_accuracy": "pair accuracy",
    "unseen_recall_at_1": "recall of held-out types",
    "unseen_recall_at_3": "in the first 3",
    "seen_recall": "recall of trained types",
}


ORDER = [method.name for method in METHODS]


def headline_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """The one score that stands for each mode and data set: accuracy, or pair accuracy; methods x (mode, data set)."""
    chosen = metrics[metrics["metric"].isin(("accuracy", "pair_accuracy"))]
    order = {mode: place for place, mode in enumerate(MODES)}
    chosen = chosen.sort_values(["mode", "data_set"], key=lambda column: column.map(lambda name: order.get(name, name)),
                                kind="stable")  # fmt: skip
    return score_table(chosen, ("mode", "data_set"), ORDER)


def annotation_sections(rows: pd.DataFrame, folder: Path) -> list[Section]:
    """A section for each mode, after one with the headline scores; figures are written to the folder.

    Parameters
    ----------
    rows
        Of the task, with the columns of :data:`scdmc.text.evaluation.rows.COLUMNS`.
    folder
        Where figures go.
    """
    metrics = metric_table(rows)
    sections = [Section("All methods", "Accuracy, mean ± standard deviation; of a held-out pair the mean recall of "
                        "its two types. A bound or the majority is shown the labels of the set.",
                        [("Accuracy by mode and data set", _flat(headline_table(metrics)))])]  # fmt: skip
    for mode in MODES:
        of_mode = metrics[metrics["mode"] == mode]
        if of_mode.empty:
            continue
        tables = []
        for name, of_set in of_mode.groupby("data_set", sort=False):
            known = of_set[of_set["metric"].isin(NAMES)]
            table = score_table(known, ("metric",), ORDER).rename(columns=NAMES)
            tables.append((f"{name}", table))
        sections.append(Section(mode.capitalize(), MEANING[mode], tables, _figures(rows, mode, folder)))
    return [*sections, *_section_of_types(rows)]


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_axis([": ".join(name) for name in table.columns], axis=1)


def _section_of_types(rows: pd.DataFrame) -> list[Section]:
    """Scores of the types of new data by the default method."""
    tables = [
        (f"Types of {name}, by the default", table.rename(columns={"none_auroc": NAMES["none_auroc"]}))
        for name, table in tables_of_types(rows[(rows["method"] == OURS) & (rows["mode"] == NEW_DATA)])
    ]
    return [Section("Types", "Mean over the seeds.", tables)] if tables else []


def _figures(rows: pd.DataFrame, mode: str, folder: Path) -> list[tuple[str, Path]]:
    """Confusion and reliability of the default method, of each data set that has new cells."""
    chosen = rows[(rows["mode"] == mode) & (rows["method"] == OURS)] if mode == NEW_DATA else rows[:0]
    ontology, figures = CellOntology.load(), []
    for name, of_set in chosen.groupby("data_set", sort=False):
        stem = file_name_of(name)
        first = of_set[of_set["seed"] == of_set["seed"].min()]
        counts = first[first["metric"].str.startswith(TAKEN_FOR)]
        true = [ontology[each].label for each in counts["type"]]
        predicted = [ontology[each.removeprefix(TAKEN_FOR)].label for each in counts["metric"]]
        cells = counts["value"].to_numpy(dtype=int)
        right = int(cells[np.array(true) == np.array(predicted)].sum())
        title = f"{name}: {right:,} of {cells.sum():,} cells get their type by its text"
        figure = confusion_matrix_figure(np.repeat(true, cells), np.repeat(predicted, cells), title)
        figures.append((title, save_figure(figure, folder / f"confusion_{stem}")))
        bins = first[first["metric"].str.startswith(BIN)].pivot(index="type", columns="metric", values="value")
        bins = bins.rename(columns=lambda metric: metric.removeprefix(BIN)).sort_values("confidence")
        gap = first.loc[(first["metric"] == "ece") & (first["type"] == ""), "value"].iloc[0]
        title = f"{name}: confidence is {gap:.2f} from accuracy on average"
        figure = reliability_figure(bins[["confidence", "accuracy", "cells"]].reset_index(drop=True), title)
        figures.append((title, save_figure(figure, folder / f"reliability_{stem}")))
    return figures


def annotation_verdict(metrics: pd.DataFrame) -> Verdict:
    """What the scores say, in words.

    Parameters
    ----------
    metrics
        Of the task, from :func:`scdmc.text.evaluation.rows.metric_table`.
    """
    mode = NEW_DATA if (metrics["mode"] == NEW_DATA).any() else LEFT_OUT
    mode = mode if (metrics["mode"] == mode).any() else TEST_CELLS
    where = {NEW_DATA: "new data", LEFT_OUT: "data sets left out", TEST_CELLS: "test cells"}[mode]
    accuracy = _by_method(metrics, mode, "accuracy")
    if OURS not in accuracy:
        reason = "No data set could be left out, there was no new file, and the corpus keeps no test cells."
        return Verdict("caution", "At most pairs of types that were held out could be annotated", (reason,), ())
    ours, of_components = accuracy[OURS], accuracy.get(COMPONENTS, np.nan)
    lowest = metrics[(metrics["mode"] == mode) & (metrics["metric"] == "accuracy")
                     & (metrics["method"] == OURS)]["mean"].min()  # fmt: skip
    without_meaning = accuracy.get(PERMUTED, accuracy.get("chance", np.nan))
    level = "good" if lowest >= GOOD and ours >= of_components - SAME else "caution"
    headline = f"Cells of {where} get their types by words: accuracy {ours:.2f}"
    if ours < without_meaning + NO_BETTER:
        level, headline = "bad", f"On {where} the words tell hardly more than chance: accuracy {ours:.2f}"
    numbers = [
        KeyNumber(f"Accuracy on {where}", f"{ours:.2f}", f"texts permuted {without_meaning:.2f}"),
        KeyNumber("The same by components alone", f"{of_components:.2f}", f"scDMC with them {ours:.2f}"),
    ]
    pairs = _by_method(metrics, HELD_OUT_PAIR, "pair_accuracy")
    if OURS in pairs:
        beside = f"genes named in the text {pairs[GENES]:.2f}; chance 0.50"
        numbers.append(KeyNumber("Types never trained on, in pairs", f"{pairs[OURS]:.2f}", beside))
    return Verdict(level, headline, tuple(_reasons(metrics, mode, accuracy, pairs)), tuple(numbers))


def _reasons(metrics: pd.DataFrame, mode: str, accuracy: Mapping[str, float], pairs: Mapping[str, float]) -> list[str]:
    gain = accuracy[OURS] - accuracy.get(COMPONENTS, np.nan)
    reasons = []
    if not np.isnan(gain):
        what = "as good as" if abs(gain) <= SAME else f"{abs(gain):.2f} {'better' if gain > 0 else 'worse'} than"
        reasons.append(f"scDMC with components is {what} 50 components alone, with the same texts and losses.")
    if OURS in pairs:
        better = pairs[OURS] - pairs[GENES]
        what = "no better" if better <= SAME else "better"
        reasons.append(f"Types that no training saw are told apart {what} than by the genes that their texts name.")
    left_out = _by_method(metrics, LEFT_OUT, "accuracy")
    if mode != LEFT_OUT and OURS in left_out:
        by_lot = left_out["chance"]
        reasons.append(f"Data sets left out of the training get {left_out[OURS]:.2f}, and {by_lot:.2f} by lot.")
    none = _by_method(metrics, mode, "none_auroc")
    if OURS in none:
        reasons.append(f"Cells of a type that is no candidate are noticed with an AUROC of {none[OURS]:.2f}.")
    gap = _by_method(metrics, mode, "ece")
    if OURS in gap:
        reasons.append(f"Probabilities are {gap[OURS]:.2f} from the share of right labels on average.")
    return reasons


def _by_method(metrics: pd.DataFrame, mode: str, metric: str) -> dict[str, float]:
    """Method -> the mean of a score over the data sets of a mode."""
    chosen = metrics[(metrics["mode"] == mode) & (metrics["metric"] == metric)]
    return chosen.groupby("method")["mean"].mean().to_dict()
