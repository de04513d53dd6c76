"""Networks against known regulons, beside networks from expression alone and a random one."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.sparse
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.metrics import average_precision_score

TOP_SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


RANDOM_DRAWS = 20


FEWEST_KNOWN = 10


RANDOM = "random"


def pearson_scores(expression: np.ndarray, factor_columns: np.ndarray, target_columns: np.ndarray) -> np.ndarray:
    """|Pearson correlation| over cells, shape (n_factors, n_targets); 0 for genes that do not vary.

    Parameters
    ----------
    expression
        log1p CP10k, shape (n_cells, n_genes).
    factor_columns, target_columns
        Columns of the factors and of the targets.
    """
    centred = expression - expression.mean(axis=0)
    norms = np.linalg.norm(centred, axis=0)
    units = centred / np.where(norms > 1e-9, norms, np.inf)
    return np.abs(units[:, factor_columns].T @ units[:, target_columns])


def boosting_scores(
    expression: np.ndarray, factor_columns: np.ndarray, target_columns: np.ndarray, n_trees: int = 50, seed: int = 42
) -> np.ndarray:
    """Importance of each factor for each target by gradient boosting in the style of GRNBoost2.

    As in GRNBoost2 (Moerman et al. 2019) there is a model of regression trees for each target (depth 3, a tenth of the
    factors for a split, 90% of the cells for a tree). It is not GRNBoost2 itself, which learns five times more slowly
    and takes up to 5,000 trees, until they no longer help: here their number is fixed. A factor does not explain
    itself.

    Parameters
    ----------
    expression
        log1p CP10k, shape (n_cells, n_genes).
    factor_columns, target_columns
        Columns of the factors and of the targets.
    n_trees, seed
        Trees for each target, and the seed of their cells and factors.

    Returns
    -------
    Shape (n_factors, n_targets).
    """
    scores = np.zeros((len(factor_columns), len(target_columns)))
    for number, target in enumerate(target_columns):
        others = np.flatnonzero(factor_columns != target)
        if not len(others):
            continue
        model = GradientBoostingRegressor(
            n_estimators=n_trees, learning_rate=0.05, max_depth=3, max_features=0.1, subsample=0.9, random_state=seed
        )
        model.fit(expression[:, factor_columns[others]], expression[:, target])
        scores[others, number] = model.feature_importances_
    return scores


def dense_expression(
    expression: scipy.sparse.csr_matrix, factors: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expression of the factors and targets only, (n_cells, n_genes), and the columns of both."""
    genes = np.union1d(factors, targets)
    dense = expression[:, genes].toarray().astype(np.float32)
    return dense, np.searchsorted(genes, factors), np.searchsorted(genes, targets)


def known_pairs(regulons: Mapping[int, set[int]], factors: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """True where a pair is known, shape (n_factors, n_targets)."""
    return np.array([np.isin(targets, list(regulons.get(int(factor), ()))) for factor in factors]).reshape(
        len(factors), len(targets)
    )


def agreement(scores: np.ndarray, is_known: np.ndarray) -> dict[str, float]:
    """How well scores rank known pairs before the others.

    Random scores have about 1 where many pairs are known and more where few are: compare with them, not with 1. Equal
    scores are in random order, the same in every call.

    Parameters
    ----------
    scores, is_known
        Of the pairs that count, shape (n_pairs,).

    Returns
    -------
    ``auprc_ratio``: average precision / share of known pairs; ``early_precision_ratio``: the same for the precision of
    as many pairs as are known; ``odds_ratio_top_x%`` of the known among the highest.
    """
    share, n_known = is_known.mean(), int(is_known.sum())
    at_random = np.random.default_rng(0).random(len(scores))
    by_score = is_known[np.lexsort((at_random, -scores))]
    found = {
        "auprc_ratio": float(average_precision_score(is_known, scores) / share),
        "early_precision_ratio": float(by_score[:n_known].mean() / share),
    }
    for top in TOP_SHARES:
        n_top = max(1, round(top * len(scores)))
        hits = int(by_score[:n_top].sum())
        # Half a pair only where there is none to divide by: added everywhere it would lift chance far above 1.
        inside = hits / max(n_top - hits, 0.5)
        outside = max(n_known - hits, 0.5) / max(len(scores) - n_top - n_known + hits, 0.5)
        found[f"odds_ratio_top_{100 * top:g}%"] = inside / outside
    return found


def evaluation_rows(
    cell_type: str, pairs: str, scores: Mapping[str, np.ndarray], is_known: np.ndarray, counts: np.ndarray, seed: int
) -> list[dict[str, object]]:
    """Agreement of every method with the known pairs of one cell type, and of random scores (mean of 20 draws).

    Parameters
    ----------
    cell_type, pairs
        Go into the rows.
    scores
        Method -> shape (n_factors, n_targets).
    is_known, counts
        Same shape: known pairs, and which pairs count (a factor is no target of itself).
    seed
        Of the random scores.

    Returns
    -------
    Rows cell_type, pairs, method, n_pairs, n_known and the numbers of :func:`agreement`; none where fewer than 10
    pairs are known.
    """
    known = is_known[counts]
    if known.sum() < FEWEST_KNOWN or known.all():
        return []
    generator = np.random.default_rng(seed)
    draws = pd.DataFrame([agreement(generator.random(len(known)), known) for _ in range(RANDOM_DRAWS)])
    by_method = {method: agreement(matrix[counts], known) for method, matrix in scores.items()}
    by_method[RANDOM] = draws.mean().to_dict()
    facts = {"cell_type": cell_type, "pairs": pairs, "n_pairs": len(known), "n_known": int(known.sum())}
    return [{**facts, "method": method, **numbers} for method, numbers in by_method.items()]
