"""Model folders from strangers: each loads, or is refused in the words of this project."""

import json
import math
import os
import random
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from scdmc.annotation.calibration import read_temperature
from scdmc.cells.gene_coverage import read_training_genes
from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.files import write_json
from scdmc.genes.ids import load_gene_mapping
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import open_model_directory
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.model.storage import load, load_model, save_model_directory
from scdmc.tokens.medians import GeneMedians
from scdmc.tokens.tokenized_cells import TokenizationSettings

pytestmark = pytest.mark.usefixtures("one_thread")

GENES = [f"ENSG{number:011d}" for number in range(26)]
HUGE = 10**400
VALUES = [None, True, -1, 0, 3, 10**9, 10**12, HUGE, 1.5, math.nan, math.inf, 1e-320, "", "16", "\ud800", [], {}, [[]],
          {"0": 0}, {"0": "a", "1": "a"}]  # fmt: skip
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory, make_vocabulary):
    """A classifier's folder with every file that one can have."""
    folder, vocabulary = tmp_path_factory.mktemp("model"), make_vocabulary(GENES)
    medians = GeneMedians({GENES[3]: 2.5}, "a test")
    torch.manual_seed(0)
    config = ScDMCConfig(vocab_size=30, hidden_size=12, num_hidden_layers=2, num_attention_heads=3,
                         intermediate_size=8, max_position_embeddings=77)  # fmt: skip
    config.id2label = {0: "alpha", 1: "beta"}
    settings = TokenizationSettings(vocabulary.sha256, medians.sha256, 77)
    save_model_directory(folder, ScDMCForCellClassification(config), vocabulary, medians, settings, "a card")
    write_json(folder / "calibration.json", {"temperature": 1.5})
    write_json(folder / "training_genes.json", {GENES[3]: 5, GENES[4]: 2})
    return folder


@pytest.fixture
def folder(whole_folder, tmp_path):
    """A copy of it to be damaged."""
    return shutil.copytree(whole_folder, tmp_path / "model")


def use(folder):
    """All that a folder is read for; None if it loads, else the message."""
    try:
        opened = open_model_directory(folder)
        temperature, genes = read_temperature(folder), read_training_genes(folder)
        model = load(folder)
    except ScDMCError as error:
        return str(error)
    assert temperature is None or 0 < temperature < math.inf
    assert all(n_cells >= 0 for n_cells in (genes or {}).values())
    assert 3 <= opened.context <= 2**20
    with torch.no_grad():
        states = (model if isinstance(model, ScDMCModel) else model.bert)(torch.tensor([[2, 5, 3]])).last_hidden_state
    assert torch.isfinite(states).all()
    return None


def json_files(folder):
    return {path: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def test_every_value_of_every_file_may_be_anything(folder):
    assert use(folder) is None
    n_refused = n_tried = 0
    generator = random.Random(0)
    for path, content in json_files(folder).items():
        for name in list(content)[:45]:
            chosen = generator.sample(VALUES, 3 if path.name == "token_ids.json" else 5)
            variants = [{**content, name: value} for value in chosen]
            variants.append({key: value for key, value in content.items() if key != name})
            for variant in variants:
                path.write_text(json.dumps(variant) if HUGE not in variant.values() else write_huge(variant))
                message = use(folder)
                n_tried += 1
                n_refused += message is not None
                assert message is None or (str(folder) in message and "\n" not in message and len(message) < 600)
        path.write_text(json.dumps(content))
    assert use(folder) is None
    assert n_tried > 250
    assert n_refused > 150


def write_huge(content):
    """JSON with an integer of 5,000 digits, which Python refuses to write and to read."""
    text = json.dumps({name: 0.125 if value == HUGE else value for name, value in content.items()})
    return text.replace("0.125", "1" * 5000)


@pytest.mark.parametrize(
    ("file", "name", "value", "says"),
    [
        ("config.json", "hidden_size", "16", "hidden_size should be an integer from 1 to 65,536, not '16'"),
        ("config.json", "hidden_size", 10**9, "hidden_size should be"),
        ("config.json", "hidden_size", 24_000, "config.json asks for embeddings.word_embeddings.weight of shape"),
        ("config.json", "vocab_size", None, "vocab_size should be an integer from 5 to 10,000,000, not None"),
        ("config.json", "num_attention_heads", 0, "num_attention_heads should be"),
        ("config.json", "num_attention_heads", 5, "no multiple of num_attention_heads"),
        ("config.json", "num_hidden_layers", 10**7, "num_hidden_layers should be"),
        ("config.json", "num_hidden_layers", 999, "num_hidden_layers 999, but the weights have 2"),
        ("config.json", "layer_norm_eps", math.nan, "layer_norm_eps should be a number"),
        ("config.json", "max_position_embeddings", 10**12, "max_position_embeddings should be"),
        ("config.json", "hidden_act", "relu", "hidden_act should be one of 'gelu'"),
        ("config.json", "embedding_stream", "foo", "embedding_stream should be one of 'rank'"),
        ("config.json", "embedding_layer", True, "embedding_layer should be null or a layer from 0 on"),
        ("config.json", "embedding_layer", 9, "embedding_layer 9 is none of the 2 layers"),
        ("config.json", "embedding_layer", 0, "embedding_layer 0 wants embedding_pooling 'mean' or 'weighted'"),
        ("config.json", "id2label", ["alpha", "beta"], "id2label should map"),
        ("config.json", "id2label", {"0": "alpha", "1": "alpha"}, "each of another class"),
        ("config.json", "id2label", {"0": "a", "1": "b", "2": "c"}, "classifier.weight of shape"),
        ("tokenization.json", "model_input_size", "x", "model_input_size should be int"),
        ("tokenization.json", "normalisation", "x", "the expression values are not"),
        ("training_genes.json", GENES[3], -1, "should be an integer from 0"),
        ("training_genes.json", GENES[3], math.nan, "should be an integer from 0"),
        ("training_genes.json", GENES[3], "many", "not 'many'"),
        ("gene_medians.json", GENES[3], 1e-320, "positive number"),
        ("calibration.json", "temperature", True, "temperature should be a number"),
    ],
)
def test_the_message_names_file_value_and_what_is_allowed(folder, file, name, value, says):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    start = time.process_time()
    assert says in use(folder)
    assert time.process_time() - start < 2


def test_bytes_may_be_anything(folder):
    generator = random.Random(0)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for _ in range(8):
            damaged = bytearray(whole)
            for _ in range(generator.randint(1, 6)):
                damaged[generator.randrange(min(len(damaged), 4000))] = generator.randrange(256)
            path.write_bytes(bytes(damaged[: generator.choice([len(damaged), len(damaged) // 2, 0])]))
            use(folder)
        if path.suffix == ".json":
            for text in ("[" * 100_000, '{"a":' * 100_000, "1", "null", '"', "\ufeff{}", "{}"):
                path.write_text(text)
                use(folder)
        path.unlink()
        use(folder)
        path.write_bytes(whole)
    assert use(folder) is None


@pytest.mark.parametrize("file", ["config.json", "token_ids.json", "gene_medians.json", "tokenization.json"])
def test_deep_nesting_is_refused(folder, file):
    (folder / file).write_text('{"a":' + "[" * 100_000)
    assert "nested too deeply" in use(folder)


def test_more_json_than_any_file_has_is_not_even_read(folder):
    with (folder / "config.json").open("r+b") as file:
        file.truncate(2**31)
    assert "2,048 MiB; no more than 256 MiB" in use(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(folder, value):
    weights = load_file(folder / WEIGHTS)
    weights["bert.encoder.layer.1.mlp.wo.weight"][3, 3] = value
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert "no finite numbers" in use(folder)


@pytest.mark.parametrize("files", ["99999999999999", "-1", "x", "3"])
def test_a_number_of_files_that_is_not_there_is_refused(folder, files):
    save_file(load_file(folder / WEIGHTS), folder / "model-00001.safetensors", metadata={"files": files})
    (folder / WEIGHTS).unlink()
    assert "model-0000" in use(folder)


def test_a_pipe_among_the_weights_is_refused_and_not_waited_for(folder):
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / "part.safetensors")
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "part.safetensors"}})
    assert "part.safetensors is no file" in use(folder)


def test_a_pickled_model_of_another_size_is_refused_before_it_is_read(folder):
    weights = load_file(folder / WEIGHTS)
    weights["bert.embeddings.word_embeddings.weight"] = torch.zeros(1).expand(10**6, 10**6)
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert "(30, 12), but the weights have (1000000, 1000000)" in use(folder)
    with pytest.raises(ScDMCError, match="the weights have"):
        load_model(folder, ScDMCModel)


def test_a_gene_mapping_of_numbers_is_refused(tmp_path, make_vocabulary):
    vocabulary, path = make_vocabulary(GENES), tmp_path / "mapping.json"
    write_json(path, {"INS": 1.5})
    with pytest.raises(ScDMCError, match="none of its 1 targets is in the vocabulary"):
        load_gene_mapping(path, vocabulary)
    write_json(path, {"INS": "ENSG99999999999"})
    with pytest.raises(ScDMCError, match="none of its 1 targets is in the vocabulary"):
        load_gene_mapping(path, vocabulary)
    write_json(path, {"ins": GENES[2], "other": "ENSG99999999999"})
    assert load_gene_mapping(path, vocabulary) == {"INS": GENES[2]}
