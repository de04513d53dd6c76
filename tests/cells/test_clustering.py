"""Neighbour graph, Leiden clusters, choice of the resolution and UMAP on three islands of cells."""

import random

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
import torch
from sklearn.metrics import adjusted_rand_score

from scdmc.cells import clustering
from scdmc.cells.clustering import leiden_clusters, neighbour_graph, resolution_by_silhouette, umap_coordinates
from scdmc.cells.leiden import LeidenGraph
from scdmc.errors import ScDMCError

ISLANDS = np.repeat([0, 1, 2], [60, 50, 40])


@pytest.fixture(scope="module")
def embedding():
    centres = np.array([[0, 0, 0, 0], [8, 0, 0, 0], [0, 8, 0, 0]])
    return centres[ISLANDS] + np.random.default_rng(0).normal(size=(len(ISLANDS), 4))


@pytest.fixture(scope="module")
def graph(embedding):
    return neighbour_graph(embedding)


def test_the_graph_is_symmetric_and_joins_near_cells_only(graph):
    assert graph.shape == (150, 150)
    assert abs(graph - graph.T).max() == 0
    rows, columns = graph.nonzero()
    assert (ISLANDS[rows] == ISLANDS[columns]).mean() > 0.99
    assert 0 < graph.data.min() <= graph.data.max() <= 1


def test_more_neighbours_give_a_denser_graph(embedding, graph):
    assert neighbour_graph(embedding, n_neighbors=30).nnz > 1.5 * graph.nnz


def test_leiden_finds_the_islands(graph):
    clusters = leiden_clusters(graph, resolution=0.1)
    assert clusters.dtype.kind == "U"
    assert adjusted_rand_score(ISLANDS, clusters) == 1
    assert sorted(set(clusters)) == ["0", "1", "2"]


def test_a_higher_resolution_gives_more_clusters(graph):
    assert len(np.unique(leiden_clusters(graph, 3.0))) > len(np.unique(leiden_clusters(graph, 0.1)))


def test_a_graph_built_once_gives_the_clusters_of_scanpy_and_leaves_its_random_numbers_alone(graph):
    import igraph

    built = LeidenGraph(graph)
    for resolution, seed in ((0.1, 42), (3.0, 42), (3.0, 7)):
        adata = anndata.AnnData(obs=pd.DataFrame(index=[str(row) for row in range(len(ISLANDS))]))
        scanpy.tl.leiden(adata, resolution, adjacency=graph, random_state=seed, flavor="igraph", n_iterations=2,
                         directed=False)  # fmt: skip
        assert built.clusters(resolution, seed).tolist() == adata.obs["leiden"].tolist()
    random.seed(0)
    expected = random.random()
    random.seed(0)
    built.clusters(1.0, 1)
    assert random.random() == expected
    random.seed(0)
    before = random.getstate()
    igraph.Graph.Erdos_Renyi(n=20, p=0.5)
    assert random.getstate() != before  # igraph draws from Python's numbers again


def test_clusters_and_coordinates_repeat_for_a_seed(embedding, graph):
    assert np.array_equal(leiden_clusters(graph, 2.0, seed=3), leiden_clusters(graph, 2.0, seed=3))
    first = umap_coordinates(embedding, graph, seed=3)
    assert np.array_equal(first, umap_coordinates(embedding, graph, seed=3))
    assert not np.array_equal(first, umap_coordinates(embedding, graph, seed=4))


@pytest.mark.parametrize("resolutions", [[0.1, 1.5, 4.0], [4.0, 1.5, 0.1]])
def test_the_silhouette_chooses_the_resolution_of_the_islands(embedding, graph, resolutions):
    assert resolution_by_silhouette(embedding, graph, resolutions) == 0.1


def test_a_sample_of_the_cells_is_enough_to_choose(embedding, graph, monkeypatch):
    monkeypatch.setattr(clustering, "SILHOUETTE_CELLS", 60)
    sizes = []

    def recording_silhouette(values, clusters):
        sizes.append((len(values), len(clusters)))
        return 1 / len(np.unique(clusters))

    monkeypatch.setattr(clustering, "silhouette_score", recording_silhouette)
    assert resolution_by_silhouette(embedding, graph, [4.0, 0.1]) == 0.1
    assert sizes == [(60, 60), (60, 60)]


def test_resolutions_that_leave_one_cluster_cannot_be_chosen(embedding):
    graph = neighbour_graph(embedding[:60])
    with pytest.raises(ScDMCError, match=r"no resolution gives two clusters or more \(tried: 0.001\)"):
        resolution_by_silhouette(embedding[:60], graph, [0.001])


@pytest.mark.parametrize("graph_given", [True, False])
def test_islands_stay_apart_on_the_map(embedding, graph, graph_given):
    coordinates = umap_coordinates(embedding, graph if graph_given else None)
    assert coordinates.shape == (150, 2)
    centres = np.array([coordinates[island == ISLANDS].mean(axis=0) for island in range(3)])
    nearest = np.linalg.norm(coordinates[:, None] - centres[None], axis=2).argmin(axis=1)
    assert (nearest == ISLANDS).mean() > 0.98


def test_values_that_are_not_finite_are_refused(embedding):
    spoilt = embedding.copy()
    spoilt[[3, 9], 0] = [np.nan, np.inf]
    with pytest.raises(ScDMCError, match=r"embedding of 2 cells is not finite \(first rows: 3, 9\)"):
        neighbour_graph(spoilt)


def test_more_neighbours_than_cells_are_refused(embedding):
    with pytest.raises(ScDMCError, match="15 neighbours need more than 15 cells"):
        neighbour_graph(embedding[:15])


def test_more_cells_than_scanpy_searches_exactly_by_itself():
    points = np.random.default_rng(0).normal(size=(4_100, 3))
    assert neighbour_graph(points).shape == (4_100, 4_100)


def test_a_map_leaves_the_threads_of_torch_as_they_are():
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2):  # numba takes as many as there are processors
            torch.set_num_threads(n_threads)
            umap_coordinates(np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32))
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
