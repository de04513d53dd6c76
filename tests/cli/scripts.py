"""All scripts: their parsers, and what they do in a process of their own."""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass

from tests.conftest import ROOT

FOLDERS = ("tokenizer", "pretrain", "prepare", "downstream_tasks", "benchmarks", "figures")
SCRIPTS = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))
HEAVY = {"torch", "transformers", "scanpy", "sklearn"}

# Runs a script as its own main program; the last line of stdout says what that took.
RUN = """
import json, resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    status = stop.code
used = resource.getrusage(resource.RUSAGE_SELF)
print()
print(json.dumps({"status": status, "cpu": used.ru_utime + used.ru_stime, "modules": sorted(sys.modules)}))
"""


@dataclass(frozen=True)
class Outcome:
    """How a script ended: status, what it printed, CPU seconds, and the heavy packages that it imported."""

    status: int
    out: str
    err: str
    cpu: float
    heavy: set[str]


def run_script(script, *argv):
    """Run a script with a command line."""
    command = [sys.executable, "-c", RUN, str(ROOT / script), *map(str, argv)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    out, _, facts = result.stdout.rstrip("\n").rpartition("\n")
    found = json.loads(facts)
    return Outcome(found["status"], out, result.stderr, found["cpu"], HEAVY & set(found["modules"]))


class _ParsedError(Exception):
    """Ends a script where it parses."""


def parser_of(load_script, monkeypatch, script):
    """The parser that a script makes."""
    made = []

    def keep(parser, *_):
        made.append(parser)
        raise _ParsedError

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", keep)
        try:
            load_script(script).parse_arguments([])
        except _ParsedError:
            return made[0]
    raise AssertionError(f"{script} parses nothing")


def required_words(parser, stem):
    """The required flags of a script, with inputs that are absent."""
    values = {
        "--data_path": "absent", "--model": "scDMC-small", "--output_dir": "output",
        "--output_prefix": "cells", "--regulons": "absent.csv", "--result_dirs": "absent", "--genes": "INS",
        "--wheel": "absent.whl", "--uri": "absent.soma", "--dataset": "ms", "--data_dir": "absent",
        "--corpus_dir": "absent", "--types": "a; b", "--n_cells": "3", "--text": "a",
    }  # fmt: skip
    needed = {action.option_strings[0] for action in parser._actions if action.required}
    needed |= {"--wheel", "--uri"} & set(parser._option_string_actions)
    needed |= {
        "perturb": {"--genes"},
        "annotate": {"--model", "--output_file"},
        "annotate_text": {"--types", "--output_file"},
        "describe": {"--output_file"},
        "generate_cells": {"--text", "--output_file"},
    }.get(stem, set())
    values["--output_file"] = {
        "split_cells": "output.csv",
        "gene_medians": "output.json",
        "annotation": "output.csv",
        "describe": "output.csv",
    }.get(stem, "output.h5ad")
    if stem == "export_model":
        values["--model"] = "absent"
    return [word for flag in sorted(needed) for word in (flag, values[flag])]
