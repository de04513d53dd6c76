"""Bars for those who watch, lines for a file of logs."""

import sys

import pytest
from tqdm import tqdm

from scdmc import progress
from scdmc.progress import ProgressLines, progress_bar


def test_a_file_of_logs_gets_a_line_now_and_then_and_one_at_the_end(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress_bar(total=1000, unit=" cells", desc="embed") as bar:
        assert isinstance(bar, ProgressLines)
        for _ in range(10):
            now[0] += 8
            bar.set_postfix(loss="0.1")
            bar.update(100)
    lines = capsys.readouterr().err.splitlines()
    assert [line[:11] for line in lines] == ["embed:  40%", "embed:  80%", "embed: 100%"]
    assert "1000/1000 [01:20<00:00, 12.50 cells/s, loss=0.1]" in lines[-1]
    assert "\r" not in "".join(lines)


@pytest.mark.parametrize("shown", ["terminal", "notebook"])
def test_who_watches_gets_a_bar(monkeypatch, shown):
    if shown == "terminal":
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    else:
        monkeypatch.setitem(sys.modules, "ipykernel", None)
    with progress_bar(total=3) as bar:
        assert isinstance(bar, tqdm)


def test_what_is_gone_through_is_counted_and_a_disabled_bar_says_nothing(capsys):
    assert list(progress_bar(range(3), desc="count")) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err
    assert list(progress_bar(range(3), disable=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_work_that_starts_in_the_middle_counts_from_there(capsys):
    with progress_bar(total=10, initial=8) as bar:
        bar.update(2)
    assert "10/10" in capsys.readouterr().err
