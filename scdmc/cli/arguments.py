"""Groups of flags that several scripts share."""

import argparse
from dataclasses import asdict
from pathlib import Path

from scdmc.cells.options import SplitOptions
from scdmc.cli.parser import fraction, non_negative_int, positive_int, seed
from scdmc.errors import ScDMCError
from scdmc.gene_analysis.options import CELLS_PER_TYPE, ONE_STREAM, GeneDataOptions
from scdmc.options import BACK_ENDS, DTYPES
from scdmc.reading.options import CountOptions, is_counts

POOLING_HELP = "state of <cls>, or mean state of the genes, each weighted by its value or not"


RECOMPUTE_TOTALS_HELP = "take the sum of each cell as its total counts, whatever obs['n_counts'] says"


SPLIT_DEFAULTS = {name: value for name, value in asdict(SplitOptions()).items() if name != "seed"}


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of how cells are split; the seed is the script's own ``--seed``.

    Those of :data:`SPLIT_DEFAULTS` have None for a default: :func:`scdmc.cli.parser.fill_in` gives them theirs.
    """
    group = parser.add_argument_group("split")
    group.add_argument("--label_key", default="cell_type", help="column of obs with the labels")
    group.add_argument("--split_by", help="column of obs (donor_id, batch) whose groups stay in one part")
    group.add_argument("--validation_fraction", type=fraction, help="share of validation cells; 0.1 without it")
    group.add_argument("--test_fraction", type=fraction, help="share of test cells; 0.2 without it")
    group.add_argument(
        "--min_cells_per_type", type=positive_int, help="rarer types are left out and named; 10 without it"
    )


def split_columns(arguments: argparse.Namespace) -> list[str]:
    """Columns of obs that the flags of :func:`add_split_arguments` name."""
    return [arguments.label_key] + ([arguments.split_by] if arguments.split_by else [])


def split_options(arguments: argparse.Namespace) -> SplitOptions:
    """The options that the flags of :func:`add_split_arguments` and ``--seed`` stand for."""
    return SplitOptions(**{name: getattr(arguments, name) for name in SplitOptions.__dataclass_fields__})


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of how a model folder is opened and where the model runs."""
    group = parser.add_argument_group("running the model")
    group.add_argument("--token_dictionary_file", type=Path, help="vocabulary of a model folder that has none")
    group.add_argument("--attention", choices=BACK_ENDS, default="auto", help="attention back end")
    group.add_argument("--num_gpus", type=non_negative_int, help="0 forces the CPU")


def add_dtype_argument(parser: argparse.ArgumentParser) -> None:
    """The flag of scripts that only run a model and do not train it."""
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="bfloat16 is faster and agrees to a cosine of 0.999"
    )


def placement(arguments: argparse.Namespace) -> dict[str, object]:
    """Where the model runs, as keywords of :func:`scdmc.model.devices.place_model`."""
    return {name: getattr(arguments, name) for name in ("num_gpus", "attention", "dtype") if hasattr(arguments, name)}


def add_count_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of :class:`CountOptions`."""
    group = parser.add_argument_group("reading an .h5ad")
    group.add_argument("--layer", help="where the raw counts are: X, raw or the name of a layer; looked for without it")
    group.add_argument("--allow_normalized", action="store_true", help="take X even if it holds no integers")
    group.add_argument("--recompute_totals", action="store_true", help=RECOMPUTE_TOTALS_HELP)
    group.add_argument("--gene_id_column", help="column of var with the gene ids; looked for without it")
    group.add_argument("--gene_mapping_file", type=Path, help="JSON symbol or id -> current id, applied first")


def count_options(arguments: argparse.Namespace) -> CountOptions:
    """The options that the flags of :func:`add_count_arguments` stand for."""
    return CountOptions(**{name: getattr(arguments, name) for name in CountOptions.__dataclass_fields__})


def count_options_for(arguments: argparse.Namespace, data_path: Path) -> CountOptions:
    """The options of :func:`count_options` for one file; refuses flags that say nothing of it.

    Raises
    ------
    ScDMCError
        If one of the flags is given, and the data are tokenized already.
    """
    options = count_options(arguments)
    given = [f"--{name}" for name in CountOptions.__dataclass_fields__ if getattr(options, name)]
    if given and not is_counts(data_path):
        raise ScDMCError(
            f"{', '.join(given)}: only an .h5ad is read so, or other raw counts, and {data_path} is tokenized already; "
            "leave that out"
        )
    return options


def add_gene_arguments(parser: argparse.ArgumentParser, streams: tuple[str, ...] = ONE_STREAM) -> None:
    """Flags that all gene-level scripts share."""
    add_model_path_argument(parser)
    parser.add_argument("--data_path", type=Path, required=True, help=".h5ad with raw counts, or tokenized parquet")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for tables, figures and report.html")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --output_dir")
    parser.add_argument("--label_key", default="cell_type", help="column of obs with the cell types")
    parser.add_argument("--cell_types", nargs="+", metavar="TYPE", help="look at these types only")
    parser.add_argument(
        "--min_cells_per_type", type=positive_int, default=CELLS_PER_TYPE, help="smaller types are left out, and named"
    )
    parser.add_argument("--stream", choices=streams, default=streams[0], help="which stream the model reads")
    parser.add_argument("--seed", type=seed, default=42, help="of all that is drawn")
    add_model_arguments(parser)
    add_count_arguments(parser)


LEAVE_OUT_HELP = "cells to leave out by a column of obs, such as dataset=pbmc_a,pbmc_b; several are possible"


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


def add_leave_out_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--leave_out`` to a parser or a group of one."""
    parser.add_argument("--leave_out", nargs="+", default=[], metavar="COLUMN=VALUE[,VALUE...]", help=LEAVE_OUT_HELP)


def add_model_path_argument(
    parser: argparse._ActionsContainer,
    flag: str = "--model_path",
    meaning: str = "model folder",
    is_required: bool = True,
) -> None:
    """The flag that names a model, which may as well be written ``--model``.

    The value stays as it was given; all that opens a model folder asks :func:`model_folder` what it means.
    """
    text = f"{meaning}, or the name of a model under models/, such as scDMC-small"
    parser.add_argument(flag, "--model", type=Path, required=is_required, help=text)
