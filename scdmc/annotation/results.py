"""What fine-tuning leaves beside the model: scores of one run or of several, figures, and one page that shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scdmc.annotation.baselines import Predicted
from scdmc.annotation.calibration import expected_calibration_error, reliability_table
from scdmc.annotation.figures import confusion_matrix_figure, per_class_figure, reliability_figure
from scdmc.annotation.options import ON_COMPONENTS
from scdmc.annotation.runs import FineTunedRun, best_run, ensemble_of
from scdmc.cells.clustering import neighbour_graph, umap_coordinates
from scdmc.cells.scores import (
    classification_scores,
    mean_metrics,
    metric_rows,
    open_set_auroc,
    per_class_scores,
    wide_metrics,
    write_metrics,
)
from scdmc.cells.splits import PARTS, write_split
from scdmc.reports.cell_map import MappedCells, interactive_map
from scdmc.reports.figures import save_figure, shortened, umap_figure
from scdmc.reports.page import InteractiveMap, KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance
from scdmc.reports.tables import write_csv
from scdmc.training.figures import loss_curve_figure

TASK = "annotation"


MOST_CELLS_OF_FIGURE = 20_000


FEWEST_CELLS_OF_MAP = 5  # the layout of fewer cannot be computed


LEAST_GAIN = 0.01  # of macro-F1; what is nearer is level


def method_scores(true: np.ndarray, predicted: Predicted, held_out_type: str | None) -> dict[str, float]:
    """Scores of a method on the test cells of trained types; with a type held out, how well confidence tells it apart.

    Parameters
    ----------
    true
        Types of all test cells, shape (n_test,).
    predicted
        What the method says of them.
    held_out_type
        The type that training had not, if one was held out on purpose.

    Returns
    -------
    The scores of :func:`scdmc.cells.scores.classification_scores`, ``expected_calibration_error`` and, with a type held
    out, ``open_set_auroc``.
    """
    is_seen = np.ones(len(true), dtype=bool) if held_out_type is None else np.asarray(true) != held_out_type
    labels, confidence = predicted.labels[is_seen], predicted.confidence[is_seen]
    scores = classification_scores(true[is_seen], labels)
    scores["expected_calibration_error"] = expected_calibration_error(confidence, labels == true[is_seen])
    if held_out_type is not None:
        scores["open_set_auroc"] = open_set_auroc(predicted.confidence, is_seen)
    return scores


@dataclass(frozen=True)
class FineTuningTables:
    """What the tables of one run, or of several together, hold; the figures and the page show it.

    Attributes
    ----------
    scores
        Means over the runs, methods x metrics; the first method is ours.
    shown
        Captions and tables, as the page shows them.
    per_class
        Scores of each trained type.
    test
        Predictions for the test cells, of all runs.
    """

    scores: pd.DataFrame
    shown: list[tuple[str, pd.DataFrame]]
    per_class: pd.DataFrame
    test: pd.DataFrame


def write_fine_tuning_tables(
    folder: Path,
    runs: Sequence[FineTunedRun],
    methods: Sequence[Mapping[str, Predicted]],
    held_out_type: str | None,
) -> FineTuningTables:
    """Write the tables of one run, or of several together.

    What cannot be averaged (the split) is that of the best run (:func:`scdmc.annotation.runs.best_run`).

    Parameters
    ----------
    folder
        Where to; other files in it stay.
    runs
        At least one.
    methods
        For each run, name of a method -> what it says of the test cells; the first one is ours.
    held_out_type
        See :func:`method_scores`.
    """
    several, ours = len(runs) > 1, next(iter(methods[0]))
    rows = [_rows_of_run(run, predicted, held_out_type) for run, predicted in zip(runs, methods, strict=True)]
    means = mean_metrics(rows) + _rows_of_ensemble(runs, ours, held_out_type)
    table = write_metrics(folder / "metrics.csv", means)
    tables = [("Test cells, same cells for every method" + (f"; mean of {len(runs)} runs" if several else ""), table)]
    if several:
        sd = wide_metrics(pd.DataFrame(means), "sd")
        tables.append((f"Standard deviation over the {len(runs)} runs", sd))
        by_run = pd.DataFrame(
            [{"run": run.plan.name, **row} for run, of_run in zip(runs, rows, strict=True) for row in of_run]
        )
        write_csv(folder / "metrics_by_run.csv", by_run)
        tables.append(("Macro-F1 of each run", _macro_f1_by_run(by_run)))
    predictions = pd.concat(
        [run.predictions.assign(run=run.plan.name) if several else run.predictions for run in runs], ignore_index=True
    )
    write_csv(folder / "predictions.csv", predictions)
    per_class = _per_class(runs, held_out_type)
    write_csv(folder / "per_class.csv", per_class)
    best = best_run(runs)
    write_split(folder / "split.csv", best.predictions, best.predictions["label"].to_numpy(), best.plan.split)
    write_csv(folder / "history.csv", _history(runs))
    return FineTuningTables(table, tables, per_class, predictions[predictions["split"] == "test"])


def draw_fine_tuning_results(
    folder: Path,
    runs: Sequence[FineTunedRun],
    tables: FineTuningTables,
    held_out_type: str | None,
    facts: Mapping[str, object],
    made: Provenance,
) -> None:
    """Write the figures and the page of one run, or of several together; loss curves and map are those of the best.

    Parameters
    ----------
    folder
        Where to; other files in it stay.
    runs, held_out_type
        As for :func:`write_fine_tuning_tables`.
    tables
        What that gave.
    facts
        Name -> value, for the page.
    made
        From what.
    """
    best, ours = best_run(runs), tables.scores.iloc[0]
    placed = _placed_cells(best)
    figures = _write_figures(folder, tables, best, held_out_type, placed)
    maps = [] if placed is None else [_moving_map(*placed, figures["umap"][1])]
    sections = _sections(best, tables, figures, held_out_type, maps)
    made = replace(made, settings=facts)
    title = f"Cell types annotated by {ours.name}"
    write_report(folder / "report.html", title, sections, _verdict(tables.scores), made)


def _verdict(scores: pd.DataFrame) -> Verdict:
    """Our scores beside those of the best other method."""
    ours, others = scores.iloc[0], scores.iloc[1:]
    others = others[~others.index.str.startswith(ours.name)]
    best = None if others.empty else others["macro_f1"].idxmax()

    def number(metric: str, name: str) -> KeyNumber:
        beside = "nothing else was measured" if best is None else f"{others.loc[best, metric]:.3f} for {best}"
        return KeyNumber(name, f"{ours[metric]:.3f}", beside)

    names = {"macro_f1": "Macro-F1", "accuracy": "Accuracy", "expected_calibration_error": "Calibration error"}
    numbers = tuple(number(metric, name) for metric, name in names.items())
    headline = f"{ours['accuracy']:.1%} of the test cells got the right type"
    if best is None:
        return Verdict("caution", headline, ("No other method was trained, so nothing says whether that is good.",),
                       numbers)  # fmt: skip
    gain = ours["macro_f1"] - others.loc[best, "macro_f1"]
    if abs(gain) < LEAST_GAIN:
        return Verdict("good", headline, (f"{ours.name} and {best} are level (macro-F1).",), numbers)
    place = "above" if gain > 0 else "below"
    reason = f"The macro-F1 of {ours.name} is {abs(gain):.3f} {place} that of {best}."
    return Verdict("good" if gain > 0 else "caution", headline, (reason,), numbers)


def _rows_of_run(
    run: FineTunedRun, methods: Mapping[str, Predicted], held_out_type: str | None
) -> list[dict[str, object]]:
    true = run.test_predictions["label"].to_numpy(dtype=object)
    return [
        row
        for method, predicted in methods.items()
        for row in metric_rows(TASK, method, method_scores(true, predicted, held_out_type))
    ]


def _rows_of_ensemble(runs: Sequence[FineTunedRun], ours: str, held_out_type: str | None) -> list[dict[str, object]]:
    """Scores of the runs' mean probabilities, if they have one split: a single number each, so without deviation."""
    predicted = ensemble_of(runs)
    if predicted is None:
        return []
    true = runs[0].test_predictions["label"].to_numpy(dtype=object)
    rows = metric_rows(TASK, f"{ours}, {len(runs)} together", method_scores(true, predicted, held_out_type))
    return [{**row, "sd": np.nan, "runs": 1} for row in rows]


def _macro_f1_by_run(by_run: pd.DataFrame) -> pd.DataFrame:
    wide = by_run[by_run["metric"] == "macro_f1"].pivot(index="run", columns="method", values="value")
    wide = wide.loc[by_run["run"].unique(), by_run["method"].unique()]
    wide.columns.name = None
    return wide


def _per_class(runs: Sequence[FineTunedRun], held_out_type: str | None) -> pd.DataFrame:
    """Scores of each trained type: those of one run, or means over the runs with ``f1_sd`` and ``runs``."""
    parts = []
    for run in runs:
        test = run.test_predictions
        test = test[test["label"] != held_out_type]
        parts.append(per_class_scores(test["label"].to_numpy(), test["predicted"].to_numpy()))
    if len(parts) == 1:
        return parts[0]
    grouped = pd.concat(parts).groupby("class")
    means = grouped[["precision", "recall", "f1", "cells"]].mean()
    return means.assign(f1_sd=grouped["f1"].std(), runs=grouped.size()).reset_index()


def _history(runs: Sequence[FineTunedRun]) -> pd.DataFrame:
    """Losses and validation scores by epoch."""
    if len(runs) == 1:
        return pd.DataFrame(runs[0].history)
    return pd.concat([pd.DataFrame(run.history).assign(run=run.plan.name) for run in runs])


def _write_figures(
    folder: Path,
    tables: FineTuningTables,
    best: FineTunedRun,
    held_out_type: str | None,
    placed: tuple[pd.DataFrame, np.ndarray] | None,
) -> dict[str, tuple[str, Path]]:
    """Name -> caption and PNG of each figure."""
    test, per_class = tables.test, tables.per_class
    seen = test[test["label"] != held_out_type]
    is_right = (seen["label"] == seen["predicted"]).to_numpy()
    confidence = seen["probability"].to_numpy()
    gap = expected_calibration_error(confidence, is_right)
    drawn = {
        "confusion_matrix": confusion_matrix_figure(
            test["label"].to_numpy(),
            test["predicted"].to_numpy(),
            f"{is_right.mean():.1%} of {len(seen):,} predictions for test cells are right",
        ),
        "reliability": reliability_figure(
            reliability_table(confidence, is_right), f"Confidence is {gap:.1%} away from accuracy, on average"
        ),
        "per_class": per_class_figure(per_class, worst_type_text(per_class)),
        "loss_curves": loss_curve_figure(pd.DataFrame(best.history), f"The best epoch is {best.best_epoch_text}"),
    }
    if placed is not None:
        drawn["umap"] = _map_of_cells(*placed)
    captions = {
        "confusion_matrix": "Confusion matrix of the test cells",
        "reliability": "Confidence and accuracy of the test cells",
        "per_class": "Precision, recall and F1 of each type",
        "loss_curves": "Loss of the training and validation cells by step; a start from a probe is step 0",
        "umap": "Test cells as the classifier sees them (UMAP), by true and by predicted type",
    }
    return {name: (captions[name], save_figure(figure, folder / name)) for name, figure in drawn.items()}


def worst_type_text(per_class: pd.DataFrame) -> str:
    """The finding of the scores of each type."""
    worst = per_class.loc[per_class["f1"].fillna(0).idxmin()]
    return f"The lowest F1 of a type is {worst['f1']:.2f}, that of {shortened(worst['class'])}"


def _placed_cells(run: FineTunedRun) -> tuple[pd.DataFrame, np.ndarray] | None:
    """Predictions for the test cells, and their UMAP, shape (n_cells, 2); None for too few cells."""
    if len(run.test_embeddings) < FEWEST_CELLS_OF_MAP:
        return None
    test, embeddings = run.test_predictions, run.test_embeddings
    if len(test) > MOST_CELLS_OF_FIGURE:
        chosen = np.sort(np.random.default_rng(run.plan.seed).permutation(len(test))[:MOST_CELLS_OF_FIGURE])
        test, embeddings = test.iloc[chosen], embeddings[chosen]
    graph = neighbour_graph(embeddings, min(15, len(embeddings) - 1), run.plan.seed)
    return test, umap_coordinates(embeddings, graph, run.plan.seed)


def _map_of_cells(test: pd.DataFrame, coordinates: np.ndarray) -> Figure:
    """The test cells by true and by predicted type."""
    colourings = {"true type": test["label"].to_numpy(), "predicted type": test["predicted"].to_numpy()}
    wrong = (test["label"] != test["predicted"]).to_numpy()
    return umap_figure(coordinates, colourings, wrong_cells_text(test), same_colours=True, wrong=wrong)


def wrong_cells_text(test: pd.DataFrame) -> str:
    """The finding of the map of test cells."""
    n_wrong = (test["label"] != test["predicted"]).sum()
    return f"{n_wrong:,} of {len(test):,} test cells have a wrong label (rings)"


def _moving_map(test: pd.DataFrame, coordinates: np.ndarray, figure: Path) -> InteractiveMap:
    """The test cells by predicted type, true type and probability, wrong ones in rings."""
    mapped = MappedCells(
        coordinates,
        test["predicted"].to_numpy(dtype=object),
        values={"probability": test["probability"].to_numpy(dtype=float)},
        label_name="predicted type",
        columns={"true type": test["label"].to_numpy(dtype=object)},
        wrong=(test["label"] != test["predicted"]).to_numpy(),
        ids=test["cell_id"].to_numpy() if "cell_id" in test else None,
    )
    return interactive_map(mapped, wrong_cells_text(test), figure)


def _sections(
    best: FineTunedRun,
    tables: FineTuningTables,
    figures: Mapping[str, tuple[str, Path]],
    held_out_type: str | None,
    maps: list[InteractiveMap],
) -> list[Section]:
    """The parts of the page."""
    ours = tables.scores.iloc[0]
    cells = pd.crosstab(best.predictions["label"], best.predictions["split"]).reindex(columns=PARTS, fill_value=0)
    cells = cells.rename_axis("type").rename_axis(None, axis=1)
    text = (
        "The best epoch was chosen on validation cells, and test cells were scored once. "
        f"{ours.name}: accuracy {ours['accuracy']:.3f}, macro-F1 {ours['macro_f1']:.3f}."
    )
    if ON_COMPONENTS in tables.scores.index:
        text += (
            f" The row “{ON_COMPONENTS}” is transductive: the components are those of all cells of the file, test "
            "cells included, without their labels."
        )
    calibration = (
        f"Probabilities were calibrated on {best.calibration.cells:,} validation cells: the logits are divided by a "
        f"temperature of {best.calibration.temperature:.2f}. A method whose confidence is right has a calibration "
        f"error of 0; on the test cells ours has {ours['expected_calibration_error']:.3f}."
    )
    sections = [
        Section("Scores", text, tables.shown),
        Section(
            "Type by type",
            "",
            [("Scores of each type", tables.per_class)],
            [figures["per_class"], figures["confusion_matrix"]],
        ),
        Section("Confidence", calibration, figures=[figures["reliability"]]),
    ]
    if held_out_type is not None:
        sections.append(_section_of_unseen(held_out_type, ours["open_set_auroc"]))
    split = [("Cells by type and part of the split", cells)]
    too_few = "" if maps else "The test cells could not be laid out: they are too few."
    return [*sections, Section("Map of the test cells", too_few, maps=maps),
            Section("Training", "", split, [figures["loss_curves"]])]  # fmt: skip


def _section_of_unseen(held_out_type: str, auroc: float) -> Section:
    text = (
        f"No cell of type {held_out_type} was trained on. Its test cells are not scored above; they show how well "
        f"confidence tells unseen types from seen ones: the area under the ROC curve is {auroc:.3f} (0.5 by chance)."
    )
    return Section("A type that was never seen", text)
