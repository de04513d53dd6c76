"""Pre-train scDMC on tokenized parquet: masked genes in two streams, and momentum contrast between them."""

import argparse
import logging
import os
import shlex
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cli.arguments import add_data_argument, add_output_dir_argument
from scdmc.cli.arguments_file import add_arguments_file_argument, described_arguments, with_arguments_file
from scdmc.cli.inputs import require_files, require_gene_files, require_model, require_tokenized
from scdmc.cli.parser import argument_parser, fill_in, script
from scdmc.cli.pretraining_arguments import (
    GENE_STARTS,
    PROBED_LABEL_KEY,
    WORKERS_OF_A_GPU,
    add_data_arguments,
    add_logs_arguments,
    add_model_arguments,
    add_objective_arguments,
    add_training_arguments,
)
from scdmc.disk import require_space
from scdmc.errors import ScDMCError
from scdmc.files import remove, require_new_folder, require_writable_folder, write_json
from scdmc.locks import claim_output
from scdmc.model.shipped import model_folder
from scdmc.options import PUBLISHED_SIZES
from scdmc.result_folders import keep_results, result_folder
from scdmc.training.checkpoint_files import CHECKPOINTS_FOLDER, DESCRIPTION_FOLDER, find_checkpoint
from scdmc.training.launch import is_main_process, let_segments_grow, require_launch
from scdmc.training.run_state import end_progress
from scdmc.training.settings import CellChoice, PretrainingSettings

if TYPE_CHECKING:
    import torch

    from scdmc.annotation.pretraining_probe import FrozenProbe
    from scdmc.model.folder import ModelDirectory
    from scdmc.model.heads import ScDMCForMaskedLM
    from scdmc.reports.provenance import Provenance
    from scdmc.training.data import PretrainingData
    from scdmc.training.pretraining import Pretraining

logger = logging.getLogger(__name__)

# What a run before left that was to be overwritten.
LEFTOVERS = (
    CHECKPOINTS_FOLDER, "tensorboard", "wandb", "model.safetensors", "history.csv", "loss_curves.png",
    "loss_curves.pdf", "report.html", "progress.json",
)  # fmt: skip
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
    add_arguments_file_argument(parser)
    return parser.parse_args(with_arguments_file(parser, sys.argv[1:] if argv is None else argv))


def require_consistent(arguments: argparse.Namespace) -> None:
    """Refuse flags that contradict each other, and a run to resume that is not there, before anything heavy.

    Raises
    ------
    ScDMCError
        Naming the flags.
    """
    of_probe = {"probe_every": PretrainingSettings.probe_every, "label_key": PROBED_LABEL_KEY}
    fill_in(arguments, of_probe, arguments.probe_data_path is not None, "without --probe_data_path")
    training_settings(arguments).require_usable()
    if arguments.fsdp and int(os.environ.get("WORLD_SIZE", 1)) == 1:
        raise ScDMCError("--fsdp spreads a model over several processes, and there is one: start it with torchrun")
    if arguments.fsdp and arguments.probe_data_path is not None:
        raise ScDMCError("--probe_data_path: with --fsdp no process holds the whole encoder that a probe would judge")
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
    if arguments.probe_data_path is not None:
        require_tokenized(arguments.probe_data_path, "--probe_data_path")
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


def fill_in_device_flags(arguments: argparse.Namespace, device: "torch.device") -> None:
    """Give the flags their defaults that depend on where the run computes."""
    from scdmc.model.devices import pretraining_dtype

    if arguments.num_workers is None:
        arguments.num_workers = WORKERS_OF_A_GPU if device.type == "cuda" else 0
    arguments.dtype = str(pretraining_dtype(arguments.dtype, device)).removeprefix("torch.")


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
    made: "Provenance",
) -> None:
    """Write the model, the history, the loss curves and the page; checkpoints and logs beside them stay."""
    from scdmc.model.storage import model_card, save_model_directory
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
        write_json(folder / "arguments.json", described_arguments(arguments))
        write_history(run.history, folder / "history.csv")
        save_model_directory(folder, model, data.vocabulary, data.medians, data.settings, card)
        keep_results(folder)
        guesses = results.guessing_metrics(run)  # reads all training cells: minutes for millions
        results.write_guesses(folder, guesses, model_card(title, facts, run.final_metrics | guesses, command))
        results.draw_loss_curves(run.history, guesses, folder)
        settings = {name: text for name, text in facts.items() if name not in ("data", "seed")}
        results.draw_page(folder, run, run.history, guesses, replace(made, settings=settings))


def describe_checkpoints(
    arguments: argparse.Namespace, run: "Pretraining", data: "PretrainingData", command: list[str]
) -> None:
    """Write what a model folder holds beside its weights, so that each checkpoint can be exported as a model."""
    from scdmc.model.storage import model_card, save_description

    facts = {"data": Path(arguments.data_path).name, "state": "a checkpoint; the run has not ended"}
    card = model_card("scDMC, being pre-trained", facts, {}, command)
    folder = arguments.output_dir / CHECKPOINTS_FOLDER / DESCRIPTION_FOLDER
    save_description(folder, run.module.model, data.vocabulary, data.medians, data.settings, card)


def start_name(arguments: argparse.Namespace) -> str:
    """What the model to start from is called: its folder, or the name by which it was asked for."""
    return arguments.model.resolve().name if arguments.model.is_dir() else str(arguments.model)


def frozen_probe(arguments: argparse.Namespace, data: "PretrainingData") -> "FrozenProbe | None":
    """What judges the model meanwhile; None without labelled cells.

    Raises
    ------
    ScDMCError
        If they cannot judge it.
    """
    if arguments.probe_data_path is None:
        return None
    if find_spec("sklearn") is None:
        raise ScDMCError("--probe_data_path needs scikit-learn, which is not installed: pip install scikit-learn")
    from scdmc.annotation.pretraining_probe import read_frozen_probe

    return read_frozen_probe(arguments.probe_data_path, arguments.label_key, data.settings, arguments.seed)


def train(
    arguments: argparse.Namespace,
    run: "Pretraining",
    data: "PretrainingData",
    command: list[str],
    made: "Provenance",
) -> None:
    """Train from the start or from a checkpoint; write the model folder, unless the run was stopped."""
    if is_main_process() and not arguments.resume:
        require_space(arguments.output_dir, run.bytes_on_disk, "the run with its checkpoints")
    if arguments.resume:
        run.resume_from(arguments.resume)
    elif is_main_process():
        for leftover in LEFTOVERS:
            remove(arguments.output_dir / leftover)
    show = None
    if is_main_process() and not run.is_finished:
        from scdmc.training.results import LiveResults

        show = LiveResults(arguments.output_dir, run, replace(made, inputs=()))  # their hashes may take long
        write_json(arguments.output_dir / "arguments.json", described_arguments(arguments))
        describe_checkpoints(arguments, run, data, command)
    run.run(show, frozen_probe(arguments, data))
    model = run.whole_model() if run.is_finished else None
    run.end()  # the others need not wait for what is written
    if not run.is_finished:
        if is_main_process():
            from scdmc.training.results import draw_stopped

            draw_stopped(arguments.output_dir, run, replace(made, inputs=()))
        end_progress(arguments.output_dir)
        print(f"stopped at step {run.step}; go on with --resume")
    elif is_main_process():
        save(arguments, run, model, data, command, made)
        end_progress(arguments.output_dir)
        for name, value in run.final_metrics.items():
            print(f"{name.removeprefix('eval_'):<26}{value:8.4f}")
        print(f"wrote the model folder {arguments.output_dir}")


@script
def main(argv: list[str] | None = None) -> int:
    """Train, then write the model folder."""
    began, arguments = time.time(), parse_arguments(argv)
    choice = CellChoice(**{name: getattr(arguments, name) for name in CellChoice.__dataclass_fields__})
    require_launch()
    require_consistent(arguments)
    require_inputs(arguments)
    if arguments.resume:
        require_writable_folder(arguments.output_dir)
        if is_main_process():
            claim_output(arguments.output_dir)
    elif not arguments.dry_run and is_main_process():
        require_new_folder(arguments.output_dir, arguments.overwrite)

    let_segments_grow()  # before torch is imported

    from scdmc.model.devices import choose_device, deterministic_operations
    from scdmc.reports.provenance import Provenance
    from scdmc.tokens.parquet import parquet_files
    from scdmc.training.data import read_pretraining_data
    from scdmc.training.pretraining import Pretraining

    start = model_to_start_from(arguments)
    fill_in_model_flags(arguments, start)
    device = choose_device(arguments.num_gpus)
    fill_in_device_flags(arguments, device)
    genes = arguments.token_dictionary_file, arguments.gene_median_file
    data = read_pretraining_data(arguments.data_path, arguments.cache_dir, arguments.max_length, choice, *genes)
    model = trained_model(arguments, data, start) if start else new_model(arguments, data)
    settings = training_settings(arguments)
    origin = origin_of(arguments, data)
    run = Pretraining(model, data, settings, arguments.output_dir, device, arguments.attention, origin)
    logger.info(
        "%s parameters, attention %s on %s in %s, %s training and %s held-out cells, %s steps of %.0f cells",
        f"{model.num_parameters():,}", run.attention, run.device, arguments.dtype, f"{len(data.training):,}",
        f"{len(data.held_out):,}", f"{run.total_steps:,}", run.cells_per_step,
    )  # fmt: skip
    with deterministic_operations(arguments.deterministic):
        if arguments.dry_run:
            print("\n".join(f"{name:<32}{value}" for name, value in run.dry_run().items()))
            run.end()
            return 0
        command = ["python", "-u", "scDMC_pretrain.py", *map(shlex.quote, sys.argv[1:] if argv is None else argv)]
        inputs = (arguments.data_path,) if arguments.data_path.exists() else tuple(parquet_files(arguments.data_path))
        name = start_name(arguments) if arguments.model else "a new model"
        train(arguments, run, data, command, Provenance(inputs, name, arguments.seed, began))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
