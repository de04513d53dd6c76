"""Cell-type annotation: probabilities, embeddings and labels of cells from a classifier.

Source: docs/method.md, "Evaluation rules".
"""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from scdmc.annotation.options import UNKNOWN
from scdmc.model.embeddings import inference_batches, tokens_per_batch
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.model.packing import without_autocast
from scdmc.tokens.tokenized_cells import TokenizedCells

EMPTY_LENGTH = 2  # <cls> and <eos>


CLASSES_SHOWN = 3


def names_of_classes(model: ScDMCForCellClassification) -> np.ndarray:
    """Names of a classifier's classes, shape (num_labels,)."""
    return np.array([model.config.id2label[index] for index in range(model.config.num_labels)], dtype=object)


def predict_probabilities(
    model: ScDMCForCellClassification, cells: TokenizedCells, show_progress: bool = True, temperature: float = 1.0
) -> np.ndarray:
    """Probability of each class for each cell, shape (n_cells, num_labels), float32."""
    return annotate_cells(model, cells, show_progress, temperature)[0]


@torch.inference_mode()
def annotate_cells(
    model: ScDMCForCellClassification, cells: TokenizedCells, show_progress: bool = True, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and embeddings of cells, from one pass of the encoder.

    Parameters
    ----------
    model
        The classifier, on the device where the work is to be done; dropout is switched off meanwhile.
    cells
        The cells, as long as the model reads them.
    show_progress
        Whether to show a progress bar.
    temperature
        What the logits are divided by (see :func:`scdmc.annotation.calibration.calibrate`).

    Returns
    -------
    probabilities
        Of each class for each cell, shape (n_cells, num_labels), float32.
    embeddings
        What the classifier reads: states of ``<cls>`` or the mean of the genes, both streams joined if it reads both;
        shape (n_cells, hidden_size) or (n_cells, 2 hidden_size), float32.
    """
    stream = model.config.classifier_stream
    n_streams = 2 if stream == "both" else 1
    probabilities = np.empty((len(cells), model.config.num_labels), dtype=np.float32)
    embeddings = np.empty((len(cells), n_streams * model.config.hidden_size), dtype=np.float32)
    was_training = model.training
    model.eval()
    pooling, what = model.config.classifier_pooling, "annotate" if show_progress else None
    n_tokens = tokens_per_batch(model.device)
    for chosen, streams in inference_batches(cells, stream, pooling, what, n_tokens):
        states = model.represent(streams.to(model.device))  # (n_chosen, n_streams * hidden_size)
        head = model.classifier
        with without_autocast(states):  # classify says why
            logits = F.linear(states.float(), head.weight.float(), head.bias.float()) / temperature
        probabilities[chosen] = logits.softmax(dim=-1).cpu().numpy()
        embeddings[chosen] = states.float().cpu().numpy()
    model.train(was_training)
    return probabilities, embeddings


def annotation_columns(
    names: np.ndarray, probabilities: np.ndarray, is_empty: np.ndarray, min_probability: float = 0.0
) -> dict[str, np.ndarray]:
    """Columns of obs with the label of each cell; a cell that is not certain enough, or empty, is :data:`UNKNOWN`.

    Parameters
    ----------
    names
        Shape (n_classes,).
    probabilities
        Shape (n_cells, n_classes).
    is_empty
        Shape (n_cells,): True for a cell without any gene; it has no probability either (NaN).
    min_probability
        Least probability of the likeliest class.

    Returns
    -------
    dict
        ``scDMC_cell_type``, ``scDMC_probability`` and ``scDMC_margin`` (above the second class), each (n_cells,).
    """
    likeliest, probability, margin = likeliest_class(probabilities)
    is_known = (probability >= min_probability) & ~is_empty
    return {
        "scDMC_cell_type": np.where(is_known, names[likeliest], UNKNOWN).astype(object),
        "scDMC_probability": np.where(is_empty, np.nan, probability),
        "scDMC_margin": np.where(is_empty, np.nan, margin),
    }


def predictions_table(
    obs: pd.DataFrame, labels: np.ndarray, split: np.ndarray, names: np.ndarray, probabilities: np.ndarray
) -> pd.DataFrame:
    """One row per cell: who it is, its label, the three likeliest classes with their probabilities, part of the split.

    Parameters
    ----------
    obs
        With the columns ``source_file`` and ``cell_id``.
    labels, split
        Shape (n_cells,).
    names
        Shape (n_classes,).
    probabilities
        Shape (n_cells, n_classes), calibrated.

    Returns
    -------
    Columns source_file, cell_id, label, predicted, probability, margin, split, second, second_probability and, with
    three classes or more, third, third_probability.
    """
    likeliest, probability, margin = likeliest_class(probabilities)
    table = pd.DataFrame(
        {
            "source_file": obs["source_file"].to_numpy(),
            "cell_id": obs["cell_id"].to_numpy(),
            "label": labels,
            "predicted": names[likeliest],
            "probability": probability,
            "margin": margin,
            "split": split,
        }
    )
    order = np.argsort(probabilities, axis=1)[:, ::-1]
    for rank, word in list(enumerate(("first", "second", "third")))[1 : min(CLASSES_SHOWN, len(names))]:
        table[word] = names[order[:, rank]]
        table[f"{word}_probability"] = np.take_along_axis(probabilities, order[:, [rank]], axis=1)[:, 0]
    return table


def likeliest_class(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Likeliest class of each cell (index), its probability, and how far that is above the second; each (n_cells,)."""
    order = np.argsort(probabilities, axis=1)
    cells = np.arange(len(probabilities))
    first, second = probabilities[cells, order[:, -1]], probabilities[cells, order[:, -2]]
    return order[:, -1], first, first - second
