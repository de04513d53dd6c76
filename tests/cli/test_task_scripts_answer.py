"""Every downstream script answers at once: help and what is refused, with nothing heavy imported."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

HEAVY = {"torch", "transformers", "numpy", "pandas", "scipy", "sklearn", "scanpy", "anndata", "h5py", "pyarrow"}
MOST_SECONDS = 1.0  # of CPU
SCRIPTS = sorted(path.stem for path in (ROOT / "downstream_tasks").glob("*.py"))
WITH_CELLS = sorted(set(SCRIPTS) - {"demo_report", "learning_curve"})

# Runs a script in a process of its own; prints its status, what it said, what it imported, and its CPU seconds.
RUN = """
import contextlib, importlib.util, io, json, resource, sys
sys.argv = sys.argv[1:]
name, *argv = sys.argv
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    spec = importlib.util.spec_from_file_location("a_script", name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        status = module.main(argv)
    except SystemExit as end:
        status = end.code
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([status, said.getvalue(), sorted(sys.modules), used.ru_utime + used.ru_stime]))
"""


@pytest.fixture
def answer(tmp_path):
    """A function that runs a script in the test's folder; returns its status and what it said, and checks its cost."""

    def run(script, *words):
        path = ROOT / "downstream_tasks" / f"{script}.py"
        command = [sys.executable, "-c", RUN, str(path), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        status, said, modules, seconds = json.loads(done.stdout)
        assert not HEAVY & set(modules)
        assert seconds < MOST_SECONDS
        return status, said

    return run


def flags_of(script, data, model="scDMC-small"):
    output = ["--output_file", "out.h5ad"] if script in ("annotate", "embed") else ["--output_dir", "out"]
    more = {"gene_regulatory_network": ["--regulons", "r.csv"], "perturb": ["--genes", "INS"]}.get(script, [])
    return ["--model", model, "--data_path", data, *output, *more]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_quick_and_ends_with_two_examples(answer, script):
    status, said = answer(script, "--help")
    assert status == 0
    examples = said.partition("\nexamples:\n")[2].splitlines()
    assert len(examples) == 2
    assert all(line.startswith(f"  python -u {script}.py") for line in examples)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_wrong_flag_is_one_line(answer, script):
    status, said = answer(script, "--output_dri", "x")
    assert status == 2
    assert said.startswith("error: --output_dri: no such flag; did you mean --output_")
    assert said.count("\n") == 1


@pytest.mark.parametrize("script", WITH_CELLS)
@pytest.mark.parametrize(
    ("data", "content", "said"),
    [
        ("absent.h5ad", None, "no such file"),
        ("text.h5ad", "no HDF5", "is no HDF5"),
        ("text.parquet", "no parquet", "is not a readable parquet file"),
    ],
)
def test_cells_that_are_not_there_or_cannot_be_read_are_one_line(answer, tmp_path, script, data, content, said):
    if content is not None:
        (tmp_path / data).write_text(content)
    (tmp_path / "r.csv").write_text("tf,target\nPAX6,INS\n")
    status, text = answer(script, *flags_of(script, data))
    assert status == 2
    assert text.startswith(f"error: --data_path {data}")
    assert said in text
    assert text.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("script", WITH_CELLS)
def test_an_unknown_model_is_one_line(answer, tmp_path, islets_path, script):
    status, text = answer(script, *flags_of(script, islets_path, "no_such_model"))
    assert status == 2
    assert text.startswith("error: no_such_model: no such model folder")
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("annotate", ["--reference", "absent.h5ad"], "--reference absent.h5ad: no such file"),
        ("annotate", ["--pooling", "mean"], "--pooling has no effect without --reference"),
        ("cluster", ["--oracle"], "--oracle chooses by labels"),
        ("downstream_tasks", ["--split_file", "absent.csv"], "--split_file absent.csv: no such file"),
        ("downstream_tasks", ["--split_file", "x.csv", "--cross_validate", 3], "leave out --split_file"),
        ("gene_modules", ["--gene_sets", "absent.gmt"], "--gene_sets absent.gmt: no such file"),
        ("gene_modules", ["--permutations", 10], "--permutations has no effect without --gene_sets"),
        ("gene_regulatory_network", [], "--regulons r.csv: no such file"),
        ("integration", ["--adapt_steps", 3], "--adapt_steps has no effect without --adapt"),
        ("perturb", ["--gene_mapping_file", "absent.json"], "--gene_mapping_file absent.json: no such file"),
    ],
)
def test_contradictions_and_other_missing_files_are_one_line(answer, islets_path, script, words, said):
    status, text = answer(script, *flags_of(script, islets_path), *words)
    assert status == 2
    assert text.startswith("error: ")
    assert said in text
    assert text.count("\n") == 1


def test_results_that_are_not_there_are_one_line(answer, tmp_path):
    status, text = answer("learning_curve", "--result_dirs", "absent", "--output_dir", "out")
    assert (status, text.count("\n")) == (2, 1)
    assert "absent is no output folder of downstream_tasks.py" in text
    status, text = answer("demo_report", "--output_dir", "absent")
    assert (status, text.count("\n")) == (2, 1)
    assert "absent lacks split.csv" in text
