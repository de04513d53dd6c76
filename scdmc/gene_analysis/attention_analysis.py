"""Attention of a model, looked at from all sides: per gene and type, per head, for single cells, and for ``<cls>``."""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scdmc.errors import ScDMCError
from scdmc.gene_analysis.attention_maps import (
    ReceivedAttention,
    eager_attention,
    head_properties,
    layer_weights,
    received_attention,
)
from scdmc.gene_analysis.attribution import CELLS_PER_ATTRIBUTED_GENE, Attributions, attribute_genes, type_directions
from scdmc.gene_analysis.data import GeneData, cells_with_gene
from scdmc.gene_analysis.marker_recovery import auroc_at_equal_expression, markers_of_types, recovery_rows
from scdmc.gene_analysis.options import AttentionOptions
from scdmc.genes.vocabulary import EOS_TOKEN_ID, SPECIAL_TOKENS
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.packing import packed_streams

logger = logging.getLogger(__name__)


EXPRESSION = "mean expression (baseline)"


SCORES = {"received": "attention received", "from_cls": "attention from <cls>", "expression": EXPRESSION}


ATTRIBUTION_SCORES = {"rollout": "<cls>: attention rollout", "integrated_gradients": "<cls>: integrated gradients"}


ATTRIBUTED_EXPRESSION = "mean expression of the genes of rollout and gradients (baseline)"


CLEARLY, WEAKLY = 0.1, 0.025  # above the baseline


HEAD_CELLS = 100


@dataclass(frozen=True)
class CellMap:
    """Attention among some genes of one cell, mean over the heads of the last layer.

    Attributes
    ----------
    title
        Name and type of the cell.
    weights
        Shape (n_genes, n_genes), rows read columns; the index holds symbols.
    """

    title: str
    weights: pd.DataFrame


@dataclass(frozen=True)
class AttentionResults:
    """What was found.

    Attributes
    ----------
    genes
        Per cell type and gene: cells, received, from_cls, relative (received over its mean in the other types),
        expression, is_marker.
    heads
        Per layer and head: entropy, to_specials, distance, marker_auroc (at equal expression, mean over types).
    recovery
        AUROC of markers by type and method.
    attributions
        Of ``<cls>``.
    maps
        Of single cells.
    """

    genes: pd.DataFrame
    heads: pd.DataFrame
    recovery: pd.DataFrame
    attributions: Attributions
    maps: list[CellMap]

    @property
    def mean_recovery(self) -> pd.DataFrame:
        """Mean over the types, a row for each method."""
        columns = ["auroc", "auroc_at_equal_expression"]
        return self.recovery.groupby("method", sort=False)[columns].mean().reset_index()

    @property
    def verdict(self) -> str:
        """What the markers say, in plain words."""
        if self.recovery.empty:
            return "No type has five markers among the genes that the model reads, so marker recovery was not scored."
        means = self.mean_recovery.set_index("method")
        attention, expression = means.loc[SCORES["received"]], means.loc[EXPRESSION]
        compared = "better" if attention["auroc"] > expression["auroc"] else "worse"
        at_equal, n_types = attention["auroc_at_equal_expression"], self.recovery["cell_type"].nunique()
        by_type = self.recovery.pivot(index="cell_type", columns="method", values="auroc_at_equal_expression")
        above = by_type[SCORES["received"]] > by_type[EXPRESSION].clip(lower=0.5)
        baseline = max(0.5, expression["auroc_at_equal_expression"])
        strength = "clearly" if at_equal > baseline + CLEARLY else "weakly"
        beyond = f"points at markers {strength}" if at_equal > baseline + WEAKLY else "does NOT point at markers"
        return (
            f"Attention received finds the markers of a type with an AUROC of {attention['auroc']:.3f} "
            f"(mean of {n_types} types), {compared} than mere expression ({expression['auroc']:.3f}). "
            f"Among genes of equal expression it {beyond}: AUROC {at_equal:.3f}, where chance has 0.5 and what "
            f"is left of expression {expression['auroc_at_equal_expression']:.3f}; "
            f"above both in {above.sum()} of {len(above)} types. "
            f"Attention from <cls> alone has {means.loc[SCORES['from_cls'], 'auroc_at_equal_expression']:.3f} there. "
            "Rollout and integrated gradients of <cls> agree with a Spearman "
            f"correlation of {self.attributions.correlation:.2f}."
        )


def analyse_attention(data: GeneData, options: AttentionOptions | None = None) -> AttentionResults:
    """Attention received by genes, marker recovery, heads, maps of single cells and attribution of ``<cls>``.

    Parameters
    ----------
    data
        Model and cells.
    options
        See :class:`AttentionOptions`.

    Raises
    ------
    ScDMCError
        If there is one type only, or too few cells of a type or for the attributions.
    """
    options = options or AttentionOptions()
    _require_enough_cells(data, options)
    encoder, vocabulary, stream = data.encoder, data.model_directory.vocabulary, options.stream
    received = received_attention(encoder, data.cells, data.labels, vocabulary, stream, options.min_cells)
    seen = np.flatnonzero(cells_with_gene(data.cells, len(vocabulary)))
    markers = {
        name: set(seen[columns].tolist())
        for name, columns in markers_of_types(data.expression[:, seen], data.labels).items()
    }
    genes = _gene_table(received, data, markers)
    rows = recovery_rows(genes, SCORES, markers)
    drawn = draw_cells(data.labels, options.attribution_cells, options.seed)
    attributions = _attributions(data, drawn, stream)
    attributed = attributions.table.merge(genes[["cell_type", "token", "expression"]], on=["cell_type", "token"])
    # Fewer genes than above, so that expression is scored on these again.
    rows += recovery_rows(attributed, ATTRIBUTION_SCORES | {"expression": ATTRIBUTED_EXPRESSION}, markers)
    few = data.cells.select(np.random.default_rng(options.seed).permutation(drawn)[:HEAD_CELLS])
    heads = head_properties(encoder, few, stream)
    heads["marker_auroc"] = _marker_auroc_of_heads(received, genes, markers)
    columns = ["cell_type", "method", "auroc", "auroc_at_equal_expression", "genes", "markers"]
    maps = [_cell_map(data, row, options) for row in draw_cells(data.labels, 1, options.seed)[: options.map_cells]]
    return AttentionResults(genes, heads, pd.DataFrame(rows, columns=columns), attributions, maps)


def _require_enough_cells(data: GeneData, options: AttentionOptions) -> None:
    """Refuse what would fail after the long pass over the cells."""
    if len(data.types) < 2:
        raise ScDMCError(f"markers need two cell types with enough cells, and there is only {data.types[0]!r}")
    names, sizes = np.unique(data.labels, return_counts=True)
    if sizes.min() < 2:
        raise ScDMCError(
            f"{names[sizes.argmin()]} has one cell, and markers need two of each type; raise --min_cells_per_type"
        )
    if options.attribution_cells < CELLS_PER_ATTRIBUTED_GENE:
        raise ScDMCError(
            f"--attribution_cells {options.attribution_cells}: a gene is looked at where {CELLS_PER_ATTRIBUTED_GENE} "
            "of these cells have it; take more"
        )


def draw_cells(labels: np.ndarray, n_cells: int, seed: int) -> np.ndarray:
    """Rows of at most ``n_cells`` cells of each type, the largest type first."""
    generator = np.random.default_rng(seed)
    names, sizes = np.unique(labels, return_counts=True)
    drawn = []
    for name in names[np.argsort(-sizes, kind="stable")]:
        rows = np.flatnonzero(labels == name)
        drawn.append(np.sort(generator.choice(rows, min(n_cells, len(rows)), replace=False)))
    return np.concatenate(drawn)


def _gene_table(received: ReceivedAttention, data: GeneData, markers: dict[str, set[int]]) -> pd.DataFrame:
    """The table of received attention with expression in the type, and whether the gene is a marker of it."""
    table = received.table.copy()
    by_gene = table.groupby("token")["received"]
    n_types = by_gene.transform("size")
    others = (by_gene.transform("sum") - table["received"]) / (n_types - 1).where(n_types > 1)
    table["relative"] = table["received"] / others
    table["expression"], table["is_marker"] = np.nan, False
    for name, rows in table.groupby("cell_type").groups.items():
        tokens = table.loc[rows, "token"].to_numpy()
        mean = np.asarray(data.expression[data.labels == name].mean(axis=0)).ravel()
        table.loc[rows, "expression"] = mean[tokens]
        table.loc[rows, "is_marker"] = np.isin(tokens, list(markers[str(name)]))
    return table


def _attributions(data: GeneData, drawn: np.ndarray, stream: str) -> Attributions:
    embeddings = cell_embeddings(data.encoder, data.cells, stream, "cls")
    directions = type_directions(embeddings, data.labels)
    chosen, vocabulary = data.select(drawn), data.model_directory.vocabulary
    return attribute_genes(data.encoder, chosen.cells, chosen.labels, directions, vocabulary, stream)


def _marker_auroc_of_heads(
    received: ReceivedAttention, genes: pd.DataFrame, markers: dict[str, set[int]]
) -> np.ndarray:
    """AUROC at equal expression of every head, mean over types, shape (n_layers * n_heads,)."""
    scores = received.by_head.reshape(len(genes), -1)
    by_type = []
    for name, rows in genes.groupby("cell_type").groups.items():
        is_marker = genes.loc[rows, "token"].isin(markers[str(name)]).to_numpy()
        expression, of_type = genes.loc[rows, "expression"].to_numpy(), scores[np.asarray(rows)]
        if is_marker.sum() >= 5:
            by_type.append([auroc_at_equal_expression(head, is_marker, expression) for head in of_type.T])
    return np.nanmean(by_type, axis=0) if by_type else np.full(scores.shape[1], np.nan)


def _cell_map(data: GeneData, row: int, options: AttentionOptions) -> CellMap:
    """Attention among the first genes of a cell's rank stream, in the order of the stream that is read."""
    cell = packed_streams(data.cells, np.array([row]), options.stream).to(data.encoder.device)
    with eager_attention(data.encoder):
        *_, last = layer_weights(data.encoder, cell)
    ids = cell.input_ids.cpu().numpy()
    ranked = data.cells.rank_ids[slice(*data.cells.rank_offsets[row : row + 2])]
    top = ranked[ranked > EOS_TOKEN_ID][: options.map_genes]
    shown = np.flatnonzero(np.isin(ids, [*top, SPECIAL_TOKENS.index("<cls>")]))
    names = ["<cls>" if ids[place] <= EOS_TOKEN_ID else data.symbols(ids[[place]])[0] for place in shown]
    weights = last[0].mean(dim=0).cpu().numpy()[np.ix_(shown, shown)]
    cell_id = data.cells.obs["cell_id"].iloc[row]
    return CellMap(f"{cell_id}, {data.labels[row]}", pd.DataFrame(weights, index=names, columns=names))
