"""What a notebook calls: the functions that ``import scdmc`` offers by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cells.options import TokenizeOptions
from scdmc.errors import ScDMCError
from scdmc.genes.ids import load_gene_mapping, load_orthologs
from scdmc.genes.vocabulary import Vocabulary, load_vocabulary
from scdmc.options import field_names, part_options
from scdmc.reading.counts import counts_of_adata
from scdmc.tokens.medians import GeneMedians, checked_medians, load_gene_medians
from scdmc.tokens.options import MODEL_INPUT_SIZE
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.tokens.tokenizer import Tokenizer, tokenize_counts

if TYPE_CHECKING:
    import anndata

    from scdmc.model.encoder import ScDMCPreTrainedModel


def tokenize(
    adata: "anndata.AnnData",
    *,
    model: "str | Path | ScDMCPreTrainedModel | None" = None,
    model_path: "str | Path | ScDMCPreTrainedModel | None" = None,
    obs_columns: Sequence[str] = (),
    **options: object,
) -> TokenizedCells:
    """Tokenize an AnnData: the same streams that ``tokenizer_combine.py`` writes to parquet.

    Source: docs/method.md, "Tokenization".

    Parameters
    ----------
    adata
        Raw counts, n_cells x n_genes; not changed.
    model
        Model folder, name of a shipped model, or what :func:`scdmc.load` returned: vocabulary, medians and context are
        those with which it was trained.
    model_path
        An equal of ``model``.
    obs_columns
        Columns of ``obs`` to keep.
    options
        Fields of :class:`scdmc.cells.options.TokenizeOptions`: ``gene_median_file`` or ``medians``,
        ``token_dictionary_file``, ``gene_mapping_file``, ``gene_id_column``, ``species``, ``ortholog_file``, ``layer``,
        ``allow_normalized``, ``recompute_totals``, ``model_input_size``, ``drop_empty_cells``, ``name``.

    Returns
    -------
    Both streams of every cell, and a table of the cells whose column ``row_of_obs`` is the row in ``adata.obs``.

    Raises
    ------
    ScDMCError
        If two options contradict each other, or the data cannot be tokenized (the message says why).
    """
    if not hasattr(adata, "obs"):
        raise ScDMCError(f"scdmc.tokenize takes an AnnData, not a {type(adata).__name__}; anndata.read_h5ad reads one")
    if isinstance(obs_columns, str):
        raise ScDMCError(f"obs_columns is a list of names: write [{obs_columns!r}]")
    if model is not None and model_path is not None:
        raise ScDMCError("model and model_path are one thing; give one of them")
    (named,) = part_options("tokenize", options, field_names(TokenizeOptions))
    chosen = TokenizeOptions(**named)
    tokenizer = _tokenizer(model if model_path is None else model_path, chosen)
    counts = counts_of_adata(adata, chosen.layer, chosen.allow_normalized, chosen.name, chosen.recompute_totals)
    return tokenize_counts(counts, tokenizer, obs_columns)


def _tokenizer(model: "str | Path | ScDMCPreTrainedModel | None", options: TokenizeOptions) -> Tokenizer:
    """The tokenizer of a model, or of the options."""
    if options.gene_median_file is not None and options.medians is not None:
        raise ScDMCError("give either medians or gene_median_file")
    if model is not None:
        if (options.gene_median_file, options.medians, options.model_input_size) != (None, None, None):
            raise ScDMCError("medians and model_input_size come with the model; leave them out beside model")
        vocabulary, medians, context = _as_trained(model, options.token_dictionary_file)
    else:
        vocabulary = load_vocabulary(options.token_dictionary_file)
        given = options.medians
        medians = load_gene_medians(options.gene_median_file) if given is None else checked_medians(given, "medians")
        context = options.model_input_size or MODEL_INPUT_SIZE
    return Tokenizer(
        vocabulary=vocabulary,
        medians=medians,
        model_input_size=context,
        gene_mapping=load_gene_mapping(options.gene_mapping_file, vocabulary),
        gene_id_column=options.gene_id_column,
        drop_empty_cells=options.drop_empty_cells,
        species=options.species,
        orthologs=None if options.ortholog_file is None else load_orthologs(options.ortholog_file, vocabulary),
    )


def _as_trained(
    model: "str | Path | ScDMCPreTrainedModel", token_dictionary_file: str | Path | None
) -> tuple[Vocabulary, GeneMedians, int]:
    """How cells must be tokenized for a model."""
    # Only now: the models need torch, and tokens do not.
    from scdmc.model.loaded import open_model

    opened = open_model(model, token_dictionary_file)
    return opened.vocabulary, opened.medians, opened.context
