"""The command ``scdmc``: one table of subcommands, and nothing imported but the chosen script."""

import subprocess
import sys

import pytest

from scdmc.cli.main import COMMANDS, description, main, script_path
from scdmc.version import __version__
from tests.conftest import ROOT

LIGHT = """
import contextlib, sys
from scdmc.cli.main import main
with contextlib.redirect_stdout(sys.stderr):
    main(sys.argv[1:])
heavy = {"torch", "transformers", "numpy", "pandas", "scipy", "sklearn", "scanpy", "anndata", "matplotlib"}
scripts = [name for name in sys.modules if name.startswith("scdmc.scripts.")]
print(*sorted(heavy & set(sys.modules)), *scripts)
"""


def test_every_script_of_the_stages_is_a_subcommand_once():
    scripts = {
        path.relative_to(ROOT).as_posix()
        for folder in ("prepare", "tokenizer", "pretrain", "downstream_tasks")
        for path in (ROOT / folder).glob("*.py")
    }
    assert set(COMMANDS.values()) == scripts
    assert len(set(COMMANDS.values())) == len(COMMANDS)


def test_a_script_of_the_checkout_is_found_in_its_own_folder():
    assert script_path("downstream_tasks/embed.py").resolve() == ROOT / "downstream_tasks" / "embed.py"


@pytest.mark.parametrize("argument", ["--help", "--version", "anotate"])
def test_help_version_and_a_mistake_import_no_script_and_no_library(argument):
    done = subprocess.run([sys.executable, "-c", LIGHT, argument], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_help_shows_every_subcommand_with_the_first_line_of_its_script(capsys):
    assert main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for command, script in COMMANDS.items():
        assert f" {command} {description(script)}" in shown, command


def test_without_a_subcommand_the_help_goes_to_stderr_and_the_status_is_2(capsys):
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("usage: scdmc COMMAND [flags]\n")


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"scdmc {__version__}\n"
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf8")


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("anotate", "annotate"), ("finetune", "fine-tune"), ("downstream_tasks", "fine-tune"), ("--modle", "modules"),
     ("gene_modules", "modules"), ("tokenizer", "tokenize"), ("learning_curve", "learning-curve")],
)  # fmt: skip
def test_an_unknown_subcommand_gets_one_line_with_the_nearest_and_status_2(capsys, given, nearest):
    assert main([given, "--data_path", "x"]) == 2
    said = capsys.readouterr()
    expected = f"error: scdmc has no command {given!r}; the nearest is {nearest!r} (scdmc --help lists all)\n"
    assert (said.out, said.err) == ("", expected)


def test_a_subcommand_is_its_script_with_the_same_flags_and_exit_status(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["scdmc"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["export", "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("usage: scdmc export [-h]")
    assert main(["export", "--model", "tyni", "--output_dir", "out"]) == 2
    assert "error: tyni: no such model folder" in capsys.readouterr().err
    assert str(ROOT / "pretrain") not in sys.path  # so that no script hides a library


def test_the_package_runs_as_a_module(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "scdmc", "--version"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == f"scdmc {__version__}\n"


def test_the_first_word_of_annotate_is_the_new_file(capsys):
    assert main(["annotate", "absent.h5ad", "--reference", "also_absent.h5ad", "--output_dir", "out"]) == 2
    assert "--data_path absent.h5ad: no such file" in capsys.readouterr().err
