"""Shipped models are found by name from anywhere, compute in float32, and give the scores that their cards state."""

import json
import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import scdmc
from scdmc.annotation.cross_validation import RunPlan
from scdmc.annotation.options import ClassifierOptions
from scdmc.annotation.probing import probe_scores
from scdmc.annotation.runs import fine_tuned_run, save_classifier
from scdmc.cells.data import read_cells
from scdmc.cells.splits import make_split
from scdmc.errors import ScDMCError
from scdmc.labels import labels_of
from scdmc.model import shipped as shipped_models
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import open_model_directory
from scdmc.model.hub import is_hub_name
from scdmc.model.names import MODELING_FILE
from scdmc.model.standalone import standalone_source
from scdmc.model.storage import load, load_model
from tests.conftest import ROOT
from tests.small_models import save_small_model

pytestmark = pytest.mark.slow

SHIPPED = sorted(path.parent for path in (ROOT / "models").glob("*/config.json"))
MIB = 2**20
DATA_FLAG = {
    "integration": "--tokenized_data_path", "downstream_tasks": "--finetune_data_path",
    "scDMC_pretrain": "--dataset_path", "text_eval": "--corpus_dir",
}  # fmt: skip
WITH_MODEL = {
    "downstream_tasks": ("annotate", "attention_analysis", "cluster", "downstream_tasks", "embed", "embed_many",
                         "gene_modules", "gene_regulatory_network", "integration", "perturb", "text_eval"),
    "benchmarks": ("embedding_choices", "probe"),
    "pretrain": ("export_model", "scDMC_pretrain"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, load_script):
    """A folder as ``models/`` is, with one model, tiny: float16, in parts."""
    trained = save_small_model(
        tmp_path_factory.mktemp("trained") / "trained", num_hidden_layers=2, initializer_range=0.2
    )
    folder = tmp_path_factory.mktemp("checkout") / "models"
    command = ["--model", trained, "--output_dir", folder / "tiny", "--max_file_mib", "1"]
    assert load_script("pretrain/export_model.py").main(list(map(str, command))) == 0
    return folder


@pytest.fixture
def shipped(folder, monkeypatch, tmp_path):
    """The only shipped model, seen from a folder that has nothing to do with it."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(shipped_models, "MODELS", folder)
    return folder / "tiny"


@pytest.fixture
def two_types(adata):
    return adata[adata.obs["cell_type"].isin(["alpha", "beta"])].copy()


def test_an_export_names_no_folder_of_the_machine(folder, load_script, tmp_path):
    trained = shutil.copytree(folder / "tiny", tmp_path / "trained")
    arguments = {"data_path": "/home/someone/cells.parquet", "leave_out": ["/data/a", "dataset=b"], "seed": 42}
    (trained / "arguments.json").write_text(json.dumps(arguments))
    (trained / "manifest.json").unlink(missing_ok=True)
    words = ["--model", str(trained), "--output_dir", str(tmp_path / "exported")]
    assert load_script("pretrain/export_model.py").main(words) == 0
    kept = json.loads((tmp_path / "exported" / "arguments.json").read_text())
    assert kept == {"data_path": "cells.parquet", "leave_out": ["a", "dataset=b"], "seed": 42}


def test_an_export_says_what_the_embedding_of_a_cell_is(folder, load_script, tmp_path, capsys):
    export = load_script("pretrain/export_model.py").main
    chosen = ["--stream", "rank", "--pooling", "weighted", "--encoder_layer", "1"]
    assert export(["--model", str(folder / "tiny"), "--output_dir", str(tmp_path / "other"), *chosen]) == 0
    config = load_model(tmp_path / "other", ScDMCModel).config
    assert (config.embedding_stream, config.embedding_pooling, config.embedding_layer) == ("rank", "weighted", 1)
    assert (config.classifier_stream, config.classifier_pooling) == ("rank", "weighted")
    # What was chosen before stays where nothing is chosen now.
    assert export(["--model", str(tmp_path / "other"), "--output_dir", str(tmp_path / "again")]) == 0
    assert load_model(tmp_path / "again", ScDMCModel).config.embedding_layer == 1
    assert export(["--model", str(folder / "tiny"), "--output_dir", str(tmp_path / "no"), "--encoder_layer", "9"]) == 2
    assert "--encoder_layer 9: there are layers 1 to 2" in capsys.readouterr().err


# ---- names


def test_a_name_is_the_folder_beside_the_package(shipped):
    assert shipped_models.model_folder("tiny") == shipped
    assert open_model_directory("tiny").path == shipped
    assert shipped_models.model_folder(shipped) == shipped


def test_the_folder_of_shipped_models_is_that_of_the_repository():
    assert ROOT / "models" == shipped_models.MODELS
    assert shipped_models.shipped_models() == [path.name for path in SHIPPED]


def test_a_folder_in_the_current_directory_wins(shipped):
    Path("tiny").mkdir()
    assert shipped_models.model_folder("tiny").absolute() == Path.cwd() / "tiny"
    with pytest.raises(ScDMCError, match="tiny holds no weights"):
        load("tiny")


@pytest.mark.parametrize("name", ["tyni", "", "..", "../models/tiny", "tiny/config.json", "a/b/tiny"])
def test_what_is_neither_folder_nor_name_is_refused_with_the_names_there_are(shipped, name):
    if name in ("", ".."):  # which are folders
        assert shipped_models.model_folder(name) == Path(name)
        return
    for opened in (shipped_models.model_folder, open_model_directory, load, lambda n: load_model(n, ScDMCModel)):
        with pytest.raises(ScDMCError, match=f"^{re.escape(name)}: no such model folder; by name there are tiny$"):
            opened(name)


def test_without_shipped_models_the_error_says_so(shipped, monkeypatch, tmp_path):
    monkeypatch.setattr(shipped_models, "MODELS", tmp_path / "site-packages" / "models")
    with pytest.raises(ScDMCError, match="tiny: no such model folder; no model is shipped beside this scDMC"):
        shipped_models.model_folder("tiny")


def test_only_a_name_with_one_slash_and_no_place_here_is_looked_for_on_the_hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    assert is_hub_name("someone/scDMC-copy")
    assert is_hub_name(Path("some-one/model.v2"))
    names = ["results/model", "name", "a/b/c", "/tmp", "/tmp/model", "../model", "./a/b", "~/model", "a/", "a b/c", "",
             "a/b--c", "a/b..c", "a/-b", "a/b."]  # fmt: skip
    assert not [name for name in names if is_hub_name(name)]


# ---- scripts and functions


@pytest.mark.parametrize(("place", "name"), [(place, name) for place, names in WITH_MODEL.items() for name in names])
def test_every_script_takes_a_name_and_refuses_an_unknown_one(shipped, load_script, islets_path, capsys, place, name):
    command = ["--model", "tyni"]
    command += [] if name == "export_model" else [DATA_FLAG.get(name, "--data_path"), islets_path]
    if name == "embedding_choices":
        command[-2] = "--tokenized_data_path"
    if place != "benchmarks":
        command += ["--output_file", "out.h5ad"] if name in ("annotate", "embed") else ["--output_dir", "out"]
    if name == "gene_regulatory_network":
        Path("regulons.csv").write_text("tf,target\nPAX6,INS\n")
        command += ["--regulons", "regulons.csv"]
    if name == "perturb":
        command += ["--genes", "INS"]
    assert load_script(f"{place}/{name}.py").main(list(map(str, command))) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error == "error: tyni: no such model folder; by name there are tiny"
    assert not list(Path().glob("out*"))


def test_no_downstream_script_that_reads_a_model_is_left_out():
    texts = {path.stem: path.read_text(encoding="utf8") for path in (ROOT / "downstream_tasks").glob("*.py")}
    takes_name = {name for name, text in texts.items() if re.search("add_(model|gene)_argument", text)}
    of_text = {"annotate_text", "describe", "generate_cells"}  # take the folder of a text model
    assert takes_name - of_text == set(WITH_MODEL["downstream_tasks"])
    assert not [name for name, text in texts.items() if re.search(r"add_argument\(\s*.--\w*model_path", text)]


def test_a_name_gives_what_its_folder_gives(shipped, load_script, islets_path, adata):
    embed = load_script("downstream_tasks/embed.py").main
    given = {"name": ["--model", "tiny"], "same": ["--model_path", "tiny"], "folder": ["--model_path", str(shipped)]}
    for output, model in given.items():
        assert embed([*model, "--data_path", str(islets_path), "--output_file", f"{output}.h5ad"]) == 0
    found = [anndata.read_h5ad(f"{output}.h5ad").obsm["X_scDMC"] for output in given]
    found.append(scdmc.embed(adata, "tiny").obsm["X_scDMC"])
    for embedding in found[1:]:
        np.testing.assert_array_equal(embedding, found[0])


def test_a_classifier_found_by_name_brings_its_calibration_and_genes(
    shipped, load_script, two_types, monkeypatch, capsys
):
    two_types.write_h5ad("cells.h5ad")
    model_directory = open_model_directory("tiny")
    cells = read_cells(Path("cells.h5ad"), model_directory, ["cell_type"])
    labels = labels_of(cells.obs["cell_type"])
    plan = RunPlan("seed_0", 0, make_split(labels, None, 0.1, 0.2, 5, 0))
    options = ClassifierOptions("both", "cls", settings={"epochs": 1})
    run = fine_tuned_run(model_directory, cells, labels, plan, options, lambda model: model)
    save_classifier(Path("models/types"), run, model_directory, "a test")
    monkeypatch.setattr(shipped_models, "MODELS", Path.cwd() / "models")
    capsys.readouterr()
    command = ["--model", "types", "--data_path", "cells.h5ad", "--output_file", "labels.csv"]
    assert load_script("downstream_tasks/annotate.py").main(command) == 0
    said = capsys.readouterr().err
    assert "no calibration" not in said
    assert "genes of the labelled cells are missing" in said
    scdmc.annotate(two_types, "types")
    by_script = pd.read_csv("labels.csv")["scDMC_probability"]
    np.testing.assert_allclose(two_types.obs["scDMC_probability"], by_script, atol=1e-5)


def test_the_functions_for_notebooks_take_a_name(shipped, adata, two_types):
    assert len(scdmc.tokenize(adata, model_path="tiny")) == adata.n_obs
    labelled = scdmc.annotate(two_types[:20].copy(), "tiny", reference=two_types[20:], method="neighbours")
    assert set(labelled.obs["scDMC_cell_type"]) <= {"alpha", "beta"}
    genes = scdmc.gene_embeddings(two_types, "tiny", "cell_type", min_cells=5)
    assert set(genes.table["cell_type"]) == {"alpha", "beta"}
    calls = {
        scdmc.annotate: {},
        scdmc.embed: {},
        scdmc.fine_tune: {"label_key": "cell_type", "output_dir": "out"},
        scdmc.gene_embeddings: {},
        scdmc.integration_benchmark: {"batch_key": "batch", "label_key": "cell_type"},
    }
    for function, more in calls.items():
        with pytest.raises(ScDMCError, match="tyni: no such model folder; by name there are tiny"):
            function(adata, "tyni", **more)


# ---- float16


def test_float16_weights_compute_in_float32(shipped, islets_path):
    parts = list(shipped.glob("model-*.safetensors"))
    assert len(parts) > 1
    assert {part.stat().st_mode for part in parts} == {(shipped / "config.json").stat().st_mode}
    for model in (load("tiny"), load_model("tiny", ScDMCModel)):
        assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
        assert not model.training
    encoder = load_model("tiny", ScDMCModel)
    states = []
    encoder.encoder.layer[0].register_forward_hook(lambda module, inputs, output: states.append(inputs[0].dtype))
    cells = read_cells(islets_path, open_model_directory("tiny"), []).select(np.arange(3))
    assert cell_embeddings(encoder, cells, show_progress=False).dtype == np.float32
    assert set(states) == {torch.float32}


def test_an_exported_model_may_read_longer_streams(shipped, load_script, islets_path, adata):
    export = load_script("pretrain/export_model.py").main
    assert export(["--model", "tiny", "--output_dir", "longer", "--max_length", "500"]) == 0
    before, after = open_model_directory("tiny"), open_model_directory("longer")
    assert (after.context, after.settings.model_input_size) == (500, 500)
    assert after.settings == replace(before.settings, model_input_size=500)
    shorter, longer = (scdmc.tokenize(adata, model_path=name).rank_lengths for name in ("tiny", "longer"))
    assert shorter.max() == before.context < longer.max() <= 500
    assert "Reads streams of 500 tokens" in Path("longer/README.md").read_text()
    assert export(["--model", "tiny", "--output_dir", "short", "--max_length", "2"]) == 2
    weights = load_model("longer", ScDMCModel).state_dict()
    for name, tensor in load_model("tiny", ScDMCModel).state_dict().items():
        assert torch.equal(weights[name], tensor), name


# ---- the probe


def test_the_probe_prints_its_table_and_keeps_its_scores(shipped, load_script, islets_path, adata, capsys):
    probe = load_script("benchmarks/probe.py").main
    command = ["--model", "tiny", "--data_path", str(islets_path), "--splits", "2", "--stream", "rank"]
    assert probe([*command, "--pooling", "mean", "--output_file", "scores.json"]) == 0
    entry = json.loads(Path("scores.json").read_text())["islets_300"]
    scores = [entry["probe_macro_f1"], entry["neighbours_macro_f1"]]
    scdmc.embed(adata, "tiny", stream="rank", pooling="mean")
    expected = probe_scores(adata.obsm["X_scDMC"], labels_of(adata.obs["cell_type"]), n_splits=2)
    np.testing.assert_allclose(scores, [expected["probe_macro_f1"], expected["neighbours_macro_f1"]], atol=0.01)
    assert entry["embedding"] == {"layer": 2, "stream": "rank", "pooling": "mean"}
    assert (entry["n_splits"], entry["seed"], entry["label_key"]) == (2, 42, "cell_type")
    assert entry["pca"]["probe_macro_f1"] > entry["probe_macro_f1"]  # the tiny model has learned nothing
    assert f"| scDMC | {scores[0]:.3f} | {scores[1]:.3f} |" in capsys.readouterr().out
    assert probe([*command, "--output_file", "scores.json"]) == 2
    assert "scores.json exists already" in capsys.readouterr().err
    assert probe([*command[:2], "--data_path", str(islets_path), str(islets_path)]) == 2
    assert "two data sets are called islets_300" in capsys.readouterr().err


# ---- what is shipped


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and a current directory that has nothing to do with the repository."""

    def refuse(*arguments):
        raise AssertionError("a shipped model is loaded without the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)


shipped_model = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)


@shipped_model
def test_a_shipped_model_is_complete_and_small(path):
    files = [file for file in path.rglob("*") if file.is_file()]
    names = {file.relative_to(path).as_posix() for file in files}
    needed = {"README.md", "config.json", "tokenization.json", "token_ids.json", "gene_medians.json", "loss_curves.png",
              "history.csv", "scores.json"}  # fmt: skip
    assert needed <= names
    assert max(file.stat().st_size for file in files) <= 15 * MIB
    assert sum(file.stat().st_size for file in files) <= 40 * MIB


@shipped_model
def test_the_code_of_a_shipped_model_is_that_of_the_package(path):
    assert (path / MODELING_FILE).read_text(encoding="utf8") == standalone_source()


@shipped_model
def test_no_file_of_a_shipped_model_names_a_place_on_the_machine_that_made_it(path):
    absolute = re.compile(r"(?<![\w.\-/:$}>])/(?:[\w.-]+/)+[\w.-]+")
    for file in path.rglob("*"):
        if file.suffix in (".md", ".json", ".csv", ".txt") and file.name != "token_ids.json":
            found = absolute.search(file.read_text(encoding="utf8"))
            assert found is None, f"{file.name}: {found.group()}"


@shipped_model
def test_a_shipped_model_gives_the_scores_that_its_card_states(path, offline, islets_path):
    stated = json.loads((path / "scores.json").read_text())["islets_300"]
    model_directory, encoder = open_model_directory(path.name), load_model(path.name, ScDMCModel)
    assert model_directory.path == path
    assert next(encoder.parameters()).dtype == torch.float32
    cells = read_cells(islets_path, model_directory, [stated["label_key"]])
    embedding = cell_embeddings(encoder, cells, **stated["embedding"], show_progress=False)
    found = probe_scores(embedding, labels_of(cells.obs[stated["label_key"]]), stated["n_splits"], stated["seed"])
    card = (path / "README.md").read_text(encoding="utf8")
    for name, score in found.items():
        assert abs(score - stated[name]) <= 0.02, name
        assert f"{stated[name]:.3f}" in card, name


@shipped_model
def test_a_shipped_model_is_in_the_repository_as_it_was_exported(path, tmp_path):
    assert not list(path.glob("checkpoint*")), "checkpoints are for going on with a training, not for use"
    copy = shutil.copytree(path, tmp_path / "copy")
    assert open_model_directory(copy).settings == open_model_directory(path.name).settings
