"""A run can be watched from its files: while it goes on, after it ended, was stopped, or was killed."""

import json
import os
import socket
import time

import pytest

from scdmc.training import run_state
from scdmc.training.run_page import run_verdict
from scdmc.training.run_state import ENDED, RUNNING, STOPPED, end_progress, read_state, write_progress

BEFORE = {"step": 0, "eval_loss": 9.0, "eval_mlm_rank_loss": 5.0, "eval_mlm_expression_loss": 6.0}
TRAINED = {"step": 5, "loss": 8.0, "mlm_rank_loss": 4.5, "cells_per_second": 120.0, "epoch": 0.5}
AFTER = {"step": 10, "eval_loss": 7.0, "eval_mlm_rank_loss": 4.0, "eval_mlm_expression_loss": 4.1}
HISTORY = [BEFORE, TRAINED, AFTER]


@pytest.fixture(scope="module")
def watch(load_script):
    main = load_script("pretrain/watch.py").main
    return lambda *words: main([str(word) for word in words])


def write_csv(folder):
    names = list(dict.fromkeys(name for row in HISTORY for name in row))
    rows = [",".join(str(row.get(name, "")) for name in names) for row in HISTORY]
    (folder / "history.csv").write_text("\n".join([",".join(names), *rows]) + "\n")


def test_a_run_is_watched_until_it_ends(watch, tmp_path, capsys, monkeypatch):
    write_progress(tmp_path, HISTORY[:2], 20, 90.0)

    def next_look(_):
        write_csv(tmp_path)
        (tmp_path / "model.safetensors").write_text("weights")
        end_progress(tmp_path)

    monkeypatch.setattr(time, "sleep", next_look)
    assert watch("--output_dir", tmp_path) == 0
    going, ended = capsys.readouterr().out.splitlines()
    assert "running: step 5 of 20 (25%); 0:01:30 left; training loss 8.000, rank 4.500, 120 cells/s" in going
    assert "held-out cells loss 9.000" in going
    assert "ended: step 10; training loss 8.000" in ended
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.csv", "model.safetensors"]


def test_a_stopped_and_a_killed_run_are_told_apart(watch, tmp_path, capsys):
    write_csv(tmp_path)
    assert watch("--output_dir", tmp_path) == 0
    assert "stopped: step 10" in capsys.readouterr().out
    write_progress(tmp_path, HISTORY, None, None)
    progress = json.loads((tmp_path / "progress.json").read_text())
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    (tmp_path / "progress.json").write_text(json.dumps({**progress, "pid": child}))
    assert watch("--output_dir", tmp_path) == 1
    said = capsys.readouterr().out
    assert "gone: step 10;" in said
    assert "go on with --resume" in said


def test_of_another_machine_a_long_silence_means_that_a_run_is_gone(tmp_path, monkeypatch):
    with monkeypatch.context() as there:
        there.setattr(socket, "gethostname", lambda: "another")
        write_progress(tmp_path, HISTORY, 20, None)
    assert read_state(tmp_path).state == run_state.RUNNING
    monkeypatch.setattr(run_state, "SECONDS_OF_SILENCE", -1)
    assert read_state(tmp_path).state == run_state.GONE


@pytest.mark.parametrize(("name", "content"), [
    ("progress.json", "[1"), ("history.csv", "a,b\n"), ("history.csv", "epoch,loss,run\n1,2.0,seed 42\n"),
    ("history.csv", "step\n1,2\n"), ("nothing", ""),
])  # fmt: skip
def test_what_is_no_run_is_an_error(name, content, watch, tmp_path, capsys):
    (tmp_path / name).write_text(content)
    assert watch("--output_dir", tmp_path, "--once") == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert watch("--output_dir", tmp_path / "absent") == 2


def test_the_verdict_is_beside_guessing_or_the_first_evaluation():
    guesses = {"guessing_rank_position": 4.5, "guessing_expression_position": 4.0}
    going = run_verdict(HISTORY, {}, (20, RUNNING))
    assert (going.level, going.headline) == ("caution", "The held-out loss went from 9.000 to 7.000")
    assert [(number.value, number.beside) for number in going.numbers] == [
        ("4.000 nats", "5.000 at step 0"), ("4.100 nats", "6.000 at step 0"), ("10", "of 20; 0.50 epochs"),
    ]  # fmt: skip
    assert run_verdict(HISTORY, {}, (20, STOPPED)).reasons[0].endswith("it goes on with --resume.")
    ended = run_verdict(HISTORY, guesses, (20, ENDED))
    assert ended.level == "bad"  # the expression stream is above its guess
    assert ended.numbers[1].beside == "4.000 by guessing; 6.000 at step 0"
    assert run_verdict(HISTORY, guesses | {"guessing_expression_position": 5.0}, (20, ENDED)).level == "good"
