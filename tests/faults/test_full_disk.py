"""A disk that fills, and two runs on one output: one line of error, and never half a result or a mixture."""

import random
import subprocess

import pytest

from tests.faults.jobs import JOBS, words_of
from tests.faults.kills import SEED, Killer, contents, points_of, shown

pytestmark = pytest.mark.slow

FILLING = (
    "tokenize", "pre-train", "fine-tune over other labels", "annotate", "embed", "embed many over an older one",
    "cluster", "export", "medians",
)  # fmt: skip
RACING = (
    "tokenize over an older one", "pre-train over an older one", "embed over an older one", "export over an older one",
    "cluster over an older one",
)  # fmt: skip
SMALL_DISK = "200k"


@pytest.mark.parametrize("name", FILLING)
def test_a_file_that_cannot_grow_is_one_line(name, fork_server, job_inputs, tmp_path):
    killer = Killer(fork_server, job_inputs, tmp_path, name)
    sizes = sorted(killer.undisturbed.sizes)
    generator = random.Random(f"{SEED} {name}")
    for _ in range(max(1, points_of(name) // 3)):
        killer.fill(int(generator.choice(sizes[len(sizes) // 2 :]) * generator.uniform(0.1, 0.95)))


@pytest.mark.parametrize("name", RACING)
def test_two_runs_on_one_output_give_one_whole_result(name, fork_server, job_inputs, tmp_path):
    Killer(fork_server, job_inputs, tmp_path, name).race()


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own that is nearly full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", FILLING)
def test_a_disk_that_is_full_is_one_line(name, fork_server, job_inputs, small_disk):
    job = JOBS[name]
    (small_disk / "other").write_bytes(b"x" * 150_000)
    outcome = fork_server.script(job.script, words_of(job.flags(job_inputs, small_disk / "out")))
    assert outcome.signal == 0
    assert outcome.result == 0 or outcome.is_refusal, outcome.tail
    kept = ("out/checkpoints/", "out/tensorboard/")  # what --resume takes up
    left = sorted(name for name in shown(contents(small_disk)) if not name.startswith(kept))
    assert left == ["other"] or outcome.result == 0, left
