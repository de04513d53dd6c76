"""Each benchmark still runs, at a size that measures nothing: what they call must not change under them."""

import subprocess
import sys

import pytest

from scdmc.studies.tokenizing_speed import write_counts
from tests.conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
SMALL_ENCODER = "--hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2 --intermediate_size 32"
SMALLEST = {
    "annotate_speed": f"{SMALL_ENCODER} --cells 20 --n_genes 400 --genes_per_cell 50 --max_length 32",
    "data_loading": "--cells 40 --max_length 64 --batch_size 8",
    "embedding": f"{SMALL_ENCODER} --cells 4 --shortest 8 --longest 16 --rounds 1",
    "pretrain_step": f"{SMALL_ENCODER} --batch_size 2 --shortest 8 --longest 16 --steps 1 --rounds 1",
}


@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_prints_its_table(name):
    command = [sys.executable, BENCHMARKS / f"{name}.py", *SMALLEST[name].split()]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "cells" in result.stdout


def test_the_tokenizer_and_its_stages_are_measured(load_script, tmp_path, capfd):
    script = load_script("benchmarks/tokenize_cells.py")
    write_counts(tmp_path / "cells_30", 30, 0)
    for measure in ("tokenize", "stages"):
        assert script.main(["--measure", measure, "--data_path", str(tmp_path / "cells_30")]) == 0
        assert "cpu_seconds" in capfd.readouterr().out


def test_no_benchmark_is_left_out():
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == {
        *SMALLEST,
        "ablation",
        "embedding_choices",
        "probe",
        "tokenize_cells",
    }
