"""docs/cluster/pretrain.slurm without Slurm: what it starts, and when it submits itself again."""

import os
import subprocess

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "docs" / "cluster" / "pretrain.slurm"
# Each writes its arguments down; srun then leaves what the case says, as a run of so much time would.
COMMANDS = {
    "scontrol": "echo node-1",
    "sbatch": 'echo "$@" > "$CALLS/sbatch"',
    "srun": 'echo "$@" > "$CALLS/srun"; mkdir -p "$OUTPUT"; eval "$LEAVES"',
}
CHECKPOINT = 'mkdir -p "$OUTPUT/checkpoints/step-00000200"; echo "{}" > "$OUTPUT/checkpoints/step-00000200/state.json"'


@pytest.fixture
def submit(tmp_path):
    """Run the script as a job; returns its status, the command of srun, and that of sbatch or None."""
    for name, text in COMMANDS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)

    def run(leaves, *more):
        calls = tmp_path / "calls"
        calls.mkdir(exist_ok=True)
        for called in calls.iterdir():
            called.unlink()
        environment = {
            **os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "CALLS": str(calls),
            "OUTPUT": str(tmp_path / "out"), "LEAVES": leaves, "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "node-[1-4]", "SLURM_JOB_NUM_NODES": "4", "SLURM_GPUS_ON_NODE": "8",
        }  # fmt: skip
        command = ["bash", SCRIPT, "DATA", tmp_path / "out", *more]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        texts = {path.name: path.read_text().strip() for path in calls.iterdir()}
        return finished.returncode, texts["srun"], texts.get("sbatch")

    return run


def test_a_job_goes_on_from_its_last_checkpoint_and_submits_itself_until_there_is_a_model(submit, tmp_path):
    status, started, again = submit(CHECKPOINT, "--seed", "3")
    assert status == 0
    assert "--nnodes=4 --nproc_per_node=8" in started
    assert "--batch_size 768 --learning_rate 0.000282843 --max_minutes 230 --seed 3" in started
    assert again == f"docs/cluster/pretrain.slurm DATA {tmp_path / 'out'} --seed 3"
    status, started, again = submit('echo > "$OUTPUT/model.safetensors"')
    assert "--resume_from_checkpoint last" in started
    assert (status, again) == (0, None)


def test_a_job_that_ended_before_its_first_checkpoint_begins_anew(submit):
    failed = 'mkdir -p "$OUTPUT/checkpoints/model"; exit 1'
    status, started, again = submit(failed)
    assert (status, again) == (1, None)  # an error is no reason to try for ever
    assert "--overwrite" not in started
    status, started, again = submit(CHECKPOINT)
    assert "--overwrite" in started
    assert "--resume" not in started
    assert again is not None


def test_a_dry_run_is_not_submitted_again(submit):
    assert submit(CHECKPOINT, "--dry_run")[2] is None
