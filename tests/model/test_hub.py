"""Models by their name on the Hugging Face hub, against a stand-in of the hub on the loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest

import scdmc
from scdmc.model.names import CARD_FIGURE, MODELING_FILE
from scdmc.model.storage import load
from tests.conftest import ROOT
from tests.model.hub_stand_in import hub_stand_in

SMALL = ROOT / "models" / "scDMC-small"
READ = {"config.json", "token_ids.json", "gene_medians.json", "tokenization.json", "README.md", "model.safetensors"}
# Nothing listens there.
NOBODY = "http://127.0.0.1:9"
FIND = """
import sys
from scdmc.errors import ScDMCError
from scdmc.model.shipped import model_folder
try:
    print(model_folder(sys.argv[1]))
except ScDMCError as error:
    print(f"ScDMCError: {error}")
"""

# One process for several commands: its start takes longer than they do.
COMMANDS = """
import json
import sys
from scdmc.cli.main import main
sys.exit(next((status for status in map(main, json.loads(sys.argv[1])) if status), 0))
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def hub():
    with hub_stand_in() as hub:
        content = {path.name: path.read_bytes() for path in SMALL.iterdir()}
        traps = {
            "pytorch_model.bin": b"a pickle",
            MODELING_FILE: b"raise SystemExit('the code of the hub ran')",
            "more/setup.py": b"raise SystemExit",
        }
        hub.models["someone/scDMC-copy"] = content | traps
        yield hub


@pytest.fixture
def cells_path(tmp_path, adata):
    """A few real cells: what is tried is the way of the model, not of the cells."""
    adata[:20].write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.fixture
def run(hub, tmp_path):
    """Run Python from an empty folder, with the stand-in as the hub and a cache of its own."""

    def run(*command, **changes):
        own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_stand_in"}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **own, **changes}
        (tmp_path / "here").mkdir(exist_ok=True)
        command = [sys.executable, *map(str, command)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path / "here"
        )

    return run


def embed(model, data_path, *more):
    return ("-m", "scdmc", "embed", "--model", model, "--data_path", data_path, "--output_file", "out.h5ad", *more)


def test_a_name_on_the_hub_gives_what_its_folder_gives_and_only_known_files_are_fetched(run, hub, cells_path, tmp_path):
    done = run(*embed("someone/scDMC-copy", cells_path))
    assert done.returncode == 0, done.stderr
    assert f"someone/scDMC-copy: fetched from {hub.address}" in done.stderr
    found = anndata.read_h5ad(tmp_path / "here" / "out.h5ad").obsm["X_scDMC"]
    expected = scdmc.embed(anndata.read_h5ad(cells_path), SMALL).obsm["X_scDMC"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert set(hub.fetched) == READ
    assert not [*tmp_path.rglob("*.bin"), *(tmp_path / "hf").rglob("*.py")]


def test_what_was_fetched_is_used_again_without_the_network(run, hub):
    first = run("-c", FIND, "someone/scDMC-copy").stdout.strip()
    assert Path(first, "model.safetensors").is_file()
    n_fetched = len(hub.fetched)
    for changes in ({}, {"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": NOBODY}):
        assert run("-c", FIND, "someone/scDMC-copy", **changes).stdout.strip() == first
    assert len(hub.fetched) == n_fetched


@pytest.mark.parametrize("changes", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": NOBODY}])
def test_without_network_the_message_is_one_line_that_says_so(run, hub, changes):
    (message,) = run("-c", FIND, "someone/scDMC-copy", **changes).stdout.splitlines()
    address = changes.get("HF_ENDPOINT", hub.address)
    assert message == (
        f"ScDMCError: someone/scDMC-copy: no such folder here, and {address} cannot be reached; check the path, "
        "or try again with a connection"
    )


def test_an_unknown_name_and_a_model_without_safetensors_are_refused(run, hub, cells_path):
    done = run(*embed("someone/nothing", cells_path))
    assert done.returncode == 2
    assert f"error: someone/nothing: no such folder here, and no such model on {hub.address}" in done.stderr
    del hub.models["someone/scDMC-copy"]["model.safetensors"]
    (message,) = run("-c", FIND, "someone/scDMC-copy").stdout.splitlines()
    assert message.endswith("lacks config.json or weights as safetensors; pickled weights are not fetched")


def test_the_export_sends_a_folder_that_the_hub_gives_back(run, hub, cells_path, tmp_path):
    export = ["export", "--model", "scDMC-small", "--output_dir", "exported", "--max_file_mib", "1"]
    embed_it = [str(word) for word in embed("me/mine", cells_path)[2:]]
    done = run("-c", COMMANDS, json.dumps([[*export, "--push_to_hub", "me/mine"], embed_it]))
    assert done.returncode == 0, done.stderr
    assert f"sent to {hub.address}/me/mine" in done.stdout
    assert f"me/mine: fetched from {hub.address}" in done.stderr
    sent = hub.models["me/mine"]
    assert READ - {"model.safetensors"} < set(sent)
    assert {MODELING_FILE, CARD_FIGURE, "model.safetensors.index.json", "model-00001-of-00002.safetensors"} < set(sent)
    assert "arguments.json" not in sent
    assert sent["README.md"].startswith(b"---\nlicense: mit\n")
    found = anndata.read_h5ad(tmp_path / "here" / "out.h5ad").obsm["X_scDMC"]
    expected = scdmc.embed(anndata.read_h5ad(cells_path), SMALL).obsm["X_scDMC"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_sending_without_the_right_to_write_or_to_a_wrong_name_is_refused(run, hub):
    code = f"from scdmc.model.hub import push_model\nimport sys\npush_model({str(SMALL)!r}, *sys.argv[1:])"
    done = run("-c", code, "me/mine", HF_TOKEN="hf_wrong")
    assert f"ScDMCError: {hub.address} refused me/mine" in done.stderr
    assert "log in with `hf auth login`, with the right to write" in done.stderr
    done = run("-c", code, "mine")
    assert "ScDMCError: 'mine' is no name on the Hugging Face hub; write it as user/name" in done.stderr
    done = run("-c", code, "me/mine", HF_ENDPOINT=NOBODY)
    assert f"ScDMCError: {NOBODY} cannot be reached, so me/mine was not sent" in done.stderr
    assert list(hub.models) == ["someone/scDMC-copy"]


def test_the_method_of_transformers_sends_a_model_too(run, hub, tmp_path):
    code = "from scdmc.modeling import load\nload('scDMC-small').push_to_hub('me/weights')"
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    for name, content in hub.models["me/weights"].items():
        (tmp_path / name).write_bytes(content)
    assert type(load(tmp_path)) is type(load(SMALL))
