"""Scores of labels by text: right, how far off, how sure, and whether strangers are noticed.

Source: docs/text.md, "Evaluation".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from scdmc.annotation.calibration import expected_calibration_error, reliability_table
from scdmc.cells.scores import classification_scores, per_class_scores
from scdmc.text.evaluation.rows import Score
from scdmc.text.ontology import CellOntology

# Metrics of single types that per_type.csv holds.
OF_TYPES = ("precision", "recall", "f1", "cells", "none_auroc")


# Rows of single types that only the figures read: cells of a type that got another, and bins of confidence.
TAKEN_FOR, BIN = "taken for ", "bin "


@dataclass(frozen=True)
class Prediction:
    """What a method says of cells.

    Attributes
    ----------
    scores
        Of each candidate, the higher the likelier, shape (n_cells, n_candidates).
    probabilities
        The same shape; None for a method that gives none.
    none_of_these
        Shape (n_cells,), higher for cells of other types; None for a method that does not look for them.
    is_none
        Whether a cell is called Unknown by default, shape (n_cells,); None likewise.
    """

    scores: np.ndarray
    probabilities: np.ndarray | None = None
    none_of_these: np.ndarray | None = None
    is_none: np.ndarray | None = None


def label_scores(
    prediction: Prediction, truth: np.ndarray, candidates: Sequence[str], ontology: CellOntology
) -> list[Score]:
    """Scores of the candidate with the highest score, whether or not the method would call the cell Unknown.

    Parameters
    ----------
    prediction
        Of cells whose types are candidates.
    truth
        Ids of their terms, shape (n_cells,).
    candidates
        Ids of the terms that a cell may get.
    ontology
        How far terms lie apart.

    Returns
    -------
    accuracy, balanced_accuracy and macro_f1; recall_at_3 with more than three candidates; ontology_distance, the mean
    steps from the type of a cell to its label; equal_or_ancestor, the share of cells whose label is their type or an
    ancestor of it; ece, the expected calibration error, and share_unknown, where the method gives them.
    """
    names = np.array(candidates, dtype=object)
    predicted = names[prediction.scores.argmax(axis=1)]
    found = classification_scores(truth, predicted)
    scores = [Score(name, found[name]) for name in ("accuracy", "balanced_accuracy", "macro_f1")]
    if len(candidates) > 3:
        scores.append(Score("recall_at_3", recall_at(prediction.scores, truth, candidates, 3).mean()))
    pairs = pd.Series(list(zip(truth, predicted, strict=True)))
    steps = {pair: ontology.distance(*pair) for pair in set(pairs)}
    above = {pair: pair[1] in ontology.ancestors(pair[0]) for pair in set(pairs)}
    scores.append(Score("ontology_distance", pairs.map(steps).mean()))
    scores.append(Score("equal_or_ancestor", pairs.map(above).mean()))
    if prediction.probabilities is not None:
        confidence = prediction.probabilities[np.arange(len(truth)), prediction.scores.argmax(axis=1)]
        scores.append(Score("ece", expected_calibration_error(confidence, predicted == truth)))
    if prediction.is_none is not None:
        scores.append(Score("share_unknown", prediction.is_none.mean()))
    return scores


def recall_at(scores: np.ndarray, truth: np.ndarray, candidates: Sequence[str], k: int) -> np.ndarray:
    """Whether the type of a cell is among the k candidates with the highest scores, shape (n_cells,)."""
    place = {name: column for column, name in enumerate(candidates)}
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return (order == np.array([place[name] for name in truth])[:, None]).any(axis=1)


def type_scores(prediction: Prediction, truth: np.ndarray, candidates: Sequence[str]) -> list[Score]:
    """Precision, recall, F1 and cells of each type."""
    predicted = np.array(candidates, dtype=object)[prediction.scores.argmax(axis=1)]
    table = per_class_scores(truth, predicted).set_index("class")
    return [Score(metric, value, name) for name, row in table.iterrows() for metric, value in row.items()]


def none_scores(none_of_these: dict[str, np.ndarray], truth: np.ndarray, fewest: int) -> list[Score]:
    """How well cells of a type are told from the rest where that type is no candidate: area under the ROC curve.

    Parameters
    ----------
    none_of_these
        Type that was left out -> what the method says of all cells, shape (n_cells,).
    truth
        Types of the cells.
    fewest
        Types of fewer cells are not asked about.

    Returns
    -------
    none_auroc of each type, and none_auroc, the mean of these; nothing if no type has enough cells.
    """
    of_types = [
        Score("none_auroc", roc_auc_score(truth == name, values), name)
        for name, values in none_of_these.items()
        if fewest <= (truth == name).sum() < len(truth)
    ]
    return [*of_types, Score("none_auroc", np.mean([score.value for score in of_types]))] if of_types else []


def held_out_scores(
    prediction: Prediction, truth: np.ndarray, candidates: Sequence[str], held_out: Sequence[str]
) -> list[Score]:
    """Scores of types that no training saw, among all types of a data set.

    Returns
    -------
    unseen_recall_at_1 and unseen_recall_at_3, the mean recall of the types held out; seen_recall, that of the others.
    """
    unseen = np.isin(truth.astype(str), list(held_out))
    scores = []
    for metric, k, cells in (("unseen_recall_at_1", 1, unseen), ("unseen_recall_at_3", 3, unseen),
                             ("seen_recall", 1, ~unseen)):  # fmt: skip
        if cells.any() and len(candidates) > k:
            hits = pd.Series(recall_at(prediction.scores[cells], truth[cells], candidates, k))
            scores.append(Score(metric, hits.groupby(truth[cells]).mean().mean()))
    return scores


def figure_scores(prediction: Prediction, truth: np.ndarray, candidates: Sequence[str]) -> list[Score]:
    """What the confusion matrix and the curve of reliability are drawn from, as rows of types and of bins."""
    predicted = np.array(candidates, dtype=object)[prediction.scores.argmax(axis=1)]
    counts = pd.DataFrame({"true": truth, "predicted": predicted}).value_counts()
    scores = [Score(f"{TAKEN_FOR}{predicted}", cells, true) for (true, predicted), cells in counts.items()]
    if prediction.probabilities is not None:
        confidence = prediction.probabilities[np.arange(len(truth)), prediction.scores.argmax(axis=1)]
        for number, row in reliability_table(confidence, predicted == truth).iterrows():
            scores += [Score(f"{BIN}{name}", value, str(number)) for name, value in row.items()]
    return scores
