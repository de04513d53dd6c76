"""Label new cells by a labelled reference: from two files' counts to all that is known of the new cells."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scdmc.annotation.annotated_cells import ALL_VIEWS, WITHOUT_MODEL, AnnotatedCells, CellsAsGenes, HeldOutScores
from scdmc.annotation.calibration import expected_calibration_error
from scdmc.annotation.options import UNKNOWN
from scdmc.cells.clustering import umap_coordinates
from scdmc.cells.shared_genes import CellCounts
from scdmc.errors import ScDMCError, shown_names
from scdmc.genes.ids import UNMATCHED
from scdmc.genes.symbols import gene_symbols
from scdmc.labels import is_missing
from scdmc.model.encoder import ScDMCModel
from scdmc.tokens.tokenizer import Tokenizer
from scdmc.views.classifier import HeldOutViews, ViewClassifier, fit_view_classifier, key_of
from scdmc.views.features import Components, FeatureMaker, ViewsOfCells
from scdmc.views.options import ViewOptions
from scdmc.views.regression import log_loss

logger = logging.getLogger(__name__)

# Neighbours in the reference whose mean distance says how far a cell lies from it.
NEAREST = 15


CELLS_OF_DISTANCES = 5000


# Of the genes that a classifier knows, a file must have so many for the labels of a view.
LEAST_SHARE_OF_VIEWS = {"genes": 0.7, "components": 0.7}


# Where principal components tell new from reference cells so well, the types of the one are not where they are in the
# other, and a classifier on components errs with confidence.
MOST_SEPARABLE, CELLS_TOLD_APART, FEWEST_TOLD_APART = 0.99, 1000, 20


# Of the cells of a map: a graph of fewer makes none.
FEWEST_CELLS_OF_MAP = 16


@dataclass(frozen=True)
class ReferenceDistances:
    """How far reference cells lie from each other in the space of principal components.

    Attributes
    ----------
    cells
        Components of some reference cells, shape (n_kept, n_components).
    usual
        Mean distance of each of them to its nearest others, ascending, shape (n_kept,).
    """

    cells: np.ndarray
    usual: np.ndarray

    @classmethod
    def of(cls, components: np.ndarray, seed: int = 42) -> "ReferenceDistances":
        """Of reference cells, shape (n_cells, n_components)."""
        if len(components) > CELLS_OF_DISTANCES:
            rows = np.random.default_rng(seed).choice(len(components), CELLS_OF_DISTANCES, replace=False)
            components = components[np.sort(rows)]
        n_neighbors = min(NEAREST, len(components) - 1)
        if n_neighbors < 1:
            return cls(components, np.zeros(len(components)))
        # Without arguments: the neighbours of each cell other than itself.
        distances, _ = NearestNeighbors(n_neighbors=n_neighbors).fit(components).kneighbors()
        return cls(components, np.sort(distances.mean(axis=1)))

    def share_nearer(self, components: np.ndarray) -> np.ndarray:
        """Share of the reference cells that are nearer to theirs than each of these cells is, shape (n_cells,)."""
        n_neighbors = min(NEAREST, len(self.cells))
        distances, _ = NearestNeighbors(n_neighbors=n_neighbors).fit(self.cells).kneighbors(components)
        return np.searchsorted(self.usual, distances.mean(axis=1)) / len(self.usual)


@dataclass(frozen=True)
class FittedReference:
    """All that a reference teaches.

    Attributes
    ----------
    maker
        Turns counts into features.
    classifier
        Turns features into probabilities.
    distances
        Says how far a cell lies from the reference.
    """

    maker: FeatureMaker
    classifier: ViewClassifier
    distances: ReferenceDistances


@dataclass(frozen=True)
class LabelledCells:
    """Labels of new cells.

    Attributes
    ----------
    names
        Types, shape (n_types,).
    probabilities
        Calibrated, shape (n_cells, n_types); NaN for a cell without counts.
    labels
        Shape (n_cells,); Unknown below a threshold and without counts.
    familiarity
        Share of the held-out reference cells that are not more familiar, shape (n_cells,); NaN without counts.
    min_probability, min_familiarity
        Thresholds that were used; 0 for none.
    of_views
        View -> its own label, shape (n_cells,).
    weights
        View -> weight.
    left_out
        View -> why it was left out.
    distance
        See :class:`scdmc.annotation.annotated_cells.AnnotatedCells`.
    embedding
        Shape (n_cells, width).
    umap
        Shape (n_cells, 2); NaN for a cell without counts.
    """

    names: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray
    familiarity: np.ndarray
    min_probability: float
    min_familiarity: float
    of_views: Mapping[str, np.ndarray]
    weights: Mapping[str, float]
    left_out: Mapping[str, str]
    distance: np.ndarray
    embedding: np.ndarray
    umap: np.ndarray


def labelled(
    fitted: FittedReference,
    cells: ViewsOfCells,
    min_probability: float | None,
    left_out: Mapping[str, str],
    seed: int = 42,
) -> LabelledCells:
    """Label cells by what a reference taught.

    Parameters
    ----------
    fitted
        What it taught.
    cells
        Their features, without those of views that are left out.
    min_probability
        Less certain cells are Unknown; None for those that are less familiar than the reference recommends.
    left_out
        View -> why it is left out.
    seed
        Of UMAP.
    """
    classifier = fitted.classifier
    of_views = classifier.of_views(cells.features)
    consensus = classifier.consensus_of(list(of_views))
    probabilities = consensus.probabilities(of_views)
    is_empty = cells.expression.getnnz(axis=1) == 0
    familiarity = classifier.familiarity_of(of_views, cells.features)
    min_familiarity = classifier.recommended_of(list(of_views)) if min_probability is None else 0.0
    min_probability = min_probability or 0.0
    labels = classifier.names[probabilities.argmax(axis=1)]
    labels[(probabilities.max(axis=1) < min_probability) | (familiarity < min_familiarity) | is_empty] = UNKNOWN
    probabilities[is_empty] = familiarity[is_empty] = np.nan
    distance = fitted.distances.share_nearer(cells.components)
    distance[is_empty] = np.nan
    own = {view: classifier.names[each.argmax(axis=1)] for view, each in of_views.items()}
    for each in own.values():
        each[is_empty] = UNKNOWN
    place = _map_of(cells.components, is_empty, seed)
    return LabelledCells(
        classifier.names, probabilities, labels, familiarity, min_probability, min_familiarity, own,
        dict(consensus.weights), left_out, distance, cells.embedding, place,
    )  # fmt: skip


def label_by_fitted(fitted: FittedReference, new: CellCounts, options: ViewOptions) -> LabelledCells:
    """Label the cells of a file by what a reference taught, without the reference.

    Views that read genes are left out where the file lacks too many of them.

    Parameters
    ----------
    fitted
        What the reference taught.
    new
        Counts of the cells.
    options
        Threshold, seed and share of genes that the file needs.

    Raises
    ------
    ScDMCError
        If the file has too few of the genes.
    """
    genes = fitted.maker.genes
    n_known = int(np.isin(genes, new.keys).sum())
    share = n_known / len(genes)
    if share < options.min_known_genes:
        raise ScDMCError(
            f"{new.name} has {n_known:,} of the {len(genes):,} genes that the classifier knows ({share:.1%}); at least "
            f"{options.min_known_genes:.0%} are needed (--min_known_genes); label it with --reference, which fits on "
            "the genes that both files have"
        )
    left_out = {}
    for view in fitted.classifier.views:
        if share < LEAST_SHARE_OF_VIEWS.get(view, 0.0):
            left_out[view] = f"{new.name} has {share:.0%} of its genes, and it needs {LEAST_SHARE_OF_VIEWS[view]:.0%}"
            logger.warning("warning: the view %s is left out: %s", view, left_out[view])
    views = [view for view in fitted.classifier.views if view not in left_out]
    if not views:
        raise ScDMCError(
            f"{new.name} has {n_known:,} of the {len(genes):,} genes that the classifier knows ({share:.1%}), too few "
            f"for its views ({', '.join(left_out)}); label it with --reference"
        )
    cells = fitted.maker.of_cells(new, views, "encode")
    left_out |= _apart(new.name, fitted.distances.cells, cells, views, options.seed)
    return labelled(fitted, cells.without(left_out), options.min_probability, left_out, options.seed)


def separability(reference: np.ndarray, new: np.ndarray, seed: int = 42) -> float:
    """AUROC of a logistic regression that tells new from reference cells, out of fold: 0.5 if they are alike.

    Parameters
    ----------
    reference, new
        Principal components, shape (n_cells, n_components) each; at most :data:`CELLS_TOLD_APART` of each are taken.
    seed
        Which ones.
    """
    rng = np.random.default_rng(seed)
    parts = [each[rng.permutation(len(each))[:CELLS_TOLD_APART]] for each in (reference, new)]
    if min(map(len, parts)) < FEWEST_TOLD_APART:
        return 0.5  # too few to tell
    is_new = np.repeat([0, 1], [len(each) for each in parts])
    told = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    chance = cross_val_predict(told, np.concatenate(parts), is_new, cv=3, method="predict_proba")[:, 1]
    return float(roc_auc_score(is_new, chance))


def _apart(name: str, reference: np.ndarray, new: ViewsOfCells, views: Sequence[str], seed: int) -> dict[str, str]:
    """The view of components with the reason to leave it out, where these tell new from reference cells."""
    others = [view for view in views if view != "components"]
    if "components" not in views or not others:
        return {}
    has_counts = new.expression.getnnz(axis=1) > 0
    auroc = separability(reference, new.components[has_counts], seed)
    if auroc < MOST_SEPARABLE:
        return {}
    reason = f"by their principal components the cells of {name} are told from the reference (AUROC {auroc:.2f})"
    logger.info("the view components is left out: %s", reason)
    return {"components": reason}


def label_new_cells(
    new: CellCounts,
    reference: CellCounts,
    labels: np.ndarray,
    encoder: ScDMCModel,
    tokenizer: Tokenizer,
    options: ViewOptions,
) -> tuple[LabelledCells, AnnotatedCells, FittedReference]:
    """Fit the views on a reference and label new cells by them.

    Parameters
    ----------
    new, reference
        Counts of the cells.
    labels
        Of the reference cells, shape (n_reference,); None for none.
    encoder
        On its device.
    tokenizer
        As the encoder was trained.
    options
        What is computed.

    Returns
    -------
    Labels of the new cells, the same with all that says how far to trust them, and what labelled them.

    Raises
    ------
    ScDMCError
        If no reference cell has a label and counts.
    """
    shared = np.intersect1d(reference.keys, new.keys)
    new_of_shared, reference = new.of_genes(shared), reference.of_genes(shared)
    is_taught = ~is_missing(labels) & (reference.counts.getnnz(axis=1) > 0)
    if not is_taught.any():
        raise ScDMCError(
            f"{reference.name}: no cell has a label in obs[{options.label_key!r}] and counts in the {len(shared):,} "
            f"genes that {new.name} has, too"
        )
    reference, labels = reference.select(is_taught), labels[is_taught].astype(str).astype(object)
    batch = None if options.batch_key is None else reference.obs[options.batch_key].astype(str).to_numpy()
    both = [reference.expression(), new_of_shared.expression()]
    maker = FeatureMaker(shared, tokenizer, encoder, components_of(both, options.seed))
    of_reference = maker.of_cells(reference, options.views, "encode the reference")
    of_new = maker.of_cells(new_of_shared, options.views, "encode the new cells")
    left_out = _apart(new.name, of_reference.components, of_new, options.views, options.seed)
    of_reference = of_reference.without(left_out)
    classifier, held_out = fit_view_classifier(of_reference.features, labels, batch, options.seed)
    fitted = FittedReference(maker, classifier, ReferenceDistances.of(of_reference.components, options.seed))
    cells = labelled(fitted, of_new.without(left_out), options.min_probability, left_out, options.seed)
    names = _shown_names(reference)
    annotated = AnnotatedCells(
        new=CellsAsGenes(of_new.expression, names, new.obs, new.name, new.n_genes_of_file),
        reference=CellsAsGenes(
            of_reference.expression, names, reference.obs, reference.name, reference.n_genes_of_file
        ),
        reference_labels=labels,
        names=cells.names,
        probabilities=cells.probabilities,
        labels=cells.labels,
        familiarity=cells.familiarity,
        min_probability=cells.min_probability,
        min_familiarity=cells.min_familiarity,
        recommended_familiarity=classifier.recommended_of(list(cells.of_views)),
        view_labels=cells.of_views,
        weights=cells.weights,
        left_out=cells.left_out,
        held_out=held_out_scores(classifier, held_out, labels),
        distance=cells.distance,
        embedding=cells.embedding,
        umap=cells.umap,
        facts=_facts(fitted, new, reference, options),
    )
    return cells, annotated, fitted


def components_of(expressions: list, seed: int) -> Components:
    """Principal components of cells of several files that have counts."""
    import scipy.sparse

    stacked = scipy.sparse.csr_matrix(scipy.sparse.vstack(expressions))
    return Components.of(stacked[stacked.getnnz(axis=1) > 0], seed)


def held_out_scores(classifier: ViewClassifier, held_out: HeldOutViews, labels: np.ndarray) -> HeldOutScores:
    """How right the out-of-fold labels of the reference cells are.

    Cells whose type no other cell could teach count nowhere.
    """
    names, tested = classifier.names, held_out.is_learnable
    types = np.searchsorted(names.astype(str), labels.astype(str))
    views = list(held_out.of_views)
    weights = classifier.consensus_of(views).weights
    rows = {}
    for view in views:
        alone = classifier.consensus_of([view]).probabilities(held_out.of_views)
        rows[view] = {"weight": weights[view], **_scores(alone[tested], types[tested])}
    rows[ALL_VIEWS] = {"weight": np.nan, **_scores(held_out.together[tested], types[tested])}
    others = [view for view in views if view != "scdmc"]
    if others and len(others) < len(views):
        without = classifier.consensus_of(others).probabilities(held_out.of_views)
        rows[WITHOUT_MODEL] = {"weight": np.nan, **_scores(without[tested], types[tested])}
    likeliest = held_out.together.argmax(axis=1)
    found = precision_recall_fscore_support(
        types[tested], likeliest[tested], labels=np.arange(len(names)), zero_division=0
    )[:3]
    by_type = pd.DataFrame(dict(zip(("precision", "recall", "f1"), found, strict=True)), index=names)
    by_type.insert(0, "n_cells", np.bincount(types, minlength=len(names)))
    return HeldOutScores(
        methods=pd.DataFrame(rows).T,
        types=by_type,
        labels=names[likeliest],
        probability=held_out.together.max(axis=1),
        unseen_auroc=held_out.unseen_auroc,
    )


def _scores(probabilities: np.ndarray, types: np.ndarray) -> dict[str, float]:
    if not len(types):
        return dict.fromkeys(("accuracy", "macro_f1", "log_loss", "calibration_error"), np.nan)
    predicted = probabilities.argmax(axis=1)
    return {
        "accuracy": float(accuracy_score(types, predicted)),
        "macro_f1": float(f1_score(types, predicted, average="macro", zero_division=0)),
        "log_loss": log_loss(probabilities, types),
        "calibration_error": expected_calibration_error(probabilities.max(axis=1), predicted == types),
    }


def _shown_names(cells: CellCounts) -> np.ndarray:
    """Official symbols of the genes that have a token, and what the file calls the others; shape (n_genes,)."""
    names = cells.names.astype(object)
    is_known = cells.tokens != UNMATCHED
    names[is_known] = gene_symbols(cells.keys[is_known])
    return names


def _map_of(components: np.ndarray, is_empty: np.ndarray, seed: int) -> np.ndarray:
    """UMAP of the cells that have counts, NaN for the others; of very few cells their first two components."""
    place = np.full((len(components), 2), np.nan)
    filled = components[~is_empty]
    if len(filled) >= FEWEST_CELLS_OF_MAP:
        place[~is_empty] = umap_coordinates(filled, seed=seed)
    else:
        width = min(2, components.shape[1])
        place[~is_empty] = 0.0
        place[~is_empty, :width] = filled[:, :width]
    return place


def _facts(fitted: FittedReference, new: CellCounts, reference: CellCounts, options: ViewOptions) -> Mapping[str, str]:
    strengths = ", ".join(f"{view} {fit.C:g}" for view, fit in fitted.classifier.views.items())
    n_genes, n_components = fitted.maker.components.loadings.shape
    return {
        "new cells": f"{new.name}, {len(new.rows):,} cells",
        "reference": f"{reference.name}, {len(reference.rows):,} cells with a label in {options.label_key}",
        "types": shown_names(list(fitted.classifier.names), 30),
        "shared genes": f"{n_genes:,}",
        "principal components": f"{n_components}, of all cells of both files, labelled or not (transductive)",
        "C of the views": strengths,
        "familiarity": _of_familiarity(fitted.classifier),
        "folds": "of cells" if options.batch_key is None else f"whole batches of {options.batch_key}",
        "seed": str(options.seed),
    }


def _of_familiarity(classifier: ViewClassifier) -> str:
    strengths = classifier.familiarity[key_of(list(classifier.views))].strengths
    clues = ("log probability of the label", "log of the least probability of a view", "squared distance")
    return ", ".join(f"{strength:g} x {clue}" for strength, clue in zip(strengths, clues, strict=True) if strength)
