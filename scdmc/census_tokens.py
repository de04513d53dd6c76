"""From an open SOMA experiment to tokenized parquet: shards, report, vocabulary and medians (design.md, section 4)."""

import hashlib
import json
import logging
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from scdmc.census import CensusSlice
from scdmc.counts import Counts
from scdmc.errors import ScDMCError
from scdmc.file_report import FileReport, new_report
from scdmc.files import atomic_path, remove, require_new_file, require_writable_folder, write_json
from scdmc.folder_tokenization import CELLS_PER_ROW_GROUP
from scdmc.gene_ids import GeneMatch
from scdmc.streams import regroup
from scdmc.tokenization import Tokenizer, kept_obs, obs_types, tokenize_blocks
from scdmc.tokenized_data import (
    gene_medians_path,
    parquet_schema,
    parquet_table,
    parquet_writer,
    token_ids_path,
)

logger = logging.getLogger(__name__)

# Larger than for a file: a read from a bucket has its price, however small it is.
BLOCK_SIZE = 2048


@dataclass(frozen=True)
class CensusJob:
    """A slice of a Census to be tokenized to parquet.

    Attributes
    ----------
    output_directory, output_prefix
        Where to.
    tokenizer
        How to tokenize.
    wanted
        Which cells were chosen; recorded in the report.
    obs_columns
        Columns of obs to keep.
    cells_per_shard, block_size
        Most cells of a shard, and cells that are read at a time; neither changes a cell's tokens.
    """

    output_directory: Path
    output_prefix: str
    tokenizer: Tokenizer
    wanted: CensusSlice
    obs_columns: tuple[str, ...]
    cells_per_shard: int
    block_size: int = BLOCK_SIZE

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.+-]*", self.output_prefix) or re.search(r"-\d{5}$", self.output_prefix):
            raise ScDMCError(
                f"--output_prefix {self.output_prefix!r}: letters, digits and . _ + - only, no shard number at the end"
            )

    @property
    def report_path(self) -> Path:
        """``<prefix>.report.json``."""
        return self.output_directory / f"{self.output_prefix}.report.json"

    @property
    def html_report_path(self) -> Path:
        """``<prefix>.report.html``."""
        return self.output_directory / f"{self.output_prefix}.report.html"

    @property
    def unmatched_genes_path(self) -> Path:
        """``<prefix>.unmatched_genes.csv``."""
        return self.output_directory / f"{self.output_prefix}.unmatched_genes.csv"

    @property
    def finished_shards(self) -> Path:
        """Hidden folder where shards wait until all are there; ``--resume`` finds them."""
        return self.output_directory / f".{self.output_prefix}.shards"

    def paths(self, n_shards: int) -> list[Path]:
        """Final names of the shards."""
        if n_shards == 1:
            return [self.output_directory / f"{self.output_prefix}.parquet"]
        return [self.output_directory / f"{self.output_prefix}-{index:05d}.parquet" for index in range(n_shards)]

    def beside(self) -> list[Path]:
        """What is written beside the parquet files."""
        (single,) = self.paths(1)
        reports = [self.report_path, self.html_report_path, self.unmatched_genes_path]
        return [*reports, token_ids_path(single), gene_medians_path(single)]

    def outputs(self) -> list[Path]:
        """Files of this prefix that are there already."""
        # [0-9] five times: another prefix that starts like this one is not ours.
        numbered = self.output_directory.glob(f"{self.output_prefix}-[0-9][0-9][0-9][0-9][0-9].parquet")
        return [path for path in [*sorted(numbered), *self.paths(1), *self.beside()] if path.exists()]

    def fingerprint(self, counts: Counts) -> dict:
        """What must be unchanged for ``--resume`` to keep finished shards."""
        return {
            **self.tokenizer.settings.to_dict(),
            "source": counts.name,
            "layer": counts.layer,
            "gene_mapping": sorted(self.tokenizer.gene_mapping.items()),
            "gene_id_column": self.tokenizer.gene_id_column,
            "drop_empty_cells": self.tokenizer.drop_empty_cells,
            "cells": hashlib.sha256(counts.obs.index.to_numpy(dtype="<i8").tobytes()).hexdigest(),
            "obs_columns": list(self.obs_columns),
            "cells_per_shard": self.cells_per_shard,
        }


def require_new_output(job: CensusJob, overwrite: bool) -> None:
    """Refuse output that is there already or cannot be written, before the first cell is chosen."""
    require_writable_folder(job.output_directory)
    for path in job.outputs():
        require_new_file(path, overwrite)


def tokenize_census(job: CensusJob, counts: Counts, n_matching: int, resume: bool = False) -> list[Path]:
    """Tokenize chosen cells to parquet shards, with report, vocabulary and medians beside.

    Nothing appears under its final name before all shards are finished; finished ones are kept if ``resume`` is set and
    neither cells nor settings have changed.

    Parameters
    ----------
    job
        Where to and how.
    counts
        The cells (see :func:`scdmc.census.census_counts`).
    n_matching
        Cells of which these are a sample, for the report.
    resume
        Keep finished shards.

    Returns
    -------
    The parquet files.

    Raises
    ------
    ScDMCError
        If a value is no count, the source cannot be read, or no cell is left.
    """
    match = job.tokenizer.match(counts)
    job.tokenizer.medians.log_known_genes(job.tokenizer.vocabulary)
    _prepare_finished_shards(job, counts, resume)
    schema = parquet_schema(obs_types({counts.name: counts.obs}, job.obs_columns), job.tokenizer.settings, counts.name)
    report = new_report(counts, match)
    starts = range(0, counts.n_cells, job.cells_per_shard)
    try:
        with tqdm(total=counts.n_cells, unit=" cells", desc="tokenize") as progress:
            for index, start in enumerate(starts):
                cells = (start, min(start + job.cells_per_shard, counts.n_cells))
                report.add(_finish_shard(job, index, cells, counts, match, schema, progress.update))
    except (ScDMCError, OSError, KeyboardInterrupt):
        _clean_or_say_what_is_kept(job)
        raise
    if not report.cells_out:
        remove(job.finished_shards)
        raise ScDMCError(f"no cell is left to write: {report.summary()}")
    return _publish(job, len(starts), report, match.names[~match.is_matched], n_matching)


def _prepare_finished_shards(job: CensusJob, counts: Counts, resume: bool) -> None:
    """Keep the shards of an interrupted run if they hold the same cells, made with the same settings."""
    path = job.finished_shards / "fingerprint.json"
    # As JSON gives it back: pairs become lists.
    fingerprint = json.loads(json.dumps(job.fingerprint(counts)))
    if resume and path.exists():
        if json.loads(path.read_text(encoding="utf8")) == fingerprint:
            return
        logger.warning("warning: cells or settings have changed since the interrupted run; starting anew")
    remove(job.finished_shards)
    write_json(path, fingerprint)


def _shard_path(job: CensusJob, index: int) -> Path:
    return job.finished_shards / f"{index:05d}.parquet"


def _finish_shard(
    job: CensusJob,
    index: int,
    cells: tuple[int, int],
    counts: Counts,
    match: GeneMatch,
    schema: pa.Schema,
    progress: Callable[[int], object],
) -> FileReport:
    """Write the cells from the first to before the second into the hidden folder, unless they are there; their report.

    The report is written last: a shard with a report is a finished one.
    """
    report_path = _shard_path(job, index).with_suffix(".json")
    if report_path.exists():
        progress(cells[1] - cells[0])
        return FileReport(**json.loads(report_path.read_text(encoding="utf8")))
    report = new_report(counts, match)
    blocks = tokenize_blocks(counts, job.tokenizer, match, report, *cells, job.block_size)
    with atomic_path(_shard_path(job, index)) as temporary, parquet_writer(temporary, schema) as writer:
        for rows, streams in regroup(blocks, CELLS_PER_ROW_GROUP):
            writer.write_table(parquet_table(streams, kept_obs(counts, rows, job.obs_columns), schema))
            progress(len(rows))
    write_json(report_path, asdict(report))
    return report


def _clean_or_say_what_is_kept(job: CensusJob) -> None:
    n_finished = len(list(job.finished_shards.glob("[0-9]*.json")))
    if n_finished:
        logger.warning("%d finished shards are kept in %s; --resume takes them up", n_finished, job.finished_shards)
    else:
        remove(job.finished_shards)


def _publish(job: CensusJob, n_shards: int, report: FileReport, unmatched: np.ndarray, n_matching: int) -> list[Path]:
    """Give the finished shards their final names, with reports, vocabulary and medians beside them."""
    # Only now: the plotting library takes seconds to load.
    from scdmc.tokenization_report import unmatched_genes, warnings_of, write_html_report

    old, paths, settings = job.outputs(), job.paths(n_shards), job.tokenizer.settings
    logger.info(report.summary())
    warnings = warnings_of([report])
    for warning in warnings:
        logger.warning("warning: %s", warning)
    job.tokenizer.vocabulary.save(token_ids_path(paths[0]))
    job.tokenizer.medians.save(gene_medians_path(paths[0]))
    with atomic_path(job.unmatched_genes_path) as temporary:
        unmatched_genes([report], {report.source_file: unmatched}).to_csv(temporary, index=False)
    write_html_report(job.html_report_path, job.output_prefix, settings, [report], warnings)
    census = {**job.wanted.to_dict(), "cells_matching": n_matching, "cells_taken": report.cells_in}
    content = {"settings": settings.to_dict(), "files": [report.to_dict()], "warnings": warnings, "census": census}
    write_json(job.report_path, content)
    for index, path in enumerate(paths):
        _shard_path(job, index).replace(path)
    # Only now: until the new shards stand in their places, nothing of the old output is lost that they do not replace.
    for path in set(old) - {*paths, *job.beside()}:
        path.unlink()
    remove(job.finished_shards)
    return paths
