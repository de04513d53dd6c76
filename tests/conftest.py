"""What several test files use: places of data, scripts as modules, a small model and what is read for it.

A wing or a module that needs another model, other cells or other data overrides the fixture of that name. Imports that
take seconds stand in the fixtures, for the tests that need none of them.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from scdmc.genes.vocabulary import SPECIAL_TOKENS, Vocabulary
from tests.undrawn import save_no_figure

ROOT = Path(__file__).parent.parent
NO_REFERENCE_DATA = "the folder of reference data is not there"


def pytest_terminal_summary(terminalreporter):
    """Say how many parity tests did not run for want of the reference data."""
    skipped = [
        report for report in terminalreporter.stats.get("skipped", ()) if NO_REFERENCE_DATA in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} parity tests skipped: {NO_REFERENCE_DATA}; tests/test_golden.py guards parity without it"
        )


@pytest.fixture(autouse=True, scope="session")
def same_date():
    """Pages say when they were made: here, and in the processes of the tests, at one time, so that bytes repeat."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SOURCE_DATE_EPOCH", "1767225600")
        yield


@pytest.fixture(autouse=True, scope="session")
def undrawn_figures():
    """Scripts in the process of the tests save figures of one pixel; ``drawn_figures`` has them drawn."""
    import matplotlib.figure

    drawn = matplotlib.figure.Figure.savefig
    matplotlib.figure.Figure.savefig = save_no_figure
    yield drawn
    matplotlib.figure.Figure.savefig = drawn


@pytest.fixture
def drawn_figures(undrawn_figures, monkeypatch):
    """Figures are drawn after all, in a test of how they look."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", undrawn_figures)


@pytest.fixture(scope="session")
def shared():
    """The folder of reference data beside the repository."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip(NO_REFERENCE_DATA)
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


@pytest.fixture(scope="module")
def one_thread():
    """One thread for torch: for models this small, several cost more than they give."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def golden_arrays(shared):
    """A function that reads a file of the golden data as name -> array."""

    def read(file):
        with np.load(shared / "golden" / file) as arrays:
            return {name: np.asarray(array) for name, array in arrays.items()}

    return read


@pytest.fixture(scope="session")
def golden_tensors(golden_arrays):
    """A function that reads a file of the golden data as name -> tensor."""
    import torch

    return lambda file: {name: torch.from_numpy(array) for name, array in golden_arrays(file).items()}


@pytest.fixture
def adata(islets_path):
    """The 300 real cells in memory."""
    import anndata

    return anndata.read_h5ad(islets_path)


@pytest.fixture(scope="session")
def tokenize_islets(load_script, islets_path, tmp_path_factory):
    """A function that tokenizes the 300 real cells by the script, and returns the parquet file."""

    def tokenize(*options):
        folder = tmp_path_factory.mktemp("tokenized")
        command = ["--input_directory", islets_path.parent, "--output_directory", folder, "--output_prefix", "islets"]
        script = load_script("tokenizer/tokenizer_combine.py")
        assert script.main([str(word) for word in (*command, *options)]) == 0
        return folder / "islets.parquet"

    return tokenize


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """The folder of a small random model of 128 tokens, whose only median is that of INS."""
    from scdmc.tokens.medians import GeneMedians
    from tests.small_models import save_small_model

    medians = GeneMedians({"ENSG00000254647": 50.0}, source="a test")
    return save_small_model(tmp_path_factory.mktemp("model") / "tiny", 128, medians)


@pytest.fixture(scope="module")
def model_directory(model_path):
    """What the folder of the model says beside its weights."""
    from scdmc.model.folder import open_model_directory

    return open_model_directory(model_path)


@pytest.fixture(scope="module")
def encoder(model_path):
    """The encoder of the model."""
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.storage import load_model

    return load_model(model_path, ScDMCModel)


@pytest.fixture(scope="module")
def classifier_path(tmp_path_factory, model_directory):
    """The folder of a classifier of beta and ductal cells that learned nothing."""
    from scdmc.model.storage import save_model_directory
    from tests.small_models import new_classifier

    path, d = tmp_path_factory.mktemp("model") / "classifier", model_directory
    save_model_directory(path, new_classifier(d), d.vocabulary, d.medians, d.settings, "a test")
    return path


@pytest.fixture(scope="module")
def cells(model_directory, islets_path):
    """The 300 real cells as the model reads them, with type and batch."""
    from scdmc.cells.data import read_cells

    return read_cells(islets_path, model_directory, ["cell_type", "batch"])


@pytest.fixture(scope="session")
def scripts(load_script):
    """Name of a script that takes cells -> its ``main`` (see ``tests/task_scripts.py``)."""
    names = ("downstream_tasks", "annotate", "embed", "cluster", "integration")
    mains = {name: load_script(f"downstream_tasks/{name}.py").main for name in names}
    return mains | {"split_cells": load_script("prepare/split_cells.py").main}
