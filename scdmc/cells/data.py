"""Data arguments of the downstream scripts: a tokenized parquet or an ``.h5ad``, read as the model was trained."""

import logging
from collections.abc import Sequence
from pathlib import Path

from scdmc.genes.ids import load_gene_mapping, load_orthologs
from scdmc.model.folder import ModelDirectory, require_same_settings
from scdmc.reading.counts import open_counts
from scdmc.reading.options import CountOptions, is_counts
from scdmc.tokens.parquet import read_tokenized
from scdmc.tokens.tokenized_cells import TokenizedCells, require_valid_ids
from scdmc.tokens.tokenizer import Tokenizer, tokenize_counts

logger = logging.getLogger(__name__)


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
    if is_counts(data_path):
        cells = _tokenize_h5ad(data_path, model_directory, obs_columns or (), options or CountOptions())
    else:
        cells = read_tokenized(data_path, obs_columns)
        require_same_tokenization(cells, model_directory, data_path)
    return cells.truncated(model_directory.context)


def tokenizer_of_model(model_directory: ModelDirectory, options: CountOptions) -> Tokenizer:
    """The tokenizer that makes cells of counts as the model was trained."""
    vocabulary, orthologs = model_directory.vocabulary, None
    if options.ortholog_file is not None:
        orthologs = load_orthologs(options.ortholog_file, vocabulary)
    return Tokenizer(
        vocabulary=vocabulary,
        medians=model_directory.medians,
        model_input_size=model_directory.context,
        gene_mapping=load_gene_mapping(options.gene_mapping_file, vocabulary),
        gene_id_column=options.gene_id_column,
        species=options.species,
        orthologs=orthologs,
    )


def _tokenize_h5ad(
    data_path: Path, model_directory: ModelDirectory, obs_columns: Sequence[str], options: CountOptions
) -> TokenizedCells:
    tokenizer = tokenizer_of_model(model_directory, options)
    with open_counts(data_path, **options.of_counts()) as counts:
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
