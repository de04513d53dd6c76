"""Two things at once in one process: items that are made ahead, and calls that are finished behind.

What is overlapped runs in a thread, one call after the other and in order, so that results are the same as without it.
It is of use where the lock of Python is let go of: Arrow writes parquet and torch computes without it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

# More would not be faster, and each is as large as a block of cells.
MOST_WAITING = 2

_END = object()


def ahead(items: Iterable[Item], most_waiting: int = MOST_WAITING) -> Iterator[Item]:
    """Yield items in order while a thread makes the next ones; what making one raises is raised in its place.

    Parameters
    ----------
    items
        A generator, of which nothing else asks for items.
    most_waiting
        How many are made before they are asked for.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, "ahead") as thread:
        waiting = deque(thread.submit(next, iterator, _END) for _ in range(most_waiting))
        try:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(thread.submit(next, iterator, _END))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)


@contextmanager
def behind(most_waiting: int = MOST_WAITING) -> Iterator[Callable[..., None]]:
    """A function ``call(function, *arguments)`` whose calls a thread makes, in order; all are made at the end.

    What a call raises is raised by a later ``call``, or at the end; no further call is made then, nor after an error of
    the block itself.

    Parameters
    ----------
    most_waiting
        How many calls may be unfinished; one more waits for the first of them.
    """
    unfinished: deque[Future] = deque()
    errors: list[BaseException] = []
    with ThreadPoolExecutor(1, "behind") as thread:

        def call(function: Callable, *arguments: object) -> None:
            if len(unfinished) >= most_waiting:
                unfinished.popleft().result()
            unfinished.append(thread.submit(_unless_broken, errors, function, *arguments))

        try:
            yield call
            while unfinished:
                unfinished.popleft().result()
        finally:
            thread.shutdown(cancel_futures=True)


def _unless_broken(errors: list[BaseException], function: Callable, *arguments: object) -> None:
    """Make a call, unless an earlier one has failed; its error is the one that is raised."""
    if errors:
        raise errors[0]
    try:
        function(*arguments)
    except BaseException as error:
        errors.append(error)
        raise
