"""Score how well embeddings merge batches and keep types apart, beside standard methods; no label is used to embed."""

import argparse
import functools
import time
from dataclasses import asdict
from pathlib import Path

from scdmc.cli.arguments import (
    add_batch_key_argument,
    add_count_arguments,
    add_data_argument,
    add_embedding_arguments,
    add_label_key_argument,
    add_model_argument,
    add_model_arguments,
    add_output_dir_argument,
    add_own_embedding_arguments,
    add_seed_argument,
    count_options_for,
    embedding_options,
    own_embeddings,
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
)
from scdmc.cli.task_inputs import require_task_inputs
from scdmc.errors import ScDMCError
from scdmc.files import names_of_files
from scdmc.integration.options import (
    ADAPTATIONS,
    DEFAULT_ADAPTATION,
    DEFAULT_METHODS,
    DEFAULT_SEEDS,
    ENCODER,
    HEAD,
    JOINED,
    METHODS,
    PROTOCOLS,
    AdaptationSettings,
    HeadSettings,
    IntegrationOptions,
)
from scdmc.reading.options import is_counts
from scdmc.result_folders import keep_results, result_folder
from scdmc.training.launch import require_launch

EXAMPLES = (
    "{prog} --model scDMC-small --data_path cells.h5ad --output_dir integration --batch_key batch",
    "{prog} --model scDMC-small --data_path a.h5ad b.h5ad --output_dir integration --methods scdmc pca harmony scvi "
    "--harmony --adapt",
)
ADAPTATION_DEFAULTS = {
    f"adapt_{name}": value
    for name, value in asdict(AdaptationSettings()).items()
    if name not in ("batch_balanced", "dtype")
}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the integration benchmark."""
    parser, defaults = argument_parser(__doc__, EXAMPLES), IntegrationOptions(methods=("scdmc",))
    add_model_argument(parser)
    meaning = "tokenized parquet, or .h5ad with raw counts; one or several"
    add_data_argument(parser, "--tokenized_data_path", meaning=meaning, nargs="+")
    add_output_dir_argument(parser, meaning="folder for scores and figures", default=Path("integration_output"))
    add_batch_key_argument(parser)
    meaning = "column of obs with the cell types, for the scores only (default: cell_type where there is one)"
    add_label_key_argument(parser, meaning, default=None)
    group = parser.add_argument_group("what is compared")
    group.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=list(DEFAULT_METHODS),
        help="harmony, scvi (needs an .h5ad) and scanorama are packages of their own",
    )
    add_own_embedding_arguments(group)
    group.add_argument(
        "--harmony", action="store_true", help="add, for every row of scDMC, the same after Harmony (+ Harmony)"
    )
    group.add_argument(
        "--protocols",
        nargs="+",
        choices=PROTOCOLS,
        default=list(PROTOCOLS),
        help="published: Leiden at --resolution and the paper's six scores; scib: the scores of scIB, each method at "
        "the resolution of its best NMI",
    )
    group.add_argument(
        "--resolution",
        type=positive_float,
        default=defaults.resolution,
        help="of Leiden in the protocol published, the same for every method",
    )
    add_embedding_arguments(group)
    add_seed_argument(group, "of every method, neighbours, Leiden and UMAP")
    group.add_argument(
        "--seeds",
        type=positive_int,
        default=DEFAULT_SEEDS,
        help="so many runs with seeds --seed, --seed + 1, ...; means and standard deviations are shown",
    )
    group.add_argument(
        "--scvi_epochs", type=positive_int, help="of scVI (default: scVI chooses by the number of cells)"
    )
    add_adaptation_arguments(parser)
    add_model_arguments(parser)
    add_count_arguments(parser)
    arguments = parser.parse_args(argv)
    fill_in_adaptation(arguments)
    has_scvi = "scvi" in arguments.methods
    fill_in(arguments, {"scvi_epochs": None}, has_scvi, "without scvi among --methods")
    tokenized = [path.stem for path in arguments.data_path if not is_counts(path)]
    if has_scvi and tokenized:
        raise ScDMCError(
            f"{tokenized[0]}: scVI needs raw counts, and tokenized parquet has none; give the file of counts"
        )
    return arguments


def add_adaptation_arguments(parser: argparse.ArgumentParser) -> None:
    """Which rows are adapted, and flags of the row 'scDMC adapted', whose defaults are filled in later."""
    group = parser.add_argument_group("adapting to the cells without labels")
    group.add_argument(
        "--adapt",
        nargs="*",
        choices=ADAPTATIONS,
        help="head: a linear layer on scDMC and principal components that draws batches together (seconds; meant by "
        "--adapt alone); joined: scDMC and principal components side by side; both end with Harmony; encoder: more "
        "pre-training on these cells, to which the other flags here belong (default: no row is adapted)",
    )
    flags = {
        "minutes": (positive_float, "train this long"),
        "steps": (positive_int, "optimizer steps, instead of --adapt_minutes"),
        "learning_rate": (positive_float, "its peak"),
        "batch_size": (positive_int, "cells of a step"),
        "queue_size": (non_negative_int, "past keys as more negatives"),
        "mutual_neighbors": (
            non_negative_int,
            "cells of two batches among so many nearest neighbours of each other are drawn together; 0 for none",
        ),
        "view_dropout": (probability, "share of its genes that each stream lacks"),
        "mlm_weight": (non_negative_float, "weight of the masked genes"),
        "momentum": (closed_fraction, "of the momentum encoder"),
    }
    for name, (kind, meaning) in flags.items():
        default = ADAPTATION_DEFAULTS[f"adapt_{name}"]
        shown = "by time" if default is None else default
        group.add_argument(f"--adapt_{name}", type=kind, help=f"{meaning} (default: {shown})")
    group.add_argument(
        "--batch_balanced", action="store_true", help="each step holds the batches of the data in their shares"
    )


def fill_in_adaptation(arguments: argparse.Namespace) -> None:
    """``--adapt`` alone means the default way; flags of the encoder's training are refused where it is not trained."""
    arguments.adapt = [DEFAULT_ADAPTATION] if arguments.adapt == [] else arguments.adapt or []
    trains = ENCODER in arguments.adapt
    fill_in(arguments, {**ADAPTATION_DEFAULTS, "batch_balanced": False}, trains, "without --adapt encoder")


def benchmark_options(arguments: argparse.Namespace) -> IntegrationOptions:
    """What the flags ask for."""
    prefix, adapt = "adapt_", arguments.adapt
    settings = {name.removeprefix(prefix): value for name, value in vars(arguments).items() if name.startswith(prefix)}
    adaptation = AdaptationSettings(batch_balanced=arguments.batch_balanced, dtype=arguments.dtype, **settings)
    return IntegrationOptions(
        methods=tuple(arguments.methods),
        adaptation=adaptation if ENCODER in adapt else None,
        head=HeadSettings() if HEAD in adapt else None,
        joined=JOINED in adapt,
        **embedding_options(arguments),
        resolution=arguments.resolution,
        seeds=tuple(range(arguments.seed, arguments.seed + arguments.seeds)),
        protocols=tuple(arguments.protocols),
        harmony=arguments.harmony,
        scvi_epochs=arguments.scvi_epochs,
        scvi_accelerator="cpu" if arguments.num_gpus == 0 else "auto",
    )


@script
def main(argv: list[str] | None = None) -> int:
    """Embed all cells by each method, score those with a type, all alike, and draw them."""
    began, arguments = time.time(), parse_arguments(argv)
    output_dir, paths = arguments.output_dir, arguments.data_path
    keys, options = (arguments.batch_key, arguments.label_key), benchmark_options(arguments)
    names, own = names_of_files(paths, "--data_path"), own_embeddings(arguments)
    counts = [count_options_for(arguments, path) for path in paths]
    require_task_inputs(arguments)
    if options.adaptation is not None:
        require_launch()

    from scdmc.cells.own_embeddings import require_own_embeddings
    from scdmc.cells.viewers import ForViewers
    from scdmc.integration.data import read_integration_data
    from scdmc.integration.maps import cell_maps, write_integrated
    from scdmc.integration.results import draw_integration_results, draw_study, write_page
    from scdmc.integration.study import require_runnable, run_benchmark
    from scdmc.integration.tables import printed_scores, write_integration_tables, write_study_tables
    from scdmc.model.devices import place_model
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import load_model
    from scdmc.reading.h5ad import require_room_for_results
    from scdmc.reading.label_colours import label_colours
    from scdmc.reports.colours import one_colour_per_type
    from scdmc.reports.provenance import Provenance

    require_own_embeddings(own, paths)
    for path in paths:
        require_room_for_results(path, arguments.output_dir)
    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    place = functools.partial(place_model, **placement(arguments))
    place(load_model(model_directory.path, ScDMCModel))  # what cannot run is refused before the cells are read
    data_sets = [
        read_integration_data(path, name, model_directory, keys, its_counts, "scvi" in options.methods, own)
        for path, name, its_counts in zip(paths, names, counts, strict=True)
    ]
    for data in data_sets:
        require_runnable(data, model_directory, options)

    made = Provenance(tuple(paths), model_directory.path.name, options.seeds[0], began)
    with result_folder(output_dir) as folder:
        folders = {data.name: folder / data.name if len(paths) > 1 else folder for data in data_sets}
        benchmarks, maps = {}, {}
        viewers = ForViewers(made, columns=tuple(filter(None, keys)))
        for path, data in zip(paths, data_sets, strict=True):
            benchmark = benchmarks[data.name] = run_benchmark(data, model_directory, place, options)
            write_integration_tables(folders[data.name], benchmark, data.name)
            maps[data.name] = cell_maps(data, benchmark)
            with one_colour_per_type(data.labels, label_colours(path, data.keys[1])):
                write_integrated(folders[data.name], path, data, benchmark, maps[data.name], viewers)
            print(f"{data.name}\n{printed_scores(benchmark)}")
        study = write_study_tables(folder, benchmarks) if len(paths) > 1 else None
        keep_results(folder)
        sections = []
        for path, data in zip(paths, data_sets, strict=True):
            with one_colour_per_type(data.labels, label_colours(path, data.keys[1])):
                drawn = (data, benchmarks[data.name], maps[data.name])
                sections.append(draw_integration_results(folders[data.name], *drawn))
        if study:
            sections.insert(0, draw_study(folder, study))
        write_page(folder, sections, benchmarks, made)
    print(f"wrote {output_dir}")
    return int(any(benchmark.failures for benchmark in benchmarks.values()))


if __name__ == "__main__":
    raise SystemExit(main())
