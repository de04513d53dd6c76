"""What all scripts share: errors for people and exit statuses."""

import argparse
import functools
import logging
import sys
from collections.abc import Callable

from scdmc.errors import ScDMCError

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130


def script(main: Callable[..., int]) -> Callable[..., int]:
    """Decorate a script's ``main(argv=None) -> int``: log to stderr, print user errors as one line, return status 2.

    Errors that are not :class:`ScDMCError` pass through: a traceback means a bug.
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
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            return INTERRUPTED_STATUS

    return run


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Parser whose ``--help`` shows every default."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)


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
