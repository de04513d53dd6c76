"""Tasks on the workers of a Dask cluster that runs already."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from scdmc.errors import ScDMCError
from scdmc.tokens.workers import Progress, Task, worker_died

if TYPE_CHECKING:
    import distributed

SECONDS_TO_CONNECT = 30

# How long a run that failed waits for its workers to put away what they were writing.
SECONDS_TO_END = 30


def run_on_cluster(
    make_tasks: Callable[[int], Sequence[Task]],
    progress: Progress,
    scheduler_address: str,
    folder: Path,
    paths: Sequence[Path],
) -> None:
    """Run tasks on the workers of a cluster; the first error ends the others.

    Parameters
    ----------
    make_tasks
        Returns the tasks for a number of workers.
    progress
        The progress bar.
    scheduler_address
        Address of the cluster.
    folder
        Where the workers write. A task ends soon after the file ``sign_of_life`` there is gone.
    paths
        What the workers read.

    Raises
    ------
    ScDMCError
        If Dask is not installed, the cluster cannot be reached or does not see the paths, or the workers of a task die.
    """
    with _client(scheduler_address) as client:
        _require_paths(client, [folder, *paths])
        client.subscribe_topic(_topic(client.id), lambda event: progress(*event[1]))
        n_workers = sum(client.nthreads().values())
        _wait_for(client, make_tasks(n_workers), progress, folder / f".{client.id}.running")


@contextmanager
def _client(scheduler_address: str) -> Iterator["distributed.Client"]:
    """A client of the cluster at the address."""
    try:
        import distributed
    except ImportError as error:
        raise ScDMCError(
            "--scheduler_address needs Dask, which is not installed: pip install distributed "
            "(or pip install 'scdmc[cluster]')"
        ) from error
    # What happens to workers is said here, in words for people.
    for name in ("distributed", "distributed.client", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(scheduler_address, timeout=SECONDS_TO_CONNECT)
    except (OSError, ValueError) as error:
        raise ScDMCError(f"--scheduler_address {scheduler_address}: no Dask scheduler answers there") from error
    with client:
        yield client


def _wait_for(client: "distributed.Client", tasks: Sequence[Task], progress: Progress, sign_of_life: Path) -> None:
    """Submit tasks and wait for them; after an error, too, until none of them writes any more."""
    from distributed import KilledWorker, as_completed, wait

    sign_of_life.touch()
    running = {client.submit(_run_task, task, client.id, sign_of_life, pure=False): task for task in tasks}
    try:
        for future in as_completed(running):
            future.result()
    except KilledWorker as error:
        part = progress.unfinished(running[future].parts)[0]
        raise worker_died(part, error.allowed_failures + 1) from error
    finally:
        sign_of_life.unlink(missing_ok=True)
        with suppress(TimeoutError):  # a worker that hangs
            wait(list(running), timeout=SECONDS_TO_END)
        client.cancel(list(running))


def _run_task(task: Task, client_id: str, sign_of_life: Path) -> None:
    """Run a task on a worker."""
    from distributed import get_worker

    # One thread a worker, as the user counts them.
    pa.set_cpu_count(1)
    worker = get_worker()

    def require_sign_of_life() -> None:
        if not sign_of_life.exists():
            raise ScDMCError("the run that wanted this was ended")

    def progress(part: str, n_cells: int) -> None:
        require_sign_of_life()
        worker.log_event(_topic(client_id), (part, n_cells))

    require_sign_of_life()
    task.function(*task.arguments, progress)


def _topic(client_id: str) -> str:
    """What progress is announced under; Dask itself announces under the plain id."""
    return f"progress-{client_id}"


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
