"""A classifier of several views of a cell: fitted on labelled cells, weighed by them, kept in a folder.

Source: docs/method.md, "Views of a cell and their weights".
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from tqdm import tqdm

from scdmc.annotation.calibration import calibrate, with_temperature
from scdmc.views.regression import (
    CELLS_OF_FOLDS,
    CompactFeatures,
    Features,
    LinearView,
    Standardisation,
    combined,
    fit_all_cells,
    fit_view,
    fold_of_cells,
    fold_view,
    is_learnable,
    sample_of_cells,
)
from scdmc.views.weights import recommended_threshold, unseen_auroc, view_weights

logger = logging.getLogger(__name__)

# Views whose features have no unit in common: each is divided by its spread over the labelled cells.
STANDARDISED, WITH_ONE_SPREAD = ("components", "scdmc", "vectors"), ("components",)


# Types are left out one after the other to learn what a cell of an unseen type looks like: so many at most.
MOST_TYPES_LEFT_OUT = 15


CELLS_OF_LEAVING_OUT = 1000


# More labelled cells than these change no view.
CELLS_OF_FIT = 10_000


@dataclass(frozen=True)
class Consensus:
    """How some of the views make one answer.

    Attributes
    ----------
    weights
        View -> weight; their sum is 1.
    temperature
        What the logarithms of the combined probabilities are divided by.
    """

    weights: Mapping[str, float]
    temperature: float

    def probabilities(self, of_views: Mapping[str, np.ndarray]) -> np.ndarray:
        """Calibrated, shape (n_cells, n_types): of the views' own, View -> (n_cells, n_types)."""
        return with_temperature(combined(of_views, self.weights), self.temperature)


@dataclass(frozen=True)
class ViewClassifier:
    """What labels cells.

    Attributes
    ----------
    names
        Types, shape (n_types,).
    views
        View -> its logistic regression, on features as they are.
    consensus
        Views that are at hand (sorted, joined by "+") -> how they are combined.
    min_probability
        Threshold that is recommended: less certain cells are Unknown.
    """

    names: np.ndarray
    views: Mapping[str, LinearView]
    consensus: Mapping[str, Consensus]
    min_probability: float

    def of_views(self, features: Mapping[str, Features]) -> dict[str, np.ndarray]:
        """View -> its probabilities, uncalibrated, shape (n_cells, n_types)."""
        return {view: self.views[view].probabilities(features[view]) for view in self.views if view in features}

    def consensus_of(self, views: Sequence[str]) -> Consensus:
        """How these views are combined."""
        return self.consensus[key_of(views)]


@dataclass(frozen=True)
class HeldOutViews:
    """What the labelled cells were called by classifiers that had not seen them.

    Attributes
    ----------
    of_views
        View -> uncalibrated probabilities, shape (n_cells, n_types).
    together
        Calibrated, shape (n_cells, n_types).
    is_learnable
        False for a cell whose type no other cell could teach, shape (n_cells,).
    unseen_auroc
        Type -> how well low probabilities tell its cells when nothing was learned of it.
    """

    of_views: Mapping[str, np.ndarray]
    together: np.ndarray
    is_learnable: np.ndarray
    unseen_auroc: Mapping[str, float]


def key_of(views: Sequence[str]) -> str:
    """Some views as one word."""
    return "+".join(sorted(views))


def fit_view_classifier(
    features: Mapping[str, Features], labels: np.ndarray, batch: np.ndarray | None = None, seed: int = 42
) -> tuple[ViewClassifier, HeldOutViews]:
    """Fit every view on labelled cells, and learn from folds of them how much each counts.

    Parameters
    ----------
    features
        View -> shape (n_cells, n_features).
    labels
        Shape (n_cells,), none missing.
    batch
        Shape (n_cells,): whole batches are folds, so that C and weights are those that carry to another batch.
    seed
        Of the folds.

    Returns
    -------
    The classifier, and what the folds said of the labelled cells.
    """
    names, types = np.unique(labels.astype(str), return_inverse=True)
    chosen = sample_of_cells(types, CELLS_OF_FOLDS, seed)
    folds = fold_of_cells(types[chosen], None if batch is None else batch[chosen], seed)
    many = sample_of_cells(types, CELLS_OF_FIT, seed)
    learnable = np.ones(len(types), dtype=bool)
    learnable[chosen] = is_learnable(types[chosen], folds)
    views, out_of_fold, compact = {}, {}, {}
    for view, of_cells in _shown(features, "views"):
        standard = Standardisation.of(of_cells, view in WITH_ONE_SPREAD) if view in STANDARDISED else None
        scaled = of_cells if standard is None else standard.apply(of_cells)
        axes = compact[view] = CompactFeatures(scaled[chosen])
        folded = fold_view(axes.own, axes.variance, types[chosen], folds)
        fitted = fit_view(axes.own, axes.variance, types[chosen], len(names), folded.C)
        if len(chosen) < len(types):
            # Cells that are in no fold were not seen by the fit of those that are.
            out_of_fold[view] = axes.turned_back(fitted).probabilities(scaled)
            out_of_fold[view][chosen] = folded.probabilities
            if axes.is_whole:
                fitted = fit_view(axes.turned(scaled[many]), axes.variance, types[many], len(names), folded.C, fitted)
                fitted = axes.turned_back(fitted)
            else:
                fitted = axes.turned_back(fitted)
                fitted = fit_all_cells(scaled[many], types[many], len(names), folded.C, fitted)
        else:
            out_of_fold[view] = folded.probabilities
            fitted = axes.turned_back(fitted)
        views[view] = fitted if standard is None else standard.undo(fitted)
        logger.info("view %s: C %g", view, folded.C)
    tested = chosen[learnable[chosen]]
    consensus = {
        key_of(some): _consensus({view: out_of_fold[view][tested] for view in some}, types[tested])
        for size in range(1, len(views) + 1)
        for some in combinations(views, size)
    }
    everything = consensus[key_of(tuple(views))]
    strengths = {view: fitted.C for view, fitted in views.items()}
    unseen = _confidences_without_types(compact, types[chosen], folds, strengths, everything)
    together = everything.probabilities(out_of_fold)
    is_right = together[tested].argmax(axis=1) == types[tested]
    threshold = recommended_threshold(together[tested].max(axis=1), is_right, list(unseen.values()))
    classifier = ViewClassifier(names.astype(object), views, consensus, threshold)
    aurocs = {str(names[number]): unseen_auroc(*confidences) for number, confidences in unseen.items()}
    return classifier, HeldOutViews(out_of_fold, together, learnable, aurocs)


def _shown(features: Mapping[str, Features], what: str) -> Iterator[tuple[str, Features]]:
    with tqdm(features.items(), unit=" views", desc=what) as progress:
        yield from progress


def _consensus(probabilities: Mapping[str, np.ndarray], types: np.ndarray) -> Consensus:
    weights = view_weights(probabilities, types)
    temperature = calibrate(combined(probabilities, weights), types).temperature if len(types) else 1.0
    return Consensus(weights, temperature)


def _confidences_without_types(
    compact: Mapping[str, CompactFeatures],
    types: np.ndarray,
    folds: np.ndarray,
    strengths: Mapping[str, float],
    consensus: Consensus,
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Leave out each type, the most frequent ones first, and see how certain the labels are.

    Returns
    -------
    Type -> probabilities of the labels of held-out cells of the other types, and of all its own cells.
    """
    numbers, sizes = np.unique(types, return_counts=True)
    if len(numbers) < 3:
        return {}  # one type alone is certain of everything
    is_tested = folds == 0
    found = {}
    for left_out in numbers[np.argsort(-sizes, kind="stable")][:MOST_TYPES_LEFT_OUT]:
        taught = np.flatnonzero(~is_tested & (types != left_out))
        if len(np.unique(types[taught])) < 2:
            continue
        taught = taught[sample_of_cells(types[taught], CELLS_OF_LEAVING_OUT)]
        n_types = int(types.max()) + 1
        probabilities = {}
        for view in (view for view, weight in consensus.weights.items() if weight):
            own, variance = compact[view].own, compact[view].variance
            fitted = fit_view(own[taught], variance, types[taught], n_types, strengths[view])
            probabilities[view] = fitted.probabilities(own)
        certain = consensus.probabilities(probabilities).max(axis=1)
        found[int(left_out)] = certain[is_tested & (types != left_out)], certain[types == left_out]
    return found
