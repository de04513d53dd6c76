"""A model folder opens by transformers alone, in a process that cannot import scdmc, and computes the same."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from scdmc.model import standalone
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import open_model_directory
from scdmc.model.heads import ScDMCForCellClassification, ScDMCForMaskedLM
from scdmc.model.names import CONFIG_FILE, MODELING_FILE
from scdmc.model.standalone import AUTO_CLASSES, standalone_source
from scdmc.model.storage import load_model, save_config
from scdmc.model.weights import save_weights
from tests.conftest import ROOT
from tests.model.test_folder import make_model

CODE = """
import sys
sys.modules["scdmc"] = None  # importing it fails from here on
import torch
import transformers
auto_class, folder, output = sys.argv[1:]
config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True).eval()
torch.manual_seed(0)
ids = torch.randint(4, config.vocab_size, (4, 9))
ids[1, 5:] = 0
values = torch.rand(4, 9) if config.expression_input == "value" else None
with torch.inference_mode():
    found = model(ids, expression_values=values)[0]
assert type(model).__module__.startswith("transformers_modules.")
torch.save({"ids": ids, "values": values, "found": found}, output)
"""


@pytest.fixture
def opened_without_scdmc(tmp_path):
    """A function that opens a folder in another process and gives the ids that went in and the states that came out."""

    def run(auto_class, folder):
        environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", CODE, auto_class, str(folder), str(tmp_path / "found.pt")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return torch.load(tmp_path / "found.pt", weights_only=True)

    return run


def require_same_states(given, model):
    with torch.inference_mode():
        expected = model(given["ids"], expression_values=given["values"])[0]
    torch.testing.assert_close(given["found"], expected, rtol=0, atol=0)


def test_the_shipped_model_opens_without_scdmc_and_computes_the_same(opened_without_scdmc, tmp_path):
    folder = shutil.copytree(ROOT / "models" / "scDMC-small", tmp_path / "small")
    given = opened_without_scdmc("AutoModel", folder)
    assert given["found"].dtype == torch.float32
    require_same_states(given, load_model(folder, ScDMCModel))


@pytest.mark.parametrize(
    ("auto_class", "model_class", "changes"),
    [
        ("AutoModelForMaskedLM", ScDMCForMaskedLM, {}),
        ("AutoModelForSequenceClassification", ScDMCForCellClassification, {"classifier_pooling": "mean"}),
    ],
)
def test_a_new_folder_opens_without_scdmc_with_its_head(
    opened_without_scdmc, tmp_path, auto_class, model_class, changes
):
    folder = tmp_path / "model"
    folder.mkdir()
    save_config(folder, make_model(model_class, **changes))
    assert len(save_weights(folder, make_model(model_class, **changes), 66_000)) > 1
    require_same_states(opened_without_scdmc(auto_class, folder), load_model(folder, model_class))


def test_the_file_needs_torch_and_transformers_only_and_names_every_auto_class(tmp_path):
    (tmp_path / MODELING_FILE).write_text(standalone_source())
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['scdmc', 'pandas', 'anndata', 'scipy', 'h5py', 'pyarrow']))\n"
        f"import modeling_scdmc as made\nprint(*[getattr(made, name).__name__ for name in {[*AUTO_CLASSES.values()]}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.split() == [*AUTO_CLASSES.values()], done.stderr


def test_a_module_that_the_file_needs_must_be_among_its_sources(monkeypatch):
    monkeypatch.setattr(standalone, "SOURCES", tuple(name for name in standalone.SOURCES if name != "options.py"))
    with pytest.raises(ValueError, match=r"defines BACK_ENDS, EXPRESSION_INPUTS"):
        standalone_source()


def test_scdmc_never_runs_the_code_of_a_model_folder(tmp_path):
    folder = shutil.copytree(ROOT / "models" / "scDMC-small", tmp_path / "small")
    (folder / MODELING_FILE).write_text("raise SystemExit('the code of the folder ran')")
    model = load_model(folder, ScDMCModel)
    assert type(model) is ScDMCModel
    assert open_model_directory(folder).context == 512
    assert json.loads((folder / CONFIG_FILE).read_text())["auto_map"]["AutoModel"] == "modeling_scdmc.ScDMCModel"
