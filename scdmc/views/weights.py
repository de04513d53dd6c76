"""How much each view of a cell counts, by the labelled cells themselves.

Source: docs/method.md, "Views of a cell and their weights".
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import minimize

from scdmc.views.regression import SMALLEST_PROBABILITY

# What unequal weights cost, in nats of all cells together: so much must the labelled cells gain by them.
PULL_TO_EQUAL = 10.0


# Weights below are 0: a view that changes nothing need not be computed.
SMALLEST_WEIGHT = 0.01


# A threshold costs right labels: not more than this share of them, and where no type could be left out, half of that.
MOST_RIGHT_LABELS_LOST = 0.15


def view_weights(probabilities: Mapping[str, np.ndarray], types: np.ndarray) -> dict[str, float]:
    """Weights under which the weighted mean of log probabilities says the labels of held-out cells best.

    Sharpness is fitted beside the weights, for a temperature follows (:func:`scdmc.annotation.calibration.calibrate`).

    Parameters
    ----------
    probabilities
        View -> out-of-fold probabilities, shape (n_cells, n_types).
    types
        Index of the type of each cell, shape (n_cells,).

    Returns
    -------
    View -> weight; not negative, their sum is 1.
    """
    views = list(probabilities)
    if len(views) == 1 or not len(types):
        return dict.fromkeys(views, 1 / len(views))
    logs = np.stack([np.log(np.maximum(probabilities[view], SMALLEST_PROBABILITY)) for view in views])
    cells = np.arange(len(types))

    def cost(strengths: np.ndarray) -> tuple[float, np.ndarray]:
        total = strengths.sum()
        logits = np.tensordot(strengths, logs, axes=1)  # (n_cells, n_types)
        logits -= logits.max(axis=1, keepdims=True)
        powers = np.exp(logits)
        sums = powers.sum(axis=1)
        loss = (np.log(sums) - logits[cells, types]).sum()
        expected = (logs * (powers / sums[:, None])).sum(axis=(1, 2))
        slope = expected - logs[:, cells, types].sum(axis=1)
        away = strengths / total - 1 / len(views)
        pull = 2 * PULL_TO_EQUAL * (away - away @ strengths / total) / total
        return (loss + PULL_TO_EQUAL * away @ away) / len(types), (slope + pull) / len(types)

    start = np.full(len(views), 1 / len(views))
    strengths = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=[(1e-6, 20.0)] * len(views)).x
    weights = strengths / strengths.sum()
    weights[weights < SMALLEST_WEIGHT] = 0.0
    return {view: float(weight) for view, weight in zip(views, weights / weights.sum(), strict=True)}


def unseen_auroc(seen: np.ndarray, unseen: np.ndarray) -> float:
    """How well a low familiarity tells cells of an unseen type: 0.5 is chance, 1 is perfect.

    Parameters
    ----------
    seen, unseen
        Familiarity of each cell of the learned types, and of the type that was left out.
    """
    ordered = np.sort(seen)
    lower = [np.searchsorted(ordered, unseen, side=side).mean() for side in ("left", "right")]
    return float(1 - np.mean(lower) / len(seen))


def recommended_threshold(
    confidence: np.ndarray, is_right: np.ndarray, left_out: Sequence[tuple[np.ndarray, np.ndarray]]
) -> float:
    """Familiarity below which a label had better be Unknown.

    It is the one with the largest sum of two shares: of cells of types that were left out, each type counting alike,
    that fall below it, and of right labels that do not. It costs at most :data:`MOST_RIGHT_LABELS_LOST` of the right
    labels.

    Parameters
    ----------
    confidence, is_right
        Of held-out cells when all types were learned, shape (n_cells,).
    left_out
        For each type that was left out, those of the other cells and of its own.
    """
    right = np.sort(confidence[is_right])
    if not len(right):
        return 0.0
    highest = float(np.quantile(right, MOST_RIGHT_LABELS_LOST if left_out else MOST_RIGHT_LABELS_LOST / 2))
    if not left_out:
        return round(highest, 2)
    candidates = np.unique(np.round(np.append(np.linspace(0, highest, 101), highest), 2))
    candidates = candidates[candidates <= highest]
    found = np.mean([np.searchsorted(np.sort(unseen), candidates) / len(unseen) for _, unseen in left_out], axis=0)
    kept = 1 - np.searchsorted(right, candidates) / len(right)
    return float(candidates[np.argmax(found + kept)])
