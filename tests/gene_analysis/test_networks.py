"""Networks: planted effects are ranked first, scores by hand, edges streamed, the script and its errors."""

import networkx
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from scdmc.errors import ScDMCError
from scdmc.file_names import file_names_of
from scdmc.gene_analysis.attention_maps import eager_attention, layer_weights
from scdmc.gene_analysis.edits import edit_genes
from scdmc.gene_analysis.network_evaluation import (
    agreement,
    boosting_scores,
    dense_expression,
    evaluation_rows,
    known_pairs,
    pearson_scores,
)
from scdmc.gene_analysis.network_output import directed_graph, hubs, nearest_genes, topology, write_tables
from scdmc.gene_analysis.network_results import strongest_first
from scdmc.gene_analysis.network_scores import association_scores, attention_scores, perturbation_scores
from scdmc.gene_analysis.networks import network_verdict
from scdmc.gene_analysis.states import GeneEmbeddings, centred_units
from scdmc.model.packing import packed_streams
from tests.gene_analysis.gene_models import cells_of_genes, gene_data, planted_model

GENES = [f"ENSG{i:011d}" for i in range(20)]
FACTOR, TARGET = 7, 15


@pytest.fixture(scope="module")
def data(make_vocabulary):
    """Random cells of 12 genes that all have factor and target, and a model in which the two belong together."""
    generator = np.random.default_rng(0)
    others = [token for token in range(4, 24) if token not in (FACTOR, TARGET)]
    lists = [
        generator.permutation([FACTOR, TARGET, *generator.choice(others, 10, replace=False)]).tolist()
        for _ in range(60)
    ]
    expression = scipy.sparse.csr_matrix((60, 24), dtype=np.float32)
    model = planted_model(24, FACTOR, TARGET)
    return gene_data(model, cells_of_genes(lists), ["a"] * 60, make_vocabulary(GENES), expression)


FACTORS, TARGETS = np.array([5, 6, FACTOR, 9]), np.array([8, 12, TARGET, 20])


def is_planted_first(scores):
    return np.unravel_index(np.nanargmax(scores), scores.shape) == (2, 2)


@pytest.mark.parametrize("stream", ["rank", "expression"])
def test_a_planted_reader_is_ranked_first_by_attention(data, stream):
    scores = attention_scores(data, FACTORS, TARGETS, stream, show_progress=False)
    assert is_planted_first(scores)
    assert scores[2, 2] > 0.5


@pytest.mark.parametrize("edit", ["remove", "raise"])
def test_a_planted_effect_is_ranked_first_by_perturbation(data, edit):
    found = perturbation_scores(data, FACTORS, TARGETS, "rank", edit, 30, show_progress=False)
    if edit == "remove":
        assert is_planted_first(found.effect)
        assert found.effect[2, 2] > 0

    assert (found.cls_shift[found.n_cells > 0] > 0).all()
    assert found.n_cells.max() == 30


def test_seen_against_expected_is_what_the_matrices_say(data):
    few = data.select(np.arange(3))
    scores = attention_scores(few, FACTORS, TARGETS, show_progress=False)
    seen = 0.0
    with eager_attention(few.encoder):
        for cell in range(3):
            packed = packed_streams(few.cells, np.array([cell]), "rank")
            (weights,) = next(iter(layer_weights(few.encoder, packed)))
            ids = packed.input_ids.tolist()
            seen += float(weights.mean(dim=0)[ids.index(TARGET), ids.index(FACTOR)]) * len(ids)
    expected = (seen + 5) / np.exp(scores[2, 2]) - 5
    assert 0 < expected < seen


def test_association_is_the_cosine_of_centred_means():
    means = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    table = pd.DataFrame({"cell_type": "a", "token": [5, 7, 8, 12], "symbol": list("ABCD")})
    embedded = GeneEmbeddings(table, means, means)
    units = centred_units(means)
    found = association_scores(embedded, np.array([5, 9]), np.array([12, 7]))
    np.testing.assert_allclose(found, [[units[0] @ units[3], units[0] @ units[1]], [0, 0]], atol=1e-6)
    (edges,) = nearest_genes(embedded, 1)
    best = [int(np.argmax(np.delete(units @ units[i], i))) for i in range(4)]
    pairs = {tuple(sorted((i, j if j < i else j + 1))) for i, j in enumerate(best)}
    assert {("ABCD".index(a), "ABCD".index(b)) for a, b in zip(edges["gene_a"], edges["gene_b"], strict=True)} == pairs
    assert edges["cosine"][0] == pytest.approx(
        units["ABCD".index(edges["gene_a"][0])] @ units["ABCD".index(edges["gene_b"][0])]
    )


def test_removed_genes_leave_both_streams_and_raised_ones_lead_them():
    cells = cells_of_genes([[9, 5, 7], [6, 8]])
    removed = edit_genes(cells, [np.array([5]), np.array([5])], "remove", 64)
    assert removed.rank_ids.tolist() == [2, 9, 7, 3, 2, 6, 8, 3]
    assert removed.expression_ids.tolist() == [2, 7, 9, 3, 2, 6, 8, 3]
    raised = edit_genes(cells, [np.array([7]), np.array([5])], "raise", 4)
    assert raised.rank_ids.tolist() == [2, 7, 9, 3, 2, 5, 6, 3]  # four tokens fit: the last genes go
    assert raised.expression_ids.tolist() == [2, 7, 9, 3, 2, 5, 6, 3]
    assert raised.expression_values.tolist() == [1, 3, 3, 1, 1, 3, 3, 1]  # the highest value of the cell is 3
    assert raised.rank_offsets.tolist() == [0, 4, 8]
    twice = edit_genes(cells, [np.array([7, 7]), np.array([5, 8, 5])], "raise", 64)
    assert twice.rank_ids.tolist() == [2, 7, 9, 5, 3, 2, 5, 8, 6, 3]
    assert twice.expression_ids.tolist() == [2, 5, 7, 9, 3, 2, 5, 6, 8, 3]
    with pytest.raises(ScDMCError, match="has 3 genes, and no more than 2 can be raised: the model reads 4 tokens"):
        edit_genes(cells, [np.array([5, 7, 8]), np.array([5])], "raise", 4)


def test_baselines_find_a_target_that_follows_its_factor():
    generator = np.random.default_rng(0)
    expression = generator.random(size=(150, 8)).astype(np.float32)
    expression[:, 5] = expression[:, 2] + 0.1 * generator.random(150)
    dense, factors, targets = dense_expression(
        scipy.sparse.csr_matrix(expression), np.array([1, 2, 3]), np.array([5, 6, 2])
    )
    pearson = pearson_scores(dense, factors, targets)
    assert pearson[1, 0] == pytest.approx(abs(np.corrcoef(expression[:, 2], expression[:, 5])[0, 1]), abs=1e-5)
    boosting = boosting_scores(dense, factors, targets)
    assert boosting[:, 0].argmax() == 1
    assert boosting[1, 2] == 0  # no factor explains itself


def test_agreement_with_known_pairs_by_hand():
    scores, known = np.array([4.0, 3, 2, 1]), np.array([True, False, True, False])
    found = agreement(scores, known)
    assert found["auprc_ratio"] == pytest.approx((1 + 2 / 3) / 2 / 0.5)
    assert found["early_precision_ratio"] == pytest.approx(0.5 / 0.5)
    assert found["odds_ratio_top_10%"] == pytest.approx((1 / 0.5) / (1 / 2))  # one pair on top, a known one
    assert known_pairs({5: {7, 8}}, np.array([5, 6]), np.array([7, 9])).tolist() == [[True, False], [False, False]]


def test_equal_scores_gain_nothing_by_the_order_of_the_pairs():
    known = np.arange(1000) < 100
    assert agreement(np.zeros(1000), known)["early_precision_ratio"] < 2  # 10 in the order of the pairs
    only_unknown_on_top = agreement(np.array([3.0, 2, 1]), np.array([False, True, True]))
    assert np.isfinite(list(only_unknown_on_top.values())).all()


def test_the_verdict_says_in_how_many_types_ours_is_above_all_baselines():
    ratios = {"scDMC attention": (3, 1), "scDMC association": (1, 1), "Pearson": (2, 1.1), "random": (1.2, 1.3)}
    ratios["gradient boosting"] = (1, 1)
    rows = [
        {"cell_type": name, "pairs": "all pairs", "method": method, "auprc_ratio": values[place]}
        for method, values in ratios.items()
        for place, name in enumerate("ab")
    ]
    text = network_verdict(pd.DataFrame(rows))
    assert "scDMC attention above all baselines" in text
    assert "Above all baselines of the type: scDMC attention in 1, scDMC association in 0 of 2" in text


def test_random_scores_are_at_chance_and_too_few_known_pairs_are_not_judged():
    known = np.random.default_rng(0).random((40, 50)) < 0.1
    rows = evaluation_rows("a", "all pairs", {"perfect": known.astype(float)}, known, np.ones_like(known), 0)
    by_method = pd.DataFrame(rows).set_index("method")["auprc_ratio"]
    assert by_method["random"] == pytest.approx(1, abs=0.1)
    assert by_method["perfect"] == pytest.approx(1 / known.mean())
    assert evaluation_rows("a", "all pairs", {}, known[:1] & False, np.ones((1, 50), bool), 0) == []


def test_edges_are_streamed_and_hubs_counted(tmp_path):
    edges = pd.DataFrame(
        {"tf": list("AAB"), "target": list("XYX"), "score": [3.0, 2, 1], "is_known": [True, False, False]}
    )
    assert write_tables(tmp_path / "e.csv", iter([edges, edges.head(1)])) == 4
    assert pd.read_csv(tmp_path / "e.csv")["tf"].tolist() == ["A", "A", "B", "A"]
    assert hubs(edges).iloc[0].tolist() == ["A", 2, 1, 2.5]
    numbers = topology(directed_graph(edges))
    assert (numbers["edges"], numbers["genes"], numbers["factors"], numbers["components"]) == (3, 4, 2, 1)
    assert numbers["known_share"] == pytest.approx(1 / 3)


@pytest.fixture
def run(load_script, model_path, islets_path, tmp_path):
    """A function that writes regulons of these factors and runs the script."""
    script = load_script("downstream_tasks/gene_regulatory_network.py")

    def run(factors, *options):
        targets = ["INS", "GCG", "IAPP", "PPP1R1A", "TTR", "CLU", "SST", "PRSS1", "ACTB", "TMSB4X", "B2M", "EEF1A1"]
        pairs = [(tf, target) for tf in factors for target in targets]
        pd.DataFrame(pairs, columns=["tf", "target"]).to_csv(tmp_path / "r.csv", index=False)
        command = ["--model_path", model_path, "--data_path", islets_path, "--output_dir", tmp_path / "out"]
        command += [
            "--regulons",
            tmp_path / "r.csv",
            "--cell_types",
            "beta",
            "alpha",
            "--min_cells_per_gene",
            5,
            *options,
        ]
        return script.main([str(word) for word in command])

    return run


def test_the_script_writes_networks_and_their_agreement(run, tmp_path, capsys):
    torch.manual_seed(0)
    few = ("--n_targets", 40, "--n_factors", 4, "--perturbed_factors", 2, "--perturbed_cells", 3)
    assert run(["INS", "GCG", "TTR", "CLU", "ACTB", "B2M", "TMSB4X"], *few) == 0
    assert "AUPRC ratio" in capsys.readouterr().out
    out = tmp_path / "out"
    edges = pd.read_csv(out / "edges.csv")
    columns = {
        "cell_type",
        "tf",
        "target",
        "is_known",
        "attention",
        "association",
        "perturbation",
        "pearson",
        "boosting",
    }
    assert set(edges) == columns
    assert (edges["tf"] != edges["target"]).all()
    assert set(edges["cell_type"]) == {"alpha", "beta"}
    evaluation = pd.read_csv(out / "evaluation.csv")
    assert {"scDMC attention", "scDMC association", "Pearson", "gradient boosting", "random"} <= set(
        evaluation["method"]
    )
    graph = networkx.read_graphml(out / "graphs" / "beta.graphml")
    assert graph.is_directed()
    assert graph.number_of_edges() == max(1, round(0.01 * (edges["cell_type"] == "beta").sum()))
    assert pd.read_csv(out / "association_edges.csv")["cosine"].between(-1.001, 1.001).all()
    assert len(pd.read_csv(out / "topology.csv")) == 12
    assert all((out / name).exists() for name in ("networks.png", "hubs.pdf", "report.html", "factors.csv", "hubs.csv"))
    assert "gradient boosting in the style of GRNBoost2" in (out / "report.html").read_text(encoding="utf8")
    figures = {f"{name}.{suffix}" for name in ("auprc_all", "odds_all") for suffix in ("png", "pdf")}
    assert all((out / name).exists() for name in figures)
    of_perturbed = ("auprc_perturbed.png", "odds_perturbed.pdf")
    for name in of_perturbed:
        (out / name).touch()
    (out / "mine_auprc_all.png").touch()
    alone = ("--n_targets", 40, "--n_factors", 1, "--perturbed_factors", 0, "--cell_types", "beta", "--overwrite")
    assert run(["TTR"], *alone) == 0  # a factor has 12 known targets at most, of which few are frequent
    assert "so the networks were not judged" in capsys.readouterr().out
    assert not [name for name in (*figures, *of_perturbed) if (out / name).exists()]
    assert (out / "mine_auprc_all.png").exists()
    assert [path.name for path in (out / "graphs").iterdir()] == ["beta.graphml"]


def test_bad_input_is_named(run, capsys):
    assert run(["NOSUCHTF"]) == 2
    assert "none of the 1 transcription factors of" in capsys.readouterr().err
    assert run(["INS"], "--min_cells_per_gene", 28, "--cell_types", "alpha") == 2
    assert "no cell type has a transcription factor in 28 of its cells" in capsys.readouterr().err
    assert run(["PAX6"], "--network_layers", 3) == 2
    assert "--network_layers 3: the model has 1 to 2" in capsys.readouterr().err
    assert run(["INS"], "--graph_score", "perturbation", "--perturbed_factors", 0, "--model", "nowhere") == 2
    assert "--graph_score perturbation needs factors that are perturbed" in capsys.readouterr().err
    assert run(["INS"], "--perturbed_factors", 0, "--perturbed_cells", 8) == 2
    assert "--perturbed_cells has no effect with --perturbed_factors 0; leave it out" in capsys.readouterr().err
    assert run(["GNAS"], "--n_targets", 1, "--perturbed_factors", 0, "--cell_types", "beta") == 2  # all there is
    printed = capsys.readouterr().err
    assert "beta has no graph: no pair has a score of attention" in printed
    assert "no cell type has a pair with a score of attention" in printed


def test_graphs_have_names_of_their_own_and_the_strongest_effects_of_either_sign():
    names = file_names_of(["T/NK", "T NK", "β", "t_nk", "CD4+ T"])
    assert list(names.values()) == ["T_NK", "T_NK_2", "β", "t_nk_3", "CD4+_T"]
    edges = pd.DataFrame({"tf": "A", "target": list("XYZ"), "is_known": False, "perturbation": [0.1, -2.0, np.nan]})
    assert strongest_first(edges, "perturbation")["target"].tolist() == ["Y", "X"]
    edges["attention"] = [0.1, -2.0, 0.2]
    assert strongest_first(edges, "attention")["target"].tolist() == ["Z", "X", "Y"]


def test_a_layer_named_twice_counts_once(data):
    few = data.select(np.arange(5))
    once = attention_scores(few, FACTORS, TARGETS, layers=[0], heads=[0], show_progress=False)
    twice = attention_scores(few, FACTORS, TARGETS, layers=[0, 0], heads=[0, 0], show_progress=False)
    np.testing.assert_array_equal(once, twice)
