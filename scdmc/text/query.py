"""Cells of a file or an AnnData, as annotation by text reads them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse

from scdmc.cells.data import read_cells, tokenizer_of_model
from scdmc.cells.expression import expression_of_streams, log1p_cp10k
from scdmc.genes.ids import UNMATCHED
from scdmc.model.folder import ModelDirectory
from scdmc.reading.counts import Counts, open_counts
from scdmc.reading.options import CountOptions, is_counts
from scdmc.text.annotation import Query
from scdmc.text.features import FeatureMaker
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizedCells
from scdmc.tokens.tokenizer import Tokenizer, tokenize_counts

# Tokens of a cell without counts: <cls> and <eos>.
EMPTY_LENGTH = 2


def query_of_file(
    data_path: Path,
    model_directory: ModelDirectory,
    maker: FeatureMaker,
    options: CountOptions,
    obs_columns: Sequence[str] = (),
) -> tuple[TokenizedCells, Query]:
    """Cells of a file of counts, or tokenized ones, whose expression is that of the genes in their streams.

    Parameters
    ----------
    data_path
        The file.
    model_directory
        Of the encoder.
    maker
        Of the features.
    options
        How counts are read.
    obs_columns
        Columns of obs that are kept.
    """
    if is_counts(data_path):
        with open_counts(data_path, **options.of_counts()) as counts:
            return query_of_counts(
                counts, tokenizer_of_model(model_directory, options), model_directory, maker, obs_columns
            )
    cells = read_cells(data_path, model_directory, obs_columns)
    return cells, query_of_cells(cells, model_directory, maker)


def query_of_cells(cells: TokenizedCells, model_directory: ModelDirectory, maker: FeatureMaker) -> Query:
    """The same of tokenized cells, whose expression is that of the genes in their streams."""
    return _query(cells, maker, *expression_of_streams(cells, model_directory))


def query_of_counts(
    counts: Counts,
    tokenizer: Tokenizer,
    model_directory: ModelDirectory,
    maker: FeatureMaker,
    obs_columns: Sequence[str] = (),
) -> tuple[TokenizedCells, Query]:
    """The same of opened counts."""
    cells = tokenize_counts(counts, tokenizer, obs_columns).truncated(model_directory.context)
    expression = log1p_cp10k(counts)[cells.obs[ROW_COLUMN].to_numpy()]
    match = tokenizer.match(counts)
    known = np.where(match.is_matched, match.token_ids, UNMATCHED)
    genes = np.where(match.is_matched, tokenizer.vocabulary.tokens[np.where(match.is_matched, known, 0)], "")
    return cells, _query(cells, maker, expression, genes.astype(str))


def _query(cells: TokenizedCells, maker: FeatureMaker, expression: scipy.sparse.csr_matrix, genes: np.ndarray) -> Query:
    return Query(maker.of(cells), expression, genes, cells.rank_lengths > EMPTY_LENGTH)
