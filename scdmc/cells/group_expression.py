"""Expression of groups of cells, and the genes that set each group apart: of many groups and genes in one pass."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse

# ln(1 + CP10k) is averaged; this is added to averages as CP10k, so that genes that hardly anyone has change little.
PSEUDOCOUNT = 0.1


SMALLEST_CHANGE = 0.5  # log2 fold change of a marker


@dataclass(frozen=True)
class GroupExpression:
    """Expression of groups, the arrays of shape (n_groups, n_genes).

    Attributes
    ----------
    n_cells
        Shape (n_groups,).
    mean, variance
        Of ln(1 + CP10k); the variance of fewer than two cells is NaN, the mean of no cell is 0.
    share
        Share of cells that have the gene.
    """

    n_cells: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    share: np.ndarray

    def of_rest(self) -> "GroupExpression":
        """For each group, the expression of the cells of all other groups."""
        n_cells, sums = self.n_cells[:, None], self.mean * self.n_cells[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            within = np.where(n_cells > 1, self.variance * (n_cells - 1), 0.0)
            squares = within + self.mean * sums
            n_rest = n_cells.sum() - n_cells
            mean = (sums.sum(axis=0) - sums) / np.maximum(n_rest, 1)
            variance = (squares.sum(axis=0) - squares - n_rest * mean**2) / (n_rest - 1)
            having = self.share * n_cells
            share = (having.sum(axis=0) - having) / np.maximum(n_rest, 1)
        variance = np.where(n_rest > 1, np.maximum(variance, 0.0), np.nan)
        return GroupExpression(n_rest[:, 0], mean, variance, share)


def group_expression(expression: scipy.sparse.csr_matrix, groups: np.ndarray, n_groups: int) -> GroupExpression:
    """Average, spread and presence of every gene in every group.

    Parameters
    ----------
    expression
        ln(1 + CP10k), shape (n_cells, n_genes).
    groups
        Number of each cell's group, shape (n_cells,); -1 for none.
    n_groups
        How many groups there are.
    """
    rows = np.flatnonzero(groups >= 0)
    ones = np.ones(len(rows))
    member = scipy.sparse.csr_matrix((ones, (groups[rows], rows)), shape=(n_groups, expression.shape[0]))
    n_cells = np.bincount(groups[rows], minlength=n_groups)
    number = np.maximum(n_cells, 1)[:, None]
    # The products of two sparse matrices are sparse, and small.
    mean = (member @ expression).toarray() / number
    squares = (member @ expression.power(2)).toarray()
    present = expression.copy()
    present.data = (present.data > 0).astype(np.float64)
    share = (member @ present).toarray() / number
    variance = np.maximum(squares - number * mean**2, 0.0) / np.maximum(number - 1, 1)
    return GroupExpression(n_cells, mean, np.where(n_cells[:, None] > 1, variance, np.nan), share)


def log2_fold_change(group: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """log2 of the ratio of two averages of ln(1 + CP10k), each taken back to CP10k and raised by 0.1."""
    return np.log2((np.expm1(group) + PSEUDOCOUNT) / (np.expm1(rest) + PSEUDOCOUNT))


def marker_columns(groups: GroupExpression, n_markers: int = 10) -> pd.DataFrame:
    """Genes that are higher in a group than in the cells of all others, by Welch's t with the group's number of cells.

    The number of the other cells, mostly large, is not counted in favour of a gene (scanpy's ``t-test_overestim_var``).
    A marker changes at least 1.41-fold.

    Parameters
    ----------
    groups
        Of all groups.
    n_markers
        Of each group at most.

    Returns
    -------
    Columns group, rank (from 1), column (of the gene), score, log2_fold_change; groups of one cell have no rows.
    """
    rest = groups.of_rest()
    change = log2_fold_change(groups.mean, rest.mean)
    with np.errstate(invalid="ignore", divide="ignore"):
        score = (groups.mean - rest.mean) / np.sqrt((groups.variance + rest.variance) / groups.n_cells[:, None])
    usable = np.isfinite(score) & (score > 0) & (change >= SMALLEST_CHANGE)
    found = []
    for group in range(len(score)):
        order = np.argsort(np.where(usable[group], -score[group], np.inf), kind="stable")
        best = order[: min(n_markers, int(usable[group].sum()))]
        found.append(pd.DataFrame({
            "group": group, "rank": np.arange(1, len(best) + 1), "column": best, "score": score[group, best],
            "log2_fold_change": change[group, best],
        }))  # fmt: skip
    return pd.concat(found, ignore_index=True)
