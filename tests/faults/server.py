"""A process that has imported everything once, and forks a child for every case: a start takes milliseconds.

``python -m tests.faults.server`` reads one request a line from stdin, a list of cases that run at the same time, and
answers with one line of what became of each. A case is the fields of :class:`Case`; :class:`ForkServer` starts, asks
and ends such a process.
"""

import contextlib
import importlib
import io
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.undrawn import save_no_figure

ROOT = Path(__file__).parent.parent.parent
HANG = "hang"
BUG_STATUS = 99
SECONDS_FOR_ORPHANS = 10
# What has threads of its own does not outlive a fork.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "NUMBA_THREADING_LAYER": "workqueue", "MPLBACKEND": "agg",
    "HF_HUB_OFFLINE": "1",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What a child does.

    Attributes
    ----------
    call
        ``module:function``; it gets ``words`` and its result, an exit status or anything else in JSON, is returned.
        :func:`run_script` runs a script.
    words
        The arguments.
    watch
        Folder whose file-system events are counted; None for none.
    kill_at
        The event, from 1, before which the child kills itself.
    most_bytes
        No file may grow beyond so many; None for no limit.
    kills
        Whether the first write beyond ``most_bytes`` kills the child, as SIGKILL would; else it fails, as on a full
        disk.
    draws
        Whether figures are drawn; else a figure is one pixel, with the same events, since drawing takes most of the
        time of a run.
    seconds
        After so many the child is killed, and the outcome is a hang.
    """

    call: str
    words: list = field(default_factory=list)
    watch: str | None = None
    kill_at: int | None = None
    most_bytes: int | None = None
    kills: bool = False
    draws: bool = True
    seconds: float = 120.0


@dataclass(frozen=True)
class Outcome:
    """What became of a child: its result (``status`` of a script; negative, the signal), what it printed, events."""

    result: object
    signal: int
    out: str
    err: str
    n_events: int
    orphans: int

    @property
    def errors(self) -> list[str]:
        """The lines on stderr that are errors for people."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]

    @property
    def is_refusal(self) -> bool:
        """One line of error, status 2, no traceback."""
        return self.result == 2 and len(self.errors) == 1 and "Traceback" not in self.err

    @property
    def tail(self) -> str:
        """The end of stderr, for messages of tests."""
        return f"result {self.result}, signal {self.signal}\n" + "\n".join(self.err.splitlines()[-12:])


class ForkServer:
    """The process that forks, seen from a test."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=ROOT, env=os.environ | ENVIRONMENT,
        )  # fmt: skip

    def run(self, *cases: Case) -> list[Outcome]:
        """Run cases at the same time, and wait for all."""
        self.process.stdin.write(json.dumps([asdict(case) for case in cases]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the fork server died"
        return [Outcome(**outcome) for outcome in json.loads(answer)]

    def script(self, script: str, words: list[str], **more: object) -> Outcome:
        """Run one script."""
        return self.run(Case("tests.faults.server:run_script", [script, *map(str, words)], **more))[0]

    def end(self) -> None:
        """Let the process end."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


# ---- in the server and its children


def run_script(script: str, *words: str) -> int:
    """Exit status of a script's ``main``."""
    from tests.task_scripts import load_main

    try:
        return load_main(script)(list(words))
    except SystemExit as stop:
        return stop.code


def import_everything() -> None:
    """Import what takes seconds, and have compiled what is compiled at its first use."""
    import anndata
    import scanpy
    import torch

    import scdmc.reports.figures

    torch.set_num_threads(1)
    for path in sorted((ROOT / "scdmc").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if not name.endswith("__"):
            importlib.import_module(name)
    scdmc.reports.figures.DOTS_PER_INCH = 20  # what is drawn is no matter here, and takes most of the time
    generator = torch.Generator().manual_seed(0)
    cells = anndata.AnnData(torch.rand(44, 8, generator=generator).numpy())
    scanpy.pp.neighbors(cells, n_neighbors=5, use_rep="X")
    scanpy.tl.umap(cells)


def serve() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import_everything()
    for line in sys.stdin:
        cases = [Case(**case) for case in json.loads(line)]
        children = [Child(case) for case in cases]
        answers.write(json.dumps([child.wait() for child in children]) + "\n")
        answers.flush()


class Child:
    """A forked child: what it prints goes to files without a name, its result through a pipe."""

    def __init__(self, case: Case):
        self.case = case
        self.ends_at = time.monotonic() + case.seconds
        self.out, self.err = (os.memfd_create(name) for name in ("out", "err"))
        self.reader, writer = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self.live(writer)
        os.close(writer)

    def live(self, writer: int) -> None:
        """Do what the case says; never returns."""
        from tqdm import tqdm

        os.setsid()
        # The lock of tqdm is a semaphore that all forks share: a child that is killed in it would keep it for good.
        tqdm.set_lock(threading.RLock())
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (self.out, 1), (self.err, 2)):
            os.dup2(source, target)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True, encoding="utf8")
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True, encoding="utf8")
        result = BUG_STATUS
        try:
            result = self.called(writer)
        except BaseException:  # noqa: BLE001  whatever it is, it is what the test wants to know
            traceback.print_exc()
        finally:
            os.write(writer, json.dumps({"result": result}).encode() + b"\n")
            os._exit(0)

    def called(self, writer: int) -> object:
        """The result of the call, under the limits of the case."""
        from tests.faults.events import count_events

        case = self.case
        if not case.draws:
            import matplotlib.figure

            matplotlib.figure.Figure.savefig = save_no_figure
        module, _, function = case.call.partition(":")
        function = getattr(importlib.import_module(module), function)
        if case.watch is not None:
            events = count_events(Path(case.watch), case.kill_at)
        if case.most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL if case.kills else signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (case.most_bytes, case.most_bytes))
        result = function(*case.words)
        if case.watch is not None:
            os.write(writer, json.dumps({"n_events": events.n}).encode() + b"\n")
        return result

    def wait(self) -> dict:
        """The fields of its :class:`Outcome`."""
        pidfd = os.pidfd_open(self.pid)
        is_over = select.select([pidfd], [], [], max(0, self.ends_at - time.monotonic()))[0]
        os.close(pidfd)
        if not is_over:
            os.kill(self.pid, signal.SIGKILL)
        _, wait_status = os.waitpid(self.pid, 0)
        orphans = self.orphans()
        said = {"result": None, "n_events": 0}
        os.set_blocking(self.reader, False)
        with os.fdopen(self.reader) as lines, contextlib.suppress(BlockingIOError):
            for line in lines:
                said |= json.loads(line)
        if not is_over:
            said["result"] = HANG
        number = os.WTERMSIG(wait_status) if os.WIFSIGNALED(wait_status) else 0
        return said | {"signal": number, "out": text_of(self.out), "err": text_of(self.err), "orphans": orphans}

    def orphans(self) -> int:
        """Processes that it has left: they get some seconds to see that nobody needs them, and are ended then."""
        until = time.monotonic() + SECONDS_FOR_ORPHANS
        while members := members_of(self.pid):
            if time.monotonic() > until:
                os.killpg(self.pid, signal.SIGKILL)
                return len(members)
            time.sleep(0.05)
        return 0


def members_of(session: int) -> list[int]:
    """Processes of a session that are alive."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z" and int(fields[3]) == session:
                    found.append(int(folder.name))
    return found


def text_of(descriptor: int) -> str:
    """What was written to a file without a name, which is closed."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read().decode("utf8", "replace")


if __name__ == "__main__":
    serve()
