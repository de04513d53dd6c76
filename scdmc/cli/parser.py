"""What all scripts share: errors for people and exit statuses."""

import argparse
import difflib
import errno
import functools
import logging
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from scdmc.errors import ScDMCError
from scdmc.options import MAX_CONTEXT
from scdmc.version import __version__

USER_ERROR_STATUS = 2


INTERRUPTED_STATUS = 130


# A full disk or a missing permission is for the user to mend; any other OSError is a bug.
USER_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM})


LARGEST_SEED = 2**32 - 1


# Names that published commands use -> the name of this project. Scripts of a published command take both.
PUBLISHED_FLAGS = {
    "--input_directory": "--data_path",
    "--dataset_path": "--data_path",
    "--finetune_data_path": "--data_path",
    "--tokenized_data_path": "--data_path",
    "--output_directory": "--output_dir",
    "--model_path": "--model",
    "--pretrained_model_path": "--model",
    "--model_input_size": "--max_length",
    "--resume_from_checkpoint": "--resume",
    "--bf16": "--dtype bfloat16",
}


# Names that flags have had, or have elsewhere -> the name of this project. No script takes these.
OLD_FLAGS = {
    "--minimum_cells": "--min_cells_per_type",
    "--min_cells": "--min_cells_per_gene",
    "--neighbors": "--n_neighbors",
    "--streams": "--stream",
    "--layers": "--network_layers",
    "--demo_directory": "--output_dir",
    "--adapt_mutual_neighbours": "--adapt_mutual_neighbors",
    "--context": "--max_length",
    "--length": "--max_length",
    "--input": "--data_path",
    "--output": "--output_dir",
    "--random_state": "--seed",
    "--device": "--num_gpus",
    "--label_column": "--label_key",
    "--batch_column": "--batch_key",
}


SISTER_FLAGS = PUBLISHED_FLAGS | OLD_FLAGS


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
    """Parser whose errors look like those of :func:`script`: one line, no usage."""

    examples: tuple[str, ...] = ()

    def error(self, message: str) -> NoReturn:
        """Print one line and end with status 2."""
        # A flag with equals is called by its first name: "--model", not "--model/--model_path/...".
        line = re.sub(r"(--\w+)(?:/--\w+)+", r"\1", message)
        self.exit(USER_ERROR_STATUS, f"error: {line}\n")

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, after a flag that does not exist has been refused with the nearest name."""
        given = list(sys.argv[1:] if args is None else args)
        # A flag that is not there comes before one that is missing: the first often is a mistyped second.
        for name in _flags_in(given):
            if name not in self._option_string_actions:
                self.error(self._unknown_flag(name))
        return super().parse_known_args(given, namespace)

    def _unknown_flag(self, name: str) -> str:
        known = list(self._option_string_actions)
        nearest = [new for new in (SISTER_FLAGS.get(name, ""),) if new.partition(" ")[0] in known]
        nearest += difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {nearest[0]}?" if nearest else f"see {self.prog} --help"
        return f"{name}: no such flag; {advice}"

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        nearest = difflib.get_close_matches(str(value), choices, n=1)
        advice = f"; did you mean {nearest[0]}?" if nearest else ""
        raise argparse.ArgumentError(action, f"invalid choice {value} (choose from {', '.join(choices)}){advice}")

    def format_help(self) -> str:
        """The help of argparse, and the examples below it."""
        lines = [f"  {example.format(prog=_command(self.prog))}" for example in self.examples]
        return super().format_help() + "\n".join(["", "examples:", *lines, ""])


class _HelpFormatter(argparse.HelpFormatter):
    """Shows every default but None: the text of such a flag says itself what the default is."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help, action.default
        if not text or action.required or default in (None, argparse.SUPPRESS) or "(default: " in text:
            return text
        return f"{text} (default: {shown_default(default).replace('%', '%%')})"


def shown_default(value: object) -> str:
    """A default as ``--help`` shows it: a switch is off, a list is its words as one would type them."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    return str(value)


def _flags_in(given: Sequence[str]) -> list[str]:
    """The flags of a command line, without their values; nothing after ``--`` is one."""
    end = given.index("--") if "--" in given else len(given)
    return [text.partition("=")[0] for text in given[:end] if re.fullmatch(r"--?[A-Za-z][\w-]*(=.*)?", text, re.DOTALL)]


def _command(prog: str) -> str:
    """How a script is started: ``scdmc annotate``, or ``python -u annotate.py``."""
    return f"python -u {prog}" if prog.endswith(".py") else prog


def argument_parser(description: str, examples: Sequence[str]) -> argparse.ArgumentParser:
    """Parser that all scripts use.

    ``--help`` shows every default as ``(default: x)`` and ends with examples; ``--version`` prints that of scDMC. A
    flag must be written out. A wrong flag, choice or number is one line ``error: ...`` on stderr, which names the
    nearest flag, and status 2.

    Parameters
    ----------
    description
        What the script does.
    examples
        Command lines, each beginning with ``{prog}``, which becomes what the script was started as: ``scdmc annotate``
        where ``sys.argv[0]`` says so, else ``python -u annotate.py``.
    """
    parser = _Parser(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
    parser.examples = tuple(examples)
    parser.add_argument(
        "--version", action="version", version=f"scdmc {__version__}", help="print the version and exit"
    )
    return parser


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


def stream_length(text: str) -> int:
    """Argparse type: tokens of a stream, which are no more than any cell could fill."""
    value = positive_int(text)
    if value > MAX_CONTEXT:
        raise argparse.ArgumentTypeError(f"{text} is more than {MAX_CONTEXT:,} tokens")
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
