"""Tasks one after the other in this process, or on several processes of this machine, with one progress bar."""

import logging
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_objects

import pyarrow as pa

from scdmc.errors import ScDMCError
from scdmc.progress import progress_bar

logger = logging.getLogger(__name__)


# How often a task is tried again whose worker died.
RETRIES = 2


SECONDS_BETWEEN_LOOKS = 0.1


THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """A call ``function(*arguments, progress)`` that works through named parts.

    ``progress(part, n)`` says that n units of a part are done.
    """

    parts: Sequence[str]
    function: Callable
    arguments: tuple


class Progress:
    """A bar over the parts of all tasks, in cells; a part that starts over takes the bar back.

    Parameters
    ----------
    sizes
        Part -> its number of cells.
    n_done
        Cells of parts that were done before.
    what
        What is done to the cells.
    """

    def __init__(self, sizes: Mapping[str, int], n_done: int, what: str = "tokenize") -> None:
        self._bar = progress_bar(total=sum(sizes.values()), initial=n_done, unit=" cells", desc=what)
        self._done: dict[str, int] = {}

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def __call__(self, part: str, n_cells: int) -> None:
        """So many cells of a part are done."""
        before = self._done.get(part, 0)
        if n_cells < before:
            logger.warning("warning: a worker died at %s; another one starts it over", part)
        self._done[part] = n_cells
        self._bar.update(n_cells - before)

    def unfinished(self, parts: Sequence[str]) -> list[str]:
        """The last part of which something was heard, and those after it."""
        heard = [index for index, part in enumerate(parts) if part in self._done]
        return list(parts[heard[-1] if heard else 0 :])


def run_here(tasks: Sequence[Task], progress: Callable[[str, int], object]) -> None:
    """Run tasks in this process, in order."""
    for task in tasks:
        task.function(*task.arguments, progress)


def run_on_workers(tasks: Sequence[Task], progress: Progress, num_workers: int) -> None:
    """Run tasks on processes of this machine, one thread each; the first error ends the others.

    Raises
    ------
    ScDMCError
        If the workers of a task die again and again, or a task raises one.
    """
    waiting, deaths = deque(enumerate(tasks)), Counter()
    idle, running = [], {}
    with ExitStack() as workers:
        try:
            while waiting or running:
                while waiting and len(running) < num_workers:
                    worker = idle.pop() if idle else workers.enter_context(_Worker())
                    number, task = waiting.popleft()
                    running[worker.start(task)] = worker, number, task
                done, _ = wait(running, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
                for worker, _, _ in running.values():
                    worker.tell(progress)
                for future in done:
                    worker, number, task = running.pop(future)
                    if _has_ended_well(future):
                        idle.append(worker)
                        continue
                    deaths[number] += 1
                    if deaths[number] > RETRIES:
                        raise worker_died(progress.unfinished(task.parts)[0], deaths[number])
                    waiting.appendleft((number, task))
        finally:
            for worker, _, _ in running.values():
                worker.give_up()


def worker_died(part: str, n_times: int) -> ScDMCError:
    """What to say when a part of a task has killed its workers."""
    return ScDMCError(
        f"{part}: the workers that read it died {n_times} times (killed from outside, or out of memory: "
        "try fewer --num_workers or a smaller --block_size)"
    )


def _has_ended_well(future: Future) -> bool:
    """False if the worker died; what else a task raises is raised here."""
    try:
        future.result()
    except BrokenProcessPool:
        return False
    return True


class _Worker:
    """One process, which runs one task at a time and tells its progress through a pipe.

    A pool of one process for each: when a process dies, it is known of which task, and no other task is lost.
    """

    def __init__(self) -> None:
        # Spawned: a fork would copy locks that threads of this process hold.
        context = multiprocessing.get_context("spawn")
        self._heard, told = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(1, context, _prepare_process, (told,))

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()

    def start(self, task: Task) -> Future:
        """Begin a task; its result comes when it is done."""
        with _settings_of_processes():
            return self._pool.submit(_run_task, task)

    def tell(self, progress: Progress) -> None:
        """Hand on what the process has said since the last call."""
        while not self._heard.closed and self._heard.poll():
            progress(*self._heard.recv())

    def give_up(self) -> None:
        """Let the task fail at the next thing that it has to say."""
        self._heard.close()


@contextmanager
def _settings_of_processes() -> Iterator[None]:
    """Processes that start meanwhile compute with one thread, as the user counts them, and ignore Ctrl-C.

    A terminal sends Ctrl-C to every process; the workers are ended by the first of them.
    """
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


_told: Connection | None = None  # of a worker: where it says what is done


def _prepare_process(told: Connection) -> None:
    """What a worker does first."""
    global _told
    _told = told
    pa.set_cpu_count(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for tasks for ever."""
    wait_for_objects([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _run_task(task: Task) -> None:
    task.function(*task.arguments, lambda part, n_cells: _told.send((part, n_cells)))
