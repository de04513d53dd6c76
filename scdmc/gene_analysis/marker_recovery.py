"""Whether scores of genes point at the markers of a cell type, beyond what a high expression explains."""

import numpy as np
import pandas as pd
import scipy.sparse
from sklearn.metrics import roc_auc_score

from scdmc.errors import ScDMCError
from scdmc.gene_analysis.options import LARGEST_FDR

MOST_MARKERS = 100


SMALLEST_LOG2_FOLD = 1.0


EXPRESSION_BINS = 10


def markers_of_types(expression: scipy.sparse.csr_matrix, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Markers of each cell type, by ``scanpy.tl.rank_genes_groups`` (Welch's t-test against all other cells).

    Parameters
    ----------
    expression
        log1p CP10k, shape (n_cells, n_genes).
    labels
        Shape (n_cells,).

    Returns
    -------
    Type -> columns of its markers: FDR below 0.05, at least twice as high, the 100 with the highest scores.

    Raises
    ------
    ScDMCError
        If there is one type only.
    """
    import anndata
    import scanpy

    if len(np.unique(labels)) < 2:
        raise ScDMCError(f"markers need two cell types, and all cells are {str(labels[0])!r}")
    obs = pd.DataFrame({"type": pd.Categorical(labels)}, index=np.arange(len(labels)).astype(str))
    adata = anndata.AnnData(expression, obs=obs, var=pd.DataFrame(index=np.arange(expression.shape[1]).astype(str)))
    adata.uns["log1p"] = {"base": None}
    scanpy.tl.rank_genes_groups(adata, "type", method="t-test")
    markers = {}
    for name in adata.obs["type"].cat.categories:
        table = scanpy.get.rank_genes_groups_df(adata, name)
        is_marker = (table["pvals_adj"] < LARGEST_FDR) & (table["logfoldchanges"] >= SMALLEST_LOG2_FOLD)
        markers[str(name)] = table.loc[is_marker, "names"].head(MOST_MARKERS).astype(int).to_numpy()
    return markers


def auroc(scores: np.ndarray, is_marker: np.ndarray) -> float:
    """Area under the ROC curve, 0.5 by chance; NaN where all genes are markers, or none is."""
    if is_marker.all() or not is_marker.any():
        return float("nan")
    return float(roc_auc_score(is_marker, scores))


def auroc_at_equal_expression(scores: np.ndarray, is_marker: np.ndarray, expression: np.ndarray) -> float:
    """The same among genes of similar expression: mean over ten bins, each weighted by its pairs; shapes (n_genes,).

    A score that only says how highly a gene is expressed is near 0.5 here, not at it, for the genes of a bin still
    differ: what is left is what expression itself has, against which other scores are to be read.
    """
    order = np.argsort(expression, kind="stable")
    total, weight = 0.0, 0
    for genes in np.array_split(order, EXPRESSION_BINS):
        n_pairs = int(is_marker[genes].sum()) * int((~is_marker[genes]).sum())
        if n_pairs:
            total += n_pairs * auroc(scores[genes], is_marker[genes])
            weight += n_pairs
    return total / weight if weight else float("nan")


def recovery_rows(
    table: pd.DataFrame, score_columns: dict[str, str], markers: dict[str, set[int]]
) -> list[dict[str, object]]:
    """AUROC of each score in each type, overall and at equal expression.

    Parameters
    ----------
    table
        Columns cell_type, token, expression, and the scores; NaN where a gene has no score.
    score_columns
        Column -> name of the method.
    markers
        Type -> tokens of its markers.

    Returns
    -------
    Rows cell_type, method, auroc, auroc_at_equal_expression, genes, markers; types with fewer than 5 markers among the
    genes are left out.
    """
    rows = []
    for name, genes in table.groupby("cell_type", sort=True):
        for column, method in score_columns.items():
            scored = genes.dropna(subset=[column])
            is_marker = scored["token"].isin(markers[str(name)]).to_numpy()
            if is_marker.sum() < 5:
                continue
            scores, expression = scored[column].to_numpy(), scored["expression"].to_numpy()
            rows.append(
                {
                    "cell_type": name,
                    "method": method,
                    "auroc": auroc(scores, is_marker),
                    "auroc_at_equal_expression": auroc_at_equal_expression(scores, is_marker, expression),
                    "genes": len(scored),
                    "markers": int(is_marker.sum()),
                }
            )
    return rows
