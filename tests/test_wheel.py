"""The wheel: built from a copy of the checkout, installed into an empty folder, and used from elsewhere."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile

import anndata
import numpy as np
import pytest

from scdmc.cli.main import COMMANDS
from scdmc.files import sha256_of_file
from scdmc.version import __version__
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

SOURCES = ("scdmc", "tokenizer", "models", "text_models", "pretrain", "prepare", "downstream_tasks")


def run(command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built without network, from a copy, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)
    run([sys.executable, "-m", "pip", "wheel", *options, folder / "source"])
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder into which the wheel alone was installed."""
    target = tmp_path_factory.mktemp("installed") / "site"
    run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel])
    return target


@pytest.fixture
def elsewhere(installed, tmp_path, monkeypatch):
    """Run a command of the installed package from an empty folder, with the libraries but without the checkout.

    ``-S`` leaves out what an editable install of the checkout puts on ``sys.path``.
    """
    libraries = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), *sorted(libraries)]))
    return lambda *command: run([sys.executable, "-S", *command], cwd=tmp_path)


def test_every_wing_of_the_library_is_listed_as_a_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["tool"]["setuptools"]["packages"]
    wings = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "scdmc").rglob("__init__.py")}
    assert wings <= set(listed)


def test_the_wheel_holds_all_modules_the_scripts_and_the_data_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "scdmc").rglob("*.py")}
    data = {f"scdmc/{folder}/{path.name}" for folder in ("token_files", "text_files")
            for path in (ROOT / "tokenizer" / folder).iterdir()}  # fmt: skip
    models = {f"scdmc/{path.relative_to(ROOT).as_posix()}" for folder in ("models", "text_models")
              for path in (ROOT / folder).rglob("*") if path.is_file()}  # fmt: skip
    scripts = {f"scdmc/scripts/{script}" for script in COMMANDS.values()}
    of_pages = {path.relative_to(ROOT).as_posix() for ending in ("css", "html", "js")
                for path in (ROOT / "scdmc" / "reports").glob(f"*.{ending}")}  # fmt: skip
    others = {"scdmc/py.typed", "scdmc/studies/paper/published_figures.csv"}
    found = {name for name in names if ".dist-info/" not in name}
    assert found == modules | data | models | scripts | of_pages | others
    assert wheel.stat().st_size < 12 * 2**20


def test_the_data_of_the_installed_package_are_those_of_the_repository(elsewhere, installed):
    code = (
        "import sys, scdmc\n"
        "from scdmc.genes.ids import load_symbols\n"
        "from scdmc.genes.vocabulary import DEFAULT_TOKEN_DICTIONARY_FILE, load_vocabulary\n"
        "from scdmc.model.shipped import shipped_models\n"
        "from scdmc.text.shipped import shipped_text_models\n"
        "from scdmc.text.labels import match_labels\n"
        "from scdmc.text.ontology import CellOntology\n"
        "from scdmc.tokens.medians import DEFAULT_GENE_MEDIAN_FILE, load_gene_medians\n"
        "print(scdmc.__file__, *sys.path, sep='\\n')\n"
        "medians = load_gene_medians(DEFAULT_GENE_MEDIAN_FILE).medians\n"
        "print(len(load_vocabulary()), load_symbols()['INS'], len(medians))\n"
        "print(*shipped_models(), *shipped_text_models())\n"
        "print(DEFAULT_TOKEN_DICTIONARY_FILE)\n"
        "print(*(match.cl_id for match in match_labels(['alpha', 'NK'], CellOntology.load())))\n"
    )
    file, *path, counts, models, vocabulary, terms = elsewhere("-c", code).splitlines()
    assert file == str(installed / "scdmc" / "__init__.py")
    assert str(ROOT) not in path
    assert counts.split() == ["60534", "ENSG00000254647", "22333"]
    assert models == "scDMC-small scDMC-tissues scDMC-small-text"
    assert terms == "CL:0000171 CL:0000623"
    assert vocabulary == str(installed / "scdmc" / "token_files" / "token_ids_60534.json")
    assert sha256_of_file(vocabulary) == sha256_of_file(ROOT / "tokenizer" / "token_files" / "token_ids_60534.json")


def test_the_console_command_embeds_cells_with_the_shipped_model(elsewhere, installed, islets_path, tmp_path):
    scdmc = installed / "bin" / "scdmc"
    assert elsewhere(scdmc, "--version") == f"scdmc {__version__}\n"
    command = ("embed", "--model", "scDMC-small", "--data_path", islets_path, "--output_file", "embedded.h5ad")
    assert "(300, 128); wrote embedded.h5ad" in elsewhere(scdmc, *command)
    embedding = anndata.read_h5ad(tmp_path / "embedded.h5ad").obsm["X_scDMC"]
    assert np.isfinite(embedding).all()
    assert np.unique(embedding, axis=0).shape == (300, 128)


def test_every_script_of_the_installed_package_answers_as_a_subcommand(elsewhere, installed):
    code = (
        "import contextlib, io\n"
        "from scdmc.cli.main import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    text = io.StringIO()\n"
        "    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):\n"
        "        main([command, '--help'])\n"
        "    print(' '.join(text.getvalue().split()[:3]))\n"
    )
    assert elsewhere("-c", code).splitlines() == [f"usage: scdmc {command}" for command in COMMANDS]
