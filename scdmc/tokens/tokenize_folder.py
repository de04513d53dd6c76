"""A folder of files of raw counts to tokenized parquet, shard by shard, here or on workers.

Source: docs/method.md, "Tokenization".
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from scdmc.errors import ScDMCError
from scdmc.locks import output_lock
from scdmc.reading.count_files import files_of_input
from scdmc.reading.counts import Counts, open_counts
from scdmc.reading.inputs import survey_folder, taken_files, warnings_of
from scdmc.reports.provenance import Provenance
from scdmc.tokens.cluster import run_on_cluster
from scdmc.tokens.file_report import FileReport, new_report
from scdmc.tokens.output import TokenizedOutput
from scdmc.tokens.parquet import parquet_schema
from scdmc.tokens.shard_sets import ShardPlace
from scdmc.tokens.tokenized_cells import require_obs_columns
from scdmc.tokens.tokenizer import obs_types
from scdmc.tokens.workers import Progress, Task, run_here, run_on_workers

logger = logging.getLogger(__name__)


# What is read of a file, beside ids, to tell it from another one of the same size.
SAMPLES, SAMPLE_BYTES = 16, 65_536


@dataclass(frozen=True)
class Shard:
    """A contiguous block of cells of one file.

    Attributes
    ----------
    path, start, stop
        The file and its rows.
    key
        Stands for all that decides which cells the shard will hold, and how; the name under which it waits.
    place
        Its number, and the run that it belongs to.
    """

    path: Path
    start: int
    stop: int
    key: str
    place: ShardPlace | None = None

    def __str__(self) -> str:
        return f"{self.path.name}, cells {self.start:,} to {self.stop:,}"


@dataclass(frozen=True, kw_only=True)
class FolderJob(TokenizedOutput):
    """A folder of files of raw counts to be tokenized to parquet.

    Attributes
    ----------
    input_directory
        Where from.
    layer, allow_normalized, recompute_totals
        Where the raw counts are, and which totals are taken (see :func:`scdmc.reading.counts.open_counts`).
    """

    input_directory: Path
    layer: str | None = None
    allow_normalized: bool = False
    recompute_totals: bool = False

    @property
    def made(self) -> Provenance:
        """From what, for the page."""
        return Provenance((self.input_directory,), began=self.began)

    def settings_of_shards(self) -> dict:
        """What decides, beside its cells, what a shard holds."""
        return {
            **self.tokenizer.settings.to_dict(),
            "gene_mapping": _hash_of_mapping(self.tokenizer.gene_mapping),
            "gene_id_column": self.tokenizer.gene_id_column,
            "species": self.tokenizer.species,
            "orthologs": _hash_of_mapping(self.tokenizer.orthologs or {}),
            "drop_empty_cells": self.tokenizer.drop_empty_cells,
            "layer": self.layer,
            "allow_normalized": self.allow_normalized,
            "recompute_totals": self.recompute_totals,
        }


def _hash_of_mapping(mapping: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(mapping.items())).encode("utf8")).hexdigest()


@dataclass
class Inspection:
    """What is known of the files before the first cell is tokenized.

    Attributes
    ----------
    obs_types
        Types of the kept obs columns.
    reports
        File name -> report of a file of which no cell has been read.
    unmatched_genes
        File name -> name of each column that belongs to no gene of the vocabulary.
    content
        File name -> hash of its size, its cell ids, its genes and a sample of its bytes.
    warnings
        What the user should know of the files.
    """

    obs_types: dict[str, pa.DataType] = field(default_factory=dict)
    reports: dict[str, FileReport] = field(default_factory=dict)
    n_cells: dict[str, int] = field(default_factory=dict)
    unmatched_genes: dict[str, np.ndarray] = field(default_factory=dict)
    content: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def tokenize_folder(
    job: FolderJob,
    overwrite: bool = False,
    resume: bool = False,
    num_workers: int = 1,
    scheduler_address: str | None = None,
) -> list[Path]:
    """Tokenize every file of a folder to parquet shards, with reports, vocabulary and medians beside.

    Nothing appears under its final name before all shards are finished. Shards that were finished when a run was
    interrupted are kept if ``resume`` is set and neither their file nor the settings have changed. The output is the
    same, byte for byte, for any number of workers.

    Parameters
    ----------
    job
        What to tokenize, and how.
    overwrite, resume
        Replace existing output; keep what an interrupted run has finished.
    num_workers
        Processes on this machine; 1 is this process alone.
    scheduler_address
        Of a running Dask cluster whose workers are taken instead; they must see both folders under the same paths.

    Returns
    -------
    The parquet files.

    Raises
    ------
    ScDMCError
        For what the user can mend (see the modules :mod:`scdmc.reading.counts`, :mod:`scdmc.genes.ids`), and when a
        worker dies of the same shard again and again.
    """
    folder = survey_folder(job.input_directory)
    files = taken_files(folder, job.input_directory)
    job.require_new(overwrite, resume)
    with output_lock(job.lock_name):
        job.tokenizer.medians.log_known_genes(job.tokenizer.vocabulary)
        found = _inspect(job, files)
        run, shards = _shards_of_run(job, files, found)
        _drop_stale_shards(job, shards, run, overwrite, resume)
        try:
            _finish_shards(job, shards, found, num_workers, scheduler_address)
        except (ScDMCError, OSError, KeyboardInterrupt):
            job.clean_or_say_what_is_kept()
            raise
        for shard in shards:
            found.reports[shard.path.name].add(job.shard_report(shard.key))
        reports = list(found.reports.values())
        job.require_cells(reports)
        keys = [shard.key for shard in shards]
        warnings = [*found.warnings, *warnings_of(folder)]
        entries = [entry.to_dict() for entry in folder]
        return job.publish(run, keys, reports, found.unmatched_genes, warnings, folder=entries)


def _inspect(job: FolderJob, files: Sequence[Path]) -> Inspection:
    """Open every file before anything is written."""
    found, obs, available, id_hashes = Inspection(), {}, {}, {}
    for path in files:
        with open_counts(path, job.layer, job.allow_normalized, job.recompute_totals) as counts:
            match = job.tokenizer.match(counts)
            obs[path.name] = _rows_of_extremes(counts.obs[[name for name in job.obs_columns if name in counts.obs]])
            available[path.name] = list(counts.obs)
            found.reports[path.name] = new_report(counts, match)
            found.n_cells[path.name] = counts.n_cells
            found.unmatched_genes[path.name] = match.names[~match.is_matched]
            found.warnings += _repeated_cell_ids(counts)
            id_hashes[path.name] = pd.util.hash_array(counts.obs.index.astype(str).to_numpy(dtype=object))
            found.content[path.name] = _hash_of_content(path, id_hashes[path.name], match.names)
    require_obs_columns(available, job.obs_columns)
    found.obs_types = obs_types(obs, job.obs_columns)
    found.warnings += _shared_cell_ids(id_hashes)
    for warning in found.warnings:
        logger.warning("warning: %s", warning)
    return found


def _hash_of_content(path: Path, id_hashes: np.ndarray, genes: np.ndarray) -> str:
    """What tells a file from another one wherever it lies and whenever it was copied; a sample of its bytes is read."""
    files = files_of_input(path)
    sizes = [file.stat().st_size for file in files]
    digest = hashlib.sha256(json.dumps(sizes).encode("utf8"))
    ends = np.cumsum(sizes)
    for place in np.linspace(0, max(0, ends[-1] - SAMPLE_BYTES), SAMPLES, dtype=np.int64):
        number = int(np.searchsorted(ends, place, side="right"))
        with files[number].open("rb") as file:
            file.seek(int(place - (ends[number] - sizes[number])))
            digest.update(file.read(SAMPLE_BYTES))
    digest.update(id_hashes.tobytes())
    digest.update(pd.util.hash_array(np.asarray(genes, dtype=object)).tobytes())
    return digest.hexdigest()


def _rows_of_extremes(obs: pd.DataFrame) -> pd.DataFrame:
    """The rows that decide the types of the columns (an integer may be too large for one); all would take memory."""
    obs = obs.reset_index(drop=True)
    integers = [obs[name].dropna() for name in obs if obs[name].dtype.kind in "iu"]
    rows = {row for column in integers if len(column) for row in (column.idxmin(), column.idxmax())}
    return obs.loc[sorted(rows)]


def _repeated_cell_ids(counts: Counts) -> list[str]:
    repeated = counts.obs.index[counts.obs.index.duplicated()]
    shown = ", ".join(map(str, repeated[:3]))
    return [f"{counts.name}: {len(repeated)} cell ids occur more than once, such as {shown}"] if len(repeated) else []


def _shared_cell_ids(id_hashes: Mapping[str, np.ndarray]) -> list[str]:
    """Pairs of files with cell ids in common, from the hashes of the ids (eight bytes a cell, however long its id)."""
    names = list(id_hashes)
    hashes = [np.unique(hashes) for hashes in id_hashes.values()]
    file = np.repeat(np.arange(len(names)), [len(of_file) for of_file in hashes])
    hashes = np.concatenate(hashes)
    order = np.lexsort((file, hashes))
    file, hashes = file[order], hashes[order]
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    # Of each id, the first file that has it, and every other one.
    first_file = file[first][group]
    is_other = first_file != file
    pairs = Counter(zip(first_file[is_other].tolist(), file[is_other].tolist(), strict=True))
    return [
        f"{names[one]} and {names[other]} share {pairs[one, other]:,} cell ids; source_file tells these cells apart"
        for one, other in sorted(pairs)
    ]


def _shards_of_run(job: FolderJob, files: Sequence[Path], found: Inspection) -> tuple[str, list[Shard]]:
    """What stands for the inputs and settings of the run, and its shards, which say so."""
    kept = {name: str(data_type) for name, data_type in found.obs_types.items()}
    content = [job.settings_of_shards(), kept, job.cells_per_shard, list(found.content.items())]
    run = hashlib.sha256(json.dumps(content).encode("utf8")).hexdigest()[:16]
    shards = [shard for path in files for shard in _shards_of_file(job, path, found)]
    return run, [replace(shard, place=ShardPlace(number, len(shards), run)) for number, shard in enumerate(shards)]


def _shards_of_file(job: FolderJob, path: Path, found: Inspection) -> list[Shard]:
    """The shards of a file, each with a key that changes with the file, the settings and the cells."""
    kept = {name: str(data_type) for name, data_type in found.obs_types.items()}
    state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files_of_input(path.absolute())]
    n_cells = found.n_cells[path.name]
    shards = []
    for start in range(0, n_cells, job.cells_per_shard):
        stop = min(start + job.cells_per_shard, n_cells)
        content = json.dumps([job.settings_of_shards(), kept, state, start, stop])
        key = f"{path.name}-{start}-{hashlib.sha256(content.encode('utf8')).hexdigest()[:16]}"
        shards.append(Shard(path.absolute(), start, stop, key))
    return shards


def _drop_stale_shards(job: FolderJob, shards: Sequence[Shard], run: str, overwrite: bool, resume: bool) -> None:
    """Keep the shards of an interrupted run that were made from the same files with the same settings."""
    job.finished_shards.mkdir(parents=True, exist_ok=True)
    if not resume:
        job.drop_finished()
        return
    keys = [shard.key for shard in shards]
    job.take_up(keys, run, overwrite)
    n_finished = len(list(job.finished_shards.glob("*.parquet")))
    n_stale = job.drop_finished(all_but=keys)
    if n_stale:
        logger.warning(
            "warning: %d of %d finished shards are of no use, since their files or the settings have changed since the "
            "interrupted run; these cells are tokenized again",
            n_stale, n_finished,
        )  # fmt: skip


def _finish_shards(
    job: FolderJob, shards: Sequence[Shard], found: Inspection, num_workers: int, scheduler_address: str | None
) -> None:
    """Write every shard that is not there yet, and its report, into the hidden folder."""
    unfinished = [shard for shard in shards if not job.is_finished(shard.key)]
    sizes = {str(shard): shard.stop - shard.start for shard in shards}
    done = sum(sizes.values()) - sum(sizes[str(shard)] for shard in unfinished)
    with Progress(sizes, done) as progress:
        if scheduler_address is not None:
            inputs = sorted({shard.path for shard in unfinished})
            make_tasks = partial(_tasks, job, unfinished, found)
            run_on_cluster(make_tasks, progress, scheduler_address, job.finished_shards, inputs)
        elif num_workers == 1:
            run_here(_tasks(job, unfinished, found, 1), progress)
        else:
            if len(unfinished) < num_workers:
                logger.info(
                    "%d shard(s) to do keep only as many of the %d workers busy; --cells_per_shard makes more of them",
                    len(unfinished), num_workers,
                )  # fmt: skip
            run_on_workers(_tasks(job, unfinished, found, num_workers), progress, num_workers)


def _tasks(job: FolderJob, shards: Sequence[Shard], found: Inspection, n_workers: int) -> list[Task]:
    """Consecutive shards of one file form a task, so that a worker opens (and turns) a file only once."""
    tasks = []
    for _, of_file in groupby(shards, key=lambda shard: shard.path):
        of_file = list(of_file)
        for numbers in np.array_split(np.arange(len(of_file)), min(n_workers, len(of_file))):
            run = [of_file[number] for number in numbers]
            tasks.append(Task([str(shard) for shard in run], _write_shards, (job, run, found.obs_types)))
    return tasks


def _write_shards(
    job: FolderJob,
    shards: Sequence[Shard],
    types_of_obs: Mapping[str, pa.DataType],
    progress: Callable[[str, int], object],
) -> None:
    """Write consecutive shards of one file that are not finished yet, and their reports."""
    with open_counts(shards[0].path, job.layer, job.allow_normalized, job.recompute_totals) as counts:
        match = job.tokenizer.match(counts)
        for shard in shards:
            # A worker that takes the place of one that died finds what that one has finished.
            if not job.is_finished(shard.key):
                cells = (shard.start, shard.stop)
                schema = parquet_schema(types_of_obs, job.tokenizer.settings, counts.name, shard.place)
                job.write_shard(shard.key, cells, counts, match, schema, partial(progress, str(shard)))
            progress(str(shard), shard.stop - shard.start)
