"""The two ways to label cells: a fine-tuned classifier, and a labelled reference without any training."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scdmc.annotation.calibration import read_temperature
from scdmc.annotation.label_transfer import fit_reference, transfer_labels
from scdmc.annotation.options import N_NEIGHBORS
from scdmc.annotation.prediction import annotate_cells, names_of_classes
from scdmc.cells.gene_coverage import genes_of_cells, read_training_genes
from scdmc.genes.vocabulary import Vocabulary
from scdmc.model.embeddings import cell_embeddings, embedding_width
from scdmc.model.encoder import ScDMCModel
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.tokens.tokenized_cells import TokenizedCells


@dataclass(frozen=True)
class Annotator:
    """Labels blocks of cells.

    Attributes
    ----------
    names
        Types, shape (n_types,).
    width
        Of the embeddings.
    annotate
        Cells -> probabilities (n_cells, n_types) and embeddings (n_cells, width).
    training_genes
        Gene -> labelled cells that had it (:mod:`scdmc.cells.gene_coverage`); None where that is not known.
    """

    names: np.ndarray
    width: int
    annotate: Callable[[TokenizedCells], tuple[np.ndarray, np.ndarray]]
    training_genes: Mapping[str, int] | None = None


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
    stream: str | None = None,
    pooling: str | None = None,
    n_neighbors: int = N_NEIGHBORS,
    layer: int | None = None,
) -> Annotator:
    """Label by the nearest cells of a reference in the space of an encoder (:mod:`scdmc.annotation.label_transfer`).

    Parameters
    ----------
    encoder
        On the device where it is to run.
    reference, labels
        The reference cells, and their types, shape (n_reference,).
    vocabulary
        Of the model.
    stream, pooling, layer
        What of a cell is compared (:func:`scdmc.model.embeddings.cell_embeddings`).
    n_neighbors
        Reference cells that vote.
    """
    fitted = fit_reference(cell_embeddings(encoder, reference, stream, pooling, layer=layer), labels, n_neighbors)

    def annotate(cells: TokenizedCells) -> tuple[np.ndarray, np.ndarray]:
        embeddings = cell_embeddings(encoder, cells, stream, pooling, False, layer)
        return transfer_labels(fitted, embeddings), embeddings

    width = embedding_width(encoder, stream)
    return Annotator(fitted.names, width, annotate, genes_of_cells(reference, vocabulary))
