"""The two ways to label cells: a fine-tuned classifier, and a labelled reference without any training."""

import logging
from pathlib import Path

import numpy as np

from scdmc.annotated_file import Annotator
from scdmc.annotation import annotate_cells, names_of_classes
from scdmc.calibration import read_temperature
from scdmc.embeddings import cell_embeddings, embedding_width
from scdmc.gene_coverage import genes_of_cells, read_training_genes
from scdmc.label_transfer import N_NEIGHBORS, fit_reference, transfer_labels
from scdmc.modeling import ScDMCForCellClassification, ScDMCModel
from scdmc.tokenized_data import TokenizedCells
from scdmc.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


def classifier_annotator(model: ScDMCForCellClassification, model_path: Path) -> Annotator:
    """Label by a classifier, with the calibration of its folder.

    Parameters
    ----------
    model
        The classifier, on the device where it is to run.
    model_path
        Its folder; one without a calibration gives probabilities as they are, and the log says so.
    """
    temperature = read_temperature(model_path)
    if temperature is None:
        logger.warning("warning: %s has no calibration; its probabilities are likely too high", model_path)

    def annotate(cells: TokenizedCells) -> tuple[np.ndarray, np.ndarray]:
        return annotate_cells(model, cells, show_progress=False, temperature=temperature or 1.0)

    names = names_of_classes(model)
    return Annotator(names, model.classifier.in_features, annotate, read_training_genes(model_path))


def reference_annotator(
    encoder: ScDMCModel,
    reference: TokenizedCells,
    labels: np.ndarray,
    vocabulary: Vocabulary,
    stream: str = "both",
    pooling: str = "cls",
    n_neighbors: int = N_NEIGHBORS,
) -> Annotator:
    """Label by the nearest cells of a reference in the space of an encoder (:mod:`scdmc.label_transfer`).

    Parameters
    ----------
    encoder
        On the device where it is to run.
    reference, labels
        The reference cells, and their types, shape (n_reference,).
    vocabulary
        Of the model.
    stream, pooling
        What of a cell is compared (:func:`scdmc.embeddings.cell_embeddings`).
    n_neighbors
        Reference cells that vote.
    """
    fitted = fit_reference(cell_embeddings(encoder, reference, stream, pooling), labels, n_neighbors)

    def annotate(cells: TokenizedCells) -> tuple[np.ndarray, np.ndarray]:
        embeddings = cell_embeddings(encoder, cells, stream, pooling, show_progress=False)
        return transfer_labels(fitted, embeddings), embeddings

    width = embedding_width(encoder, stream)
    return Annotator(fitted.names, width, annotate, genes_of_cells(reference, vocabulary))
