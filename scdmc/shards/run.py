"""Shard by shard, in this process, on several of this machine, on those that torchrun started, or on a Dask cluster."""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from scdmc.annotation.annotators import classifier_annotator
from scdmc.annotation.prediction import EMPTY_LENGTH, annotation_columns
from scdmc.cells.data import require_same_tokenization, tokenizer_of_model
from scdmc.disk import require_space
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, remove, write_json
from scdmc.genes.ids import GeneMatch
from scdmc.locks import output_lock
from scdmc.model.devices import place_model, threads_of_torch
from scdmc.model.embeddings import cell_embeddings, embedding_choice, embedding_width
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.model.storage import load_model
from scdmc.overlap import ahead, behind
from scdmc.reading.counts import Counts, open_counts
from scdmc.reading.options import is_counts
from scdmc.reports.provenance import Provenance
from scdmc.shards.job import EmbeddingJob, EmbeddingPlan, plan_of
from scdmc.shards.results import publish
from scdmc.tokens.cluster import run_on_cluster
from scdmc.tokens.file_report import FileReport, new_report
from scdmc.tokens.parquet import read_row_groups, read_settings
from scdmc.tokens.tokenize_folder import Shard
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizationSettings, TokenizedCells
from scdmc.tokens.tokenizer import Tokenizer, cells_of_streams, tokenize_blocks
from scdmc.tokens.workers import Progress, Task, run_here, run_on_workers

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_LINES = 60.0


# The first tasks of a run go to one worker each; a worker of a Dask cluster may be a thread.
_OF_THREAD = threading.local()


# Rows of the file, names of the cells, and their tokens.
Block = tuple[np.ndarray, np.ndarray, TokenizedCells]


# From a row of the file to another. Of counts, a report of what is read is added to the list, though no cell may pass.
Blocks = Callable[[int, int, list[FileReport]], Iterator[Block]]


@dataclass(frozen=True)
class Work:
    """What is computed of a block of cells.

    Attributes
    ----------
    compute
        Cells -> embeddings, shape (n_cells, width), and further columns.
    of_none
        The same of no cell.
    """

    compute: Callable[[TokenizedCells], tuple[np.ndarray, dict[str, np.ndarray]]]
    of_none: tuple[np.ndarray, dict[str, np.ndarray]]


def embed_shards(
    job: EmbeddingJob,
    made: Provenance,
    num_workers: int = 1,
    scheduler_address: str | None = None,
    rank: int = 0,
    world_size: int = 1,
    barrier: Callable[[], object] = lambda: None,
) -> dict | None:
    """Embed cells into a folder of parquet shards with an index; memory does not grow with the number of cells.

    Shards that an interrupted run with the same input and settings has finished are taken over. Nothing appears under
    its final name before all shards are there. The shards are the same for any number of workers.

    Parameters
    ----------
    job
        What to embed, and how.
    made
        From what, for the page.
    num_workers
        Processes on this machine; 1 is this process alone.
    scheduler_address
        Of a running Dask cluster whose workers are taken instead; they must see all folders under the same paths.
    rank, world_size
        Of the processes that torchrun started: each takes its share, and that of rank 0 waits for the others.
    barrier
        Returns when all of them have called it (:func:`scdmc.shards.ranks.processes_of_torchrun`).

    Returns
    -------
    The index, as in ``index.json``; None for a process that is not of rank 0.

    Raises
    ------
    ScDMCError
        For what the user can mend, and when a worker dies of the same shard again and again.
    """
    plan, model_directory = plan_of(job), job.open_model()
    embedding_choice(model_directory.config, **job.embedding)  # refuses what the model has not
    # Of all shards, not of the unfinished ones: each process looks at another moment.
    mine = plan.shards[rank::world_size]
    if rank:
        if mine:  # else there is no folder to make
            _finish(job, mine, model_directory, num_workers, scheduler_address)
        barrier()
        return None
    with output_lock(job.output_dir), _kept_for_the_next_run(job, plan):
        _finish(job, mine, model_directory, num_workers, scheduler_address)
        _wait_for_others(job, plan.shards)
        # Whose shards all were there from an earlier run must have seen them before they are put away.
        barrier()
        _log_reports(job, plan)
        index = publish(job, plan, model_directory, made)
        remove(job.finished_shards)
        return index


@contextmanager
def _kept_for_the_next_run(job: EmbeddingJob, plan: EmbeddingPlan) -> Iterator[None]:
    """After an interruption, say that the finished shards will be taken over; nothing stays where there are none."""
    try:
        yield
    except (ScDMCError, OSError, KeyboardInterrupt):
        n_finished = sum(job.shard_path(shard).exists() for shard in plan.shards)
        if n_finished:
            logger.warning(
                "%d finished shards are kept in %s; the same command goes on with the others",
                n_finished, job.finished_shards,
            )  # fmt: skip
        else:
            remove(job.finished_shards)
        raise


def _finish(
    job: EmbeddingJob,
    shards: Sequence[Shard],
    model_directory: ModelDirectory,
    num_workers: int,
    scheduler_address: str | None,
) -> None:
    """Write every shard that is not there yet into the hidden folder."""
    job.finished_shards.mkdir(parents=True, exist_ok=True)
    unfinished = [shard for shard in shards if not job.shard_path(shard).exists()]
    _require_space(job, unfinished, model_directory)
    sizes = {str(shard): shard.stop - shard.start for shard in shards}
    n_done = sum(sizes.values()) - sum(sizes[str(shard)] for shard in unfinished)
    with Progress(sizes, n_done, "embed") as progress:
        if scheduler_address is not None:
            there = replace(job, data_path=job.data_path.absolute(), output_dir=job.output_dir.absolute())
            inputs = sorted({shard.path for shard in unfinished})
            make_tasks = partial(tasks_of, there, unfinished)
            run_on_cluster(make_tasks, progress, scheduler_address, there.finished_shards, inputs)
        elif num_workers == 1:
            run_here(tasks_of(job, unfinished, 1), progress)
        else:
            run_on_workers(tasks_of(job, unfinished, num_workers), progress, num_workers)


def _require_space(job: EmbeddingJob, shards: Sequence[Shard], model_directory: ModelDirectory) -> None:
    choice = embedding_choice(model_directory.config, **job.embedding)
    width = model_directory.config.hidden_size * (2 if choice.stream == "both" else 1)
    n_cells = sum(shard.stop - shard.start for shard in shards)
    require_space(job.finished_shards, n_cells * width * 4, f"embeddings of {n_cells:,} cells")


def tasks_of(job: EmbeddingJob, shards: Sequence[Shard], n_workers: int) -> list[Task]:
    """Tasks of consecutive shards, the first ones long, the last ones of a single shard.

    A task loads the model and opens its files (one that is stored by genes is turned), so that there should be few; and
    no worker should wait for another that has long to go. So each takes half of a worker's share of what is left.

    Parameters
    ----------
    job, shards
        What is left to embed.
    n_workers
        Among how many.
    """
    parts, first = [], 0
    while first < len(shards):
        n_taken = len(shards) if n_workers == 1 else -(-(len(shards) - first) // (2 * n_workers))
        parts.append(list(shards[first : first + n_taken]))
        first += n_taken
    return [
        Task([str(shard) for shard in part], _write_shards, (job, part, number)) for number, part in enumerate(parts)
    ]


def _write_shards(
    job: EmbeddingJob, shards: Sequence[Shard], number: int, progress: Callable[[str, int], object]
) -> None:
    """Write shards that are not there yet, with one thread, so that all workers write the same.

    ``number`` chooses one of several GPUs, which the worker keeps for its further tasks.
    """
    model_directory = job.open_model()
    if torch.cuda.is_available() and job.placement.get("num_gpus") != 0:
        number = vars(_OF_THREAD).setdefault("number", number)
        torch.cuda.set_device((int(os.environ.get("LOCAL_RANK", 0)) + number) % torch.cuda.device_count())
    work = _work_of(job, model_directory)
    # A file of many shards is opened (and, where it is stored by genes, turned) once.
    for _, of_file in groupby(shards, key=lambda shard: shard.path):
        # A worker that takes the place of one that died finds what that one has finished.
        missing = [shard for shard in of_file if not job.shard_path(shard).exists()]
        if missing:
            with threads_of_torch(1), _open_cells(job, missing[0].path, model_directory) as blocks:
                for shard in missing:
                    write_shard(job, shard, blocks, work, partial(progress, str(shard)))
                    progress(str(shard), shard.stop - shard.start)


def _work_of(job: EmbeddingJob, model_directory: ModelDirectory) -> Work:
    """What is computed of a block of cells, by a model on its device."""
    if not job.has_labels:
        encoder = place_model(load_model(model_directory.path, ScDMCModel), **job.placement)
        width = embedding_width(encoder, embedding_choice(encoder.config, **job.embedding).stream)
        return Work(
            lambda cells: (cell_embeddings(encoder, cells, show_progress=False, **job.embedding), {}),
            (np.empty((0, width), np.float32), {}),
        )
    model = place_model(load_model(model_directory.path, ScDMCForCellClassification), **job.placement)
    annotator = classifier_annotator(model, model_directory.path)
    columns_of = partial(annotation_columns, annotator.names, min_probability=job.min_probability)

    def label(cells: TokenizedCells) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        probabilities, states = annotator.annotate(cells)
        return states, columns_of(probabilities, cells.rank_lengths <= EMPTY_LENGTH)

    none = np.empty((0, len(annotator.names)), np.float32)
    return Work(label, (np.empty((0, annotator.width), np.float32), columns_of(none, np.empty(0, bool))))


def write_shard(job: EmbeddingJob, shard: Shard, blocks: Blocks, work: Work, progress: Callable[[int], object]) -> None:
    """Embed the cells of a shard block by block into the hidden folder.

    Threads read and tokenize the next blocks and write the last ones meanwhile; each block is computed alone, as ever.

    Parameters
    ----------
    job, shard
        What, and where to.
    blocks
        The cells of the file.
    work
        What is computed of them.
    progress
        Called with the number of cells of the shard that have been read.
    """
    schema, reports = _table(shard, np.arange(0), np.empty(0, object), *work.of_none).schema, []
    with atomic_path(job.shard_path(shard)) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer, behind() as call:
            for rows, names, cells in ahead(blocks(shard.start, shard.stop, reports)):
                call(writer.write_table, _table(shard, rows, names, *work.compute(cells)))
                progress(int(rows[-1]) + 1 - shard.start)
        for report in reports:  # first: a shard that has its name is finished
            write_json(job.shard_path(shard).with_suffix(".json"), asdict(report))


@contextmanager
def _open_cells(job: EmbeddingJob, path: Path, model_directory: ModelDirectory) -> Iterator[Blocks]:
    """Open a file for reading in blocks of rows."""
    if not is_counts(path):
        yield partial(_tokenized_blocks, path, read_settings([path]), model_directory)
        return
    tokenizer = tokenizer_of_model(model_directory, job.count_options)
    with open_counts(path, **job.count_options.of_counts()) as counts:
        yield partial(_blocks_of_counts, counts, tokenizer, tokenizer.match(counts))


def _tokenized_blocks(
    path: Path,
    settings: TokenizationSettings | None,
    model_directory: ModelDirectory,
    start: int,
    stop: int,
    reports: list[FileReport],
) -> Iterator[Block]:
    row = start
    for cells in read_row_groups(path, [], settings, model_directory.context, start, stop):
        require_same_tokenization(cells, model_directory, path)
        yield np.arange(row, row + len(cells)), cells.obs_table["cell_id"].to_numpy(), cells
        row += len(cells)


def _blocks_of_counts(
    counts: Counts, tokenizer: Tokenizer, match: GeneMatch, start: int, stop: int, reports: list[FileReport]
) -> Iterator[Block]:
    report = new_report(counts, match)
    reports.append(report)
    for rows, streams in tokenize_blocks(counts, tokenizer, match, report, start, stop):
        cells = cells_of_streams(streams, pa.table({ROW_COLUMN: rows}), tokenizer.settings)
        yield rows, counts.obs.index[rows].astype(str).to_numpy(), cells


def _table(
    shard: Shard, rows: np.ndarray, names: np.ndarray, embeddings: np.ndarray, columns: dict[str, np.ndarray]
) -> pa.Table:
    width = embeddings.shape[1]
    return pa.table(
        {
            "cell_id": pa.array(names, pa.string()),
            "source_file": pa.array([shard.path.name] * len(rows), pa.dictionary(pa.int32(), pa.string())),
            "row": pa.array(rows, pa.int64()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel(), pa.float32()), width),
            **{
                name: pa.array(values, pa.string() if values.dtype == object else None)
                for name, values in columns.items()
            },
        }
    )


def _wait_for_others(job: EmbeddingJob, shards: Sequence[Shard]) -> None:
    """Wait until the other processes of the run have written their shards; torchrun ends all where one of them dies."""
    said = time.monotonic()
    while missing := sum(not job.shard_path(shard).exists() for shard in shards):
        time.sleep(SECONDS_BETWEEN_LOOKS)
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            logger.info("waiting for %d of %d shards of the other processes", missing, len(shards))


def _log_reports(job: EmbeddingJob, plan: EmbeddingPlan) -> None:
    """Say what was read and dropped of each file of counts."""
    for shard in plan.shards:
        path = job.shard_path(shard).with_suffix(".json")
        if shard.path.name in plan.reports and path.exists():
            plan.reports[shard.path.name].add(FileReport(**json.loads(path.read_text(encoding="utf8"))))
    for report in plan.reports.values():
        logger.info(report.summary())
