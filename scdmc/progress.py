"""How far long work has come: a bar on a terminal and in a notebook, a line now and then in a file of logs."""

import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

# A file of logs gets a line at most so often.
SECONDS_BETWEEN_LINES = 30.0


class ProgressLines:
    """As much of a tqdm bar as is used here, as lines: a bar that a file keeps is one line of thousands of states.

    Parameters
    ----------
    iterable
        What to go through; or none, and :meth:`update` is called.
    total
        Units of the whole work; None where nobody knows.
    initial
        Units that were done before.
    unit, desc
        What is counted, and what is done with it.
    """

    def __init__(
        self, iterable: Iterable | None = None, total: float | None = None, initial: float = 0, unit: str = "it",
        desc: str | None = None,
    ) -> None:  # fmt: skip
        self.iterable = iterable
        self.total = len(iterable) if total is None and hasattr(iterable, "__len__") else total
        self.n = self._initial = initial
        self._unit, self._desc = unit, desc
        self._started = self._last = time.monotonic()
        self._said: float | None = None
        self._postfix = ""

    def __enter__(self) -> "ProgressLines":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator:
        with self:
            for item in self.iterable:
                yield item
                self.update()

    def update(self, n: float = 1) -> None:
        """So many more units are done."""
        self.n += n
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._say()

    def set_postfix(self, **values: str) -> None:
        """What else the next lines say."""
        self._postfix = ", ".join(f"{name}={value}" for name, value in values.items())

    def close(self) -> None:
        """The last line, unless it has been said."""
        if self._said != self.n:
            self._say()

    def _say(self) -> None:
        self._last, self._said = time.monotonic(), self.n
        text = tqdm.format_meter(
            self.n, self.total, self._last - self._started, prefix=self._desc or "", unit=self._unit,
            initial=self._initial, postfix=self._postfix, ncols=0,
        )  # fmt: skip
        print(text, file=sys.stderr, flush=True)


def progress_line(text: str) -> None:
    """One line of what is about to be done, where the bars are; a bar that is drawn moves down."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


ProgressBar = tqdm | ProgressLines


def is_watched() -> bool:
    """True if somebody looks at the output while it comes: on a terminal, or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def progress_bar(
    iterable: Iterable | None = None,
    *,
    total: float | None = None,
    initial: float = 0,
    unit: str = "it",
    desc: str | None = None,
    disable: bool = False,
) -> ProgressBar:
    """A progress bar, with units a second and time left; lines of the same where nobody watches.

    Parameters
    ----------
    iterable, total, initial, unit, desc
        See :class:`ProgressLines`.
    disable
        Show nothing.
    """
    options = {"total": total, "initial": initial, "unit": unit, "desc": desc}
    if disable or is_watched():
        return tqdm(iterable, **options, disable=disable)
    return ProgressLines(iterable, **options)
