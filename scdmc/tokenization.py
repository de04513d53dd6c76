"""From raw counts to tokenized cells: one data set in memory, or a folder of files to parquet (design.md section 4)."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse
from tqdm import tqdm

from scdmc.counts import BLOCK_SIZE, Counts, cell_totals, input_files, open_counts, passes_filter
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, remove, require_new_file, require_writable_folder, write_json
from scdmc.gene_ids import GeneMatch, match_genes
from scdmc.gene_medians import EXACT_LIMIT, GeneMedians, MedianAccumulator, add_block
from scdmc.streams import MODEL_INPUT_SIZE, CellStreams, cell_streams, has_counts, total_counts
from scdmc.tokenized_data import (
    CELL_COLUMNS,
    STREAM_COLUMNS,
    TokenizationSettings,
    TokenizedCells,
    gene_medians_path,
    obs_data_type,
    obs_table,
    parquet_schema,
    parquet_table,
    parquet_writer,
    token_ids_path,
)
from scdmc.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

CELLS_PER_SHARD = 100_000
EXAMPLES_IN_REPORT = 10
# In memory, cells remember their row of obs (cells may be filtered, and cell ids repeated).
ROW_COLUMN = "row_of_obs"


@dataclass(frozen=True)
class Tokenizer:
    """Everything that decides which tokens a cell's counts become.

    Attributes
    ----------
    vocabulary
        Tokens and their ids.
    medians
        Median non-zero CP10k of the genes.
    model_input_size
        L: most tokens of a stream, ``<cls>`` and ``<eos>`` included.
    gene_mapping
        Upper-case symbol or id -> current id, applied before anything else.
    gene_id_column
        Column of ``var`` with the gene ids; looked for without it.
    drop_empty_cells
        Leave out cells without any counts instead of writing ``[<cls>, <eos>]``.
    """

    vocabulary: Vocabulary
    medians: GeneMedians
    model_input_size: int = MODEL_INPUT_SIZE
    gene_mapping: Mapping[str, str] = field(default_factory=dict)
    gene_id_column: str | None = None
    drop_empty_cells: bool = False

    def __post_init__(self) -> None:
        if self.model_input_size < 3:
            raise ScDMCError(f"--model_input_size {self.model_input_size}: <cls>, <eos> and one gene need at least 3")
        self.medians.require_known_genes(self.vocabulary)

    @cached_property
    def settings(self) -> TokenizationSettings:
        """What data made by this tokenizer says of itself."""
        return TokenizationSettings(self.vocabulary.sha256, self.medians.sha256, self.model_input_size)

    @cached_property
    def median_of_token(self) -> np.ndarray:
        """Shape (vocab_size,), float64."""
        return self.medians.by_token(self.vocabulary)

    def match(self, counts: Counts) -> GeneMatch:
        """Find the token of each gene of a data set."""
        return match_genes(counts.var, self.vocabulary, self.gene_id_column, self.gene_mapping, source=counts.name)


@dataclass
class FileReport:
    """What happened to the cells and genes of one file, as counts."""

    source_file: str
    layer: str
    allow_normalized: bool
    genes: int
    genes_matched: int
    genes_unmatched_examples: list[str]
    gene_columns_used: list[str]
    duplicate_genes_summed: int
    cells_in: int = 0
    cells_out: int = 0
    cells_not_passing_filter: int = 0
    cells_empty: int = 0
    cells_empty_examples: list[str] = field(default_factory=list)
    cells_truncated: int = 0
    counts_total: float = 0.0
    counts_of_unmatched_genes: float = 0.0

    def add(self, other: "FileReport") -> None:
        """Add what happened to another block of cells of the same file."""
        for item in fields(self):
            if item.name.startswith(("cells_", "counts_")):
                total = getattr(self, item.name) + getattr(other, item.name)
                setattr(self, item.name, total[:EXAMPLES_IN_REPORT] if isinstance(total, list) else total)

    def add_counts(self, counts: scipy.sparse.csr_matrix, match: GeneMatch) -> None:
        """Add the counts of a block of cells, shape (n_cells, n_genes)."""
        self.counts_total += float(total_counts(counts).sum())
        self.counts_of_unmatched_genes += float((counts @ (~match.is_matched).astype(np.float64)).sum())

    def summary(self) -> str:
        """One line for the log."""
        return (
            f"{self.source_file}: {self.cells_in:,} cells in, {self.cells_out:,} out "
            f"({self.cells_not_passing_filter:,} dropped by filter_pass, {self.cells_empty:,} empty, "
            f"{self.cells_truncated:,} truncated); {self.genes_summary()}"
        )

    def genes_summary(self) -> str:
        """Where the counts come from and what became of the genes, for the log."""
        lost = self.counts_of_unmatched_genes / self.counts_total if self.counts_total else 0.0
        return (
            f"counts from {self.layer}; "
            f"{self.genes_matched:,} of {self.genes:,} genes matched by {' and '.join(self.gene_columns_used)}, "
            f"{lost:.1%} of the counts lie in unmatched genes"
        )


def new_report(counts: Counts, match: GeneMatch) -> FileReport:
    """Report of a file of which no cell has been read yet."""
    unmatched = match.names[~match.is_matched]
    return FileReport(
        source_file=counts.name,
        layer=counts.layer,
        allow_normalized=counts.is_normalized,
        genes=len(match.token_ids),
        genes_matched=int(match.is_matched.sum()),
        genes_unmatched_examples=[str(name) for name in unmatched[:EXAMPLES_IN_REPORT]],
        gene_columns_used=match.columns_used,
        duplicate_genes_summed=match.n_duplicates,
    )


def tokenize_blocks(
    counts: Counts,
    tokenizer: Tokenizer,
    match: GeneMatch,
    report: FileReport,
    start: int = 0,
    stop: int | None = None,
    block_size: int = BLOCK_SIZE,
) -> Iterator[tuple[np.ndarray, CellStreams]]:
    """Yield (rows of obs that were kept, their streams) block by block, in file order; counts into ``report``."""
    is_passing = passes_filter(counts)
    for first, block in counts.blocks(start, stop, block_size):
        rows = np.arange(first, first + block.shape[0])
        totals = total_counts(block)
        n_counts = cell_totals(counts.obs, rows, totals, counts.name)
        is_empty = ~has_counts(n_counts)
        keep = is_passing[rows] & ~(is_empty & tokenizer.drop_empty_cells)
        report.cells_in += len(rows)
        report.cells_not_passing_filter += int((~is_passing[rows]).sum())
        _report_empty(report, counts, rows[is_empty & is_passing[rows]])
        if not keep.any():
            continue
        block, n_counts = (block, n_counts) if keep.all() else (block[keep], n_counts[keep])
        streams = cell_streams(block, match.token_ids, n_counts, tokenizer.median_of_token, tokenizer.model_input_size)
        report.cells_out += len(n_counts)
        report.cells_truncated += streams.n_truncated
        report.add_counts(block, match)
        yield rows[keep], streams


def _report_empty(report: FileReport, counts: Counts, rows: np.ndarray) -> None:
    report.cells_empty += len(rows)
    room = EXAMPLES_IN_REPORT - len(report.cells_empty_examples)
    report.cells_empty_examples += [str(cell) for cell in counts.obs.index[rows[:room]]]


def _kept_obs(counts: Counts, rows: np.ndarray, obs_columns: Sequence[str]) -> pd.DataFrame:
    """Obs of the kept cells: ``cell_id``, ``source_file`` and the asked columns that the file has."""
    obs = counts.obs.iloc[rows]
    kept = {"cell_id": obs.index.astype(str), "source_file": counts.name}
    kept |= {name: obs[name].to_numpy() for name in obs_columns if name in obs}
    return pd.DataFrame(kept, index=range(len(rows)))


def tokenize_counts(
    counts: Counts, tokenizer: Tokenizer, obs_columns: Sequence[str] = (), report: FileReport | None = None
) -> TokenizedCells:
    """Tokenize one data set in memory: the same streams that :func:`tokenize_folder` writes.

    The obs table of the result has one more column, :data:`ROW_COLUMN`.

    Parameters
    ----------
    counts
        The raw counts (:func:`scdmc.counts.open_counts`, :func:`scdmc.counts.counts_of_adata`).
    tokenizer
        How to tokenize.
    obs_columns
        Columns of ``obs`` to keep.
    report
        Filled if given (see :func:`new_report`).

    Raises
    ------
    ScDMCError
        If a column of obs is missing, or there is no cell left.
    """
    require_obs_columns({counts.name: counts.obs}, obs_columns)
    match = tokenizer.match(counts)
    report = new_report(counts, match) if report is None else report
    kept, streams = [], []
    for rows, block in tokenize_blocks(counts, tokenizer, match, report):
        kept.append(rows)
        streams.append(block)
    if not kept:
        raise ScDMCError(f"{counts.name}: no cell is left to tokenize ({report.summary()})")
    offsets = np.cumsum(np.concatenate([[0], *(np.diff(block.offsets) for block in streams)]))
    rows = np.concatenate(kept)
    schema = parquet_schema(_obs_types({counts.name: counts.obs}, obs_columns), tokenizer.settings, counts.name)
    return TokenizedCells(
        np.concatenate([block.input_ids_rank for block in streams]),
        np.concatenate([block.input_ids_epe for block in streams]),
        np.concatenate([block.expression_values for block in streams]),
        offsets,
        offsets,
        obs_table(_kept_obs(counts, rows, obs_columns), schema).append_column(ROW_COLUMN, pa.array(rows)),
        tokenizer.settings,
    )


@dataclass(frozen=True)
class Shard:
    """A contiguous block of cells of one file."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True)
class FolderJob:
    """A folder of ``.h5ad`` files to be tokenized to parquet.

    Attributes
    ----------
    input_directory, output_directory, output_prefix
        Where from and where to.
    tokenizer
        How to tokenize.
    obs_columns
        Columns of ``obs`` to keep.
    layer, allow_normalized
        Where the raw counts are (see :func:`scdmc.counts.open_counts`).
    cells_per_shard, block_size
        Most cells of a shard, and cells that are read at a time; neither changes a cell's tokens.
    """

    input_directory: Path
    output_directory: Path
    output_prefix: str
    tokenizer: Tokenizer
    obs_columns: Sequence[str] = ()
    layer: str | None = None
    allow_normalized: bool = False
    cells_per_shard: int = CELLS_PER_SHARD
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
    def finished_shards(self) -> Path:
        """Hidden folder where shards wait until all are there; ``--resume`` finds them."""
        return self.output_directory / f".{self.output_prefix}.shards"

    def outputs(self) -> list[Path]:
        """Files of this prefix that are there already."""
        # [0-9] five times: another prefix that starts like this one is not ours.
        numbered = self.output_directory.glob(f"{self.output_prefix}-[0-9][0-9][0-9][0-9][0-9].parquet")
        single = self.output_directory / f"{self.output_prefix}.parquet"
        beside = [self.report_path, token_ids_path(single), gene_medians_path(single)]
        return [path for path in [*sorted(numbered), single, *beside] if path.exists()]

    def fingerprint(self, shards: Sequence[Shard]) -> dict:
        """What must be unchanged for ``--resume`` to keep finished shards."""
        files = {shard.path for shard in shards}
        return {
            **self.tokenizer.settings.to_dict(),
            "gene_mapping": _hash_of_mapping(self.tokenizer.gene_mapping),
            "gene_id_column": self.tokenizer.gene_id_column,
            "drop_empty_cells": self.tokenizer.drop_empty_cells,
            "obs_columns": list(self.obs_columns),
            "layer": self.layer,
            "allow_normalized": self.allow_normalized,
            "shards": [[shard.path.name, shard.start, shard.stop] for shard in shards],
            "files": sorted([path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files),
        }


def _hash_of_mapping(mapping: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(mapping.items())).encode("utf8")).hexdigest()


def tokenize_folder(job: FolderJob, overwrite: bool = False, resume: bool = False) -> list[Path]:
    """Tokenize every ``.h5ad`` of a folder to parquet shards, with report, vocabulary and medians beside.

    Nothing appears under its final name before all shards are finished. Shards that were finished when a run was
    interrupted are kept if ``resume`` is set and neither files nor settings have changed.

    Returns
    -------
    The parquet files.

    Raises
    ------
    ScDMCError
        For what the user can mend (see the module :mod:`scdmc.counts`, :mod:`scdmc.gene_ids`).
    """
    files = input_files(job.input_directory)
    require_writable_folder(job.output_directory)
    for path in job.outputs():
        require_new_file(path, overwrite)
    job.tokenizer.medians.log_known_genes(job.tokenizer.vocabulary)
    obs_types, reports, n_cells = _inspect(job, files)
    shards = [
        Shard(path, start, min(start + job.cells_per_shard, n_cells[path.name]))
        for path in files
        for start in range(0, n_cells[path.name], job.cells_per_shard)
    ]
    _prepare_finished_shards(job, shards, resume)
    try:
        with tqdm(total=sum(n_cells.values()), unit=" cells", desc="tokenize") as progress:
            for path in files:
                of_file = {index: shard for index, shard in enumerate(shards) if shard.path == path}
                for shard_report in _finish_shards_of_file(job, of_file, obs_types, progress.update):
                    reports[path.name].add(shard_report)
    except (ScDMCError, OSError, KeyboardInterrupt):
        _clean_or_say_what_is_kept(job)
        raise
    _require_cells(job, reports)
    return _publish(job, len(shards), reports)


def _clean_or_say_what_is_kept(job: FolderJob) -> None:
    n_finished = len(list(job.finished_shards.glob("[0-9]*.parquet")))
    if n_finished:
        logger.warning(
            "%d finished shards are kept in %s; --resume takes them up if neither files nor settings have changed",
            n_finished, job.finished_shards,
        )  # fmt: skip
    else:
        remove(job.finished_shards)


def require_obs_columns(available: Mapping[str, Collection[str]], obs_columns: Sequence[str]) -> None:
    """Refuse an obs column that no file has, and names that the format uses itself.

    Parameters
    ----------
    available
        Name of each file -> its columns of obs (or the table itself).
    obs_columns
        The columns asked for.
    """
    reserved = sorted({*STREAM_COLUMNS, *CELL_COLUMNS, ROW_COLUMN} & set(obs_columns))
    if reserved:
        raise ScDMCError(f"--obs_columns {' '.join(reserved)}: the tokenized data has a column of its own of that name")
    for name in obs_columns:
        if not any(name in columns for columns in available.values()):
            there = sorted({str(column) for columns in available.values() for column in columns})
            raise ScDMCError(f"obs has no column {name!r} in {', '.join(list(available)[:3])}; there are {there}")


def _obs_types(obs: Mapping[str, pd.DataFrame], obs_columns: Sequence[str]) -> dict[str, pa.DataType]:
    return {name: obs_data_type([table[name] for table in obs.values() if name in table]) for name in obs_columns}


def _inspect(
    job: FolderJob, files: Sequence[Path]
) -> tuple[dict[str, pa.DataType], dict[str, FileReport], dict[str, int]]:
    """Open every file before anything is written: types of the obs columns, empty reports, numbers of cells."""
    obs, available, reports, n_cells = {}, {}, {}, {}
    for path in files:
        with open_counts(path, job.layer, job.allow_normalized) as counts:
            obs[path.name] = counts.obs[[name for name in job.obs_columns if name in counts.obs]]
            available[path.name] = list(counts.obs)
            reports[path.name] = new_report(counts, job.tokenizer.match(counts))
            n_cells[path.name] = counts.n_cells
            _warn_of_repeated_cell_ids(counts)
    require_obs_columns(available, job.obs_columns)
    return _obs_types(obs, job.obs_columns), reports, n_cells


def _warn_of_repeated_cell_ids(counts: Counts) -> None:
    repeated = counts.obs.index[counts.obs.index.duplicated()]
    if len(repeated):
        shown = ", ".join(map(str, repeated[:3]))
        logger.warning("warning: %s: %d cell ids occur more than once, such as %s", counts.name, len(repeated), shown)


def _prepare_finished_shards(job: FolderJob, shards: Sequence[Shard], resume: bool) -> None:
    """Keep the shards of an interrupted run if they were made from the same files with the same settings."""
    fingerprint_path = job.finished_shards / "fingerprint.json"
    fingerprint = job.fingerprint(shards)
    if resume and fingerprint_path.exists():
        if json.loads(fingerprint_path.read_text()) == fingerprint:
            return
        logger.warning(
            "warning: files or settings have changed since the interrupted run; starting from the first cell"
        )
    remove(job.finished_shards)
    write_json(fingerprint_path, fingerprint)


def _finish_shards_of_file(
    job: FolderJob,
    shards: Mapping[int, Shard],
    obs_types: Mapping[str, pa.DataType],
    progress: Callable[[int], object],
) -> list[FileReport]:
    """Write the shards of one file (number -> shard) that are not finished yet; returns all reports, in order."""
    reports, unfinished = {}, {}
    for index, shard in shards.items():
        report_path = _report_path(job, index)
        if _shard_path(job, index).exists() and report_path.exists():
            progress(shard.stop - shard.start)
            reports[index] = FileReport(**json.loads(report_path.read_text()))
        else:
            unfinished[index] = shard
    if unfinished:
        # One opening for all shards: a CSC matrix is read whole.
        with open_counts(next(iter(unfinished.values())).path, job.layer, job.allow_normalized) as counts:
            match = job.tokenizer.match(counts)
            for index, shard in unfinished.items():
                reports[index] = _write_shard(job, index, shard, counts, match, obs_types, progress)
    return [reports[index] for index in shards]


def _shard_path(job: FolderJob, index: int) -> Path:
    return job.finished_shards / f"{index:05d}.parquet"


def _report_path(job: FolderJob, index: int) -> Path:
    return job.finished_shards / f"{index:05d}.json"


def _write_shard(
    job: FolderJob,
    index: int,
    shard: Shard,
    counts: Counts,
    match: GeneMatch,
    obs_types: Mapping[str, pa.DataType],
    progress: Callable[[int], object],
) -> FileReport:
    """Write a shard and its report into the hidden folder."""
    report = new_report(counts, match)
    schema = parquet_schema(obs_types, job.tokenizer.settings, shard.path.name)
    blocks = tokenize_blocks(counts, job.tokenizer, match, report, shard.start, shard.stop, job.block_size)
    with atomic_path(_shard_path(job, index)) as temporary, parquet_writer(temporary, schema) as writer:
        for rows, streams in blocks:
            writer.write_table(parquet_table(streams, _kept_obs(counts, rows, job.obs_columns), schema))
            progress(len(rows))
    write_json(_report_path(job, index), asdict(report))
    return report


def _require_cells(job: FolderJob, reports: Mapping[str, FileReport]) -> None:
    if not any(report.cells_out for report in reports.values()):
        remove(job.finished_shards)
        raise ScDMCError("no cell is left to write: " + "; ".join(report.summary() for report in reports.values()))


def _publish(job: FolderJob, n_shards: int, reports: Mapping[str, FileReport]) -> list[Path]:
    """Give the finished shards their final names, with report, vocabulary and medians beside them."""
    old = job.outputs()
    if n_shards == 1:
        names = [f"{job.output_prefix}.parquet"]
    else:
        names = [f"{job.output_prefix}-{index:05d}.parquet" for index in range(n_shards)]
    paths = [job.output_directory / name for name in names]
    job.tokenizer.vocabulary.save(token_ids_path(paths[0]))
    job.tokenizer.medians.save(gene_medians_path(paths[0]))
    for index, path in enumerate(paths):
        _shard_path(job, index).replace(path)
    write_json(
        job.report_path, {"settings": job.tokenizer.settings.to_dict(), "files": [asdict(r) for r in reports.values()]}
    )
    # Only now: until the new shards stand in their places, nothing of the old output is lost that they do not replace.
    for path in set(old) - {*paths, job.report_path, token_ids_path(paths[0]), gene_medians_path(paths[0])}:
        path.unlink()
    remove(job.finished_shards)
    for report in reports.values():
        logger.info(report.summary())
    return paths


def collect_medians(
    files: Sequence[Path],
    vocabulary: Vocabulary,
    gene_id_column: str | None = None,
    gene_mapping: Mapping[str, str] | None = None,
    layer: str | None = None,
    allow_normalized: bool = False,
    choose_cells: Callable[[Counts], np.ndarray] = passes_filter,
    exact_limit: int = EXACT_LIMIT,
) -> MedianAccumulator:
    """Collect the non-zero CP10k of every gene over ``.h5ad`` files, in one pass.

    Parameters
    ----------
    files
        The files (see :func:`scdmc.counts.input_files`).
    vocabulary
        The vocabulary.
    gene_id_column, gene_mapping
        How genes are matched (see :func:`scdmc.gene_ids.match_genes`).
    layer, allow_normalized
        Where the raw counts are (see :func:`scdmc.counts.open_counts`).
    choose_cells
        Returns True for the cells that are taken, shape (n_cells,); without it, those that are tokenized.
    exact_limit
        Up to this many non-zero values the medians are exact.

    Returns
    -------
    What :func:`scdmc.gene_medians.medians_by_gene` turns into medians.

    Raises
    ------
    ScDMCError
        If the cells taken have no counts, or a file is none of raw counts.
    """
    accumulator = MedianAccumulator(len(vocabulary), exact_limit)
    for path in files:
        with open_counts(path, layer, allow_normalized) as counts:
            match = match_genes(counts.var, vocabulary, gene_id_column, gene_mapping, source=counts.name)
            report = new_report(counts, match)
            _add_file(accumulator, counts, match, choose_cells(counts), report)
        logger.info(
            "%s: %s of %s cells taken; %s",
            path.name, f"{report.cells_out:,}", f"{report.cells_in:,}", report.genes_summary(),
        )  # fmt: skip
    if not accumulator.n_entries:
        raise ScDMCError(f"{files[0].parent}: there is no count in any of the {accumulator.n_cells:,} cells taken")
    return accumulator


def _add_file(
    accumulator: MedianAccumulator, counts: Counts, match: GeneMatch, is_taken: np.ndarray, report: FileReport
) -> None:
    """Add the cells taken of one file to the accumulator and to the report."""
    with tqdm(total=counts.n_cells, unit=" cells", desc=counts.name) as progress:
        for first, block in counts.blocks():
            rows = np.arange(first, first + block.shape[0])
            n_counts = cell_totals(counts.obs, rows, total_counts(block), counts.name)
            taken = is_taken[rows]
            add_block(accumulator, block[taken], match.token_ids, n_counts[taken])
            report.cells_in += len(rows)
            report.cells_out += int(taken.sum())
            report.add_counts(block[taken], match)
            progress.update(len(rows))
