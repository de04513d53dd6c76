"""Label new cells by a labelled reference: from two files' counts to all that is known of the new cells."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.neighbors import NearestNeighbors

from scdmc.annotation.annotated_cells import AnnotatedCells, CellsAsGenes, LabelledCells
from scdmc.annotation.options import UNKNOWN
from scdmc.cells.shared_genes import CellCounts
from scdmc.cells.viewers import map_of_cells
from scdmc.errors import ScDMCError, shown_names
from scdmc.genes.ids import UNMATCHED
from scdmc.genes.symbols import gene_symbols
from scdmc.labels import is_missing
from scdmc.tokens.tokenizer import Tokenizer
from scdmc.views.classifier import ViewClassifier, fit_view_classifier, key_of, views_of_familiarity
from scdmc.views.features import Components, FeatureMaker, ViewsOfCells
from scdmc.views.fine_tuned import FineTuner
from scdmc.views.held_out import controls_of, held_out_scores
from scdmc.views.options import FINE_TUNED_VIEW, MODEL_VIEWS, ViewOptions
from scdmc.views.shift import views_apart

logger = logging.getLogger(__name__)

# Neighbours in the reference whose mean distance says how far a cell lies from it.
NEAREST = 15


CELLS_OF_DISTANCES = 5000


# Of the genes that a classifier knows, a file must have so many for the labels of a view.
LEAST_SHARE_OF_VIEWS = {"genes": 0.7, "components": 0.7}


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
    place = map_of_cells(cells.components, ~is_empty, seed)
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
    left_out |= views_apart(new.name, fitted.distances.cells, cells, views, options.seed)
    return labelled(fitted, cells.without(left_out), options.min_probability, left_out, options.seed)


def label_new_cells(
    new: CellCounts,
    reference: CellCounts,
    labels: np.ndarray,
    fine_tuner: FineTuner,
    tokenizer: Tokenizer,
    options: ViewOptions,
) -> tuple[AnnotatedCells, FittedReference]:
    """Fit the views on a reference and label new cells by them.

    Parameters
    ----------
    new, reference
        Counts of the cells.
    labels
        Of the reference cells, shape (n_reference,); None for none.
    fine_tuner
        With the encoder, on its device; it trains nothing unless the fine-tuned view is asked for.
    tokenizer
        As the encoder was trained.
    options
        What is computed.

    Returns
    -------
    Labels of the new cells with all that says how far to trust them, and what labelled them.

    Raises
    ------
    ScDMCError
        If no reference cell has a label and counts, or these are too few for a fine-tuning that was asked for.
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
    maker = FeatureMaker(shared, tokenizer, fine_tuner.encoder, components_of(both, options.seed))
    of_reference = maker.of_cells(reference, options.views, "encode the reference")
    of_new = maker.of_cells(new_of_shared, options.views, "encode the new cells")
    left_out = views_apart(new.name, of_reference.components, of_new, options.views, options.seed)
    of_reference = of_reference.without(left_out)
    has_model_views = bool(set(MODEL_VIEWS) & set(of_reference.features))
    controls = controls_of(reference, tokenizer, options.seed) if has_model_views else {}
    classifier, held_out = fit_view_classifier(of_reference.features, labels, batch, options.seed, controls, fine_tuner)
    fitted = FittedReference(maker, classifier, ReferenceDistances.of(of_reference.components, options.seed))
    cells = labelled(fitted, of_new.without(left_out), options.min_probability, left_out, options.seed)
    names = _shown_names(reference)
    return (
        AnnotatedCells(
            **vars(cells),
            new=CellsAsGenes(of_new.expression, names, new.obs, new.name, new.n_genes_of_file),
            reference=CellsAsGenes(
                of_reference.expression, names, reference.obs, reference.name, reference.n_genes_of_file
            ),
            reference_labels=labels,
            recommended_familiarity=classifier.recommended_of(list(cells.view_labels)),
            held_out=held_out_scores(classifier, held_out, labels),
            facts=_facts(fitted, new, reference, options),
        ),
        fitted,
    )


def components_of(expressions: list, seed: int) -> Components:
    """Principal components of cells of several files that have counts."""
    import scipy.sparse

    stacked = scipy.sparse.csr_matrix(scipy.sparse.vstack(expressions))
    return Components.of(stacked[stacked.getnnz(axis=1) > 0], seed)


def _shown_names(cells: CellCounts) -> np.ndarray:
    """Official symbols of the genes that have a token, and what the file calls the others; shape (n_genes,)."""
    names = cells.names.astype(object)
    is_known = cells.tokens != UNMATCHED
    names[is_known] = gene_symbols(cells.keys[is_known])
    return names


def _facts(fitted: FittedReference, new: CellCounts, reference: CellCounts, options: ViewOptions) -> Mapping[str, str]:
    views = dict(fitted.classifier.views)
    fine_tuned = views.pop(FINE_TUNED_VIEW, None)
    strengths = ", ".join(f"{view} {fit.C:g}" for view, fit in views.items())
    n_genes, n_components = fitted.maker.components.loadings.shape
    return {
        "new cells": f"{new.name}, {len(new.rows):,} cells",
        "reference": f"{reference.name}, {len(reference.rows):,} cells with a label in {options.label_key}",
        "types": shown_names(list(fitted.classifier.names), 30),
        "shared genes": f"{n_genes:,}",
        "principal components": f"{n_components}, of all cells of both files, labelled or not (transductive)",
        **({"C of the views": strengths} if views else {}),
        **({"fine-tuning": _of_fine_tuning(fine_tuned.best_epochs)} if fine_tuned else {}),
        "familiarity": _of_familiarity(fitted.classifier),
        "folds": "of cells" if options.batch_key is None else f"whole batches of {options.batch_key}",
        "seed": str(options.seed),
    }


def _of_fine_tuning(best_epochs: Sequence[int]) -> str:
    *of_folds, of_all = best_epochs
    return (
        f"{len(of_folds)} folds and all cells; best epochs {', '.join(map(str, of_folds))} and {of_all} "
        "(0 is the probe that a fine-tuning starts from)"
    )


def _of_familiarity(classifier: ViewClassifier) -> str:
    strengths = classifier.familiarity[key_of(views_of_familiarity(list(classifier.views)))].strengths
    clues = ("log probability of the label", "log of the least probability of a view", "squared distance")
    return ", ".join(f"{strength:g} x {clue}" for strength, clue in zip(strengths, clues, strict=True) if strength)
