"""The page of new cells: its verdict, its map, its tables, and what it says of odd input."""

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from scdmc.annotation.annotated_cells import ALL_VIEWS, AnnotatedCells, CellsAsGenes, HeldOutScores
from scdmc.annotation.new_cells_figures import (
    composition_figure,
    dot_plot_figure,
    markers_drawn,
    methods_figure,
    value_map_figure,
)
from scdmc.annotation.new_cells_page import write_new_cells_page
from scdmc.annotation.new_cells_tables import TypeEvidence
from scdmc.annotation.new_cells_verdict import Evidence, verdict_of
from scdmc.cells.group_expression import group_expression, log2_fold_change, marker_columns
from scdmc.reports.cell_map import MappedCells, columns_to_map, interactive_map
from scdmc.reports.provenance import Provenance

METHODS = (ALL_VIEWS, "scDMC, frozen", "logistic regression, genes", "without views")
ODD_NAMES = ["</script><b>&\"'", "T cells 🧬", "=1+1", "x" * 300, "a\u2028b", "$\\alpha_{1$", "other (2 groups)"]


@pytest.fixture(scope="module")
def cells(islets_path):
    """Half of the real cells, labelled by the other half."""
    return labelled_cells(islets_path)


def labelled_cells(islets_path):
    """Half of the real cells, labelled by the other half through a plain logistic regression."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.linear_model import LogisticRegression

    adata = anndata.read_h5ad(islets_path)
    counts = scipy.sparse.csr_matrix(adata.X, dtype=np.float64)
    expression = scipy.sparse.diags(1e4 / np.asarray(counts.sum(axis=1)).ravel()) @ counts
    expression = scipy.sparse.csr_matrix(expression.log1p())
    components = TruncatedSVD(20, random_state=0).fit_transform(expression)
    types = adata.obs["cell_type"].to_numpy(dtype=object)
    is_new = np.arange(len(types)) % 2 == 1
    model = LogisticRegression(max_iter=1000).fit(components[~is_new], types[~is_new])
    probabilities, own = (model.predict_proba(components[part]) for part in (is_new, ~is_new))
    labels = np.where(probabilities.max(axis=1) < 0.5, "Unknown", model.classes_[probabilities.argmax(axis=1)])

    def half(part, name):
        return CellsAsGenes(expression[part], adata.var_names.to_numpy(), adata.obs[part], name, 5000)

    return AnnotatedCells(
        new=half(is_new, "new.h5ad"), reference=half(~is_new, "reference.h5ad"), reference_labels=types[~is_new],
        names=model.classes_, probabilities=probabilities, labels=labels.astype(object), min_probability=0.5,
        familiarity=probabilities.max(axis=1), min_familiarity=0.0, recommended_familiarity=0.9,
        view_labels={METHODS[1]: model.classes_[probabilities.argmax(axis=1)]},
        weights={METHODS[1]: 0.25, METHODS[2]: 0.75}, left_out={"scDMC, fine-tuned": "It was not asked for."},
        held_out=held_out_scores(model.classes_, types[~is_new], own), distance=np.linspace(0, 1, is_new.sum()),
        embedding=components[is_new], umap=components[is_new, :2], facts={"command": "scdmc annotate <new>"},
    )  # fmt: skip


def held_out_scores(names, true, probabilities):
    methods = pd.DataFrame(
        {"weight": [np.nan, 0.25, 0.75, np.nan], "accuracy": 0.9, "macro_f1": [0.9, 0.8, 0.85, 0.88], "log_loss": 0.3,
         "calibration_error": 0.02}, index=list(METHODS),
    )  # fmt: skip
    sizes = [int((true == name).sum()) for name in names]
    types = pd.DataFrame({"n_cells": sizes, "precision": 0.9, "recall": 0.9, "f1": 0.9}, index=list(names))
    labels = np.asarray(names)[probabilities.argmax(axis=1)]
    return HeldOutScores(methods, types, labels, probabilities.max(axis=1), {names[0]: 0.75})


def page_of(tmp_path, cells):
    write_new_cells_page(tmp_path, cells, Provenance())
    return (tmp_path / "report.html").read_text(encoding="utf8")


def points_of(page):
    return json.loads(re.search(r'<script type="application/json" class="points">(.*?)</script>', page, re.S)[1])


def unpacked(text, kind):
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def nothing_held_out():
    return HeldOutScores(pd.DataFrame(), pd.DataFrame(), np.array([]), np.array([]), {})


def test_a_page_leads_from_the_verdict_to_how_it_was_made(cells, tmp_path):
    page = page_of(tmp_path, cells)
    assert re.search(r'<div class="verdict (good|caution|bad)">', page)
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Map of the new cells", "Composition", "Do the markers of the reference rise in the new cells?",
        "Doubtful groups, and what to check by hand", "How much did the language model help?",
        "Types of the reference, held out", "How it was made",
    ]  # fmt: skip
    assert "scdmc annotate &lt;new&gt;" in page
    assert "Left out: scDMC, fine-tuned. It was not asked for." in page
    assert "the language model adds 0.020" in page
    assert "the mean AUROC is 0.750" in page
    names = ("umap_labels", "umap_sureness", "composition", "markers", "methods", "held_out_types", "reliability")
    figures = {f"{name}{suffix}" for name in names for suffix in (".png", ".pdf")}
    assert {file.name for file in tmp_path.iterdir()} == {"report.html"} | figures


def test_the_numbers_stand_beside_their_baselines(cells, tmp_path):
    page = page_of(tmp_path, cells)
    values = re.findall(r'<dd class="value">(.*?)</dd><dd class="beside">(.*?)</dd>', page)
    assert values[0][0] == "0.900"  # as the table of the methods has it
    assert "0.880 for the best method without the language model (without views)" in values[0][1]
    missing = (cells.labels == "Unknown").mean()
    at_recommended = (cells.probabilities.max(axis=1) < 0.9).mean()
    assert values[1][0] == f"{missing:.1%}"
    assert f"{at_recommended:.1%} would be below the recommended familiarity of 0.90" in values[1][1]
    assert values[2][0] == "50%"
    labels = np.where(cells.familiarity < 0.9, "Unknown", cells.labels)
    page = page_of(tmp_path, replace(cells, labels=labels, min_probability=0.0, min_familiarity=0.9))
    assert "below a familiarity of 0.90, as the reference recommends" in page


def test_a_view_of_the_language_model_is_known_in_any_case(cells, tmp_path):
    methods = cells.held_out.methods.rename(index={METHODS[1]: "scdmc"})
    weights = {"scdmc": 0.25, METHODS[2]: 0.75}
    page = page_of(tmp_path, replace(cells, held_out=replace(cells.held_out, methods=methods), weights=weights))
    assert "Views of the language model have 25% of the weight" in page


def test_where_files_lie_apart_the_page_says_once_that_the_model_has_no_part(cells, tmp_path):
    methods = cells.held_out.methods.iloc[[0, 0]].set_axis(["all views", "genes"])
    left_out = dict.fromkeys(("components", "scdmc"), "by their components the cells are told apart")
    apart = replace(cells, left_out=left_out, weights={"genes": 1.0}, held_out=replace(cells.held_out, methods=methods))
    page = page_of(tmp_path, apart)
    assert "The language model has no part in these labels." in page
    assert "Left out: components and scdmc. By their components the cells are told apart" in page


def test_a_page_repeats_and_asks_nothing_of_a_network(cells, tmp_path):
    (tmp_path / "again").mkdir()
    page = page_of(tmp_path, cells)
    assert page == page_of(tmp_path / "again", cells)
    assert not re.search(r"https?://|<link|url\(|@import|<script[^>]*src|fetch\(|XMLHttp", page)
    assert "default-src 'none'" in page


def test_the_map_holds_place_label_second_and_probability_of_each_cell(cells, tmp_path):
    points = points_of(page_of(tmp_path, cells))
    group = points["groups"][0]
    names = np.array(group["names"])
    np.testing.assert_array_equal(names[unpacked(group["codes"], "u1")], cells.labels.astype(str))
    ranked = np.argsort(-cells.probabilities, axis=1, kind="stable")
    is_labelled = cells.labels != "Unknown"
    second = names[unpacked(points["second"], "u1")]
    np.testing.assert_array_equal(second[is_labelled], cells.names[ranked[is_labelled, 1]])
    np.testing.assert_array_equal(names[unpacked(points["best"], "u1")], cells.names[ranked[:, 0]])
    x, y = unpacked(points["x"], "<u2").astype(float), unpacked(points["y"], "<u2").astype(float)
    slope = np.polyfit(cells.umap[:, 0], x, 1)[0]
    np.testing.assert_allclose(x - x[0], slope * (cells.umap[:, 0] - cells.umap[0, 0]), atol=1.1)
    np.testing.assert_allclose(y - y[0], slope * (cells.umap[:, 1] - cells.umap[0, 1]), atol=1.1)
    probability, distance = (unpacked(value["cells"], "u1") for value in points["values"][:2])
    np.testing.assert_allclose(probability / 254, cells.probabilities.max(axis=1), atol=0.003)
    np.testing.assert_allclose(distance / 254, cells.distance, atol=0.003)
    assert sum(group["counts"]) == len(cells.labels)


def test_odd_names_end_no_script_and_come_back_whole(cells, tmp_path):
    new_name = dict(zip(cells.names, ODD_NAMES, strict=False))
    renamed = np.array([new_name.get(name, name) for name in cells.names], dtype=object)
    relabelled, given, held_out = (
        np.array([new_name.get(label, label) for label in labels], dtype=object)
        for labels in (cells.labels, cells.reference_labels, cells.held_out.labels)
    )
    types = cells.held_out.types.rename(index=new_name)
    scores = replace(cells.held_out, types=types, labels=held_out, unseen_auroc={})
    odd = replace(cells, names=renamed, labels=relabelled, reference_labels=given, held_out=scores)
    page = page_of(tmp_path, replace(odd, facts={"file": "half \udce9 character"}))
    assert len(re.findall("<script", page)) == len(re.findall("</script", page)) == 4
    assert "<b>" not in page
    found = set(points_of(page)["groups"][0]["names"])
    assert {name[:120] for name in relabelled} <= found


def test_more_than_255_names_need_two_bytes(tmp_path):
    labels = np.array([f"type {index:03}" for index in range(300)], dtype=object)
    mapped = MappedCells(np.random.default_rng(0).normal(size=(300, 2)), labels, labels, labels[::-1], {})
    points = json.loads(interactive_map(mapped, "", tmp_path / "map.png").points)
    names = np.array(points["groups"][0]["names"])
    assert points["groups"][0]["wide"]
    np.testing.assert_array_equal(names[unpacked(points["second"], "<u2")], labels[::-1].astype(str))


def test_cells_without_a_place_are_left_out_and_the_others_keep_their_rows(tmp_path):
    labels = np.array(["a", None, "b"], dtype=object)
    places = np.array([[0.0, 0.0], [np.nan, 0.0], [1.0, 2.0]])
    columns = {"counts": np.array([np.inf, 0.0, 7.0])}
    mapped = MappedCells(places, labels, labels, labels, {"probability": np.array([1.0, 0.5, np.nan])}, columns=columns)
    points = json.loads(interactive_map(mapped, "", tmp_path / "map.png").points)
    assert points["rows"] == [1, 3]
    # 255 is no number: such a cell has neither the lowest value nor the highest
    assert [unpacked(value["cells"], "u1").tolist() for value in points["values"]] == [[254, 255], [255, 0]]


def test_a_map_has_no_column_that_names_every_cell():
    cells = ["c1", "c2", "c3", "c4"]
    obs = pd.DataFrame({"barcode": cells, "batch": ["a", "b", "a", None], "depth": [1.0, 2.0, 3.0, np.nan]})
    assert list(columns_to_map(obs)) == ["batch", "depth"]


def test_a_hundred_thousand_cells_of_600_types_pack_into_three_megabytes(tmp_path):
    names = np.array([f"a type of cells, number {index}" for index in range(600)], dtype=object)
    rng = np.random.default_rng(0)
    labels = names[rng.integers(0, 600, 100_500)]
    value = rng.random(100_500)
    mapped = MappedCells(
        rng.normal(size=(100_500, 2)), labels, labels, labels, {"probability": value, "distance": value}
    )
    text = interactive_map(mapped, "", tmp_path / "map.png").points
    assert len(text) < 3_000_000
    assert len(json.loads(text)["rows"]) == 100_000


def many_types(n_types, n_cells=1200, n_genes=40):
    """Random cells of many types, labelled as they are."""
    rng = np.random.default_rng(0)
    names = np.array([f"type {index:03} {'long ' * 30}" for index in range(n_types)], dtype=object)
    codes = np.arange(n_cells) % n_types
    expression = scipy.sparse.random(n_cells, n_genes, 0.3, "csr", random_state=0)
    genes = np.array([f"GENE{index}" for index in range(n_genes)])
    part = CellsAsGenes(expression, genes, pd.DataFrame(index=range(n_cells)), "many.h5ad", n_genes)
    probabilities = np.full((n_cells, n_types), 0.2 / n_types)
    probabilities[np.arange(n_cells), codes] += 0.8
    return AnnotatedCells(
        names, probabilities, names[codes], np.ones(n_cells), 0.5, 0.0, {}, {"genes": 1.0}, {}, rng.random(n_cells),
        np.zeros((n_cells, 2)), rng.normal(size=(n_cells, 2)), part, part, names[codes], 0.1, nothing_held_out(), {},
    )  # fmt: skip


def test_600_types_have_a_bounded_page(tmp_path):
    page = page_of(tmp_path, many_types(600))
    assert len(page) < 1_500_000
    assert "more types, in the table below" in page
    assert points_of(page)["groups"][0]["wide"]


def test_one_type_only_is_no_reason_to_trust(tmp_path):
    page = page_of(tmp_path, many_types(1, n_cells=20))
    assert "Do not trust these labels" in page
    assert "the reference has one type only" in page
    assert "There are no markers to look at" in page


def test_cells_of_which_none_has_a_label_have_a_page(cells, tmp_path):
    unknown = np.full(len(cells.labels), "Unknown", dtype=object)
    page = page_of(tmp_path, replace(cells, labels=unknown, min_probability=1.0))
    assert "Do not trust these labels" in page
    assert "100% of the new cells have no label" in page
    assert f"None of the {len(unknown)} new cells has a label" in page


def test_without_held_out_cells_the_page_says_so(cells, tmp_path):
    page = page_of(tmp_path, replace(cells, held_out=nothing_held_out()))
    assert "Nothing is known of how right the labels are" in page
    assert "Most labels can be trusted" not in page
    assert "No reference cells were held out." in page


def test_without_a_table_of_methods_the_held_out_labels_are_scored(cells, tmp_path):
    right = replace(cells.held_out, methods=pd.DataFrame(), labels=cells.reference_labels)
    page = page_of(tmp_path, replace(cells, held_out=right))
    assert "100% got the right label (macro-F1 1.00)" in page


def test_cells_without_counts_and_without_a_place_have_a_page(cells, tmp_path):
    probabilities = cells.probabilities.copy()
    probabilities[0] = np.nan
    umap = np.full_like(cells.umap, np.nan)
    page = page_of(tmp_path, replace(cells, probabilities=probabilities, umap=umap))
    assert "could not be laid out" in page


def evidence_of(**changed):
    usual = {
        "n_types": 5, "accuracy": 0.95, "macro_f1": 0.9, "calibration_error": 0.02, "shared_genes": 10_000,
        "reference_genes": 12_000, "new_genes": 15_000, "share_far": 0.06, "share_unknown": 0.02, "doubtful": (),
        "share_doubtful": 0.0,
    }  # fmt: skip
    return Evidence(**(usual | changed))


@pytest.mark.parametrize(
    ("changed", "level", "words"),
    [
        ({}, "good", "95% got the right label (macro-F1 0.90)"),
        ({"doubtful": ("beta",), "share_doubtful": 0.02}, "good", "Check first: beta (2% of the labelled cells)"),
        ({"accuracy": 0.7}, "caution", "30% of the held-out reference cells got a wrong label"),
        ({"macro_f1": 0.4}, "bad", "the held-out score (macro-F1) is 0.40"),
        ({"calibration_error": 0.2}, "caution", "miss the share of right labels by 20%"),
        ({"shared_genes": 300}, "caution", "only 300 genes are shared"),
        ({"shared_genes": 20}, "bad", "only 20 genes are shared"),
        ({"shared_genes": 5000}, "caution", "58% of the reference&#39;s genes could not be used"),
        ({"share_far": 0.5}, "caution", "50% of the new cells lie far from the reference"),
        ({"share_far": 0.9}, "bad", "90% of the new cells lie far from the reference"),
        ({"share_unknown": 0.6}, "bad", "60% of the new cells have no label"),
        ({"n_types": 1}, "bad", "one type only"),
        ({"accuracy": np.nan, "macro_f1": np.nan, "calibration_error": np.nan}, "caution", "no reference cells were"),
        ({"doubtful": tuple("abcde"), "share_doubtful": 0.3}, "caution", "Check first: a, b, c and 2 more"),
        ({"doubtful": ("a",), "share_doubtful": 0.7}, "bad", "70% of the labelled cells have a doubtful label"),
    ],
)
def test_the_worst_number_makes_the_verdict(changed, level, words):
    verdict = verdict_of(evidence_of(**changed))
    assert verdict.level == level
    assert words.replace("&#39;", "'") in " ".join(verdict.reasons)
    assert 2 <= len(verdict.reasons) <= 3
    assert ("types named below" in verdict.headline) == (level == "caution" and "doubtful" in changed)


def test_labels_that_were_exchanged_are_doubtful(cells):
    honest = TypeEvidence(cells).types
    assert not any("markers" in doubt for doubt in honest.loc["beta", "doubts"])
    exchanged = {"beta": "ductal", "ductal": "beta"}
    labels = np.array([exchanged.get(label, label) for label in cells.labels], dtype=object)
    wrong = TypeEvidence(replace(cells, labels=labels)).types
    for name in exchanged:
        assert any("markers" in doubt for doubt in wrong.loc[name, "doubts"])


def test_rare_far_and_unsure_types_are_doubtful(cells):
    is_beta = cells.labels == "beta"
    distance = np.where(is_beta, 0.99, 0.2)
    probabilities = np.where(is_beta[:, None], 0.5 * cells.probabilities, cells.probabilities)
    types = TypeEvidence(replace(cells, distance=distance, probabilities=probabilities)).types
    assert "most of its cells lie far from the reference" in types.loc["beta", "doubts"]
    assert any("half of its cells have a probability below" in doubt for doubt in types.loc["beta", "doubts"])
    rare = types[types["cells"] < 10]
    assert len(rare)
    assert all(any(doubt.startswith("rare: ") for doubt in doubts) for doubts in rare["doubts"])


def test_pairs_count_the_cells_that_stand_between_two_types(cells):
    pairs = TypeEvidence(cells).close_pairs
    ranked = np.sort(cells.probabilities, axis=1)
    is_close = (cells.labels != "Unknown") & (ranked[:, -2] >= 0.5 * ranked[:, -1])
    assert pairs["cells"].sum() == is_close.sum() > 0
    mistaken = (cells.held_out.labels == pairs["label"][0]) & (cells.reference_labels == pairs["second"][0])
    assert pairs["reference_cells"][0] == mistaken.sum()


def test_markers_are_those_of_scanpy(cells):
    import scanpy

    reference = cells.reference
    codes = pd.Index(cells.names).get_indexer(pd.Index(cells.reference_labels))
    groups = group_expression(reference.expression, codes, len(cells.names))
    ours = marker_columns(groups, 10)
    adata = anndata.AnnData(reference.expression, obs=pd.DataFrame({"type": pd.Categorical(cells.reference_labels)}))
    adata.var_names = reference.genes
    adata.uns["log1p"] = {"base": None}
    scanpy.tl.rank_genes_groups(adata, "type", groups=["beta", "ductal"], method="t-test_overestim_var")
    for name in ("beta", "ductal"):
        theirs = scanpy.get.rank_genes_groups_df(adata, name).set_index("names")["scores"]
        rows = ours[ours["group"] == list(cells.names).index(name)]
        np.testing.assert_allclose(rows["score"], theirs[reference.genes[rows["column"]]], rtol=1e-4)
        assert reference.genes[rows["column"].iloc[0]] in theirs.index[:3]


def test_the_rest_of_a_group_is_all_others():
    expression = scipy.sparse.csr_matrix(np.random.default_rng(0).random((12, 3)))
    codes = np.array([0, 1, 2, -1] * 3)
    rest = group_expression(expression, codes, 3).of_rest()
    others = expression.toarray()[(codes > 0)]
    np.testing.assert_allclose(rest.mean[0], others.mean(axis=0))
    np.testing.assert_allclose(rest.variance[0], others.var(axis=0, ddof=1))
    assert rest.n_cells.tolist() == [6, 6, 6]
    assert log2_fold_change(np.log1p(0.9), np.log1p(0.4)) == pytest.approx(1)


def test_a_dot_plot_frames_the_markers_of_each_label(cells):
    evidence = TypeEvidence(cells)
    drawn = markers_drawn(evidence.markers, evidence.types)
    labels = evidence.types.index[: drawn["place"].max() + 1]
    values = pd.DataFrame(0.5, index=drawn.index, columns=labels)
    axes = dot_plot_figure(drawn, values, values, "t").axes[0]
    assert len(axes.patches) == drawn["type"].nunique()
    assert [label.get_text() for label in axes.get_yticklabels()] == drawn["gene"].tolist()
    first = axes.patches[0]
    assert (first.get_x(), first.get_y()) == (-0.5, -0.5)
    assert len(drawn) <= 45


def test_figures_of_600_types_are_bounded():
    evidence = TypeEvidence(many_types(600))
    types = evidence.types
    figures = [composition_figure(types, {}, "t")]
    methods = pd.DataFrame({"accuracy": 0.5, "macro_f1": 0.5}, index=[f"method {index}" for index in range(100)])
    figures += [
        methods_figure(methods, np.zeros(100, dtype=bool), "t"),
        value_map_figure(np.zeros((3, 2)), {"p": np.ones(3)}, "t"),
    ]
    assert all(figure.get_size_inches().max() < 12 for figure in figures)
    assert markers_drawn(evidence.markers, types)["type"].nunique() <= 20


@pytest.mark.slow
def test_a_browser_runs_the_scripts_of_the_page(cells, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium on this machine")
    page_of(tmp_path, cells)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom",
               f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "report.html").as_uri()]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    legend = re.search(r'<ul class="legend".*?</ul>', dom, re.S)[0]
    beta = (cells.labels == "beta").sum()
    assert f"beta ({beta})" in legend
    assert dom.count("Save as CSV</button>") >= 5
    assert re.search(r'<img class="paper"[^>]*hidden', dom)
