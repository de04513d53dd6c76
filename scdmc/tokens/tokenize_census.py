"""From an open SOMA experiment to tokenized parquet: shards, report, vocabulary and medians.

Source: docs/method.md, "The parquet format".
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scdmc.errors import ScDMCError
from scdmc.files import write_json
from scdmc.genes.ids import GeneMatch
from scdmc.locks import output_lock
from scdmc.progress import ProgressBar, progress_bar
from scdmc.reading.census import CensusSlice
from scdmc.reading.counts import Counts
from scdmc.tokens.file_report import new_report
from scdmc.tokens.options import CENSUS_BLOCK_SIZE
from scdmc.tokens.output import TokenizedOutput
from scdmc.tokens.parquet import parquet_schema
from scdmc.tokens.shard_sets import ShardPlace
from scdmc.tokens.tokenizer import obs_types

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CensusJob(TokenizedOutput):
    """A slice of a Census to be tokenized to parquet.

    Attributes
    ----------
    location
        Where the experiment lies; recorded with the finished shards.
    wanted
        Which cells were chosen; recorded in the report.
    """

    location: str
    wanted: CensusSlice
    block_size: int = CENSUS_BLOCK_SIZE

    def fingerprint(self, counts: Counts) -> dict:
        """What must be unchanged for ``--resume`` to keep finished shards."""
        return {
            **self.tokenizer.settings.to_dict(),
            "source": self.location,
            "layer": counts.layer,
            "gene_mapping": sorted(self.tokenizer.gene_mapping.items()),
            "gene_id_column": self.tokenizer.gene_id_column,
            "drop_empty_cells": self.tokenizer.drop_empty_cells,
            "cells": hashlib.sha256(counts.obs.index.to_numpy(dtype="<i8").tobytes()).hexdigest(),
            "obs_columns": list(self.obs_columns),
            "cells_per_shard": self.cells_per_shard,
        }


def tokenize_census(
    job: CensusJob, counts: Counts, n_matching: int, overwrite: bool = False, resume: bool = False
) -> list[Path]:
    """Tokenize chosen cells to parquet shards, with report, vocabulary and medians beside.

    Nothing appears under its final name before all shards are finished; finished ones are kept if ``resume`` is set and
    neither cells nor settings have changed.

    Parameters
    ----------
    job
        Where to and how.
    counts
        The cells (see :func:`scdmc.reading.census.census_counts`).
    n_matching
        Cells of which these are a sample, for the report.
    overwrite, resume
        Replace existing output; keep finished shards.

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
    report = new_report(counts, match)
    starts = range(0, counts.n_cells, job.cells_per_shard)
    shards = {
        f"{index:05d}": (start, min(start + job.cells_per_shard, counts.n_cells)) for index, start in enumerate(starts)
    }
    with output_lock(job.lock_name):
        run = _drop_shards_of_another_run(job, counts, list(shards), overwrite, resume)
        try:
            _finish_shards(job, counts, match, run, shards)
        except (ScDMCError, OSError, KeyboardInterrupt):
            job.clean_or_say_what_is_kept()
            raise
        for key in shards:
            report.add(job.shard_report(key))
        job.require_cells([report])
        unmatched = {counts.name: match.names[~match.is_matched]}
        census = {**job.wanted.to_dict(), "cells_matching": n_matching, "cells_taken": report.cells_in}
        return job.publish(run, list(shards), [report], unmatched, [], census=census)


def _finish_shards(
    job: CensusJob, counts: Counts, match: GeneMatch, run: str, shards: Mapping[str, tuple[int, int]]
) -> None:
    """Write every shard that is not there yet."""
    types, settings = obs_types({counts.name: counts.obs}, job.obs_columns), job.tokenizer.settings
    with progress_bar(total=counts.n_cells, unit=" cells", desc="tokenize") as bar:
        for number, (key, cells) in enumerate(shards.items()):
            if not job.is_finished(key):
                schema = parquet_schema(types, settings, counts.name, ShardPlace(number, len(shards), run))
                job.write_shard(key, cells, counts, match, schema, partial(_show, bar, cells[0]))
            _show(bar, cells[0], cells[1] - cells[0])


def _drop_shards_of_another_run(job: CensusJob, counts: Counts, keys: list[str], overwrite: bool, resume: bool) -> str:
    """Keep the shards of an interrupted run if they hold the same cells, made with the same settings.

    Returns
    -------
    What stands for the cells and settings of this run.
    """
    path = job.finished_shards / "fingerprint.json"
    # As JSON gives it back: pairs become lists.
    fingerprint = json.loads(json.dumps(job.fingerprint(counts)))
    # Not where the experiment lies: a copy of it gives the same bytes.
    content = {name: value for name, value in fingerprint.items() if name != "source"}
    run = hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf8")).hexdigest()[:16]
    if resume and path.exists():
        if json.loads(path.read_text(encoding="utf8")) == fingerprint:
            job.take_up(keys, run, overwrite)
            return run
        logger.warning("warning: cells or settings have changed since the interrupted run; starting anew")
    if resume:
        job.take_up([], "", overwrite)  # what another run was publishing is replaced only if it may be
    job.drop_finished()
    write_json(path, fingerprint)
    return run


def _show(bar: ProgressBar, first: int, n_read: int) -> None:
    """Move the bar to where the cells after the first ``first`` have been read."""
    bar.update(first + n_read - bar.n)
