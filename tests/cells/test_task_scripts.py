"""The downstream scripts: what they refuse, and what must not change a cell's result."""

import dataclasses
import json
import re
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from scdmc.annotation.fine_tuning import fine_tune, share_of_peak
from scdmc.annotation.options import FineTuningSettings
from scdmc.annotation.prediction import annotate_cells, annotation_columns, likeliest_class, predict_probabilities
from scdmc.cells.data import read_cells
from scdmc.cells.expression import read_expression
from scdmc.cells.results import write_annotated
from scdmc.cells.splits import make_split
from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import DEFAULT_GENE_TABLE_FILE, SPECIAL_TOKENS, Vocabulary, load_vocabulary
from scdmc.integration.comparison import compare_integrations, require_types_in_batches
from scdmc.labels import labels_of
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import open_model_directory
from scdmc.model.heads import ScDMCForCellClassification, ScDMCForMaskedLM
from scdmc.model.packing import pool
from scdmc.model.storage import load_classifier_for_training, load_model, save_model_directory
from scdmc.options import POOLINGS
from scdmc.reading.options import CountOptions
from scdmc.tokens.medians import GeneMedians
from scdmc.tokens.tokenized_cells import TokenizationSettings
from scdmc.tokens.tokenizer import Tokenizer

CONTEXT = 128


def save_tiny_model(path, vocabulary, medians):
    torch.manual_seed(0)
    config = ScDMCConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=CONTEXT,
    )
    settings = TokenizationSettings(vocabulary.sha256, medians.sha256, CONTEXT)
    save_model_directory(path, ScDMCForMaskedLM(config), vocabulary, medians, settings, "a test")
    return path


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    medians = GeneMedians({"ENSG00000254647": 50.0}, source="a test")  # INS
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", load_vocabulary(), medians)


@pytest.fixture(scope="module")
def model_directory(model_path):
    return open_model_directory(model_path)


@pytest.fixture(scope="module")
def classifier_path(tmp_path_factory, model_directory):
    path, d = tmp_path_factory.mktemp("model") / "classifier", model_directory
    save_model_directory(path, new_classifier(d), d.vocabulary, d.medians, d.settings, "a test")
    return path


@pytest.fixture(scope="module")
def encoder(model_path):
    return load_model(model_path, ScDMCModel)


@pytest.fixture(scope="module")
def cells(model_directory, islets_path):
    return read_cells(islets_path, model_directory, ["cell_type", "batch"])


@pytest.fixture(scope="module")
def adata(islets_path):
    return anndata.read_h5ad(islets_path)


@pytest.fixture(scope="module")
def scripts(load_script):
    names = ("downstream_tasks", "annotate", "embed", "cluster", "integration")
    mains = {name: load_script(f"downstream_tasks/{name}.py").main for name in names}
    return mains | {"split_cells": load_script("prepare/split_cells.py").main}


def arguments_of(script, model, data, output):
    return {
        "downstream_tasks": ["--pretrained_model_path", model, "--finetune_data_path", data, "--output_dir", output],
        "annotate": ["--model_path", model, "--data_path", data, "--output_file", output],
        "embed": ["--model_path", model, "--data_path", data, "--output_file", output],
        "cluster": ["--model_path", model, "--data_path", data, "--output_dir", output],
        "integration": ["--model_path", model, "--tokenized_data_path", data, "--output_dir", output],
        "split_cells": ["--data_path", data, "--output_file", output],
    }[script]


def run(scripts, capsys, script, model, data, output, *more):
    status = scripts[script]([str(argument) for argument in (*arguments_of(script, model, data, output), *more)])
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return status, error


WRITES_A_FOLDER = ("downstream_tasks", "cluster", "integration")
ALL_WITH_MODEL = ("downstream_tasks", "annotate", "embed", "cluster", "integration")


@pytest.mark.parametrize("script", ALL_WITH_MODEL)
def test_a_model_folder_without_weights_is_refused(script, scripts, capsys, tmp_path, islets_path):
    (tmp_path / "empty").mkdir()
    status, error = run(scripts, capsys, script, tmp_path / "empty", islets_path, tmp_path / "out.h5ad")
    assert (status, len(error)) == (2, 1)
    assert "no weights" in error[0]
    assert not (tmp_path / "out.h5ad").exists()


@pytest.mark.parametrize("script", ALL_WITH_MODEL)
def test_more_gpus_than_there_are_is_refused(
    script, scripts, capsys, tmp_path, islets_path, model_path, classifier_path
):
    model = classifier_path if script == "annotate" else model_path
    status, error = run(scripts, capsys, script, model, islets_path, tmp_path / "out.h5ad", "--num_gpus", "99")
    assert (status, len(error)) == (2, 1)
    assert "--num_gpus 99" in error[0]


@pytest.mark.parametrize("script", [*ALL_WITH_MODEL, "split_cells"])
def test_an_existing_output_is_kept_without_overwrite(script, scripts, capsys, tmp_path, islets_path, model_path):
    output = tmp_path / "out"
    precious = output / "kept.csv" if script in WRITES_A_FOLDER else output
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious")
    status, error = run(scripts, capsys, script, model_path, islets_path, output)
    assert (status, len(error)) == (2, 1)
    assert "--overwrite" in error[0]
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("script", ["downstream_tasks", "cluster", "integration", "split_cells"])
def test_a_missing_label_column_is_refused_with_the_columns_there_are(
    script, scripts, capsys, tmp_path, islets_path, model_path
):
    status, error = run(
        scripts, capsys, script, model_path, islets_path, tmp_path / "out", "--label_key", "no_such_column"
    )
    assert (status, len(error)) == (2, 1)
    assert "no_such_column" in error[0]
    assert "cell_type" in error[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", ["downstream_tasks", "cluster", "integration", "split_cells"])
@pytest.mark.parametrize(("label", "said"), [("beta", "beta"), ("", "no label at all|is empty for all 300 cells")])
def test_labels_of_fewer_than_two_classes_are_refused_before_anything_is_computed(
    script, label, said, scripts, capsys, tmp_path, adata, model_path
):
    one = adata.copy()
    one.obs["cell_type"] = label
    one.write_h5ad(tmp_path / "one.h5ad")
    output = tmp_path / "out"
    status, error = run(scripts, capsys, script, model_path, tmp_path / "one.h5ad", output, "--label_key", "cell_type")
    assert (status, len(error)) == (2, 1)
    assert re.search(said, error[0])
    assert "[]" not in error[0]
    assert not output.exists()


def test_an_empty_label_is_no_label():
    column = pd.Series(["beta", "", None, np.nan, 3], dtype=object)
    assert labels_of(column).tolist() == ["beta", None, None, None, "3"]
    assert labels_of(column.astype("category")).tolist() == ["beta", None, None, None, "3"]


def test_one_batch_is_refused_by_integration(scripts, capsys, tmp_path, adata, model_path):
    one = adata.copy()
    one.obs["batch"] = "only"
    one.write_h5ad(tmp_path / "one.h5ad")
    status, error = run(scripts, capsys, "integration", model_path, tmp_path / "one.h5ad", tmp_path / "out")
    assert status == 2
    assert "only" in error[0]


def test_data_tokenized_with_another_vocabulary_are_refused(
    scripts, capsys, tmp_path, islets_path, model_path, load_script
):
    tokens = list(load_vocabulary().tokens)
    other = Vocabulary({token: i for i, token in enumerate([*SPECIAL_TOKENS, *reversed(tokens[4:])])}, source="other")
    other.save(tmp_path / "other.json")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "islets.h5ad").symlink_to(islets_path)
    tokenize = load_script("tokenizer/tokenizer_combine.py").main
    tokenize(["--input_directory", str(tmp_path / "in"), "--output_directory", str(tmp_path),
              "--output_prefix", "other_data", "--token_dictionary_file", str(tmp_path / "other.json")])  # fmt: skip
    status, error = run(scripts, capsys, "embed", model_path, tmp_path / "other_data.parquet", tmp_path / "out.h5ad")
    assert status == 2
    assert "another vocabulary" in error[0]
    assert "other_data.parquet" in error[0]
    assert str(model_path) in error[0]


def test_a_pretrained_model_is_no_classifier(scripts, capsys, tmp_path, islets_path, model_path):
    status, error = run(scripts, capsys, "annotate", model_path, islets_path, tmp_path / "out.h5ad")
    assert status == 2
    assert "downstream_tasks.py" in error[0]


def test_gene_order_symbols_or_ids_do_not_change_an_embedding(tmp_path, adata, model_directory, encoder, cells):
    table = pd.read_csv(DEFAULT_GENE_TABLE_FILE, index_col="id")
    id_of = {symbol: gene_id for gene_id, symbol in table["symbol"].drop_duplicates(keep=False).items()}
    shuffled = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    shuffled.var["ensembl_id"] = [id_of.get(name, "") for name in shuffled.var_names]
    shuffled.write_h5ad(tmp_path / "shuffled.h5ad")
    other = read_cells(tmp_path / "shuffled.h5ad", model_directory)
    np.testing.assert_allclose(cell_embeddings(encoder, other), cell_embeddings(encoder, cells), atol=1e-6)


def test_the_other_cells_of_a_batch_do_not_change_an_embedding(encoder, cells):
    together = cell_embeddings(encoder, cells)
    some = np.array([7, 3, 250])
    np.testing.assert_allclose(cell_embeddings(encoder, cells.select(some)), together[some], atol=1e-5)


def test_embedding_an_h5ad_and_its_parquet_give_the_same(
    tmp_path, islets_path, model_path, encoder, cells, load_script
):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "islets.h5ad").symlink_to(islets_path)
    load_script("tokenizer/tokenizer_combine.py").main(
        ["--input_directory", str(tmp_path / "in"), "--output_directory", str(tmp_path), "--output_prefix", "islets",
         "--gene_median_file", str(model_path / "gene_medians.json")])  # fmt: skip
    from_parquet = read_cells(tmp_path / "islets.parquet", open_model_directory(model_path))
    np.testing.assert_array_equal(cell_embeddings(encoder, from_parquet), cell_embeddings(encoder, cells))


def test_both_streams_are_the_two_streams_joined(encoder, cells):
    few = cells.select(np.arange(5))
    both = cell_embeddings(encoder, few, "both")
    np.testing.assert_allclose(both[:, :16], cell_embeddings(encoder, few, "rank"), atol=1e-6)
    np.testing.assert_allclose(both[:, 16:], cell_embeddings(encoder, few, "expression"), atol=1e-6)


def test_mean_pooling_is_the_mean_of_the_genes_without_special_tokens(encoder, cells):
    from scdmc.model.packing import packed_streams

    packed = packed_streams(cells, np.array([0, 1]), "rank")
    states = torch.randn(len(packed.input_ids), 4)
    first = packed.layout.lengths[0]
    pooled = pool(states, packed, "mean")
    torch.testing.assert_close(pooled[0], states[1 : first - 1].mean(dim=0))
    torch.testing.assert_close(pooled[1], states[first + 1 : -1].mean(dim=0))


def test_weighted_pooling_weights_the_same_genes_in_both_streams_by_their_values(cells):
    from scdmc.model.packing import packed_streams

    packed = packed_streams(cells, np.array([3, 0]), "both", with_gene_values=True)
    value_of_gene = torch.zeros(100_000, 1)
    parts = torch.split(torch.arange(len(packed.input_ids)), list(packed.layout.lengths))
    for cell, rank, expression in ((3, parts[0], parts[2]), (0, parts[1], parts[3])):
        span = slice(cells.expression_offsets[cell] + 1, cells.expression_offsets[cell + 1] - 1)
        ids, values = cells.expression_ids[span].astype(np.int64), torch.from_numpy(cells.expression_values[span])
        assert (values > 0).all()
        assert packed.gene_values[expression[1:-1]].tolist() == values.tolist()
        value_of_gene[ids, 0] = values
        assert packed.gene_values[rank[1:-1]].tolist() == value_of_gene[packed.input_ids[rank[1:-1]], 0].tolist()
        assert packed.gene_values[torch.stack([rank[[0, -1]], expression[[0, -1]]])].tolist() == [[0, 0], [0, 0]]
    states = torch.randn(100_000, 4)[packed.input_ids]
    pooled = pool(states, packed, "weighted")
    torch.testing.assert_close(pooled[:2], pooled[2:])
    genes = parts[1][1:-1]
    weights = packed.gene_values[genes][:, None]
    torch.testing.assert_close(pooled[1], (states[genes] * weights).sum(dim=0) / weights.sum())


def test_an_empty_cell_is_embedded_and_annotated_like_any_other(tmp_path, adata, model_directory, encoder):
    with_empty = adata[:3].copy()
    with_empty.X[1] = 0
    with_empty.obs["n_counts"] = np.asarray(with_empty.X.sum(axis=1)).ravel()
    with_empty.write_h5ad(tmp_path / "empty.h5ad")
    cells = read_cells(tmp_path / "empty.h5ad", model_directory)
    assert cells.rank_lengths[1] == 2
    for pooling in POOLINGS:
        assert np.isfinite(cell_embeddings(encoder, cells, pooling=pooling)).all()


def test_cells_that_were_filtered_out_get_missing_results(tmp_path, adata, model_directory, encoder):
    filtered = adata[:6].copy()
    filtered.obs["filter_pass"] = [1, 0, 1, 1, 0, 1]
    filtered.obs_names = ["same"] * 6  # rows, not names, tell cells apart
    filtered.write_h5ad(tmp_path / "filtered.h5ad")
    cells = read_cells(tmp_path / "filtered.h5ad", model_directory)
    embeddings = cell_embeddings(encoder, cells)
    names = np.array(["a", "b", "c", "d"], dtype=object)
    output = tmp_path / "out.h5ad"
    write_annotated(output, tmp_path / "filtered.h5ad", cells, {"type": names}, {"X_scDMC": embeddings})
    result = anndata.read_h5ad(output)
    assert result.obs["type"].isna().tolist() == [False, True, False, False, True, False]
    assert result.obs["type"].dropna().tolist() == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(
        np.isnan(result.obsm["X_scDMC"]).any(axis=1), [False, True, False, False, True, False]
    )
    np.testing.assert_array_equal(result.obsm["X_scDMC"][[0, 2, 3, 5]], embeddings)


def test_expression_for_the_baselines_is_log1p_cp10k_of_all_genes(adata, islets_path, model_directory, cells):
    expression, genes = read_expression(islets_path, cells, model_directory, CountOptions())
    expected = np.log1p(adata.X.toarray() / adata.obs["n_counts"].to_numpy()[:, None] * 1e4)
    np.testing.assert_allclose(expression.toarray(), expected, rtol=1e-5)
    assert list(genes) == list(adata.var_names)


def test_expression_read_back_from_parquet_is_that_of_the_counts(tmp_path, islets_path, model_path, load_script):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "islets.h5ad").symlink_to(islets_path)
    load_script("tokenizer/tokenizer_combine.py").main(
        ["--input_directory", str(tmp_path / "in"), "--output_directory", str(tmp_path), "--output_prefix", "islets",
         "--gene_median_file", str(model_path / "gene_medians.json")])  # fmt: skip
    directory = open_model_directory(model_path)
    cells = read_cells(tmp_path / "islets.parquet", directory)
    expression, genes = read_expression(tmp_path / "islets.parquet", cells, directory)
    adata = anndata.read_h5ad(islets_path)
    insulin = np.log1p(np.asarray(adata[:, "INS"].X.todense()).ravel() / adata.obs["n_counts"].to_numpy() * 1e4)
    column = int(np.flatnonzero(genes == "ENSG00000254647")[0])
    np.testing.assert_allclose(expression[:, [column]].toarray().ravel(), insulin, rtol=1e-4)


@pytest.fixture(scope="module")
def separable(cells):
    """Labels that a classifier can learn from few cells: beta against ductal cells."""
    labels = labels_of(cells.obs["cell_type"])
    two = cells.select(np.isin(labels, ["beta", "ductal"]))
    labels = labels_of(two.obs["cell_type"])
    return two, labels, make_split(labels, test_fraction=0.3, validation_fraction=0.2, seed=0)


def new_classifier(model_directory, stream="both"):
    torch.manual_seed(0)
    return load_classifier_for_training(model_directory, ["beta", "ductal"], stream, 0.0)


SETTINGS = FineTuningSettings(
    epochs=4, patience=4, batch_size=8, learning_rate=5e-3, embedding_rate=1000.0, classifier_start="random", seed=0
)


def test_fine_tuning_learns_and_keeps_the_best_epoch(model_directory, separable):
    cells, labels, split = separable
    model = new_classifier(model_directory)
    history = fine_tune(model, cells, labels, split, SETTINGS)
    assert history[-1]["loss"] < history[0]["loss"]
    validation = cells.select(split == "validation")
    names = np.array(["beta", "ductal"])
    predicted = names[predict_probabilities(model, validation, show_progress=False).argmax(axis=1)]
    best = max(
        row["eval_accuracy"] for row in history if row["eval_macro_f1"] == max(r["eval_macro_f1"] for r in history)
    )
    assert (predicted == labels[split == "validation"]).mean() == pytest.approx(best)


@pytest.mark.parametrize("start", ["probe", "random"])
def test_labels_of_test_cells_never_reach_the_classifier(model_directory, separable, start):
    cells, labels, split = separable
    settings = dataclasses.replace(SETTINGS, classifier_start=start)
    scrambled = labels.copy()
    scrambled[split == "test"] = np.where(labels[split == "test"] == "beta", "ductal", "beta")
    first, second = new_classifier(model_directory), new_classifier(model_directory)
    fine_tune(first, cells, labels, split, settings)
    fine_tune(second, cells, scrambled, split, settings)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name


@pytest.mark.parametrize("stream", ["rank", "expression", "both"])
def test_a_saved_classifier_predicts_the_same(tmp_path, model_directory, separable, stream):
    cells, _, _ = separable
    model = new_classifier(model_directory, stream).eval()
    d = model_directory
    save_model_directory(tmp_path / "classifier", model, d.vocabulary, d.medians, d.settings, "a test")
    loaded = load_model(tmp_path / "classifier", ScDMCForCellClassification)
    assert loaded.config.id2label == {0: "beta", 1: "ductal"}
    np.testing.assert_array_equal(
        predict_probabilities(model, cells, show_progress=False),
        predict_probabilities(loaded, cells, show_progress=False),
    )


def test_the_likeliest_class_comes_with_its_margin():
    index, probability, margin = likeliest_class(np.array([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]]))
    assert index.tolist() == [1, 0]
    np.testing.assert_allclose(probability, [0.5, 0.9])
    np.testing.assert_allclose(margin, [0.2, 0.8])


def test_an_unknown_stream_is_refused(encoder, cells):
    with pytest.raises(ScDMCError, match="rank, expression, both"):
        cell_embeddings(encoder, cells, stream="third")


def test_an_h5ad_is_tokenized_as_the_model_was_trained(adata, islets_path, model_directory, cells):
    tokenizer = Tokenizer(model_directory.vocabulary, model_directory.medians, CONTEXT)
    insulin = model_directory.vocabulary.token_ids["ENSG00000254647"]
    assert tokenizer.median_of_token[insulin] == 50.0
    expected = np.log1p(adata[0, "INS"].X.toarray().item() / adata.obs["n_counts"].iloc[0] * 1e4 / 50.0)
    first = slice(cells.expression_offsets[0], cells.expression_offsets[1])
    value = cells.expression_values[first][cells.expression_ids[first] == insulin]
    assert expected > 0
    assert value == pytest.approx(expected, rel=1e-5)
    assert cells.rank_lengths.max() == CONTEXT


@pytest.mark.parametrize("script", ALL_WITH_MODEL)
def test_the_vocabulary_of_a_folder_that_has_none_can_be_named(
    script, scripts, capsys, tmp_path, islets_path, model_path
):
    bare = tmp_path / "bare"
    shutil.copytree(model_path, bare)
    (bare / "token_ids.json").rename(tmp_path / "vocabulary.json")
    status, error = run(scripts, capsys, script, bare, islets_path, tmp_path / "out.h5ad")
    assert status == 2
    assert "--token_dictionary_file" in error[0]
    absent = tmp_path / "absent.json"
    status, error = run(
        scripts, capsys, script, bare, islets_path, tmp_path / "out.h5ad", "--token_dictionary_file", absent
    )
    assert status == 2
    assert str(absent) in error[0]


@pytest.mark.parametrize("script", ["embed", "cluster", "integration"])
def test_an_attention_back_end_that_cannot_run_is_refused(script, scripts, capsys, tmp_path, islets_path, model_path):
    status, error = run(
        scripts, capsys, script, model_path, islets_path, tmp_path / "out.h5ad", "--attention", "flash", "--num_gpus", 0
    )
    assert (status, len(error)) == (2, 1)
    assert "--attention flash" in error[0]


def test_embedding_with_a_named_vocabulary_and_back_end_gives_the_same(
    scripts, capsys, tmp_path, islets_path, model_path, encoder, cells
):
    bare = tmp_path / "bare"
    shutil.copytree(model_path, bare)
    (bare / "token_ids.json").rename(tmp_path / "vocabulary.json")
    status, _ = run(scripts, capsys, "embed", bare, islets_path, tmp_path / "out.h5ad",
                    "--token_dictionary_file", tmp_path / "vocabulary.json", "--attention", "eager")  # fmt: skip
    assert status == 0
    embedded = anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_scDMC"]
    np.testing.assert_allclose(embedded, cell_embeddings(encoder, cells), atol=1e-5)


@pytest.fixture
def two_files(tmp_path, adata):
    """A folder of two files; cells of the second have the names of the first's, and no batch."""
    folder = tmp_path / "counts"
    folder.mkdir()
    adata[:180].write_h5ad(folder / "a.h5ad")
    second = adata[180:].copy()
    second.obs_names = adata.obs_names[: second.n_obs]
    del second.obs["batch"]
    second.write_h5ad(folder / "b.h5ad")
    return folder


def test_one_split_covers_all_files_of_a_folder(scripts, capsys, tmp_path, two_files, adata):
    status, _ = run(scripts, capsys, "split_cells", None, two_files, tmp_path / "split.csv")
    assert status == 0
    table = pd.read_csv(tmp_path / "split.csv")
    assert table["source_file"].tolist() == ["a.h5ad"] * 180 + ["b.h5ad"] * 120
    assert table["label"].tolist() == adata.obs["cell_type"].tolist()
    expected = make_split(labels_of(adata.obs["cell_type"]))
    assert table["split"].tolist() == expected.tolist()


def test_a_split_needs_no_matrix(scripts, capsys, tmp_path, two_files):
    import h5py

    with h5py.File(two_files / "a.h5ad", "a") as file:
        del file["X"]
    assert run(scripts, capsys, "split_cells", None, two_files, tmp_path / "split.csv")[0] == 0


def test_a_file_without_the_group_column_is_no_group_of_its_own(scripts, capsys, tmp_path, two_files):
    status, error = run(scripts, capsys, "split_cells", None, two_files, tmp_path / "split.csv", "--split_by", "batch")
    assert status == 2
    assert "have no group" in error[0]


def test_a_path_that_is_no_h5ad_is_refused_by_split_cells(scripts, capsys, tmp_path):
    status, error = run(scripts, capsys, "split_cells", None, tmp_path / "absent", tmp_path / "split.csv")
    assert (status, "no such file or folder" in error[0]) == (2, True)
    (tmp_path / "text.h5ad").write_text("no HDF5")
    status, error = run(scripts, capsys, "split_cells", None, tmp_path / "text.h5ad", tmp_path / "split.csv")
    assert (status, "not a readable .h5ad" in error[0]) == (2, True)


def test_a_split_of_another_column_is_refused_before_training(scripts, capsys, tmp_path, adata, model_path):
    other = adata.copy()
    other.obs["other"] = np.where(adata.obs["cell_type"] == "beta", "islet", None)
    other.write_h5ad(tmp_path / "cells.h5ad")
    run(scripts, capsys, "split_cells", None, tmp_path / "cells.h5ad", tmp_path / "split.csv")
    status, error = run(scripts, capsys, "downstream_tasks", model_path, tmp_path / "cells.h5ad", tmp_path / "out",
                        "--split_file", tmp_path / "split.csv", "--label_key", "other")  # fmt: skip
    assert status == 2
    assert "other labels" in error[0]
    assert not (tmp_path / "out").exists()


def test_cells_named_alike_are_refused_before_training(scripts, capsys, tmp_path, adata, model_path):
    alike = adata.copy()
    alike.obs_names = ["same", "same", *adata.obs_names[2:]]
    alike.write_h5ad(tmp_path / "alike.h5ad")
    status, error = run(scripts, capsys, "downstream_tasks", model_path, tmp_path / "alike.h5ad", tmp_path / "out")
    assert status == 2
    assert "repeated" in error[0]


def test_fine_tuning_keeps_its_arguments_and_says_which_baseline_is_not_there(
    scripts, capsys, tmp_path, adata, model_path
):
    few = adata[adata.obs["cell_type"].isin(["beta", "ductal"])].copy()[::4]
    few.write_h5ad(tmp_path / "few.h5ad")
    status = scripts["downstream_tasks"](
        ["--pretrained_model_path", str(model_path), "--finetune_data_path", str(tmp_path / "few.h5ad"),
         "--output_dir", str(tmp_path / "out"), "--epochs", "1", "--min_cells_per_type", "3"])  # fmt: skip
    assert status == 0
    assert "without pre-training, fine-tuned; --baselines all" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "arguments.json").read_text())["epochs"] == "1"


def test_cells_without_a_type_are_integrated_but_not_scored(scripts, capsys, tmp_path, adata, model_path):
    partly = adata.copy()
    partly.obs["cell_type"] = partly.obs["cell_type"].astype(object)
    partly.obs["batch"] = partly.obs["batch"].astype(object)
    partly.obs.iloc[:20, partly.obs.columns.get_loc("cell_type")] = ""
    partly.obs.iloc[20:25, partly.obs.columns.get_loc("batch")] = ""
    partly.write_h5ad(tmp_path / "partly.h5ad")
    status, _ = run(scripts, capsys, "integration", model_path, tmp_path / "partly.h5ad", tmp_path / "out")
    assert status == 0
    integrated = anndata.read_h5ad(tmp_path / "out" / "integrated.h5ad")
    for key in ("X_scDMC", "X_pca", "X_harmony"):
        has_embedding = np.isfinite(integrated.obsm[key]).all(axis=1)
        assert np.flatnonzero(~has_embedding).tolist() == list(range(20, 25))


def test_cells_without_a_type_change_no_score():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.array(["a", "b"], dtype=object), 40)
    batch = np.tile(np.array(["x", "y"], dtype=object), 40)
    embedding = rng.normal(size=(80, 3)) + 5 * (labels == "a")[:, None]
    full = compare_integrations({"ours": embedding}, labels, batch)["ours"]
    assert full.scores["ARI"] == pytest.approx(1)
    more = np.vstack([embedding, rng.normal(size=(10, 3))])
    with_unknown = compare_integrations({"ours": more}, [*labels, *["", None] * 5], [*batch, *["x"] * 10])["ours"]
    assert with_unknown.scores == full.scores
    assert with_unknown.graph.shape == (80, 80)


def test_types_that_live_in_one_batch_each_are_refused():
    labels = np.repeat(np.array(["a", "b"], dtype=object), 10)
    with pytest.raises(ScDMCError, match="no type of obs\\['type'\\] has cells in two batches of obs\\['lab'\\]"):
        require_types_in_batches(labels, labels, "type", "lab")


def test_an_empty_cell_has_no_type_and_no_probability():
    names = np.array(["a", "b"], dtype=object)
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    columns = annotation_columns(names, probabilities, np.array([False, True, False]), min_probability=0.7)
    assert columns["scDMC_cell_type"].tolist() == ["a", "Unknown", "Unknown"]
    np.testing.assert_allclose(columns["scDMC_probability"], [0.9, np.nan, 0.6])
    np.testing.assert_allclose(columns["scDMC_margin"], [0.8, np.nan, 0.2])


def test_annotating_says_how_many_cells_are_empty(scripts, capsys, tmp_path, adata, classifier_path):
    with_empty = adata[:4].copy()
    with_empty.X[1] = 0
    with_empty.obs["n_counts"] = np.asarray(with_empty.X.sum(axis=1)).ravel()
    with_empty.write_h5ad(tmp_path / "cells.h5ad")
    arguments = arguments_of("annotate", classifier_path, tmp_path / "cells.h5ad", tmp_path / "out.h5ad")
    assert scripts["annotate"]([str(argument) for argument in arguments]) == 0
    assert "1 cells have no count in any gene of the vocabulary and are Unknown" in capsys.readouterr().out
    called = anndata.read_h5ad(tmp_path / "out.h5ad").obs["scDMC_cell_type"].astype(str)
    assert (called == "Unknown").tolist() == [False, True, False, False]


@pytest.mark.parametrize("stream", ["rank", "both"])
def test_one_pass_gives_probabilities_and_the_embeddings_that_embedding_gives(model_directory, separable, stream):
    cells = separable[0].select(np.arange(20))
    model = new_classifier(model_directory, stream).eval()
    probabilities, embeddings = annotate_cells(model, cells, show_progress=False)
    np.testing.assert_allclose(embeddings, cell_embeddings(model.bert, cells, stream), atol=1e-6)
    logits = model.classifier(torch.from_numpy(embeddings))
    np.testing.assert_allclose(probabilities, logits.softmax(dim=-1).detach().numpy(), atol=1e-6)


def test_the_learning_rate_rises_to_its_peak_over_the_warmup_and_falls_to_0():
    shares = [share_of_peak(step, 4, 12) for step in range(13)]
    np.testing.assert_allclose(shares[:4], [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(np.diff(shares[4:]), -1 / 8)
    assert (max(shares), shares[-1]) == (1.0, 0.0)
    assert [share_of_peak(step, 2, 2) for step in range(3)] == [0.5, 1.0, 0.0]


def test_fine_tuning_leaves_the_random_state_of_the_caller_alone(model_directory, separable):
    model = new_classifier(model_directory)
    before = torch.get_rng_state()
    fine_tune(model, *separable, FineTuningSettings(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_scores_of_an_earlier_run_do_not_survive_a_run_without_labels(scripts, capsys, tmp_path, adata, model_path):
    adata[:60].write_h5ad(tmp_path / "few.h5ad")
    few, output = tmp_path / "few.h5ad", tmp_path / "out"
    run(scripts, capsys, "cluster", model_path, few, output, "--label_key", "cell_type")
    assert (output / "metrics.csv").exists()
    assert (output / "umap_pca.pdf").exists()
    assert (output / "marker_genes.csv").exists()
    status, _ = run(scripts, capsys, "cluster", model_path, few, output, "--overwrite", "--baselines", "none",
                    "--markers", "0")  # fmt: skip
    assert status == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "cluster_sizes.csv", "clustered.h5ad", "clusters.csv", "umap.pdf", "umap.png"]  # fmt: skip


def test_the_report_names_what_is_missing_and_writes_nothing(load_script, capsys, tmp_path):
    report = load_script("downstream_tasks/demo_report.py").main
    assert report(["--demo_directory", str(tmp_path)]) == 2
    assert "pretrained/arguments.json" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_encoder_of_a_classifier_is_not_clustered_as_if_it_had_seen_no_label(
    scripts, capsys, tmp_path, islets_path, classifier_path
):
    status, error = run(scripts, capsys, "cluster", classifier_path, islets_path, tmp_path / "out")
    assert status == 2
    assert "is a classifier, whose encoder saw labels" in error[0]
    assert not (tmp_path / "out").exists()


def test_the_oracle_is_a_row_of_its_own_and_needs_labels(scripts, capsys, tmp_path, islets_path, model_path):
    more = ("--baselines", "none", "--markers", "0", "--oracle")
    status, error = run(scripts, capsys, "cluster", model_path, islets_path, tmp_path / "out", *more)
    assert status == 2
    assert "--label_key" in error[0]
    status, _ = run(
        scripts, capsys, "cluster", model_path, islets_path, tmp_path / "out", *more, "--label_key", "cell_type"
    )
    assert status == 0
    scores = pd.read_csv(tmp_path / "out" / "metrics.csv").pivot(index="method", columns="metric", values="value")
    assert set(scores.index) == {"scDMC zero-shot", "oracle (scDMC zero-shot)"}
    assert scores.loc["oracle (scDMC zero-shot)", "NMI"] >= scores.loc["scDMC zero-shot", "NMI"]


def test_a_resolution_that_was_chosen_is_written_for_each_method(scripts, capsys, tmp_path, adata, model_path):
    adata[:100].write_h5ad(tmp_path / "few.h5ad")
    more = ("--resolution", "auto", "--markers", "0")
    status, _ = run(scripts, capsys, "cluster", model_path, tmp_path / "few.h5ad", tmp_path / "out", *more)
    assert status == 0
    table = pd.read_csv(tmp_path / "out" / "metrics.csv")  # without labels there is nothing else to tell
    assert table["metric"].tolist() == ["resolution", "resolution"]
    chosen = table.set_index("method")["value"]
    assert set(chosen.index) == {"scDMC zero-shot", "PCA of 2,000 variable genes"}
    assert set(chosen) <= {0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0}
    # The same clusters as when it is asked for by its number.
    more = ("--resolution", chosen["scDMC zero-shot"], "--markers", "0", "--baselines", "none")
    status, _ = run(scripts, capsys, "cluster", model_path, tmp_path / "few.h5ad", tmp_path / "same", *more,
                    "--label_key", "cell_type")  # fmt: skip
    assert status == 0
    assert (tmp_path / "same" / "clusters.csv").read_bytes() == (tmp_path / "out" / "clusters.csv").read_bytes()
    assert "resolution" not in set(pd.read_csv(tmp_path / "same" / "metrics.csv")["metric"])
