"""Scores: the published numbers of a fixed embedding, and cases that can be worked out by hand."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse

from scdmc.cells.scores import (
    classification_scores,
    clustering_scores,
    integration_scores,
    mean_metrics,
    metric_rows,
    open_set_auroc,
    per_class_scores,
    with_averages,
)
from scdmc.errors import ScDMCError

GOLDEN_NAMES = {
    "ARI": "ARI",
    "NMI": "NMI",
    "ASW_label": "ASW_cell",
    "ASW_batch": "ASW_batch",
    "graph_connectivity": "GraphConn",
    "AvgBIO": "Avg_Bio",
    "AvgBATCH": "Avg_batch",
    "overall": "overall_score",
}

TRUE = np.array(["a", "a", "a", "a", "b", "b", "c"])
PREDICTED = np.array(["a", "a", "a", "b", "b", "b", "a"])


@pytest.fixture
def golden(golden_arrays):
    return golden_arrays("metrics/metrics.npz")


@pytest.fixture
def two_islands():
    """Two types far apart, each in two batches; the neighbour graph joins neighbours of a type in a ring."""
    generator = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 10)
    embedding = generator.normal(size=(20, 3)) * 0.1 + 10 * (labels == "b")[:, None]
    ring = np.roll(np.eye(10), 1, axis=1)
    connectivities = scipy.sparse.csr_matrix(np.kron(np.eye(2), ring + ring.T))
    return {
        "embedding": embedding,
        "labels": labels,
        "batch": np.tile(["x", "y"], 10),
        "clusters": np.repeat(["0", "1"], 10),
        "connectivities": connectivities,
    }


def test_integration_scores_are_the_golden_ones(golden):
    n_cells = len(golden["labels"])
    connectivities = scipy.sparse.csr_matrix(
        (golden["conn_data"], golden["conn_indices"], golden["conn_indptr"]), shape=(n_cells, n_cells)
    )
    scores = integration_scores(
        golden["embedding"], golden["labels"], golden["batch"], golden["leiden"], connectivities
    )
    expected = {name: float(golden[f"score_{theirs}"]) for name, theirs in GOLDEN_NAMES.items()}
    assert scores == pytest.approx(expected, abs=1e-6)


def test_clustering_scores_agree_with_the_golden_ones(golden):
    scores = clustering_scores(golden["labels"], golden["leiden"], golden["embedding"])
    expected = {name: float(golden[f"score_{GOLDEN_NAMES[name]}"]) for name in ("ARI", "NMI", "ASW_label")}
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_perfect_clusters_score_one_whatever_they_are_called(two_islands):
    scores = clustering_scores(two_islands["labels"], np.repeat(["7", "3"], 10), two_islands["embedding"])
    assert [scores[name] for name in ("ARI", "NMI", "AMI", "homogeneity")] == pytest.approx([1, 1, 1, 1])
    assert scores["ASW_label"] > 0.95


def test_clusters_that_cut_across_the_types_score_nothing(two_islands):
    scores = clustering_scores(two_islands["labels"], two_islands["batch"], two_islands["embedding"])
    assert max(scores[name] for name in ("ARI", "NMI", "AMI", "homogeneity")) < 0.05


def test_a_type_in_pieces_lowers_graph_connectivity_alone(two_islands):
    whole = integration_scores(**two_islands)
    assert whole["graph_connectivity"] == 1
    graph = two_islands["connectivities"].tolil()
    # Cell 0 of type a loses its neighbours: 9 of 10 cells are left in one piece.
    graph[0, :] = 0
    graph[:, 0] = 0
    broken = integration_scores(**two_islands | {"connectivities": graph.tocsr()})
    assert broken["graph_connectivity"] == pytest.approx(0.95)
    unchanged = ("ARI", "NMI", "ASW_label", "ASW_batch")
    assert [broken[name] for name in unchanged] == [whole[name] for name in unchanged]


def test_averages_weigh_biology_six_to_four():
    scores = with_averages({"ARI": 0.9, "NMI": 0.6, "ASW_label": 0.3, "ASW_batch": 1.0, "graph_connectivity": 0.5})
    assert scores["AvgBIO"] == pytest.approx(0.6)
    assert scores["AvgBATCH"] == pytest.approx(0.75)
    assert scores["overall"] == pytest.approx(0.6 * 0.6 + 0.4 * 0.75)


def test_batches_that_share_no_type_cannot_be_scored(two_islands):
    with pytest.raises(ScDMCError, match="no type has cells in two batches"):
        integration_scores(**two_islands | {"batch": two_islands["labels"]})


def test_classification_scores_are_those_worked_out_by_hand():
    # a: precision 3/4, recall 3/4; b: precision 2/3, recall 1; c: never predicted.
    f1 = {"a": 0.75, "b": 0.8, "c": 0.0}
    assert classification_scores(TRUE, PREDICTED) == pytest.approx(
        {
            "accuracy": 5 / 7,
            "balanced_accuracy": (0.75 + 1 + 0) / 3,
            "macro_f1": sum(f1.values()) / 3,
            "weighted_f1": (4 * f1["a"] + 2 * f1["b"] + f1["c"]) / 7,
            "macro_precision": (0.75 + 2 / 3 + 0) / 3,
            "macro_recall": (0.75 + 1 + 0) / 3,
            # By chance (4 * 4 + 2 * 3 + 1 * 0) / 49 of the cells agree.
            "cohen_kappa": (5 / 7 - 22 / 49) / (1 - 22 / 49),
            # (s c - sum p t) / sqrt((s^2 - sum p^2) (s^2 - sum t^2)) of Gorodkin 2004.
            "matthews_correlation": (7 * 5 - 22) / ((49 - 25) * (49 - 21)) ** 0.5,
        }
    )


def test_a_class_that_is_never_predicted_stays_in_the_table():
    table = per_class_scores(TRUE, PREDICTED).set_index("class")
    assert table.index.tolist() == ["a", "b", "c"]
    assert table["cells"].tolist() == [4, 2, 1]
    assert table.loc["c", ["precision", "recall", "f1"]].tolist() == [0, 0, 0]
    assert table.loc["b", ["precision", "recall", "f1"]].tolist() == pytest.approx([2 / 3, 1, 0.8])


def test_a_predicted_class_that_does_not_exist_costs_macro_f1_but_no_recall():
    scores = classification_scores(np.array(["a", "a", "b"]), np.array(["a", "x", "b"]))
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert scores["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2)


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        (["a", "b"], ["a"], "true 2, predicted 1"),
        ([], [], "true 0, predicted 0"),
        (["a", None, np.nan], ["a", "b", "a"], "true: 2 cells have no value"),
    ],
)
def test_cells_that_cannot_be_scored_are_an_error(true, predicted, message):
    with pytest.raises(ScDMCError, match=message):
        classification_scores(np.array(true, dtype=object), np.array(predicted, dtype=object))


def test_one_type_cannot_be_scored():
    with pytest.raises(ScDMCError, match="at least two types"):
        clustering_scores(["a"] * 4, ["0", "1", "0", "1"], np.zeros((4, 2)))


def test_several_runs_are_averaged_with_the_standard_deviation_of_a_sample():
    runs = [metric_rows("annotation", "ours", {"macro_f1": value}) for value in (0.5, 0.7, 0.9)]
    (row,) = mean_metrics(runs)
    assert (row["value"], row["sd"], row["runs"]) == (pytest.approx(0.7), pytest.approx(0.2), 3)
    assert mean_metrics(runs[:1]) == runs[0]


def test_confidence_that_tells_seen_from_unseen_has_an_area_of_1():
    is_seen = np.array([True, True, False, False])
    assert open_set_auroc(np.array([0.9, 0.8, 0.3, 0.2]), is_seen) == 1
    assert open_set_auroc(np.array([0.9, 0.2, 0.8, 0.1]), is_seen) == 0.75
    with pytest.raises(ScDMCError, match="both kinds"):
        open_set_auroc(np.array([0.9]), np.array([True]))


def test_one_class_everywhere_is_no_agreement_beyond_chance():
    scores = classification_scores(np.array(["a", "a"]), np.array(["a", "a"]))
    assert scores["accuracy"] == 1
    assert scores["cohen_kappa"] == scores["matthews_correlation"] == 0


@pytest.mark.slow
def test_scoring_leaves_the_figures_of_others_alone():
    script = (
        "import matplotlib, numpy as np\n"
        "from scdmc.cells.scores import integration_scores\n"
        "from scdmc.cells.clustering import neighbour_graph\n"
        "before = dict(matplotlib.rcParams)\n"
        "points = np.random.default_rng(0).normal(size=(40, 3))\n"
        "labels, batch = np.repeat(['a', 'b'], 20), np.tile(['x', 'y'], 20)\n"
        "integration_scores(points, labels, batch, labels, neighbour_graph(points, 5, 0))\n"
        "assert dict(matplotlib.rcParams) == before\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # scib is imported once in a process
