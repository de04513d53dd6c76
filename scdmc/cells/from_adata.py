"""What a notebook calls: the functions that ``import scdmc`` offers by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.errors import ScDMCError
from scdmc.genes.ids import load_gene_mapping, load_orthologs
from scdmc.genes.vocabulary import Vocabulary, load_vocabulary
from scdmc.reading.counts import counts_of_adata
from scdmc.tokens.medians import GeneMedians, checked_medians, load_gene_medians
from scdmc.tokens.streams import MODEL_INPUT_SIZE
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.tokens.tokenizer import Tokenizer, tokenize_counts

if TYPE_CHECKING:
    import anndata


def tokenize(
    adata: "anndata.AnnData",
    *,
    model_path: str | Path | None = None,
    gene_median_file: str | Path | None = None,
    medians: Mapping[str, float] | None = None,
    token_dictionary_file: str | Path | None = None,
    gene_mapping_file: str | Path | None = None,
    gene_id_column: str | None = None,
    species: str = "human",
    ortholog_file: str | Path | None = None,
    layer: str | None = None,
    allow_normalized: bool = False,
    recompute_totals: bool = False,
    obs_columns: Sequence[str] = (),
    model_input_size: int | None = None,
    drop_empty_cells: bool = False,
    name: str = "adata",
) -> TokenizedCells:
    """Tokenize an AnnData: the same streams that ``tokenizer_combine.py`` writes to parquet (design.md, section 4).

    Parameters
    ----------
    adata
        Raw counts, n_cells x n_genes; not changed.
    model_path
        Model folder, or the name of a shipped model: vocabulary, medians and context are those with which it was
        trained.
    gene_median_file
        Gene medians, JSON id -> number, or ``"default"`` for those that ship with scDMC.
    medians
        The same as a mapping; without either every median is 1.
    token_dictionary_file
        Vocabulary, JSON token -> id; without it that of scDMC, or of the model.
    gene_mapping_file
        JSON symbol or id -> current id, applied first.
    gene_id_column
        Column of ``var`` with the gene ids; looked for without it.
    species, ortholog_file
        ``"mouse"`` with a table of human and mouse genes; one-to-one pairs are mapped.
    layer, allow_normalized, recompute_totals
        Where the raw counts are (see :func:`scdmc.reading.counts.open_counts`).
    obs_columns
        Columns of ``obs`` to keep.
    model_input_size
        Most tokens of a stream, ``<cls>`` and ``<eos>`` included; 2048 without it, or the context of the model.
    drop_empty_cells
        Leave out cells without counts.
    name
        What the cells' ``source_file`` says.

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
    if gene_median_file is not None and medians is not None:
        raise ScDMCError("give either medians or gene_median_file")
    if model_path is None:
        vocabulary = load_vocabulary(token_dictionary_file)
        of_genes = load_gene_medians(gene_median_file) if medians is None else checked_medians(medians, "medians")
        context = model_input_size or MODEL_INPUT_SIZE
    else:
        if gene_median_file is not None or medians is not None or model_input_size is not None:
            raise ScDMCError("medians and model_input_size come with the model; leave them out beside model_path")
        vocabulary, of_genes, context = _as_trained(model_path, token_dictionary_file)
    tokenizer = Tokenizer(
        vocabulary=vocabulary,
        medians=of_genes,
        model_input_size=context,
        gene_mapping=load_gene_mapping(gene_mapping_file, vocabulary),
        gene_id_column=gene_id_column,
        drop_empty_cells=drop_empty_cells,
        species=species,
        orthologs=None if ortholog_file is None else load_orthologs(ortholog_file, vocabulary),
    )
    counts = counts_of_adata(adata, layer, allow_normalized, name, recompute_totals)
    return tokenize_counts(counts, tokenizer, obs_columns)


def _as_trained(
    model_path: str | Path, token_dictionary_file: str | Path | None
) -> tuple[Vocabulary, GeneMedians, int]:
    """How cells must be tokenized for a model."""
    # Only now: the models need torch, and tokens do not.
    from scdmc.model.folder import open_model_directory

    model = open_model_directory(model_path, token_dictionary_file)
    return model.vocabulary, model.medians, model.context
