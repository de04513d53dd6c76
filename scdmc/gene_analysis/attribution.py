"""Which genes make the ``<cls>`` state what it is: attention rollout and integrated gradients, cell by cell."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from scdmc.gene_analysis.attention_maps import eager_attention, layer_weights
from scdmc.genes.symbols import gene_symbols
from scdmc.genes.vocabulary import EOS_TOKEN_ID, MASK_TOKEN_ID, Vocabulary
from scdmc.model.encoder import ScDMCModel
from scdmc.model.layout import PackedLayout
from scdmc.model.packing import NO_VALUE, UNKNOWN_VALUE, PackedCells, packed_streams
from scdmc.progress import progress_bar
from scdmc.tokens.tokenized_cells import TokenizedCells

INTEGRATION_STEPS = 24


CELLS_PER_ATTRIBUTED_GENE = 3


@dataclass(frozen=True)
class Attributions:
    """Attribution of ``<cls>`` to genes.

    Attributes
    ----------
    table
        Columns cell_type, token, gene_id, symbol, cells, rollout, integrated_gradients: means over the cells of a
        type that have the gene. Rollout: 1 is an even share; integrated gradients: how far the gene moves ``<cls>``
        towards its type (units of the state).
    correlation
        Mean over cells of Spearman's correlation of the two.
    incompleteness
        Mean over cells of |sum of the gradients - what they should add up to|, relative to the latter.
    """

    table: pd.DataFrame
    correlation: float
    incompleteness: float


def attention_rollout(encoder: ScDMCModel, cell: PackedCells) -> np.ndarray:
    """Attention from ``<cls>`` through all layers, shape (length,); adds up to 1 (Abnar and Zuidema 2020).

    Each layer is the mean over its heads, half of it replaced by the identity for the residual connection.
    """
    with eager_attention(encoder):
        row = None
        layers = [weights[0].mean(dim=0) for weights in layer_weights(encoder, cell)]  # (length, length) each
        for weights in reversed(layers):
            row = 0.5 * weights[0] + 0.5 * torch.eye(len(weights), device=weights.device)[0] if row is None else (
                0.5 * row @ weights + 0.5 * row
            )  # fmt: skip
    return row.cpu().numpy()


def integrated_gradients(
    encoder: ScDMCModel, cell: PackedCells, direction: np.ndarray, n_steps: int = INTEGRATION_STEPS
) -> tuple[np.ndarray, float]:
    """What each token adds to ``<cls>`` . direction, counted from the same cell with all genes masked.

    Sundararajan et al. 2017, by captum.

    Parameters
    ----------
    encoder
        In evaluation mode.
    cell
        One cell.
    direction
        Shape (hidden_size,).
    n_steps
        Of the integration (captum, Gauss-Legendre).

    Returns
    -------
    Shape (length,), and the relative error of their sum.
    """
    from captum.attr import IntegratedGradients

    length = cell.layout.lengths[0]
    towards = torch.from_numpy(direction).to(encoder.device)

    def projection(embedded: torch.Tensor) -> torch.Tensor:
        """(n_steps, length, hidden_size) -> (n_steps,)."""
        layout = PackedLayout.from_lengths([length] * len(embedded), embedded.device)
        states = embedded.flatten(0, 1)
        attend = encoder.packed_attention(layout, states.dtype)
        for layer in encoder.encoder.layer:
            states = layer(states, attend)
        return states[layout.first_tokens] @ towards

    with torch.no_grad():
        embedded, baseline = encoder.embeddings(cell)[None], encoder.embeddings(_all_masked(cell))[None]
        expected = float(projection(embedded) - projection(baseline))
    explained = IntegratedGradients(projection).attribute(
        embedded, baseline, n_steps=n_steps, internal_batch_size=max(1, 16_384 // length)
    )
    of_token = explained[0].sum(dim=-1).detach().cpu().numpy()
    return of_token, abs(float(of_token.sum()) - expected) / max(abs(expected), 1e-6)


def _all_masked(cell: PackedCells) -> PackedCells:
    is_gene = cell.input_ids > EOS_TOKEN_ID
    values = cell.expression_values
    hidden = values.masked_fill(is_gene & (values != NO_VALUE), UNKNOWN_VALUE)
    return PackedCells(cell.input_ids.masked_fill(is_gene, MASK_TOKEN_ID), cell.layout, hidden)


def type_directions(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Unit vector from the mean of all cells to the mean of each type.

    Parameters
    ----------
    embeddings
        ``<cls>`` states, shape (n_cells, hidden_size).
    labels
        Shape (n_cells,).
    """
    directions = {}
    for name in np.unique(labels):
        difference = embeddings[labels == name].mean(axis=0) - embeddings.mean(axis=0)
        directions[str(name)] = (difference / max(np.linalg.norm(difference), 1e-12)).astype(np.float32)
    return directions


def attribute_genes(
    encoder: ScDMCModel,
    cells: TokenizedCells,
    labels: np.ndarray,
    directions: dict[str, np.ndarray],
    vocabulary: Vocabulary,
    stream: str = "rank",
    show_progress: bool = True,
) -> Attributions:
    """Rollout and integrated gradients of every cell, averaged over the cells of a type; cells come one by one.

    Parameters
    ----------
    encoder, cells, labels, vocabulary, stream, show_progress
        See :func:`scdmc.gene_analysis.states.embed_genes`.
    directions
        Of each type (:func:`type_directions`).
    """
    parts, correlations, errors = [], [], []
    was_training = encoder.training
    encoder.eval()
    for row in progress_bar(range(len(cells)), unit=" cells", desc="attribution", disable=not show_progress):
        cell = packed_streams(cells, np.array([row]), stream).to(encoder.device)
        gradients, error = integrated_gradients(encoder, cell, directions[str(labels[row])])
        ids = cell.input_ids.cpu().numpy()
        is_gene = ids > EOS_TOKEN_ID
        rollout = attention_rollout(encoder, cell)[is_gene] * len(ids)
        of_genes = pd.DataFrame({"token": ids[is_gene], "rollout": rollout, "integrated_gradients": gradients[is_gene]})
        if len(of_genes) > 2:
            correlations.append(of_genes["rollout"].corr(of_genes["integrated_gradients"], method="spearman"))
        parts.append(of_genes.assign(cell_type=str(labels[row])))
        errors.append(error)
    encoder.train(was_training)
    grouped = pd.concat(parts).groupby(["cell_type", "token"])
    table = grouped.agg(
        cells=("rollout", "size"), rollout=("rollout", "mean"), integrated_gradients=("integrated_gradients", "mean")
    ).reset_index()
    table = table[table["cells"] >= CELLS_PER_ATTRIBUTED_GENE].reset_index(drop=True)
    gene_ids = vocabulary.tokens[table["token"].to_numpy()]
    table.insert(2, "gene_id", gene_ids)
    table.insert(3, "symbol", gene_symbols(gene_ids))
    return Attributions(table, float(np.nanmean(correlations)), float(np.mean(errors)))
