"""Linear probes of frozen embeddings, to judge these and to start classifiers from.

Source: docs/method.md, "Evaluation rules".
"""

import logging
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scdmc.annotation.options import N_NEIGHBORS
from scdmc.errors import ScDMCError
from scdmc.labels import is_missing

logger = logging.getLogger(__name__)


MINIMUM_CELLS = 10


TEST_FRACTION = 0.2


# Weak on standardised embeddings of some hundred dimensions, and the same for every model that is compared.
REGULARISATION = 0.3


PROBE_GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


# Rounding gives a constant dimension a spread, and a probe would give it a huge weight.
SMALLEST_SPREAD = 1e-5  # of the mean's size, or of 1 if that is more


@dataclass(frozen=True)
class LinearProbe:
    """A logistic regression that reads embeddings as they are: its logits are ``embedding @ weight.T + bias``.

    Attributes
    ----------
    names
        Shape (n_classes,), sorted.
    weight, bias
        Shape (n_classes, n_dimensions) and (n_classes,), float32.
    C
        The regularisation that was chosen.
    """

    names: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    C: float


def linear_probe(
    embedding: np.ndarray,
    labels: np.ndarray,
    validation_embedding: np.ndarray,
    validation_labels: np.ndarray,
    is_balanced: bool = False,
) -> LinearProbe:
    """Fit a linear probe on dimensions that are standardised by the training cells, with C chosen on validation cells.

    Parameters
    ----------
    embedding, labels
        Of the training cells, shape (n_cells, n_dimensions) and (n_cells,); at least two types.
    validation_embedding, validation_labels
        Of the cells by whose macro-F1 C is chosen, from ``PROBE_GRID``; of equals the one with the lowest loss, over
        cells of the training cells' types.
    is_balanced
        Whether every type counts as much as every other one, however many cells it has.

    Returns
    -------
    The probe, for embeddings that are not standardised.
    """
    mean, spread = embedding.mean(axis=0, dtype=np.float64), embedding.std(axis=0, dtype=np.float64)
    spread[spread <= SMALLEST_SPREAD * np.maximum(np.abs(mean), 1)] = np.inf  # weight 0
    standardised, validation = (
        ((each - mean) / spread).astype(np.float32) for each in (embedding, validation_embedding)
    )
    fitted = LogisticRegression(max_iter=1000, class_weight="balanced" if is_balanced else None, warm_start=True)
    best, best_goodness = None, (-1.0, 0.0)
    for C in PROBE_GRID:
        fitted.set_params(C=C).fit(standardised, labels)
        probabilities = fitted.predict_proba(validation)
        predicted = fitted.classes_[probabilities.argmax(axis=1)]
        macro_f1 = f1_score(validation_labels, predicted, average="macro", zero_division=0)
        loss = mean_loss(probabilities, fitted.classes_, validation_labels)
        if (macro_f1, -loss) > best_goodness:
            best, best_goodness = (C, fitted.coef_.copy(), fitted.intercept_.copy()), (macro_f1, -loss)
    C, weight, bias = best
    if len(fitted.classes_) == 2:  # scikit-learn gives the logit of the second class only
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / spread
    return LinearProbe(fitted.classes_, weight.astype(np.float32), (bias - weight @ mean).astype(np.float32), C)


def mean_loss(probabilities: np.ndarray, names: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross entropy, in nats, of the cells whose type is a class; NaN if there is none.

    Parameters
    ----------
    probabilities
        Shape (n_cells, n_classes).
    names, labels
        Shape (n_classes,) and (n_cells,).
    """
    given = probabilities[np.asarray(labels)[:, None] == names]  # of its true type, for each cell that has one
    return float(-np.log(given.clip(min=np.finfo(np.float32).tiny)).mean()) if len(given) else np.nan


def probe_scores(embedding: np.ndarray, labels: np.ndarray, n_splits: int = 5, seed: int = 42) -> dict[str, float]:
    """Macro-F1 of a linear probe and of 15 nearest neighbours on an embedding, mean over stratified splits 80 / 20.

    Nothing is tuned: the probe is logistic regression with one C for all, on dimensions that are standardised by the
    training cells; neighbours are those of the embedding as it is (euclidean).

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    labels
        Shape (n_cells,); cells without one, or of types with fewer than 10 cells, count nowhere.
    n_splits
        How many splits.
    seed
        Of the splits.

    Returns
    -------
    ``probe_macro_f1`` and ``neighbours_macro_f1``.

    Raises
    ------
    ScDMCError
        If fewer than two types have 10 cells.
    """
    labels = np.asarray(labels, dtype=object)
    known = np.flatnonzero(~is_missing(labels))
    names, number, sizes = np.unique(labels[known].astype(str), return_inverse=True, return_counts=True)
    kept = sizes[number] >= MINIMUM_CELLS
    if (sizes >= MINIMUM_CELLS).sum() < 2:
        raise ScDMCError(
            f"a probe needs two types with {MINIMUM_CELLS} cells; the largest are "
            f"{', '.join(names[np.argsort(-sizes)][:3]) or 'none'}"
        )
    embedding, types = np.asarray(embedding)[known[kept]], number[kept]
    scores = {"probe_macro_f1": [], "neighbours_macro_f1": []}
    for train, test in StratifiedShuffleSplit(n_splits, test_size=TEST_FRACTION, random_state=seed).split(
        embedding, types
    ):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=1000))
        neighbours = KNeighborsClassifier(min(N_NEIGHBORS, len(train)))
        for name, classifier in zip(scores, (probe, neighbours), strict=True):
            predicted = classifier.fit(embedding[train], types[train]).predict(embedding[test])
            scores[name].append(f1_score(types[test], predicted, average="macro", zero_division=0))
    return {name: float(np.mean(values)) for name, values in scores.items()}
