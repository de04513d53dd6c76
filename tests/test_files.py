"""Outputs are written whole, where the user allows it, and never in place of another kind of thing."""

import os

import pytest

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, require_new_file, require_new_folder, require_writable_folder


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_absent_may_be_written(tmp_path, overwrite):
    require_new_file(tmp_path / "new" / "x.csv", overwrite)
    require_new_folder(tmp_path / "new" / "model", overwrite)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("is_empty", [False, True])
def test_a_folder_is_never_taken_for_an_output_file(tmp_path, overwrite, is_empty):
    folder = tmp_path / "folder"
    folder.mkdir()
    if not is_empty:
        (folder / "mine").touch()
    with pytest.raises(ScDMCError, match="folder is a folder; name a file"):
        require_new_file(folder, overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_is_never_taken_for_an_output_folder(tmp_path, overwrite, name):
    (tmp_path / "file").touch()
    with pytest.raises(ScDMCError, match="file is no folder"):
        require_new_folder(tmp_path / name, overwrite)


def test_a_file_cannot_lie_in_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ScDMCError, match="file is no folder, so nothing can be written in"):
        require_new_file(tmp_path / "file" / "x.csv", overwrite=True)


def test_existing_output_needs_overwrite(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "empty").mkdir()
    for check, path in ((require_new_file, tmp_path / "full" / "mine"), (require_new_folder, tmp_path / "full")):
        with pytest.raises(ScDMCError, match="pass --overwrite"):
            check(path, overwrite=False)
        check(path, overwrite=True)
    require_new_folder(tmp_path / "empty", overwrite=False)


def test_a_folder_without_permission_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append(path))  # root may write everywhere
    for check in (require_new_file, require_new_folder):
        with pytest.raises(ScDMCError, match="cannot be written to"):
            check(tmp_path / "a" / "b", overwrite=True)
    assert asked == [tmp_path, tmp_path]


def test_a_relative_path_is_looked_for_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_new_file("x.csv", overwrite=False)
    require_writable_folder("a/b")


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_file_does_not_replace_a_folder(tmp_path, is_empty):
    folder = tmp_path / "folder"
    folder.mkdir()
    if not is_empty:
        (folder / "mine").touch()
    with pytest.raises(ScDMCError, match="folder is a folder; a file cannot"), atomic_path(folder) as temporary:
        temporary.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert len(list(folder.iterdir())) == (not is_empty)


def test_a_folder_does_not_replace_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(ScDMCError, match="file is a file; a folder cannot"),
        atomic_path(tmp_path / "file") as temporary,
    ):
        temporary.mkdir()
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_and_folders_replace_their_kind_only_when_they_are_whole(tmp_path):
    for name in ("old", "new"):
        with atomic_path(tmp_path / "x.txt") as temporary:
            temporary.write_text(name)
        with atomic_path(tmp_path / "x") as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_text() == "new"
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.txt"]


def write_half(path):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path, through_a_link):
    pipe = target = tmp_path / "pipe"
    os.mkfifo(pipe)
    if through_a_link:
        target = tmp_path / "link"
        target.symlink_to(pipe)
    with pytest.raises(ScDMCError, match="is a device, a pipe or a socket; name a file"):
        require_new_file(target, overwrite=True)
    with pytest.raises(ScDMCError, match="is a device, a pipe or a socket"), atomic_path(target) as temporary:
        temporary.write_text("x")
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"pipe", target.name})


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mine").write_text("kept")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "graphs").symlink_to("real")
    (tmp_path / "out.csv").symlink_to("file")
    with atomic_path(tmp_path / "graphs") as temporary:
        temporary.mkdir()
    with atomic_path(tmp_path / "out.csv") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "real" / "mine").read_text() == (tmp_path / "file").read_text() == "kept"
    assert (tmp_path / "graphs").is_dir()
    assert (tmp_path / "out.csv").read_text() == "new"
    assert not any(path.is_symlink() for path in tmp_path.iterdir())
