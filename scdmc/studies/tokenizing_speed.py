"""How fast counts are tokenized, stage by stage, and a plain loop that does the same; the counts are random."""

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

from scdmc.files import write_json
from scdmc.genes.vocabulary import SPECIAL_TOKENS, load_vocabulary
from scdmc.reading.counts import open_counts
from scdmc.reading.options import BLOCK_SIZE
from scdmc.tokens.file_report import new_report
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.parquet import column_encoding, parquet_schema, parquet_table, parquet_writer
from scdmc.tokens.tokenize_folder import FolderJob, tokenize_folder
from scdmc.tokens.tokenizer import Tokenizer, kept_obs, tokenize_blocks

N_GENES = 20_000
# Of negative-binomial counts, chosen for about 1,560 genes a cell and frequencies that are as skewed as real ones.
MEDIAN_COUNTS = 3_050
SPREAD_OF_COUNTS = 0.4
SPREAD_OF_GENES = 2.0
DISPERSION = 2.0
DISTINCT_CELLS = 3_000


# Other ways to write the same cells, by what is different.
NO_COMPRESSION = {"compression": "none", "compression_level": None}
WAYS_TO_WRITE = {
    "as they are written": {},
    "rank ids delta-packed": {
        "column_encoding": column_encoding("DELTA_BINARY_PACKED", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT")
    },
    "rank ids plain": {"column_encoding": column_encoding("PLAIN", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT")},
    "expression ids byte-split": {
        "column_encoding": column_encoding("BYTE_STREAM_SPLIT", "BYTE_STREAM_SPLIT", "BYTE_STREAM_SPLIT")
    },
    "values plain": {"column_encoding": column_encoding("BYTE_STREAM_SPLIT", "DELTA_BINARY_PACKED", "PLAIN")},
    "zstd, level 3": {"compression_level": 3},
    "lz4": {"compression": "lz4", "compression_level": None},
    "encoded, not compressed": NO_COMPRESSION,
    "pages of 8 MB": {"data_page_size": 8 << 20},
    "neither encoded nor compressed": {**NO_COMPRESSION, "column_encoding": column_encoding("PLAIN", "PLAIN", "PLAIN")},
}


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


def measure_tokenize(folder: Path, output: Path, cells_per_shard: int, num_workers: int) -> dict[str, float]:
    """Seconds of the whole job, as a user runs it."""
    job = FolderJob(
        input_directory=folder,
        output_directory=output,
        output_prefix="cells",
        tokenizer=load_tokenizer(folder),
        obs_columns=["cell_type"],
        cells_per_shard=cells_per_shard,
    )
    start = time.perf_counter()
    tokenize_folder(job, num_workers=num_workers)
    return {"seconds": time.perf_counter() - start}


def measure_stages(folder: Path, output: Path) -> dict[str, float]:
    """Microseconds a cell of each stage of the tokenizer in one process, and of the bare operation in it."""
    pa.set_cpu_count(1)
    tokenizer = load_tokenizer(folder)
    seconds = Counter()
    tables = []
    with open_counts(folder / "cells.h5ad") as counts:
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
        seconds |= bare_operations(folder, blocks, tables, output)
        return {name: 1e6 * value / counts.n_cells for name, value in seconds.items()}


def measure_ways_to_write(folder: Path, output: Path, n_rounds: int) -> dict[str, tuple[float, float]]:
    """CPU microseconds (the least of rounds in turn) and bytes a cell of each of :data:`WAYS_TO_WRITE`."""
    pa.set_cpu_count(1)
    tokenizer, path = load_tokenizer(folder), output / "cells.parquet"
    with open_counts(folder / "cells.h5ad") as counts:
        match = tokenizer.match(counts)
        schema = parquet_schema({}, tokenizer.settings, counts.name)
        tables = [
            parquet_table(streams, kept_obs(counts, rows, []), schema)
            for rows, streams in tokenize_blocks(counts, tokenizer, match, new_report(counts, match))
        ]
        n_cells = counts.n_cells
    found = {name: (float("inf"), 0.0) for name in WAYS_TO_WRITE}
    for _ in range(n_rounds):
        for name, changes in WAYS_TO_WRITE.items():
            start = time.process_time()
            with parquet_writer(path, schema, **changes) as writer:
                for table in tables:
                    writer.write_table(table)
            seconds = time.process_time() - start
            found[name] = min(found[name][0], 1e6 * seconds / n_cells), path.stat().st_size / n_cells
    return found


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


def measure_plain_loop(folder: Path, output: Path) -> dict[str, float]:
    """Seconds of a loop over cells that hands Python lists to ``datasets``."""
    import datasets

    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(folder)

    def cells() -> Iterator[dict]:
        adata = anndata.read_h5ad(folder / "cells.h5ad")
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


def genes_per_cell(folder: Path, n_cells: int) -> float:
    """Genes with counts of a cell that :func:`write_counts` wrote, the mean."""
    with h5py.File(folder / "cells.h5ad") as file:
        return len(file["X/data"]) / n_cells
