"""Pre-train scDMC on tokenized parquet: masked genes in two streams, and momentum contrast between them."""

import argparse
import logging
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from scdmc.attention import BACK_ENDS
from scdmc.command_line import argument_parser, fraction, non_negative_int, positive_int, script
from scdmc.configuration import ScDMCConfig
from scdmc.devices import choose_device
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, remove, require_new
from scdmc.gene_medians import GeneMedians, load_gene_medians
from scdmc.model_directory import describe_arguments, model_card, save_model_directory
from scdmc.modeling import ScDMCForMaskedLM
from scdmc.pretraining import Pretraining, PretrainingSettings, find_checkpoint, write_history
from scdmc.tokenized_data import (
    TokenizationSettings,
    TokenizedCells,
    gene_medians_path,
    parquet_files,
    read_settings,
    read_tokenized,
    require_valid_ids,
    token_ids_path,
)
from scdmc.vocabulary import Vocabulary, load_vocabulary, require_same_vocabulary

logger = logging.getLogger(__name__)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of pre-training; each default is the paper's."""
    defaults, config = PretrainingSettings(), ScDMCConfig()
    parser = argument_parser(__doc__)
    parser.add_argument("--dataset_path", required=True, help="tokenized parquet: a file, a folder or a quoted glob")
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="model folder; checkpoints and logs lie in it too"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files in --output_dir")
    parser.add_argument("--resume_from_checkpoint", metavar="last|PATH", help="go on with an interrupted run")

    data = parser.add_argument_group("data")
    data.add_argument("--token_dictionary_file", type=Path, help="vocabulary of the data; looked for beside it")
    data.add_argument("--gene_median_file", type=Path, help="gene medians of the data; looked for beside it")
    data.add_argument(
        "--split_file", type=Path, help="split.csv: train on its 'train' cells, hold out its 'validation' cells"
    )
    data.add_argument(
        "--held_out_fraction", type=fraction, default=0.05, help="share of held-out cells without --split_file"
    )

    model = parser.add_argument_group("model")
    model.add_argument("--hidden_size", type=positive_int, default=config.hidden_size, help="width of the encoder")
    model.add_argument("--num_hidden_layers", type=positive_int, default=config.num_hidden_layers, help="layers")
    model.add_argument("--num_attention_heads", type=positive_int, default=config.num_attention_heads, help="heads")
    model.add_argument(
        "--intermediate_size", type=positive_int, default=config.intermediate_size, help="width of the gated unit"
    )
    model.add_argument("--max_length", type=positive_int, help="context N; as long as the data's streams without it")
    model.add_argument(
        "--hidden_dropout_prob", type=float, default=config.hidden_dropout_prob, help="dropout of the states"
    )
    model.add_argument(
        "--attention_probs_dropout_prob", type=float, default=0.0, help="dropout of attention (paper: 0.1)"
    )
    model.add_argument(
        "--initializer_range",
        type=float,
        default=config.initializer_range,
        help="standard deviation of the initial weights; a narrow model wants more, about 0.45 / sqrt(hidden_size)",
    )
    model.add_argument("--attention", choices=BACK_ENDS, default="auto", help="attention back end")

    training = parser.add_argument_group("training")
    training.add_argument(
        "--batch_size", type=positive_int, default=defaults.batch_size, help="cells of an optimizer step"
    )
    training.add_argument("--gradient_accumulation_steps", type=positive_int, default=1, help="parts of a batch")
    training.add_argument(
        "--learning_rate", type=float, default=defaults.learning_rate, help="peak of the cosine schedule"
    )
    training.add_argument(
        "--weight_decay", type=float, default=defaults.weight_decay, help="none on biases and LayerNorm"
    )
    training.add_argument("--warmup_fraction", type=float, default=defaults.warmup_fraction, help="share of the steps")
    training.add_argument(
        "--max_gradient_norm", type=float, default=defaults.max_gradient_norm, help="larger ones are scaled"
    )
    training.add_argument("--epochs", type=positive_int, default=defaults.epochs, help="passes over the data")
    training.add_argument("--max_steps", type=positive_int, help="optimizer steps; overrides --epochs")
    training.add_argument(
        "--seed", type=non_negative_int, default=defaults.seed, help="of weights, masks, order and dropout"
    )
    training.add_argument(
        "--num_gpus", type=non_negative_int, help="0 forces the CPU; the GPU is taken where there is one without it"
    )

    objective = parser.add_argument_group("objective")
    objective.add_argument(
        "--mask_probability", type=fraction, default=defaults.mask_probability, help="share of masked genes"
    )
    objective.add_argument("--alpha", type=float, default=defaults.alpha, help="weight of the contrast")
    objective.add_argument("--temperature", type=float, default=defaults.temperature, help="of the contrast")
    objective.add_argument(
        "--momentum", type=float, default=defaults.momentum, help="m of the momentum encoder, per step"
    )

    logs = parser.add_argument_group("logs")
    logs.add_argument("--log_every", type=positive_int, default=defaults.log_every, help="steps between log lines")
    logs.add_argument(
        "--evaluate_every", type=positive_int, default=defaults.evaluate_every, help="steps between evaluations"
    )
    logs.add_argument("--save_every", type=positive_int, default=defaults.save_every, help="steps between checkpoints")
    logs.add_argument(
        "--keep_checkpoints", type=positive_int, default=defaults.keep_checkpoints, help="older ones are deleted"
    )
    return parser.parse_args(argv)


def read_vocabulary_and_medians(
    arguments: argparse.Namespace, settings: TokenizationSettings | None
) -> tuple[Vocabulary, GeneMedians]:
    """The vocabulary and medians that travel with the data, checked against what the data say of themselves."""
    first = parquet_files(arguments.dataset_path)[0]
    beside = token_ids_path(first)
    if arguments.token_dictionary_file is None and settings is not None and not beside.exists():
        raise ScDMCError(f"{first} has no {beside.name} beside it; name its vocabulary with --token_dictionary_file")
    vocabulary = load_vocabulary(arguments.token_dictionary_file or (beside if beside.exists() else None))
    medians_beside = gene_medians_path(first)
    medians = load_gene_medians(arguments.gene_median_file or (medians_beside if medians_beside.exists() else None))
    if settings is not None:
        require_same_vocabulary(vocabulary.sha256, settings.vocabulary_sha256, vocabulary.source, str(first))
        if medians.sha256 != settings.gene_medians_sha256:
            raise ScDMCError(
                f"{first} has other gene medians than {medians.source}; name its own with --gene_median_file"
            )
    return vocabulary, medians


def context_length(max_length: int | None, settings: TokenizationSettings | None) -> int:
    """Tokens of a stream that the model reads; no more than the tokenizer kept."""
    available = settings.model_input_size if settings else ScDMCConfig().max_position_embeddings
    if max_length is None:
        return available
    if not 3 <= max_length <= available:
        raise ScDMCError(
            f"--max_length {max_length}: take 3 (<cls>, a gene, <eos>) to {available} (where the streams were cut)"
        )
    return max_length


def split_cells(arguments: argparse.Namespace, cells: TokenizedCells) -> tuple[TokenizedCells, TokenizedCells]:
    """Training and held-out cells."""
    if arguments.split_file is not None:
        from scdmc.splits import read_split  # needs pandas, which a training node may lack

        split = read_split(arguments.split_file, cells.obs)
        training, held_out = np.flatnonzero(split == "train"), np.flatnonzero(split == "validation")
    else:
        order = np.random.default_rng(arguments.seed).permutation(len(cells))
        n_held_out = max(1, round(len(cells) * arguments.held_out_fraction))
        held_out, training = np.sort(order[:n_held_out]), np.sort(order[n_held_out:])
    if not len(training) or not len(held_out):
        raise ScDMCError(f"{len(training)} training cells and {len(held_out)} held-out cells: both must be there")
    return cells.select(training), cells.select(held_out)


def new_model(arguments: argparse.Namespace, vocabulary: Vocabulary, context: int) -> ScDMCForMaskedLM:
    """A model with random weights drawn from the seed."""
    config = ScDMCConfig(
        vocab_size=len(vocabulary),
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.num_hidden_layers,
        num_attention_heads=arguments.num_attention_heads,
        intermediate_size=arguments.intermediate_size,
        max_position_embeddings=context,
        initializer_range=arguments.initializer_range,
        hidden_dropout_prob=arguments.hidden_dropout_prob,
        attention_probs_dropout_prob=arguments.attention_probs_dropout_prob,
    )
    torch.manual_seed(arguments.seed)
    return ScDMCForMaskedLM(config)


def training_settings(arguments: argparse.Namespace) -> PretrainingSettings:
    """The settings of the run, flag by flag."""
    return PretrainingSettings(**{name: getattr(arguments, name) for name in PretrainingSettings.__dataclass_fields__})


def save(
    arguments: argparse.Namespace,
    run: Pretraining,
    vocabulary: Vocabulary,
    medians: GeneMedians,
    settings: TokenizationSettings,
    command: list[str],
) -> None:
    """Write the model folder, the history and the loss curves."""
    output_dir = arguments.output_dir
    config = run.module.model.config
    facts = {
        "data": Path(arguments.dataset_path).name,
        "training cells": f"{len(run.training_cells):,}",
        "held-out cells": f"{len(run.held_out_cells):,}",
        "optimizer steps": f"{run.step:,} of {arguments.batch_size} cells",
        "parameters": f"{run.module.model.num_parameters():,}",
        "layers x hidden x heads": f"{config.num_hidden_layers} x {config.hidden_size} x {config.num_attention_heads}",
        "context": f"{config.max_position_embeddings} tokens",
        "gene medians": f"{len(medians.medians):,} genes",
        "seed": arguments.seed,
    }
    card = model_card("scDMC, pre-trained", facts, run.final_metrics, command)
    save_model_directory(output_dir, run.module.model, vocabulary, medians, settings, card)
    with atomic_path(output_dir / "arguments.json") as temporary:
        temporary.write_text(describe_arguments(arguments), encoding="utf8")
    write_history(run.history, output_dir / "history.csv")
    draw_loss_curves(run.history, output_dir)


def draw_loss_curves(history: list[dict[str, float]], output_dir: Path) -> None:
    """Loss curves as PNG and PDF; a training node may lack the plotting packages, and is told so."""
    missing = [package for package in ("matplotlib", "pandas", "seaborn") if find_spec(package) is None]
    if missing:
        logger.warning(
            "warning: no loss curves, %s is not installed; history.csv holds the numbers", ", ".join(missing)
        )
        return
    import pandas as pd

    from scdmc.figures import loss_curve_figure, save_figure

    save_figure(loss_curve_figure(pd.DataFrame(history), "Pre-training losses"), output_dir / "loss_curves")


@script
def main(argv: list[str] | None = None) -> int:
    """Train, then write the model folder."""
    arguments = parse_arguments(argv)
    device = choose_device(arguments.num_gpus)
    if arguments.resume_from_checkpoint is None:
        require_new(arguments.output_dir, arguments.overwrite)
    found = read_settings(parquet_files(arguments.dataset_path))
    vocabulary, medians = read_vocabulary_and_medians(arguments, found)
    context = context_length(arguments.max_length, found)
    cells = read_tokenized(arguments.dataset_path, obs_columns=(), model_input_size=context)
    require_valid_ids(cells, len(vocabulary), arguments.dataset_path)
    training_cells, held_out_cells = split_cells(arguments, cells)

    model = new_model(arguments, vocabulary, context)
    run = Pretraining(
        model,
        training_cells,
        held_out_cells,
        training_settings(arguments),
        arguments.output_dir,
        device,
        arguments.attention,
    )
    if arguments.resume_from_checkpoint:
        run.resume(find_checkpoint(arguments.output_dir, arguments.resume_from_checkpoint))
    else:
        for leftover in ("checkpoints", "tensorboard"):
            remove(arguments.output_dir / leftover)
    logger.info(
        "%s parameters, attention %s on %s, %s training and %s held-out cells, %s steps of %d cells",
        f"{model.num_parameters():,}", run.attention, device, f"{len(training_cells):,}", f"{len(held_out_cells):,}",
        f"{run.total_steps:,}", arguments.batch_size,
    )  # fmt: skip
    run.run()

    settings = TokenizationSettings(vocabulary.sha256, medians.sha256, context)
    command = ["python", "-u", "scDMC_pretrain.py", *map(shlex.quote, sys.argv[1:] if argv is None else argv)]
    save(arguments, run, vocabulary, medians, settings, command)
    for name, value in run.final_metrics.items():
        print(f"{name.removeprefix('eval_'):<26}{value:8.4f}")
    print(f"wrote the model folder {arguments.output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
