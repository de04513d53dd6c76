"""Flags in a file: what a run wrote is what it is given."""

import argparse
import json
from pathlib import Path

import pytest

from scdmc.cli.arguments_file import add_arguments_file_argument, described_arguments, with_arguments_file
from scdmc.cli.parser import argument_parser, positive_int
from scdmc.errors import ScDMCError


@pytest.fixture
def parser():
    parser = argument_parser("Try flags.", ["{prog} --steps 3"])
    parser.add_argument("--steps", type=positive_int, required=True)
    parser.add_argument("--data_path", type=Path, nargs="+")
    parser.add_argument("--shift", type=float, default=0.0)
    parser.add_argument("--name", dest="called")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--compile", action="store_true")
    add_arguments_file_argument(parser)
    return parser


def parsed(parser, *words):
    return parser.parse_args(with_arguments_file(parser, words))


def test_what_is_written_is_read_back(parser, tmp_path):
    numbers, others = ["--steps", "3", "--shift=-1e-3"], ["--name", "x", "--overwrite", "--compile"]
    first = parsed(parser, *numbers, "--data_path", "a.h5ad", "b.h5ad", *others)
    (tmp_path / "arguments.json").write_text(json.dumps(described_arguments(first)))
    again = parsed(parser, "--arguments_file", tmp_path / "arguments.json")
    assert again.overwrite is False  # that was meant for the first run
    expected = {**vars(first), "overwrite": False, "arguments_file": tmp_path / "arguments.json"}
    assert vars(again) == expected


def test_the_command_line_wins_and_yaml_is_read_too(parser, tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text("steps: 3\ndata_path: [a.h5ad]\nshift: 2\n")
    arguments = parsed(parser, f"--arguments_file={path}", "--steps", "5")
    assert (arguments.steps, arguments.data_path, arguments.shift) == (5, [Path("a.h5ad")], 2.0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"stepz": 3, "steps": 2}', "stepz: no flags of this script"),
        ("a.json", "[1]", "a.json"),
        ("a.yaml", "steps: [1", "is no YAML"),
        ("a.yaml", "3", "no names of flags"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(parser, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ScDMCError, match=message):
        parsed(parser, "--arguments_file", tmp_path / name)


def test_values_in_the_file_are_checked_as_flags_are(parser, tmp_path, capsys):
    (tmp_path / "a.json").write_text('{"steps": "many"}')
    with pytest.raises(SystemExit):
        parsed(parser, "--arguments_file", tmp_path / "a.json")
    assert "--steps" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named(parser, tmp_path):
    with pytest.raises(ScDMCError, match="there is no file"):
        parsed(parser, "--arguments_file", tmp_path / "none.json")


def test_lists_and_paths_become_json():
    arguments = argparse.Namespace(b=[Path("x"), 1], a=None, c=(True, 0.5))
    assert described_arguments(arguments) == {"a": None, "b": ["x", 1], "c": [True, 0.5]}
    assert list(described_arguments(arguments)) == ["a", "b", "c"]
