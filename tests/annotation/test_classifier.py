"""A classifier: learned from labels that it may see, saved, and what it says of each cell."""

import dataclasses
import json

import anndata
import numpy as np
import pytest
import torch

from scdmc.annotation.fine_tuning import fit_classifier, share_of_peak
from scdmc.annotation.options import FineTuningSettings
from scdmc.annotation.prediction import annotate_cells, annotation_columns, likeliest_class, predict_probabilities
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.model.storage import load_model, save_model_directory
from tests.small_models import new_classifier
from tests.task_scripts import arguments_of, run

SETTINGS = FineTuningSettings(
    epochs=4, patience=4, batch_size=8, learning_rate=5e-3, embedding_rate=1000.0, classifier_start="random", seed=0
)


@pytest.mark.slow
def test_fine_tuning_learns_and_keeps_the_best_epoch(model_directory, separable):
    cells, labels, split = separable
    model = new_classifier(model_directory)
    history = fit_classifier(model, cells, labels, split, SETTINGS)
    assert history[-1]["loss"] < history[0]["loss"]
    validation = cells.select(split == "validation")
    names = np.array(["beta", "ductal"])
    predicted = names[predict_probabilities(model, validation, show_progress=False).argmax(axis=1)]
    best = max(
        row["eval_accuracy"] for row in history if row["eval_macro_f1"] == max(r["eval_macro_f1"] for r in history)
    )
    assert (predicted == labels[split == "validation"]).mean() == pytest.approx(best)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["probe", "random"])
def test_labels_of_test_cells_never_reach_the_classifier(model_directory, separable, start):
    cells, labels, split = separable
    settings = dataclasses.replace(SETTINGS, classifier_start=start)
    scrambled = labels.copy()
    scrambled[split == "test"] = np.where(labels[split == "test"] == "beta", "ductal", "beta")
    first, second = new_classifier(model_directory), new_classifier(model_directory)
    fit_classifier(first, cells, labels, split, settings)
    fit_classifier(second, cells, scrambled, split, settings)
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
    fit_classifier(model, *separable, FineTuningSettings(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_pretrained_model_is_no_classifier(scripts, capsys, tmp_path, islets_path, model_path):
    status, error = run(scripts, capsys, "annotate", model_path, islets_path, tmp_path / "out.h5ad")
    assert status == 2
    assert "downstream_tasks.py" in error[0]


@pytest.mark.slow
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
    assert json.loads((tmp_path / "out" / "arguments.json").read_text())["epochs"] == 1
