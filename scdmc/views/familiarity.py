"""How much a cell is like those that the reference taught: what decides that it is of none of their types.

Source: docs/method.md, "Familiarity, and the cells that are Unknown".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scdmc.views.regression import SMALLEST_PROBABILITY, Standardisation
from scdmc.views.weights import recommended_threshold, unseen_auroc

# Candidates: how much the least probability of a view counts, the rest being for that of all views together, and how
# much the squared distance does. The first of each are the probability alone.
LEAST, BY_DISTANCE = (0.0, 0.5, 1.0), (0.0, 0.25, 0.5, 1.0, 2.0)


# Added to the variance within types along every axis, as a share of its mean. Stronger shrinkage hides new types, which
# stand out along axes where the known ones hardly vary.
RIDGE, SMALLEST_RIDGE = 0.001, 1e-6


# This share of a file's cells, the nearest ones, says how far its batch lies from the reference; fewer cells do not.
SHARE_NEAREST, FEWEST_CELLS_OF_BATCH = 0.1, 20


# Of the mean AUROC of left-out types: so much must another score than the probability gain.
LEAST_GAIN_OF_CLUES = 0.01


# Where no type could be left out, nothing says what helps.
WITHOUT_LEAVING_OUT = (0.0, 1.0, 0.25)


# Fewer cells of a type do not choose.
FEWEST_CELLS_LEFT_OUT = 5


@dataclass(frozen=True)
class TypeDistances:
    """Where the types of labelled cells lie among principal components, and how their cells scatter.

    Attributes
    ----------
    means
        Shape (n_types, n_components); of a type without cells the mean of all.
    whitening
        Differences times this have the unit covariance within types, shape (n_components, n_components).
    """

    means: np.ndarray
    whitening: np.ndarray

    @classmethod
    def of(cls, components: np.ndarray, types: np.ndarray, n_types: int) -> "TypeDistances":
        """By labelled cells.

        Parameters
        ----------
        components
            Shape (n_cells, n_components).
        types
            Index of the type of each cell, shape (n_cells,).
        n_types
            How many types there are.
        """
        standard = Standardisation.of(components)
        scaled = standard.apply(components).astype(np.float64)
        sizes = np.bincount(types, minlength=n_types)
        means = np.zeros((n_types, scaled.shape[1]))
        np.add.at(means, types, scaled)
        means /= np.maximum(sizes, 1)[:, None]
        within = scaled - means[types]
        # The means were fitted to these cells, so that the cells lie nearer to them than others will.
        freedom = len(types) / max(len(types) - (sizes > 0).sum(), 1)
        variance, axes = np.linalg.eigh(within.T @ within / len(types) * freedom)
        variance = np.maximum(variance, 0) + max(RIDGE * variance.mean(), SMALLEST_RIDGE)
        whitening = axes / np.sqrt(variance)
        inverse_spread = (1 / standard.spread)[:, None]
        spread = np.where(np.isfinite(standard.spread), standard.spread, 0.0)  # a constant feature has an endless one
        centres = means * spread + standard.mean
        return cls(centres.astype(np.float32), (inverse_spread * whitening).astype(np.float32))

    def squared(self, components: np.ndarray, types: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance to the mean of a type for each cell, by component, shape (n_cells,)."""
        away = (components - self.means[types]) @ self.whitening
        return np.square(away, dtype=np.float64).mean(axis=1)


@dataclass(frozen=True)
class Familiarity:
    """What makes a cell familiar, and how familiar the cells of the reference are.

    Attributes
    ----------
    strengths
        How much each column of :func:`clues_of_cells` counts, shape (3,).
    usual
        Scores of held-out cells of the reference, ascending, shape (n_kept,).
    threshold
        Familiarity below which a cell had better be Unknown.
    nearest
        Squared distance that :data:`SHARE_NEAREST` of the held-out cells do not exceed.
    """

    strengths: np.ndarray
    usual: np.ndarray
    threshold: float
    nearest: float

    @classmethod
    def learned(
        cls, clues: np.ndarray, is_right: np.ndarray, left_out: Mapping[int, tuple[np.ndarray, np.ndarray]]
    ) -> tuple["Familiarity", dict[int, float]]:
        """By types that were left out of the reference, one after the other.

        Parameters
        ----------
        clues, is_right
            Of held-out cells when all types were learned, shape (n_cells, 3) and (n_cells,).
        left_out
            Type -> clues of the other cells and of its own when it was left out.

        Returns
        -------
        What was learned, and for each type the AUROC of its cells against the others.
        """
        strengths = chosen_strengths(list(left_out.values()))
        usual = np.sort(clues @ strengths)
        shares = {
            number: tuple(_share_not_higher(usual, part @ strengths) for part in pair)
            for number, pair in left_out.items()
        }
        threshold = recommended_threshold(_share_not_higher(usual, clues @ strengths), is_right, list(shares.values()))
        nearest = float(np.quantile(-clues[:, 2], SHARE_NEAREST)) if len(clues) else 0.0
        return cls(strengths, usual, threshold, nearest), {
            number: unseen_auroc(*pair) for number, pair in shares.items()
        }

    def of_cells(self, clues: np.ndarray) -> np.ndarray:
        """Share of the held-out reference cells that are not more familiar: (n_cells, 3) -> (n_cells,).

        Where even the nearest cells lie far away, the file is of another batch, and all distances are divided alike.
        """
        clues = clues.copy()
        if len(clues) >= FEWEST_CELLS_OF_BATCH and self.nearest > 0:
            clues[:, 2] /= max(np.quantile(-clues[:, 2], SHARE_NEAREST) / self.nearest, 1.0)
        return _share_not_higher(self.usual, clues @ self.strengths)


def clues_of_cells(
    together: np.ndarray, of_views: Sequence[np.ndarray], squared_distance: np.ndarray | None
) -> np.ndarray:
    """What speaks for the label of each cell, in three numbers.

    Parameters
    ----------
    together
        Calibrated probabilities of all views together, shape (n_cells, n_types).
    of_views
        Probabilities of each view that counts, shape (n_cells, n_types).
    squared_distance
        From :meth:`TypeDistances.squared` to the label's type; None where components are not in use.

    Returns
    -------
    Shape (n_cells, 3): logarithm of the probability of the label, that of the least probability that a view gives to
    it, and the squared distance with a minus.
    """
    rows, likeliest = np.arange(len(together)), together.argmax(axis=1)
    given = np.min([each[rows, likeliest] for each in of_views], axis=0)
    logs = [np.log(np.maximum(each, SMALLEST_PROBABILITY)) for each in (together[rows, likeliest], given)]
    away = np.zeros(len(rows)) if squared_distance is None else squared_distance
    return np.stack([*logs, -away], axis=1)


def chosen_strengths(left_out: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """How much each clue counts: what tells left-out types best on average, the probability alone if little is better.

    Parameters
    ----------
    left_out
        For each type that was left out, clues of the other cells and of its own, shape (n, 3) each.

    Returns
    -------
    Shape (3,).
    """
    told = [pair for pair in left_out if len(pair[1]) >= FEWEST_CELLS_LEFT_OUT and len(pair[0])]
    if not told:
        return np.array(WITHOUT_LEAVING_OUT)
    candidates = np.array([(1 - least, least, by_distance) for least in LEAST for by_distance in BY_DISTANCE])
    aurocs = np.mean(
        [[unseen_auroc(seen @ each, unseen @ each) for each in candidates] for seen, unseen in told], axis=0
    )
    best = int(aurocs.argmax())
    return candidates[best if aurocs[best] >= aurocs[0] + LEAST_GAIN_OF_CLUES else 0]


def _share_not_higher(usual: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Share of ascending numbers that are not higher than each score; 1 where there are none to compare with."""
    if not len(usual):
        return np.ones(len(scores))
    return np.searchsorted(usual, scores, side="right") / len(usual)
