"""How right a reference's labels are on its own held-out cells: each view, all together, and the controls.

Source: docs/method.md, "Views of a cell and their weights".
"""

import numpy as np
import pandas as pd
import scipy.sparse
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from scdmc.annotation.annotated_cells import (
    ALL_VIEWS,
    OTHER_VIEWS_AND_VECTORS,
    VECTORS_ALONE,
    WITHOUT_MODEL,
    HeldOutScores,
)
from scdmc.annotation.calibration import expected_calibration_error
from scdmc.cells.shared_genes import CellCounts
from scdmc.tokens.tokenized_cells import expression_of_cells
from scdmc.tokens.tokenizer import Tokenizer
from scdmc.training.coexpression import coexpression_vectors
from scdmc.views.classifier import HeldOutViews, ViewClassifier, consensus_of_views
from scdmc.views.features import CELLS_OF_COMPONENTS
from scdmc.views.options import MODEL_VIEWS
from scdmc.views.regression import Features, log_loss

# The mean of vectors that no training has seen, each gene weighted by its value: what the language model must beat.
VECTORS = "vectors"


N_DIMENSIONS = 64


def untrained_vectors(values: list[scipy.sparse.csr_matrix], seed: int = 42) -> list[np.ndarray]:
    """Cells of several files as means of co-expression vectors of all these cells.

    Parameters
    ----------
    values
        Of each file, values of the genes as the model reads them, shape (n_cells, vocab_size).
    seed
        Of the singular vectors, and of the cells that make them where there are many.

    Returns
    -------
    Of each file, shape (n_cells, n_dimensions), float32; no dimensions where there are too few cells or genes.
    """
    stacked = scipy.sparse.csr_matrix(scipy.sparse.vstack(values))
    if stacked.shape[0] > CELLS_OF_COMPONENTS:
        stacked = stacked[np.sort(np.random.default_rng(seed).choice(stacked.shape[0], CELLS_OF_COMPONENTS, False))]
    n_dimensions = min(N_DIMENSIONS, stacked.shape[0] - 1, int((stacked.getnnz(axis=0) > 0).sum()) - 1)
    if n_dimensions < 1:
        return [np.zeros((each.shape[0], 0), dtype=np.float32) for each in values]
    vectors = coexpression_vectors(stacked, n_dimensions, seed)
    sums = [np.maximum(np.asarray(each.sum(axis=1)), 1e-6) for each in values]
    return [np.asarray(each @ vectors / total, dtype=np.float32) for each, total in zip(values, sums, strict=True)]


def controls_of(cells: CellCounts, tokenizer: Tokenizer, seed: int = 42) -> dict[str, Features]:
    """Features of what stands beside the language model: the mean of vectors that no training has seen."""
    tokens = cells.tokenized(tokenizer)
    values = expression_of_cells(tokens, np.arange(len(tokens)), len(tokenizer.vocabulary))
    (vectors,) = untrained_vectors([values], seed)
    return {VECTORS: vectors} if vectors.shape[1] else {}


def held_out_scores(classifier: ViewClassifier, held_out: HeldOutViews, labels: np.ndarray) -> HeldOutScores:
    """How right the out-of-fold labels of the reference cells are.

    Cells whose type no other cell could teach count nowhere.
    """
    names, tested = classifier.names, held_out.is_learnable
    types = np.searchsorted(names.astype(str), labels.astype(str))
    views = list(held_out.of_views)
    weights = classifier.consensus_of(views).weights
    rows = {}
    for view in views:
        alone = classifier.consensus_of([view]).probabilities(held_out.of_views)
        rows[view] = {"weight": weights[view], **_scores(alone[tested], types[tested])}
    rows[ALL_VIEWS] = {"weight": np.nan, **_scores(held_out.together[tested], types[tested])}
    others = [view for view in views if view not in MODEL_VIEWS]
    if others and len(others) < len(views):
        without = classifier.consensus_of(others).probabilities(held_out.of_views)
        rows[WITHOUT_MODEL] = {"weight": np.nan, **_scores(without[tested], types[tested])}
    for view, of_control in held_out.controls.items():
        alone, of_others = {view: of_control}, {each: held_out.of_views[each] for each in others}
        for name, of_views in {VECTORS_ALONE: alone, OTHER_VIEWS_AND_VECTORS: of_others | alone}.items():
            seen = {each: probabilities[tested] for each, probabilities in of_views.items()}
            together = consensus_of_views(seen, types[tested]).probabilities(seen)
            rows[name] = {"weight": np.nan, **_scores(together, types[tested])}
    likeliest = held_out.together.argmax(axis=1)
    found = precision_recall_fscore_support(
        types[tested], likeliest[tested], labels=np.arange(len(names)), zero_division=0
    )[:3]
    by_type = pd.DataFrame(dict(zip(("precision", "recall", "f1"), found, strict=True)), index=names)
    by_type.insert(0, "n_cells", np.bincount(types, minlength=len(names)))
    return HeldOutScores(
        methods=pd.DataFrame(rows).T,
        types=by_type,
        labels=names[likeliest],
        probability=held_out.together.max(axis=1),
        unseen_auroc=held_out.unseen_auroc,
    )


def _scores(probabilities: np.ndarray, types: np.ndarray) -> dict[str, float]:
    if not len(types):
        return dict.fromkeys(("accuracy", "macro_f1", "log_loss", "calibration_error"), np.nan)
    predicted = probabilities.argmax(axis=1)
    return {
        "accuracy": float(accuracy_score(types, predicted)),
        "macro_f1": float(f1_score(types, predicted, average="macro", zero_division=0)),
        "log_loss": log_loss(probabilities, types),
        "calibration_error": expected_calibration_error(probabilities.max(axis=1), predicted == types),
    }
