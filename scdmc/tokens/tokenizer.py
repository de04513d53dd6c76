"""From raw counts to tokenized cells of one data set, block by block or in memory (docs/method.md, "Tokenization")."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from scdmc.errors import ScDMCError
from scdmc.genes.ids import GeneMatch, match_genes
from scdmc.genes.vocabulary import Vocabulary
from scdmc.progress import progress_bar
from scdmc.reading.counts import Counts, cell_totals, open_counts, passes_filter
from scdmc.reading.options import BLOCK_SIZE
from scdmc.tokens.file_report import FileReport, new_report
from scdmc.tokens.medians import GeneMedians, MedianAccumulator, add_block, medians_by_gene
from scdmc.tokens.options import EXACT_LIMIT, MODEL_INPUT_SIZE
from scdmc.tokens.parquet import parquet_schema
from scdmc.tokens.streams import CellStreams, cell_streams, concatenate_streams, has_counts, total_counts
from scdmc.tokens.tokenized_cells import (
    ROW_COLUMN,
    TokenizationSettings,
    TokenizedCells,
    obs_data_type,
    obs_table,
    require_obs_columns,
)

logger = logging.getLogger(__name__)


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
    species, orthologs
        ``human`` or ``mouse``, and for the latter upper-case mouse id or symbol -> human id
        (:func:`scdmc.genes.ids.load_orthologs`).
    drop_empty_cells
        Leave out cells without any counts instead of writing ``[<cls>, <eos>]``.
    """

    vocabulary: Vocabulary
    medians: GeneMedians
    model_input_size: int = MODEL_INPUT_SIZE
    gene_mapping: Mapping[str, str] = field(default_factory=dict)
    gene_id_column: str | None = None
    drop_empty_cells: bool = False
    species: str = "human"
    orthologs: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.model_input_size < 3:
            raise ScDMCError(f"--model_input_size {self.model_input_size}: <cls>, <eos> and one gene need at least 3")
        self.medians.require_known_genes(self.vocabulary)

    def __getstate__(self) -> dict[str, object]:
        """What a worker gets: not the genes that were found last."""
        return {name: value for name, value in self.__dict__.items() if name != "_latest"}

    @cached_property
    def settings(self) -> TokenizationSettings:
        """What data made by this tokenizer says of itself."""
        return TokenizationSettings(self.vocabulary.sha256, self.medians.sha256, self.model_input_size)

    @cached_property
    def median_of_token(self) -> np.ndarray:
        """Shape (vocab_size,), float64."""
        return self.medians.by_token(self.vocabulary)

    def match(self, counts: Counts) -> GeneMatch:
        """Find the token of each gene of a data set; what was found last is kept, for a file is opened twice."""
        name, var, match = self.__dict__.get("_latest", (None, None, None))
        if counts.name != name or not counts.var.equals(var):
            match = self._found(counts)
            self.__dict__["_latest"] = counts.name, counts.var, match
        return match

    def _found(self, counts: Counts) -> GeneMatch:
        return match_genes(
            counts.var,
            self.vocabulary,
            self.gene_id_column,
            self.gene_mapping,
            source=counts.name,
            species=self.species,
            orthologs=self.orthologs,
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
    is_passing = counts.is_passing
    for first, block in counts.blocks(start, stop, block_size):
        rows = np.arange(first, first + block.shape[0])
        n_counts = cell_totals(counts, rows, total_counts(block))
        is_empty = ~has_counts(n_counts)
        keep = is_passing[rows] & ~(is_empty & tokenizer.drop_empty_cells)
        report.cells_in += len(rows)
        report.cells_not_passing_filter += int((~is_passing[rows]).sum())
        report.add_empty_cells(counts.obs.index[rows[is_empty & is_passing[rows]]])
        if not keep.any():
            continue
        block, n_counts = (block, n_counts) if keep.all() else (block[keep], n_counts[keep])
        streams = cell_streams(block, match.token_ids, n_counts, tokenizer.median_of_token, tokenizer.model_input_size)
        report.add_streams(streams, n_counts)
        report.add_counts(block, match)
        yield rows[keep], streams


def cells_of_streams(streams: CellStreams, obs: pa.Table, settings: TokenizationSettings) -> TokenizedCells:
    """Cells of streams that :func:`cell_streams` made, where both streams of a cell are equally long.

    Parameters
    ----------
    streams
        Of n_cells cells.
    obs
        A row for each of them.
    settings
        How they were tokenized.
    """
    offsets = streams.offsets
    ids = (streams.input_ids_rank, streams.input_ids_epe)
    return TokenizedCells(*ids, streams.expression_values, offsets, offsets, obs, settings)


def kept_obs(counts: Counts, rows: np.ndarray, obs_columns: Sequence[str]) -> pd.DataFrame:
    """Obs of the kept cells: ``cell_id``, ``source_file`` and the asked columns that the file has."""
    obs = counts.obs.iloc[rows]
    kept = {"cell_id": obs.index.astype(str), "source_file": counts.name}
    kept |= {name: obs[name].to_numpy() for name in obs_columns if name in obs}
    return pd.DataFrame(kept, index=range(len(rows)))


def tokenize_counts(counts: Counts, tokenizer: Tokenizer, obs_columns: Sequence[str] = ()) -> TokenizedCells:
    """Tokenize one data set in memory: the same streams that the tokenizer writes to parquet.

    The obs table of the result has one more column, :data:`ROW_COLUMN`. What was read and dropped is in the log.

    Parameters
    ----------
    counts
        The raw counts (:func:`scdmc.reading.counts.open_counts`, :func:`scdmc.reading.counts.counts_of_adata`).
    tokenizer
        How to tokenize.
    obs_columns
        Columns of ``obs`` to keep.

    Raises
    ------
    ScDMCError
        If a column of obs is missing, or there is no cell left.
    """
    require_obs_columns({counts.name: counts.obs}, obs_columns)
    match = tokenizer.match(counts)
    report = new_report(counts, match)
    kept, streams = [], []
    for rows, block in tokenize_blocks(counts, tokenizer, match, report):
        kept.append(rows)
        streams.append(block)
    if not kept:
        raise ScDMCError(f"{counts.name}: no cell is left to tokenize ({report.summary()})")
    logger.info(report.summary())
    rows, cells = np.concatenate(kept), concatenate_streams(streams)
    schema = parquet_schema(obs_types({counts.name: counts.obs}, obs_columns), tokenizer.settings, counts.name)
    obs = obs_table(kept_obs(counts, rows, obs_columns), schema).append_column(ROW_COLUMN, pa.array(rows))
    return cells_of_streams(cells, obs, tokenizer.settings)


def obs_types(obs: Mapping[str, pd.DataFrame], obs_columns: Sequence[str]) -> dict[str, pa.DataType]:
    """Type of each kept obs column over the files (file name -> obs, of which only the types matter)."""
    return {name: obs_data_type([table[name] for table in obs.values() if name in table]) for name in obs_columns}


def collect_medians(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    layer: str | None = None,
    allow_normalized: bool = False,
    choose_cells: Callable[[Counts], np.ndarray] = passes_filter,
    exact_limit: int = EXACT_LIMIT,
    recompute_totals: bool = False,
) -> MedianAccumulator:
    """Collect the non-zero CP10k of every gene over files of raw counts, in one pass.

    Parameters
    ----------
    files
        The files (see :func:`scdmc.reading.inputs.input_files`).
    tokenizer
        Finds the genes; its own medians play no part.
    layer, allow_normalized
        Where the raw counts are (see :func:`scdmc.reading.counts.open_counts`).
    choose_cells
        Returns True for the cells that are taken, shape (n_cells,); without it, those that are tokenized.
    exact_limit
        Up to this many non-zero values the medians are exact.
    recompute_totals
        See :func:`scdmc.reading.counts.open_counts`.

    Returns
    -------
    What :func:`scdmc.tokens.medians.medians_by_gene` turns into medians.

    Raises
    ------
    ScDMCError
        If the cells taken have no counts, or a file is none of raw counts.
    """
    accumulator = MedianAccumulator(len(tokenizer.vocabulary), exact_limit)
    for path in files:
        with open_counts(path, layer, allow_normalized, recompute_totals) as counts:
            match = tokenizer.match(counts)
            report = new_report(counts, match)
            _add_file(accumulator, counts, match, choose_cells(counts), report)
        logger.info(
            "%s: %s of %s cells taken; %s",
            path.name, f"{report.cells_out:,}", f"{report.cells_in:,}", report.genes_summary(),
        )  # fmt: skip
    if not accumulator.n_entries:
        raise ScDMCError(
            f"{files[0].parent}: {accumulator.n_cells:,} cells are left to take medians of (--leave_out, --split_file "
            "and filter_pass leave cells out), and there is no count in any of them"
        )
    return accumulator


def medians_of_counts(counts: Counts, tokenizer: Tokenizer, block_size: int = BLOCK_SIZE) -> GeneMedians:
    """Medians of the genes over the cells of one source that pass its filter, in one pass over its counts.

    Raises
    ------
    ScDMCError
        If there is no count in them, or a value that is no count.
    """
    accumulator, match = MedianAccumulator(len(tokenizer.vocabulary)), tokenizer.match(counts)
    report = new_report(counts, match)
    _add_file(accumulator, counts, match, passes_filter(counts), report, block_size)
    if not accumulator.n_entries:
        raise ScDMCError(f"{counts.name}: there is no count in any of {accumulator.n_cells:,} cells to take medians of")
    logger.info(
        "gene medians over %s cells (%s)",
        f"{accumulator.n_cells:,}", "exact" if accumulator.is_exact else "within 0.5%",
    )  # fmt: skip
    return medians_by_gene(accumulator, tokenizer.vocabulary, counts.name)


def _add_file(
    accumulator: MedianAccumulator,
    counts: Counts,
    match: GeneMatch,
    is_taken: np.ndarray,
    report: FileReport,
    block_size: int = BLOCK_SIZE,
) -> None:
    """Add the cells taken of one file to the accumulator and to the report."""
    with progress_bar(total=counts.n_cells, unit=" cells", desc=counts.name) as progress:
        for first, block in counts.blocks(block_size=block_size):
            rows = np.arange(first, first + block.shape[0])
            n_counts = cell_totals(counts, rows, total_counts(block))
            taken = is_taken[rows]
            add_block(accumulator, block[taken], match.token_ids, n_counts[taken])
            report.cells_in += len(rows)
            report.cells_out += int(taken.sum())
            report.add_counts(block[taken], match)
            progress.update(len(rows))
