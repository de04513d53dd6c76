"""How a page was made: command, inputs, date, and a summary for an index of pages."""

import json
import re
import time

import pytest

from scdmc.errors import ScDMCError
from scdmc.locks import script_run
from scdmc.reports import provenance
from scdmc.reports.page import KeyNumber, Verdict, write_report
from scdmc.reports.provenance import Provenance, command_text, date_text, facts_of, table_of_inputs
from scdmc.version import __version__

SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_inputs_are_named_without_folders_with_size_and_hash(tmp_path):
    (tmp_path / "cells.h5ad").write_bytes(b"abc")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "b.json").write_bytes(b"x" * 2_000)
    (folder / "a.json").write_bytes(b"abc")
    (folder / ".lock").write_bytes(b"no part of it")
    rows = table_of_inputs(Provenance((tmp_path / "cells.h5ad", folder, tmp_path / "gone"))).to_numpy().tolist()
    assert rows[:3] == [
        ["cells.h5ad", "3 bytes", SHA256_OF_ABC],
        ["model/", "2.0 kB in 2 files", "of each file below"],
        ["model/a.json", "3 bytes", SHA256_OF_ABC],
    ]
    assert [row[0] for row in rows[3:]] == ["model/b.json", "gone"]
    assert rows[4][1:] == ["–", "not there any more"]


def test_so_many_bytes_are_hashed_in_all_and_of_many_files_the_first_are_shown(tmp_path, monkeypatch):
    for number in range(23):
        (tmp_path / f"{number:02}").write_bytes(b"abcd" if number else b"abc")
    monkeypatch.setattr(provenance, "MOST_HASHED_BYTES", 9)
    table = table_of_inputs(Provenance((tmp_path, tmp_path / "00", tmp_path / "05")))
    assert len(table) == 23
    assert table.iloc[0, 1:].tolist() == ["91 bytes in 23 files", "of its first 20 files below"]
    assert table["sha256"][1] == SHA256_OF_ABC
    assert table["size"][3] == "4 bytes"
    assert table["sha256"][3:].tolist() == ["not computed: at most 2 GB of all inputs are read once more"] * 20


def test_the_command_is_that_of_a_script_without_folders_of_this_machine(monkeypatch):
    assert command_text() == "called from Python"
    with script_run(["annotate.py", "/home/me/new cells.h5ad", "-o=out"]):
        assert command_text() == "python annotate.py 'new cells.h5ad' -o=out"
        monkeypatch.setattr("sys.argv", ["scdmc annotate"])
        assert command_text() == "scdmc annotate 'new cells.h5ad' -o=out"


def test_without_a_fixed_date_the_page_says_when_and_how_long(monkeypatch):
    made = Provenance(model="scDMC-small", seed=3, began=time.time() - 90, settings={"epochs": 4})
    fixed = facts_of(made)
    assert fixed == {"command": "called from Python", "scDMC": __version__, "date": "2026-01-01 00:00 UTC", "seed": "3",
                     "model": "scDMC-small", "epochs": "4"}  # fmt: skip
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    free = facts_of(made)
    assert free["time taken"] == "1 min 30 s"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", free["date"])
    assert free["date"] > fixed["date"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "noon")
    with pytest.raises(ScDMCError, match="SOURCE_DATE_EPOCH=noon: give a number of seconds"):
        date_text()


def test_a_page_carries_its_summary_for_an_index(tmp_path):
    lead = Verdict("caution", "Look </script> & see", ("Why.",), (KeyNumber("F1", "0.9", "0.8 without"),))
    write_report(tmp_path / "report.html", "Islets", [], lead, Provenance())
    page = (tmp_path / "report.html").read_text()
    (content,) = re.findall(r'<script type="application/json" id="summary">(.*?)</script>', page)
    assert json.loads(content) == {
        "title": "Islets", "level": "caution", "headline": "Look </script> & see", "date": "2026-01-01 00:00 UTC",
        "numbers": [{"name": "F1", "value": "0.9", "beside": "0.8 without"}],
    }  # fmt: skip
