"""Tokenizing on several workers, and runs that end early: the same bytes, errors that name what failed."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata
import numpy as np
import pytest

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path
from scdmc.genes.vocabulary import load_vocabulary
from scdmc.reading.counts import open_counts
from scdmc.tokens import cluster as cluster_module
from scdmc.tokens.cluster import run_on_cluster
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.tokenize_folder import FolderJob, tokenize_folder
from scdmc.tokens.tokenizer import Tokenizer
from scdmc.tokens.workers import Progress, Task
from tests.tokens.outputs import fingerprints

pytestmark = pytest.mark.slow

# What started the tests may ignore Ctrl-C, which a child would inherit.
HEEDS_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, islets_path):
    """60 real cells in two files."""
    adata = anndata.read_h5ad(islets_path)[::5]
    folder = tmp_path_factory.mktemp("in")
    adata[:25].write_h5ad(folder / "a.h5ad")
    adata[25:].write_h5ad(folder / "b.h5ad")
    return folder


@pytest.fixture(scope="module")
def tokenizer(islets_path, make_vocabulary):
    with open_counts(islets_path) as counts:
        vocabulary = load_vocabulary()
        tokens = np.unique(Tokenizer(vocabulary, load_gene_medians(None)).match(counts).token_ids)
    return Tokenizer(make_vocabulary(vocabulary.tokens[tokens[tokens >= 0]].tolist()), load_gene_medians(None))


@pytest.fixture
def make_job(folder, tokenizer, tmp_path):
    """A function that makes a job of five shards, three of them of the second file."""

    def make(output, **changes):
        options = {"cells_per_shard": 13, "block_size": 4, "tokenizer": tokenizer, "input_directory": folder, **changes}
        return FolderJob(output_directory=tmp_path / output, output_prefix="islets", **options)

    return make


@pytest.fixture(scope="module")
def cluster():
    """A cluster that runs already, of two workers in this process."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", silence_logs=50
    ) as cluster:
        yield cluster


def test_workers_of_this_machine_write_the_same_bytes(make_job, tmp_path):
    tokenize_folder(make_job("one"))
    tokenize_folder(make_job("two"), num_workers=2)
    assert len(fingerprints(tmp_path / "one")) == 5 + 5
    assert fingerprints(tmp_path / "two") == fingerprints(tmp_path / "one")


def listening_sockets(processes):
    """Addresses at which these processes take connections: (process, local address as the system writes it)."""
    found = []
    for process in processes:
        sockets = set()
        for link in Path(f"/proc/{process}/fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets.add(str(link.readlink()))
        for table in ("tcp", "tcp6", "udp", "udp6"):
            for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] in ("0A", "07") and f"socket:[{fields[9]}]" in sockets:
                    found.append((process, fields[1]))
    return found


def descendants(process):
    """A process and all that it has started, and they."""
    found = [process]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*"):
            found += map(int, (task / "children").read_text().split())
    return found


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="needs /proc")
def test_workers_of_this_machine_take_no_connection_from_anybody(make_job):
    own, seen, most = {address for _, address in listening_sockets([os.getpid()])}, set(), 0
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(tokenize_folder, make_job("two"), num_workers=2)
        while not run.done():
            with contextlib.suppress(OSError):  # a process that has just ended
                family = descendants(os.getpid())
                most = max(most, len(family))
                seen |= {address for _, address in listening_sockets(family)} - own
            time.sleep(0.02)
        run.result()
    assert most >= 3
    assert seen == set()
    # The same look finds a socket that does listen.
    with socket.create_server(("127.0.0.1", 0)):
        assert len(listening_sockets([os.getpid()])) == len(own) + 1


def test_workers_of_a_running_cluster_write_the_same_bytes(make_job, cluster, tmp_path, capsys):
    tokenize_folder(make_job("one"))
    capsys.readouterr()
    tokenize_folder(make_job("cluster"), scheduler_address=cluster.scheduler_address)
    assert fingerprints(tmp_path / "cluster") == fingerprints(tmp_path / "one")
    assert "60/60" in capsys.readouterr().err


def test_an_error_on_a_worker_is_the_error_of_one_process_and_keeps_what_is_finished(
    make_job, folder, cluster, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("scdmc.reading.matrix_readers.CELLS_IN_SAMPLE", 2)
    bad = tmp_path / "bad"
    bad.mkdir()
    anndata.read_h5ad(folder / "a.h5ad").write_h5ad(bad / "a.h5ad")
    adata = anndata.read_h5ad(folder / "b.h5ad")
    counts = adata.X.tolil()
    counts[30, 7] = 2.5
    adata.X = counts.tocsr()
    adata.write_h5ad(bad / "b.h5ad")
    messages = []
    for options in ({}, {"scheduler_address": cluster.scheduler_address}):
        job = make_job(f"out_{len(messages)}", input_directory=bad)
        with pytest.raises(ScDMCError) as error:
            tokenize_folder(job, **options)
        messages.append(str(error.value))
        assert list(job.finished_shards.glob("*.parquet"))
        assert not list(job.finished_shards.glob(".*"))
        assert "finished shards are kept in " in caplog.text
    assert messages[1] == messages[0]
    assert "b.h5ad: X holds 2.5 for cell " in messages[0]


def fail_when_there_is(path, progress):
    """Fail as soon as another task has begun to write."""
    while not path.exists():
        time.sleep(0.01)
    raise ScDMCError("a bad file")


def write_slowly(path, progress):
    """Write for ten seconds, or until the run is over."""
    with atomic_path(path.with_name("whole")) as temporary:
        temporary.touch()
        path.touch()
        for _ in range(100):
            progress("slow", 1)
            time.sleep(0.1)


def test_a_run_that_failed_on_a_cluster_ends_when_nobody_writes_any_more(cluster, tmp_path):
    path = tmp_path / "begun"
    tasks = [Task(["slow"], write_slowly, (path,)), Task(["bad"], fail_when_there_is, (path,))]
    with Progress({"slow": 100, "bad": 1}, 0) as progress, pytest.raises(ScDMCError, match="a bad file"):
        run_on_cluster(lambda _: tasks, progress, cluster.scheduler_address, tmp_path, [])
    assert list(tmp_path.iterdir()) == [path]


class Deadly(dict):
    """A gene mapping that kills the worker process that tokenizes b.h5ad, as often as a counter file says."""

    def __init__(self, counter):
        super().__init__(UNUSED="")
        self.counter = Path(counter)

    def __contains__(self, name):
        from multiprocessing import parent_process

        if parent_process() is not None and name == "DEADLY":
            with self.counter.open("r+") as file:
                left = int(file.read())
                file.seek(0)
                file.write(str(left - 1).ljust(5))
            if left > 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return False

    def __reduce__(self):
        return Deadly, (self.counter,)


@pytest.fixture
def deadly(make_job, folder, tokenizer, tmp_path):
    """A function that makes a job whose second file kills its worker so many times."""

    def make(output, times):
        inputs = tmp_path / "inputs"
        inputs.mkdir(exist_ok=True)
        anndata.read_h5ad(folder / "a.h5ad").write_h5ad(inputs / "a.h5ad")
        adata = anndata.read_h5ad(folder / "b.h5ad")
        adata.var_names = ["deadly", *adata.var_names[1:]]
        adata.write_h5ad(inputs / "b.h5ad")
        (tmp_path / "counter").write_text(str(times))
        mapping = Deadly(tmp_path / "counter")
        changed = Tokenizer(tokenizer.vocabulary, tokenizer.medians, gene_mapping=mapping)
        return make_job(output, input_directory=inputs, tokenizer=changed)

    return make


def test_a_worker_that_dies_once_is_replaced(deadly, tmp_path):
    tokenize_folder(deadly("calm", 0))
    tokenize_folder(deadly("once", 1), num_workers=2)
    assert int((tmp_path / "counter").read_text()) < 1
    assert fingerprints(tmp_path / "once") == fingerprints(tmp_path / "calm")


def test_a_file_that_kills_every_worker_is_named(deadly):
    job = deadly("never", 1000)
    with pytest.raises(ScDMCError, match=r"b\.h5ad, cells .*: the workers that read it died 3 times"):
        tokenize_folder(job, num_workers=2)
    assert not list(job.output_directory.glob("islets*"))


def test_an_address_where_nothing_answers_is_an_error(make_job, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster_module, "SECONDS_TO_CONNECT", 0.5)
    job = make_job("out")
    with pytest.raises(ScDMCError, match=r"--scheduler_address tcp://127\.0\.0\.1:9: no Dask scheduler answers there"):
        tokenize_folder(job, scheduler_address="tcp://127.0.0.1:9")
    assert not job.finished_shards.exists()


def test_only_a_cluster_needs_dask_and_the_error_says_how_to_install_it(make_job, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ScDMCError, match="pip install distributed"):
        tokenize_folder(make_job("out"), scheduler_address="tcp://127.0.0.1:9")
    tokenize_folder(make_job("out"), num_workers=2)


IN_WORKERS = """
import sys, time
from pathlib import Path
from scdmc.tokens.workers import Progress, Task, run_on_workers
from tests.tokens.test_workers import write_on
if __name__ == "__main__":
    run_on_workers([Task(["a"], write_on, (Path(sys.argv[1]),))], Progress({"a": 10**9}, 0), 1)
"""


def write_on(path, progress):
    """Write to a file without end, which is whole whenever the process is killed."""
    while True:
        with atomic_path(path) as temporary:
            temporary.write_text(str(os.getpid()))
        progress("a", 1)
        time.sleep(0.05)


def test_workers_end_with_the_run_that_was_killed(tmp_path, request):
    (tmp_path / "run.py").write_text(IN_WORKERS)
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "pid")]
    environment = {**os.environ, "PYTHONPATH": str(request.config.rootpath)}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    worker = int((tmp_path / "pid").read_text())
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def test_a_full_disk_is_one_error_line_and_resuming_goes_on(make_job, tmp_path, caplog):
    """A limit on the size of a file stands for a full disk: the same failure, of writes in the middle of a file."""
    tokenize_folder(make_job("whole", cells_per_shard=40))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "whole").glob("*.parquet"))]
    assert sizes[0] < max(sizes)
    job = make_job("out", cells_per_shard=40)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) - 1, hard))
    try:
        with pytest.raises(ScDMCError, match=r"out: no space left .* --resume, which keeps the finished shards"):
            tokenize_folder(job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(job.output_directory.glob("islets*"))
    assert not list(job.finished_shards.glob(".*"))
    assert "finished shards are kept" in caplog.text
    tokenize_folder(job, resume=True)
    assert fingerprints(tmp_path / "out") == fingerprints(tmp_path / "whole")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_ctrl_c_leaves_nothing_half_written_and_resuming_goes_on(islets_path, tmp_path, request, num_workers):
    (tmp_path / "in").mkdir()
    adata = anndata.concat([anndata.read_h5ad(islets_path)] * 10, index_unique="-")
    adata.write_h5ad(tmp_path / "in" / "cells.h5ad")
    script = request.config.rootpath / "tokenizer" / "tokenizer_combine.py"
    command = [sys.executable, script, "--input_directory", tmp_path / "in", "--output_directory", tmp_path / "out"]
    command += ["--output_prefix", "cells", "--cells_per_shard", "20", "--num_workers", str(num_workers)]
    process = subprocess.Popen(
        [sys.executable, "-c", HEEDS_CTRL_C, *map(str, command)],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    hidden = tmp_path / "out" / ".cells.shards"
    deadline = time.monotonic() + 60
    while not list(hidden.glob("*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    # As a terminal does: to the workers, too.
    os.killpg(process.pid, signal.SIGINT)
    log = process.communicate(timeout=60)[1]
    assert process.returncode == 130, log
    assert "error: interrupted" in log
    assert "Traceback" not in log, log
    assert "finished shards are kept in " in log
    finished = sorted(path.name for path in hidden.iterdir())
    assert finished
    assert not any(name.startswith(".") for name in finished)
    assert not list((tmp_path / "out").glob("cells*"))
    again = subprocess.run([*map(str, command[:-1]), "1", "--resume"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert len(list((tmp_path / "out").glob("cells-*.parquet"))) == 150
