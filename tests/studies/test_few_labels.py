"""The judge of pre-training and its controls: its splits, its embeddings, and the script."""

import numpy as np
import pandas as pd
import pytest
import torch

from scdmc.model.embeddings import cell_embeddings
from scdmc.studies.few_labels import (
    few_label_scores,
    few_label_splits,
    frozen_states,
    judged_embeddings,
    mean_gene_vectors,
)
from tests.training.runs import CELLS, VOCAB_SIZE, make_model

LABELS = np.repeat(["a", "b", "rare", ""], [60, 35, 5, 10])


@pytest.mark.parametrize(("fraction", "n_shown"), [(0.1, {"a": 5, "b": 3}), (1.0, {"a": 48, "b": 28})])
def test_each_split_shows_the_share_of_every_type_and_tests_on_the_same_cells(fraction, n_shown):
    splits = list(few_label_splits(LABELS, fraction, 3))
    whole = list(few_label_splits(LABELS, 1.0, 3))
    for (shown, test), (_, whole_test) in zip(splits, whole, strict=True):
        parts = np.concatenate([shown, test])
        assert len(set(parts)) == len(parts)
        assert set(LABELS[parts]) == {"a", "b"}  # neither rare types nor cells without one
        assert {name: int((LABELS[shown] == name).sum()) for name in n_shown} == n_shown
        assert test.tolist() == whole_test.tolist()
        assert len(test) == 19


def test_scores_tell_signal_from_noise():
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(len(LABELS), 8)).astype(np.float32)
    signal = noise + 4 * (LABELS == "a")[:, None]
    found = few_label_scores(signal, LABELS, (0.1, 1.0), n_splits=2)
    assert found.columns.tolist() == ["fraction", "split", "macro_f1"]
    assert len(found) == 4
    assert found["macro_f1"].min() > 0.95
    assert few_label_scores(noise, LABELS, (1.0,))["macro_f1"].max() < 0.8


def test_frozen_states_are_those_of_the_embedding_functions():
    encoder = make_model(dropout=0.0).bert
    states = frozen_states(encoder, CELLS)
    for pooling in ("cls", "weighted"):
        expected = cell_embeddings(encoder, CELLS, "both", pooling, show_progress=False)
        np.testing.assert_allclose(judged_embeddings(states)[pooling], expected, atol=1e-5)
    widths = {name: values.shape[1] for name, values in judged_embeddings(states).items()}
    assert widths == {"cls": 32, "mean": 32, "weighted": 32, "all poolings": 96, "all poolings, genes too": 128,
                      "all layers": 8 * 32}  # fmt: skip


def test_mean_gene_vectors_are_weighted_by_value():
    vectors = torch.randn(VOCAB_SIZE, 4, generator=torch.Generator().manual_seed(0)).numpy()
    found = mean_gene_vectors(vectors, CELLS)
    stream = slice(CELLS.expression_offsets[3] + 1, CELLS.expression_offsets[4] - 1)
    weights = CELLS.expression_values[stream]
    expected = np.average(vectors[CELLS.expression_ids[stream]], axis=0, weights=weights)
    np.testing.assert_allclose(found[3], expected, atol=1e-5)


def test_the_script_judges_once_and_adds_models_to_one_table(
    load_script, model_directory, islets_path, tmp_path, capsys
):
    judge, output = load_script("benchmarks/controls.py").main, tmp_path / "controls"
    words = ["--data_path", islets_path, "--output_dir", output, "--splits", "2", "--label_fractions", "0.2"]
    words = [str(word) for word in (*words, "--max_length", "32")]
    assert judge(["--model", str(model_directory.path), *words]) == 0
    scores = pd.read_csv(output / "scores.csv")
    assert {"cls", "all poolings", "gene vectors", "PCA of 2,000 variable genes"} <= set(scores["embedding"])
    assert scores["macro_f1"].between(0, 1).all()
    kept = next((output / "scores").iterdir())
    before = kept.read_bytes()
    capsys.readouterr()
    assert judge(["--model", str(model_directory.path), *words]) == 0
    assert kept.read_bytes() == before
    assert "| PCA of 2,000 variable genes |" in capsys.readouterr().out
    assert judge(["--model", str(model_directory.path), *words, "--seed", "7"]) == 2
    assert f"scores of {model_directory.path.name} on islets_300.h5ad with other seed;" in capsys.readouterr().err
