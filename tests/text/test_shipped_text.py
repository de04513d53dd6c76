"""The text model that comes with scDMC: found by its name, small, with the encoder it names, of use as it is."""

import json
import shutil
from pathlib import Path

import anndata
import pytest

import scdmc
from scdmc.errors import ScDMCError
from scdmc.files import sha256_of_file
from scdmc.model.shipped import MODELS
from scdmc.result_folders import require_whole
from scdmc.text.model import read_text_model
from scdmc.text.ontology import CellOntology
from scdmc.text.shipped import TEXT_MODELS, shipped_text_models, text_model_folder

MIB = 2**20
SHIPPED = shipped_text_models()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_text_model_is_small_whole_and_names_its_encoder(name):
    folder = text_model_folder(name)
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 10 * MIB
    assert not (folder / "encoder").exists()
    named = json.loads((folder / "encoder.json").read_text())
    assert named["sha256"] == sha256_of_file(MODELS / named["name"] / "model.safetensors")
    model, directory = read_text_model(name)
    assert directory.path.name == named["name"]
    assert set(model.texts.terms["cl_id"]) <= set(CellOntology.load())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["is_whole"]
    require_whole(folder, *manifest["files"])
    flags = json.loads((folder / "arguments.json").read_text())
    assert not [value for value in flags.values() if isinstance(value, str) and Path(value).is_absolute()]


def test_the_shipped_model_puts_islets_into_words_without_a_text_encoder(islets_path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no MiniLM there
    adata = anndata.read_h5ad(islets_path)[:150].copy()
    told = scdmc.describe(adata, "scDMC-small-text", "cell_type").set_index("cell_type")
    for label, cl_id in {"alpha": "CL:0000171", "beta": "CL:0000169", "ductal": "CL:0002079"}.items():
        assert told.loc[label, "cl_id"] == cl_id
    assert "INS" in told.loc["beta", "genes"]


def test_another_encoder_than_the_one_that_is_named_is_refused(tmp_path):
    folder = shutil.copytree(TEXT_MODELS / SHIPPED[0], tmp_path / "copy")
    (folder / "manifest.json").unlink()
    named = json.loads((folder / "encoder.json").read_text())
    for change, words in [
        ({"sha256": "0" * 64}, "was trained with another scDMC-small than this scDMC has"),
        ({"name": "absent"}, "needs the encoder 'absent', which does not come with this scDMC"),
    ]:
        (folder / "encoder.json").write_text(json.dumps(named | change))
        with pytest.raises(ScDMCError, match=words):
            read_text_model(folder)
    with pytest.raises(ScDMCError, match="by name there are scDMC-small-text"):
        read_text_model("absent")


def test_an_encoder_that_does_not_come_with_scdmc_is_not_shared(text_world, load_script, tmp_path, capsys):
    words = ["--model", text_world["cells"], "--corpus_dir", text_world["corpus"], "--output_dir", tmp_path / "out"]
    assert load_script("pretrain/text_pretrain.py").main([*map(str, words), "--share_encoder"]) == 2
    assert "does not come with scDMC; those do: scDMC-small, scDMC-tissues" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
