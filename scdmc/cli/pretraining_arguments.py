"""Flags of pre-training."""

import argparse
from pathlib import Path

from scdmc.cli.arguments import (
    add_deterministic_argument,
    add_dtype_argument,
    add_leave_out_argument,
    add_max_length_argument,
    add_model_argument,
    add_num_gpus_argument,
    add_seed_argument,
)
from scdmc.cli.parser import (
    closed_fraction,
    extra_process_count,
    fraction,
    model_size,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    probability,
)
from scdmc.options import BACK_ENDS, EXPRESSION_INPUTS, PUBLISHED_SIZES, STREAMS
from scdmc.training.settings import EXPRESSION_ORDERS, TRACKERS, CellChoice, PretrainingSettings

PROBED_LABEL_KEY = "cell_type"
GENE_STARTS = ("random", "coexpression")
# A GPU must not wait for batches: making one can take as long as a step of a small model.
WORKERS_OF_A_GPU = 4


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Which data, and what is held out."""
    choice = CellChoice()
    data = parser.add_argument_group("data")
    data.add_argument(
        "--cache_dir",
        type=Path,
        help="decode the cells to memory-mapped files here (default: hold them in memory)",
    )
    data.add_argument(
        "--token_dictionary_file", type=Path, help="vocabulary of the data (default: looked for beside them)"
    )
    data.add_argument(
        "--gene_median_file", type=Path, help="gene medians of the data (default: looked for beside them)"
    )
    data.add_argument(
        "--split_file",
        type=Path,
        help="split.csv: train on its 'train' cells, hold out its 'validation' cells (default: cells are drawn)",
    )
    add_leave_out_argument(data)
    data.add_argument(
        "--hold_out", nargs="+", default=[], metavar="COLUMN=VALUE[,VALUE...]", help="cells to hold out, likewise"
    )
    data.add_argument(
        "--held_out_fraction",
        type=fraction,
        default=choice.held_out_fraction,
        help="share of held-out cells without --split_file and --hold_out",
    )
    data.add_argument(
        "--max_held_out_cells",
        type=positive_int,
        default=choice.max_held_out_cells,
        help="most cells of an evaluation; what --hold_out or --split_file hold out beyond is not trained on either",
    )
    data.add_argument(
        "--max_training_cells",
        type=positive_int,
        help="train on so many cells, drawn by --seed, to see what more cells give (default: all)",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """A new model, whose sizes have defaults that :func:`fill_in_model_flags` fills in, or one to go on with."""
    model = parser.add_argument_group("model")
    start = "start from this model, instead of random weights of the sizes below (default: random weights): a folder"
    add_model_argument(model, start, is_required=False)
    sizes = {
        "hidden_size": "width of the encoder",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "width of the gated unit",
    }
    for name, meaning in sizes.items():
        default = getattr(PUBLISHED_SIZES, name)
        model.add_argument(f"--{name}", type=model_size, help=f"{meaning} (default: {default})")
    add_max_length_argument(
        model, meaning="most tokens of a stream (default: as the data have them, or the model to start from)"
    )
    model.add_argument(
        "--hidden_dropout_prob",
        type=probability,
        help="dropout of the states "
        f"(default: {PUBLISHED_SIZES.hidden_dropout_prob}, or as in the model to start from)",
    )
    model.add_argument(
        "--attention_probs_dropout_prob",
        type=probability,
        help="dropout of attention; the paper has 0.1 "
        f"(default: {PUBLISHED_SIZES.attention_probs_dropout_prob}, or as in the model to start from)",
    )
    model.add_argument(
        "--initializer_range",
        type=positive_float,
        help="standard deviation of the initial weights; a narrow model wants more, about 0.45 / sqrt(hidden_size) "
        f"(default: {PUBLISHED_SIZES.initializer_range})",
    )
    model.add_argument(
        "--gene_start",
        choices=GENE_STARTS,
        help="what the embeddings of genes start as; coexpression: singular vectors of the training cells' values "
        f"(default: {GENE_STARTS[0]})",
    )
    model.add_argument("--attention", choices=BACK_ENDS, default="auto", help="attention back end")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """How it is trained, and where."""
    defaults = PretrainingSettings()
    training = parser.add_argument_group("training")
    training.add_argument(
        "--batch_size", type=positive_int, default=defaults.batch_size, help="cells of an optimizer step"
    )
    training.add_argument(
        "--tokens_per_batch",
        type=positive_int,
        help="most tokens of a step, both streams, instead of --batch_size (default: --batch_size cells)",
    )
    training.add_argument("--gradient_accumulation_steps", type=positive_int, default=1, help="parts of a batch")
    training.add_argument(
        "--learning_rate", type=positive_float, default=defaults.learning_rate, help="peak of the cosine schedule"
    )
    training.add_argument(
        "--weight_decay", type=non_negative_float, default=defaults.weight_decay, help="none on biases and LayerNorm"
    )
    training.add_argument(
        "--warmup_fraction", type=probability, default=defaults.warmup_fraction, help="share of the steps"
    )
    training.add_argument(
        "--max_gradient_norm", type=positive_float, default=defaults.max_gradient_norm, help="larger ones are scaled"
    )
    training.add_argument("--epochs", type=positive_int, default=defaults.epochs, help="passes over the data")
    training.add_argument(
        "--schedule_minutes",
        type=positive_float,
        help="train this long; the schedule follows the clock (default: --epochs)",
    )
    training.add_argument(
        "--max_minutes", type=positive_float, help="save and stop after this long, to be resumed (default: never)"
    )
    add_dtype_argument(
        training, "compute in bfloat16 or all in float32; auto: bfloat16 on a GPU or CPU that has it", has_bf16=True
    )
    add_deterministic_argument(training)
    training.add_argument("--gradient_checkpointing", action="store_true", help="less memory for more time")
    training.add_argument("--torch_compile", action="store_true", help="compile the layers")
    training.add_argument(
        "--fsdp", action="store_true", help="with torchrun: each process holds a part of the weights and their state"
    )
    training.add_argument(
        "--num_workers",
        type=extra_process_count,
        help=f"processes that prepare batches (default: {WORKERS_OF_A_GPU} with a GPU, else 0)",
    )
    training.add_argument(
        "--max_steps", type=positive_int, help="optimizer steps, whatever --epochs says (default: --epochs)"
    )
    add_seed_argument(training, "of weights, masks, order and dropout")
    add_num_gpus_argument(training)


def add_objective_arguments(parser: argparse.ArgumentParser) -> None:
    """What the loss is made of."""
    defaults = PretrainingSettings()
    objective = parser.add_argument_group("objective")
    objective.add_argument(
        "--mask_probability", type=fraction, default=defaults.mask_probability, help="share of masked genes"
    )
    objective.add_argument(
        "--mlm_weight", type=non_negative_float, default=defaults.mlm_weight, help="weight of the masked genes"
    )
    objective.add_argument("--alpha", type=non_negative_float, default=defaults.alpha, help="weight of the contrast")
    objective.add_argument("--temperature", type=positive_float, default=defaults.temperature, help="of the contrast")
    objective.add_argument(
        "--momentum",
        type=closed_fraction,
        default=defaults.momentum,
        help="m of the momentum encoder, per step; 1 freezes it",
    )
    objective.add_argument("--queue_size", type=non_negative_int, default=0, help="past keys as more negatives")
    objective.add_argument(
        "--stream", choices=STREAMS, default="both", dest="streams", help="one stream only, for ablations"
    )
    objective.add_argument("--expression_order", choices=EXPRESSION_ORDERS, default="token_id", help="of its genes")
    objective.add_argument("--expression_input", choices=EXPRESSION_INPUTS, help="values as input (default: none)")
    objective.add_argument(
        "--view_dropout",
        type=probability,
        default=defaults.view_dropout,
        help="share of its genes that each stream lacks, drawn apart, so that the contrast is harder",
    )
    objective.add_argument(
        "--published_objective",
        action="store_true",
        help="as the released code: expression stream not masked, MLM divided by all tokens, frozen momentum encoder",
    )


def add_logs_arguments(parser: argparse.ArgumentParser) -> None:
    """How often to log, evaluate and save."""
    defaults = PretrainingSettings()
    logs = parser.add_argument_group("logs")
    logs.add_argument("--log_every", type=positive_int, default=defaults.log_every, help="steps between log lines")
    logs.add_argument(
        "--evaluate_every", type=positive_int, default=defaults.evaluate_every, help="steps between evaluations"
    )
    logs.add_argument("--save_every", type=positive_int, default=defaults.save_every, help="steps between checkpoints")
    logs.add_argument(
        "--keep_checkpoints", type=positive_int, default=defaults.keep_checkpoints, help="older ones are deleted"
    )
    logs.add_argument(
        "--probe_data_path",
        type=Path,
        help="labelled cells, tokenized like the data: a probe of the frozen encoder judges it meanwhile "
        "(default: none)",
    )
    logs.add_argument(
        "--probe_every", type=positive_int, help=f"steps between its judgements (default: {defaults.probe_every})"
    )
    logs.add_argument(
        "--report_to", choices=TRACKERS, default=defaults.report_to, help="who is told the losses beside history.csv"
    )
    logs.add_argument("--label_key", help=f"column of obs with their types (default: {PROBED_LABEL_KEY})")
