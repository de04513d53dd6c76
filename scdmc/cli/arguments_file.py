"""Flags in a file: what a run writes of its own, and another run can read back."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scdmc.cli.parser import WITHOUT_EFFECT
from scdmc.errors import ScDMCError
from scdmc.files import read_json_object

FLAG = "--arguments_file"
# They say what to do with a run, not what it is.
OF_ONE_START = ("arguments_file", "resume", "dry_run", "overwrite")


def add_arguments_file_argument(parser: argparse.ArgumentParser) -> None:
    """``--arguments_file``, whose flags :func:`with_arguments_file` puts before those of the command line."""
    parser.add_argument(
        FLAG,
        type=Path,
        help="flags in a file: the arguments.json of another run, or YAML; those of the command line win "
        "(default: none)",
    )


def described_arguments(arguments: argparse.Namespace) -> dict[str, object]:
    """Parsed flags by name, as JSON has them: paths are text."""
    return {name: _as_json(value) for name, value in sorted(vars(arguments).items())}


def with_arguments_file(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """The words of a command line, those of its ``--arguments_file`` first.

    Parameters
    ----------
    parser
        With all flags of the script.
    argv
        The command line.

    Raises
    ------
    ScDMCError
        If the file cannot be read, or has a name that is no flag of the script.
    """
    words = [str(word) for word in argv]
    path = _named_file(words)
    return words if path is None else [*_words(parser, _read(path), path), *words]


def _named_file(words: Sequence[str]) -> Path | None:
    for number, word in enumerate(words):
        if word.startswith(f"{FLAG}="):
            return Path(word.partition("=")[2])
        if word == FLAG and number + 1 < len(words):
            return Path(words[number + 1])
    return None


def _read(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        raise ScDMCError(f"{FLAG}: there is no file {path}")
    if path.suffix not in (".yaml", ".yml"):
        return read_json_object(path, "file of flags")
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ScDMCError(f"{path} is no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ScDMCError(f"{path} holds no names of flags with their values")
    return content


def _words(parser: argparse.ArgumentParser, values: Mapping[str, object], path: Path) -> Iterator[str]:
    """Flags with their values, as a command line has them; what is None or off is left out."""
    flags: dict[str, argparse.Action] = {}
    for action in parser._actions:  # argparse has no other way to them
        flags.setdefault(action.dest, action)
    skipped = {*OF_ONE_START, WITHOUT_EFFECT, *values.get(WITHOUT_EFFECT, ())}
    values = {name: value for name, value in values.items() if name not in skipped}
    unknown = [str(name) for name in values if name not in flags]
    if unknown:
        raise ScDMCError(f"{path}: {', '.join(unknown[:5])}: no flags of this script; take them out of the file")
    for name, value in values.items():
        if value is None or value is False or value == []:
            continue
        flag = max(flags[name].option_strings, key=len)
        if isinstance(value, list):
            yield from (flag, *map(str, value))
        else:
            yield flag if value is True else f"{flag}={value}"


def _as_json(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
