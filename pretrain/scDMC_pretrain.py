"""Pre-train scDMC on tokenized parquet: masked genes in two streams, and momentum contrast between them."""

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cli.arguments import (
    add_data_argument,
    add_dtype_argument,
    add_leave_out_argument,
    add_max_length_argument,
    add_model_argument,
    add_num_gpus_argument,
    add_output_dir_argument,
    add_seed_argument,
)
from scdmc.cli.inputs import require_files, require_gene_files, require_model, require_tokenized
from scdmc.cli.parser import (
    argument_parser,
    closed_fraction,
    extra_process_count,
    fill_in,
    fraction,
    model_size,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    probability,
    script,
)
from scdmc.disk import require_space
from scdmc.errors import ScDMCError
from scdmc.files import remove, require_new_folder, require_writable_folder
from scdmc.locks import claim_output
from scdmc.model.shipped import model_folder
from scdmc.options import BACK_ENDS, EXPRESSION_INPUTS, PUBLISHED_SIZES, STREAMS
from scdmc.result_folders import keep_results, result_folder
from scdmc.training.checkpoint_files import find_checkpoint
from scdmc.training.launch import require_launch
from scdmc.training.settings import EXPRESSION_ORDERS, CellChoice, PretrainingSettings

if TYPE_CHECKING:
    from scdmc.model.folder import ModelDirectory
    from scdmc.model.heads import ScDMCForMaskedLM
    from scdmc.training.data import PretrainingData
    from scdmc.training.pretraining import Pretraining

logger = logging.getLogger(__name__)

GENE_STARTS = ("random", "coexpression")
EXAMPLES = (
    "{prog} --data_path tokenized --output_dir pretrained --model scDMC-small --batch_size 32 --learning_rate 3e-4",
    "{prog} --data_path tokenized --output_dir pretrained --hidden_size 256 --num_hidden_layers 6 --epochs 3 --dry_run",
)
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
# What flags say of a new model; one to start from says it itself.
DESCRIBED = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "initializer_range",
    "expression_input",
)  # fmt: skip


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of pre-training; the defaults are the paper's, but for attention dropout."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_data_argument(parser, "--dataset_path", meaning="tokenized parquet: a file, a folder or a quoted glob")
    add_output_dir_argument(parser, meaning="model folder; checkpoints and logs lie in it too")
    parser.add_argument("--dry_run", action="store_true", help="a few steps of everything, and what a run would take")
    parser.add_argument(
        "--resume",
        "--resume_from_checkpoint",
        nargs="?",
        const="last",
        metavar="PATH",
        help="go on with an interrupted run: from its last checkpoint, or from the one named (default: start anew)",
    )
    add_data_arguments(parser)
    add_model_arguments(parser)
    add_training_arguments(parser)
    add_objective_arguments(parser)
    add_logs_arguments(parser)
    return parser.parse_args(argv)


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
    add_dtype_argument(training, "compute in bfloat16, or all in float32", has_bf16=True)
    training.add_argument("--gradient_checkpointing", action="store_true", help="less memory for more time")
    training.add_argument("--torch_compile", action="store_true", help="compile the layers")
    training.add_argument(
        "--fsdp", action="store_true", help="with torchrun: each process holds a part of the weights and their state"
    )
    training.add_argument("--num_workers", type=extra_process_count, default=0, help="processes that prepare batches")
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


def require_consistent(arguments: argparse.Namespace) -> None:
    """Refuse flags that contradict each other, and a run to resume that is not there, before anything heavy.

    Raises
    ------
    ScDMCError
        Naming the flags.
    """
    training_settings(arguments).require_usable()
    if arguments.fsdp and int(os.environ.get("WORLD_SIZE", 1)) == 1:
        raise ScDMCError("--fsdp spreads a model over several processes, and there is one: start it with torchrun")
    if arguments.model is not None:
        new = dict.fromkeys((*DESCRIBED, "gene_start"))
        fill_in(argparse.Namespace(**vars(arguments)), new, False, "with --model")
    if arguments.resume:
        find_checkpoint(arguments.output_dir, arguments.resume)


def require_inputs(arguments: argparse.Namespace) -> None:
    """Refuse absent and unreadable inputs at once."""
    if arguments.model is not None:
        require_model(arguments.model)
        if model_folder(arguments.model).resolve() == arguments.output_dir.resolve():
            raise ScDMCError(
                f"{arguments.model} would be overwritten by what starts from it; give another --output_dir"
            )
    require_tokenized(arguments.data_path, "--data_path")
    require_files(split_file=arguments.split_file)
    require_gene_files(arguments)


def model_to_start_from(arguments: argparse.Namespace) -> "ModelDirectory | None":
    """The folder of ``--model``, or None.

    Raises
    ------
    ScDMCError
        If there is no such model, or it cannot be pre-trained further.
    """
    if arguments.model is None:
        return None
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import saw_labels

    start = open_model_directory(arguments.model, arguments.token_dictionary_file)
    if saw_labels(start):
        raise ScDMCError(f"{start.path} is a classifier; go on from the pre-trained model that it was made of")
    return start


def fill_in_model_flags(arguments: argparse.Namespace, start: "ModelDirectory | None") -> None:
    """Give the flags of the model their defaults: those of the paper, or what the model to start from has.

    Raises
    ------
    ScDMCError
        If a flag describes a new model, and there is one to start from.
    """
    config = start.config if start else PUBLISHED_SIZES
    fill_in(arguments, {name: getattr(config, name) for name in DROPOUTS}, True, "")
    described = {name: getattr(config, name) for name in DESCRIBED}
    described["gene_start"] = None if start else GENE_STARTS[0]
    fill_in(arguments, described, start is None, "with --model")
    if start and arguments.max_length is None:
        from scdmc.tokens.parquet import parquet_files, read_settings

        settings = read_settings(parquet_files(arguments.data_path))
        arguments.max_length = min(start.context, settings.model_input_size if settings else start.context)


def trained_model(
    arguments: argparse.Namespace, data: "PretrainingData", start: "ModelDirectory"
) -> "ScDMCForMaskedLM":
    """The model to start from, with the context and dropouts of this run.

    Raises
    ------
    ScDMCError
        If the data were tokenized for another model.
    """
    from scdmc.model.folder import require_same_settings
    from scdmc.model.heads import ScDMCForMaskedLM
    from scdmc.model.storage import load_model

    require_same_settings(data.settings, start, str(arguments.data_path))
    changes = {name: getattr(arguments, name) for name in DROPOUTS}
    changes["max_position_embeddings"] = data.settings.model_input_size
    return load_model(start.path, ScDMCForMaskedLM, changes)


def new_model(arguments: argparse.Namespace, data: "PretrainingData") -> "ScDMCForMaskedLM":
    """A model with weights drawn from the seed; its genes may start from the co-expression of the training cells."""
    import torch

    from scdmc.configuration import ScDMCConfig
    from scdmc.model.heads import ScDMCForMaskedLM
    from scdmc.training.coexpression import start_from_coexpression

    config = ScDMCConfig(
        vocab_size=len(data.vocabulary),
        max_position_embeddings=data.settings.model_input_size,
        **{name: getattr(arguments, name) for name in (*DROPOUTS, *DESCRIBED)},
    )
    torch.manual_seed(arguments.seed)
    model = ScDMCForMaskedLM(config)
    if arguments.gene_start == "coexpression" and not arguments.resume:
        start_from_coexpression(model, data.cells, data.training, arguments.seed)
    return model


def training_settings(arguments: argparse.Namespace) -> PretrainingSettings:
    """The settings of the run, flag by flag."""
    names = [name for name in PretrainingSettings.__dataclass_fields__ if name != "bf16"]
    flags = {name: getattr(arguments, name) for name in names}
    return PretrainingSettings(**flags, bf16=arguments.dtype == "bfloat16")


def origin_of(arguments: argparse.Namespace, data: "PretrainingData") -> dict[str, object]:
    """What the weights started from, and what the token ids mean: a resumed run must keep both."""
    model = start_name(arguments) if arguments.model else None
    return {"gene_start": arguments.gene_start, "model": model, **data.origin}


def save(
    arguments: argparse.Namespace,
    run: "Pretraining",
    model: "ScDMCForMaskedLM",
    data: "PretrainingData",
    command: list[str],
) -> None:
    """Write the model, the history and the loss curves; checkpoints and logs beside them stay."""
    from scdmc.model.storage import describe_arguments, model_card, save_model_directory
    from scdmc.training import results
    from scdmc.training.run_log import write_history

    facts = {
        "data": Path(arguments.data_path).name,
        **results.training_facts(run, model, data),
        **({"started from": start_name(arguments)} if arguments.model else {}),
        "objective": results.objective_in_words(vars(arguments)),
        "seed": arguments.seed,
    }
    title = "scDMC, pre-trained"
    card = model_card(title, facts, run.final_metrics, command)
    with result_folder(arguments.output_dir) as folder:
        (folder / "arguments.json").write_text(describe_arguments(arguments), encoding="utf8")
        write_history(run.history, folder / "history.csv")
        save_model_directory(folder, model, data.vocabulary, data.medians, data.settings, card)
        keep_results(folder)
        guesses = results.guessing_metrics(run)  # reads all training cells: minutes for millions
        results.write_guesses(folder, guesses, model_card(title, facts, run.final_metrics | guesses, command))
        results.draw_loss_curves(run.history, guesses, folder)


def start_name(arguments: argparse.Namespace) -> str:
    """What the model to start from is called: its folder, or the name by which it was asked for."""
    return arguments.model.resolve().name if arguments.model.is_dir() else str(arguments.model)


def train(arguments: argparse.Namespace, run: "Pretraining", data: "PretrainingData", command: list[str]) -> None:
    """Train from the start or from a checkpoint; write the model folder, unless the run was stopped."""
    is_main_process = run.accelerator.is_main_process
    if is_main_process and not arguments.resume:
        require_space(arguments.output_dir, run.bytes_on_disk, "the run with its checkpoints")
    if arguments.resume:
        run.resume_from(arguments.resume)
    elif is_main_process:
        for leftover in ("checkpoints", "tensorboard", "model.safetensors"):
            remove(arguments.output_dir / leftover)
    run.run()
    model = run.whole_model() if run.is_finished else None
    run.end()  # the others need not wait for what is written
    if model is None:
        print(f"stopped at step {run.step}; go on with --resume")
    elif is_main_process:
        save(arguments, run, model, data, command)
        for name, value in run.final_metrics.items():
            print(f"{name.removeprefix('eval_'):<26}{value:8.4f}")
        print(f"wrote the model folder {arguments.output_dir}")


@script
def main(argv: list[str] | None = None) -> int:
    """Train, then write the model folder."""
    arguments = parse_arguments(argv)
    choice = CellChoice(**{name: getattr(arguments, name) for name in CellChoice.__dataclass_fields__})
    require_launch()
    require_consistent(arguments)
    require_inputs(arguments)
    is_main_process = int(os.environ.get("RANK", 0)) == 0
    if arguments.resume:
        require_writable_folder(arguments.output_dir)
        if is_main_process:
            claim_output(arguments.output_dir)
    elif not arguments.dry_run and is_main_process:
        require_new_folder(arguments.output_dir, arguments.overwrite)

    from scdmc.model.devices import choose_device
    from scdmc.training.data import read_pretraining_data
    from scdmc.training.pretraining import Pretraining

    start = model_to_start_from(arguments)
    fill_in_model_flags(arguments, start)
    device = choose_device(arguments.num_gpus)
    genes = arguments.token_dictionary_file, arguments.gene_median_file
    data = read_pretraining_data(arguments.data_path, arguments.cache_dir, arguments.max_length, choice, *genes)
    model = trained_model(arguments, data, start) if start else new_model(arguments, data)
    settings = training_settings(arguments)
    origin = origin_of(arguments, data)
    run = Pretraining(model, data, settings, arguments.output_dir, device, arguments.attention, origin)
    logger.info(
        "%s parameters, attention %s on %s, %s training and %s held-out cells, %s steps of %.0f cells",
        f"{model.num_parameters():,}", run.attention, run.device, f"{len(data.training):,}",
        f"{len(data.held_out):,}", f"{run.total_steps:,}", run.cells_per_step,
    )  # fmt: skip
    if arguments.dry_run:
        print("\n".join(f"{name:<32}{value}" for name, value in run.dry_run().items()))
        run.end()
    else:
        command = ["python", "-u", "scDMC_pretrain.py", *map(shlex.quote, sys.argv[1:] if argv is None else argv)]
        train(arguments, run, data, command)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
