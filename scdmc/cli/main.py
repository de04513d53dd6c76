"""The command ``scdmc``: every script as a subcommand. Only the chosen script is imported."""

import ast
import difflib
import importlib.util
import shutil
import sys
import textwrap
from pathlib import Path
from types import ModuleType

from scdmc.cli.endings import USER_ERROR_STATUS
from scdmc.cli.parser import script as ends_well
from scdmc.resources import resource_folder
from scdmc.version import __version__

# Subcommand -> script, in the order in which the help shows them.
COMMANDS = {
    "demo-data": "prepare/fetch_demo_data.py",
    "regulons": "prepare/fetch_regulons.py",
    "orthologs": "prepare/fetch_orthologs.py",
    "paper-data": "prepare/paper_data.py",
    "split": "prepare/split_cells.py",
    "vocabulary": "tokenizer/build_vocabulary.py",
    "ontology": "tokenizer/build_ontology.py",
    "medians": "tokenizer/gene_medians.py",
    "tokenize": "tokenizer/tokenizer_combine.py",
    "census": "tokenizer/census.py",
    "text-corpus": "tokenizer/text_corpus.py",
    "pretrain": "pretrain/scDMC_pretrain.py",
    "watch": "pretrain/watch.py",
    "export": "pretrain/export_model.py",
    "text-pretrain": "pretrain/text_pretrain.py",
    "fine-tune": "downstream_tasks/downstream_tasks.py",
    "annotate": "downstream_tasks/annotate.py",
    "annotate-text": "downstream_tasks/annotate_text.py",
    "describe": "downstream_tasks/describe.py",
    "text-eval": "downstream_tasks/text_eval.py",
    "generate-cells": "downstream_tasks/generate_cells.py",
    "embed": "downstream_tasks/embed.py",
    "embed-many": "downstream_tasks/embed_many.py",
    "cluster": "downstream_tasks/cluster.py",
    "integrate": "downstream_tasks/integration.py",
    "modules": "downstream_tasks/gene_modules.py",
    "networks": "downstream_tasks/gene_regulatory_network.py",
    "attention": "downstream_tasks/attention_analysis.py",
    "perturb": "downstream_tasks/perturb.py",
    "learning-curve": "downstream_tasks/learning_curve.py",
    "report": "downstream_tasks/report.py",
    "demo-report": "downstream_tasks/demo_report.py",
}


# Subcommand -> the flag that its first word stands for where that is none.
FIRST_WORDS = {
    "annotate": "--data_path",
    "annotate-text": "--data_path",
    "describe": "--data_path",
    "watch": "--output_dir",
    "report": "--result_dirs",
}


WIDEST_HELP = 100


@ends_well
def main(argv: list[str] | None = None) -> int:
    """Run the script of a subcommand with the flags that follow it.

    Parameters
    ----------
    argv
        The subcommand and its flags; those of the command line without it.

    Returns
    -------
    The exit status of the script; 2 where there is no such subcommand.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        print(help_text(), file=sys.stderr)
        return USER_ERROR_STATUS
    command, *flags = argv
    if command in ("-h", "--help"):
        print(help_text())
        return 0
    if command == "--version":
        print(f"scdmc {__version__}")
        return 0
    if command not in COMMANDS:
        print(f"error: {unknown_command(command)}", file=sys.stderr)
        return USER_ERROR_STATUS
    if command in FIRST_WORDS and flags and not flags[0].startswith("-"):
        flags = [FIRST_WORDS[command], *flags]
    before, sys.argv = sys.argv, [f"scdmc {command}", *flags]  # which argparse shows as the name of the program
    try:
        return load_script(COMMANDS[command]).main(flags)
    finally:
        sys.argv = before


def help_text() -> str:
    """How to call the command, and what every subcommand does: the first line of its script."""
    width = max(map(len, COMMANDS)) + 4
    columns = min(shutil.get_terminal_size().columns, WIDEST_HELP)
    lines = ["usage: scdmc COMMAND [flags]", "       scdmc COMMAND --help", "       scdmc --version", "", "commands:"]
    for command, script in COMMANDS.items():
        indent = " " * width
        text = textwrap.wrap(description(script), columns, initial_indent=indent, subsequent_indent=indent)
        lines += [f"  {command}".ljust(width) + text[0].lstrip(), *text[1:]]
    return "\n".join(lines)


def description(script: str) -> str:
    """The first line of a script's docstring; the script is read, not run."""
    docstring = ast.get_docstring(ast.parse(script_path(script).read_text(encoding="utf8")))
    return docstring.partition("\n")[0]


def unknown_command(command: str) -> str:
    """One line that names the subcommand whose name, or whose script's name, is nearest."""
    names = {name: name for name in COMMANDS} | {Path(script).stem: name for name, script in COMMANDS.items()}
    (nearest,) = difflib.get_close_matches(command, names, n=1, cutoff=0)
    return f"scdmc has no command {command!r}; the nearest is {names[nearest]!r} (scdmc --help lists all)"


def script_path(script: str) -> Path:
    """The file of a script of :data:`COMMANDS`, in the installed package or in the checkout."""
    return resource_folder("scripts") / script


def load_script(script: str) -> ModuleType:
    """Import a script by its file.

    Its folder stays off ``sys.path``, so that no script can stand in for a library of the same name.
    """
    path = script_path(script)
    name = f"scdmc.scripts.{path.parent.name}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
