"""Tasks one after the other in this process, or on the workers of a Dask cluster, with one progress bar either way."""

import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from tqdm import tqdm

from scdmc.errors import ScDMCError

if TYPE_CHECKING:
    import distributed

logger = logging.getLogger(__name__)


# How often a task is tried again whose worker died.
RETRIES = 2


SECONDS_TO_CONNECT = 30


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
    """

    def __init__(self, sizes: Mapping[str, int], n_done: int) -> None:
        self._bar = tqdm(total=sum(sizes.values()), initial=n_done, unit=" cells", desc="tokenize")
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


def run_on_workers(
    make_tasks: Callable[[int], Sequence[Task]],
    progress: Progress,
    num_workers: int,
    scheduler_address: str | None,
    folder: Path,
    paths: Sequence[Path],
) -> None:
    """Run tasks on Dask workers, one thread each; the first error ends the others.

    Parameters
    ----------
    make_tasks
        Returns the tasks for a number of workers.
    progress
        The progress bar.
    num_workers, scheduler_address
        Processes on this machine, or the address of a running cluster that is taken instead.
    folder
        Where the workers write. A task ends soon after the file :func:`_sign_of_life` there is gone.
    paths
        What the workers read.

    Raises
    ------
    ScDMCError
        If Dask is not installed, the cluster cannot be reached or does not see the paths, or the workers of a task die.
    """
    with _client(num_workers, scheduler_address) as client:
        _require_paths(client, [folder, *paths])
        client.subscribe_topic(_topic(client.id), lambda event: progress(*event[1]))
        n_workers = sum(client.nthreads().values())
        sign_of_life = folder / f".{client.id}.running"
        sign_of_life.touch()
        try:
            _wait_for(client, make_tasks(n_workers), progress, sign_of_life)
        finally:
            sign_of_life.unlink(missing_ok=True)


def _wait_for(client: "distributed.Client", tasks: Sequence[Task], progress: Progress, sign_of_life: Path) -> None:
    from distributed import KilledWorker, as_completed

    running = {client.submit(_run_task, task, client.id, sign_of_life, pure=False): task for task in tasks}
    try:
        for future in as_completed(running):
            future.result()
    except KilledWorker as error:
        parts = progress.unfinished(running[future].parts)
        raise ScDMCError(
            f"{parts[0]}: the workers that read it died {RETRIES + 1} times (killed from outside, or out of memory: "
            "try fewer --num_workers or a smaller --block_size)"
        ) from error
    finally:
        client.cancel(list(running))


def _run_task(task: Task, client_id: str, sign_of_life: Path) -> None:
    """Run a task on a worker."""
    from distributed import get_worker

    # One thread a worker, as the user counts them.
    pa.set_cpu_count(1)
    worker = get_worker()

    def progress(part: str, n_cells: int) -> None:
        if not sign_of_life.exists():
            raise ScDMCError("the run that wanted this was ended")
        worker.log_event(_topic(client_id), (part, n_cells))

    task.function(*task.arguments, progress)


def _topic(client_id: str) -> str:
    """What progress is announced under; Dask itself announces under the plain id."""
    return f"progress-{client_id}"


@contextmanager
def _client(num_workers: int, scheduler_address: str | None) -> Iterator["distributed.Client"]:
    """A client of the cluster at the address, or of one that lives as long as the client."""
    try:
        import dask
        import distributed
    except ImportError as error:
        raise ScDMCError(
            "--num_workers above 1 and --scheduler_address need Dask, which is not installed: pip install distributed"
        ) from error
    # What happens to workers is said here, in words for people.
    for name in ("distributed", "distributed.client", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if scheduler_address is not None:
        try:
            client = distributed.Client(scheduler_address, timeout=SECONDS_TO_CONNECT)
        except (OSError, ValueError) as error:
            raise ScDMCError(f"--scheduler_address {scheduler_address}: no Dask scheduler answers there") from error
        with client:
            yield client
        return
    settings = {
        "distributed.scheduler.allowed-failures": RETRIES,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
        "logging": {"distributed": "critical"},
        # One thread a worker. Dask's own setting of malloc is left out: it hands large arrays back to the system at
        # once, and half of the time would go into getting their pages again.
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(THREAD_VARIABLES, "1"),
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=num_workers, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.register_worker_callbacks(_ignore_interrupts)
        yield client


def _ignore_interrupts() -> None:
    """A terminal sends Ctrl-C to every process; this one is ended by the first of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _require_paths(client: "distributed.Client", paths: Sequence[Path]) -> None:
    """Refuse a cluster without workers, and workers that do not see what is read and written."""
    try:
        missing = client.run(_missing, paths)
    except ImportError as error:
        raise ScDMCError(f"the workers of {client.scheduler.address} cannot import scDMC; install it there") from error
    if not missing:
        raise ScDMCError(f"the Dask cluster at {client.scheduler.address} has no workers")
    for worker, unseen in missing.items():
        if unseen:
            raise ScDMCError(
                f"worker {worker} does not see {unseen[0]}: all workers must share the disk of the input and of the "
                "output, under the same path"
            )


def _missing(paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if not path.exists()]
