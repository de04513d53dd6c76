"""Fine-tune a pre-trained model to annotate cell types, and score it on test cells beside simple baselines."""

import argparse
import functools
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch

from scdmc.annotation.baselines import (
    Predicted,
    celltypist_classifier,
    has_celltypist,
    logistic_regression,
    majority_class,
    nearest_neighbours,
    nearest_neighbours_on_pca,
)
from scdmc.annotation.cross_validation import RunPlan, plan_runs
from scdmc.annotation.options import (
    CLASS_WEIGHTS,
    CLASSIFIER_DROPOUTS,
    CLASSIFIER_STARTS,
    EMBEDDING_OPTIMIZERS,
    EMBEDDING_RATE,
    FINE_TUNED,
    SAMPLERS,
    TRAINED_PARTS,
    ClassifierOptions,
    FineTuningSettings,
    RunOptions,
)
from scdmc.annotation.results import write_fine_tuning_results
from scdmc.annotation.runs import (
    FineTunedRun,
    best_run,
    describe_settings,
    fine_tuned_run,
    predict_without_pretraining,
    save_classifier,
    with_best_model_only,
)
from scdmc.cells.data import read_cells
from scdmc.cells.expression import read_expression
from scdmc.cells.splits import PARTS
from scdmc.cli.arguments import (
    POOLING_HELP,
    SPLIT_DEFAULTS,
    add_count_arguments,
    add_model_arguments,
    add_model_path_argument,
    add_split_arguments,
    count_options_for,
    placement,
    split_columns,
    split_options,
)
from scdmc.cli.parser import (
    argument_parser,
    fill_in,
    non_negative_float,
    positive_float,
    positive_int,
    probability,
    script,
    seed,
    share,
)
from scdmc.files import atomic_path, remove, require_new_folder
from scdmc.labels import labels_of
from scdmc.model.devices import choose_device, place_model
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory, open_model_directory
from scdmc.model.storage import describe_arguments, load_model, model_card
from scdmc.options import POOLINGS, STREAMS
from scdmc.tokens.tokenized_cells import TokenizedCells

METHOD, FROM_SCRATCH = FINE_TUNED, "scDMC without pre-training"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of fine-tuning."""
    parser = argument_parser(__doc__)
    add_model_path_argument(parser, "--pretrained_model_path", "folder of a pre-trained model")
    parser.add_argument("--finetune_data_path", type=Path, required=True, help="labelled .h5ad or tokenized parquet")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the classifier and its scores")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --output_dir")
    parser.add_argument("--split_file", type=Path, help="split.csv of an earlier run or of split_cells.py; without it "
                        "the flags of the split draw one")  # fmt: skip
    parser.add_argument("--baselines", choices=("none", "fast", "all"), default="fast", help="all adds the same model "
                        "without pre-training, fine-tuned from a random classifier")  # fmt: skip
    add_split_arguments(parser)
    add_run_arguments(parser)
    add_training_arguments(parser)
    add_model_arguments(parser)
    add_count_arguments(parser)
    arguments = parser.parse_args(argv)
    fill_in_defaults(arguments)
    return arguments


def fill_in_defaults(arguments: argparse.Namespace) -> None:
    """Give the flags that mean something together with others only their defaults, and refuse those given in vain."""
    split_file, train = arguments.split_file, arguments.train
    why_not = "with --cross_validate, whose folds are the test cells"
    if split_file:
        why_not = "with --split_file, which says the part of every cell"
    of_drawn_split = {name: default for name, default in SPLIT_DEFAULTS.items() if name != "test_fraction"}
    of_random_test = {"test_fraction": SPLIT_DEFAULTS["test_fraction"]}
    fill_in(arguments, of_drawn_split, not split_file, why_not)
    fill_in(arguments, of_random_test, not (split_file or arguments.cross_validate), why_not)
    for name, needed in (("train_layers", "top_layers"), ("lora_rank", "lora"), ("embedding_optimizer", "full")):
        default = {name: getattr(FineTuningSettings, name)}
        fill_in(arguments, default, train == needed, f"with --train {train}, only with {needed}")
    learns_by_sgd = train == "full" and arguments.embedding_optimizer == "sgd"
    why_not = "unless the word embeddings learn by sgd (--train full)"
    fill_in(arguments, {"embedding_rate": None}, learns_by_sgd, why_not)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of how many trainings there are and on which cells."""
    group = parser.add_argument_group("runs")
    group.add_argument("--seed", type=seed, default=FineTuningSettings.seed, help="of the split, the head, the order")
    group.add_argument("--seeds", type=positive_int, default=1, help="runs with the seeds from --seed on; each draws "
                       "its own split unless there is a --split_file; scores are averaged")  # fmt: skip
    group.add_argument("--cross_validate", type=fold_count, help="folds, each of which is the test part once; whole "
                       "groups with --split_by")  # fmt: skip
    group.add_argument("--label_fraction", type=share, default=1.0, help="share of the training and validation cells "
                       "that are used, at least one of each type; test cells stay")  # fmt: skip
    group.add_argument("--hold_out_type", help="type that is not trained on: how well does confidence tell its cells?")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the classifier and its training; those without a default are chosen for the number of cells."""
    group, defaults = parser.add_argument_group("training"), FineTuningSettings()
    adapted = "chosen for the number of cells without it"
    group.add_argument("--stream", choices=STREAMS, default="both", help="which stream is classified; both are joined")
    group.add_argument("--pooling", choices=POOLINGS, default="cls", help=POOLING_HELP)
    group.add_argument("--max_length", type=positive_int, help="most tokens of a stream; without it those of the "
                       "pre-trained model, which can read more")  # fmt: skip
    group.add_argument("--from_scratch", action="store_true", help="start from random weights, not the pre-trained")
    group.add_argument("--train", choices=TRAINED_PARTS, default=defaults.train, help="which weights; lora needs peft")
    group.add_argument("--train_layers", type=positive_int,
                       help=f"for top_layers; {defaults.train_layers} without it")  # fmt: skip
    group.add_argument("--lora_rank", type=positive_int, help=f"for lora; {defaults.lora_rank} without it")
    group.add_argument("--classifier_start", choices=CLASSIFIER_STARTS,
                       help="probe: a logistic regression on the states of the training cells, before the encoder "
                       "moves, which is the default; random: small random weights, the default with --from_scratch, "
                       "and in the comparison without pre-training")  # fmt: skip
    group.add_argument("--class_weights", choices=CLASS_WEIGHTS, default=defaults.class_weights,
                       help="balanced: errors in rare types cost more")  # fmt: skip
    group.add_argument("--sampler", choices=SAMPLERS, default=defaults.sampler,
                       help="balanced: each type is drawn equally often")  # fmt: skip
    group.add_argument("--gene_dropout", type=probability, default=defaults.gene_dropout,
                       help="share of its genes that a training cell loses, other ones in each epoch")  # fmt: skip
    group.add_argument("--epochs", type=positive_int, help=f"most passes over the training cells; {adapted}")
    group.add_argument("--patience", type=positive_int, help="epochs that are not better by validation macro-F1 or, "
                       f"of equals, loss; {adapted}")  # fmt: skip
    group.add_argument("--batch_size", type=positive_int, help=f"cells of a step; {adapted}")
    group.add_argument("--learning_rate", type=positive_float,
                       help=f"peak; {adapted}, the model, --train and --classifier_start")  # fmt: skip
    group.add_argument("--embedding_optimizer", choices=EMBEDDING_OPTIMIZERS,
                       help="of the word embeddings, with --train full; sgd, which learns genes of few cells less by "
                       "heart, without it")  # fmt: skip
    group.add_argument("--embedding_rate", type=non_negative_float,
                       help="peak rate of sgd, a multiple of the mean square of the word embeddings; without it "
                       f"{defaults.embedding_rate:g} from a probe, {EMBEDDING_RATE:g} from a random "
                       "classifier")  # fmt: skip
    group.add_argument("--weight_decay", type=non_negative_float, default=defaults.weight_decay, help="of matrices")
    group.add_argument("--classifier_dropout", type=probability,
                       help=f"before the classifier; without it {CLASSIFIER_DROPOUTS['probe']:g} from a probe, "
                       f"{CLASSIFIER_DROPOUTS['random']:g} from a random classifier")  # fmt: skip


def fold_count(text: str) -> int:
    """Argparse type: an integer of at least 2."""
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{text}: a cross-validation needs at least 2 folds")
    return value


def classifier_options(arguments: argparse.Namespace) -> ClassifierOptions:
    """The options that the flags of :func:`add_training_arguments` stand for."""
    names = [name for name in FineTuningSettings.__dataclass_fields__ if name not in ("seed", "max_gradient_norm")]
    return ClassifierOptions(
        arguments.stream,
        arguments.pooling,
        arguments.classifier_dropout,
        not arguments.from_scratch,
        {name: getattr(arguments, name) for name in names},
    )


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """The runs that the flags of :func:`add_run_arguments` ask for."""
    names = [name for name in RunOptions.__dataclass_fields__ if name != "split"]
    return RunOptions(split_options(arguments), **{name: getattr(arguments, name) for name in names})


@dataclass(frozen=True)
class BaselineData:
    """What the baselines read of all cells: log1p CP10k, names of its genes, and embeddings by name of the encoder."""

    expression: scipy.sparse.csr_matrix
    genes: np.ndarray
    embeddings: dict[str, np.ndarray]


def read_baseline_data(
    arguments: argparse.Namespace, model_directory: ModelDirectory, cells: TokenizedCells
) -> BaselineData:
    """The same cells for the baselines; no label is used."""
    options = count_options_for(arguments, arguments.finetune_data_path)
    expression, genes = read_expression(arguments.finetune_data_path, cells, model_directory, options)
    with torch.random.fork_rng(devices=[]):  # models are made on the CPU
        torch.default_generator.manual_seed(arguments.seed)
        encoders = {
            "pre-trained": load_model(model_directory.path, ScDMCModel),
            "untrained": ScDMCModel(model_directory.config),
        }
    embeddings = {
        name: cell_embeddings(place_model(encoder, **placement(arguments)), cells, arguments.stream, arguments.pooling)
        for name, encoder in encoders.items()
    }
    return BaselineData(expression, genes, embeddings)


def baseline_predictions(data: BaselineData, labels: np.ndarray, plan: RunPlan) -> dict[str, Predicted]:
    """What each baseline says of the test cells, same cells and split."""
    predictions = {
        "logistic regression": logistic_regression(data.expression, labels, plan.split, plan.seed)[0],
        "15-NN on PCA": nearest_neighbours_on_pca(data.expression, labels, plan.split, seed=plan.seed),
    }
    if has_celltypist():
        predictions["CellTypist"] = celltypist_classifier(data.expression, data.genes, labels, plan.split, plan.seed)
    for name, embeddings in data.embeddings.items():
        predictions[f"15-NN on the {name} encoder"] = nearest_neighbours(embeddings, labels, plan.split)
    return predictions | {"majority class": majority_class(labels, plan.split)}


def describe_run(arguments: argparse.Namespace, run: FineTunedRun) -> dict[str, object]:
    """What a model card and the report say of a run."""
    split = run.plan.split
    return {
        "data": arguments.finetune_data_path.name,
        "pre-trained model": arguments.pretrained_model_path.name + " (sizes only)" * arguments.from_scratch,
        "training / validation / test cells": " / ".join(f"{(split == part).sum():,}" for part in PARTS[:3]),
        "classes": ", ".join(run.model.config.id2label.values()),
        "stream": arguments.stream,
        "pooling": arguments.pooling,
        "seed": run.plan.seed,
        "temperature": f"{run.calibration.temperature:.3f}",
        "dropout before the classifier": run.model.config.classifier_dropout,
        "settings": describe_settings(run.settings),
        "best epoch": run.best_epoch_text,
    }


def save_results(
    folder: Path,
    arguments: argparse.Namespace,
    model_directory: ModelDirectory,
    runs: list[FineTunedRun],
    methods: list[dict[str, Predicted]],
    command: list[str],
) -> pd.DataFrame:
    """Write scores, figures and report of some runs, and the model of the best; returns methods x metrics."""
    best = best_run(runs)
    facts = describe_run(arguments, best)
    if len(runs) > 1:
        facts["runs"] = f"{len(runs)}; the model is that of {best.plan.name}, the best one on validation cells"
    table = write_fine_tuning_results(folder, runs, methods, arguments.hold_out_type, facts)
    metrics = table.loc[next(iter(methods[0]))].to_dict()
    card = model_card("scDMC, fine-tuned for cell types", facts, metrics, command)
    save_classifier(folder, best, model_directory, card)
    return table


def remove_earlier_runs(output_dir: Path, names: set[str]) -> None:
    """Delete the folders of single runs that an earlier start left and that are none of these.

    Only what looks like one, by its name and by what it holds, goes.
    """
    for folder in output_dir.glob("seed_*"):
        is_run = re.fullmatch(r"seed_\d+(_fold_\d+)?", folder.name) and all(
            (folder / name).is_file() for name in ("predictions.csv", "split.csv", "config.json")
        )
        if is_run and folder.name not in names:
            remove(folder)


@script
def main(argv: list[str] | None = None) -> int:
    """Split, fine-tune, score once on the test cells, save."""
    arguments = parse_arguments(argv)
    choose_device(arguments.num_gpus)
    options = count_options_for(arguments, arguments.finetune_data_path)
    output_dir = arguments.output_dir
    require_new_folder(output_dir, arguments.overwrite)
    model_directory = open_model_directory(arguments.pretrained_model_path, arguments.token_dictionary_file)
    model_directory = model_directory.with_context(arguments.max_length)
    cells = read_cells(arguments.finetune_data_path, model_directory, split_columns(arguments), options)
    labels = labels_of(cells.obs[arguments.label_key])
    plans = plan_runs(run_options(arguments), cells.obs, labels)
    command = ["python", "-u", "downstream_tasks.py", *map(shlex.quote, sys.argv[1:] if argv is None else argv)]

    baseline_data = None
    if arguments.baselines != "none":
        baseline_data = read_baseline_data(arguments, model_directory, cells)
    task = (model_directory, cells, labels)
    how = (classifier_options(arguments), functools.partial(place_model, **placement(arguments)))
    runs, methods = [], []
    for plan in plans:
        runs.append(fine_tuned_run(*task, plan, *how))
        methods.append({FROM_SCRATCH if arguments.from_scratch else METHOD: runs[-1].predicted})
        if baseline_data is not None:
            methods[-1] |= baseline_predictions(baseline_data, labels, plan)
        if arguments.baselines == "all" and not arguments.from_scratch:
            methods[-1][FROM_SCRATCH] = predict_without_pretraining(*task, plan, *how)
        if len(plans) > 1:
            folder = output_dir / plan.name
            save_results(folder, arguments, model_directory, runs[-1:], methods[-1:], command)
            runs = with_best_model_only(runs)

    remove_earlier_runs(output_dir, {plan.name for plan in plans} if len(plans) > 1 else set())
    table = save_results(output_dir, arguments, model_directory, runs, methods, command)
    with atomic_path(output_dir / "arguments.json") as temporary:
        temporary.write_text(describe_arguments(arguments), encoding="utf8")
    print(table.round(3).to_string())
    if arguments.baselines == "fast" and not arguments.from_scratch:
        print("not among them: the same model without pre-training, fine-tuned; --baselines all adds it")
    print(f"wrote the classifier and its scores to {output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
