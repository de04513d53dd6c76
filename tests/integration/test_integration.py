"""The integration benchmark: each method on real cells, adaptation, tables, what is refused."""

import dataclasses
import re
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import scdmc
from scdmc.cells.expression import read_expression, read_raw_counts
from scdmc.cells.scores import full_integration_scores, wide_metrics
from scdmc.cells.splits import cells_in_training, make_split, write_split
from scdmc.errors import ScDMCError
from scdmc.integration import options as integration_options
from scdmc.integration.adaptation import MixedBatchOrder, PairedBatchOrder, adapted_encoder, mutual_neighbours
from scdmc.integration.comparison import centred_batches
from scdmc.integration.data import usable_cells
from scdmc.integration.methods import pca_of_variable_genes, scanorama, scvi
from scdmc.integration.options import AdaptationSettings, IntegrationOptions, require_packages
from scdmc.integration.rows import SAW_LABELS
from scdmc.integration.tables import best_method, summary_lines
from scdmc.labels import labels_of
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import open_model_directory
from scdmc.model.storage import load_classifier_for_training, load_model, save_model_directory
from scdmc.reports.tables import ScoreTable, best_of_columns, latex, markdown, score_texts
from scdmc.result_folders import result_folder
from scdmc.tokens.medians import GeneMedians
from tests.small_models import save_small_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "tiny", CONTEXT, GeneMedians({}, source="a test"))


CONTEXT = 64


@pytest.fixture(scope="module")
def classifier_path(tmp_path_factory, model_directory, cells):
    """A classifier's folder whose split.csv says that it was trained on 70 % of the islets."""
    path, d = tmp_path_factory.mktemp("model") / "classifier", model_directory
    classifier = load_classifier_for_training(d, ["beta", "ductal"], "both", 0.0)
    save_model_directory(path, classifier, d.vocabulary, d.medians, d.settings, "a test")
    labels = labels_of(cells.obs["cell_type"])
    split = make_split(labels, test_fraction=0.6, validation_fraction=0.1)
    write_split(path / "split.csv", cells.obs, labels, split)
    return path


@pytest.fixture(scope="module")
def batch(cells):
    return labels_of(cells.obs["batch"])


@pytest.fixture(scope="module")
def expression(islets_path, cells, model_directory):
    return read_expression(islets_path, cells, model_directory)[0]


@pytest.fixture(scope="module")
def integration(load_script):
    return load_script("downstream_tasks/integration.py").main


def command(model, output, *data):
    """A quick run: one seed, the paper's scores."""
    quick = ["--seeds", "1", "--protocols", "published"]
    return ["--model_path", str(model), "--output_dir", str(output), "--tokenized_data_path", *map(str, data), *quick]


def published(folder):
    """Methods x metrics of the paper's protocol."""
    metrics = pd.read_csv(folder / "metrics.csv")
    return wide_metrics(metrics[metrics["protocol"] == "published"].drop(columns="protocol"))


def separation(embedding, groups):
    """How far apart the means of groups are, in units of the spread of all points."""
    means = [embedding[groups == group].mean(axis=0) for group in np.unique(groups.astype(str))]
    return np.linalg.norm(np.std(means, axis=0)) / np.linalg.norm(embedding.std(axis=0))


def place(model):
    model.set_attention("auto", torch.float32)
    return model


# --- methods


def test_scanorama_brings_batches_together_and_keeps_the_order_of_the_cells(expression, cells, batch):
    pytest.importorskip("scanorama", reason="scanorama is not installed")
    shifted = expression.toarray()
    shifted[batch == "human1_lib1", ::7] += 0.6  # a batch effect
    embedding = scanorama(shifted, batch)
    assert embedding.shape == (300, 100)
    types = labels_of(cells.obs["cell_type"])
    frequent = np.isin(types, ["alpha", "beta", "ductal", "acinar"])
    assert separation(embedding[frequent], types[frequent]) > 3 * separation(embedding, batch)
    assert separation(embedding, batch) < 0.5 * separation(pca_of_variable_genes(shifted), batch)


def test_scvi_embeds_the_counts_and_leaves_the_random_state_alone(islets_path, expression, cells, batch):
    pytest.importorskip("scvi", reason="scvi-tools is not installed")
    counts = read_raw_counts(islets_path, cells)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = scvi(counts, expression, batch, seed=1, epochs=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert first.shape == (300, 10)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, scvi(counts, expression, batch, seed=1, epochs=1))
    assert not np.allclose(first, scvi(counts, expression, batch, seed=2, epochs=1))


def test_raw_counts_are_those_of_the_file(islets_path, cells, adata):
    assert (read_raw_counts(islets_path, cells) != adata.X).nnz == 0
    assert read_raw_counts(Path("tokens.parquet"), cells) is None


def test_scvi_refuses_cells_without_counts_in_its_genes(islets_path, expression, cells, batch):
    pytest.importorskip("scvi", reason="scvi-tools is not installed")
    counts = read_raw_counts(islets_path, cells).tolil()
    counts[[4, 9]] = 0
    with pytest.raises(ScDMCError, match=r"2 cells without any count in the variable genes \(first rows: 4, 9\)"):
        scvi(counts.tocsr(), expression, batch, epochs=1)


def test_a_method_that_is_not_installed_is_refused_with_the_command(monkeypatch):
    monkeypatch.setattr(integration_options, "find_spec", lambda name: None)
    with pytest.raises(ScDMCError, match="pip install scvi-tools scanorama"):
        require_packages(["pca", "scvi", "scanorama"])
    require_packages(["scdmc", "pca"])


def test_an_unknown_method_is_refused():
    with pytest.raises(ScDMCError, match="'bbknn' unknown; there are scdmc, pca"):
        IntegrationOptions(methods=("pca", "bbknn"))


# --- adaptation


def test_adapting_lowers_the_loss_repeats_for_a_seed_and_keeps_the_folder(model_directory, cells, batch, caplog):
    caplog.set_level("INFO")
    weights = (model_directory.path / "model.safetensors").read_bytes()
    few, of_few = cells.select(np.arange(60)), batch[:60]
    settings = AdaptationSettings(steps=6, learning_rate=1e-2)
    first, again = (adapted_encoder(model_directory, few, of_few, settings, 1, place) for _ in range(2))
    after, before = (float(text) for text in caplog.messages[-1].rpartition("loss ")[2].split(", before "))
    assert after < before - 0.1
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    original = load_model(model_directory.path, ScDMCModel).state_dict()
    assert any(not torch.equal(weight, original[name]) for name, weight in first.state_dict().items())
    assert (model_directory.path / "model.safetensors").read_bytes() == weights
    assert not first.training


def test_centred_batches_share_a_mean_and_keep_their_shape():
    rng = np.random.default_rng(0)
    batch = np.repeat(["a", "b"], [40, 20]).astype(object)
    embedding = rng.normal(size=(60, 3)) + np.where(batch == "a", 0.0, 5.0)[:, None]
    centred = centred_batches(embedding, batch)
    for name in ("a", "b"):
        mine = batch == name
        np.testing.assert_allclose(centred[mine].mean(axis=0), embedding.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(centred[mine] - centred[mine][0], embedding[mine] - embedding[mine][0], atol=1e-5)


def test_mixed_batches_hold_every_group_in_its_share_and_each_cell_once():
    groups = np.repeat(["a", "b", "c"], [300, 150, 50])
    order = MixedBatchOrder(np.arange(500), batch_size=20, seed=3, groups=groups)
    batches = order.batches(epoch=0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    counts = np.array([[(groups[chosen] == name).sum() for name in "abc"] for chosen in batches])
    assert (abs(counts - [12, 6, 2]) <= 1).all()
    assert [chosen.tolist() for chosen in batches] == [chosen.tolist() for chosen in order.batches(0)]
    assert [chosen.tolist() for chosen in batches] != [chosen.tolist() for chosen in order.batches(1)]


def test_mutual_neighbours_are_found_across_batches_whatever_their_shift():
    # Directions from the mean of a batch, in degrees: b0 is nearest to a0, b1 to a1, and a2 to b1, which prefers a1.
    angles = {"a": [0, 120, 150, 260], "b": [5, 115, 240, 250]}
    points = {name: np.array([[np.cos(x), np.sin(x)] for x in np.radians(degrees)]) for name, degrees in angles.items()}
    points = {name: values - values.mean(axis=0) for name, values in points.items()}
    embedding = np.concatenate([points["a"], points["b"] + [100, -40]])
    batch = np.repeat(["a", "b"], 4).astype(object)
    pairs = mutual_neighbours(embedding, batch, 1).toarray()
    directions = {name: values / np.linalg.norm(values, axis=1)[:, None] for name, values in points.items()}
    cosines = directions["a"] @ directions["b"].T
    expected = {
        (a, 4 + b) for a in range(4) for b in range(4) if cosines[a].argmax() == b and cosines[:, b].argmax() == a
    }
    assert {(i, j) for i, j in np.argwhere(pairs) if i < j} == expected
    assert (0, 4) in expected
    assert len(expected) in (2, 3)
    assert (pairs == pairs.T).all()
    everything = mutual_neighbours(embedding, batch, 50).toarray()  # more than there are
    assert (everything == (batch[:, None] != batch[None, :])).all()


def test_paired_batches_bring_a_partner_for_each_cell_that_has_one():
    generator = np.random.default_rng(0)
    groups = np.repeat(["a", "b"], 40)
    pairs = mutual_neighbours(generator.normal(size=(80, 3)), groups, 2)
    is_partner = pairs.toarray()
    order = PairedBatchOrder(np.arange(80), 16, 3, groups, pairs)
    for epoch in (0, 1):
        batches = order.batches(epoch)
        assert set(np.concatenate(batches).tolist()) == set(range(80))
        for chosen in batches:
            assert len(chosen) == len(set(chosen.tolist())) <= 16
            alone = ~is_partner[np.ix_(chosen, chosen)].any(axis=1)
            assert not is_partner[chosen[alone]].any()
    assert [batch.tolist() for batch in order.batches(0)] != [batch.tolist() for batch in order.batches(1)]
    assert [batch.tolist() for batch in order.batches(0)] == [batch.tolist() for batch in order.batches(0)]


def test_adapting_with_mutual_neighbours_draws_them_together(model_directory, cells, batch):
    # Few cells of several batches: the pairs are random, so that 60 steps can only learn them by heart.
    chosen = np.random.default_rng(1).permutation(len(batch))[:40]
    few, of_few = cells.select(chosen), batch[chosen]
    space = np.random.default_rng(0).normal(size=(40, 4))
    pairs = mutual_neighbours(space, of_few, 2).toarray()
    others = (of_few[:, None] != of_few[None, :]) & ~pairs

    def nearer_than_others(n_neighbors):
        settings = AdaptationSettings(
            steps=60, learning_rate=1e-2, mlm_weight=0.0, momentum=0.9, mutual_neighbors=n_neighbors
        )
        encoder = adapted_encoder(model_directory, few, of_few, settings, 1, place, space)
        embedding = cell_embeddings(encoder, few, show_progress=False)
        centred = embedding - embedding.mean(axis=0)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        cosines = unit @ unit.T
        return cosines[pairs].mean() - cosines[others].mean()

    assert nearer_than_others(2) > nearer_than_others(0) + 0.1


# --- scores and tables


def test_the_full_table_tells_mixed_from_unmixed_and_kept_from_merged_types():
    pytest.importorskip("scib_metrics", reason="scib-metrics is not installed")
    generator = np.random.default_rng(0)
    labels, batch = np.repeat(["a", "b"], 100), np.tile(["x", "y"], 100)
    noise = generator.normal(size=(200, 5))
    types, shift = 8 * (labels == "b")[:, None], 8 * np.eye(5)[1] * (batch == "y")[:, None]
    unintegrated = noise + types * np.eye(5)[0] + shift
    good = full_integration_scores(noise + types * np.eye(5)[0], unintegrated, labels, batch)
    apart = full_integration_scores(unintegrated, unintegrated, labels, batch)
    merged = full_integration_scores(noise, unintegrated, labels, batch)
    for name in ("iLISI", "kBET", "PCR_comparison"):
        assert good[name] > 0.7 > 0.1 > apart[name], name
        assert merged[name] > 0.7, name
    for name in ("cLISI", "isolated_labels"):
        assert good[name] > merged[name] + 0.2, name
        assert 0 <= merged[name] <= good[name] <= 1, name


@pytest.fixture
def table():
    rows = {"ours_1": [0.8, 0.61, 0.7], "PCA": [0.8, np.nan, 0.6], "merged": [0.01, 0.9, 0.99], SAW_LABELS: [0.9, 1, 1]}
    wide = pd.DataFrame.from_dict(rows, orient="index", columns=["ARI", "AvgBATCH", "overall"])
    fair = np.array([True, True, False, False])
    return ScoreTable("scores", wide.assign(AvgBIO=wide["ARI"]), None, fair)


def test_an_embedding_that_merges_everything_or_saw_labels_is_not_the_best(table):
    assert best_method(table) == "ours_1"
    assert best_method(dataclasses.replace(table, is_fair=np.zeros(4, dtype=bool))) is None
    assert "merged: biology 0.010, batches 0.900, overall 0.990; tells no types apart" in summary_lines(table)


def test_tables_for_pages_and_papers_have_the_best_in_bold(table):
    shown = table.means.loc[["ours_1", "PCA"], ["ARI", "AvgBATCH"]]
    texts = score_texts(shown, pd.DataFrame([[0.0123, np.nan], [0.5, 0]], shown.index, shown.columns))
    assert markdown(texts, best_of_columns(shown)).splitlines() == [
        "| method | ARI | AvgBATCH |",
        "|---|---:|---:|",
        "| ours_1 | **0.800 ± 0.012** | **0.610** |",
        "| PCA | **0.800 ± 0.500** | – |",
    ]
    is_bold = best_of_columns(table.means[["ARI", "AvgBATCH"]], table.is_fair)
    assert is_bold.tolist() == [[True, True], [True, False], [False, False], [False, False]]
    assert r"ours\_1 & \textbf{0.800 $\pm$ 0.012} & \textbf{0.610} \\" in latex(texts, best_of_columns(shown))


def test_bold_is_the_best_and_all_within_its_standard_deviation_and_a_failed_row_says_so():
    means = pd.DataFrame({"a": [0.9, 0.88, 0.8, np.nan]}, index=["best", "near", "far", "broken"])
    deviations = pd.DataFrame({"a": [0.02, 0.5, 0.5, np.nan]}, index=means.index)
    assert best_of_columns(means, None, deviations)[:, 0].tolist() == [True, True, False, False]
    assert best_of_columns(means)[:, 0].tolist() == [True, False, False, False]
    failed = ScoreTable("t", means, deviations, np.ones(4, dtype=bool), {"broken": "no memory"})
    assert failed.texts["a"].tolist()[-2:] == ["0.800 ± 0.500", "failed"]
    assert failed.notes == ["broken failed: no memory"]


# --- the command


def test_methods_can_be_chosen_and_old_figures_of_others_go(integration, tmp_path, model_path, islets_path):
    out = tmp_path / "out"
    with result_folder(out) as earlier:
        (earlier / "umap_harmony.png").write_text("of an earlier run")
    assert integration([*command(model_path, out, islets_path), "--methods", "pca", "--overwrite"]) == 0
    assert set(pd.read_csv(out / "metrics.csv")["method"]) == {"PCA, not integrated"}
    assert not (out / "umap_harmony.png").exists()
    assert (out / "umap_pca.png").exists()


@pytest.fixture
def few_path(tmp_path, adata):
    """The cells of two frequent types."""
    adata[adata.obs["cell_type"].isin(["beta", "ductal"])].write_h5ad(tmp_path / "few.h5ad")
    return tmp_path / "few.h5ad"


def test_adapting_for_a_while_stops_by_the_clock_and_changes_the_embedding(
    integration, tmp_path, model_path, few_path, capsys
):
    more = ["--methods", "scdmc", "--adapt", "encoder", "--adapt_minutes", "0.02", "--adapt_learning_rate", "0.01"]
    more += ["--adapt_batch_size", "4", "--adapt_mutual_neighbors", "5", "--adapt_view_dropout", "0.2"]
    more += ["--adapt_mlm_weight", "0", "--adapt_momentum", "0.9", "--dtype", "bfloat16"]
    assert integration([*command(model_path, tmp_path / "out", few_path), *more]) == 0
    scores = published(tmp_path / "out")
    assert list(scores.index) == ["scDMC zero-shot", "scDMC adapted"]
    assert scores.notna().all().all()
    n_steps = int(re.search(r"adapted in (\d+) steps", capsys.readouterr().err)[1])
    assert 1 <= n_steps < 1000  # 1.2 seconds
    obsm = anndata.read_h5ad(tmp_path / "out" / "integrated.h5ad").obsm
    change = abs(obsm["X_scDMC_adapted"] - obsm["X_scDMC"]).max()
    assert (change > 1e-3) == (n_steps > 1)  # at the start of the clock the learning rate is 0


def test_scvi_on_tokens_is_refused_before_anything_is_computed(
    integration, tmp_path, model_path, islets_path, load_script, capsys
):
    pytest.importorskip("scvi", reason="scvi-tools is not installed")
    (tmp_path / "in").mkdir()
    shutil.copy(islets_path, tmp_path / "in")
    load_script("tokenizer/tokenizer_combine.py").main(
        ["--input_directory", str(tmp_path / "in"), "--output_directory", str(tmp_path), "--output_prefix", "islets",
         "--obs_columns", "batch", "cell_type",
         "--gene_median_file", str(model_path / "gene_medians.json")])  # fmt: skip
    assert integration([*command(model_path, tmp_path / "out", tmp_path / "islets.parquet"), "--methods", "scvi"]) == 2
    told = "islets: scVI needs raw counts, and tokenized parquet has none; give the file of counts"
    assert told in capsys.readouterr().err


def test_data_sets_of_one_name_are_refused(integration, tmp_path, model_path, islets_path, capsys):
    assert integration(command(model_path, tmp_path / "out", islets_path, islets_path)) == 2
    assert "two data sets are called islets_300" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- labels and batches that are not as they should be


def test_a_classifier_is_marked_and_its_training_cells_are_left_out(
    integration, tmp_path, classifier_path, islets_path, model_directory, cells, capsys
):
    assert integration([*command(classifier_path, tmp_path / "out", islets_path), "--methods", "scdmc"]) == 0
    assert set(pd.read_csv(tmp_path / "out" / "metrics.csv")["method"]) == {SAW_LABELS}
    split = pd.read_csv(classifier_path / "split.csv")["split"].to_numpy()
    trained = np.isin(split, ["train", "validation"])
    embedding = anndata.read_h5ad(tmp_path / "out" / "integrated.h5ad").obsm["X_scDMC"]
    assert (np.isfinite(embedding).all(axis=1) == ~trained).all()
    assert f"the {trained.sum()} cells that it was trained on are left out" in capsys.readouterr().err
    arguments = [*command(classifier_path, tmp_path / "other", islets_path), "--adapt", "encoder", "--adapt_steps", "1"]
    assert integration(arguments) == 2
    assert "is a classifier; adapt a pre-trained model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--adapt_steps", "5"], "--adapt_steps has no effect without --adapt encoder; leave it out"),
        (["--adapt_momentum", "0"], "--adapt_momentum has no effect without --adapt encoder; leave it out"),
        (["--batch_balanced"], "--batch_balanced has no effect without --adapt encoder; leave it out"),
        (["--scvi_epochs", "5"], "--scvi_epochs has no effect without scvi among --methods; leave it out"),
    ],
    ids=str,
)
def test_flags_in_vain_are_refused(integration, model_path, tmp_path, islets_path, capsys, flags, message):
    assert integration([*command(model_path, tmp_path / "out", islets_path), *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_classifier_that_does_not_say_what_it_was_trained_on_is_refused(tmp_path, classifier_path, cells):
    shutil.copytree(classifier_path, tmp_path / "classifier")
    (tmp_path / "classifier" / "split.csv").unlink()
    with pytest.raises(ScDMCError, match=r"classifier without split.csv"):
        usable_cells(cells, open_model_directory(tmp_path / "classifier"), "batch", "cell_type")


def test_cells_of_a_renamed_file_are_known_by_their_names(classifier_path, cells):
    by_file = cells_in_training(classifier_path / "split.csv", cells.obs)
    assert 60 < by_file.sum() < 200
    renamed = cells.obs.assign(source_file="other.h5ad")
    assert (cells_in_training(classifier_path / "split.csv", renamed) == by_file).all()
    half = cells.obs.assign(source_file=np.where(np.arange(300) % 2, "other.h5ad", cells.obs["source_file"]))
    assert (cells_in_training(classifier_path / "split.csv", half) == by_file).all()
    strangers = renamed.assign(cell_id=[f"new_{i}" for i in range(300)])
    assert not cells_in_training(classifier_path / "split.csv", strangers).any()


def test_cells_without_batch_alone_in_it_or_without_label_are_named(model_directory, cells, caplog):
    caplog.set_level("INFO")
    changed = cells.select(np.arange(300))
    obs = changed.obs.astype({"batch": object, "cell_type": object})
    obs.loc[[0, 1], "batch"] = None
    obs.loc[2, "batch"] = "lonely"
    obs.loc[range(3, 10), "cell_type"] = np.nan
    changed.__dict__["obs"] = obs
    usable = usable_cells(changed, model_directory, "batch", "cell_type")
    assert np.flatnonzero(~usable).tolist() == [0, 1, 2]
    said = "\n".join(caplog.messages)
    assert "2 of 300 cells have no batch" in said
    assert "alone in their batch: the cells of lonely" in said
    assert "7 of 297 cells have no cell_type and are not scored" in said


def test_batches_of_single_cells_are_refused(model_directory, cells):
    changed = cells.select(np.arange(20))
    changed.__dict__["obs"] = changed.obs.assign(batch=[f"b{i}" for i in range(20)])
    with pytest.raises(ScDMCError, match="puts no two cells into one batch"):
        usable_cells(changed, model_directory, "batch", "cell_type")


# --- in Python


def test_the_function_gives_the_scores_of_the_command_and_adds_embeddings(integration, tmp_path, model_path, few_path):
    few = anndata.read_h5ad(few_path)
    quick = {"seeds": [42], "protocols": ["published"]}
    table = scdmc.integration_benchmark(few, model_path, batch_key="batch", label_key="cell_type", **quick)["published"]
    assert integration(command(model_path, tmp_path / "out", few_path)) == 0
    written = published(tmp_path / "out")
    pd.testing.assert_frame_equal(table, written)
    assert table.loc["Harmony", "overall"] > 0.7
    integrated = anndata.read_h5ad(tmp_path / "out" / "integrated.h5ad")
    for key in ("X_scDMC", "X_pca", "X_harmony"):
        np.testing.assert_allclose(few.obsm[key], integrated.obsm[key], atol=1e-6)
    assert "integration_benchmark" in dir(scdmc)


def test_the_function_writes_the_same_folder_on_request(tmp_path, model_path, adata):
    few = adata[adata.obs["cell_type"].isin(["beta", "ductal"])].copy()
    quick = {"methods": ["pca"], "seeds": [42], "protocols": ["published"], "output_dir": tmp_path / "out"}
    few.obsm["X_mine"] = np.asarray(few.X[:, :5].toarray())
    table = scdmc.integration_benchmark(few, model_path, embeddings=["X_mine"], **quick)
    assert list(table.index) == ["PCA, not integrated", "X_mine"]
    np.testing.assert_array_equal(few.obsm["X_mine"], few.X[:, :5].toarray())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"metrics.csv", "metrics.md", "metrics.tex", "scores.png", "umap_grid.png", "report.html"} <= names
    with pytest.raises(ScDMCError, match="exists already"):
        scdmc.integration_benchmark(few, model_path, **quick)
    with pytest.raises(ScDMCError, match="obsm has no 'X_none'; there are X_mine, X_pca"):
        scdmc.integration_benchmark(few, model_path, embeddings=["X_none"], methods=["pca"])


def test_the_function_refuses_a_missing_column(model_path, adata):
    with pytest.raises(ScDMCError, match="obs has no column 'donor'"):
        scdmc.integration_benchmark(adata, model_path, batch_key="donor", label_key="cell_type")
