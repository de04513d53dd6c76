"""The paper's tables: annotation, clustering and integration of its data sets, beside all baselines, row by row."""

import argparse
import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cli.arguments import (
    add_model_argument,
    add_model_arguments,
    add_output_dir_argument,
    add_seed_argument,
    placement,
)
from scdmc.cli.inputs import require_count_file, require_model
from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.errors import ScDMCError
from scdmc.files import known_sha256, require_writable_folder
from scdmc.studies.paper.options import ANNOTATION, DATASETS, PaperOptions

if TYPE_CHECKING:
    from scdmc.model.folder import ModelDirectory
    from scdmc.studies.paper.data import PaperFile
    from scdmc.studies.paper.rows import PaperRows

EXAMPLES = (
    "{prog} --model scDMC-small --data_dir paper_data --output_dir paper_tables",
    "{prog} --model scDMC-small --data_dir paper_data --output_dir paper_tables --tasks annotation --datasets ms "
    "--seeds 1",
)
DEFAULT_SEEDS = 5


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the paper's tables."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_model_argument(parser, meaning="folder of a pre-trained model")
    parser.add_argument("--data_dir", type=Path, required=True, help="where paper_data.py has written its .h5ad files")
    add_output_dir_argument(parser, meaning="folder for rows and tables; rows that are there are not computed again")
    parser.add_argument("--tasks", nargs="+", choices=tuple(DATASETS), default=list(DATASETS), help="of the paper")
    names = tuple(dict.fromkeys(name for of in DATASETS.values() for name in of))
    parser.add_argument(
        "--datasets", nargs="+", choices=names, help="data sets of these tasks (default: all that the tasks have)"
    )
    add_seed_argument(parser, "of the first run")
    parser.add_argument("--seeds", type=positive_int, help=f"runs with seeds from --seed on (default: {DEFAULT_SEEDS})")
    parser.add_argument(
        "--tiny", action="store_true", help="one seed, one epoch, few steps: shows that everything runs, no more"
    )
    parser.add_argument("--dry_run", action="store_true", help="say how many hours it will take, computed, and end")
    add_model_arguments(parser)
    arguments = parser.parse_args(argv)
    arguments.seeds = arguments.seeds or (1 if arguments.tiny else DEFAULT_SEEDS)
    return arguments


def chosen_datasets(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Task -> its data sets that are asked for.

    Raises
    ------
    ScDMCError
        If a data set belongs to none of the tasks.
    """
    tasks = {task: list(DATASETS[task]) for task in arguments.tasks}
    if arguments.datasets:
        tasks = {task: [name for name in of if name in arguments.datasets] for task, of in tasks.items()}
        asked = {name for of in tasks.values() for name in of}
        left = [name for name in arguments.datasets if name not in asked]
        if left:
            raise ScDMCError(f"--datasets {left[0]}: none of the tasks {', '.join(arguments.tasks)} has it")
    return {task: of for task, of in tasks.items() if of}


def require_files_of(arguments: argparse.Namespace, names: list[str]) -> None:
    """Refuse data sets whose files are not there, and say how to make them."""
    if not arguments.data_dir.is_dir():
        raise ScDMCError(f"--data_dir {arguments.data_dir}: no such folder; paper_data.py makes it")
    missing = [name for name in names if not (arguments.data_dir / f"{name}.h5ad").is_file()]
    if missing:
        raise ScDMCError(
            f"--data_dir {arguments.data_dir} lacks {', '.join(missing)}: `python prepare/paper_data.py --dataset "
            f"{missing[0]} --output_dir {arguments.data_dir} --download` makes one, or leave it out with --datasets"
        )
    for name in names:
        require_count_file(arguments.data_dir / f"{name}.h5ad", "--data_dir")


@script
def main(argv: list[str] | None = None) -> int:
    """Compute the rows that are missing, and write the tables of all rows."""
    began, arguments = time.time(), parse_arguments(argv)
    require_model(arguments.model)
    tasks = chosen_datasets(arguments)
    names = list(dict.fromkeys(name for of in tasks.values() for name in of))
    if arguments.dry_run:
        return say_hours(arguments, names)
    require_files_of(arguments, names)
    require_writable_folder(arguments.output_dir)

    from scdmc.locks import output_lock
    from scdmc.model.devices import choose_device
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import saw_labels
    from scdmc.reports.provenance import Provenance
    from scdmc.reports.tables import markdown
    from scdmc.studies.paper.data import open_paper_file
    from scdmc.studies.paper.rows import PaperRows
    from scdmc.studies.paper.tables import write_paper_tables

    choose_device(arguments.num_gpus)
    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    if saw_labels(model_directory):
        raise ScDMCError(f"{arguments.model} is a classifier; give a pre-trained model, which saw no labels")
    files = {name: open_paper_file(name, arguments.data_dir / f"{name}.h5ad") for name in names}
    seeds = tuple(range(arguments.seed, arguments.seed + arguments.seeds))
    options = PaperOptions(seeds, arguments.tiny, arguments.dtype)
    with output_lock(arguments.output_dir):
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        rows = PaperRows(arguments.output_dir, names if arguments.overwrite else ())
        facts = facts_of_rows(model_directory, arguments)
        rows.require_same_run(facts, {name: known_sha256(of.path) for name, of in files.items()})
        inputs = tuple(file.path for file in files.values())
        made = Provenance(inputs, model_directory.path.name, arguments.seed, began)
        tables = {}
        for name, file in files.items():
            its_tasks = {task: DATASETS[task] for task, of in tasks.items() if name in of}
            add_rows(file, model_directory, list(its_tasks), options, rows, arguments)
            # With the rows of earlier runs, too.
            tables |= write_paper_tables(arguments.output_dir, rows, its_tasks, files, arguments.tiny, made)
    for of_task in tables.values():
        for table in of_task:
            print(f"{table.title}\n{markdown(table.texts, table.is_best)}")
            print("".join(f"- {note}\n" for note in table.notes), end="")
    print(f"wrote {arguments.output_dir}")
    return int(bool(rows.failures))


def facts_of_rows(model_directory: "ModelDirectory", arguments: argparse.Namespace) -> dict[str, object]:
    """What must be the same for all rows of a folder, beside the data: all that scores depend on."""
    kinds = (".safetensors", ".bin", ".json")
    model = sorted(path for path in model_directory.path.iterdir() if path.suffix in kinds)
    dictionary = arguments.token_dictionary_file
    return {
        "model": [known_sha256(path) for path in model],
        "token_dictionary_file": "" if dictionary is None else known_sha256(dictionary),
        "dtype": arguments.dtype,
        "tiny": arguments.tiny,
    }


def say_hours(arguments: argparse.Namespace, names: list[str]) -> int:
    """Print how long the encoder will take, by the cells of the files that are there and of the sources of the rest."""
    from scdmc.model.devices import place_model
    from scdmc.model.folder import open_model_directory
    from scdmc.reading.h5ad import read_obs
    from scdmc.studies.paper.hours import hours_table, seconds_per_cell

    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    seconds = seconds_per_cell(model_directory, functools.partial(place_model, **placement(arguments)))
    paths = {name: arguments.data_dir / f"{name}.h5ad" for name in names}
    n_cells = {name: len(read_obs(path)) if path.is_file() else None for name, path in paths.items()}
    table = hours_table(n_cells, seconds, arguments.seeds, model_directory.config.hidden_size)
    print(table.to_string(index=False, float_format="{:.2f}".format))
    print(
        f"Computed, not measured: {seconds:.4f} s a cell of {model_directory.context} tokens on this machine now, "
        f"times the passes of {arguments.seeds} seeds. Cells with fewer genes and early stops take less; downloads, "
        "logistic regression, scVI and the other methods come on top. Of a set that is known from a selection, there "
        "are more cells."
    )
    return 0


def add_rows(
    file: "PaperFile",
    model_directory: "ModelDirectory",
    tasks: list[str],
    options: PaperOptions,
    rows: "PaperRows",
    arguments: argparse.Namespace,
) -> None:
    """The rows of one data set, by the tasks that it belongs to."""
    from scdmc.model.devices import place_model, place_model_for_training
    from scdmc.studies.paper.annotation import add_annotation_rows
    from scdmc.studies.paper.integration import add_integration_rows

    where = placement(arguments)
    run = functools.partial(place_model, **where)
    if ANNOTATION in tasks:
        train = functools.partial(place_model_for_training, **where)
        add_annotation_rows(file, model_directory, (train, run), options, rows)
    else:
        add_integration_rows(file, model_directory, run, options, rows)


if __name__ == "__main__":
    raise SystemExit(main())
