"""How fast tokenized cells become masked batches without any model, and what it costs per cell as the data grow.

Cells of random genes are written as parquet, decoded to memory-mapped arrays (`--cache_dir` of the pre-training script)
and read for an epoch in shuffled order, masked and packed, as training reads them. Each size runs in a process of its
own, so that its memory is its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.studies.synthetic_cells import synthetic_cells
from scdmc.tokens.cache import open_cells
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.batch_order import BatchOrder
from scdmc.training.masking import masked_batch
from scdmc.training.settings import MaskingOptions


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the benchmark; the defaults are those of the README."""
    parser = argument_parser(__doc__)
    parser.add_argument("--cells", type=positive_int, nargs="+", default=[1_000, 10_000, 100_000], help="sizes")
    parser.add_argument("--length", type=positive_int, default=2048, help="tokens of each stream")
    parser.add_argument("--batch_size", type=positive_int, default=96, help="cells of a batch")
    parser.add_argument("--cells_per_file", type=positive_int, default=10_000, help="cells of a parquet file")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def write_parquet(cells: TokenizedCells, path: Path) -> None:
    """Write cells as the published tool's data look; scDMC reads them alike."""
    offsets = pa.array(cells.rank_offsets.astype(np.int32))
    columns = {
        "input_ids_rank": pa.ListArray.from_arrays(offsets, pa.array(cells.rank_ids)),
        "input_ids_epe": pa.ListArray.from_arrays(offsets, pa.array(cells.expression_ids)),
        "expression_values": pa.ListArray.from_arrays(offsets, pa.array(cells.expression_values)),
        "length": pa.array(cells.rank_lengths.astype(np.int32)),
    }
    pq.write_table(pa.table(columns), path, compression="zstd", row_group_size=1000)


def own_memory() -> int:
    """Memory of this process in bytes, without the pages of mapped files, which the system can drop at any time."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def measure(folder: Path, batch_size: int, length: int) -> dict:
    """Decode the data of a folder and read one epoch of it."""
    before = own_memory()
    start = time.perf_counter()
    cells = open_cells(folder / "parquet", folder / "cache", length)
    decoded = time.perf_counter()
    order = BatchOrder(cells.rank_lengths, batch_size, seed=0)
    largest, n_tokens = 0, 0
    for chosen in order.batches(0):
        batch = masked_batch(cells, chosen, 0, MaskingOptions())
        n_tokens += len(batch.streams.input_ids)
        largest = max(largest, own_memory())
    read = time.perf_counter()
    return {
        "cells": len(cells),
        "decode": decoded - start,
        "read": read - decoded,
        "tokens": n_tokens,
        "memory": largest - before,
    }


@script
def main(argv: list[str] | None = None) -> int:
    """Print one line per size."""
    arguments = parse_arguments(argv)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.batch_size, arguments.length)))
        return 0
    print(f"{'cells':>9}{'decode us/cell':>16}{'read us/cell':>14}{'read cells/s':>14}{'M tokens/s':>12}{'MiB':>8}")
    for n_cells in arguments.cells:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "parquet").mkdir()
            for number, start in enumerate(range(0, n_cells, arguments.cells_per_file)):
                lengths = np.full(min(arguments.cells_per_file, n_cells - start), arguments.length)
                write_parquet(
                    synthetic_cells(lengths, number), Path(folder) / "parquet" / f"cells-{number:05d}.parquet"
                )
            command = [sys.executable, str(Path(__file__)), "--measure", folder]
            command += ["--batch_size", str(arguments.batch_size), "--length", str(arguments.length)]
            finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        row = json.loads(finished.stdout.splitlines()[-1])
        print(f"{n_cells:>9,}{1e6 * row['decode'] / n_cells:>16.0f}{1e6 * row['read'] / n_cells:>14.0f}"
              f"{n_cells / row['read']:>14,.0f}{row['tokens'] / row['read'] / 1e6:>12.1f}{row['memory'] / 2**20:>8.0f}",
              flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
