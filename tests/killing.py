"""A run that dies at a chosen event of the file system, in the process of the test."""

from collections.abc import Callable


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours runs after it."""


class Countdown:
    """Counts events, and dies before the one that comes after so many.

    Attributes
    ----------
    n_events
        How many there were, with the one that was too many.
    """

    def __init__(self, kill_at: int) -> None:
        self.kill_at, self.n_events = kill_at, 0

    def counted(self, original: Callable) -> Callable:
        """A function whose calls are events."""

        def call(*arguments: object, **named: object) -> object:
            self.n_events += 1
            if self.n_events > self.kill_at:  # a dead process does nothing any more
                raise Killed
            return original(*arguments, **named)

        return call
