"""What the gene-level analyses work on: a model, tokenized cells with their types, and their genes' expression."""

import logging
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.cells.data import read_cells, tokenizer_of_model
from scdmc.cells.expression import log1p_cp10k, read_expression
from scdmc.cells.from_adata import tokenize
from scdmc.errors import ScDMCError
from scdmc.gene_analysis.options import CELLS_PER_TYPE, GeneDataOptions
from scdmc.genes.ids import UNMATCHED
from scdmc.genes.symbols import gene_symbols
from scdmc.genes.vocabulary import EOS_TOKEN_ID
from scdmc.labels import is_missing, labels_of
from scdmc.model.devices import place_model
from scdmc.model.encoder import ScDMCModel, ScDMCPreTrainedModel
from scdmc.model.folder import ModelDirectory
from scdmc.model.loaded import model_to_run, open_model
from scdmc.reading.counts import counts_of_adata, open_counts
from scdmc.reading.options import CountOptions, is_counts
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizedCells

if TYPE_CHECKING:
    import anndata

logger = logging.getLogger(__name__)


ALL_CELLS = "all cells"


@dataclass(frozen=True)
class GeneData:
    """A model and the cells that it reads.

    Attributes
    ----------
    model
        In evaluation mode, on its device.
    model_directory
        Vocabulary, medians and context.
    cells
        Tokenized cells, those with a type of enough cells.
    labels
        Type of each cell, shape (n_cells,), text.
    expression
        log1p CP10k of the same cells, CSR of shape (n_cells, vocab_size); 0 for genes that the data lack.
    """

    model: ScDMCPreTrainedModel
    model_directory: ModelDirectory
    cells: TokenizedCells
    labels: np.ndarray
    expression: scipy.sparse.csr_matrix

    @property
    def encoder(self) -> ScDMCModel:
        """The encoder, without its head."""
        return self.model if isinstance(self.model, ScDMCModel) else self.model.bert

    @property
    def types(self) -> list[str]:
        """Names of the cell types, in order."""
        return [str(name) for name in np.unique(self.labels)]

    def of_types(self, types: list[str]) -> "GeneData":
        """The cells of some types.

        Raises
        ------
        ScDMCError
            If there is no such type.
        """
        unknown = [name for name in types if name not in self.types]
        if unknown:
            raise ScDMCError(f"no cell type {unknown[0]!r} with enough cells; there are {', '.join(self.types)}")
        return self.select(np.flatnonzero(np.isin(self.labels, types)))

    def select(self, rows: np.ndarray) -> "GeneData":
        """The chosen cells, in the given order."""
        return replace(self, cells=self.cells.select(rows), labels=self.labels[rows], expression=self.expression[rows])

    def symbols(self, tokens: np.ndarray) -> np.ndarray:
        """Official symbols of tokens, shape (n_tokens,)."""
        return gene_symbols(self.model_directory.vocabulary.tokens[tokens])


def open_gene_data(model: str | Path | ScDMCPreTrainedModel, data_path: Path, options: GeneDataOptions) -> GeneData:
    """Model and cells for a gene-level analysis.

    Parameters
    ----------
    model
        Model folder, name of a shipped model, or a loaded model.
    data_path
        ``.h5ad`` with raw counts, or tokenized parquet.
    options
        Which cells, and where the model runs.

    Raises
    ------
    ScDMCError
        If they cannot be read, or no type has enough cells.
    """
    model_directory = open_model(model, options.token_dictionary_file)
    cells = read_cells(data_path, model_directory, [options.label_key], options.counts)
    expression = _expression_of_file(data_path, cells, model_directory, options.counts)
    place = partial(place_model, num_gpus=options.num_gpus, attention=options.attention, dtype=options.dtype)
    placed = model_to_run(model_directory, None, place)
    labels = labels_of(cells.obs[options.label_key])
    data = _with_enough_cells(GeneData(placed, model_directory, cells, labels, expression), options.min_cells_per_type)
    return data.of_types(list(options.cell_types)) if options.cell_types else data


def gene_data_of_adata(
    adata: "anndata.AnnData",
    model: str | Path | ScDMCPreTrainedModel,
    label_key: str | None,
    options: CountOptions,
    min_cells_per_type: int = CELLS_PER_TYPE,
) -> GeneData:
    """The same for an AnnData in memory; without ``label_key`` all cells are of one type.

    Raises
    ------
    ScDMCError
        If the cells cannot be tokenized, or no type has enough cells.
    """
    model_directory = open_model(model)
    columns = [label_key] if label_key else []
    cells = tokenize(adata, model=model_directory, obs_columns=columns, **asdict(options))
    counts = counts_of_adata(adata, **options.of_counts())
    tokens = tokenizer_of_model(model_directory, options).match(counts).token_ids
    expression = log1p_cp10k(counts)[cells.obs[ROW_COLUMN].to_numpy()]
    expression = _sum_by_token(expression, tokens, len(model_directory.vocabulary))
    labels = labels_of(cells.obs[label_key]) if label_key else np.full(len(cells), ALL_CELLS, dtype=object)
    placed = model_to_run(model_directory, None, place_model)
    return _with_enough_cells(GeneData(placed, model_directory, cells, labels, expression), min_cells_per_type)


def _expression_of_file(
    data_path: Path, cells: TokenizedCells, model_directory: ModelDirectory, options: CountOptions
) -> scipy.sparse.csr_matrix:
    expression, genes = read_expression(data_path, cells, model_directory, options)
    if is_counts(data_path):
        with open_counts(data_path, **options.of_counts()) as counts:
            tokens = tokenizer_of_model(model_directory, options).match(counts).token_ids
    else:
        tokens = np.array([model_directory.vocabulary.token_ids[gene] for gene in genes])
    return _sum_by_token(expression, tokens, len(model_directory.vocabulary))


def _sum_by_token(expression: scipy.sparse.csr_matrix, tokens: np.ndarray, vocab_size: int) -> scipy.sparse.csr_matrix:
    """log1p CP10k by column of the file -> by token: columns of one gene are summed before the logarithm."""
    matched = np.flatnonzero(tokens != UNMATCHED)
    place = scipy.sparse.csr_matrix(
        (np.ones(len(matched), np.float32), (matched, tokens[matched])), shape=(len(tokens), vocab_size)
    )
    return scipy.sparse.csr_matrix((expression.expm1() @ place).log1p(), dtype=np.float32)


def _with_enough_cells(data: GeneData, min_cells: int) -> GeneData:
    """Leave out cells without a type and types of few cells, and say so."""
    labels = pd.Series(data.labels, dtype=object)
    sizes = labels[~is_missing(data.labels)].value_counts()
    small = sizes[sizes < min_cells]
    if len(small) == len(sizes):
        shown = ", ".join(f"{name} ({n})" for name, n in sizes.head(5).items()) or "no cell has a type"
        raise ScDMCError(f"no cell type has {min_cells} cells: {shown}; lower --min_cells_per_type")
    if len(small):
        names = ", ".join(f"{name} ({n})" for name, n in small.items())
        logger.warning("warning: types with fewer than %d cells are left out: %s", min_cells, names)
    kept = data.select(np.flatnonzero(labels.isin(sizes.index[sizes >= min_cells])))
    return replace(kept, labels=kept.labels.astype(str))


def cells_with_gene(cells: TokenizedCells, vocab_size: int) -> np.ndarray:
    """How many of the cells have each token in their rank stream, shape (vocab_size,); 0 for special tokens."""
    n_cells = np.bincount(cells.rank_ids, minlength=vocab_size)
    n_cells[: EOS_TOKEN_ID + 1] = 0
    return n_cells


def mean_expression(expression: scipy.sparse.csr_matrix, tokens: np.ndarray) -> np.ndarray:
    """Mean log1p CP10k of genes over cells, shape (n_tokens,)."""
    return np.asarray(expression.mean(axis=0)).ravel()[tokens]
