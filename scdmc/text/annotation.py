"""Cells get the text that they are nearest to, among those that a user names.

Source: docs/text.md, "Annotation by text".
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.special

from scdmc.cells.components import component_values
from scdmc.cells.neighbours import exact_neighbours
from scdmc.errors import ScDMCError
from scdmc.text.candidates import Candidate, OtherTerms
from scdmc.text.features import MOST_GENES, variances
from scdmc.text.genes_in_text import signed_genes
from scdmc.text.model import CellTextModel, unit
from scdmc.text.options import (
    FEWEST_CELLS_TOGETHER,
    MOST_STANDARDISED,
    NO_COUNTS,
    UNKNOWN,
    TextAnnotationOptions,
)

logger = logging.getLogger(__name__)


# Of the graph over which scores are smoothed, and how far.
N_COMPONENTS, N_NEIGHBORS, KEPT, ROUNDS = 30, 15, 0.1, 15


# In a small file types have hardly as many cells as that, and scores would run together over all of them.
CELLS_PER_NEIGHBOUR = 20


@dataclass(frozen=True)
class TextAnnotation:
    """What cells got.

    Attributes
    ----------
    candidates
        The types that were asked for.
    cells
        The cells in the space of texts, shape (n_cells, text_size); NaN without counts.
    scores
        Of each candidate, standardised and smoothed where that was done, shape (n_cells, n_candidates).
    probabilities
        The same shape.
    none_of_these
        Shape (n_cells,).
    labels
        Name of the candidate, ``Unknown`` or ``no counts``, shape (n_cells,).
    best, second
        Rows of the candidates with the highest scores, shape (n_cells,); -1 without counts.
    distractors
        Names of the training terms that stand for none of these.
    markers
        Name of a candidate -> Ensembl ids that its text names, with their signs.
    is_centred_by_file, is_standardised, is_smoothed
        What was done.
    """

    candidates: Sequence[Candidate]
    cells: np.ndarray
    scores: np.ndarray
    probabilities: np.ndarray
    none_of_these: np.ndarray
    labels: np.ndarray
    best: np.ndarray
    second: np.ndarray
    distractors: Sequence[str]
    markers: dict[str, dict[str, int]]
    is_centred_by_file: bool
    is_standardised: bool
    is_smoothed: bool


@dataclass(frozen=True)
class Query:
    """Cells that are to be annotated.

    Attributes
    ----------
    features
        Shape (n_cells, n_features).
    expression, genes
        ln(1 + CP10k) of the same cells, CSR of shape (n_cells, n_genes), and the Ensembl ids of the genes.
    has_counts
        Shape (n_cells,).
    graph
        Of the cells with counts, from :func:`own_neighbours`; None finds it where it is needed.
    """

    features: np.ndarray
    expression: scipy.sparse.csr_matrix
    genes: np.ndarray
    has_counts: np.ndarray
    graph: scipy.sparse.csr_matrix | None = None


def own_neighbours(expression: scipy.sparse.csr_matrix, seed: int) -> scipy.sparse.csr_matrix:
    """A graph of cells by their own expression, each row the mean of its nearest; no label is used.

    A cell has 15 neighbours, or a twentieth of the cells where that is less.

    Parameters
    ----------
    expression
        ln(1 + CP10k), shape (n_cells, n_genes).
    seed
        Of the components.

    Returns
    -------
    Shape (n_cells, n_cells); rows sum to 1.
    """
    expression = scipy.sparse.csr_matrix(expression)
    genes = np.sort(np.argsort(-variances(expression), kind="stable")[:MOST_GENES])
    n_components = min(N_COMPONENTS, len(genes), expression.shape[0] - 1)
    points = component_values(expression[:, genes], n_components, seed)
    n_neighbors = min(N_NEIGHBORS, max(1, expression.shape[0] // CELLS_PER_NEIGHBOUR))
    nearest = exact_neighbours(points, n_neighbors + 1).others(n_neighbors)
    n_cells, n_nearest = nearest.shape
    rows = np.repeat(np.arange(n_cells), n_nearest)
    share = np.full(nearest.size, 1 / n_nearest)
    return scipy.sparse.csr_matrix((share, (rows, nearest.ravel())), shape=(n_cells, n_cells))


def smoothed(scores: np.ndarray, graph: scipy.sparse.csr_matrix) -> np.ndarray:
    """Scores that cells share with their neighbours: nine tenths from them, one tenth their own, fifteen times.

    Parameters
    ----------
    scores
        Shape (n_cells, n_scores).
    graph
        Shape (n_cells, n_cells), rows sum to 1; a cell without neighbours keeps its scores.
    """
    is_alone = np.asarray(graph.sum(axis=1)).ravel() == 0
    graph = graph + scipy.sparse.diags_array(is_alone.astype(float))
    result = scores
    for _ in range(ROUNDS):
        result = (1 - KEPT) * (graph @ result) + KEPT * scores
    return result


def standardised(scores: np.ndarray) -> np.ndarray:
    """Scores of each candidate with mean 0 and standard deviation 1 over the cells, shape (n_cells, n_candidates)."""
    scale = scores.std(axis=0)
    return (scores - scores.mean(axis=0)) / np.where(scale > 0, scale, 1)


def marker_scores(
    expression: scipy.sparse.csr_matrix, genes: np.ndarray, markers: Sequence[dict[str, int]]
) -> np.ndarray:
    """How high the genes stand in a cell that a text names, and how low those that it says are absent.

    Parameters
    ----------
    expression, genes
        See :class:`Query`.
    markers
        Of each candidate: Ensembl id -> 1 or -1.

    Returns
    -------
    Mean of the genes' standardised expression, with their signs, shape (n_cells, n_candidates); 0 for a candidate
    whose text names no gene of the file.
    """
    place = {gene: column for column, gene in enumerate(genes)}
    scores = np.zeros((expression.shape[0], len(markers)))
    for number, signs in enumerate(markers):
        known = [(place[gene], sign) for gene, sign in sorted(signs.items()) if gene in place]
        if known:
            columns, of_genes = zip(*known, strict=True)
            values = standardised(expression[:, list(columns)].toarray().astype(np.float64))
            scores[:, number] = (values * np.array(of_genes)).mean(axis=1)
    return scores


def annotate_cells(
    model: CellTextModel,
    query: Query,
    candidates: Sequence[Candidate],
    vectors: np.ndarray,
    others: OtherTerms,
    options: TextAnnotationOptions,
) -> TextAnnotation:
    """Give each cell the candidate whose text it is nearest to.

    Parameters
    ----------
    model
        What projects cells onto texts.
    query
        The cells.
    candidates, vectors
        The candidates, and their texts' vectors, shape (n_candidates, text_size).
    others
        Training terms that stand for none of these, or for a candidate (:func:`scdmc.text.candidates.other_terms`).
    options
        How.

    Raises
    ------
    ScDMCError
        If no cell has counts, or smoothing was asked for and there are too few cells.
    """
    counted = np.flatnonzero(query.has_counts)
    by_file, smooth = _how(len(counted), options)
    features = query.features[counted]
    centre = model.centre_of(features) if by_file else model.centre
    cells = unit(model.projected(centre.applied(features)))
    scores = (cells @ model.texts.centred(vectors).T).astype(np.float64)  # (n_counted, n_candidates)
    of_terms = (cells @ model.texts.centred(model.texts.of_terms).T).astype(np.float64)  # (n_counted, n_terms)
    graph = None
    if smooth:
        graph = own_neighbours(query.expression[counted], options.seed) if query.graph is None else query.graph
    shared, of_terms = (each if graph is None else smoothed(each, graph) for each in (scores, of_terms))
    markers = [signed_genes(candidate.text) for candidate in candidates]
    is_standardised = by_file and _standardises(len(candidates), options)
    ranked = standardised(scores) if is_standardised else scores
    if options.marker_weight and is_standardised:
        of_markers = standardised(marker_scores(query.expression[counted], query.genes, markers))
        ranked = ranked + options.marker_weight * of_markers
    elif options.marker_weight:
        _warn_of_markers(by_file, options)
    if graph is not None:
        ranked = smoothed(ranked, graph)
    likely = scipy.special.softmax(shared / model.temperature, axis=1)
    one_of_these = np.concatenate([shared, of_terms[:, others.below]], axis=1)
    none = _none_of_these(of_terms[:, others.away], one_of_these, model)
    order = np.argsort(-ranked, axis=1, kind="stable")
    names = np.array([candidate.label for candidate in candidates], dtype=object)
    labels = np.full(len(query.has_counts), NO_COUNTS, dtype=object)
    labels[counted] = np.where(none > options.max_none, UNKNOWN, names[order[:, 0]])

    def of_all(values: np.ndarray, missing: float) -> np.ndarray:
        whole = np.full((len(query.has_counts), *values.shape[1:]), missing, dtype=values.dtype)
        whole[counted] = values
        return whole

    return TextAnnotation(
        candidates,
        of_all(cells, np.nan),
        of_all(ranked, np.nan),
        of_all(likely, np.nan),
        of_all(none, np.nan),
        labels,
        of_all(order[:, 0], -1),
        of_all(order[:, 1], -1),
        model.texts.terms["label"].iloc[others.away].tolist(),
        {each.label: genes for each, genes in zip(candidates, markers, strict=True)},
        by_file,
        is_standardised,
        smooth,
    )


def _standardises(n_candidates: int, options: TextAnnotationOptions) -> bool:
    """Whether the scores of each candidate are standardised, where the file's own mean is taken away."""
    is_short = n_candidates <= MOST_STANDARDISED
    return options.standardise == "on" or (options.standardise == "auto" and is_short)


def _warn_of_markers(by_file: bool, options: TextAnnotationOptions) -> None:
    why = f"there are more than {MOST_STANDARDISED}" if by_file else "each cell is scored without the others"
    why = "--standardise is off" if by_file and options.standardise == "off" else why
    logger.warning("warning: --marker_weight has no effect, as the scores of candidates are not standardised: %s", why)


def _how(n_cells: int, options: TextAnnotationOptions) -> tuple[bool, bool]:
    """Whether the file's own mean is taken away, and whether scores are smoothed."""
    if not n_cells:
        raise ScDMCError("no cell has counts in the genes of the model: is it a file of another species?")
    by_file = options.centre == "file"
    if n_cells < FEWEST_CELLS_TOGETHER:
        if options.smooth == "on":
            raise ScDMCError(f"--smooth on: {n_cells} cells are too few; {FEWEST_CELLS_TOGETHER} are needed")
        if by_file:
            logger.warning(
                "warning: %d cells are fewer than %d, so that each is annotated by itself (--centre training, "
                "--smooth off), which is less reliable",
                n_cells, FEWEST_CELLS_TOGETHER,
            )  # fmt: skip
        return False, False
    smooth = options.smooth == "on"
    if options.smooth == "auto":
        smooth = n_cells <= options.max_cells_smoothed
        if not smooth:
            logger.warning(
                "warning: scores of %s cells are not smoothed, since there are more than %s (--max_cells_smoothed)",
                f"{n_cells:,}", f"{options.max_cells_smoothed:,}",
            )  # fmt: skip
    return by_file, smooth


def _none_of_these(away: np.ndarray, one_of_these: np.ndarray, model: CellTextModel) -> np.ndarray:
    """The nearest other text against the nearest of a candidate, from 0 to 1, shape (n_cells,); 0 without others."""
    if not away.shape[1]:
        return np.zeros(len(away))
    nearer = away.max(axis=1) - one_of_these.max(axis=1)
    return scipy.special.expit((nearer - model.none_margin) / model.temperature)
