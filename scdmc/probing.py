"""How much of the cell types frozen embeddings hold: a linear probe and nearest neighbours (design.md, section 8)."""

import logging

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scdmc.errors import ScDMCError
from scdmc.splits import is_missing

logger = logging.getLogger(__name__)

MINIMUM_CELLS = 10
N_NEIGHBORS = 15
TEST_FRACTION = 0.2
# Weak on standardised embeddings of some hundred dimensions, and the same for every model that is compared.
REGULARISATION = 0.3


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
