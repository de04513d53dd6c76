"""Folders of results: whole or refused wherever a run is killed, results before figures, and only ours are replaced."""

import contextlib
import os
from pathlib import Path

import pytest

from scdmc import result_folders
from scdmc.errors import ScDMCError
from scdmc.files import read_json_object, require_new_folder
from scdmc.locks import script_run
from scdmc.result_folders import MANIFEST_FILE, extended_folder, keep_results, require_whole, result_folder
from tests.killing import Countdown, Killed


def write(path, files, figure=None):
    with result_folder(path) as folder:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        keep_results(folder)
        if figure:
            raise figure


def read(path, names):
    """What a reader of ours gets of some files."""
    require_whole(path, *names)
    return {name: (path / name).read_text() for name in names if (path / name).is_file()}


def fail_after(file):
    file.write_text("half")
    raise ScDMCError("no cell")


def visible(path):
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())


OLD = {"config.json": "old names", "model.bin": "old weights", "more/extra.csv": "1", "extra.png": "2"}
NEW = {"config.json": "new names", "model.bin": "new weights", "more/other.csv": "3"}


def test_a_new_folder_is_whole_and_says_what_is_in_it(tmp_path):
    with script_run(["cluster.py", "--data_path", "/home/someone/cells.h5ad"]):
        write(tmp_path / "out", NEW)
    assert visible(tmp_path) == sorted(["out/manifest.json", *(f"out/{name}" for name in NEW)])
    manifest = read_json_object(tmp_path / "out" / MANIFEST_FILE, "manifest")
    assert manifest["command"] == ["cluster.py", "--data_path", "cells.h5ad"]
    assert manifest["files"]["config.json"]["bytes"] == len("new names")
    assert read(tmp_path / "out", NEW) == NEW


def test_the_same_results_have_the_same_manifest(tmp_path):
    write(tmp_path / "one", NEW)
    write(tmp_path / "two", OLD)
    write(tmp_path / "two", dict(reversed(NEW.items())))
    assert (tmp_path / "one" / MANIFEST_FILE).read_bytes() == (tmp_path / "two" / MANIFEST_FILE).read_bytes()


def test_an_empty_folder_keeps_its_rights(tmp_path):
    (tmp_path / "out").mkdir(mode=0o750)
    write(tmp_path / "out", NEW)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert not list(tmp_path.rglob(".*"))


def test_files_of_the_earlier_run_go_and_those_of_the_user_stay(tmp_path):
    write(tmp_path, OLD)
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, NEW)
    assert visible(tmp_path) == sorted(["manifest.json", "notes.txt", *NEW])
    assert read(tmp_path, NEW) == NEW


def test_a_folder_that_gets_more_keeps_the_rest(tmp_path):
    write(tmp_path, OLD)
    (tmp_path / "notes.txt").write_text("mine")
    with extended_folder(tmp_path, lambda name: name.startswith("more/")) as folder:
        (folder / "config.json").write_text("new names")
    left = {name: text for name, text in OLD.items() if name != "more/extra.csv"} | {"config.json": "new names"}
    assert read(tmp_path, left) == left
    assert visible(tmp_path) == sorted(["manifest.json", "notes.txt", *left])
    assert "notes.txt" not in read_json_object(tmp_path / MANIFEST_FILE, "manifest")["files"]
    (tmp_path / "model.bin").write_text("other weights")
    with (
        pytest.raises(ScDMCError, match=r"model\.bin"),
        extended_folder(tmp_path, lambda name: name == "config.json") as folder,
    ):
        raise AssertionError("it began with files that do not belong together")
    assert (tmp_path / "model.bin").read_text() == "other weights"


def test_a_folder_without_a_manifest_that_gets_more_leaves_hidden_files_alone(tmp_path):
    for name in ("config.json", ".scdmc.lock", ".of_another_run/half.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("there")
    before = (tmp_path / ".scdmc.lock").stat().st_ino
    with extended_folder(tmp_path, lambda name: name.startswith("more/")) as folder:
        (folder / "more").mkdir()
        (folder / "more" / "extra.csv").write_text("more")
    files = read_json_object(tmp_path / MANIFEST_FILE, "manifest")["files"]
    assert set(files) == {"config.json", "more/extra.csv"}
    assert (tmp_path / ".scdmc.lock").stat().st_ino == before


def test_files_that_no_manifest_tells_of_are_named_and_stay(tmp_path, caplog):
    (tmp_path / "out").mkdir()
    for name in ("umap_pca.png", "config.json", ".hidden"):
        (tmp_path / "out" / name).write_text("of version 0.1")
    write(tmp_path / "out", NEW)
    assert "holds files that are not of this run: umap_pca.png; delete them" in caplog.text
    assert (tmp_path / "out" / "umap_pca.png").is_file()
    caplog.clear()
    write(tmp_path / "out", NEW)
    assert not caplog.text


@pytest.mark.parametrize("is_inside", [False, True])
def test_a_failed_run_leaves_nothing_new(tmp_path, is_inside):
    path = tmp_path / "out"
    if is_inside:
        write(path, OLD)
    before = visible(tmp_path)
    with pytest.raises(ScDMCError, match="no cell"), result_folder(path) as folder:
        fail_after(folder / "config.json")
    assert visible(tmp_path) == before
    assert path.exists() == is_inside


def test_a_figure_that_fails_loses_no_result(tmp_path, caplog):
    with pytest.raises(ValueError, match="mathtext"):
        write(tmp_path / "out", NEW, figure=ValueError("mathtext"))
    assert read(tmp_path / "out", NEW) == NEW
    assert "the results are kept" in caplog.text


def events_of_publishing(monkeypatch, tmp_path, kill_at):
    """Overwrite results, and die before the rename, rmdir or unlink of that number; returns how many there are."""
    path = tmp_path / "out"
    write(path, OLD)
    events = Countdown(kill_at)
    with monkeypatch.context() as patch:
        for name in ("rename", "replace", "unlink", "rmdir"):
            patch.setattr(Path, name, events.counted(getattr(Path, name)))
        patch.setattr(result_folders, "remove", events.counted(result_folders.remove))
        with contextlib.suppress(Killed):
            write(path, NEW)
    return events.n_events


def test_a_kill_at_any_event_leaves_the_old_the_new_or_a_refusal(tmp_path, monkeypatch):
    (tmp_path / "all").mkdir()
    total = events_of_publishing(monkeypatch, tmp_path / "all", kill_at=1_000)
    assert total >= 8
    seen = set()
    for kill_at in range(total):
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        events_of_publishing(monkeypatch, folder, kill_at)
        for names in (["config.json", "model.bin"], ["config.json"], ["model.bin"]):
            try:
                content = read(folder / "out", names)
            except ScDMCError as error:
                seen.add("refused" if "so its files do not belong together" in str(error) else str(error))
                continue
            which = [each for each in (OLD, NEW) if content == {name: each[name] for name in names}]
            assert which, (kill_at, content)
            seen.add("old" if which == [OLD] else "new")
        write(folder / "out", NEW)
        assert visible(folder / "out") == sorted(["manifest.json", *NEW])
        assert not list(folder.rglob(".*"))
    assert seen == {"old", "new", "refused"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "model.bin").write_text("longer than what was written"), "has 28 bytes, not the 11"),
        (lambda path: (path / "model.bin").write_text("NEW weights"), "has other content than was written"),
        (lambda path: (path / "model.bin").unlink(), "is missing"),
        (lambda path: (path / "pytorch_model.bin").write_text("x"), "was not written by the run"),
    ],
)
def test_what_does_not_belong_to_the_rest_is_refused_until_the_manifest_goes(tmp_path, change, message):
    write(tmp_path, NEW)
    change(tmp_path)
    names = ("config.json", "model.bin", "pytorch_model.bin")
    with pytest.raises(ScDMCError, match=f"{message}.* delete .*manifest.json"):
        require_whole(tmp_path, *names)
    require_whole(tmp_path, "config.json")  # what is not read may be anything, a model card that was written on, say
    (tmp_path / MANIFEST_FILE).unlink()
    require_whole(tmp_path, *names)


def test_a_folder_within_the_results_is_under_their_manifest(tmp_path):
    write(tmp_path, {"seed_0/config.json": "names"})
    require_whole(tmp_path / "seed_0", "config.json")
    (tmp_path / "seed_0" / "config.json").write_text("other")
    with pytest.raises(ScDMCError, match="other content"):
        require_whole(tmp_path / "seed_0", "config.json")


def test_a_manifest_of_somebody_else_is_neither_read_nor_replaced(tmp_path):
    (tmp_path / MANIFEST_FILE).write_text('{"name": "a web page"}')
    require_whole(tmp_path, "config.json")
    with pytest.raises(ScDMCError, match="is not of scDMC"):
        write(tmp_path, NEW)
    assert visible(tmp_path) == [MANIFEST_FILE]


def test_a_folder_in_the_way_of_a_file_costs_no_result(tmp_path):
    (tmp_path / "model.bin" / "mine").mkdir(parents=True)
    with pytest.raises(ScDMCError, match=r"is in the way of model\.bin"):
        write(tmp_path, NEW)
    (kept,) = tmp_path.glob("results_of_*")
    assert {name: (kept / name).read_text() for name in NEW} == NEW


def test_what_dead_runs_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path):
    dead = os.fork()
    if not dead:
        os._exit(0)
    os.waitpid(dead, 0)
    out = tmp_path / "out"
    out.mkdir()
    live = os.getppid()
    for process in (dead, live):
        (out / f".results.{process}.partial").mkdir()
        (tmp_path / f".out.{process}.partial").mkdir()
        (out / f".manifest.{process}.partial.json").touch()
    with script_run(["cluster.py"]):
        require_new_folder(out, overwrite=True)
        left = {path.name for path in tmp_path.rglob(".*partial*")}
    assert left == {f".results.{live}.partial", f".out.{live}.partial", f".manifest.{live}.partial.json"}
