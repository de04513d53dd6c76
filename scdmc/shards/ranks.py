"""Processes of one run that torchrun started: each takes its share, and they wait for each other once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch import distributed

# A process may wait as long as the others compute; torchrun ends all where one of them dies.
LONGEST_WAIT = timedelta(days=30)


@contextmanager
def processes_of_torchrun(world_size: int) -> Iterator[Callable[[], object]]:
    """A function that returns when all processes of the run have called it; alone, it returns at once.

    Parameters
    ----------
    world_size
        Number of the processes, as torchrun says it in ``WORLD_SIZE``.
    """
    if world_size == 1:
        yield lambda: None
        return
    distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield distributed.barrier
    finally:
        distributed.destroy_process_group()
