"""The tokenizer's speed and memory, beside a plain loop over cells that writes Python lists through ``datasets``.

Rates are marginal: from the difference between many and few cells, so that starting up does not count. Every figure is
the median of several rounds, each in a process of its own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse

from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.files import write_json
from scdmc.genes.vocabulary import SPECIAL_TOKENS, load_vocabulary
from scdmc.reading.counts import open_counts
from scdmc.reading.options import BLOCK_SIZE
from scdmc.tokens.file_report import new_report
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.parquet import parquet_schema, parquet_table, parquet_writer
from scdmc.tokens.tokenize_folder import FolderJob, tokenize_folder
from scdmc.tokens.tokenizer import CELLS_PER_SHARD, Tokenizer, kept_obs, tokenize_blocks

N_GENES = 20_000
# Of negative-binomial counts, chosen for about 1,560 genes a cell and frequencies that are as skewed as real ones.
MEDIAN_COUNTS = 3_050
SPREAD_OF_COUNTS = 0.4
SPREAD_OF_GENES = 2.0
DISPERSION = 2.0
DISTINCT_CELLS = 3_000
# Small enough that two workers have something to share out.
CELLS_PER_SMALL_SHARD = 1_500


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argument_parser(__doc__)
    parser.add_argument("--few_cells", type=positive_int, default=3_000, help="cells of the smaller file")
    parser.add_argument("--many_cells", type=positive_int, default=12_000, help="cells of the larger file")
    parser.add_argument("--most_cells", type=positive_int, help="also a file of so many cells, such as 100000")
    parser.add_argument("--rounds", type=positive_int, default=3, help="how often everything is measured")
    parser.add_argument("--seed", type=int, default=0, help="of the counts")
    parser.add_argument("--measure", choices=("tokenize", "stages", "plain_loop"), help=argparse.SUPPRESS)
    parser.add_argument("--write_cells", type=positive_int, help=argparse.SUPPRESS)
    parser.add_argument("--input_directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--num_workers", type=positive_int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--cells_per_shard", type=positive_int, default=CELLS_PER_SHARD, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def write_counts(folder: Path, n_cells: int, seed: int) -> None:
    """Write ``cells.h5ad``, a CSR matrix of random cells (3,000 different ones, over and over), and gene medians."""
    generator = np.random.default_rng(seed)
    vocabulary = load_vocabulary()
    genes = generator.choice(vocabulary.tokens[len(SPECIAL_TOKENS) :].astype(str), N_GENES, replace=False)
    frequency = generator.lognormal(0, SPREAD_OF_GENES, N_GENES)
    frequency /= frequency.sum()
    blocks = []
    for _ in range(DISTINCT_CELLS // 1_000):
        means = generator.lognormal(np.log(MEDIAN_COUNTS), SPREAD_OF_COUNTS, 1_000)[:, None] * frequency
        drawn = generator.negative_binomial(DISPERSION, DISPERSION / (DISPERSION + means))
        blocks.append(scipy.sparse.csr_matrix(drawn.astype(np.float32)))
    distinct = scipy.sparse.vstack(blocks, format="csr")
    counts = scipy.sparse.vstack([distinct] * -(-n_cells // DISTINCT_CELLS), format="csr")[:n_cells]
    obs = pd.DataFrame({"cell_type": pd.Categorical(["a", "b", "c"] * n_cells)[:n_cells]})
    obs.index = [f"cell_{row}" for row in range(n_cells)]
    folder.mkdir()
    anndata.AnnData(counts, obs, pd.DataFrame(index=genes)).write_h5ad(folder / "cells.h5ad")
    medians = generator.lognormal(0, 1, N_GENES)
    write_json(folder / "medians.json", dict(zip(genes.tolist(), medians.tolist(), strict=True)))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer with the medians in a folder."""
    return Tokenizer(load_vocabulary(), load_gene_medians(folder / "medians.json"))


def measure_tokenize(arguments: argparse.Namespace, output: Path) -> dict:
    """Seconds of the whole job, as a user runs it."""
    job = FolderJob(
        input_directory=arguments.input_directory,
        output_directory=output,
        output_prefix="cells",
        tokenizer=load_tokenizer(arguments.input_directory),
        obs_columns=["cell_type"],
        cells_per_shard=arguments.cells_per_shard,
    )
    start = time.perf_counter()
    tokenize_folder(job, num_workers=arguments.num_workers)
    return {"seconds": time.perf_counter() - start}


def measure_stages(arguments: argparse.Namespace, output: Path) -> dict:
    """Microseconds a cell of each stage of the tokenizer in one process, and of the bare operation in it."""
    pa.set_cpu_count(1)
    tokenizer = load_tokenizer(arguments.input_directory)
    seconds = Counter()
    tables = []
    with open_counts(arguments.input_directory / "cells.h5ad") as counts:
        match = tokenizer.match(counts)
        report = new_report(counts, match)
        schema = parquet_schema({}, tokenizer.settings, counts.name)
        start = time.perf_counter()
        blocks = list(counts.blocks())
        seconds["read"] = time.perf_counter() - start
        start = time.perf_counter()
        streams = list(tokenize_blocks(counts, tokenizer, match, report))
        # Reading again, and what the streams and the report cost.
        seconds["sort"] = time.perf_counter() - start - seconds["read"]
        start = time.perf_counter()
        with parquet_writer(output / "cells.parquet", schema) as writer:
            for rows, of_block in streams:
                tables.append(parquet_table(of_block, kept_obs(counts, rows, []), schema))
                writer.write_table(tables[-1])
        seconds["write"] = time.perf_counter() - start
        seconds |= bare_operations(arguments.input_directory, blocks, tables, output)
        return {name: 1e6 * value / counts.n_cells for name, value in seconds.items()}


def bare_operations(folder: Path, blocks: list, tables: list[pa.Table], output: Path) -> dict[str, float]:
    """Seconds of reading the CSR matrix alone, of sorting each cell's keys alone, of writing the tables alone."""
    seconds = {}
    with h5py.File(folder / "cells.h5ad") as file:
        indptr = file["X/indptr"][:]
        start = time.perf_counter()
        for first in range(0, len(indptr) - 1, BLOCK_SIZE):
            entries = slice(indptr[first], indptr[min(first + BLOCK_SIZE, len(indptr) - 1)])
            file["X/data"][entries], file["X/indices"][entries]
        seconds["read_floor"] = time.perf_counter() - start
    generator = np.random.default_rng(0)
    keys = [generator.integers(0, 2**63, block.nnz, dtype=np.uint64) for _, block in blocks]
    start = time.perf_counter()
    for (_, block), of_block in zip(blocks, keys, strict=True):
        for cell in range(block.shape[0]):
            of_block[block.indptr[cell] : block.indptr[cell + 1]].sort()
    seconds["sort_floor"] = time.perf_counter() - start
    start = time.perf_counter()
    with parquet_writer(output / "floor.parquet", tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    seconds["write_floor"] = time.perf_counter() - start
    return seconds


def measure_plain_loop(arguments: argparse.Namespace, output: Path) -> dict:
    """Seconds of a loop over cells that hands Python lists to ``datasets``."""
    import datasets

    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(arguments.input_directory)

    def cells() -> Iterator[dict]:
        adata = anndata.read_h5ad(arguments.input_directory / "cells.h5ad")
        tokens = np.array([tokenizer.vocabulary.token_ids[gene] for gene in adata.var_names])
        medians = tokenizer.median_of_token
        for row in range(adata.n_obs):
            counts = adata.X[row]
            genes = tokens[counts.indices]
            values = counts.data / counts.data.sum() * 10_000 / medians[genes]
            order = np.argsort(-values, kind="stable")[: 2048 - 2]
            rank, by_id = genes[order], order[np.argsort(genes[order])]
            yield {
                "input_ids_rank": [2, *rank.tolist(), 3],
                "input_ids_epe": [2, *genes[by_id].tolist(), 3],
                "expression_values": [1.0, *np.log1p(values[by_id]).tolist(), 1.0],
                "length": len(rank) + 2,
            }

    start = time.perf_counter()
    data = datasets.Dataset.from_generator(cells, cache_dir=str(output / "cache"))
    data.save_to_disk(str(output / "cells.dataset"))
    return {"seconds": time.perf_counter() - start}


def measure_here(arguments: argparse.Namespace) -> None:
    """Print what was measured, CPU seconds, and the peak memory of this process or its largest child, as JSON."""
    measure = {"tokenize": measure_tokenize, "stages": measure_stages, "plain_loop": measure_plain_loop}
    with tempfile.TemporaryDirectory(dir=arguments.input_directory.parent) as output:
        found = measure[arguments.measure](arguments, Path(output))
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({**found, "cpu_seconds": sum(os.times()[:4]), "mib": max(peaks)}))


def run_self(*options: object) -> str:
    """What this script prints in a process of its own."""
    command = [str(part) for part in (sys.executable, __file__, *options)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return result.stdout


def run_measure(folder: Path, measure: str, *options: object) -> dict:
    """One measurement in a process of its own."""
    return json.loads(run_self("--measure", measure, "--input_directory", folder, *options).splitlines()[-1])


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
    try:
        import datasets  # noqa: F401

        rows["plain loop through datasets"] = (arguments.many_cells, "plain_loop")
    except ImportError:
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


@script
def main(argv: list[str] | None = None) -> int:
    """Measure and print two tables."""
    arguments = parse_arguments(argv)
    if arguments.write_cells:
        write_counts(arguments.input_directory, arguments.write_cells, arguments.seed)
        return 0
    if arguments.measure:
        measure_here(arguments)
        return 0
    sizes = [arguments.few_cells, arguments.many_cells, *([arguments.most_cells] if arguments.most_cells else [])]
    with tempfile.TemporaryDirectory() as work:
        folders = {n_cells: Path(work) / f"cells_{n_cells}" for n_cells in sizes}
        for n_cells, folder in folders.items():
            # In a process of its own: the peak memory of a process starts at that of the one that started it.
            run_self("--write_cells", n_cells, "--input_directory", folder, "--seed", arguments.seed)
        with h5py.File(folders[arguments.few_cells] / "cells.h5ad") as file:
            print(f"{len(file['X/data']) / arguments.few_cells:,.0f} of {N_GENES:,} genes a cell\n")
        print_rates(arguments, folders)
        print_stages(arguments, folders[arguments.few_cells])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
