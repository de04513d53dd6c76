"""What a cluster is made of, for a reader without labels: its size and the genes that set it apart."""

import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.genes.ids import load_gene_table


def cluster_sizes(clusters: np.ndarray, labels: np.ndarray | None = None) -> pd.DataFrame:
    """Cells of each cluster, the largest first.

    Parameters
    ----------
    clusters
        Shape (n_cells,).
    labels
        Shape (n_cells,), None where there is none: with them the most frequent label and its share of the cluster's
        labelled cells are told.

    Returns
    -------
    Columns cluster, cells, share, and with labels most_frequent_label, share_of_label.
    """
    counts = pd.Series(clusters).value_counts()
    table = pd.DataFrame({"cluster": counts.index, "cells": counts.to_numpy(), "share": counts / len(clusters)})
    if labels is not None:
        known = pd.Series(labels).groupby(clusters).value_counts(normalize=True)
        first = known.groupby(level=0, sort=False).head(1).reset_index(level=1)
        first.columns = ["most_frequent_label", "share_of_label"]
        table = table.join(first)
    return table.reset_index(drop=True)


def marker_genes(
    expression: scipy.sparse.csr_matrix, genes: np.ndarray, clusters: np.ndarray, n_genes: int = 10
) -> pd.DataFrame:
    """Genes that are higher in a cluster than in all other cells, by scanpy's Wilcoxon test.

    The same cells made the clusters and are tested, so the p-values are too small; the order of the genes is what
    counts.

    Parameters
    ----------
    expression
        log1p CP10k, shape (n_cells, n_genes).
    genes
        Names, shape (n_genes,).
    clusters
        Shape (n_cells,). Clusters of one cell are left out: they have no spread to test.
    n_genes
        Genes of each cluster.

    Returns
    -------
    Columns cluster, rank, gene, symbol, score, log2_fold_change, p_adjusted, share_in_cluster, share_elsewhere;
    no rows where there are fewer than two clusters.
    """
    import anndata
    import scanpy

    sizes = pd.Series(clusters).value_counts()
    tested = sorted(sizes.index[sizes > 1], key=_in_number_order)
    if len(sizes) < 2 or not tested:
        return pd.DataFrame(columns=["cluster", "rank", "gene", "symbol"])
    adata = anndata.AnnData(expression, var=pd.DataFrame(index=pd.Index(genes, dtype=str)))
    adata.obs["cluster"] = pd.Categorical(np.asarray(clusters, dtype=str))
    adata.uns["log1p"] = {"base": None}
    scanpy.tl.rank_genes_groups(
        adata, "cluster", groups=tested, method="wilcoxon", n_genes=min(n_genes, adata.n_vars), pts=True
    )
    symbol_of = {row["id"]: row["symbol"] for row in load_gene_table() if row["symbol"]}
    found = [scanpy.get.rank_genes_groups_df(adata, name).assign(cluster=name) for name in tested]
    table = pd.concat([of_cluster.assign(rank=np.arange(1, len(of_cluster) + 1)) for of_cluster in found])
    table = table.rename(columns={
        "names": "gene", "scores": "score", "logfoldchanges": "log2_fold_change", "pvals_adj": "p_adjusted",
        "pct_nz_group": "share_in_cluster", "pct_nz_reference": "share_elsewhere",
    })  # fmt: skip
    table["symbol"] = [symbol_of.get(gene, gene) for gene in table["gene"]]
    columns = ["cluster", "rank", "gene", "symbol", "score", "log2_fold_change", "p_adjusted", "share_in_cluster",
               "share_elsewhere"]  # fmt: skip
    return table[columns].reset_index(drop=True)


def _in_number_order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (-1, name)
