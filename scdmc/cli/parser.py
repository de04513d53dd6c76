"""What all scripts share: errors for people and exit statuses."""

import argparse
import errno
import functools
import logging
import math
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

from scdmc.errors import ScDMCError

USER_ERROR_STATUS = 2


INTERRUPTED_STATUS = 130


# A full disk or a missing permission is for the user to mend; any other OSError is a bug.
USER_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM})


LARGEST_SEED = 2**32 - 1


def script(main: Callable[..., int]) -> Callable[..., int]:
    """Decorate a script's ``main(argv=None) -> int``: log to stderr, print user errors as one line, return status 2.

    A full disk and a missing permission (:data:`USER_ERRNOS`) are user errors too. All others pass through: a traceback
    means a bug.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
        for noisy in ("httpx", "fontTools", "matplotlib", "harmonypy"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        try:
            return main(argv)
        except ScDMCError as error:
            print(f"error: {error}", file=sys.stderr)
            return USER_ERROR_STATUS
        except OSError as error:
            if error.errno not in USER_ERRNOS:
                raise
            print(f"error: {_one_line(error)}", file=sys.stderr)
            return USER_ERROR_STATUS
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            return INTERRUPTED_STATUS

    return run


def _one_line(error: OSError) -> str:
    reason = (error.strerror or str(error)).splitlines()[0]
    return f"{error.filename}: {reason}" if error.filename else reason


class _Parser(argparse.ArgumentParser):
    """Parser whose errors look like those of :func:`script`."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USER_ERROR_STATUS, f"error: {message}\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows every default but None: the text of such a flag says what happens without it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Parser whose ``--help`` shows every default, and for which a wrong flag is one line ``error: ...``."""
    return _Parser(description=description, formatter_class=_HelpFormatter)


def fill_in(arguments: argparse.Namespace, defaults: Mapping[str, object], has_effect: bool, why_not: str) -> None:
    """Give flags that only mean something together with others their defaults, and refuse those given in vain.

    Parameters
    ----------
    arguments
        The parsed flags, changed in place; one that was left out is None (or False, if it is a switch).
    defaults
        Name of each flag -> its default.
    has_effect
        Whether these flags mean something here.
    why_not
        Goes into the message: "without --reference", say.

    Raises
    ------
    ScDMCError
        If a flag was given that cannot have an effect.
    """
    for name, default in defaults.items():
        value = getattr(arguments, name)
        if value is None:
            setattr(arguments, name, default)
        elif value is not False and not has_effect:
            raise ScDMCError(f"--{name} has no effect {why_not}; leave it out")


def positive_int(text: str) -> int:
    """Argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return value


def non_negative_int(text: str) -> int:
    """Argparse type: an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def fraction(text: str) -> float:
    """Argparse type: a number strictly between 0 and 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def probability(text: str) -> float:
    """Argparse type: a number of at least 0 and below 1 (dropout, say)."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0 and below 1")
    return value


def share(text: str) -> float:
    """Argparse type: a number above 0 and at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def closed_fraction(text: str) -> float:
    """Argparse type: a number from 0 to 1, both included."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def positive_float(text: str) -> float:
    """Argparse type: a finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def non_negative_float(text: str) -> float:
    """Argparse type: a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def seed(text: str) -> int:
    """Argparse type: an integer that every random generator takes, 0 to 2**32 - 1."""
    value = int(text)
    if not 0 <= value <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text} is not an integer from 0 to {LARGEST_SEED}")
    return value
