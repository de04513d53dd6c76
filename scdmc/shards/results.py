"""The folder of shards: parquet files with one row a cell, and an index that says what they hold."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scdmc.annotation.embedding_page import COUNTS_LOST, GENES, GENES_MATCHED, EmbeddedFile, write_embedding_page
from scdmc.errors import ScDMCError
from scdmc.files import read_json_object, write_json
from scdmc.model.embeddings import EMBEDDING_KEY, embedding_choice
from scdmc.model.folder import ModelDirectory
from scdmc.reports.provenance import Provenance
from scdmc.result_folders import require_whole, result_folder
from scdmc.shards.job import EmbeddingJob, EmbeddingPlan
from scdmc.tokens.file_report import FileReport
from scdmc.version import __version__

if TYPE_CHECKING:
    import anndata

INDEX_FILE, FORMAT_VERSION = "index.json", 1
EMBEDDING_COLUMN = "embedding"


def publish(job: EmbeddingJob, plan: EmbeddingPlan, model_directory: ModelDirectory, made: Provenance) -> dict:
    """Give the finished shards their names, with index and page beside them.

    The shards come last and stay where they wait, too, where the disk can give a file two names: what breaks here loses
    none of them.

    Returns
    -------
    The index, as in ``index.json``.

    Raises
    ------
    ScDMCError
        If no cell was embedded.
    """
    choice = embedding_choice(model_directory.config, **job.embedding)
    sizes = [pq.read_metadata(job.shard_path(shard)).num_rows for shard in plan.shards]
    if not sum(sizes):
        raise ScDMCError(f"{job.data_path}: there is no cell to embed: filter_pass drops them all")
    names = [f"embeddings-{number:05d}.parquet" for number in range(len(plan.shards))]
    index = {
        "format_version": FORMAT_VERSION,
        "scdmc": __version__,
        "model": model_directory.path.name,
        **{"stream": choice.stream, "pooling": choice.pooling, "layer": choice.layer},
        "has_labels": job.has_labels,
        "n_cells": sum(sizes),
        "inputs": [_input(name, n_cells, plan.reports.get(name)) for name, n_cells in plan.n_cells.items()],
        "shards": [
            {"file": name, "source_file": shard.path.name, "start": shard.start, "stop": shard.stop, "n_cells": n_cells}
            for name, shard, n_cells in zip(names, plan.shards, sizes, strict=True)
        ],
    }
    with result_folder(job.output_dir) as folder:
        write_json(folder / INDEX_FILE, index)
        width = pq.read_schema(job.shard_path(plan.shards[0])).field(EMBEDDING_COLUMN).type.list_size
        embedded = EmbeddedFile(
            sum(plan.n_cells.values()), index["n_cells"], width, _worst_coverage(plan), pd.DataFrame(), None
        )
        write_embedding_page(folder / "report.html", embedded, made)
        for name, shard in zip(names, plan.shards, strict=True):
            _give_name(job.shard_path(shard), folder / name)
    return index


def _give_name(shard: Path, path: Path) -> None:
    """A second name for a file; where the disk has none, or is another one, the file goes there."""
    try:
        os.link(shard, path)
    except OSError:
        shutil.move(shard, path)


def _input(name: str, n_cells: int, report: FileReport | None) -> dict:
    """What the index says of a file."""
    entry = {"source_file": name, "n_cells": n_cells}
    if report is None:
        return entry
    genes = {"genes": report.genes, "genes_matched": report.genes_matched}
    return {**entry, **genes, "share_of_counts_lost": report.share_of_counts_lost}


def _worst_coverage(plan: EmbeddingPlan) -> dict[str, float]:
    """How much the model could read of the file that it could read least of; empty for tokenized cells."""
    if not plan.reports:
        return {}
    worst = max(plan.reports.values(), key=lambda report: report.share_of_counts_lost)
    return {
        COUNTS_LOST: worst.share_of_counts_lost,
        GENES: worst.genes,
        GENES_MATCHED: worst.genes_matched,
    }


def read_embeddings(folder: str | Path) -> "anndata.AnnData":
    """All embeddings of a folder that ``scdmc embed-many`` wrote, in memory.

    Parameters
    ----------
    folder
        The folder with ``index.json``.

    Returns
    -------
    No genes; ``obsm["X_scDMC"]`` of shape (n_cells, width); ``obs`` with the file and row of each cell, and its label
    where there is one.

    Raises
    ------
    ScDMCError
        If the folder holds no such embeddings, or they are damaged.
    """
    import anndata

    folder = Path(folder)
    if not (folder / INDEX_FILE).is_file():
        raise ScDMCError(f"{folder}: no {INDEX_FILE} of embeddings here; name a folder that scdmc embed-many wrote")
    index = read_json_object(folder / INDEX_FILE, "index of embeddings")
    if index.get("format_version") != FORMAT_VERSION:
        raise ScDMCError(f"{folder / INDEX_FILE}: this scDMC reads version {FORMAT_VERSION}; update scDMC")
    names = [shard["file"] for shard in index["shards"]]
    require_whole(folder, INDEX_FILE, *names)
    table = pa.concat_tables([pq.read_table(folder / name) for name in names]).unify_dictionaries().combine_chunks()
    width = table.schema.field(EMBEDDING_COLUMN).type.list_size
    values = [chunk.flatten().to_numpy() for chunk in table[EMBEDDING_COLUMN].chunks]
    obs = table.drop_columns([EMBEDDING_COLUMN]).to_pandas()
    adata = anndata.AnnData(obs=obs.set_index(obs.pop("cell_id").astype(str)))
    adata.obsm[EMBEDDING_KEY] = np.concatenate(values).reshape(-1, width)
    return adata
