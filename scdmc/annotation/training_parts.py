"""Cells of one part of the split, and what the classifier reads of them while the encoder stands still."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scdmc.annotation.options import FineTuningSettings
from scdmc.annotation.prediction import annotate_cells, names_of_classes, predict_probabilities
from scdmc.annotation.probing import mean_loss
from scdmc.cells.scores import classification_scores
from scdmc.model.devices import autocast
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.model.packing import without_autocast
from scdmc.tokens.tokenized_cells import TokenizedCells


@dataclass(frozen=True)
class Part:
    """Training cells, or validation cells.

    Attributes
    ----------
    cells, labels
        The cells, and their types, shape (n_cells,).
    states
        What the classifier reads of them, on the model's device, shape (n_cells, width); None where the encoder is
        trained, or sees other genes of a cell in each epoch.
    """

    cells: TokenizedCells
    labels: np.ndarray
    states: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.cells)

    def states_for_probe(self, model: ScDMCForCellClassification, dtype: str) -> np.ndarray:
        """What the classifier reads of the cells now, shape (n_cells, width), float32."""
        return encoded(model, self.cells, dtype) if self.states is None else self.states.cpu().numpy()


def encoded(model: ScDMCForCellClassification, cells: TokenizedCells, dtype: str) -> np.ndarray:
    """What a classifier reads of cells, computed in ``dtype``, without dropout; shape (n_cells, width), float32."""
    with autocast(model.device, dtype):
        return annotate_cells(model, cells, show_progress=False)[1]


def parts_of(
    model: ScDMCForCellClassification,
    cells: TokenizedCells,
    labels: np.ndarray,
    split: np.ndarray,
    settings: FineTuningSettings,
) -> tuple[Part, Part]:
    """Training and validation cells; an encoder that stands still reads them once, here, instead of in every epoch.

    With ``gene_dropout`` training cells differ from epoch to epoch, and are read in each.

    Parameters
    ----------
    model
        The classifier, on its device.
    cells, labels, split
        All cells, their types and their parts, shape (n_cells,).
    settings
        How it is trained.
    """
    parts = []
    for name, gene_dropout in (("train", settings.gene_dropout), ("validation", 0.0)):
        of_part, states = cells.select(split == name), None
        if settings.train == "classifier" and gene_dropout == 0:
            states = torch.from_numpy(encoded(model, of_part, settings.dtype)).to(model.device)
        parts.append(Part(of_part, labels[split == name], states))
    return parts[0], parts[1]


def class_numbers(model: ScDMCForCellClassification, labels: Sequence[str]) -> torch.Tensor:
    """Number of the class of each label, shape (n_labels,)."""
    class_of = {name: index for index, name in model.config.id2label.items()}
    return torch.tensor([class_of[label] for label in labels])


def logits_of_states(model: ScDMCForCellClassification, states: torch.Tensor) -> torch.Tensor:
    """What :meth:`ScDMCForCellClassification.classify` makes of the states that it reads, (n_cells, num_labels)."""
    with without_autocast(states):
        return model.classifier(model.dropout(states).to(model.classifier.weight.dtype))


@torch.inference_mode()
def part_scores(model: ScDMCForCellClassification, part: Part, dtype: str) -> dict[str, float]:
    """Macro-F1 and accuracy of all cells, and the mean loss of those whose type is a class (NaN if there are none)."""
    if part.states is None:
        with autocast(model.device, dtype):
            probabilities = predict_probabilities(model, part.cells, show_progress=False)
    else:
        was_training = model.training
        model.eval()
        probabilities = logits_of_states(model, part.states).softmax(dim=-1).cpu().numpy()
        model.train(was_training)
    names = names_of_classes(model)
    scores = classification_scores(part.labels, names[probabilities.argmax(axis=1)])
    loss = mean_loss(probabilities, names, part.labels)
    return {"eval_loss": loss, "eval_macro_f1": scores["macro_f1"], "eval_accuracy": scores["accuracy"]}
