"""Flags and groups of flags that several scripts share, and the options that they stand for.

A flag means the same in every script. Names that published commands use are equals of it
(:data:`scdmc.cli.parser.PUBLISHED_FLAGS`).
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from scdmc.cells.options import MOST_CELLS_OF_MAP, OwnEmbeddings, SplitOptions
from scdmc.cli.parser import (
    fill_in,
    fraction,
    model_size,
    non_negative_int,
    output_file,
    positive_int,
    process_count,
    seed,
    stream_length,
)
from scdmc.errors import ScDMCError
from scdmc.gene_analysis.options import CELLS_PER_TYPE, ONE_STREAM, GeneDataOptions
from scdmc.genes.options import SPECIES
from scdmc.options import BACK_ENDS, DTYPE_CHOICES, POOLINGS, STREAMS, EncoderSizes, LabelOptions
from scdmc.reading.options import BLOCK_SIZE, CountOptions, is_counts
from scdmc.tokens.options import CELLS_PER_SHARD, MODEL_INPUT_SIZE

POOLING_HELP = "state of <cls>, or mean state of the genes, each weighted by its value or not"


BY_MODEL = "(default: what the config.json of the model says)"


LEAVE_OUT_HELP = "cells to leave out by a column of obs, such as dataset=pbmc_a,pbmc_b; several are possible"


SPLIT_DEFAULTS = {name: value for name, value in asdict(SplitOptions()).items() if name != "seed"}


REPLACE_FILE = "replace --output_file, even where that is the input"


Parser = argparse._ActionsContainer  # a parser, or a group of one


# ---- single flags


def add_result_arguments(parser: Parser, suffixes: Sequence[str], of_file: str, of_folder: str = "all results") -> None:
    """``--output_file``, ``--output_dir`` and ``--overwrite``, of which :func:`require_one_place` asks for a place."""
    meaning = f"to write: {of_file} (default: none, see --output_dir)"
    parser.add_argument("--output_file", type=output_file(suffixes), help=meaning)
    meaning = f"for {of_folder} and a page: a folder to write (default: none, see --output_file)"
    parser.add_argument("--output_dir", type=Path, metavar="OUTPUT_DIR", help=meaning)
    parser.add_argument("--overwrite", action="store_true", help="replace --output_file, or files in --output_dir")


def require_one_place(arguments: argparse.Namespace, either: str = "--output_file or --output_dir") -> None:
    """Refuse results without a place, or with two."""
    if (arguments.output_file is None) == (arguments.output_dir is None):
        raise ScDMCError(f"name one place for the results: {either}")


def add_model_argument(parser: Parser, meaning: str = "model folder", is_required: bool = True) -> None:
    """``--model``: a model folder, the name of a shipped model, or a name on the Hugging Face hub.

    The value stays as it was given; all that opens a model folder asks :func:`scdmc.model.shipped.model_folder` what it
    means. :func:`scdmc.cli.inputs.require_model` checks it.
    """
    parser.add_argument(
        "--model",
        "--model_path",
        "--pretrained_model_path",
        type=Path,
        required=is_required,
        metavar="MODEL",
        help=f"{meaning}, or the name of a shipped model, such as scDMC-small, or user/name on the Hugging Face hub",
    )


def add_data_argument(
    parser: Parser,
    *published: str,
    meaning: str = ".h5ad with raw counts, or tokenized parquet",
    nargs: str | None = None,
) -> None:
    """``--data_path``, which is required, and the published names of it that this script takes."""
    parser.add_argument(
        "--data_path", *published, type=Path, nargs=nargs, required=True, metavar="DATA_PATH", help=meaning
    )


def add_output_dir_argument(
    parser: Parser,
    *published: str,
    meaning: str = "folder for tables, figures and report.html",
    default: Path | None = None,
) -> None:
    """``--output_dir``, which is required unless there is a default, and ``--overwrite``."""
    parser.add_argument(
        "--output_dir",
        *published,
        type=Path,
        required=default is None,
        default=default,
        metavar="OUTPUT_DIR",
        help=meaning,
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files in --output_dir")


def add_output_file_argument(
    parser: Parser,
    meaning: str,
    suffixes: Sequence[str],
    is_required: bool = True,
    overwrite: str = REPLACE_FILE,
) -> None:
    """``--output_file``, whose suffix must be one of those that are written, and ``--overwrite``."""
    parser.add_argument("--output_file", type=output_file(suffixes), required=is_required, help=meaning)
    parser.add_argument("--overwrite", action="store_true", help=overwrite)


def add_label_key_argument(
    parser: Parser, meaning: str = "column of obs with the cell types", default: str | None = "cell_type"
) -> None:
    """``--label_key``; with None for a default ``meaning`` says what that is: ``(default: ...)``."""
    parser.add_argument("--label_key", default=default, help=meaning)


def add_label_choice_arguments(parser: Parser) -> None:
    """``--ignore_labels`` and ``--keep_labels``: which labels are types."""
    parser.add_argument(
        "--ignore_labels",
        nargs="+",
        metavar="LABEL",
        help="labels that are no type, beside doublets, debris and the like (default: none)",
    )
    parser.add_argument(
        "--keep_labels",
        nargs="+",
        metavar="LABEL",
        help="labels that are types although they look like none, such as other (default: none)",
    )


def label_options(arguments: argparse.Namespace) -> LabelOptions:
    """The options that the flags of :func:`add_label_choice_arguments` stand for."""
    return LabelOptions(tuple(arguments.ignore_labels or ()), tuple(arguments.keep_labels or ()))


def add_own_embedding_arguments(parser: Parser) -> None:
    """``--embeddings`` and ``--embedding_files``: embeddings that the user brings."""
    parser.add_argument(
        "--embeddings",
        nargs="+",
        metavar="KEY",
        default=[],
        help="matrices of obsm of the data that stand beside ours, such as X_scGPT (default: none)",
    )
    parser.add_argument(
        "--embedding_files",
        nargs="+",
        metavar="NAME=FILE",
        default=[],
        help="the same from files: .csv or .h5ad, joined by the names of the cells, or .npy, in the order of the "
        "cells (default: none)",
    )


def own_embeddings(arguments: argparse.Namespace) -> OwnEmbeddings:
    """What the flags of :func:`add_own_embedding_arguments` stand for.

    Raises
    ------
    ScDMCError
        If a file has no name, or two embeddings have one.
    """
    files = {}
    for text in arguments.embedding_files:
        name, sign, path = text.partition("=")
        if not sign or not name or not path:
            raise ScDMCError(f"--embedding_files {text}: write NAME=FILE, such as scGPT=scgpt.csv")
        if name in files:
            raise ScDMCError(f"--embedding_files: {name!r} is given twice; give each a name of its own")
        files[name] = Path(path)
    return OwnEmbeddings(tuple(arguments.embeddings), files)


def add_embedding_arguments(parser: Parser) -> None:
    """``--stream``, ``--pooling`` and ``--encoder_layer``: how the states of a cell become its embedding."""
    parser.add_argument("--stream", choices=STREAMS, help=f"which stream; both are joined {BY_MODEL}")
    parser.add_argument("--pooling", choices=POOLINGS, help=f"{POOLING_HELP} {BY_MODEL}")
    meaning = "layer whose states are taken; 0: the vectors of the genes (default: the last one with --stream or"
    parser.add_argument("--encoder_layer", type=non_negative_int, help=f"{meaning} --pooling, else by config.json)")


def embedding_options(arguments: argparse.Namespace) -> dict[str, object]:
    """What the flags of :func:`add_embedding_arguments` choose, for :func:`scdmc.model.embeddings.cell_embeddings`."""
    return {"stream": arguments.stream, "pooling": arguments.pooling, "layer": arguments.encoder_layer}


def add_umap_argument(parser: Parser) -> None:
    """``--umap``: whether an ``.h5ad`` gets a map that viewers draw."""
    meaning = f"add obsm['X_umap'] to an .h5ad; auto: of at most {MOST_CELLS_OF_MAP:,} cells (default: auto)"
    parser.add_argument("--umap", choices=(*UMAP_CHOICES,), help=meaning)


def complete_umap(arguments: argparse.Namespace, has_effect: bool, why_not: str) -> None:
    """Give ``--umap`` its default, and refuse it where it would do nothing (:func:`scdmc.cli.parser.fill_in`)."""
    fill_in(arguments, {"umap": "auto"}, has_effect, why_not)


def wanted_map(arguments: argparse.Namespace) -> bool | None:
    """What ``--umap`` chooses, for :class:`scdmc.cells.viewers.ForViewers`."""
    return UMAP_CHOICES[arguments.umap]


UMAP_CHOICES = {"auto": None, "yes": True, "no": False}


def add_batch_key_argument(parser: Parser) -> None:
    """``--batch_key``."""
    parser.add_argument("--batch_key", default="batch", help="column of obs with the batches")


def add_seed_argument(parser: Parser, meaning: str = "of all that is drawn") -> None:
    """``--seed``, 42 in every script."""
    parser.add_argument("--seed", type=seed, default=42, help=meaning)


def add_resume_argument(parser: Parser, meaning: str) -> None:
    """``--resume``, a switch."""
    parser.add_argument("--resume", action="store_true", help=meaning)


def add_deterministic_argument(parser: Parser) -> None:
    """``--deterministic``: the same bits in every run on a GPU, too."""
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="on a GPU, operations only that give the same bits each time, and are slower",
    )


def add_dtype_argument(
    parser: Parser, meaning: str = "bfloat16 is faster and agrees to a cosine of 0.999", has_bf16: bool = False
) -> None:
    """``--dtype``: what the model computes in; ``has_bf16`` adds ``--bf16``, which is ``--dtype bfloat16``."""
    if "auto:" not in meaning:
        meaning += "; auto: bfloat16 on a GPU that has it, else float32"
    parser.add_argument("--dtype", choices=DTYPE_CHOICES, default="auto", help=meaning)
    if has_bf16:
        parser.add_argument(
            "--bf16",
            action="store_const",
            dest="dtype",
            const="bfloat16",
            default="auto",
            help="the same as --dtype bfloat16 (default: off)",
        )


def add_max_length_argument(
    parser: Parser, *published: str, meaning: str = "most tokens of a stream", default: int | None = None
) -> None:
    """``--max_length``; with None for a default ``meaning`` says what that is: ``(default: ...)``."""
    parser.add_argument(
        "--max_length", *published, type=stream_length, default=default, metavar="MAX_LENGTH", help=meaning
    )


def add_leave_out_argument(parser: Parser) -> None:
    """``--leave_out``: cells that take no part, by a column of obs."""
    parser.add_argument("--leave_out", nargs="+", default=[], metavar="COLUMN=VALUE[,VALUE...]", help=LEAVE_OUT_HELP)


# ---- groups of flags


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of how cells are split; the seed is the script's own ``--seed``.

    Those of :data:`SPLIT_DEFAULTS` have None for a default: :func:`scdmc.cli.parser.fill_in` gives them theirs.
    """
    group = parser.add_argument_group("split")
    add_label_key_argument(group, "column of obs with the labels")
    add_label_choice_arguments(group)
    group.add_argument(
        "--split_by", help="column of obs (donor_id, batch) whose groups stay in one part (default: cell by cell)"
    )
    shares = {"validation_fraction": "share of validation cells", "test_fraction": "share of test cells"}
    for name, meaning in shares.items():
        group.add_argument(f"--{name}", type=fraction, help=f"{meaning} (default: {SPLIT_DEFAULTS[name]})")
    fewest = SPLIT_DEFAULTS["min_cells_per_type"]
    group.add_argument(
        "--min_cells_per_type", type=positive_int, help=f"rarer types are left out and named (default: {fewest})"
    )


def split_columns(arguments: argparse.Namespace) -> list[str]:
    """Columns of obs that the flags of :func:`add_split_arguments` name."""
    return [arguments.label_key] + ([arguments.split_by] if arguments.split_by else [])


def split_options(arguments: argparse.Namespace) -> SplitOptions:
    """The options that the flags of :func:`add_split_arguments` and ``--seed`` stand for."""
    return SplitOptions(**{name: getattr(arguments, name) for name in SplitOptions.__dataclass_fields__})


def add_model_arguments(parser: argparse.ArgumentParser, has_dtype: bool = True) -> None:
    """Flags of how a model folder is opened and where the model runs; a script that trains in float32 has no dtype."""
    group = parser.add_argument_group("running the model")
    group.add_argument(
        "--token_dictionary_file", type=Path, help="vocabulary, JSON token -> id (default: the one in the model folder)"
    )
    group.add_argument("--attention", choices=BACK_ENDS, default="auto", help="attention back end")
    add_num_gpus_argument(group)
    if has_dtype:
        add_dtype_argument(group)


def add_num_gpus_argument(parser: Parser) -> None:
    """``--num_gpus``."""
    parser.add_argument(
        "--num_gpus", type=non_negative_int, help="0 forces the CPU (default: the GPU, where there is one)"
    )


def placement(arguments: argparse.Namespace) -> dict[str, object]:
    """Where the model runs, as keywords of :func:`scdmc.model.devices.place_model`."""
    return {name: getattr(arguments, name) for name in ("num_gpus", "attention", "dtype") if hasattr(arguments, name)}


def add_count_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of :class:`CountOptions`."""
    group = parser.add_argument_group("reading an .h5ad")
    add_layer_arguments(group)
    add_gene_id_arguments(group)
    add_species_arguments(group, default=None)


def add_layer_arguments(parser: Parser) -> None:
    """``--layer``, ``--allow_normalized``, ``--recompute_totals``: which matrix holds the counts, and which totals."""
    parser.add_argument("--layer", help="where the raw counts are: X, raw or the name of a layer (default: looked for)")
    parser.add_argument("--allow_normalized", action="store_true", help="take X even if it holds no integers")
    parser.add_argument(
        "--recompute_totals",
        action="store_true",
        help="take the sum of each cell as its total counts, whatever obs['n_counts'] says",
    )


def add_gene_id_arguments(parser: Parser) -> None:
    """``--gene_id_column`` and ``--gene_mapping_file``: what the genes are called."""
    parser.add_argument(
        "--gene_id_column", help="column of var with the gene ids, or index for var_names (default: looked for)"
    )
    parser.add_argument(
        "--gene_mapping_file", type=Path, help="JSON symbol or id -> current id, applied first (default: none)"
    )


def count_options(arguments: argparse.Namespace) -> CountOptions:
    """The options that the flags of :func:`add_count_arguments` stand for."""
    given = {name: getattr(arguments, name) for name in CountOptions.__dataclass_fields__}
    return CountOptions(**{name: value for name, value in given.items() if value is not None})


def count_options_for(arguments: argparse.Namespace, data_path: Path) -> CountOptions:
    """The options of :func:`count_options` for one file; refuses flags that say nothing of it.

    Raises
    ------
    ScDMCError
        If one of the flags is given, and the data are tokenized already.
    """
    options = count_options(arguments)
    given = [f"--{name}" for name in CountOptions.__dataclass_fields__ if getattr(arguments, name)]
    if given and not is_counts(data_path):
        raise ScDMCError(
            f"{', '.join(given)}: only an .h5ad is read so, or other raw counts, and {data_path} is tokenized already; "
            "leave that out"
        )
    return options


def add_gene_arguments(
    parser: argparse.ArgumentParser, streams: tuple[str, ...] = ONE_STREAM, reads_classifiers: bool = False
) -> None:
    """Flags that all gene-level scripts share.

    Where classifiers are read, which bring a stream of their own, ``--stream`` is None if it is not given.
    """
    add_model_argument(parser)
    add_data_argument(parser)
    add_output_dir_argument(parser)
    add_label_key_argument(parser)
    parser.add_argument("--cell_types", nargs="+", metavar="TYPE", help="look at these types only (default: all)")
    parser.add_argument(
        "--min_cells_per_type", type=positive_int, default=CELLS_PER_TYPE, help="smaller types are left out, and named"
    )
    if reads_classifiers:
        meaning = f"which stream the model reads (default: {streams[0]}; a classifier reads what it was trained on)"
        parser.add_argument("--stream", choices=streams, help=meaning)
    else:
        parser.add_argument("--stream", choices=streams, default=streams[0], help="which stream the model reads")
    add_seed_argument(parser)
    add_model_arguments(parser)
    add_count_arguments(parser)


def gene_data_options(arguments: argparse.Namespace, all_types: bool = False) -> GeneDataOptions:
    """The options that the flags of :func:`add_gene_arguments` stand for; ``all_types`` keeps all types of cells."""
    return GeneDataOptions(
        label_key=arguments.label_key,
        cell_types=() if all_types else tuple(arguments.cell_types or ()),
        min_cells_per_type=arguments.min_cells_per_type,
        counts=count_options_for(arguments, arguments.data_path),
        token_dictionary_file=arguments.token_dictionary_file,
        **placement(arguments),
    )


def add_tokenizer_arguments(parser: Parser, has_medians: bool = True) -> None:
    """Flags of the genes that the tokenizer scripts share; ``has_medians`` where gene medians are applied."""
    parser.add_argument(
        "--token_dictionary_file", type=Path, help="vocabulary, JSON token -> id (default: the one of scDMC)"
    )
    if has_medians:
        parser.add_argument(
            "--gene_median_file",
            type=Path,
            help="gene medians, JSON id -> number; 'default' stands for those of scDMC (default: every median is 1)",
        )
    add_gene_id_arguments(parser)


def add_species_arguments(parser: Parser, default: str | None = SPECIES[0]) -> None:
    """``--species`` and ``--ortholog_file``; with None for a default what was not given can be told apart."""
    shown = f" (default: {SPECIES[0]})" if default is None else ""
    parser.add_argument("--species", choices=SPECIES, default=default, help=f"whose genes the files hold{shown}")
    parser.add_argument(
        "--ortholog_file",
        type=Path,
        help="table of human and mouse genes (fetch_orthologs.py), needed for mouse; one-to-one pairs are mapped "
        "(default: none)",
    )


def add_shard_arguments(parser: argparse.ArgumentParser, block_size: int = BLOCK_SIZE) -> None:
    """Flags of the tokenized output."""
    group = parser.add_argument_group("output")
    add_output_dir_argument(group, "--output_directory", meaning="folder for the parquet files")
    group.add_argument(
        "--output_prefix", required=True, help="one shard becomes PREFIX.parquet, several PREFIX-00000.parquet, ..."
    )
    add_max_length_argument(group, "--model_input_size", default=MODEL_INPUT_SIZE)
    group.add_argument("--cells_per_shard", type=positive_int, default=CELLS_PER_SHARD, help="most cells of a file")
    group.add_argument("--block_size", type=positive_int, default=block_size, help="cells in memory at a time")
    add_resume_argument(
        group, "keep the finished shards of an interrupted run whose input and settings have not changed"
    )


def add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    """``--num_workers`` and ``--scheduler_address``: who does the work."""
    group = parser.add_argument_group("workers; the output is the same for any number of them")
    group.add_argument(
        "--num_workers",
        type=process_count,
        default=1,
        help="processes on this machine, one thread each; they share out the shards (see --cells_per_shard)",
    )
    group.add_argument(
        "--scheduler_address",
        help="tcp://HOST:PORT of a running Dask cluster whose workers do it instead (default: none); "
        "they must see the input and the output folder under the same paths, and whoever reaches the cluster acts in "
        "your name",
    )


def add_encoder_size_arguments(parser: Parser) -> None:
    """Sizes of the encoder that a benchmark runs; the defaults are those of the comparisons in the documentation."""
    parser.add_argument("--hidden_size", type=model_size, default=128, help="width of the encoder")
    parser.add_argument("--num_hidden_layers", type=model_size, default=4, help="layers")
    parser.add_argument("--num_attention_heads", type=model_size, default=4, help="heads")
    parser.add_argument(
        "--intermediate_size", type=model_size, default=256, help="width of the gated unit; BERT's is 3/2 of it"
    )


def encoder_sizes(arguments: argparse.Namespace) -> EncoderSizes:
    """The sizes that the flags of :func:`add_encoder_size_arguments` stand for."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return EncoderSizes(**{name: getattr(arguments, name) for name in names})
