"""What all scripts share: errors for people and exit statuses."""

import argparse
import difflib
import functools
import logging
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from scdmc.cli.endings import (
    BROKEN_PIPE_STATUS,
    CATCHABLE,
    INTERRUPTED_STATUS,
    USER_ERROR_STATUS,
    discard_what_cannot_be_printed,
    leave_without_hdf5,
    make_streams_safe,
    message_for_user,
    printed_to_the_end,
    reader_is_gone,
)
from scdmc.dates import date_of_results
from scdmc.errors import ScDMCError
from scdmc.locks import script_run
from scdmc.options import MAX_CONTEXT
from scdmc.version import __version__

# The largest whole number that a flag takes, where nothing smaller is the limit: sizes in 32 bits.
LARGEST_INT = 2**31 - 1


# Processes on one machine: more are a slip of the finger, and would take all its memory before they do anything.
MOST_PROCESSES = 256


# Width, layers and heads of a model: far above all that was ever trained on single cells.
LARGEST_SIZE = 65_536


LARGEST_SEED = 2**32 - 1


LONGEST_NUMBER = 40  # characters of a number that is repeated in a message


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

    A full disk, a missing permission, a lack of memory and the like (:mod:`scdmc.cli.endings`) are user errors, too.
    All others pass through: a traceback means a bug. A closed pipe, as after ``| head``, ends the script quietly.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        make_streams_safe()
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
        for noisy in ("httpx", "fontTools", "matplotlib", "harmonypy"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        words = sys.argv[1:] if argv is None else argv
        try:
            # Outputs that the script claims are its own until it ends.
            with printed_to_the_end(), script_run([Path(main.__code__.co_filename).name, *map(str, words)]):
                return main(argv)
        except KeyboardInterrupt:
            return _ended("interrupted", INTERRUPTED_STATUS)
        except CATCHABLE as error:
            if isinstance(error, BrokenPipeError) and reader_is_gone():
                return _ended(None, BROKEN_PIPE_STATUS)
            message = message_for_user(error)
            if message is None:
                raise
            return _ended(message, USER_ERROR_STATUS)

    return run


def _ended(message: str | None, status: int) -> int:
    if message is not None:
        print(f"error: {message}", file=sys.stderr)
    discard_what_cannot_be_printed()
    leave_without_hdf5(status)
    return status


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
        parsed = super().parse_known_args(given, namespace)
        date_of_results()  # a date that pages cannot have is refused before the work, not after it
        return parsed

    def _unknown_flag(self, name: str) -> str:
        known = list(self._option_string_actions)
        nearest = [new for new in (SISTER_FLAGS.get(name, ""),) if new.partition(" ")[0] in known]
        nearest += difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {nearest[0]}?" if nearest else f"see {self.prog} --help"
        return f"{name}: no such flag; {advice}"

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> object:
        # Python 3.11 makes an empty list of "--flag=--".
        if action.option_strings and arg_strings == ["--"]:
            raise argparse.ArgumentError(action, "-- is no value")
        return super()._get_values(action, arg_strings)

    def _get_value(self, action: argparse.Action, text: str) -> object:
        """What a flag was given, in its type; no flag takes nothing, and no path takes what no file can be called."""
        if action.option_strings and not text.strip():
            raise argparse.ArgumentError(action, "the value is empty")
        if action.type is Path:
            if "\0" in text:
                raise argparse.ArgumentError(action, f"{text!r} holds a character that no file name can have")
            if not _is_utf8(text):
                raise argparse.ArgumentError(action, f"{text!r} is a name that is not UTF-8; rename the file or folder")
        return super()._get_value(action, text)

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


def _is_utf8(text: str) -> bool:
    # Python holds the bytes of a file name that it cannot decode as lone surrogates.
    return not any("\ud800" <= character <= "\udfff" for character in text)


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


WITHOUT_EFFECT = "without_effect"  # of parsed flags: names of those that were left out and mean nothing here


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
        If a flag was given that cannot have an effect. The names of those that were not given are kept.
    """
    for name, default in defaults.items():
        value = getattr(arguments, name)
        if value is None:
            setattr(arguments, name, default)
            if not has_effect:
                setattr(arguments, WITHOUT_EFFECT, sorted({name, *getattr(arguments, WITHOUT_EFFECT, ())}))
        elif value is not False and not has_effect:
            raise ScDMCError(f"--{name} has no effect {why_not}; leave it out")


def output_file(suffixes: Sequence[str]) -> Callable[[str], Path]:
    """A type of argument: a file to write, whose suffix is one of those that its writer honours."""

    def path_of(text: str) -> Path:
        if Path(text).suffix not in suffixes:
            raise ScDMCError(f"--output_file {text}: name a file that ends in {' or '.join(suffixes)}")
        return Path(text)

    return path_of


# ---- types of numbers; "is not a whole number" and the like are all that a user reads of them


def whole_number(smallest: int, largest: int = LARGEST_INT) -> Callable[[str], int]:
    """Argparse type: an integer within bounds, both included."""
    too_small = {0: "is negative", 1: "is not a positive integer"}.get(smallest, f"is not at least {smallest}")

    def parse(text: str) -> int:
        if not re.fullmatch(r"\s*[+-]?\d+(_\d+)*\s*", text):
            raise argparse.ArgumentTypeError(f"{_shown(text)} is not a whole number")
        # Python itself refuses to read thousands of digits.
        value = int(text) if len(text) <= LONGEST_NUMBER else (-math.inf if "-" in text else math.inf)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{_shown(text)} {too_small}")
        if value > largest:
            raise argparse.ArgumentTypeError(f"{_shown(text)} is too large (at most {largest:,})")
        return value

    return parse


positive_int = whole_number(1)


non_negative_int = whole_number(0)


process_count = whole_number(1, MOST_PROCESSES)  # processes of this machine


extra_process_count = whole_number(0, MOST_PROCESSES)  # processes beside this one


model_size = whole_number(1, LARGEST_SIZE)


seed = whole_number(0, LARGEST_SEED)  # what every random generator takes


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{_shown(text)} is not a number") from error


def _shown(text: str) -> str:
    return text if len(text) <= LONGEST_NUMBER else f"{text[:20]}... ({len(text):,} characters)"


def stream_length(text: str) -> int:
    """Argparse type: tokens of a stream, which are no more than any cell could fill."""
    value = positive_int(text)
    if value > MAX_CONTEXT:
        raise argparse.ArgumentTypeError(f"{text} is more than {MAX_CONTEXT:,} tokens")
    return value


def fraction(text: str) -> float:
    """Argparse type: a number strictly between 0 and 1."""
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def probability(text: str) -> float:
    """Argparse type: a number of at least 0 and below 1 (dropout, say)."""
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0 and below 1")
    return value


def share(text: str) -> float:
    """Argparse type: a number above 0 and at most 1."""
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def closed_fraction(text: str) -> float:
    """Argparse type: a number from 0 to 1, both included."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def positive_float(text: str) -> float:
    """Argparse type: a number above 0, at most :data:`LARGEST_INT`."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return _bounded(text, value)


def non_negative_float(text: str) -> float:
    """Argparse type: a number of at least 0, at most :data:`LARGEST_INT`."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return _bounded(text, value)


def _bounded(text: str, value: float) -> float:
    if value > LARGEST_INT:
        raise argparse.ArgumentTypeError(f"{text} is too large (at most {LARGEST_INT:,})")
    return value
