"""Model folders: ours, the published layout, and folders that should not be opened."""

import json
import os
import pickle
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import open_model_directory, read_config
from scdmc.model.heads import ScDMCForCellClassification, ScDMCForMaskedLM
from scdmc.model.storage import (
    load,
    load_classifier_for_training,
    load_model,
    model_card,
    save_model_directory,
    saw_labels,
    without_folders,
)
from scdmc.model.weights import read_weights, save_weights, weight_names
from scdmc.tokens.medians import GeneMedians
from scdmc.tokens.tokenized_cells import TokenizationSettings

GENES = [f"ENSG{number:011d}" for number in range(26)]
MEDIANS = GeneMedians({GENES[3]: 2.5, GENES[0]: 0.1}, source="a test")


def make_model(model_class=ScDMCForMaskedLM, **changes):
    sizes = {"vocab_size": 30, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
             "intermediate_size": 8, "max_position_embeddings": 77}  # fmt: skip
    torch.manual_seed(0)
    model = model_class(ScDMCConfig(**{**sizes, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model


@pytest.fixture
def vocabulary(make_vocabulary):
    return make_vocabulary(GENES)


@pytest.fixture
def settings(vocabulary):
    return TokenizationSettings(vocabulary.sha256, MEDIANS.sha256, 77)


@pytest.fixture
def folder(tmp_path, vocabulary, settings):
    """A folder as pre-training writes it."""
    save_model_directory(tmp_path / "model", make_model(), vocabulary, MEDIANS, settings, "# A card\n")
    return tmp_path / "model"


@pytest.fixture
def published_folder(tmp_path, vocabulary):
    """A folder as the published code writes it: it calls itself BERT, and its weights are pickled."""
    folder = tmp_path / "published"
    folder.mkdir()
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 30, "hidden_size": 12,
              "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 8, "hidden_act": "gelu",
              "alibi_starting_size": 64, "max_position_embeddings": 512, "attention_probs_dropout_prob": 0.1,
              "classifier_dropout": None, "position_embedding_type": "absolute", "layer_norm_eps": 1e-12}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(dict(make_model().state_dict()), folder / "pytorch_model.bin")
    vocabulary.save(folder / "token_ids.json")
    return folder


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def require_equal_weights(found, expected):
    found, expected = found.state_dict(), expected.state_dict()
    assert set(found) == set(expected)
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


# ---- ours


def test_a_folder_gives_back_the_model_and_how_to_tokenize_for_it(folder, vocabulary, settings):
    opened = open_model_directory(folder)
    assert opened.vocabulary.token_ids == vocabulary.token_ids
    assert opened.medians.medians == MEDIANS.medians
    assert opened.settings == settings
    assert opened.context == 77
    assert (folder / "README.md").read_text() == "# A card\n"
    model = load_model(folder, ScDMCForMaskedLM)
    assert not model.training
    require_equal_weights(model, make_model())
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_the_encoder_alone_is_opened_from_a_folder_with_a_head(folder):
    require_equal_weights(load_model(folder, ScDMCModel), make_model().bert)


def test_saving_again_replaces_the_files_and_leaves_no_others(folder, vocabulary, settings):
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["README.md", "config.json", "gene_medians.json", "model.safetensors", "modeling_scdmc.py",
                     "token_ids.json", "tokenization.json"]  # fmt: skip
    changed = make_model()
    with torch.no_grad():
        changed.cls.predictions.decoder.bias.fill_(7)
    save_model_directory(folder, changed, vocabulary, MEDIANS, settings, "# Another card\n")
    require_equal_weights(load_model(folder, ScDMCForMaskedLM), changed)
    assert sorted(path.name for path in folder.iterdir()) == files


def test_a_classifier_keeps_its_label_names(tmp_path, vocabulary, settings):
    names = {0: "alpha", 1: "beta", 2: "T cell, CD8+"}
    model = make_model(
        ScDMCForCellClassification, id2label=names, label2id={name: index for index, name in names.items()},
        classifier_stream="rank",
    )  # fmt: skip
    save_model_directory(tmp_path / "model", model, vocabulary, MEDIANS, settings, "")
    opened = open_model_directory(tmp_path / "model")
    assert opened.config.id2label == names
    assert opened.config.num_labels == 3
    assert opened.config.classifier_stream == "rank"
    require_equal_weights(load_model(tmp_path / "model", ScDMCForCellClassification), model)


def test_a_new_classifier_has_the_encoder_of_the_folder_and_a_new_head(folder):
    directory = open_model_directory(folder)
    model = load_classifier_for_training(directory, ["alpha", "beta", "delta"], "both", dropout=0.3)
    require_equal_weights(model.bert, make_model().bert)
    assert model.classifier.weight.shape == (3, 24)
    assert model.config.id2label == {0: "alpha", 1: "beta", 2: "delta"}
    assert model.config.label2id == {"alpha": 0, "beta": 1, "delta": 2}
    assert model.dropout.p == 0.3
    assert directory.config.num_labels == 2  # the folder's own configuration is untouched


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_become_float32(folder, dtype):
    change_weights(folder, lambda weights: weights.update({name: tensor.to(dtype) for name, tensor in weights.items()}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": str(dtype).removeprefix("torch.")}))
    model = load_model(folder, ScDMCForMaskedLM)
    for name, expected in make_model().state_dict().items():
        assert model.state_dict()[name].dtype == torch.float32
        assert torch.equal(model.state_dict()[name], expected.to(dtype).float())
    ids = torch.tensor([[2, 5, 6, 3]])
    assert torch.isfinite(model(ids).logits).all()


# ---- the published layout


@pytest.mark.parametrize("model_class", [ScDMCForMaskedLM, ScDMCModel])
def test_a_published_folder_is_opened_as_what_it_is(published_folder, model_class):
    expected = make_model() if model_class is ScDMCForMaskedLM else make_model().bert
    model = load_model(published_folder, model_class)
    require_equal_weights(model, expected)
    assert model.config.model_type == "scdmc"
    assert model.config.attention_probs_dropout_prob == 0.1


def test_a_published_folder_says_its_context_by_its_alibi_size(published_folder, vocabulary):
    opened = open_model_directory(published_folder)
    assert opened.context == opened.settings.model_input_size == 64
    assert opened.medians.medians == {}
    assert opened.settings.vocabulary_sha256 == vocabulary.sha256


def test_a_published_folder_without_vocabulary_asks_for_it(published_folder, tmp_path):
    (published_folder / "token_ids.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(ScDMCError, match="--token_dictionary_file"):
        open_model_directory(published_folder)
    assert len(open_model_directory(published_folder, tmp_path / "elsewhere.json").vocabulary) == 30


def test_the_reference_model_is_opened_from_safetensors_and_from_a_pickle(shared, tmp_path):
    published = shared / "golden" / "model_a"
    model = load_model(published, ScDMCForMaskedLM)
    assert model.config.max_position_embeddings == 2048
    shutil.copy(published / "config.json", tmp_path)
    weights = load_file(published / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    require_equal_weights(load_model(tmp_path, ScDMCForMaskedLM), model)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())


# ---- what is refused


@pytest.mark.parametrize("model_class", [ScDMCForMaskedLM, ScDMCModel])
def test_missing_weights_are_an_error_that_names_them(folder, model_class):
    names = ["bert.encoder.layer.1.mlp.wo.weight", "bert.encoder.layer.1.mlp.wo.bias"]
    change_weights(folder, lambda weights: [weights.pop(name) for name in names])
    with pytest.raises(ScDMCError, match="2 weights") as error:
        load_model(folder, model_class)
    for name in names:
        assert name.removeprefix("bert.") in str(error.value)


def test_a_folder_without_head_is_no_masked_gene_model(folder):
    change_weights(folder, lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("cls.")])
    require_equal_weights(load_model(folder, ScDMCModel), make_model().bert)
    with pytest.raises(ScDMCError, match=r"cls\.predictions"):
        load_model(folder, ScDMCForMaskedLM)


def test_a_pretrained_folder_is_no_classifier(folder):
    with pytest.raises(ScDMCError, match="is no classifier; fine-tune it first"):
        load_model(folder, ScDMCForCellClassification)


def test_a_stock_bert_is_refused(published_folder):
    name = "bert.encoder.layer.0.attention.self.query.weight"
    torch.save({**make_model().state_dict(), name: torch.zeros(12, 12)}, published_folder / "pytorch_model.bin")
    with pytest.raises(ScDMCError, match="the layout is not that of scDMC"):
        load_model(published_folder, ScDMCForMaskedLM)


def test_weights_of_another_shape_are_refused_and_named(folder):
    name = "bert.encoder.layer.0.mlp.wo.bias"
    change_weights(folder, lambda weights: weights.update({name: torch.zeros(13)}))
    with pytest.raises(ScDMCError, match=r"wo.bias has shape \(13,\), but the configuration asks for \(12,\)"):
        load_model(folder, ScDMCForMaskedLM)


def test_a_decoder_that_is_not_the_word_embedding_is_refused(published_folder):
    weights = dict(make_model().state_dict())
    weights["cls.predictions.decoder.weight"] = 2 * weights["cls.predictions.decoder.weight"]
    torch.save(weights, published_folder / "pytorch_model.bin")
    with pytest.raises(ScDMCError, match="not the word embedding"):
        load_model(published_folder, ScDMCForMaskedLM)


class Malicious:
    """Runs a command where it is unpickled carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_not_run(published_folder, tmp_path, is_zip):
    content = {"bert.embeddings.word_embeddings.weight": Malicious(tmp_path / "ran")}
    if is_zip:
        torch.save(content, published_folder / "pytorch_model.bin")
    else:
        (published_folder / "pytorch_model.bin").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ScDMCError, match=r"pytorch_model\.bin"):
        load_model(published_folder, ScDMCForMaskedLM)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x00" * 100])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_weights_are_refused(published_folder, name, content):
    (published_folder / "pytorch_model.bin").unlink()
    (published_folder / name).write_bytes(content)
    with pytest.raises(ScDMCError, match=name):
        load_model(published_folder, ScDMCForMaskedLM)


def test_a_pickle_without_a_dictionary_of_tensors_is_refused(published_folder):
    torch.save([torch.zeros(3)], published_folder / "pytorch_model.bin")
    with pytest.raises(ScDMCError, match=r"pytorch_model\.bin holds a list"):
        load_model(published_folder, ScDMCModel)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ScDMCError, match="holds no weights"):
        open_model_directory(folder)
    with pytest.raises(ScDMCError, match="holds no weights"):
        load_model(folder, ScDMCForMaskedLM)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ScDMCError, match="no such model folder"):
        open_model_directory(tmp_path / "nowhere")


def test_a_vocabulary_of_another_size_is_refused(folder, tmp_path, make_vocabulary):
    make_vocabulary(GENES[:-1]).save(tmp_path / "smaller.json")
    with pytest.raises(ScDMCError, match=r"the model has 30 tokens, but .*smaller\.json has 29"):
        open_model_directory(folder, tmp_path / "smaller.json")


def test_a_vocabulary_in_another_order_is_refused(folder, tmp_path, make_vocabulary):
    make_vocabulary(GENES[::-1]).save(tmp_path / "reversed.json")
    with pytest.raises(ScDMCError, match="another vocabulary"):
        open_model_directory(folder, tmp_path / "reversed.json")


def test_other_medians_than_those_of_training_are_refused(folder):
    GeneMedians({GENES[3]: 2.6}, source="").save(folder / "gene_medians.json")
    with pytest.raises(ScDMCError, match=r"gene_medians\.json is not the file"):
        open_model_directory(folder)


def test_a_lost_medians_file_is_refused(folder):
    (folder / "gene_medians.json").unlink()
    with pytest.raises(ScDMCError, match=r"gene_medians\.json"):
        open_model_directory(folder)


def test_another_type_of_model_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ScDMCError, match="of type 'gpt2', not scdmc"):
        read_config(folder)


def test_a_model_card_says_what_was_trained_and_how():
    facts = {"data": "islets of mice.parquet", "cells": "300"}
    command = ["python", "x.py", "--seed", "1", "--data_path", "/home/me/cells.h5ad", "--out=/tmp/a/b", "'/my data/*'"]
    card = model_card("A title", facts, {"eval_loss": 1.23456}, command, "fill-mask")
    _, front_matter, text = card.split("---\n", 2)
    assert yaml.safe_load(front_matter) == {
        "license": "mit", "library_name": "transformers", "pipeline_tag": "fill-mask", "metrics": ["eval_loss"],
        "datasets": ["islets-of-mice"], "tags": ["biology", "single-cell", "transcriptomics", "scdmc"],
    }  # fmt: skip
    assert text.startswith("\n# A title\n")
    assert "| cells | 300 |" in text
    assert "| eval_loss | 1.2346 |" in text
    assert "    python x.py --seed 1 --data_path cells.h5ad --out=b '*'\n" in text
    assert f"torch {torch.__version__}" in text


def test_a_card_without_a_data_file_names_no_data_set():
    assert "datasets" not in model_card("A title", {"cells": 3}, {}, [])


@pytest.mark.parametrize("word", ["--flag", "a/b/c.parquet", "../a/b", "'~/x'", "cell_type", "dataset=pbmc_a,pbmc_b"])
def test_a_card_keeps_words_that_are_no_absolute_paths(word):
    assert without_folders(word) == word


# ---- export


def save_cut_weights(folder, weights, rows):
    """Weights as folders had them before there was an index: tables cut by row, float16, one piece a file."""
    pieces = []
    for name, tensor in sorted(weights.items()):
        blocks = tensor.split(rows) if tensor.ndim and len(tensor) > rows else (tensor,)
        pieces += [
            (name if len(blocks) == 1 else f"{name}.rows.{i:05d}", block.contiguous()) for i, block in enumerate(blocks)
        ]
    files = [folder / f"model-{number:05d}.safetensors" for number in range(1, len(pieces) + 1)]
    for file, (name, tensor) in zip(files, pieces, strict=True):
        save_file({name: tensor}, file, metadata={"format": "pt", "files": str(len(files))})
    return files


def test_weights_cut_into_small_files_are_joined_on_loading(tmp_path):
    torch.manual_seed(0)
    weights = {"table": torch.randn(3000, 50), "vector": torch.randn(7), "count": torch.tensor(3)}
    weights |= {"other": torch.randn(40, 9)}
    weights = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    assert len(save_cut_weights(tmp_path, weights, 1000)) == 6
    joined = read_weights(tmp_path)
    assert set(joined) == weight_names(tmp_path) == set(weights)
    for name, tensor in weights.items():
        assert torch.equal(joined[name], tensor), name


def test_a_missing_part_of_split_weights_is_an_error(tmp_path):
    files = save_cut_weights(tmp_path, {"table": torch.randn(3000, 50)}, 1000)
    files[1].unlink()
    for read in (read_weights, weight_names):
        with pytest.raises(ScDMCError, match="damaged"):
            read(tmp_path)


@pytest.mark.parametrize("model_class", [ScDMCForMaskedLM, ScDMCForCellClassification, ScDMCModel])
def test_weights_in_several_files_are_those_of_the_model(folder, model_class):
    model = make_model(model_class).half()
    (folder / "pytorch_model.bin").write_bytes(b"older weights")
    files = save_weights(folder, model, 66_000)
    assert len(files) > 2
    assert {file.stat().st_mode for file in files} == {(folder / "config.json").stat().st_mode}
    assert not [path for path in folder.iterdir() if path.name.startswith((".", "pytorch")) or path.is_dir()]
    assert not (folder / "model.safetensors").exists()
    loaded = load(folder)
    assert type(loaded) is model_class
    require_equal_weights(loaded.half(), model)


def test_a_file_is_larger_than_asked_for_only_if_it_holds_one_tensor(folder):
    limit = 67_000
    for file in save_weights(folder, make_model(hidden_size=24, num_hidden_layers=3), limit):
        assert file.stat().st_size <= limit or len(load_file(file)) == 1


def test_a_missing_or_damaged_file_of_an_index_is_an_error(folder):
    files = save_weights(folder, make_model(), 66_000)
    files[-1].write_bytes(b"half a file")
    for read in (read_weights, weight_names, load):
        with pytest.raises(ScDMCError, match=r"index\.json is damaged"):
            read(folder)
    files[-1].unlink()
    with pytest.raises(ScDMCError, match=r"index\.json is damaged"):
        load(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 3}}')
    with pytest.raises(ScDMCError, match="no weight_map"):
        load(folder)


def test_the_names_of_weights_are_read_without_the_weights(folder, published_folder, monkeypatch):
    expected = set(make_model().state_dict())
    assert weight_names(published_folder) == expected
    monkeypatch.setattr("scdmc.model.weights.load_file", lambda file: pytest.fail("reads the tensors"))
    assert weight_names(folder) == expected - {"cls.predictions.decoder.weight"}
    assert not saw_labels(open_model_directory(folder))


def test_load_gives_what_the_weights_are(tmp_path):
    torch.manual_seed(0)
    for model_class in (ScDMCForMaskedLM, ScDMCForCellClassification, ScDMCModel):
        model = make_model(model_class)
        model.save_pretrained(tmp_path / model_class.__name__)
        loaded = load(tmp_path / model_class.__name__)
        assert type(loaded) is model_class
        assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_from_pretrained_refuses_a_random_encoder_weight(tmp_path):
    make_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["bert.encoder.layer.1.mlp.wo.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for auto_class in (AutoModel, AutoModelForMaskedLM):
        with pytest.raises(ScDMCError, match=r"mlp\.wo\.weight"):
            auto_class.from_pretrained(tmp_path)
