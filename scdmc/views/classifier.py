"""A classifier of several views of a cell: fitted on labelled cells, weighed by them, kept in a folder.

Source: docs/method.md, "Views of a cell and their weights".
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from scdmc.annotation.calibration import calibrate, with_temperature
from scdmc.progress import progress_bar
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.views.familiarity import Familiarity, TypeDistances, clues_of_cells
from scdmc.views.fine_tuned import FineTunedView, FineTuner
from scdmc.views.options import FINE_TUNED_VIEW
from scdmc.views.regression import (
    CELLS_OF_FOLDS,
    CompactFeatures,
    Features,
    LabelledFolds,
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
from scdmc.views.weights import view_weights

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

    def clues(self, of_views: Mapping[str, np.ndarray], squared_distance: np.ndarray | None) -> np.ndarray:
        """See :func:`scdmc.views.familiarity.clues_of_cells`: of views that have a weight, shape (n_cells, 3)."""
        counted = [of_views[view] for view, weight in self.weights.items() if weight]
        return clues_of_cells(self.probabilities(of_views), counted, squared_distance)


@dataclass(frozen=True)
class ViewClassifier:
    """What labels cells.

    Attributes
    ----------
    names
        Types, shape (n_types,).
    views
        View -> its logistic regression, on features as they are; or the fine-tuned model.
    consensus
        Views that are at hand (sorted, joined by "+") -> how they are combined.
    familiarity
        Views that are asked (:func:`views_of_familiarity`) -> the yardstick of familiarity, and the threshold that is
        recommended.
    distances
        Where the types lie among principal components; None without the view of these.
    """

    names: np.ndarray
    views: Mapping[str, LinearView | FineTunedView]
    consensus: Mapping[str, Consensus]
    familiarity: Mapping[str, Familiarity]
    distances: TypeDistances | None

    def of_views(self, features: Mapping[str, Features | TokenizedCells]) -> dict[str, np.ndarray]:
        """View -> its probabilities, uncalibrated, shape (n_cells, n_types)."""
        return {view: self.views[view].probabilities(features[view]) for view in self.views if view in features}

    def consensus_of(self, views: Sequence[str]) -> Consensus:
        """How these views are combined."""
        return self.consensus[key_of(views)]

    def recommended_of(self, views: Sequence[str]) -> float:
        """Familiarity below which the reference recommends to call a cell Unknown, by these views."""
        return self.familiarity[key_of(views_of_familiarity(views))].threshold

    def familiarity_of(
        self, of_views: Mapping[str, np.ndarray], features: Mapping[str, Features | TokenizedCells]
    ) -> np.ndarray:
        """How familiar cells are: the share of held-out reference cells that are not more so, shape (n_cells,).

        Parameters
        ----------
        of_views
            From :meth:`of_views`.
        features
            View -> features of the cells.
        """
        of_views = {view: of_views[view] for view in views_of_familiarity(list(of_views))}
        key = key_of(list(of_views))
        squared = None
        if "components" in of_views:
            likeliest = self.consensus[key].probabilities(of_views).argmax(axis=1)
            squared = self.distances.squared(features["components"], likeliest)
        return self.familiarity[key].of_cells(self.consensus[key].clues(of_views, squared))


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
        Type -> how well a low familiarity tells its cells when nothing was learned of it.
    controls
        As ``of_views``, of what is only compared.
    """

    of_views: Mapping[str, np.ndarray]
    together: np.ndarray
    is_learnable: np.ndarray
    unseen_auroc: Mapping[str, float]
    controls: Mapping[str, np.ndarray]


def key_of(views: Sequence[str]) -> str:
    """Some views as one word."""
    return "+".join(sorted(views))


def views_of_familiarity(views: Sequence[str]) -> list[str]:
    """Views that say how familiar a cell is: all but the fine-tuned one, if there are others.

    To learn what cells of an unseen type look like each type is left out once, and every view fitted again. For this
    one it would be a fine-tuning for each type.
    """
    return [view for view in views if view != FINE_TUNED_VIEW] or list(views)


def fit_view_classifier(
    features: Mapping[str, Features | TokenizedCells],
    labels: np.ndarray,
    batch: np.ndarray | None = None,
    seed: int = 42,
    controls: Mapping[str, Features] | None = None,
    fine_tuner: FineTuner | None = None,
) -> tuple[ViewClassifier, HeldOutViews]:
    """Fit every view on labelled cells, and learn from folds of them how much each counts.

    Parameters
    ----------
    features
        View -> shape (n_cells, n_features); of the fine-tuned view the tokens of the cells.
    labels
        Shape (n_cells,), none missing.
    batch
        Shape (n_cells,): whole batches are folds, so that C and weights are those that carry to another batch.
    seed
        Of the folds.
    controls
        Features that are only compared: they are fitted in the same folds, and the classifier does not read them.
    fine_tuner
        Makes the fine-tuned view, if it is among them.

    Returns
    -------
    The classifier, and what the folds said of the labelled cells.
    """
    names, types = np.unique(labels.astype(str), return_inverse=True)
    chosen = sample_of_cells(types, CELLS_OF_FOLDS, seed)
    folds = fold_of_cells(types[chosen], None if batch is None else batch[chosen], seed)
    taught = LabelledFolds(types, chosen, folds, sample_of_cells(types, CELLS_OF_FIT, seed))
    learnable = np.ones(len(types), dtype=bool)
    learnable[chosen] = is_learnable(types[chosen], folds)
    views, out_of_fold, compact, of_controls = {}, {}, {}, {}
    linear = {view: of_cells for view, of_cells in features.items() if view != FINE_TUNED_VIEW}
    for view, of_cells in _shown({**linear, **(controls or {})}, "views"):
        fit = _fit_one(view, of_cells, taught)
        if view in features:
            compact[view], out_of_fold[view], views[view] = fit
        else:
            of_controls[view] = fit[1]
    if FINE_TUNED_VIEW in features:
        fit = fine_tuner.fit(features[FINE_TUNED_VIEW], names, taught)
        out_of_fold[FINE_TUNED_VIEW], views[FINE_TUNED_VIEW] = fit
    tested = chosen[learnable[chosen]]
    consensus = {
        key_of(some): consensus_of_views({view: out_of_fold[view][tested] for view in some}, types[tested])
        for size in range(1, len(views) + 1)
        for some in combinations(views, size)
    }
    together = consensus[key_of(tuple(views))].probabilities(out_of_fold)
    components = features.get("components")
    folded_cells = _Folded(
        compact,
        {view: views[view].C for view in compact},
        None if components is None else components[chosen],
        types[chosen],
        folds,
    )
    held_out = {view: each[chosen] for view, each in out_of_fold.items()}
    familiarity, aurocs = _familiarity(folded_cells, consensus, held_out, types[chosen], learnable[chosen])
    distances = (
        None if components is None else TypeDistances.of(components[taught.many], types[taught.many], len(names))
    )
    classifier = ViewClassifier(names.astype(object), views, consensus, familiarity, distances)
    of_types = {str(names[number]): auroc for number, auroc in aurocs.items()}
    return classifier, HeldOutViews(out_of_fold, together, learnable, of_types, of_controls)


def _fit_one(view: str, of_cells: Features, taught: LabelledFolds) -> tuple[CompactFeatures, np.ndarray, LinearView]:
    """Axes of the cells in folds, what all cells are called when they are not seen, and the fit of many cells."""
    types, chosen, folds, many = taught.types, taught.chosen, taught.folds, taught.many
    standard = Standardisation.of(of_cells, view in WITH_ONE_SPREAD) if view in STANDARDISED else None
    scaled, n_types = of_cells if standard is None else standard.apply(of_cells), int(types.max()) + 1
    axes = CompactFeatures(scaled[chosen])
    folded = fold_view(axes.own, axes.variance, types[chosen], folds)
    out_of_fold, fitted = folded.probabilities, fit_view(axes.own, axes.variance, types[chosen], n_types, folded.C)
    of_all = axes.turned_back(fitted)
    if len(chosen) < len(types):
        # Cells that are in no fold were not seen by the fit of those that are.
        out_of_fold = of_all.probabilities(scaled)
        out_of_fold[chosen] = folded.probabilities
        if axes.is_whole:
            fitted = fit_view(axes.turned(scaled[many]), axes.variance, types[many], n_types, folded.C, fitted)
            of_all = axes.turned_back(fitted)
        else:
            of_all = fit_all_cells(scaled[many], types[many], n_types, folded.C, of_all)
    logger.info("view %s: C %g", view, folded.C)
    return axes, out_of_fold, of_all if standard is None else standard.undo(of_all)


def _shown(features: Mapping[str, Features], what: str) -> Iterator[tuple[str, Features]]:
    with progress_bar(features.items(), unit=" views", desc=what) as progress:
        yield from progress


def consensus_of_views(probabilities: Mapping[str, np.ndarray], types: np.ndarray) -> Consensus:
    """How views are combined, by out-of-fold probabilities, View -> (n_cells, n_types), and types, (n_cells,)."""
    weights = view_weights(probabilities, types)
    temperature = calibrate(combined(probabilities, weights), types).temperature if len(types) else 1.0
    return Consensus(weights, temperature)


def _familiarity(
    cells: "_Folded",
    consensus: Mapping[str, Consensus],
    of_views: Mapping[str, np.ndarray],
    types: np.ndarray,
    is_tested: np.ndarray,
) -> tuple[dict[str, Familiarity], dict[int, float]]:
    """Yardsticks for whatever views are asked, and by all of them the AUROC of each type that was left out."""
    unseen = cells.without_types({key: each for key, each in consensus.items() if FINE_TUNED_VIEW not in key})
    found, aurocs = {}, {}
    for key in {key_of(views_of_familiarity(key.split("+"))): None for key in consensus}:
        each = consensus[key]
        clues = cells.out_of_fold(each, of_views, key.split("+"))
        is_right = each.probabilities(of_views).argmax(axis=1) == types
        left_out = {number: pairs[key] for number, pairs in unseen.items() if key in pairs}
        found[key], of_types = Familiarity.learned(clues[is_tested], is_right[is_tested], left_out)
        if key == key_of(views_of_familiarity(list(of_views))):
            aurocs = of_types
    return found, aurocs


class _Folded:
    """Labelled cells in folds, with what is needed to fit the views again on some of them."""

    def __init__(
        self,
        compact: Mapping[str, CompactFeatures],
        strengths: Mapping[str, float],
        components: np.ndarray | None,
        types: np.ndarray,
        folds: np.ndarray,
    ) -> None:
        self._compact, self._strengths, self._components = compact, strengths, components
        self._types, self._folds, self._n_types = types, folds, int(types.max()) + 1

    def out_of_fold(self, consensus: Consensus, of_views: Mapping[str, np.ndarray], views: Sequence[str]) -> np.ndarray:
        """Clues of all cells, distances to types as the cells of other folds have them; shape (n_cells, 3)."""
        if "components" not in views:
            return consensus.clues(of_views, None)
        likeliest = consensus.probabilities(of_views).argmax(axis=1)
        squared = np.zeros(len(likeliest))
        for fold in np.unique(self._folds):
            tested = self._folds == fold
            distances = self._distances(np.flatnonzero(tested if tested.all() else ~tested))
            squared[tested] = distances.squared(self._components[tested], likeliest[tested])
        return consensus.clues(of_views, squared)

    def _distances(self, taught: np.ndarray) -> TypeDistances:
        return TypeDistances.of(self._components[taught], self._types[taught], self._n_types)

    def without_types(self, consensus: Mapping[str, Consensus]) -> dict[int, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Leave out each type, the most frequent ones first, and see how familiar its cells look.

        Returns
        -------
        Type -> views that are at hand -> clues of held-out cells of the other types, and of all its own cells.
        """
        numbers, sizes = np.unique(self._types, return_counts=True)
        if len(numbers) < 3:
            return {}  # one type alone is certain of everything
        is_tested = self._folds == 0
        found = {}
        for left_out in numbers[np.argsort(-sizes, kind="stable")][:MOST_TYPES_LEFT_OUT]:
            is_left_out = self._types == left_out
            taught = np.flatnonzero(~is_tested & ~is_left_out)
            if len(np.unique(self._types[taught])) < 2:
                continue
            taught = taught[sample_of_cells(self._types[taught], CELLS_OF_LEAVING_OUT)]
            of_views = {}
            for view, axes in self._compact.items():
                fitted = fit_view(
                    axes.own[taught], axes.variance, self._types[taught], self._n_types, self._strengths[view]
                )
                of_views[view] = fitted.probabilities(axes.own)
            distances = self._distances(taught) if self._components is not None else None
            found[int(left_out)] = {}
            for key, each in consensus.items():
                squared = None
                if "components" in key.split("+"):
                    squared = distances.squared(self._components, each.probabilities(of_views).argmax(axis=1))
                clues = each.clues(of_views, squared)
                found[int(left_out)][key] = clues[is_tested & ~is_left_out], clues[is_left_out]
        return found
