"""Two runs never write one output: the second is refused by name of the first, and death gives a lock back."""

import errno
import os
import resource
import signal
import socket

import pytest

from scdmc.cli.parser import script
from scdmc.errors import ScDMCError
from scdmc.files import require_new_file, require_new_folder
from scdmc.locks import claim_output, lock_path, output_lock, script_run
from scdmc.result_folders import result_folder


@pytest.fixture
def elsewhere():
    """Hold the lock of an output in another process, until the test ends or kills it."""
    children = []

    def hold(path):
        to_parent, from_child = os.pipe()
        child = os.fork()
        if not child:
            with script_run(["embed.py", "--seed", "1"]):
                claim_output(path)
                os.write(from_child, b"x")
                signal.pause()
        children.append(child)
        os.read(to_parent, 1)
        return child

    yield hold
    for child in children:
        kill(child)


def kill(child):
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):  # the test has killed it
        pass


@pytest.mark.parametrize("require_new", [require_new_file, require_new_folder])
def test_a_second_run_is_refused_with_the_first_ones_process_host_and_command(tmp_path, elsewhere, require_new):
    first = elsewhere(tmp_path / "deep" / "out")
    with script_run(["cluster.py"]), pytest.raises(ScDMCError) as refusal:
        require_new(tmp_path / "deep" / "out", overwrite=True)
    said = f"is being written by process {first} on {socket.gethostname()} (embed.py --seed 1)"
    assert said in str(refusal.value)


def test_what_writes_results_in_a_notebook_is_refused_too(tmp_path, elsewhere):
    elsewhere(tmp_path / "out")
    with pytest.raises(ScDMCError, match="is being written by process"), result_folder(tmp_path / "out"):
        pass


def test_another_name_of_the_same_folder_is_the_same_output(tmp_path, elsewhere):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    elsewhere(tmp_path / "link")
    with pytest.raises(ScDMCError, match="is being written"), output_lock(tmp_path / "out"):
        pass


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path, elsewhere):
    kill(elsewhere(tmp_path / "out"))
    assert lock_path(tmp_path / "out").exists()
    with script_run(["cluster.py"]):
        require_new_folder(tmp_path / "out", overwrite=False)
    assert not list(tmp_path.iterdir())


def test_a_child_that_outlives_a_killed_run_holds_nothing(tmp_path):
    to_parent, from_child = os.pipe()
    run = os.fork()
    if not run:
        with script_run(["train.py"]):
            claim_output(tmp_path / "out")
            worker = os.fork()
            if not worker:
                signal.pause()
            os.write(from_child, str(worker).encode())
            signal.pause()
    worker = int(os.read(to_parent, 20))
    kill(run)
    try:
        with output_lock(tmp_path / "out"):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_run_may_lock_what_it_has_locked_and_a_forked_worker_of_it_too(tmp_path):
    with output_lock(tmp_path / "out"), output_lock(tmp_path / "out"):
        worker = os.fork()
        if not worker:
            with output_lock(tmp_path / "out"):
                os._exit(0)
        assert os.waitpid(worker, 0)[1] == 0
        assert lock_path(tmp_path / "out").exists()
    assert not list(tmp_path.iterdir())


def test_a_script_gives_back_what_it_claimed_however_it_ends(tmp_path, capsys):
    @script
    def main(argv=None):
        require_new_folder(tmp_path / "deep" / "er" / "out", overwrite=False)
        assert lock_path(tmp_path / "deep" / "er" / "out").exists()
        raise ScDMCError("no cell")

    assert main([]) == 2
    assert capsys.readouterr().err == "error: no cell\n"
    assert not list(tmp_path.iterdir())


def test_outside_of_a_script_a_check_claims_nothing(tmp_path):
    require_new_folder(tmp_path / "out", overwrite=False)
    assert not list(tmp_path.iterdir())


def test_where_there_are_no_locks_the_run_says_so_and_goes_on(tmp_path, monkeypatch, caplog):
    def lockf(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("scdmc.locks.fcntl.lockf", lockf)
    with output_lock(tmp_path / "out") as is_exclusive:
        assert not is_exclusive
    assert "nothing keeps a second run from this output" in caplog.text


def test_a_file_of_somebody_else_with_the_name_of_the_lock_stays_as_it_is(tmp_path):
    path = lock_path(tmp_path / "out")
    path.write_text("mine")
    with pytest.raises(ScDMCError, match="is not of scDMC"), output_lock(tmp_path / "out"):
        pass
    assert path.read_text() == "mine"


@pytest.mark.parametrize("signed", ["", '{"pi', '{"pid": 7, "ho'])
def test_a_run_that_was_killed_while_it_signed_does_not_keep_the_output(tmp_path, signed):
    lock_path(tmp_path / "out").write_text(signed)
    with output_lock(tmp_path / "out") as is_exclusive:
        assert is_exclusive
    assert not list(tmp_path.iterdir())


def test_a_lock_is_not_written_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("")
    lock_path(tmp_path / "out").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic link"), output_lock(tmp_path / "out"):
        pass
    assert (tmp_path / "mine").read_text() == ""


def test_a_lock_that_a_full_disk_does_not_take_is_gone_again(tmp_path):
    run = os.fork()
    if not run:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        try:
            claim_at_once(tmp_path / "deep" / "out")
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]) == errno.EFBIG
    assert not list(tmp_path.iterdir())


def claim_at_once(path):
    with output_lock(path):
        pass
