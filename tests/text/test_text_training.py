"""Training of a text model on made-up cells; its folder, whole and damaged."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import torch

from scdmc.errors import ScDMCError
from scdmc.text import training
from scdmc.text.corpus import read_corpus
from scdmc.text.features import Centre
from scdmc.text.model import TextSpace, read_text_model, unit
from scdmc.text.options import TextTrainingOptions
from scdmc.text.training import LabelledSet, calibrated, train, validation_score
from scdmc.text.training_data import data_sets_to_train_on, training_texts

LINEAR = TextTrainingOptions(projector="linear", max_steps=100, batch_size=16, learning_rate=2e-2)


@pytest.fixture(scope="module")
def space():
    """Six terms whose two texts lie near each other."""
    draw = np.random.default_rng(1)
    vectors = unit(draw.normal(size=(6, 1, 12)) + 0.2 * draw.normal(size=(6, 2, 12)))
    terms = pd.DataFrame({"cl_id": [f"CL:000000{place}" for place in range(6)], "label": list("abcdef")})
    return TextSpace(terms, vectors, "made up", "0" * 64)


def made_up(name, own_terms, n_cells=120, seed=0):
    """Cells of some terms: each term is a direction among eight features."""
    draw = np.random.default_rng(seed)
    terms = np.resize(own_terms, n_cells)
    features = np.eye(8, dtype=np.float32)[terms] * 3 + draw.normal(size=(n_cells, 8)).astype(np.float32) * 0.5
    is_training = np.arange(n_cells) % 5 != 4
    return LabelledSet(name, features - features.mean(axis=0), terms, is_training, scipy.sparse.csr_matrix(features))


@pytest.fixture(scope="module")
def sets():
    return [made_up("one", [0, 1, 2, 3]), made_up("two", [2, 3, 4, 5], seed=1)]


@pytest.mark.parametrize("projector", ["linear", "ridge", "combined"])
def test_cells_find_the_texts_of_their_terms_again_and_again_the_same(sets, space, projector):
    options = replace(LINEAR, projector=projector)
    found = train(sets, space, options)
    assert validation_score(found.projection, sets, space) > 0.9
    assert np.array_equal(train(sets, space, options).projection, found.projection)
    nothing = np.zeros_like(found.projection)
    assert validation_score(nothing, sets, space) < 0.4


def test_no_batch_mixes_data_sets_and_none_holds_validation_cells(sets, space, monkeypatch):
    rows = [{tuple(row) for row in each.features[each.is_training]} for each in sets]
    seen = []

    def keep(cells, texts, terms, log_scale):
        seen.append(cells)
        return contrast(cells, texts, terms, log_scale)

    contrast = training.contrast
    monkeypatch.setattr(training, "contrast", keep)
    eye = torch.eye(8, 12)  # a projection by which the features can be told again
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda tensor, *_, **__: tensor.zero_().add_(eye))
    options = replace(LINEAR, max_steps=12, batch_size=8, learning_rate=1e-9)
    train(sets, space, options)
    batches = [{tuple(row) for row in np.round(batch[:, :8].detach().numpy(), 4)} for batch in seen]
    rounded = [{tuple(np.round(row, 4)) for row in own} for own in rows]
    assert len(batches) == 12
    assert all(any(batch <= own for own in rounded) for batch in batches)
    assert all(any(batch <= own for batch in batches) for own in rounded)


def corpus_of(text_world, cells_of_sets):
    """A corpus whose cells have given data sets, terms and parts."""
    corpus = read_corpus(text_world["corpus"])
    obs = pd.DataFrame(cells_of_sets, columns=["dataset", "cl_id", "split"])
    return replace(corpus, cells=replace(corpus.cells.select(np.arange(len(obs))), obs_table=pa.Table.from_pandas(obs)))


def test_a_data_set_of_one_term_takes_no_part_nor_do_texts_of_that_term(text_world, caplog):
    terms = read_corpus(text_world["corpus"]).terms_of("train")["cl_id"].unique().tolist()
    cells = [("one", terms[number], "train") for number in range(3)] + [
        ("two", terms[number], "train") for number in (2, 3)
    ]
    cells += [("single", terms[4], "train"), ("single", terms[0], "test"), ("none", terms[0], "test")]
    corpus = corpus_of(text_world, cells)
    assert data_sets_to_train_on(corpus) == ["one", "two"]
    assert "take no part, as a contrast needs two: single" in caplog.text
    assert set(training_texts(corpus, ["one", "two"], lambda: None).terms["cl_id"]) == set(terms[:4])
    with pytest.raises(ScDMCError, match="corpus: 3 terms in data sets of at least two, and 4 are needed"):
        data_sets_to_train_on(corpus_of(text_world, cells[:3]))


def test_a_temperature_needs_two_data_sets(sets, space):
    few = replace(LINEAR, max_steps=10)
    related = np.eye(6, dtype=bool)
    found = calibrated(sets, space, few, related)
    assert np.isfinite(found["none_margin"])
    assert found["is_calibrated"]
    assert found["temperature"] == max(training.TEMPERATURES, key=lambda each: found["log_likelihoods"][str(each)])
    alone = calibrated(sets[:1], space, few, related)
    assert (alone["temperature"], alone["is_calibrated"], alone["why"]) == (0.1, False, "not calibrated: one data set")
    of_few_terms = calibrated([made_up("one", [0, 1]), made_up("two", [2, 3])], space, few, related)
    assert "the others have fewer than 4 terms" in of_few_terms["why"]


def test_texts_of_terms_that_are_held_out_are_not_trained_on(text_world, tmp_path, load_script):
    folder = text_world["corpus"].parent
    words = ["--model", text_world["cells"], "--output_dir", tmp_path / "corpus", "--text_encoder", text_world["texts"]]
    words += ["--data_path", folder / "islets_0.h5ad", "--min_cells_per_type", "5", "--hold_out_terms", "CL:0000171"]
    assert load_script("tokenizer/text_corpus.py").main([str(word) for word in words]) == 0

    def none():
        raise AssertionError("the corpus has vectors")

    corpus = read_corpus(tmp_path / "corpus")
    terms = training_texts(corpus, data_sets_to_train_on(corpus), none).terms
    assert "CL:0000171" not in set(terms["cl_id"])
    assert "CL:0000169" in set(terms["cl_id"])


def test_a_folder_is_read_as_it_was_written(text_world):
    model, directory = read_text_model(text_world["model"])
    again, _ = read_text_model(text_world["model"])
    assert np.array_equal(model.projection, again.projection)
    assert directory.path == text_world["model"] / "encoder"
    assert model.components.vectors.shape[1] == 20
    assert model.projection.shape == (32 + 20, 32)
    assert list(model.texts.terms.columns) == ["cl_id", "label", "description"]
    assert (text_world["model"] / "README.md").read_text().count("validation macro-F1") >= 1


def _other_type(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "scdmc"}))


def _later(folder):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"format": 9}))


def _short(folder):
    (folder / "text_vectors.npy").write_bytes((folder / "text_vectors.npy").read_bytes()[:200])


def _fewer_genes(folder):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"genes": content["genes"][1:]}))


def _without_temperature(folder):
    (folder / "calibration.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_other_type, "is no text model"),
        (_later, "has format 9"),
        (_short, "is damaged"),
        (_fewer_genes, "components has the shape"),
        (_without_temperature, "is damaged"),
        (shutil.rmtree, "no such folder of a text model"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(text_world, tmp_path, change, words):
    copy = shutil.copytree(text_world["model"], tmp_path / "model")
    (copy / "manifest.json").unlink()  # which would find the change before
    change(copy)
    with pytest.raises(ScDMCError, match=words) as error:
        read_text_model(copy)
    assert "\n" not in str(error.value)


def test_a_changed_folder_is_found_by_its_manifest(text_world, tmp_path):
    copy = shutil.copytree(text_world["model"], tmp_path / "model")
    _without_temperature(copy)
    with pytest.raises(ScDMCError, match="not the"):
        read_text_model(copy)


def test_the_commonest_type_is_no_nearer_to_the_centre_than_others():
    draw = np.random.default_rng(0)
    terms = np.repeat([0, 1, 2], [900, 50, 50])
    features = np.eye(3)[terms] * 10 + draw.normal(size=(1000, 3))
    is_training = np.arange(1000) % 5 > 0
    cells = LabelledSet("a", features, terms, is_training, None)
    plain = Centre.of(features[is_training])
    balanced = Centre.of(features[is_training], weights=cells.weights)
    assert np.allclose(balanced.mean, 10 / 3, atol=0.3)
    lengths = [
        [np.linalg.norm(centre.applied(features[terms == term]).mean(axis=0)) for term in range(3)]
        for centre in (plain, balanced)
    ]
    assert lengths[0][0] < 0.3 * min(lengths[0][1:])
    assert lengths[1][0] > 0.9 * min(lengths[1][1:])
    assert np.allclose(Centre.of(features, weights=np.full(1000, 3.0)).scale, features.std(axis=0))
