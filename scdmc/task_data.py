"""Data arguments of the downstream scripts: a tokenized parquet or an ``.h5ad``, read as the model was trained."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse
import torch

from scdmc.attention import BACK_ENDS
from scdmc.command_line import non_negative_int
from scdmc.counts import Counts, cell_totals, open_counts
from scdmc.devices import choose_device
from scdmc.errors import ScDMCError
from scdmc.gene_ids import load_gene_mapping
from scdmc.model_directory import ModelDirectory, require_same_settings
from scdmc.modeling import ScDMCPreTrainedModel
from scdmc.splits import is_missing
from scdmc.streams import COUNTS_PER_CELL, has_counts, total_counts
from scdmc.tokenization import ROW_COLUMN, Tokenizer, tokenize_counts
from scdmc.tokenized_data import TokenizedCells, expression_of_cells, read_tokenized, require_valid_ids

if TYPE_CHECKING:
    import anndata

logger = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class CountOptions:
    """How an ``.h5ad`` is read; parquet needs none of it.

    Attributes
    ----------
    layer, allow_normalized
        See :func:`scdmc.counts.open_counts`.
    gene_id_column, gene_mapping_file
        See :func:`scdmc.gene_ids.match_genes`.
    """

    layer: str | None = None
    allow_normalized: bool = False
    gene_id_column: str | None = None
    gene_mapping_file: Path | None = None


def is_h5ad(data_path: Path) -> bool:
    """True if a data argument names an ``.h5ad`` rather than tokenized parquet."""
    return Path(data_path).suffix == ".h5ad"


def names_of_files(paths: Sequence[Path], flag: str) -> list[str]:
    """What data sets are called, their files without suffix; refuses two of one name, whose results would mix."""
    names = [path.stem for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ScDMCError(f"{flag}: two data sets are called {', '.join(twice)}; rename a file")
    return names


def read_cells(
    data_path: Path,
    model_directory: ModelDirectory,
    obs_columns: Sequence[str] | None = None,
    options: CountOptions | None = None,
) -> TokenizedCells:
    """Tokenized cells as the model reads them.

    Parameters
    ----------
    data_path
        ``.h5ad`` with raw counts, or tokenized parquet (file, folder, glob).
    model_directory
        The model; an ``.h5ad`` is tokenized with its vocabulary and medians.
    obs_columns
        Columns of ``obs`` that are needed; without it all that a parquet keeps, and none of an ``.h5ad``.
    options
        How to read an ``.h5ad``.

    Raises
    ------
    ScDMCError
        If the data were tokenized for another model, or a column is missing.
    """
    if is_h5ad(data_path):
        cells = _tokenize_h5ad(data_path, model_directory, obs_columns or (), options or CountOptions())
    else:
        cells = read_tokenized(data_path, obs_columns)
        require_same_tokenization(cells, model_directory, data_path)
    return cells.truncated(model_directory.context)


def tokenizer_of_model(model_directory: ModelDirectory, options: CountOptions) -> Tokenizer:
    """The tokenizer that makes cells of counts as the model was trained."""
    return Tokenizer(
        vocabulary=model_directory.vocabulary,
        medians=model_directory.medians,
        model_input_size=model_directory.context,
        gene_mapping=load_gene_mapping(options.gene_mapping_file, model_directory.vocabulary),
        gene_id_column=options.gene_id_column,
    )


def _tokenize_h5ad(
    data_path: Path, model_directory: ModelDirectory, obs_columns: Sequence[str], options: CountOptions
) -> TokenizedCells:
    tokenizer = tokenizer_of_model(model_directory, options)
    with open_counts(data_path, options.layer, options.allow_normalized) as counts:
        return tokenize_counts(counts, tokenizer, obs_columns)


def require_same_tokenization(cells: TokenizedCells, model_directory: ModelDirectory, data_path: Path) -> None:
    """Refuse tokenized cells that were made for another model, as far as they say so."""
    require_valid_ids(cells, len(model_directory.vocabulary), str(data_path))
    if cells.settings is None:
        logger.warning(
            "warning: %s does not say with which vocabulary it was made; taking that of %s",
            data_path,
            model_directory.path,
        )
        return
    require_same_settings(cells.settings, model_directory, str(data_path))
    if cells.settings.model_input_size < model_directory.context:
        logger.warning(
            "warning: %s holds %d tokens a cell at most, but the model reads %d",
            data_path, cells.settings.model_input_size, model_directory.context,
        )  # fmt: skip


def labels_of(column: pd.Series) -> np.ndarray:
    """A column of obs as text, shape (n_cells,); None where it holds NaN, None or ''."""
    values = column.to_numpy(dtype=object)
    missing = is_missing(values)
    return np.array([None if absent else str(value) for value, absent in zip(values, missing, strict=True)], object)


def read_expression(
    data_path: Path, cells: TokenizedCells, model_directory: ModelDirectory, options: CountOptions | None = None
) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """log1p CP10k of the same cells, for the baselines.

    From an ``.h5ad`` all its genes; from parquet the genes that the streams hold, which are the highest of each cell.

    Returns
    -------
    CSR of shape (n_cells, n_genes), float32, and the names of the genes, shape (n_genes,).
    """
    if is_h5ad(data_path):
        return _expression_of_h5ad(data_path, cells, options or CountOptions())
    return _expression_of_streams(read_tokenized(data_path, obs_columns=()), model_directory)


def _expression_of_h5ad(
    data_path: Path, cells: TokenizedCells, options: CountOptions
) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    with open_counts(data_path, options.layer, options.allow_normalized) as counts:
        return log1p_cp10k(counts)[cells.obs[ROW_COLUMN].to_numpy()], counts.var.index.to_numpy(dtype=object)


def log1p_cp10k(counts: Counts) -> scipy.sparse.csr_matrix:
    """ln(1 + counts per 10,000) of all cells and genes, CSR of shape (n_cells, n_genes), float32; empty cells are 0."""
    blocks = []
    for first, block in counts.blocks():
        rows = np.arange(first, first + block.shape[0])
        n_counts = cell_totals(counts.obs, rows, total_counts(block), counts.name)
        has_total = has_counts(n_counts)
        scale = np.where(has_total, COUNTS_PER_CELL / np.where(has_total, n_counts, 1.0), 0.0)
        blocks.append((scipy.sparse.diags_array(scale) @ block).log1p().astype(np.float32))
    return scipy.sparse.csr_matrix(scipy.sparse.vstack(blocks))


def raw_counts(counts: Counts) -> scipy.sparse.csr_matrix:
    """The counts of all cells and genes, CSR of shape (n_cells, n_genes), float32."""
    blocks = [block.astype(np.float32) for _, block in counts.blocks()]
    return scipy.sparse.csr_matrix(scipy.sparse.vstack(blocks))


def read_raw_counts(
    data_path: Path, cells: TokenizedCells, options: CountOptions | None = None
) -> scipy.sparse.csr_matrix | None:
    """Raw counts of the same cells, shape (n_cells, n_genes), genes as :func:`read_expression` has them.

    None for tokenized parquet, which keeps no counts.
    """
    if not is_h5ad(data_path):
        return None
    options = options or CountOptions()
    with open_counts(data_path, options.layer, options.allow_normalized) as counts:
        return raw_counts(counts)[cells.obs[ROW_COLUMN].to_numpy()]


def _expression_of_streams(
    cells: TokenizedCells, model_directory: ModelDirectory
) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    vocabulary = model_directory.vocabulary
    expression = expression_of_cells(cells, np.arange(len(cells)), len(vocabulary))
    relative = np.expm1(expression.data.astype(np.float64))
    medians = model_directory.medians.by_token(vocabulary)
    expression.data = np.log1p(relative * medians[expression.indices]).astype(np.float32)
    expression.sum_duplicates()  # data of the published tool may name a gene twice
    seen = np.unique(expression.indices)
    return expression[:, seen], vocabulary.tokens[seen]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of how a model folder is opened and where the model runs."""
    group = parser.add_argument_group("running the model")
    group.add_argument("--token_dictionary_file", type=Path, help="vocabulary of a model folder that has none")
    group.add_argument("--attention", choices=BACK_ENDS, default="auto", help="attention back end")
    group.add_argument("--num_gpus", type=non_negative_int, help="0 forces the CPU")


def add_dtype_argument(parser: argparse.ArgumentParser) -> None:
    """The flag of scripts that only run a model and do not train it."""
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="bfloat16 is faster and agrees to a cosine of 0.999"
    )


def place_model(
    model: ScDMCPreTrainedModel, arguments: argparse.Namespace, dtype: str = "float32"
) -> ScDMCPreTrainedModel:
    """Move a model to the device, with the attention, that the flags of :func:`add_model_arguments` ask for."""
    model.to(choose_device(arguments.num_gpus), getattr(torch, dtype))
    model.set_attention(arguments.attention, getattr(torch, dtype))
    return model


def add_count_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of :class:`CountOptions`."""
    group = parser.add_argument_group("reading an .h5ad")
    group.add_argument("--layer", help="where the raw counts are: X, raw or the name of a layer; looked for without it")
    group.add_argument("--allow_normalized", action="store_true", help="take X even if it holds no integers")
    group.add_argument("--gene_id_column", help="column of var with the gene ids; looked for without it")
    group.add_argument("--gene_mapping_file", type=Path, help="JSON symbol or id -> current id, applied first")


def count_options(arguments: argparse.Namespace) -> CountOptions:
    """The options that the flags of :func:`add_count_arguments` stand for."""
    return CountOptions(**{name: getattr(arguments, name) for name in CountOptions.__dataclass_fields__})


def count_options_for(arguments: argparse.Namespace, data_path: Path) -> CountOptions:
    """The options of :func:`count_options` for one file; refuses flags that say nothing of it.

    Raises
    ------
    ScDMCError
        If one of the flags is given, and the data are tokenized already.
    """
    options = count_options(arguments)
    given = [f"--{name}" for name in CountOptions.__dataclass_fields__ if getattr(options, name)]
    if given and not is_h5ad(data_path):
        raise ScDMCError(
            f"{', '.join(given)}: only an .h5ad is read so, and {data_path} is tokenized already; leave that out"
        )
    return options


def annotated_data(
    data_path: Path,
    cells: TokenizedCells,
    obs: Mapping[str, np.ndarray] | None = None,
    obsm: Mapping[str, np.ndarray] | None = None,
) -> "anndata.AnnData":
    """The user's AnnData with results added; parquet gives an AnnData without genes.

    Parameters
    ----------
    data_path
        Where the cells came from.
    cells
        The cells as they were read (:func:`read_cells`).
    obs, obsm
        Results, one row per cell of ``cells``. Cells of an ``.h5ad`` that were left out
        (``filter_pass``) get missing values.
    """
    import anndata

    if is_h5ad(data_path):
        adata = anndata.read_h5ad(data_path)
        rows = cells.obs[ROW_COLUMN].to_numpy()
    else:
        table = cells.obs.set_index("cell_id")
        table.index = table.index.astype(str)
        adata = anndata.AnnData(obs=table)
        rows = np.arange(len(cells))
    add_results(adata, rows, obs or {}, obsm or {})
    return adata


def add_results(
    adata: "anndata.AnnData", rows: np.ndarray, obs: Mapping[str, np.ndarray], obsm: Mapping[str, np.ndarray]
) -> None:
    """Add results of some cells to an AnnData, in place; the other cells get missing values.

    Parameters
    ----------
    adata
        n_cells cells.
    rows
        Shape (n_results,): the cells that the results are of.
    obs, obsm
        Name -> results, n_results rows each.
    """
    for name, values in obs.items():
        adata.obs[name] = obs_column(values, rows, adata.n_obs)
    for name, values in obsm.items():
        matrix = np.full((adata.n_obs, values.shape[1]), np.nan, dtype=np.float32)
        matrix[rows] = values
        adata.obsm[name] = matrix


def obs_column(values: np.ndarray, rows: np.ndarray, n_cells: int) -> np.ndarray | pd.Categorical:
    """Results of some cells as a column of obs: text as categories, numbers as float32; missing for other cells."""
    is_text = values.dtype.kind == "O"
    column = np.full(n_cells, None if is_text else np.nan, dtype=object if is_text else np.float32)
    column[rows] = values
    return pd.Categorical(column) if is_text else column
