"""A Q-Former that several processes train together: the losses of one process, one folder, and a broken run goes on."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from scdmc.text.projectors import qformer, qformer_training
from tests.conftest import ROOT

TWO_PROCESSES = """
import json
import runpy
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import open_model_directory
from scdmc.model.storage import load_model
from scdmc.text.corpus import read_corpus
from scdmc.text.options import TextTrainingOptions
from scdmc.text.projectors import qformer, qformer_training
from scdmc.text.projectors.qformer_training import Checkpointing, train_qformer
from scdmc.text.training_data import data_sets_to_train_on, training_data, training_texts
from scdmc.training.distributed import accelerator_on, gather_equal, process_number
folder, cells, path = map(Path, sys.argv[1:4])
accelerator_on(torch.device("cpu"))
few = TextTrainingOptions(projector="qformer", max_steps=6, batch_size=7, max_tokens=32)
directory, corpus = open_model_directory(cells), read_corpus(path)
names = data_sets_to_train_on(corpus)
space = training_texts(corpus, names, lambda: None)
sets = training_data(corpus, names, load_model(cells, ScDMCModel), directory, space, few).sets
qformer_training.STEPS_BETWEEN_CHECKS = 2
whole, _ = train_qformer(sets, space, few)
contrast, calls = qformer_training.contrast, []
def breaking(*arguments):
    calls.append(1)
    if len(calls) == 6:
        raise KeyboardInterrupt
    return contrast(*arguments)
qformer_training.contrast = breaking
try:
    train_qformer(sets, space, few, checkpointing=Checkpointing(folder, None, {}))
except KeyboardInterrupt:
    qformer_training.contrast = contrast
resumed, _ = train_qformer(sets, space, few, checkpointing=Checkpointing(folder, "last", {}))
ours, theirs = (torch.nn.utils.parameters_to_vector(each.parameters()).detach() for each in (whole, resumed))
is_shared = all(torch.equal(ours, each) for each in gather_equal(ours))
facts = {"is_resumed": torch.equal(ours, theirs), "is_shared": is_shared}
(folder / f"process_{process_number()}.json").write_text(json.dumps(facts))
qformer_training.STEPS_BETWEEN_CHECKS, qformer.DROPOUT = 1, 0.0
sys.argv = ["text_pretrain.py", *sys.argv[4:]]
runpy.run_path("pretrain/text_pretrain.py", run_name="__main__")
"""


@pytest.fixture
def line(text_world):
    """A function that gives the command line of a short training."""
    of_world = ["--model", text_world["cells"], "--corpus_dir", text_world["corpus"], "--projector", "qformer"]
    few = ["--max_steps", "6", "--batch_size", "7", "--max_tokens", "32", "--num_gpus", "0"]
    return lambda folder: [str(word) for word in (*of_world, *few, "--output_dir", folder)]


def test_two_processes_have_the_losses_of_one_and_one_of_them_writes(
    text_world, line, load_script, tmp_path, monkeypatch
):
    program = tmp_path / "two_processes.py"
    program.write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", program, tmp_path]
    command += [text_world["cells"], text_world["corpus"], *line(tmp_path / "two")]
    finished = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.count("wrote") == 1
    # Two data sets: so many lines has one process.
    assert [finished.stderr.count(f"{what}: 100%") for what in ("encode", "train without one data set")] == [4, 2]
    for process in range(2):
        facts = json.loads((tmp_path / f"process_{process}.json").read_text())
        assert facts == {"is_resumed": True, "is_shared": True}
    monkeypatch.setattr(qformer, "DROPOUT", 0.0)
    monkeypatch.setattr(qformer_training, "STEPS_BETWEEN_CHECKS", 1)
    assert load_script("pretrain/text_pretrain.py").main(line(tmp_path / "one")) == 0
    one, two = (pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "two"))
    assert two["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert two["loss"].tolist() == pytest.approx(one["loss"].tolist(), rel=1e-4)
    assert not (tmp_path / "two" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--projector", "linear"], "several processes share --stage 1 of --projector qformer, and nothing else"),
        (["--projector", "qformer", "--stage", "1", "2"], "it adds stages 2 and 3 to what several processes trained"),
    ],
)
def test_what_several_processes_cannot_share_is_refused(
    text_world, load_script, tmp_path, monkeypatch, capsys, words, said
):
    launch = {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    given = ["--model", text_world["cells"], "--corpus_dir", text_world["corpus"], "--output_dir", tmp_path / "model"]
    assert load_script("pretrain/text_pretrain.py").main([str(word) for word in (*given, *words)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
