"""What several test files use: places of data, scripts as modules, small vocabularies."""

import importlib.util
import json
from pathlib import Path

import pytest

from scdmc.genes.vocabulary import SPECIAL_TOKENS, Vocabulary

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared():
    """The folder of reference data beside the repository."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("the folder of reference data (../shared) is not there")
    return path


@pytest.fixture(scope="session")
def islets_path():
    """300 real cells (tests/data/README.md)."""
    return ROOT / "tests" / "data" / "islets_300.h5ad"


@pytest.fixture(scope="session")
def load_script():
    """A function that imports a script, such as ``tokenizer/gene_medians.py``, as a module."""

    def load(path):
        spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def make_vocabulary():
    """A function that makes a vocabulary of the given genes."""

    def make(genes):
        return Vocabulary({token: index for index, token in enumerate((*SPECIAL_TOKENS, *genes))}, source="a test")

    return make


@pytest.fixture
def write_json_file(tmp_path):
    """A function that writes an object as JSON into the test's folder."""

    def write(name, content):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return write
