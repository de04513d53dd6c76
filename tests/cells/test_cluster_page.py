"""Clusters for people: numbers by size, stability, the resolution that it chooses, names."""

import numpy as np
import pandas as pd
import pytest

from scdmc.cells.cluster_page import cluster_names, verdict_of
from scdmc.cells.cluster_results import BASELINE, METHOD, Clustering
from scdmc.cells.cluster_stability import Stability, by_size, resolution_by_stability, stability
from scdmc.cells.clustering import leiden_clusters, neighbour_graph
from scdmc.errors import ScDMCError


@pytest.fixture(scope="module")
def graph():
    generator = np.random.default_rng(0)
    middles = np.repeat(np.eye(3) * 20, [60, 40, 20], axis=0)
    return neighbour_graph(middles + generator.normal(size=(120, 3)), 10)


def test_the_largest_cluster_is_zero_and_ties_go_by_place():
    assert by_size(np.array(["7", "2", "2", "9", "5", "5", "5"])).tolist() == ["2", "1", "1", "3", "0", "0", "0"]


def test_islands_are_stable_and_random_parts_of_them_are_not(graph):
    islands = by_size(leiden_clusters(graph, 0.1))
    found = stability(graph, islands, 0.1, 0)
    assert found.ari == pytest.approx(1)
    assert found.of_cluster == pytest.approx({"0": 1, "1": 1, "2": 1})
    torn = np.where(np.arange(120) % 2 == 0, "0", islands)
    assert stability(graph, torn, 0.1, 0).ari < 0.7


def test_the_finest_stable_resolution_is_chosen(graph):
    table = resolution_by_stability(graph, [0.01, 0.1, 8.0], 0)
    assert table.loc[table["is_chosen"], "resolution"].tolist() == [0.1]
    assert table["clusters"].tolist()[1] == 3
    with pytest.raises(ScDMCError, match=r"two clusters or more \(tried: 0.0001\)"):
        resolution_by_stability(neighbour_graph(np.random.default_rng(0).normal(size=(40, 2)), 10), [0.0001], 0)


def test_clusters_are_named_by_label_and_markers_where_there_are_any():
    sizes = pd.DataFrame(
        {"cluster": ["0", "1"], "most_frequent_label": ["beta", np.nan], "share_of_label": [0.9, np.nan]}
    )
    markers = pd.DataFrame({"cluster": ["0"] * 4 + ["1"], "symbol": ["INS", "IAPP", "DLK1", "X", "SPP1"]})
    assert cluster_names(sizes, markers) == {"0": "0: beta (INS, IAPP, DLK1)", "1": "1: SPP1"}
    assert cluster_names(sizes[["cluster"]], markers[:0]) == {"0": "0", "1": "1"}


def test_a_resolution_that_the_labels_chose_is_no_rival():
    clusters, stable = np.array(["0", "1"]), Stability(0.9, {"0": 0.9, "1": 0.9})
    clustering = Clustering(np.eye(2), None, 1.0, clusters, np.eye(2), stable, None, "umap")
    scores = pd.DataFrame({"ARI": [0.5, 0.4, 0.9]}, [METHOD, BASELINE, f"oracle ({METHOD})"])
    verdict = verdict_of(METHOD, clustering, scores, "cell_type")
    assert verdict.level == "good"
    assert verdict.numbers[-1].beside == f"0.40 for {BASELINE}"
