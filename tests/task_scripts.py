"""The task scripts under one roof: their arguments, and a run of one of them."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent

WRITES_A_FOLDER = ("downstream_tasks", "cluster", "integration")
ALL_WITH_MODEL = ("downstream_tasks", "annotate", "embed", "cluster", "integration")


def arguments_of(script, model, data, output):
    return {
        "downstream_tasks": ["--pretrained_model_path", model, "--finetune_data_path", data, "--output_dir", output],
        "annotate": ["--model_path", model, "--data_path", data, "--output_file", output],
        "embed": ["--model_path", model, "--data_path", data, "--output_file", output],
        "cluster": ["--model_path", model, "--data_path", data, "--output_dir", output],
        "integration": ["--model_path", model, "--tokenized_data_path", data, "--output_dir", output],
        "split_cells": ["--data_path", data, "--output_file", output],
    }[script]


def run(scripts, capsys, script, model, data, output, *more):
    """Status and error lines of a run; ``scripts`` is the fixture of conftest."""
    status = scripts[script]([str(argument) for argument in (*arguments_of(script, model, data, output), *more)])
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return status, error


def load_main(script):
    """The ``main`` of a script such as ``tokenizer/gene_medians.py``."""
    spec = importlib.util.spec_from_file_location(f"script_{Path(script).stem}", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main
