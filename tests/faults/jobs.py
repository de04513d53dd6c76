"""The runs that are killed: a script with its flags, what stood there before, and how the run is repeated."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
CONTEXT = 16


@dataclass(frozen=True)
class Job:
    """A script that writes into a folder.

    Attributes
    ----------
    script
        Such as ``tokenizer/tokenizer_combine.py``.
    flags
        Its flags, by the folders of inputs and of the output.
    reader
        Function of ``tests.faults.readers`` that reads the result as users do.
    older
        What is different in the flags of an older run whose result stands there; None for a fresh folder.
    resumes
        Whether ``--resume`` takes up a run that was killed.
    weight
        Share of the kill points; a run that takes long has few.
    """

    script: str
    flags: Callable[[Path, Path], dict]
    reader: str
    older: Callable[[Path], dict] | None = None
    resumes: bool = False
    weight: int = 4


def words_of(flags: dict[str, object]) -> list[str]:
    """Flags as words of a command line: True is a switch, a list is several values."""
    words = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [] if value is True else [value]
        words += [f"--{name}", *map(str, values)]
    return words


def tokenizing(**more):
    return lambda folder, out: {
        "data_path": folder / "counts", "output_dir": out, "output_prefix": "cells", "cells_per_shard": 11,
        "max_length": CONTEXT, "obs_columns": ["cell_type", "batch"],
        "token_dictionary_file": folder / "vocabulary.json", **more,
    }  # fmt: skip


def pretraining(folder, out):
    return {
        "data_path": folder / "tokenized" / "cells.parquet", "output_dir": out, "max_steps": 2, "save_every": 1,
        "evaluate_every": 1, "log_every": 1, "batch_size": 4, "max_held_out_cells": 4, "num_gpus": 0, **SIZES,
    }  # fmt: skip


def fine_tuning(folder, out):
    return {
        "model": folder / "model", "data_path": folder / "counts" / "cells.h5ad", "output_dir": out, "num_gpus": 0,
        "baselines": "none", "train": "classifier", "epochs": 1, "min_cells_per_type": 3,
    }  # fmt: skip


def medians(folder, out):
    return {
        "data_path": folder / "counts", "output_file": out / "medians.json",
        "token_dictionary_file": folder / "vocabulary.json",
    }  # fmt: skip


def a_file(model, name, **more):
    """A script with a model that writes one file."""
    return lambda folder, out: {
        "model": folder / model, "data_path": folder / "counts" / "cells.h5ad", "output_file": out / name,
        "num_gpus": 0, **more,
    }  # fmt: skip


def a_folder(**more):
    """A script with a model that writes a folder of results."""
    return lambda folder, out: {
        "model": folder / "model", "data_path": folder / "counts" / "cells.h5ad", "output_dir": out, "num_gpus": 0,
        **more,
    }  # fmt: skip


def corpus(folder, out):
    return {
        "model": folder / "model", "data_path": folder / "counts" / "cells.h5ad", "output_dir": out,
        "text_encoder": "none", "min_cells_per_type": 3,
    }  # fmt: skip


def text_model(folder, out):
    return {
        "corpus_dir": folder / "corpus", "model": folder / "model", "output_dir": out, "projector": "ridge",
        "features": "scdmc", "num_gpus": 0,
    }  # fmt: skip


def by_views(folder, out):
    return a_folder(data_path=folder / "few.h5ad", reference=folder / "renamed.h5ad")(folder, out)


def other(**changes):
    return lambda _: changes


def other_labels(folder):
    return {"data_path": folder / "renamed.h5ad"}


ONE_QUICK_ROW = {"methods": ["scdmc"], "seeds": 1, "protocols": ["published"]}
JOBS = {
    "tokenize": Job("tokenizer/tokenizer_combine.py", tokenizing(), "tokens", resumes=True, weight=8),
    "tokenize over an older one": Job(
        "tokenizer/tokenizer_combine.py", tokenizing(), "tokens", other(cells_per_shard=20), resumes=True, weight=8
    ),
    # Few: each worker is a process that imports everything.
    "tokenize with two workers": Job(
        "tokenizer/tokenizer_combine.py", tokenizing(num_workers=2), "tokens", resumes=True, weight=1
    ),
    "pre-train": Job("pretrain/scDMC_pretrain.py", pretraining, "model", resumes=True, weight=5),
    "pre-train over an older one": Job(
        "pretrain/scDMC_pretrain.py", pretraining, "model", other(seed=1, num_attention_heads=2), resumes=True, weight=3
    ),
    "fine-tune": Job("downstream_tasks/downstream_tasks.py", fine_tuning, "model", weight=3),
    "fine-tune over other labels": Job(
        "downstream_tasks/downstream_tasks.py", fine_tuning, "model", other_labels, weight=6
    ),
    "annotate": Job("downstream_tasks/annotate.py", a_file("classifier", "labels.h5ad", umap="no"), "h5ad", weight=8),
    "annotate over an older one": Job(
        "downstream_tasks/annotate.py",
        a_file("classifier", "labels.h5ad", umap="no"),
        "h5ad",
        other(min_probability=0.9),
        weight=6,
    ),
    "annotate to a table": Job("downstream_tasks/annotate.py", a_file("classifier", "labels.csv"), "files"),
    "annotate by views": Job("downstream_tasks/annotate.py", by_views, "files", weight=2),
    "annotate by views over an older one": Job(
        "downstream_tasks/annotate.py", by_views, "files", other(min_probability=0.9), weight=2
    ),
    "embed": Job("downstream_tasks/embed.py", a_file("model", "embedded.h5ad", umap="no"), "h5ad", weight=8),
    "embed over an older one": Job(
        "downstream_tasks/embed.py", a_file("model", "embedded.h5ad", umap="no"), "h5ad", other(stream="rank"), weight=6
    ),
    "embed many over an older one": Job(
        "downstream_tasks/embed_many.py", a_folder(cells_per_shard=11), "files", other(stream="rank"), weight=1
    ),
    "cluster": Job("downstream_tasks/cluster.py", a_folder(baselines="none", n_neighbors=5, resolution=1), "files"),
    "cluster over an older one": Job(
        "downstream_tasks/cluster.py", a_folder(baselines="none", n_neighbors=5, resolution=1, label_key="cell_type"),
        "files",
        other(stream="rank"),
    ),
    "integrate": Job("downstream_tasks/integration.py", a_folder(**ONE_QUICK_ROW), "files", weight=3),
    "integrate over an older one": Job(
        "downstream_tasks/integration.py", a_folder(**ONE_QUICK_ROW), "files", other(stream="rank"), weight=3
    ),
    "export": Job(
        "pretrain/export_model.py", lambda folder, out: {"model": folder / "model", "output_dir": out}, "model",
        weight=6,
    ),
    "export over an older one": Job(
        "pretrain/export_model.py", lambda folder, out: {"model": folder / "model", "output_dir": out}, "model",
        lambda folder: {"model": folder / "classifier"}, weight=8,
    ),
    "medians": Job(
        "tokenizer/gene_medians.py",
        medians, "medians", weight=6,
    ),
    "medians over older ones": Job(
        "tokenizer/gene_medians.py",
        medians, "medians",
        other(significant_digits=2), weight=6,
    ),
    "corpus over an older one": Job("tokenizer/text_corpus.py", corpus, "corpus", other(seed=1)),
    "text model over an older one": Job(
        "pretrain/text_pretrain.py", text_model, "files", other(ridge_penalty=10), weight=1
    ),
    "split": Job(
        "prepare/split_cells.py",
        lambda folder, out: {"data_path": folder / "counts" / "cells.h5ad", "output_file": out / "split.csv",
                             "min_cells_per_type": 3},
        "files",
    ),
    "split over an older one": Job(
        "prepare/split_cells.py",
        lambda folder, out: {"data_path": folder / "counts" / "cells.h5ad", "output_file": out / "split.csv",
                             "min_cells_per_type": 3},
        "files", other(seed=1),
    ),
}  # fmt: skip
