"""How far a new file lies from its reference, and which views do not carry across.

Source: docs/method.md, "Views of a cell and their weights".
"""

import logging
from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scdmc.views.features import ViewsOfCells

logger = logging.getLogger(__name__)

# Where principal components tell new from reference cells so well, the types of the one are not where they are in the
# other: a classifier on components or on states of the language model, weighed within the reference, errs with
# confidence. Genes carried across best in eleven pairs of files (docs/results.md, "Labels by views of a reference").
CARRIES_ACROSS = "genes"


MOST_SEPARABLE, CELLS_TOLD_APART, FEWEST_TOLD_APART = 0.99, 1000, 20


def separability(reference: np.ndarray, new: np.ndarray, seed: int = 42) -> float:
    """AUROC of a logistic regression that tells new from reference cells, out of fold: 0.5 if they are alike.

    Parameters
    ----------
    reference, new
        Principal components, shape (n_cells, n_components) each; at most :data:`CELLS_TOLD_APART` of each are taken.
    seed
        Which ones.
    """
    rng = np.random.default_rng(seed)
    parts = [each[rng.permutation(len(each))[:CELLS_TOLD_APART]] for each in (reference, new)]
    if min(map(len, parts)) < FEWEST_TOLD_APART:
        return 0.5  # too few to tell
    is_new = np.repeat([0, 1], [len(each) for each in parts])
    told = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    chance = cross_val_predict(told, np.concatenate(parts), is_new, cv=3, method="predict_proba")[:, 1]
    return float(roc_auc_score(is_new, chance))


def views_apart(name: str, reference: np.ndarray, new: ViewsOfCells, views: Sequence[str], seed: int) -> dict[str, str]:
    """Views with the reason to leave them out: all but that of genes, where components tell new from reference cells.

    Parameters
    ----------
    name
        Of the new cells' file.
    reference
        Principal components of reference cells, shape (n_reference, n_components).
    new
        The new cells.
    views
        Those that are at hand. Without that of genes none is left out.
    seed
        Of the cells that are compared.
    """
    others = [view for view in views if view != CARRIES_ACROSS]
    if CARRIES_ACROSS not in views or not others:
        return {}
    has_counts = new.expression.getnnz(axis=1) > 0
    auroc = separability(reference, new.components[has_counts], seed)
    if auroc < MOST_SEPARABLE:
        return {}
    reason = f"by their principal components the cells of {name} are told from the reference (AUROC {auroc:.2f})"
    logger.info("left out: %s: %s", " and ".join(others), reason)
    return dict.fromkeys(others, reason)
