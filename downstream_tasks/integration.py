"""Score how well embeddings merge batches and keep types apart, beside standard methods; no label is used to embed."""

import argparse
import logging
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from scdmc.cells.data import names_of_files, read_cells
from scdmc.cells.expression import read_expression, read_raw_counts
from scdmc.cells.results import write_annotated
from scdmc.cells.scores import wide_metrics
from scdmc.cli.arguments import (
    POOLING_HELP,
    add_count_arguments,
    add_dtype_argument,
    add_model_arguments,
    add_model_path_argument,
    count_options_for,
    placement,
)
from scdmc.cli.parser import (
    argument_parser,
    closed_fraction,
    fill_in,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    probability,
    script,
    seed,
)
from scdmc.files import require_new_folder
from scdmc.integration.options import DEFAULT_METHODS, METHODS, AdaptationSettings, IntegrationOptions
from scdmc.integration.results import summary_lines, write_page, write_results, write_study
from scdmc.integration.study import (
    OBSM_KEYS,
    IntegrationData,
    integration_data,
    mean_rows,
    require_runnable,
    run_benchmark,
    usable_cells,
)
from scdmc.model.devices import place_model
from scdmc.model.encoder import ScDMCModel, ScDMCPreTrainedModel
from scdmc.model.folder import ModelDirectory, open_model_directory
from scdmc.model.storage import load_model
from scdmc.options import POOLINGS, STREAMS
from scdmc.reading.h5ad import require_room_for_results

logger = logging.getLogger(__name__)

ADAPTATION_DEFAULTS = {
    f"adapt_{name}": value
    for name, value in asdict(AdaptationSettings()).items()
    if name not in ("batch_balanced", "bf16")
}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the integration benchmark."""
    parser = argument_parser(__doc__)
    add_model_path_argument(parser)
    parser.add_argument(
        "--tokenized_data_path", type=Path, nargs="+", required=True, help="tokenized parquet, or .h5ad; one or several"
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path("integration_output"), help="folder for scores and figures"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files in --output_dir")
    parser.add_argument("--batch_key", default="batch", help="column of obs with the batches")
    parser.add_argument("--label_key", default="cell_type", help="column of obs with the types, for the scores only")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(DEFAULT_METHODS),
        help="what is compared; scvi (needs an .h5ad) and scanorama are packages of their own",
    )  # fmt: skip
    parser.add_argument("--full_scores", action="store_true", help="add iLISI, cLISI, kBET, PCR, isolated labels")
    parser.add_argument("--resolution", type=positive_float, default=0.2, help="of Leiden, the same for every method")
    parser.add_argument("--stream", choices=STREAMS, default="both", help="which stream; both are joined")
    parser.add_argument("--pooling", choices=POOLINGS, default="cls", help=POOLING_HELP)
    parser.add_argument(
        "--centre_batches", action="store_true", help="add rows of scDMC with the batches moved to one mean"
    )
    parser.add_argument("--seed", type=seed, default=42, help="of every method, neighbours, Leiden and UMAP")
    parser.add_argument(
        "--seeds", type=positive_int, default=1, help="so many runs with seeds --seed, --seed + 1, ...; means are shown"
    )
    parser.add_argument("--scvi_epochs", type=positive_int, help="scVI chooses by the number of cells without it")
    add_adaptation_arguments(parser)
    add_model_arguments(parser)
    add_dtype_argument(parser)
    add_count_arguments(parser)
    arguments = parser.parse_args(argv)
    fill_in(arguments, {**ADAPTATION_DEFAULTS, "batch_balanced": False}, arguments.adapt, "without --adapt")
    fill_in(arguments, {"scvi_epochs": None}, "scvi" in arguments.methods, "without scvi among --methods")
    return arguments


def add_adaptation_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the row 'scDMC adapted'; :func:`parse_arguments` fills in their defaults."""
    group = parser.add_argument_group("adapting to the cells without labels")
    group.add_argument("--adapt", action="store_true", help="add scDMC after more pre-training on these cells")
    flags = {
        "minutes": (positive_float, "train this long"),
        "steps": (positive_int, "optimizer steps, instead of --adapt_minutes"),
        "learning_rate": (positive_float, "its peak"),
        "batch_size": (positive_int, "cells of a step"),
        "queue_size": (non_negative_int, "past keys as more negatives"),
        "mutual_neighbours": (
            non_negative_int,
            "cells of two batches among so many nearest neighbours of each other are drawn together; 0 for none",
        ),
        "view_dropout": (probability, "share of its genes that each stream lacks"),
        "mlm_weight": (non_negative_float, "weight of the masked genes"),
        "momentum": (closed_fraction, "of the momentum encoder"),
    }
    for name, (kind, meaning) in flags.items():
        default = ADAPTATION_DEFAULTS[f"adapt_{name}"]
        meaning += "" if default is None else f" (default: {default})"
        group.add_argument(f"--adapt_{name}", type=kind, help=meaning)
    group.add_argument(
        "--batch_balanced", action="store_true", help="each step holds the batches of the data in their shares"
    )


def benchmark_options(arguments: argparse.Namespace) -> IntegrationOptions:
    """What the flags ask for."""
    prefix = "adapt_"
    settings = {name.removeprefix(prefix): value for name, value in vars(arguments).items() if name.startswith(prefix)}
    adaptation = AdaptationSettings(
        batch_balanced=arguments.batch_balanced, bf16=arguments.dtype == "bfloat16", **settings
    )
    return IntegrationOptions(
        methods=tuple(arguments.methods),
        adaptation=adaptation if arguments.adapt else None,
        stream=arguments.stream,
        pooling=arguments.pooling,
        resolution=arguments.resolution,
        seeds=tuple(range(arguments.seed, arguments.seed + arguments.seeds)),
        full_scores=arguments.full_scores,
        scvi_epochs=arguments.scvi_epochs,
        scvi_accelerator="cpu" if arguments.num_gpus == 0 else "auto",
        centre_batches=arguments.centre_batches,
    )


def read_data(path: Path, name: str, model_directory: ModelDirectory, arguments: argparse.Namespace) -> IntegrationData:
    """The cells of a data set that can be integrated, after a check that they can be scored."""
    keys, options = (arguments.batch_key, arguments.label_key), count_options_for(arguments, path)
    cells = read_cells(path, model_directory, keys, options)
    usable = usable_cells(cells, model_directory, *keys)
    expression, _ = read_expression(path, cells, model_directory, options)
    counts = read_raw_counts(path, cells, options) if "scvi" in arguments.methods else None
    return integration_data(name, cells, usable, keys, expression, counts)


@script
def main(argv: list[str] | None = None) -> int:
    """Embed all cells by each method, score those with a type, all alike, and draw them."""
    arguments = parse_arguments(argv)
    output_dir, paths = arguments.output_dir, arguments.tokenized_data_path
    keys, options = (arguments.batch_key, arguments.label_key), benchmark_options(arguments)
    names = names_of_files(paths, "--tokenized_data_path")
    require_new_folder(output_dir, arguments.overwrite)
    for path in paths:
        require_room_for_results(path)
    model_directory = open_model_directory(arguments.model_path, arguments.token_dictionary_file)

    def place(model: ScDMCPreTrainedModel) -> ScDMCPreTrainedModel:
        return place_model(model, **placement(arguments))

    place(load_model(model_directory.path, ScDMCModel))  # what cannot run is refused before the cells are read
    data_sets = [read_data(path, name, model_directory, arguments) for path, name in zip(paths, names, strict=True)]
    for data in data_sets:
        require_runnable(data, model_directory, options)

    runs, sections = {}, []
    for path, data in zip(paths, data_sets, strict=True):
        folder = output_dir / data.name if len(paths) > 1 else output_dir
        runs[data.name] = run_benchmark(data, model_directory, place, options)
        sections.append(write_results(folder, data, runs[data.name], keys))
        first = runs[data.name][0].embeddings
        obsm = {OBSM_KEYS[method]: embedding for method, embedding in first.items()}
        write_annotated(folder / "integrated.h5ad", path, data.cells, obsm=obsm)
        table = wide_metrics(pd.DataFrame(mean_rows(runs[data.name])))
        print("\n".join([data.name, table.round(3).to_string(), *summary_lines(table)]))
    if len(paths) > 1:
        table, section = write_study(output_dir, runs)
        sections.insert(0, section)
        print(table.round(3).to_string())
    write_page(output_dir, sections)
    print(f"wrote {output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
