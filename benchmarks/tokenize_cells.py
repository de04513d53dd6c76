"""The tokenizer's speed and memory, beside a plain loop over cells that writes Python lists through ``datasets``.

Rates are marginal: from the difference between many and few cells, so that starting up does not count. Every figure is
the median of several rounds, each in a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from scdmc.cli.arguments import add_seed_argument
from scdmc.cli.parser import argument_parser, positive_int, process_count, script
from scdmc.tokens.options import CELLS_PER_SHARD

EXAMPLES = ("{prog}", "{prog} --rounds 5 --most_cells 100000")
# Small enough that two workers have something to share out.
CELLS_PER_SMALL_SHARD = 1_500


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argument_parser(__doc__, EXAMPLES)
    parser.add_argument("--few_cells", type=positive_int, default=3_000, help="cells of the smaller file")
    parser.add_argument("--many_cells", type=positive_int, default=12_000, help="cells of the larger file")
    parser.add_argument(
        "--most_cells", type=positive_int, help="also a file of so many cells, such as 100000 (default: none)"
    )
    parser.add_argument("--rounds", type=positive_int, default=3, help="how often everything is measured")
    parser.add_argument("--ways_to_write", action="store_true", help="only the ways to write parquet, in one process")
    add_seed_argument(parser, "of the counts")
    parser.add_argument("--measure", choices=("tokenize", "stages", "plain_loop"), help=argparse.SUPPRESS)
    parser.add_argument("--write_cells", type=positive_int, help=argparse.SUPPRESS)
    parser.add_argument("--data_path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--num_workers", type=process_count, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--cells_per_shard", type=positive_int, default=CELLS_PER_SHARD, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def measure_here(arguments: argparse.Namespace) -> None:
    """Print what was measured, CPU seconds, and the peak memory of this process or its largest child, as JSON."""
    from scdmc.memory import peak_memory_of_largest_process
    from scdmc.studies.tokenizing_speed import measure_plain_loop, measure_stages, measure_tokenize

    folder = arguments.data_path
    with tempfile.TemporaryDirectory(dir=folder.parent) as output:
        if arguments.measure == "tokenize":
            found = measure_tokenize(folder, Path(output), arguments.cells_per_shard, arguments.num_workers)
        else:
            measure = {"stages": measure_stages, "plain_loop": measure_plain_loop}[arguments.measure]
            found = measure(folder, Path(output))
    print(json.dumps({**found, "cpu_seconds": sum(os.times()[:4]), "mib": peak_memory_of_largest_process() / 2**20}))


def run_self(*options: object) -> str:
    """What this script prints in a process of its own."""
    command = [str(part) for part in (sys.executable, __file__, *options)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return result.stdout


def run_measure(folder: Path, measure: str, *options: object) -> dict:
    """One measurement in a process of its own."""
    return json.loads(run_self("--measure", measure, "--data_path", folder, *options).splitlines()[-1])


def marginal(arguments: argparse.Namespace, folders: dict[int, Path], n_cells: int, *options: object) -> dict:
    """Marginal rates against the file of few cells, in cells/s and cells per CPU second, and peak memory in MiB."""
    rates, cpu_rates, peaks = [], [], []
    for _ in range(arguments.rounds):
        few = run_measure(folders[arguments.few_cells], *options)
        many = run_measure(folders[n_cells], *options)
        more = n_cells - arguments.few_cells
        rates.append(more / (many["seconds"] - few["seconds"]))
        cpu_rates.append(more / (many["cpu_seconds"] - few["cpu_seconds"]))
        peaks.append(many["mib"])
    return {"rates": sorted(rates), "cpu_rate": statistics.median(cpu_rates), "mib": max(peaks)}


def print_rates(arguments: argparse.Namespace, folders: dict[int, Path]) -> None:
    """Table of rates: one process, one and two workers with small shards, the plain loop."""
    small = ("--cells_per_shard", CELLS_PER_SMALL_SHARD)
    # The more cells, the less it matters that the time in which workers start varies.
    most = max(folders)
    rows = {f"scDMC, one process, {n:,} cells": (n, "tokenize") for n in folders if n != arguments.few_cells}
    rows[f"scDMC, one process, {most:,} cells in shards of 1,500"] = (most, "tokenize", *small)
    rows[f"scDMC, two workers, {most:,} cells in shards of 1,500"] = (most, "tokenize", *small, "--num_workers", 2)
    if find_spec("datasets"):
        rows["plain loop through datasets"] = (arguments.many_cells, "plain_loop")
    else:
        print("the plain loop is left out: it needs the package datasets (pip install datasets)")
    print("| | cells/s (lowest to highest) | cells per CPU second | peak memory of a process, MiB |\n|---|---|---|---|")
    for name, (n_cells, *options) in rows.items():
        found = marginal(arguments, folders, n_cells, *options)
        rates = found["rates"]
        spread = f"{statistics.median(rates):,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})"
        print(f"| {name} | {spread} | {found['cpu_rate']:,.0f} | {found['mib']:,.0f} |", flush=True)


def print_stages(arguments: argparse.Namespace, folder: Path) -> None:
    """Table of the stages beside their floors."""
    rounds = [run_measure(folder, "stages") for _ in range(arguments.rounds)]
    median = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    print("\n| stage | µs a cell | of which the bare operation |\n|---|---|---|")
    for stage, operation in (
        ("read", "reading the CSR matrix"),
        ("sort", "sorting each cell's keys"),
        ("write", "writing finished tables"),
    ):
        print(f"| {stage} | {median[stage]:.1f} | {operation}: {median[f'{stage}_floor']:.1f} |")


def print_ways_to_write(arguments: argparse.Namespace, folder: Path) -> None:
    """Table of the ways to write the tokenized cells."""
    from scdmc.studies.tokenizing_speed import measure_ways_to_write

    with tempfile.TemporaryDirectory(dir=folder.parent) as output:
        found = measure_ways_to_write(folder, Path(output), arguments.rounds)
    print("| way to write | CPU µs a cell | bytes a cell |\n|---|---:|---:|")
    for name, (microseconds, size) in found.items():
        print(f"| {name} | {microseconds:.0f} | {size:,.0f} |")


@script
def main(argv: list[str] | None = None) -> int:
    """Measure and print two tables."""
    arguments = parse_arguments(argv)

    from scdmc.studies.tokenizing_speed import N_GENES, genes_per_cell, write_counts

    if arguments.write_cells:
        write_counts(arguments.data_path, arguments.write_cells, arguments.seed)
        return 0
    if arguments.measure:
        measure_here(arguments)
        return 0
    more = [] if arguments.ways_to_write else [arguments.many_cells, arguments.most_cells]
    sizes = [arguments.few_cells, *(n_cells for n_cells in more if n_cells)]
    with tempfile.TemporaryDirectory() as work:
        folders = {n_cells: Path(work) / f"cells_{n_cells}" for n_cells in sizes}
        for n_cells, folder in folders.items():
            # In a process of its own: the peak memory of a process starts at that of the one that started it.
            run_self("--write_cells", n_cells, "--data_path", folder, "--seed", arguments.seed)
        if arguments.ways_to_write:
            print_ways_to_write(arguments, folders[arguments.few_cells])
            return 0
        n_genes = genes_per_cell(folders[arguments.few_cells], arguments.few_cells)
        print(f"{n_genes:,.0f} of {N_GENES:,} genes a cell\n")
        print_rates(arguments, folders)
        print_stages(arguments, folders[arguments.few_cells])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
