"""Gene-level biology in a notebook: what ``import scdmc`` offers for an AnnData in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from scdmc.gene_analysis.attention_analysis import AttentionResults, analyse_attention
from scdmc.gene_analysis.data import gene_data_of_adata
from scdmc.gene_analysis.modules import ModuleResults, analyse_modules
from scdmc.gene_analysis.networks import (
    TypeNetwork,
    embed_for_network,
    regulons_by_token,
    require_layers_and_heads,
    require_masked_gene_head,
    require_networks,
    type_network,
)
from scdmc.gene_analysis.options import (
    CELLS_PER_GENE,
    CELLS_PER_TYPE,
    AttentionOptions,
    ModuleOptions,
    NetworkOptions,
    ScreenOptions,
)
from scdmc.gene_analysis.perturbation import screen_genes
from scdmc.gene_analysis.sets import read_gene_sets
from scdmc.gene_analysis.states import GeneEmbeddings, embed_genes
from scdmc.genes.symbols import tokens_of_genes
from scdmc.public_data.regulons import load_regulons
from scdmc.reading.options import count_options_of, with_count_options

if TYPE_CHECKING:
    import anndata

    from scdmc.model.encoder import ScDMCPreTrainedModel


def gene_embeddings(
    adata: "anndata.AnnData",
    model: "str | Path | ScDMCPreTrainedModel",
    label_key: str | None = None,
    *,
    stream: str = "rank",
    min_cells: int = CELLS_PER_GENE,
    min_cells_per_type: int = CELLS_PER_TYPE,
    **count_options: object,
) -> GeneEmbeddings:
    """Mean last-layer state of each gene in each cell type, with standard errors.

    Parameters
    ----------
    adata
        Raw counts; not changed.
    model
        Model folder, name of a shipped model, or what :func:`scdmc.load` returned.
    label_key
        Column of obs with the cell types; without it all cells are one type, "all cells".
    stream
        ``rank``, ``expression``, or ``both`` joined.
    min_cells
        Cells of a type that must have the gene.
    min_cells_per_type
        Smaller types are left out.
    count_options
        How the counts are read: fields of :class:`scdmc.reading.options.CountOptions` (``layer``, ``gene_id_column``,
        ``gene_mapping_file``, ``allow_normalized``, ``recompute_totals``, ``species``, ``ortholog_file``).

    Returns
    -------
    ``table`` (cell_type, token, gene_id, symbol, cells), ``means`` and ``standard_errors`` of shape
    (n_rows, hidden_size).

    Raises
    ------
    ScDMCError
        If the cells cannot be tokenized, or there are too few of them.
    """
    options = count_options_of("gene_embeddings", count_options)
    data = gene_data_of_adata(adata, model, label_key, options, min_cells_per_type)
    return embed_genes(data.encoder, data.cells, data.labels, data.model_directory.vocabulary, stream, min_cells)


def gene_modules(
    adata: "anndata.AnnData",
    model: "str | Path | ScDMCPreTrainedModel",
    label_key: str,
    gene_sets: Mapping[str, Sequence[str]] | str | Path | None = None,
    **options: object,
) -> ModuleResults:
    """Modules of genes and what they do, as ``gene_modules.py`` finds them.

    Parameters
    ----------
    adata, model, label_key
        See :func:`gene_embeddings`.
    gene_sets
        Name -> symbols, or a GMT file, to test the modules against.
    options
        Fields of :class:`scdmc.gene_analysis.options.ModuleOptions`, and those of
        :class:`scdmc.reading.options.CountOptions`, as :func:`gene_embeddings` takes them.
    """
    chosen, of_counts = with_count_options("gene_modules", options, ModuleOptions)
    sets, source = gene_sets, "gene_sets"
    if isinstance(gene_sets, str | Path):
        sets, source = read_gene_sets(Path(gene_sets)), str(gene_sets)
    data = gene_data_of_adata(adata, model, label_key, of_counts)
    return analyse_modules(data, sets, chosen, source)


def attention_analysis(
    adata: "anndata.AnnData",
    model: "str | Path | ScDMCPreTrainedModel",
    label_key: str,
    **options: object,
) -> AttentionResults:
    """Attention by gene, cell type and head, and attribution of ``<cls>``, as ``attention_analysis.py`` finds them.

    Parameters
    ----------
    adata, model, label_key
        See :func:`gene_embeddings`.
    options
        Fields of :class:`scdmc.gene_analysis.options.AttentionOptions`, and those of
        :class:`scdmc.reading.options.CountOptions`, as :func:`gene_embeddings` takes them.
    """
    chosen, of_counts = with_count_options("attention_analysis", options, AttentionOptions)
    data = gene_data_of_adata(adata, model, label_key, of_counts)
    return analyse_attention(data, chosen)


def gene_network(
    adata: "anndata.AnnData",
    model: "str | Path | ScDMCPreTrainedModel",
    label_key: str,
    regulons: pd.DataFrame | str | Path,
    **options: object,
) -> dict[str, TypeNetwork]:
    """Regulatory network of each cell type, as ``gene_regulatory_network.py`` scores and judges them.

    Parameters
    ----------
    adata, model, label_key
        See :func:`gene_embeddings`.
    regulons
        Columns tf and target (symbols), or a CSV of them.
    options
        Fields of :class:`scdmc.gene_analysis.options.NetworkOptions`, and those of
        :class:`scdmc.reading.options.CountOptions`, as :func:`gene_embeddings` takes them.

    Returns
    -------
    Cell type -> its network; types without a factor in enough cells are left out.
    """
    chosen, of_counts = with_count_options("gene_network", options, NetworkOptions)
    table = regulons if isinstance(regulons, pd.DataFrame) else load_regulons(Path(regulons))
    data = gene_data_of_adata(adata, model, label_key, of_counts)
    require_layers_and_heads(data, chosen)
    require_masked_gene_head(data, chosen)
    known, embedded = regulons_by_token(table, data), embed_for_network(data, chosen)
    networks = {name: type_network(data, name, embedded, known, chosen) for name in data.types}
    found = {name: network for name, network in networks.items() if network is not None}
    require_networks(len(found), chosen)
    return found


def perturb(
    adata: "anndata.AnnData",
    model: "str | Path | ScDMCPreTrainedModel",
    genes: Sequence[str] | Mapping[str, Sequence[str]],
    label_key: str,
    **options: object,
) -> pd.DataFrame:
    """Shift of cell states and types when genes are removed or raised in silico, as ``perturb.py`` measures it.

    Parameters
    ----------
    adata, model, label_key
        See :func:`gene_embeddings`.
    genes
        Symbols or ids, one by one; or name -> genes that are perturbed together.
    options
        Fields of :class:`scdmc.gene_analysis.options.ScreenOptions`, and those of
        :class:`scdmc.reading.options.CountOptions`, as :func:`gene_embeddings` takes them.

    Returns
    -------
    See :func:`scdmc.gene_analysis.perturbation.screen_genes`.
    """
    chosen, of_counts = with_count_options("perturb", options, ScreenOptions)
    data = gene_data_of_adata(adata, model, label_key, of_counts)
    sets = genes if isinstance(genes, Mapping) else {name: [name] for name in genes}
    vocabulary = data.model_directory.vocabulary
    tokens = {name: tokens_of_genes(members, vocabulary, "genes") for name, members in sets.items()}
    return screen_genes(data, tokens, chosen)
