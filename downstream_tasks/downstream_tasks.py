"""Fine-tune a pre-trained model to annotate cell types, and score it on test cells beside simple baselines."""

import argparse
import functools
import shlex
import sys
import time
from pathlib import Path

from scdmc.annotation.options import (
    CLASS_WEIGHTS,
    CLASSIFIER_DROPOUTS,
    CLASSIFIER_STARTS,
    EMBEDDING_OPTIMIZERS,
    EMBEDDING_RATE,
    SAMPLERS,
    TRAINED_PARTS,
    ClassifierOptions,
    FineTuningSettings,
    RunOptions,
)
from scdmc.cli.arguments import (
    BY_MODEL,
    POOLING_HELP,
    SPLIT_DEFAULTS,
    add_count_arguments,
    add_data_argument,
    add_deterministic_argument,
    add_dtype_argument,
    add_max_length_argument,
    add_model_argument,
    add_model_arguments,
    add_output_dir_argument,
    add_seed_argument,
    add_split_arguments,
    count_options_for,
    label_options,
    placement,
    split_columns,
    split_options,
)
from scdmc.cli.arguments_file import add_arguments_file_argument, described_arguments, with_arguments_file
from scdmc.cli.inputs import require_files
from scdmc.cli.parser import (
    argument_parser,
    fill_in,
    non_negative_float,
    positive_float,
    positive_int,
    probability,
    script,
    share,
)
from scdmc.cli.task_inputs import require_task_inputs
from scdmc.errors import ScDMCError
from scdmc.files import write_json
from scdmc.options import POOLINGS, STREAMS
from scdmc.result_folders import result_folder

EXAMPLES = (
    "{prog} --model scDMC-small --data_path labelled.h5ad --output_dir classifier --label_key cell_type",
    "{prog} --model scDMC-small --data_path labelled.h5ad --output_dir classifier --split_by donor_id --seeds 3 "
    "--baselines all",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of fine-tuning."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_model_argument(parser, meaning="folder of a pre-trained model")
    add_data_argument(parser, "--finetune_data_path", meaning="labelled .h5ad or tokenized parquet")
    add_output_dir_argument(parser, meaning="folder for the classifier and its scores")
    parser.add_argument(
        "--split_file",
        type=Path,
        help="split.csv of an earlier run or of split_cells.py (default: the flags of the split draw one)",
    )
    parser.add_argument(
        "--baselines",
        choices=("none", "fast", "all"),
        default="fast",
        help="all adds the same model without pre-training, fine-tuned from a random classifier",
    )
    add_split_arguments(parser)
    add_run_arguments(parser)
    add_classifier_arguments(parser)
    add_training_arguments(parser)
    add_model_arguments(parser, has_dtype=False)
    add_count_arguments(parser)
    add_arguments_file_argument(parser)
    arguments = parser.parse_args(with_arguments_file(parser, sys.argv[1:] if argv is None else argv))
    fill_in_defaults(arguments)
    return arguments


def fill_in_defaults(arguments: argparse.Namespace) -> None:
    """Give the flags that mean something together with others only their defaults, and refuse those given in vain."""
    split_file, train = arguments.split_file, arguments.train
    if split_file and arguments.cross_validate:
        raise ScDMCError("--cross_validate draws splits of its own; leave out --split_file")
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
    add_seed_argument(group, "of the split, the head, the order")
    group.add_argument(
        "--seeds",
        type=positive_int,
        default=1,
        help="runs with the seeds from --seed on; each draws its own split unless there is a --split_file; "
        "scores are averaged",
    )
    group.add_argument(
        "--cross_validate",
        type=fold_count,
        help="folds, each of which is the test part once; whole groups with --split_by (default: one split)",
    )
    group.add_argument(
        "--label_fraction",
        type=share,
        default=1.0,
        help="share of the training and validation cells that are used, at least one of each type; test cells stay",
    )
    group.add_argument(
        "--hold_out_type",
        help="type that is not trained on, to see whether its cells get a low confidence (default: none)",
    )


def add_classifier_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of what is built and which of its weights are trained."""
    group, defaults = parser.add_argument_group("classifier"), FineTuningSettings()
    group.add_argument("--stream", choices=STREAMS, help=f"which stream is classified; both are joined {BY_MODEL}")
    group.add_argument("--pooling", choices=POOLINGS, help=f"{POOLING_HELP} {BY_MODEL}")
    meaning = "most tokens of a stream (default: those of the pre-trained model, which can read more)"
    add_max_length_argument(group, meaning=meaning)
    group.add_argument("--from_scratch", action="store_true", help="start from random weights, not the pre-trained")
    group.add_argument("--train", choices=TRAINED_PARTS, default=defaults.train, help="which weights; lora needs peft")
    group.add_argument(
        "--train_layers",
        type=positive_int,
        help=f"last layers that are trained, with --train top_layers (default: {defaults.train_layers})",
    )
    group.add_argument(
        "--lora_rank", type=positive_int, help=f"of the additions, with --train lora (default: {defaults.lora_rank})"
    )
    group.add_argument(
        "--classifier_start",
        choices=CLASSIFIER_STARTS,
        help="probe: a logistic regression on the states of the training cells, before the encoder moves; random: "
        "small random weights (default: probe; random with --from_scratch and in the comparison without pre-training)",
    )
    group.add_argument(
        "--classifier_dropout",
        type=probability,
        help=f"before the classifier (default: {CLASSIFIER_DROPOUTS['probe']:g} from a probe, "
        f"{CLASSIFIER_DROPOUTS['random']:g} from a random classifier)",
    )


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the training; those without a default are chosen for the number of cells."""
    group, defaults = parser.add_argument_group("training"), FineTuningSettings()
    adapted = "(default: chosen for the number of cells)"
    add_dtype_argument(group, "what the encoder computes in; its weights stay float32")
    add_deterministic_argument(group)
    group.add_argument(
        "--class_weights",
        choices=CLASS_WEIGHTS,
        default=defaults.class_weights,
        help="balanced: errors in rare types cost more",
    )
    group.add_argument(
        "--sampler", choices=SAMPLERS, default=defaults.sampler, help="balanced: each type is drawn equally often"
    )
    group.add_argument(
        "--gene_dropout",
        type=probability,
        default=defaults.gene_dropout,
        help="share of its genes that a training cell loses, other ones in each epoch",
    )
    group.add_argument("--epochs", type=positive_int, help=f"most passes over the training cells {adapted}")
    group.add_argument(
        "--patience",
        type=positive_int,
        help=f"stop after so many epochs without a better validation macro-F1 or, of equals, loss {adapted}",
    )
    group.add_argument("--batch_size", type=positive_int, help=f"cells of a step {adapted}")
    group.add_argument(
        "--learning_rate",
        type=positive_float,
        help="peak (default: chosen for the number of cells, the model, --train and --classifier_start)",
    )
    group.add_argument(
        "--embedding_optimizer",
        choices=EMBEDDING_OPTIMIZERS,
        help="of the word embeddings, with --train full; sgd overfits genes of few cells less "
        f"(default: {defaults.embedding_optimizer})",
    )
    group.add_argument(
        "--embedding_rate",
        type=non_negative_float,
        help="peak rate of sgd, a multiple of the mean square of the word embeddings "
        f"(default: {defaults.embedding_rate:g} from a probe, {EMBEDDING_RATE:g} from a random classifier)",
    )
    group.add_argument("--weight_decay", type=non_negative_float, default=defaults.weight_decay, help="of matrices")


def fold_count(text: str) -> int:
    """Argparse type: an integer of at least 2."""
    value = positive_int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{text}: a cross-validation needs at least 2 folds")
    return value


def classifier_options(arguments: argparse.Namespace) -> ClassifierOptions:
    """The options that the flags of the classifier and of its training stand for."""
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


@script
def main(argv: list[str] | None = None) -> int:
    """Split, fine-tune, score once on the test cells, save."""
    began, arguments = time.time(), parse_arguments(argv)
    counts = count_options_for(arguments, arguments.data_path)
    require_task_inputs(arguments)
    require_files(split_file=arguments.split_file)

    from scdmc.annotation.cross_validation import plan_runs
    from scdmc.annotation.study import FineTuningTask, read_baseline_data, run_study
    from scdmc.cells.data import read_cells
    from scdmc.labels import left_out_text, type_labels
    from scdmc.model.devices import choose_device, deterministic_operations, place_model, place_model_for_training
    from scdmc.model.folder import open_model_directory
    from scdmc.reading.label_colours import label_colours
    from scdmc.reports.provenance import Provenance

    choose_device(arguments.num_gpus)
    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    model_directory = model_directory.with_context(arguments.max_length)
    cells = read_cells(arguments.data_path, model_directory, split_columns(arguments), counts)
    labels, left_out = type_labels(cells.obs[arguments.label_key], label_options(arguments))
    plans = plan_runs(run_options(arguments), cells.obs, labels)
    task = FineTuningTask(
        model_directory,
        cells,
        labels,
        classifier_options(arguments),
        functools.partial(place_model_for_training, **placement(arguments)),
        data_name=arguments.data_path.name,
        hold_out_type=arguments.hold_out_type,
        labels_of_no_type=left_out_text(left_out),
        command=["python", "-u", "downstream_tasks.py", *map(shlex.quote, sys.argv[1:] if argv is None else argv)],
        colours=label_colours(arguments.data_path, arguments.label_key),
        made=Provenance((arguments.data_path,), model_directory.path.name, arguments.seed, began),
    )
    has_untrained = arguments.baselines == "all" and not arguments.from_scratch
    with deterministic_operations(arguments.deterministic):
        baseline_data = None
        if arguments.baselines != "none":
            place = functools.partial(place_model, **placement(arguments))
            baseline_data = read_baseline_data(task, arguments.data_path, counts, place, arguments.seed)
        with result_folder(arguments.output_dir) as folder:
            write_json(folder / "arguments.json", described_arguments(arguments))
            table = run_study(task, plans, folder, baseline_data, has_untrained)
    print(table.round(3).to_string())
    if arguments.baselines == "fast" and not arguments.from_scratch:
        print("not among them: the same model without pre-training, fine-tuned; --baselines all adds it")
    print(f"wrote the classifier and its scores to {arguments.output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
