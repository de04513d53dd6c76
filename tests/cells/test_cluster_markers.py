"""Sizes and marker genes of clusters, on real islet cells and on clusters that cannot be tested."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from scdmc.cells.cluster_markers import cluster_sizes, marker_genes
from scdmc.cells.expression import log1p_cp10k
from scdmc.reading.counts import counts_of_adata


@pytest.fixture(scope="module")
def islets(islets_path):
    adata = anndata.read_h5ad(islets_path)
    return adata[adata.obs["cell_type"].isin(["alpha", "beta", "acinar"])].copy()


@pytest.fixture(scope="module")
def clusters(islets):
    return islets.obs["cell_type"].map({"alpha": "0", "beta": "10", "acinar": "2"}).to_numpy(dtype=str)


def test_the_markers_of_islet_cells_are_their_hormones_and_enzymes(islets, clusters):
    expression = log1p_cp10k(counts_of_adata(islets))
    table = marker_genes(expression, islets.var_names.to_numpy(), clusters, n_genes=5)
    assert table.groupby("cluster", sort=False).size().to_dict() == {"0": 5, "2": 5, "10": 5}
    assert table["rank"].tolist() == [1, 2, 3, 4, 5] * 3
    top = table.groupby("cluster")["symbol"].agg(set)
    assert "GCG" in top["0"]
    assert "INS" in top["10"]
    assert {"PRSS1", "CTRB1", "CPA1", "REG1A", "CTRB2", "PRSS3P2", "CPA2", "PNLIP", "CELA3A"} & top["2"]
    gcg = table[(table["cluster"] == "0") & (table["gene"] == "GCG")].iloc[0]
    assert gcg["share_in_cluster"] == pytest.approx((islets[clusters == "0", "GCG"].X > 0).mean())
    assert gcg["log2_fold_change"] > 2


def test_ids_of_genes_are_told_as_symbols(islets, clusters):
    expression = log1p_cp10k(counts_of_adata(islets))[:, [islets.var_names.get_loc("INS")]]
    table = marker_genes(expression, np.array(["ENSG00000254647"]), clusters)
    assert table[["gene", "symbol"]].drop_duplicates().to_numpy().tolist() == [["ENSG00000254647", "INS"]]


def test_a_cluster_of_one_cell_or_one_cluster_alone_has_no_markers():
    expression = scipy.sparse.csr_matrix(np.random.default_rng(0).random((9, 4)), dtype=np.float32)
    genes = np.array(list("abcd"))
    assert set(marker_genes(expression, genes, np.array(["0"] * 4 + ["1"] * 4 + ["2"]))["cluster"]) == {"0", "1"}
    assert marker_genes(expression, genes, np.array(["0"] * 9)).empty


def test_sizes_name_the_most_frequent_label_of_each_cluster():
    clusters = np.array(["0", "0", "0", "0", "1", "1", "2"])
    labels = np.array(["a", "a", "b", None, "b", "b", None], dtype=object)
    table = cluster_sizes(clusters, labels).set_index("cluster")
    assert table["cells"].to_dict() == {"0": 4, "1": 2, "2": 1}
    assert table["share"].sum() == pytest.approx(1)
    assert table["most_frequent_label"].iloc[:2].to_list() == ["a", "b"]
    assert table["share_of_label"].iloc[:2].to_list() == pytest.approx([2 / 3, 1])
    assert pd.isna(table.loc["2", "most_frequent_label"])
    assert list(cluster_sizes(clusters)) == ["cluster", "cells", "share"]
