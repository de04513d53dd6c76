"""How long the integration benchmark takes, and how much memory, on random cells of several batches and types."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch

from scdmc.integration.data import IntegrationData
from scdmc.integration.maps import cell_maps
from scdmc.integration.options import IntegrationOptions
from scdmc.integration.results import draw_integration_results, write_page
from scdmc.integration.study import run_benchmark
from scdmc.integration.tables import write_integration_tables
from scdmc.memory import peak_memory_of_process
from scdmc.model.embeddings import cell_embeddings
from scdmc.options import EncoderSizes
from scdmc.reports.provenance import Provenance
from scdmc.studies.embedding_speed import new_encoder
from scdmc.studies.synthetic_cells import synthetic_cells

METHODS, OURS = ("pca", "harmony", "scanorama"), "scDMC, its scores"


EMBEDDING, PAGE = "scDMC, embedding", "maps, tables and page"


N_TYPES, TOKENS, BLOCK = 8, 256, 1000


def random_data(n_cells: int, n_batches: int, n_genes: int, seed: int = 0) -> IntegrationData:
    """Cells of eight types in several batches, each with its own taste for genes; their streams hold other genes."""
    generator = np.random.default_rng(seed)
    types, batches = generator.integers(0, N_TYPES, n_cells), generator.integers(0, n_batches, n_cells)
    of_type = generator.lognormal(-1.5, 1.2, (N_TYPES, n_genes))
    of_batch = generator.lognormal(0, 0.3, (n_batches, n_genes))
    blocks = []
    for first in range(0, n_cells, BLOCK):
        chosen = slice(first, first + BLOCK)
        counts = generator.poisson(of_type[types[chosen]] * of_batch[batches[chosen]]).astype(np.float32)
        blocks.append(scipy.sparse.csr_matrix(np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)))
    labels = np.array([f"type {number}" for number in types], dtype=object)
    batch = np.array([f"batch {number}" for number in batches], dtype=object)
    cells = synthetic_cells(np.full(n_cells, TOKENS))
    expression = scipy.sparse.csr_matrix(scipy.sparse.vstack(blocks))
    return IntegrationData("random", cells, labels, batch, np.ones(n_cells, dtype=bool), expression, None)


def measure_integration(
    data: IntegrationData, sizes: EncoderSizes, n_seeds: int, protocols: Sequence[str]
) -> tuple[pd.DataFrame, float]:
    """Run the benchmark and write its results, which are thrown away.

    Parameters
    ----------
    data
        From :func:`random_data`.
    sizes
        Of the encoder.
    n_seeds
        How many seeds.
    protocols
        Some of :data:`scdmc.integration.options.PROTOCOLS`.

    Returns
    -------
    Columns method, seconds and cpu_seconds (embedding and scores of all seeds), of the page, and last "all"; the peak
    of memory in MiB.
    """
    start, cpu_start = time.monotonic(), time.process_time()
    embedding = cell_embeddings(new_encoder(sizes, TOKENS, torch.float32), data.cells)
    seconds, cpu_seconds = {EMBEDDING: time.monotonic() - start}, {EMBEDDING: time.process_time() - cpu_start}
    options = IntegrationOptions(methods=METHODS, seeds=tuple(range(42, 42 + n_seeds)), protocols=tuple(protocols))
    benchmark = run_benchmark(replace(data, own={OURS: embedding}), None, None, options)
    page_start, page_cpu_start = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as name:
        write_integration_tables(Path(name), benchmark, data.name)
        section = draw_integration_results(Path(name), data, benchmark, cell_maps(data, benchmark))
        write_page(Path(name), [section], {data.name: benchmark}, Provenance())
    end, cpu_end = time.monotonic(), time.process_time()
    seconds |= benchmark.seconds | {PAGE: end - page_start, "all": end - start}
    cpu_seconds |= benchmark.cpu_seconds | {PAGE: cpu_end - page_cpu_start, "all": cpu_end - cpu_start}
    table = pd.DataFrame({"seconds": seconds, "cpu_seconds": cpu_seconds}).rename_axis("method").reset_index()
    return table, peak_memory_of_process() / 2**20
