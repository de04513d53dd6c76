"""Gene-level biology in a notebook: what ``import scdmc`` offers for an AnnData in memory."""

from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.gene_data import CELLS_PER_TYPE, gene_data_of_adata
from scdmc.gene_states import CELLS_PER_GENE, GeneEmbeddings, embed_genes

if TYPE_CHECKING:
    import anndata


def gene_embeddings(
    adata: "anndata.AnnData",
    model: str | Path,
    label_key: str | None = None,
    *,
    stream: str = "rank",
    min_cells: int = CELLS_PER_GENE,
    min_cells_per_type: int = CELLS_PER_TYPE,
    layer: str | None = None,
) -> GeneEmbeddings:
    """Mean last-layer state of each gene in each cell type, with standard errors.

    Parameters
    ----------
    adata
        Raw counts; not changed.
    model
        Model folder.
    label_key
        Column of obs with the cell types; without it all cells are one type, "all cells".
    stream
        ``rank``, ``expression``, or ``both`` joined.
    min_cells
        Cells of a type that must have the gene.
    min_cells_per_type
        Smaller types are left out.
    layer
        Where the raw counts are.

    Returns
    -------
    ``table`` (cell_type, token, gene_id, symbol, cells), ``means`` and ``standard_errors`` of shape
    (n_rows, hidden_size).

    Raises
    ------
    ScDMCError
        If the cells cannot be tokenized, or there are too few of them.
    """
    data = gene_data_of_adata(adata, model, label_key, layer, min_cells_per_type)
    return embed_genes(data.encoder, data.cells, data.labels, data.model_directory.vocabulary, stream, min_cells)
