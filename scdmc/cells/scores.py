"""Scores of annotation, clustering and integration, by scikit-learn, scib and scib-metrics.

Source: docs/method.md, "Evaluation rules".
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
from sklearn.metrics import (
    accuracy_score,
    adjusted_mutual_info_score,
    adjusted_rand_score,
    cohen_kappa_score,
    f1_score,
    homogeneity_score,
    matthews_corrcoef,
    normalized_mutual_info_score,
    precision_recall_fscore_support,
    precision_score,
    recall_score,
    roc_auc_score,
    silhouette_score,
)
from sklearn.neighbors import NearestNeighbors

from scdmc.cells.neighbours import Neighbours, exact_neighbours
from scdmc.cells.silhouettes import Silhouettes, cosine_silhouettes_of_batches, silhouettes
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path
from scdmc.labels import is_missing

# The three that stand for all others.
SUMMARY = ("AvgBIO", "AvgBATCH", "overall")


BIO_WEIGHT, BATCH_WEIGHT = 0.6, 0.4  # Luecken et al. 2022, Nature Methods 19, 41-50


LISI_NEIGHBORS, KBET_NEIGHBORS = 90, 50  # as scib_metrics.benchmark.Benchmarker has them


PADDED_TO = 64


def classification_scores(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Scores of predicted labels, all of scikit-learn.

    Balanced accuracy is the mean recall of the true classes. The macro averages are over all classes that are true or
    predicted: one that is predicted but never true counts as 0.

    Parameters
    ----------
    true, predicted
        Labels, shape (n_cells,).

    Returns
    -------
    dict
        ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``weighted_f1`` (by cells), ``macro_precision``,
        ``macro_recall``, each between 0 and 1; ``cohen_kappa`` and ``matthews_correlation``, at most 1, 0 by chance.

    Raises
    ------
    ScDMCError
        If there is no cell, the lengths differ or a label is missing.
    """
    true, predicted = _known(true=true, predicted=predicted)
    return {
        "accuracy": float(accuracy_score(true, predicted)),
        "balanced_accuracy": float(
            recall_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0)
        ),
        "macro_f1": float(f1_score(true, predicted, average="macro", zero_division=0)),
        "weighted_f1": float(f1_score(true, predicted, average="weighted", zero_division=0)),
        "macro_precision": float(precision_score(true, predicted, average="macro", zero_division=0)),
        "macro_recall": float(recall_score(true, predicted, average="macro", zero_division=0)),
        "cohen_kappa": _kappa(true, predicted),
        "matthews_correlation": float(matthews_corrcoef(true, predicted)),
    }


def _kappa(true: np.ndarray, predicted: np.ndarray) -> float:
    """Cohen's kappa; 0, as the Matthews correlation, where one class is all that is true and predicted."""
    if len({*true, *predicted}) == 1:
        return 0.0
    return float(cohen_kappa_score(true, predicted))


def open_set_auroc(confidence: np.ndarray, is_seen: np.ndarray) -> float:
    """How well confidence tells cells of trained types from cells of others: area under the ROC curve, 0.5 by chance.

    Parameters
    ----------
    confidence
        Shape (n_cells,).
    is_seen
        Shape (n_cells,): True for a cell whose type was there in training.

    Raises
    ------
    ScDMCError
        If there are cells of one kind only.
    """
    if np.all(is_seen) or not np.any(is_seen):
        raise ScDMCError("telling seen from unseen types needs test cells of both kinds")
    return float(roc_auc_score(is_seen, confidence))


def per_class_scores(true: np.ndarray, predicted: np.ndarray) -> pd.DataFrame:
    """Precision, recall and F1 of every class of ``true``; a class that is never predicted has 0 everywhere.

    Parameters
    ----------
    true, predicted
        Labels, shape (n_cells,).

    Returns
    -------
    pd.DataFrame
        Columns class, precision, recall, f1, cells; n_classes rows in the order of the names.

    Raises
    ------
    ScDMCError
        If there is no cell, the lengths differ or a label is missing.
    """
    true, predicted = _known(true=true, predicted=predicted)
    classes = np.unique(true)
    precision, recall, f1, cells = precision_recall_fscore_support(true, predicted, labels=classes, zero_division=0)
    return pd.DataFrame({"class": classes, "precision": precision, "recall": recall, "f1": f1, "cells": cells})


def clustering_scores(labels: np.ndarray, clusters: np.ndarray, embedding: np.ndarray) -> dict[str, float]:
    """Agreement of clusters with labels, and how well the labels are separated in the embedding.

    Parameters
    ----------
    labels, clusters
        Shape (n_cells,).
    embedding
        Shape (n_cells, hidden_size).

    Returns
    -------
    dict
        ``ARI``, ``NMI`` (arithmetic), ``AMI``, ``homogeneity`` and ``ASW_label`` = (mean silhouette + 1) / 2.

    Raises
    ------
    ScDMCError
        If the lengths differ, a label is missing or there are fewer than two types.
    """
    labels, clusters = _known(labels=labels, clusters=clusters)
    _require_two_types(labels)
    return {
        "ARI": float(adjusted_rand_score(labels, clusters)),
        "NMI": float(normalized_mutual_info_score(labels, clusters)),
        "AMI": float(adjusted_mutual_info_score(labels, clusters)),
        "homogeneity": float(homogeneity_score(labels, clusters)),
        "ASW_label": float((silhouette_score(embedding, labels) + 1) / 2),
    }


def integration_scores(
    embedding: np.ndarray,
    labels: np.ndarray,
    batch: np.ndarray,
    clusters: np.ndarray,
    connectivities: scipy.sparse.csr_matrix,
    widths: Silhouettes | None = None,
) -> dict[str, float]:
    """How well an embedding keeps the cell types apart and mixes the batches, by scib (Luecken et al. 2022).

    A type that lives in one batch only says nothing about mixing; ASW_batch skips it.

    Parameters
    ----------
    embedding
        Shape (n_cells, hidden_size).
    labels, batch, clusters
        Shape (n_cells,).
    connectivities
        Neighbour graph of the embedding, shape (n_cells, n_cells), the one that ``clusters`` comes from.
    widths
        :func:`scdmc.cells.silhouettes.silhouettes` of this embedding, if they are known already.

    Returns
    -------
    dict
        ``ARI``, ``NMI``, ``ASW_label``, ``ASW_batch``, ``graph_connectivity``, ``AvgBIO`` = mean(ARI, NMI, ASW_label),
        ``AvgBATCH`` = mean(ASW_batch, graph_connectivity), ``overall`` = 0.6 AvgBIO + 0.4 AvgBATCH.

    Raises
    ------
    ScDMCError
        If the lengths differ, a label is missing, there are fewer than two types, or no type is in two batches.
    """
    import anndata
    import matplotlib

    with matplotlib.rc_context():  # scib sets sizes and widths for the figures of everybody who imports it
        import scib

    labels, batch, clusters = _known(labels=labels, batch=batch, clusters=clusters)
    _require_two_types(labels)
    widths = silhouettes(embedding, labels, batch) if widths is None else widths
    if not widths.batches:
        raise ScDMCError("no type has cells in two batches, so mixing cannot be scored; choose another batch column")
    obs = pd.DataFrame({"label": labels, "cluster": clusters}, dtype="category")
    obs.index = obs.index.astype(str)
    # scib asks only whether uns["neighbors"] is there; it reads the graph from obsp.
    adata = anndata.AnnData(obs=obs, obsp={"connectivities": connectivities}, uns={"neighbors": {}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # scib 1.1.7 calls pandas in old ways
        scores = {
            "ARI": scib.metrics.ari(adata, cluster_key="cluster", label_key="label"),
            "NMI": scib.metrics.nmi(adata, cluster_key="cluster", label_key="label"),
            "ASW_label": (widths.types.mean() + 1) / 2,
            "ASW_batch": _mean_of_unmixed(list(widths.batches.values())),
            "graph_connectivity": scib.metrics.graph_connectivity(adata, label_key="label"),
        }
    return with_averages({name: float(score) for name, score in scores.items()})


def _mean_of_unmixed(of_types: list[np.ndarray]) -> float:
    """The mean over types of 1 - absolute silhouette by batch: 1 if the batches of each type are mixed."""
    return float(np.mean([np.mean(1 - np.abs(widths)) for widths in of_types]))


def full_integration_scores(
    embedding: np.ndarray,
    unintegrated: np.ndarray,
    labels: np.ndarray,
    batch: np.ndarray,
    widths: Silhouettes | None = None,
    found: Neighbours | None = None,
) -> dict[str, float]:
    """The rest of the scIB table, as scib-metrics has it (no R and no compiled LISI), with its numbers of neighbours.

    Parameters
    ----------
    embedding
        Shape (n_cells, hidden_size).
    unintegrated
        Principal components before integration, shape (n_cells, n_components), for the PCR comparison.
    labels, batch
        Shape (n_cells,).
    widths
        :func:`scdmc.cells.silhouettes.silhouettes` of this embedding, if they are known already.
    found
        At least :data:`LISI_NEIGHBORS` neighbours of each cell by this embedding, if they are known already.

    Returns
    -------
    dict
        ``isolated_labels`` and ``cLISI`` (types stay apart), ``BRAS``, ``iLISI``, ``kBET`` and ``PCR_comparison``
        (batches mix), each between 0 and 1, higher is better. kBET is NaN where each type is too small for it.

    Raises
    ------
    ScDMCError
        If scib-metrics is not installed, the lengths differ or a label is missing.
    """
    if find_spec("scib_metrics") is None:
        raise ScDMCError("the full table of scores needs scib-metrics: pip install scib-metrics")
    import scib_metrics
    from scib_metrics.nearest_neighbors import NeighborsResults

    labels, batch = _known(labels=labels, batch=batch)
    embedding, unintegrated = _padded(embedding), _padded(unintegrated)
    n_neighbors = min(LISI_NEIGHBORS, len(embedding))
    # Exact, so that every machine finds the same neighbours.
    found = exact_neighbours(embedding, n_neighbors) if found is None else found
    neighbors = NeighborsResults(indices=found.indices[:, :n_neighbors], distances=found.distances[:, :n_neighbors])
    few = neighbors.subset_neighbors(n=min(KBET_NEIGHBORS, n_neighbors))
    widths = silhouettes(embedding, labels, batch) if widths is None else widths
    with warnings.catch_warnings(), _without_notes(), _exact_search():
        warnings.filterwarnings("ignore", message="PCR comparison score is negative")  # it is 0 then, as it should be
        scores = {
            "isolated_labels": _isolated_labels(widths, labels, batch),
            "cLISI": scib_metrics.clisi_knn(neighbors, labels),
            "BRAS": _mean_of_unmixed(cosine_silhouettes_of_batches(embedding, labels, batch)),
            "iLISI": scib_metrics.ilisi_knn(neighbors, batch),
            "kBET": scib_metrics.kbet_per_label(few, batch, labels),
            "PCR_comparison": scib_metrics.pcr_comparison(unintegrated, embedding, batch, categorical=True),
        }
    return {name: float(score) for name, score in scores.items()}


def _isolated_labels(widths: Silhouettes, labels: np.ndarray, batch: np.ndarray) -> float:
    """How well types of the fewest batches stand apart: the mean over them of their silhouettes, scaled to 0 to 1."""
    n_batches = pd.DataFrame({"label": labels, "batch": batch}).groupby("label")["batch"].nunique()
    isolated = n_batches.index[n_batches == n_batches.min()]
    return float(np.mean([(widths.types[labels == name].mean() + 1) / 2 for name in isolated]))


@contextmanager
def _exact_search() -> Iterator[None]:
    """Let scib-metrics search neighbours exactly where it searches for kBET.

    Its own approximate search compiles for a minute in every process, and is no faster for the cells of one type.
    """
    from scib_metrics import nearest_neighbors

    def exact(points: np.ndarray, n_neighbors: int, **_: object) -> nearest_neighbors.NeighborsResults:
        distances, indices = NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors(points)
        return nearest_neighbors.NeighborsResults(indices=indices, distances=distances)

    before = nearest_neighbors.pynndescent
    nearest_neighbors.pynndescent = exact
    try:
        yield
    finally:
        nearest_neighbors.pynndescent = before


@contextmanager
def _without_notes() -> Iterator[None]:
    """Without what scib-metrics and JAX note through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


def _padded(embedding: np.ndarray) -> np.ndarray:
    """float32 with columns of zeros up to a multiple of 64: no distance changes, and fewer shapes are compiled."""
    embedding = np.asarray(embedding, dtype=np.float32)
    return np.pad(embedding, ((0, 0), (0, -embedding.shape[1] % PADDED_TO)))


def with_averages(scores: dict[str, float]) -> dict[str, float]:
    """Add AvgBIO, AvgBATCH and overall to the five scores of :func:`integration_scores`."""
    bio = (scores["ARI"] + scores["NMI"] + scores["ASW_label"]) / 3
    batch = (scores["ASW_batch"] + scores["graph_connectivity"]) / 2
    return scores | {"AvgBIO": bio, "AvgBATCH": batch, "overall": BIO_WEIGHT * bio + BATCH_WEIGHT * batch}


def _known(**columns: np.ndarray) -> list[np.ndarray]:
    """Each column as text, shape (n_cells,), after a check that none is missing and all are equally long."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        described = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ScDMCError(f"scores need one value for each cell; cells given: {described}")
    for name, values in columns.items():
        n_missing = int(is_missing(values).sum())
        if n_missing:
            raise ScDMCError(f"{name}: {n_missing} cells have no value; leave these cells out before scoring")
    return [np.asarray(values, dtype=object).astype(str) for values in columns.values()]


def require_types(labels: np.ndarray, column: str) -> np.ndarray:
    """True for the cells that have a type, shape (n_cells,), after a check that they can be scored.

    Parameters
    ----------
    labels
        Types, shape (n_cells,); NaN, None and '' are none.
    column
        Name of the column, for the message.

    Raises
    ------
    ScDMCError
        If no cell has a type, there is one type only, or each cell has a type of its own.
    """
    is_labelled = ~is_missing(labels)
    types = np.unique(np.asarray(labels, dtype=object)[is_labelled].astype(str))
    if len(types) == 0:
        raise ScDMCError(f"obs[{column!r}] is empty for all {len(labels)} cells; scores need at least two types")
    if len(types) == 1:
        raise ScDMCError(f"obs[{column!r}] holds one type only, {str(types[0])!r}; scores need at least two types")
    if len(types) == is_labelled.sum():
        raise ScDMCError(f"obs[{column!r}] gives each cell a type of its own; choose a column with cell types")
    return is_labelled


def _require_two_types(labels: np.ndarray) -> None:
    """Refuse labels of one type: their silhouette is not defined."""
    if len(np.unique(labels)) < 2:
        raise ScDMCError(f"all {len(labels)} cells have the label {labels[0]!r}; scores need at least two types")


def metric_rows(task: str, method: str, scores: Mapping[str, float]) -> list[dict[str, object]]:
    """Scores as rows of a long table: task, method, metric, value."""
    return [{"task": task, "method": method, "metric": name, "value": value} for name, value in scores.items()]


def mean_metrics(runs: Sequence[Sequence[dict[str, object]]]) -> list[dict[str, object]]:
    """Rows of :func:`metric_rows` over several runs: value is the mean, with its standard deviation and the runs.

    Parameters
    ----------
    runs
        The rows of each run; a method or metric may be absent from some.

    Returns
    -------
    Rows with two more columns, ``sd`` (of a sample: divided by n - 1) and ``runs``; those of one run as they are.
    """
    if len(runs) == 1:
        return list(runs[0])
    table = pd.DataFrame([row for rows in runs for row in rows])
    grouped = table.groupby(["task", "method", "metric"], sort=False)["value"]
    return grouped.agg(value="mean", sd="std", runs="count").reset_index().to_dict("records")


def write_metrics(path: Path, rows: Sequence[dict[str, object]]) -> pd.DataFrame:
    """Write rows of :func:`metric_rows` as CSV; returns them as methods x metrics, in the order of the rows."""
    table = pd.DataFrame(rows)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
    return wide_metrics(table)


def wide_metrics(rows: pd.DataFrame, values: str = "value") -> pd.DataFrame:
    """Long metrics of one task as a table, methods x metrics, of the column ``values``."""
    wide = rows.pivot(index="method", columns="metric", values=values)
    wide = wide.loc[rows["method"].unique(), rows["metric"].unique()]
    wide.index.name = wide.columns.name = None
    return wide
