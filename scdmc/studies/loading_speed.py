"""How fast tokenized cells become masked batches, and in how much memory."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scdmc.studies.synthetic_cells import synthetic_cells
from scdmc.tokens.cache import open_cells
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.batch_order import BatchOrder
from scdmc.training.masking import masked_batch
from scdmc.training.settings import MaskingOptions


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


def write_cells(folder: Path, n_cells: int, length: int, cells_per_file: int) -> None:
    """Write random cells of ``length`` tokens as parquet files into a folder that is made."""
    folder.mkdir()
    for number, start in enumerate(range(0, n_cells, cells_per_file)):
        lengths = np.full(min(cells_per_file, n_cells - start), length)
        write_parquet(synthetic_cells(lengths, number), folder / f"cells-{number:05d}.parquet")


def measure_loading(folder: Path, batch_size: int, length: int) -> dict[str, float]:
    """Decode the data of a folder and read one epoch of it.

    Parameters
    ----------
    folder
        With the parquet files in ``parquet``; the decoded cells go to ``cache``.
    batch_size
        Cells of a batch.
    length
        Tokens of each stream.

    Returns
    -------
    ``cells``, ``tokens``; ``decode`` and ``read`` in seconds; ``memory`` in bytes, beyond what there was before.
    """
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
