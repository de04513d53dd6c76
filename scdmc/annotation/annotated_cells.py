"""What is known of new cells after a reference has labelled them: what files, table and page are made of."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse

# Rows of the held-out scores: all views together, and the same views without those of the language model.
ALL_VIEWS, WITHOUT_MODEL = "all views", "all views without scDMC"
# And means of co-expression vectors that no training has seen: alone, and in the place of the language model.
VECTORS_ALONE, OTHER_VIEWS_AND_VECTORS = "untrained vectors", "vectors in place of scDMC"
# Names of the views of the language model begin with one of these, in whatever case.
LANGUAGE_MODEL = ("scdmc", "finetuned")


@dataclass(frozen=True)
class CellsAsGenes:
    """Cells as expression of the genes that reference and new cells share.

    Attributes
    ----------
    expression
        ln(1 + CP10k), CSR of shape (n_cells, n_shared_genes); the total is that of all genes of the cell's file.
    genes
        Names to show, shape (n_shared_genes,).
    obs
        Annotation of the cells as the file has it, n_cells rows.
    name
        Of the file.
    n_genes
        Genes that the file has, shared or not.
    """

    expression: scipy.sparse.csr_matrix
    genes: np.ndarray
    obs: pd.DataFrame
    name: str
    n_genes: int


@dataclass(frozen=True)
class HeldOutScores:
    """How right the labels of reference cells were that the classifier had not seen.

    Attributes
    ----------
    methods
        One row per method: every view alone, all views together, and the controls; columns ``weight`` (of the view,
        NaN for what is no view), ``accuracy``, ``macro_f1``, ``log_loss`` (nats), ``calibration_error``. The index is
        the method's name: ``ALL_VIEWS`` for all views together; those of the language model begin with
        one of ``LANGUAGE_MODEL``.
    types
        One row per type, the index: ``n_cells`` of the reference, ``precision``, ``recall``, ``f1`` of all views
        together.
    labels
        Out-of-fold label of each reference cell, shape (n_reference,).
    probability
        Of that label, after calibration, shape (n_reference,).
    unseen_auroc
        Type -> how well a low familiarity tells its cells from all others when it is left out of the reference,
        0.5 to 1; empty where that was not measured.
    """

    methods: pd.DataFrame
    types: pd.DataFrame
    labels: np.ndarray
    probability: np.ndarray
    unseen_auroc: Mapping[str, float]


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
        Shape (n_cells,); ``Unknown`` below ``min_probability``, below ``min_familiarity`` or without counts.
    familiarity
        How much each cell is like those of the reference, as the share of held-out reference cells that are not more
        familiar; shape (n_cells,), NaN without counts.
    min_probability, min_familiarity
        Thresholds that were used; 0 for none.
    view_labels
        View -> its own label of each cell, shape (n_cells,).
    weights
        View -> its weight; they are not negative and sum to 1.
    left_out
        View -> why it was left out, in a sentence.
    distance
        Of each cell to its nearest reference cells in the space of principal components, as the share of reference
        cells that are nearer to theirs: 0 is amidst the reference, 1 is farther than any; shape (n_cells,).
    embedding
        ``X_scDMC``, shape (n_cells, width).
    umap
        Shape (n_cells, 2); NaN for a cell without counts.
    """

    names: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray
    familiarity: np.ndarray
    min_probability: float
    min_familiarity: float
    view_labels: Mapping[str, np.ndarray]
    weights: Mapping[str, float]
    left_out: Mapping[str, str]
    distance: np.ndarray
    embedding: np.ndarray
    umap: np.ndarray


@dataclass(frozen=True)
class AnnotatedCells(LabelledCells):
    """New cells with their labels, and all that says how far to trust these.

    Attributes
    ----------
    new, reference
        The cells.
    reference_labels
        Given labels of the reference cells, shape (n_reference,).
    recommended_familiarity
        Threshold that the reference recommends.
    held_out
        Scores on reference cells.
    facts
        What the page says of how it was made: name -> value.
    """

    new: CellsAsGenes
    reference: CellsAsGenes
    reference_labels: np.ndarray
    recommended_familiarity: float
    held_out: HeldOutScores
    facts: Mapping[str, str]
