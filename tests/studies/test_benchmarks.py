"""Each benchmark still runs, at a size that measures nothing: what they call must not change under them."""

import json
import re
import subprocess
import sys

import pytest

from scdmc.studies.tokenizing_speed import WAYS_TO_WRITE, measure_ways_to_write, write_counts
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

BENCHMARKS = ROOT / "benchmarks"
SMALL_ENCODER = "--hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2 --intermediate_size 32"
SMALLEST = {
    "annotate_speed": f"{SMALL_ENCODER} --cells 20 --n_genes 400 --genes_per_cell 50 --max_length 32",
    "data_loading": "--cells 40 --max_length 64 --batch_size 8",
    "embedding": f"{SMALL_ENCODER} --cells 4 --shortest 8 --longest 16 --rounds 1",
    "embed_many_speed": "--cells 20 --num_workers 1",
    "integration_speed": f"{SMALL_ENCODER} --cells 120 --n_batches 2 --n_genes 60 --seeds 1 --protocols published",
    "page_speed": "--cells 200 --frames 2",
    "pretrain_step": f"{SMALL_ENCODER} --batch_size 2 --shortest 8 --longest 16 --steps 1 --rounds 1",
}


def printed_by(name):
    """What a benchmark prints at its smallest size."""
    command = [sys.executable, BENCHMARKS / f"{name}.py", *SMALLEST[name].split()]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def numbers_of(row):
    """Name and numbers of a row of a printed table."""
    numbers = re.findall(r"(?<!\S)[\d,]+(?:\.\d+)?(?!\S)", row)
    return row[: row.index(numbers[0])].strip(), [float(number.replace(",", "")) for number in numbers]


def test_annotating_is_measured_in_cells_streams_and_memory():
    speed, memory = printed_by("annotate_speed").splitlines()
    cells, seconds, rate, streams = map(
        float, re.fullmatch(r"(\d+) cells in ([\d.]+) s: ([\d.]+) cells/s, ([\d.]+) streams/s", speed).groups()
    )
    assert cells == 20
    assert cells / (seconds + 0.06) <= rate <= cells / max(seconds - 0.06, 1e-9)
    assert streams in (pytest.approx(rate), pytest.approx(2 * rate, rel=0.05))
    peak, before = (float(number.replace(",", "")) for number in re.findall(r"([\d,]+) MiB", memory))
    assert peak >= before > 100  # torch alone takes more


def test_loading_of_data_is_measured_per_cell_and_per_second():
    header, row = printed_by("data_loading").splitlines()
    assert re.split(r"\s{2,}", header.strip()) == [
        "cells", "decode us/cell", "read us/cell", "read cells/s", "M tokens/s", "MiB"]  # fmt: skip
    _, (cells, decode, read, rate, million_tokens, memory) = numbers_of(row)
    assert cells == 40
    assert decode > 0
    assert memory > 0
    assert read * rate == pytest.approx(1e6, rel=0.05)
    assert million_tokens == pytest.approx(2 * 64 * rate / 1e6, abs=0.06)  # two streams of 64 tokens


def test_embedding_is_measured_beside_the_usual_model():
    _, *rows, first_ratio, second_ratio = printed_by("embedding").splitlines()
    rates = dict(map(numbers_of, rows))
    assert list(rates) == ["BertModel float32", "scDMC float32", "scDMC bfloat16"]
    for median, fastest, slowest in rates.values():
        assert 0 < slowest <= median <= fastest
    ratio = float(re.fullmatch(r"float32: ([\d.]+) times BertModel", first_ratio)[1])
    assert ratio == pytest.approx(rates["scDMC float32"][0] / rates["BertModel float32"][0], abs=0.01)
    mean, smallest = map(float, re.search(r"cosine to float32 ([\d.]+), smallest ([\d.]+)", second_ratio).groups())
    assert 0.99 < smallest <= mean <= 1


def test_embedding_shard_by_shard_is_measured_in_time_and_memory():
    _, row = printed_by("embed_many_speed").splitlines()
    cells, processes, seconds, rate, peak = (float(word.replace(",", "")) for word in row.split())
    assert (cells, processes) == (20, 1)
    assert rate == pytest.approx(20 / seconds, abs=0.6)
    assert peak > 100  # torch alone takes more


def test_a_step_of_pre_training_is_measured_beside_the_usual_loop():
    header, *rows, verdict = printed_by("pretrain_step").splitlines()
    assert re.split(r"\s{2,}", header.strip()) == ["s / step", "min", "max", "cells/s", "peak GiB"]
    sides = dict(map(numbers_of, rows))
    assert set(sides) == {"scdmc", "usual"}
    for seconds, fastest, slowest, rate, peak in sides.values():
        assert 0 < fastest <= seconds <= slowest
        assert 2 / (seconds + 0.001) - 0.1 <= rate <= 2 / max(seconds - 0.001, 1e-9) + 0.1  # a batch of two cells
        assert peak > 0.1  # torch alone takes more
    times = float(re.search(r"takes 1/([\d.]+) of the time", verdict)[1])
    assert times == pytest.approx(sides["usual"][0] / sides["scdmc"][0], rel=0.05, abs=0.06)


def test_the_tokenizer_and_its_stages_are_measured(load_script, tmp_path, capfd):
    script = load_script("benchmarks/tokenize_cells.py")
    write_counts(tmp_path / "cells_30", 30, 0)
    for measure in ("tokenize", "stages"):
        assert script.main(["--measure", measure, "--data_path", str(tmp_path / "cells_30")]) == 0
        found = json.loads(capfd.readouterr().out.splitlines()[-1])
        stages = {"read", "sort", "write"}
        named = {"seconds"} if measure == "tokenize" else stages | {f"{stage}_floor" for stage in stages}
        assert set(found) == {*named, "cpu_seconds", "mib"}
        assert min(found.values()) > 0
    ways = measure_ways_to_write(tmp_path / "cells_30", tmp_path, 1)
    assert set(ways) == set(WAYS_TO_WRITE)
    assert all(microseconds > 0 for microseconds, _ in ways.values())
    sizes = {name: size for name, (_, size) in ways.items()}
    largest = "neither encoded nor compressed"
    assert sizes["as they are written"] < sizes["encoded, not compressed"] < sizes[largest] == max(sizes.values())


def test_no_benchmark_is_left_out():
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == {
        *SMALLEST,
        "ablation",
        "annotation",
        "controls",
        "embedding_choices",
        "gpu_check",
        "paper",
        "probe",
        "tokenize_cells",
    }


def test_the_integration_benchmark_is_measured_by_method_and_in_memory():
    heads, *methods, peak = printed_by("integration_speed").splitlines()
    assert heads.split() == ["method", "seconds", "CPU", "s"]
    seconds = dict(numbers_of(row) for row in methods)
    whole = seconds.pop("all")
    assert set(seconds) == {
        "scDMC, embedding", "scDMC, its scores", "PCA, not integrated", "Harmony", "Scanorama", "maps, tables and page"
    }  # fmt: skip
    for place in (0, 1):
        assert 0 < sum(values[place] for values in seconds.values()) <= whole[place] + 0.5
    told = re.fullmatch(r"120 cells; memory at its peak ([\d,]+) MiB", peak)
    assert float(told[1].replace(",", "")) > 100
