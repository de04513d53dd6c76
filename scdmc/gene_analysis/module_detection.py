"""Gene modules: neighbours of genes in an embedding, Leiden communities, and what the modules do in real expression."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse
from sklearn.decomposition import PCA

from scdmc.cells.clustering import neighbour_graph, resolution_by_silhouette, umap_coordinates
from scdmc.cells.leiden import LeidenGraph
from scdmc.errors import ScDMCError
from scdmc.gene_analysis.options import RESOLUTIONS
from scdmc.gene_analysis.states import centred_units

logger = logging.getLogger(__name__)

MOST_CELLS = 5_000


TOP_GENES = 8


CONTROL_GENES = 50


@dataclass(frozen=True)
class GeneModules:
    """Modules of genes in one embedding.

    Attributes
    ----------
    units
        Centred unit vectors of the genes, shape (n_genes, hidden_size).
    by_resolution
        Resolution -> module of each gene, 0 (the largest), 1, ..., shape (n_genes,).
    resolution
        The one that is looked at closer.
    coordinates
        UMAP, shape (n_genes, 2).
    """

    units: np.ndarray
    by_resolution: dict[float, np.ndarray]
    resolution: float
    coordinates: np.ndarray

    @property
    def modules(self) -> np.ndarray:
        """Module of each gene at the chosen resolution."""
        return self.by_resolution[self.resolution]

    @property
    def n_modules(self) -> int:
        """How many there are."""
        return int(self.modules.max()) + 1


def find_modules(
    vectors: np.ndarray,
    resolutions: Sequence[float] = RESOLUTIONS,
    n_neighbors: int = 15,
    seed: int = 42,
    n_modules: int | None = None,
) -> GeneModules:
    """Leiden communities of genes that point in similar directions.

    Parameters
    ----------
    vectors
        Gene embeddings, shape (n_genes, hidden_size).
    resolutions
        Of Leiden. The one whose modules are furthest apart (silhouette) is chosen, or
    n_modules
        the one that gives about so many modules.
    n_neighbors, seed
        Of the neighbour graph.

    Raises
    ------
    ScDMCError
        If there are too few genes, or they are all one module.
    """
    if len(vectors) <= n_neighbors:
        raise ScDMCError(
            f"{len(vectors)} genes are too few for modules of {n_neighbors} neighbours; lower --min_cells_per_gene"
        )
    units = centred_units(vectors)
    graph = neighbour_graph(units, n_neighbors, seed)
    to_cluster = LeidenGraph(graph)
    by_resolution = {float(r): _by_size(to_cluster.clusters(r, seed)) for r in resolutions}
    if n_modules is None:
        chosen = resolution_by_silhouette(units, graph, resolutions, seed)
    else:
        chosen = min(by_resolution, key=lambda r: abs(int(by_resolution[r].max()) + 1 - n_modules))
    return GeneModules(units, by_resolution, float(chosen), umap_coordinates(units, graph, seed))


def _by_size(clusters: np.ndarray) -> np.ndarray:
    """Cluster names as numbers, 0 for the largest; shape (n_genes,)."""
    names, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    rank = np.empty(len(names), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(names))
    return rank[index]


def module_name(module: int) -> str:
    """``M1`` is the largest."""
    return f"M{module + 1}"


def central_genes(found: GeneModules, symbols: np.ndarray, n_genes: int = TOP_GENES) -> list[str]:
    """The genes nearest to the middle of each module, as text."""
    texts = []
    for module in range(found.n_modules):
        rows = np.flatnonzero(found.modules == module)
        cosine = found.units[rows] @ found.units[rows].sum(axis=0)
        texts.append(", ".join(symbols[rows[np.argsort(-cosine, kind="stable")[:n_genes]]]))
    return texts


def expression_profiles(expression: scipy.sparse.csr_matrix, n_components: int = 50, seed: int = 42) -> np.ndarray:
    """The baseline: principal components of the genes' standardised profiles over at most 5,000 cells.

    Parameters
    ----------
    expression
        log1p CP10k, shape (n_cells, n_genes).
    n_components, seed
        Of the components; the seed also draws the cells.

    Returns
    -------
    Shape (n_genes, n_components).
    """
    n_cells = expression.shape[0]
    drawn = np.random.default_rng(seed).choice(n_cells, min(n_cells, MOST_CELLS), replace=False)
    profiles = expression[np.sort(drawn)].T.toarray().astype(np.float32)  # (n_genes, n_cells)
    profiles -= profiles.mean(axis=1, keepdims=True)
    profiles /= np.maximum(np.linalg.norm(profiles, axis=1, keepdims=True), 1e-12)
    n_components = min(n_components, min(profiles.shape) - 1)
    return PCA(n_components, svd_solver="randomized", random_state=seed).fit_transform(profiles)


def module_activity(
    expression: scipy.sparse.csr_matrix, modules: np.ndarray, labels: np.ndarray, seed: int = 42
) -> pd.DataFrame:
    """Mean score of each module in each cell type: ``scanpy.tl.score_genes`` on log1p CP10k.

    Parameters
    ----------
    expression
        Shape (n_cells, n_genes).
    modules
        Shape (n_genes,).
    labels
        Shape (n_cells,).
    seed
        Of the control genes.

    Returns
    -------
    Modules x cell types: mean expression of the module's genes minus that of control genes of similar expression; NaN
    for a module that holds all genes of its kind of expression, so that there are no controls (a warning names it).
    """
    import anndata
    import scanpy

    names = np.arange(expression.shape[1]).astype(str)
    adata = anndata.AnnData(expression, var=pd.DataFrame(index=names))
    activity = {}
    for module in range(int(modules.max()) + 1):
        try:
            scanpy.tl.score_genes(
                adata, names[modules == module], ctrl_size=CONTROL_GENES, score_name="score", random_state=seed
            )
        except RuntimeError:  # that is all that scanpy says where there are no control genes
            logger.warning("warning: no activity of %s: no other genes are expressed like its own", module_name(module))
            adata.obs["score"] = np.nan
        activity[module_name(module)] = pd.Series(adata.obs["score"].to_numpy()).groupby(labels).mean()
    return pd.DataFrame(activity).T


def enrichment_table(
    modules: np.ndarray, symbols: np.ndarray, names: list[str], membership: scipy.sparse.csr_matrix
) -> pd.DataFrame:
    """Gene sets that are enriched in modules, by ``gseapy.enrich``; the background is all genes tested.

    Parameters
    ----------
    modules, symbols
        Of the genes, shape (n_genes,).
    names, membership
        Of the gene sets (:func:`scdmc.gene_analysis.sets.gene_set_membership`).

    Returns
    -------
    Columns module, gene_set, overlap, set_size, module_size, odds_ratio, p, fdr, genes; only pairs with a gene in
    common. The FDR is over all modules and sets.
    """
    import gseapy
    from scipy.stats import false_discovery_control

    sets = {
        name: symbols[membership.indices[start:stop]].tolist()
        for name, start, stop in zip(names, membership.indptr[:-1], membership.indptr[1:], strict=True)
    }
    background, parts = symbols.tolist(), []
    n_modules = int(modules.max()) + 1
    for module in range(n_modules):
        genes = symbols[modules == module].tolist()
        if not membership[:, modules == module].nnz:
            continue  # gseapy would log an error
        result = gseapy.enrich(genes, gene_sets=sets, background=background, outdir=None, no_plot=True).results
        if len(result):
            parts.append(
                pd.DataFrame(
                    {
                        "module": module_name(module),
                        "gene_set": result["Term"].to_numpy(),
                        "overlap": [int(text.split("/")[0]) for text in result["Overlap"]],
                        "set_size": [int(text.split("/")[1]) for text in result["Overlap"]],
                        "module_size": len(genes),
                        "odds_ratio": result["Odds Ratio"].to_numpy(dtype=float),
                        "p": result["P-value"].to_numpy(dtype=float),
                        # gseapy joins them in the order of a Python set, which another process has otherwise
                        "genes": [";".join(sorted(text.split(";"))) for text in result["Genes"]],
                    }
                )
            )
    table = pd.concat(parts, ignore_index=True)
    untested = np.ones(max(0, n_modules * len(names) - len(table)))  # no gene in common: p = 1
    table.insert(7, "fdr", false_discovery_control(np.concatenate([table["p"], untested]))[: len(table)])
    return table.sort_values(["p", "module", "gene_set"], kind="stable", ignore_index=True)
