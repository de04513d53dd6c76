"""Scores of one embedding, by each protocol, and its clusters at every resolution.

Source: docs/method.md, "Scores of integration".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scdmc.cells.clustering import neighbour_graph
from scdmc.cells.label_free_scores import NEIGHBOURS_MIXED, label_free_scores
from scdmc.cells.leiden import LeidenGraph
from scdmc.cells.neighbours import exact_neighbours
from scdmc.cells.scores import (
    BATCH_WEIGHT,
    BIO_WEIGHT,
    LISI_NEIGHBORS,
    full_integration_scores,
    integration_scores,
    with_averages,
)
from scdmc.cells.silhouettes import silhouettes
from scdmc.integration.comparison import warn_of_merged_types
from scdmc.integration.options import PUBLISHED, SCIB
from scdmc.integration.row import Row, RowContext

LABEL_FREE = "label_free"


N_NEIGHBORS = 15


# As scIB looks for the best one (Luecken et al. 2022).
SCIB_RESOLUTIONS = tuple(round(0.1 * step, 1) for step in range(1, 21))


BIO_SCORES = ("NMI", "ARI", "ASW_label", "isolated_labels", "cLISI")


BATCH_SCORES = ("BRAS", "iLISI", "kBET", "graph_connectivity", "PCR_comparison")


@dataclass(frozen=True)
class RowScores:
    """How one row did with one seed.

    Attributes
    ----------
    scores
        Protocol -> score -> value; :data:`LABEL_FREE` is always there.
    curve
        Resolution -> ``clusters``, ``NMI`` and ``ARI``, of the cells with a label; empty without labels.
    graph
        Neighbours of the cells that maps show, shape (n_shown, n_shown): those with a label, or all without labels.
    """

    scores: dict[str, dict[str, float]]
    curve: dict[float, dict[str, float]]
    graph: scipy.sparse.csr_matrix


def score_embedding(row: Row, embedding: np.ndarray, context: RowContext) -> RowScores:
    """Score the embedding of a row, shape (n_cells, n_dimensions); without labels by the label-free scores alone.

    What clusters have no part in is computed once for an embedding that is the same for every seed.
    """
    data, options, seed = context.data, context.options, context.seed
    graph, scores = context.once(("scores", row.name), lambda: _without_clusters(embedding, context), row.has_seed)
    scores = dict(scores)
    if not data.has_labels:
        return RowScores(scores, {}, graph)
    labels = data.labels[data.shown].astype(str)
    full, of_space = scores.pop(SCIB, {}), scores.pop(PUBLISHED)
    resolutions = SCIB_RESOLUTIONS if SCIB in options.protocols else ()
    found = resolution_curve(graph, labels, seed, sorted({*resolutions, options.resolution}))
    curve = {resolution: found[resolution] for resolution in resolutions}
    if PUBLISHED in options.protocols:
        scores[PUBLISHED] = with_averages(of_space | _agreement(found[options.resolution]))
    if SCIB in options.protocols:
        scores[SCIB] = scib_averages(of_space | full | _agreement(curve[best_resolution(curve)]))
    warn_of_merged_types(row.name, max(scores[protocol]["ARI"] for protocol in options.protocols))
    return RowScores(scores, curve, graph)


def _without_clusters(
    embedding: np.ndarray, context: RowContext
) -> tuple[scipy.sparse.csr_matrix, dict[str, dict[str, float]]]:
    """Neighbours of an embedding, and its scores: of ``published`` and ``scib`` all but ARI and NMI are final."""
    data, options = context.data, context.options
    scored = embedding[data.shown]
    is_full = data.has_labels and SCIB in options.protocols
    # One search for all scores: comparing all pairs takes longer than what comes of it.
    found = exact_neighbours(scored, max(NEIGHBOURS_MIXED + 1, LISI_NEIGHBORS if is_full else 0))
    of_all = found if data.shown.all() else None
    scores = {LABEL_FREE: label_free_scores(context.pca, embedding, data.batch, of_all)}
    graph = neighbour_graph(scored, N_NEIGHBORS, context.seed, found)
    if data.has_labels:
        labels, batch = data.labels[data.shown].astype(str), data.batch[data.shown].astype(str)
        widths = silhouettes(scored, labels, batch)
        # Clusters are another matter: the labels stand for them here, and ARI and NMI are overwritten.
        scores[PUBLISHED] = integration_scores(scored, labels, batch, labels, graph, widths)
        if is_full:
            before = context.pca[data.shown]
            scores[SCIB] = full_integration_scores(scored, before, labels, batch, widths, found)
    return graph, scores


def _agreement(of_clusters: dict[str, float]) -> dict[str, float]:
    """ARI and NMI of an entry of :func:`resolution_curve`."""
    return {name: of_clusters[name] for name in ("ARI", "NMI")}


def resolution_curve(
    graph: scipy.sparse.csr_matrix, labels: np.ndarray, seed: int, resolutions: Sequence[float] = SCIB_RESOLUTIONS
) -> dict[float, dict[str, float]]:
    """Resolution -> number of clusters, NMI and ARI with the labels."""
    curve, to_cluster = {}, LeidenGraph(graph)
    for resolution in resolutions:
        clusters = to_cluster.clusters(resolution, seed)
        curve[resolution] = {
            "clusters": float(len(np.unique(clusters))),
            "NMI": float(normalized_mutual_info_score(labels, clusters)),
            "ARI": float(adjusted_rand_score(labels, clusters)),
        }
    return curve


def best_resolution(curve: dict[float, dict[str, float]]) -> float:
    """The resolution with the highest NMI; of equals the lowest."""
    return max(curve, key=lambda resolution: (curve[resolution]["NMI"], -resolution))


def scib_averages(scores: dict[str, float]) -> dict[str, float]:
    """The scores of the protocol ``scib`` in the order of its table, with their averages; NaN counts nowhere."""
    bio, batch = (np.nanmean([scores[name] for name in names]) for names in (BIO_SCORES, BATCH_SCORES))
    averages = {"AvgBIO": bio, "AvgBATCH": batch, "overall": BIO_WEIGHT * bio + BATCH_WEIGHT * batch}
    return {
        name: float(value) for name, value in ({n: scores[n] for n in (*BIO_SCORES, *BATCH_SCORES)} | averages).items()
    }
