"""Silhouettes and neighbours that are computed once for all scores agree with the packages that compute them anew."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import NearestNeighbors

from scdmc.cells import silhouettes as module
from scdmc.cells.clustering import neighbour_graph
from scdmc.cells.label_free_scores import batch_entropy
from scdmc.cells.neighbours import exact_neighbours
from scdmc.cells.scores import full_integration_scores
from scdmc.cells.silhouettes import cosine_silhouettes_of_batches, silhouettes

FEW, MANY = (60, 3, 2), (250, 7, 5)  # cells, types, batches


@pytest.fixture(params=[FEW, MANY], ids=["few", "many"])
def cells(request):
    """Points far from zero, of types that differ; one cell is alone in its type, and two cells are the same."""
    n_cells, n_types, n_batches = request.param
    generator = np.random.default_rng(n_cells)
    types = generator.integers(0, n_types, n_cells)
    batch = generator.integers(0, n_batches, n_cells).astype(str)
    points = generator.normal(size=(n_cells, 12)) + 5 * generator.normal(size=12) + types[:, None]
    labels = types.astype(str)
    labels[0] = "alone"
    points[1] = points[2]
    return points.astype(np.float32), labels, batch


def test_silhouettes_are_those_of_scikit_learn(cells, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 32)
    points, labels, batch = cells
    found = silhouettes(points, labels, batch)
    assert found.types == pytest.approx(silhouette_samples(points.astype(float), labels), abs=1e-9)
    assert sorted(found.batches) == sorted(set(labels) - {"alone"})
    for name, widths in found.batches.items():
        chosen = labels == name
        expected = silhouette_samples(points[chosen].astype(float), batch[chosen])
        assert widths == pytest.approx(expected, abs=1e-9)


def test_bras_is_that_of_scib_metrics(cells):
    scib_metrics = pytest.importorskip("scib_metrics", reason="scib-metrics is not installed")
    points, labels, batch = cells
    bras = np.mean([np.mean(1 - np.abs(widths)) for widths in cosine_silhouettes_of_batches(points, labels, batch)])
    assert bras == pytest.approx(scib_metrics.bras(points, labels, batch), abs=1e-5)  # they reckon in 32 bits


@pytest.mark.parametrize("cells", [FEW], indirect=True)  # each of their compiled functions takes seconds for each shape
def test_isolated_labels_are_those_of_scib_metrics(cells):
    scib_metrics = pytest.importorskip("scib_metrics", reason="scib-metrics is not installed")
    points, labels, batch = (values[1:] for values in cells)
    batch = np.where(labels == "1", "one batch", batch)
    scores = full_integration_scores(points, points, labels, batch)
    assert scores["isolated_labels"] == pytest.approx(scib_metrics.isolated_labels(points, labels, batch), abs=1e-5)


def test_a_cell_of_zeros_has_a_cosine_silhouette():
    points = np.eye(4)[[0, 0, 1, 1, 0, 1]] * [[0], [1], [2], [3], [4], [5]]
    (found,) = cosine_silhouettes_of_batches(points, np.repeat("a", 6), np.array(["x", "x", "y", "y", "x", "y"]))
    assert np.isfinite(found).all()
    assert found[0] == 0  # at distance 1 from its own batch and the other
    assert found[2] == 1


def test_one_search_serves_graph_and_entropy(cells):
    points, batch = cells[0][2:], cells[2][2:]  # of two equal cells either comes first
    found = exact_neighbours(points, 55)
    assert (neighbour_graph(points, 15) != neighbour_graph(points, 15, found=found)).nnz == 0
    assert batch_entropy(points, batch, 50, found) == batch_entropy(points, batch, 50)
    others = NearestNeighbors(n_neighbors=20).fit(points).kneighbors(return_distance=False)
    assert np.array_equal(found.others(20), others)


def test_of_many_equal_cells_none_is_its_own_neighbour():
    found = exact_neighbours(np.zeros((8, 2), dtype=np.float32), 4)
    others = found.others(3)
    assert others.shape == (8, 3)
    assert not (others == np.arange(8)[:, None]).any()
