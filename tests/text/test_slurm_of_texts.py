"""docs/cluster/text_pretrain.slurm without Slurm: what it starts, and when it submits itself again."""

import os
import subprocess

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "docs" / "cluster" / "text_pretrain.slurm"
# Each writes its arguments down; srun then leaves what the case says, as a run of so much time would.
COMMANDS = {
    "scontrol": "echo node-1",
    "sbatch": 'echo "$@" >> "$CALLS/sbatch"',
    "python": 'echo "$@" >> "$CALLS/python"; eval "$MAKES"',
    "timeout": 'echo "$1" >> "$CALLS/timeout"; shift; exec "$@"',
    "srun": 'echo "$@" >> "$CALLS/srun"; eval "$LEAVES"',
}
CORPUS = 'case "$*" in *text_corpus.py*) mkdir -p "$PLACE/corpus"; echo "{}" > "$PLACE/corpus/corpus.json";; esac'
CHECKPOINT = (
    'mkdir -p "$PLACE/text_model/checkpoints/step-00000{}00"; '
    'echo "{{}}" > "$PLACE/text_model/checkpoints/step-00000{}00/state.json"; exit 124'
)
MODEL = 'rm -r "$PLACE/text_model"; mkdir "$PLACE/text_model"; echo > "$PLACE/text_model/model.safetensors"'


@pytest.fixture
def submit(tmp_path):
    """Run the script as a job; returns its status, and what python, srun and sbatch were called with."""
    for name, text in COMMANDS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)

    def run(leaves, makes=CORPUS):
        calls = tmp_path / "calls"
        calls.mkdir(exist_ok=True)
        for called in calls.iterdir():
            called.unlink()
        environment = {
            **os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "CALLS": str(calls),
            "PLACE": str(tmp_path / "out"), "LEAVES": leaves, "MAKES": makes, "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node-1", "SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "8",
        }  # fmt: skip
        command = ["bash", SCRIPT, "MODEL", tmp_path / "out", "--seed", "3"]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        texts = {path.name: path.read_text().strip() for path in calls.iterdir()}
        return finished.returncode, *(texts.get(name) for name in ("python", "srun", "sbatch"))

    return run


def test_a_job_makes_the_corpus_once_and_submits_itself_until_there_is_a_model(submit, tmp_path):
    status, made, started, again = submit(CHECKPOINT.format(1, 1))
    assert status == 0
    assert [line.split()[1] for line in made.splitlines()] == ["tokenizer/census.py", "tokenizer/text_corpus.py"]
    assert made.endswith("--download")  # the text encoder, which no job before has put into the cache
    assert "--nnodes=1 --nproc_per_node=8" in started
    assert "--batch_size 1024 --seed 3" in started
    assert again == f"docs/cluster/text_pretrain.slurm MODEL {tmp_path / 'out'} --seed 3"
    status, made, started, again = submit(MODEL)
    assert "--batch_size 1024 --resume --seed 3" in started
    assert (status, made, again) == (0, None, None)
    assert submit("exit 1") == (0, None, None, None)  # a model that is there is not trained anew


def test_a_job_that_gets_no_further_and_one_that_fails_are_not_submitted_again(submit):
    assert submit(CHECKPOINT.format(1, 1))[3] is not None
    status, _, _, again = submit("exit 124")  # its time ended, and no checkpoint came
    assert (status, again) == (124, None)
    status, _, _, again = submit(CHECKPOINT.format(2, 2).replace("124", "1"))
    assert (status, again) == (1, None)


def test_the_time_that_cells_and_corpus_took_is_no_time_for_the_training(submit, tmp_path):
    assert submit(MODEL, makes=f"sleep 1; {CORPUS}")[0] == 0
    assert 0 < int((tmp_path / "calls" / "timeout").read_text()) <= 230 * 60 - 2


def test_a_job_without_a_corpus_trains_nothing(submit):
    status, made, started, again = submit(MODEL, makes="exit 2")
    assert (status, started, again) == (2, None, None)
    assert "tokenizer/text_corpus.py" not in made
