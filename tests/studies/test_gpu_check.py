"""The check of a GPU stays alive on a CPU, and says what is not as expected."""

import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from scdmc.studies import gpu_check
from scdmc.studies.gpu_check import SECTIONS, check, verdict
from scdmc.studies.gpu_check_rows import CASE, STEP, TINY, judged
from tests.conftest import ROOT


@pytest.mark.slow
def test_every_section_runs_on_a_cpu_without_the_packages_of_the_downstream_scripts(tmp_path):
    (tmp_path / "absent").mkdir()
    for package in ("anndata", "scanpy", "datasets", "pandas", "h5py", "matplotlib", "tensorboard"):
        (tmp_path / "absent" / f"{package}.py").write_text(f"raise ImportError('{package} is not installed')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'absent'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "benchmarks" / "gpu_check.py", "--tiny", "--output_dir", tmp_path / "out"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert (finished.returncode, finished.stdout.splitlines()[-1]) == (0, "all as expected"), log
    found = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert {name: outcome["status"] for name, outcome in found.items()} == dict.fromkeys(SECTIONS, "done"), log
    assert all(outcome["rows"] for outcome in found.values())
    resumed = found["resume"]["rows"][0]
    assert resumed["loss differs by"] == 0  # on a CPU
    with (tmp_path / "out" / "steps.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 8  # four runs of two steps
    assert {path.name for path in (tmp_path / "out").iterdir() if path.name[0] != "."} == {
        "gpu_check.json", "gpu_check.md", "steps.csv", "log.txt"}  # fmt: skip


def slow(size):
    yield {CASE: "first", STEP: 0, "seconds": 1.5}
    time.sleep(60)


def broken(size):
    yield {CASE: "first", "is": 1}
    raise RuntimeError("of this section alone")


def wrong(size):
    yield judged({CASE: "gradient", "error": 0.5}, no_difference=False, finite=True)


def test_a_section_that_hangs_or_breaks_down_loses_no_rows_and_ends_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "measures", lambda: {"facts": slow, "parity": broken, "step": wrong})
    monkeypatch.setitem(SECTIONS, "facts", 0.5)
    outcomes = check(["facts", "parity", "step"], TINY, 60, tmp_path)
    assert [outcome.status for outcome in outcomes.values()] == [
        "stopped at its deadline", "ended with status 1", "done"]  # fmt: skip
    assert [len(outcome.rows) for outcome in outcomes.values()] == [1, 1, 1]
    assert [outcome.failures for outcome in outcomes.values()] == [
        [], ["ended with status 1"], ["gradient: no difference"]]  # fmt: skip
    assert "of this section alone" in (tmp_path / "log.txt").read_text()
    tables = (tmp_path / "gpu_check.md").read_text()
    assert "| gradient | 0.5 |" in tables
    assert "**Not as expected:** gradient: no difference" in tables
    assert (tmp_path / "steps.csv").read_text().splitlines() == ["case,step,seconds", "first,0,1.5"]


def test_without_time_sections_are_left_out_and_that_is_not_as_expected(tmp_path):
    outcomes = check(["facts", "ddp"], replace(TINY, is_tiny=False), 0, tmp_path)
    assert {outcome.status for outcome in outcomes.values()} == {"left out: no time"}
    assert verdict(outcomes).splitlines() == [
        "not as expected:", "facts: left out: no time", "ddp: left out: no time"]  # fmt: skip


def test_a_check_in_the_folder_of_another_one_leaves_nothing_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "measures", lambda: {"facts": slow, "step": wrong})
    monkeypatch.setitem(SECTIONS, "facts", 0.5)
    outcomes = check(["facts"], TINY, 60, tmp_path)
    assert verdict(outcomes).splitlines() == [
        "facts: stopped at its deadline; the rest was not checked", "all as expected"]  # fmt: skip
    assert (tmp_path / "steps.csv").exists()
    check(["step"], TINY, 60, tmp_path)
    assert not (tmp_path / "steps.csv").exists()
    assert (tmp_path / "log.txt").read_text().splitlines() == ["== step"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_check_is_refused(load_script, tmp_path, capsys):
    assert load_script("benchmarks/gpu_check.py").main(["--output_dir", str(tmp_path / "out")]) == 2
    assert "there is no GPU that torch can use; --tiny" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
