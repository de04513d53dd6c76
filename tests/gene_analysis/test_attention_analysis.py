"""Attention: sums against the eager matrix, a planted reader, attributions that add up, marker recovery by hand."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from scdmc.errors import ScDMCError
from scdmc.gene_analysis.attention_analysis import (
    ATTRIBUTED_EXPRESSION,
    EXPRESSION,
    SCORES,
    AttentionResults,
    analyse_attention,
)
from scdmc.gene_analysis.attention_maps import head_properties, received_attention
from scdmc.gene_analysis.attribution import (
    Attributions,
    attention_rollout,
    attribute_genes,
    integrated_gradients,
    type_directions,
)
from scdmc.gene_analysis.marker_recovery import auroc, auroc_at_equal_expression, markers_of_types, recovery_rows
from scdmc.genes.vocabulary import load_vocabulary
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.packing import packed_streams
from tests.gene_analysis.gene_models import cells_of_genes, gene_data, planted_model

CELLS = cells_of_genes([[10, 11, 12], [12, 10, 14, 15], [11, 10, 13], [10, 13]])
LABELS = np.array(["a", "a", "b", "b"])


def eager_matrices(encoder, cell, stream):
    """(n_layers, n_heads, length, length) of one cell, by the public forward pass."""
    packed = packed_streams(CELLS, np.array([cell]), stream)
    encoder.set_attention("eager")
    with torch.no_grad():
        found = encoder(packed.input_ids[None], output_attentions=True).attentions
    encoder.set_attention("auto")
    return torch.cat(found).numpy(), packed.input_ids.numpy()


@pytest.mark.parametrize("stream", ["rank", "expression"])
def test_sums_are_those_of_the_eager_matrix(encoder, stream):
    found = received_attention(encoder, CELLS, LABELS, load_vocabulary(), stream, min_cells=2)
    assert list(zip(found.table["cell_type"], found.table["token"], strict=True)) == [
        ("a", 10), ("a", 12), ("b", 10), ("b", 13)
    ]  # fmt: skip
    for row, (name, token) in enumerate(zip(found.table["cell_type"], found.table["token"], strict=True)):
        columns, from_cls = [], []
        for cell in np.flatnonzero(name == LABELS):
            matrices, ids = eager_matrices(encoder, cell, stream)
            np.testing.assert_allclose(matrices.sum(axis=-1), 1, atol=1e-5)
            place = np.flatnonzero(ids == token)[0]
            columns.append(matrices[..., place].sum(axis=-1))
            from_cls.append(matrices[:, :, 0, place].mean() * len(ids))
        np.testing.assert_allclose(found.by_head[row], np.mean(columns, axis=0), atol=1e-5)
        assert found.table["received"][row] == pytest.approx(np.mean(columns), abs=1e-5)
        assert found.table["from_cls"][row] == pytest.approx(np.mean(from_cls), abs=1e-5)
    assert encoder.attention_back_end != "eager"  # as before


def test_rollout_is_the_product_of_the_layers(encoder):
    matrices, ids = eager_matrices(encoder, 1, "rank")
    rollout = np.eye(len(ids))
    for heads in matrices:
        rollout = (0.5 * heads.mean(axis=0) + 0.5 * np.eye(len(ids))) @ rollout
    found = attention_rollout(encoder, packed_streams(CELLS, np.array([1]), "rank"))
    np.testing.assert_allclose(found, rollout[0], atol=1e-5)
    assert found.sum() == pytest.approx(1, abs=1e-5)


def test_integrated_gradients_add_up_to_the_shift(encoder):
    direction = np.random.default_rng(0).normal(size=16).astype(np.float32)
    found, error = integrated_gradients(encoder, packed_streams(CELLS, np.array([1]), "rank"), direction, 64)
    assert found.shape == (6,)
    assert error < 0.02
    assert found[0] == found[-1] == 0  # the special tokens are in the baseline, too


def test_a_planted_gene_is_what_its_reader_reads():
    model = planted_model(12, factor=5, target=8)
    cells = cells_of_genes([[4, 5, 6, 8, 9], [6, 8, 5, 4, 7]])
    found = received_attention(model.bert, cells, np.array(["a", "a"]), load_vocabulary(), "rank", min_cells=2).table
    assert found.loc[found["received"].idxmax(), "token"] == 5
    heads = head_properties(model.bert, cells, "rank", False)
    assert len(heads) == 1
    assert 0 < heads["entropy"].item() < 1


def test_a_cell_without_genes_is_no_reader(encoder):
    with_empty = cells_of_genes([[10, 11, 12], []])
    expected = head_properties(encoder, cells_of_genes([[10, 11, 12]]), "rank", False)
    pd.testing.assert_frame_equal(head_properties(encoder, with_empty, "rank", False), expected)
    with pytest.raises(ScDMCError, match="none of the cells has a gene"):
        head_properties(encoder, cells_of_genes([[], []]), "rank", False)


def test_attributions_are_means_over_cells(encoder):
    cells = cells_of_genes([[10, 11, 12]] * 3 + [[13, 10, 14]] * 4)
    labels = np.array(["a"] * 3 + ["b"] * 4)
    directions = type_directions(cell_embeddings(encoder, cells, "rank", show_progress=False), labels)
    assert np.linalg.norm(directions["a"]) == pytest.approx(1)
    found = attribute_genes(encoder, cells, labels, directions, load_vocabulary(), "rank", False)
    assert found.table["cells"].tolist() == [3, 3, 3, 4, 4, 4]
    one, _ = integrated_gradients(encoder, packed_streams(cells, np.array([0]), "rank"), directions["a"])
    assert found.table["integrated_gradients"][0] == pytest.approx(one[1], rel=1e-3, abs=1e-5)
    assert -1 <= found.correlation <= 1
    assert found.incompleteness < 0.05


def test_markers_are_found_and_one_type_is_refused():
    generator = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 40)
    counts = generator.poisson(1.0, size=(80, 30)).astype(np.float32)
    counts[:40, :6] += 6
    markers = markers_of_types(scipy.sparse.csr_matrix(np.log1p(counts)), labels)
    assert sorted(markers["a"]) == list(range(6))
    assert len(markers["b"]) == 0
    with pytest.raises(ScDMCError, match="markers need two cell types, and all cells are 'a'"):
        markers_of_types(scipy.sparse.csr_matrix(np.log1p(counts[:40])), labels[:40])


def test_expression_alone_does_not_win_at_equal_expression():
    generator = np.random.default_rng(0)
    expression = np.arange(2000.0)
    is_marker = generator.random(2000) < expression / 4000
    assert auroc(expression, is_marker) > 0.65
    assert auroc_at_equal_expression(expression, is_marker, expression) == pytest.approx(0.5, abs=0.05)
    score = is_marker + generator.normal(size=2000)
    assert auroc_at_equal_expression(score, is_marker, expression) > 0.7
    assert np.isnan(auroc(expression, np.zeros(2000, dtype=bool)))
    table = pd.DataFrame({"cell_type": "a", "token": np.arange(2000), "expression": expression, "score": score})
    (row,) = recovery_rows(table, {"score": "a score"}, {"a": set(np.flatnonzero(is_marker))})
    assert row["auroc"] == pytest.approx(auroc(score, is_marker))
    assert row["markers"] == is_marker.sum()


@pytest.mark.parametrize(
    ("attention", "expression", "says"),
    [(0.67, 0.6, "points at markers weakly"), (0.58, 0.57, "does NOT point"), (0.62, 0.4, "points at markers clearly")],
)
def test_attention_is_judged_against_what_expression_has_at_equal_expression(attention, expression, says):
    scores = {SCORES["received"]: attention, SCORES["from_cls"]: 0.5, EXPRESSION: expression}
    rows = [
        {"cell_type": name, "method": method, "auroc": 0.6, "auroc_at_equal_expression": value}
        for name in "ab"
        for method, value in scores.items()
    ]
    found = AttentionResults(None, None, pd.DataFrame(rows), Attributions(None, 0.1, 0.0), [])
    assert f"Among genes of equal expression it {says}" in found.verdict
    assert "above both in 2 of 2 types" in found.verdict


def test_the_script_writes_tables_figures_and_a_report(load_script, model_path, islets_path, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--model_path", model_path, "--data_path", islets_path, "--output_dir", out, "--min_cells_per_gene", 5]
    options += ["--attribution_cells", 3, "--seed", 7, "--map_cells", 1, "--cell_types", "beta", "alpha"]
    script = load_script("downstream_tasks/attention_analysis.py")
    assert script.main([str(word) for word in options]) == 0
    printed = capsys.readouterr().out
    assert "seed 7" in printed
    assert "Attention received finds the markers" in printed
    genes = pd.read_csv(out / "genes.csv")
    assert {"cell_type", "symbol", "received", "from_cls", "relative", "expression", "is_marker"} <= set(genes)
    recovery = pd.read_csv(out / "marker_recovery.csv")
    assert {"mean expression (baseline)", "attention received", "<cls>: integrated gradients"} <= set(
        recovery["method"]
    )
    n_genes = recovery.set_index(["cell_type", "method"])["genes"].unstack()
    assert (n_genes[ATTRIBUTED_EXPRESSION] == n_genes["<cls>: attention rollout"]).all()
    assert len(pd.read_csv(out / "heads.csv")) == 4
    names = ("top_genes", "marker_recovery", "heads_entropy", "cell_1", "attribution")
    assert all((out / f"{name}.{suffix}").exists() for name in names for suffix in ("png", "pdf"))
    assert script.main([str(word) for word in [*options[:-1], "--overwrite"]]) == 2
    assert "markers need two cell types with enough cells, and there is only 'beta'" in capsys.readouterr().err
    few = [*options, "--overwrite", "--attribution_cells", 2]
    assert script.main([str(word) for word in few]) == 2
    assert "--attribution_cells 2: a gene is looked at where 3 of these cells have it" in capsys.readouterr().err


def test_a_type_of_one_cell_is_refused_before_the_work(encoder):
    data = gene_data(encoder, CELLS, ["a", "a", "a", "b"], load_vocabulary(), None)
    with pytest.raises(ScDMCError, match="b has one cell, and markers need two of each type"):
        analyse_attention(data)
