"""Damaged checkpoints, and data that changed between an interrupted run and the one that resumes it."""

import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest

from scdmc.errors import ScDMCError
from scdmc.tokens.tokenized_cells import concatenate_cells
from scdmc.training.checkpoint_files import STATE_FILE, TENSORS_FILE, checkpoints
from scdmc.training.checkpoints import checkpoint_to_resume
from scdmc.training.identity import CellDigests
from scdmc.training.loading import TrainingCells
from scdmc.training.pretraining import Pretraining
from tests.training.runs import CELLS, CPU, HELD_OUT, SETTINGS, make_model, make_run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of two steps with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("finished")
    settings = replace(SETTINGS, max_steps=2, save_every=1, evaluate_every=99)
    Pretraining(make_model(), data_of(CELLS), settings, folder, CPU, origin={"gene_start": "random"}).run()
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it to be damaged."""
    return shutil.copytree(finished, tmp_path / "run")


def data_of(cells):
    everything = concatenate_cells([cells, HELD_OUT])
    return TrainingCells(everything, np.arange(len(cells)), np.arange(len(cells), len(everything)))


def resume(folder, data, gene_start="random"):
    settings = replace(SETTINGS, max_steps=2, save_every=1, evaluate_every=99)
    run = Pretraining(make_model(), data, settings, folder, CPU, origin={"gene_start": gene_start})
    run.resume_from("last")
    return run


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def another_step(path):
    path.write_text(path.read_text().replace('"step": 2', '"step": 1', 1))


DAMAGES = {
    "state truncated": (STATE_FILE, truncate),
    "state empty": (STATE_FILE, lambda path: path.write_bytes(b"")),
    "state a list": (STATE_FILE, lambda path: path.write_text("[1, 2]")),
    "state without content": (STATE_FILE, lambda path: path.write_text("{}")),
    "state nested": (STATE_FILE, lambda path: path.write_text("[" * 100_000)),
    "state of other types": (STATE_FILE, lambda path: path.write_text(json.dumps(
        {"step": "two", "trained_seconds": None, "run": [], "history": {}}))),
    "state rotten": (STATE_FILE, another_step),
    "state no text": (STATE_FILE, lambda path: path.write_bytes(b"\xff\xfe\x00")),
    "state a folder": (STATE_FILE, lambda path: (path.unlink(), path.mkdir())),
    "state absent": (STATE_FILE, lambda path: path.unlink()),
    "tensors truncated": (TENSORS_FILE, truncate),
    "tensors empty": (TENSORS_FILE, lambda path: path.write_bytes(b"")),
    "tensors absent": (TENSORS_FILE, lambda path: path.unlink()),
    "tensors rotten": (TENSORS_FILE, flip_last_byte),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(folder, caplog, damage):
    name, spoil = DAMAGES[damage]
    spoil(folder / "checkpoints" / "step-00000002" / name)
    with caplog.at_level(logging.WARNING):
        run = resume(folder, data_of(CELLS))
    assert run.step == 1
    assert "step-00000002 is damaged" in caplog.text
    assert "goes on from step-00000001" in caplog.text


def test_without_any_undamaged_checkpoint_there_is_one_error(folder):
    for path in checkpoints(folder):
        truncate(path / TENSORS_FILE)
    with pytest.raises(ScDMCError, match=r"no checkpoint of .* can be used: .*step-00000002 is damaged"):
        checkpoint_to_resume(folder, "last")


def test_a_damaged_checkpoint_that_was_named_is_refused(folder):
    named = folder / "checkpoints" / "step-00000002"
    flip_last_byte(named / TENSORS_FILE)
    with pytest.raises(ScDMCError, match="step-00000002 is damaged"):
        checkpoint_to_resume(folder, str(named))


def test_a_checkpoint_that_was_given_up_does_not_outlive_newer_ones(folder):
    later = folder / "checkpoints" / "step-00000009"
    shutil.copytree(folder / "checkpoints" / "step-00000002", later)
    truncate(later / TENSORS_FILE)
    run = resume(folder, data_of(CELLS))
    run.settings = replace(run.settings, keep_checkpoints=1)
    run.save_checkpoint()
    assert [path.name for path in checkpoints(folder)] == ["step-00000002"]
    assert checkpoint_to_resume(folder, "last").name == "step-00000002"


LAST = -2  # the last token is <eos>


def reversed_ids(values):
    values[-30:] = values[-30:][::-1].copy()


def longer_first_cell(offsets):
    offsets[1] += 1


CHANGES = {
    "rank_ids": (reversed_ids, "genes of the rank streams"),
    "expression_ids": (reversed_ids, "genes of the expression streams"),
    "expression_values": (lambda values: values.__setitem__(LAST, 9), "values of the expression streams"),
    "rank_offsets": (longer_first_cell, "lengths of the rank streams"),
    "expression_offsets": (longer_first_cell, "lengths of the expression streams"),
    "rows": (lambda rows: rows.__setitem__(LAST, 7), "rows of the cells"),
    "training": (lambda cells: cells.__setitem__(0, 1), "choice of the training cells"),
    "held_out": (lambda cells: cells.__setitem__(0, 1), "choice of the held-out cells"),
}


@pytest.mark.parametrize("part", CHANGES)
def test_changed_cells_are_refused_wherever_the_change_lies(finished, part):
    change, named = CHANGES[part]
    data = data_of(CELLS)
    change(getattr(data if part in ("training", "held_out") else data.cells, part))
    with pytest.raises(ScDMCError, match=f"made on other cells: .*{named}"):
        resume(finished, data)


def test_another_start_of_the_genes_is_refused(finished):
    with pytest.raises(ScDMCError, match="gene_start random, not coexpression"):
        resume(finished, data_of(CELLS), gene_start="coexpression")


def test_a_checkpoint_of_an_earlier_version_is_taken_with_a_warning(folder, caplog):
    for path in checkpoints(folder):
        state = json.loads((path / STATE_FILE).read_text())
        run = {name: value for name, value in state["run"].items() if name not in ("cells", "gene_start")}
        kept = {name: state[name] for name in ("step", "trained_seconds", "history")}
        (path / STATE_FILE).write_text(json.dumps({**kept, "run": run | {"training_cells": "abc"}}))
    with caplog.at_level(logging.WARNING):
        assert resume(folder, data_of(CELLS)).step == 2
    assert "does not say all of the cells that it was made on, nor its gene_start" in caplog.text
    other = replace(SETTINGS, learning_rate=1.0)
    with pytest.raises(ScDMCError, match="learning_rate"):
        make_run(folder, other).resume(checkpoint_to_resume(folder, "last"))


def test_a_dry_run_does_not_read_all_cells(tmp_path):
    run = make_run(tmp_path)
    run.dry_run()
    assert run.digests is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_digests_that_fail_end_the_run_and_no_checkpoint_lacks_them():
    digests = CellDigests(replace(data_of(CELLS), cells=None))
    with pytest.raises(AttributeError):
        digests.result()
