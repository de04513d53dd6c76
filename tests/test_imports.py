"""What importing costs: a lean training node has no anndata, and a notebook should not wait for torch to tokenize."""

import subprocess
import sys

import pytest


def modules_after(statement):
    code = f"{statement}\nimport sys\nprint('\\n'.join(sorted(sys.modules)))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_package_itself_loads_nothing():
    assert not {"torch", "numpy", "pandas", "anndata"} & modules_after("import scdmc")


def test_the_core_of_the_tokenizer_needs_neither_torch_nor_anndata():
    loaded = modules_after(
        "import scdmc.tokens.streams, scdmc.tokens.medians, scdmc.tokens.tokenized_cells, scdmc.genes.vocabulary"
    )
    assert not {"torch", "transformers", "anndata", "scanpy", "datasets", "pandas", "h5py"} & loaded


def test_pretraining_needs_neither_anndata_nor_plotting_nor_pandas():
    loaded = modules_after("import scdmc.training.pretraining, scdmc.training.data, scdmc.model.folder")
    assert "torch" in loaded
    unwanted = {"anndata", "scanpy", "datasets", "pandas", "h5py", "sklearn", "matplotlib", "tensorboard"}
    assert not unwanted & loaded


@pytest.mark.parametrize("folder", ["tokenizer", "pretrain", "prepare", "downstream_tasks", "benchmarks", "figures"])
def test_scripts_are_importable_without_side_effects(load_script, folder, capsys, request):
    scripts = sorted((request.config.rootpath / folder).glob("*.py"))
    assert scripts
    for script in scripts:
        assert callable(load_script(script.relative_to(request.config.rootpath)).main)
    assert capsys.readouterr().out == ""
