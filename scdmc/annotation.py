"""Cell-type annotation: fine-tuning a classifier and labelling cells (design.md, section 8)."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from scdmc.batches import BatchOrder, packed_streams
from scdmc.embeddings import inference_batches
from scdmc.errors import ScDMCError
from scdmc.modeling import ScDMCForCellClassification
from scdmc.pretraining import parameter_groups
from scdmc.scores import classification_scores
from scdmc.tokenized_data import TokenizedCells

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FineTuningSettings:
    """Settings of fine-tuning.

    Attributes
    ----------
    epochs
        Passes over the training cells, at most.
    patience
        Stop after this many epochs without a better validation macro-F1.
    batch_size, learning_rate, weight_decay
        AdamW; the rate rises linearly over the first epoch and then falls linearly to 0.
    max_gradient_norm
        Gradients are scaled down to this norm.
    seed
        Of the head's weights, the order of the cells and dropout.
    """

    epochs: int = 12
    patience: int = 4
    batch_size: int = 16
    learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    max_gradient_norm: float = 1.0
    seed: int = 42


def class_names(labels: np.ndarray, split: np.ndarray) -> list[str]:
    """Types that training cells have, in alphabetical order.

    Raises
    ------
    ScDMCError
        If there are fewer than two.
    """
    names = sorted(set(labels[split == "train"]))
    if len(names) < 2:
        raise ScDMCError(f"the training cells have one class only, {names}; a classifier needs two")
    return names


def fine_tune(
    model: ScDMCForCellClassification,
    cells: TokenizedCells,
    labels: np.ndarray,
    split: np.ndarray,
    settings: FineTuningSettings,
) -> list[dict[str, float]]:
    """Train a classifier on the training cells and keep the epoch that is best on the validation cells.

    Test cells are never looked at.

    Parameters
    ----------
    model
        The classifier, whose ``config.id2label`` names the classes; trained in place, on its device.
    cells
        All cells.
    labels
        Shape (n_cells,), text.
    split
        Shape (n_cells,): ``train``, ``validation``, ``test`` or ``left_out``.
    settings
        See :class:`FineTuningSettings`.

    Returns
    -------
    History: one row per epoch with ``step``, ``epoch``, ``loss``, ``eval_macro_f1`` and ``eval_accuracy``.
    """
    training, validation = np.flatnonzero(split == "train"), np.flatnonzero(split == "validation")
    class_of = {name: index for index, name in model.config.id2label.items()}
    targets = torch.tensor([class_of.get(labels[cell], -1) for cell in training])
    order = BatchOrder(cells.rank_lengths[training], settings.batch_size, settings.seed)
    optimizer = torch.optim.AdamW(parameter_groups(model, settings.weight_decay), lr=settings.learning_rate, fused=True)
    total_steps = settings.epochs * len(order)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / len(order), (total_steps - step) / total_steps)
    )
    torch.manual_seed(settings.seed)
    history, best, best_weights = [], -1.0, None
    with tqdm(total=settings.epochs * len(training), unit=" cells", desc="fine-tune") as progress:
        for epoch in range(settings.epochs):
            loss = _train_epoch(
                model, cells, training, targets, order.batches(epoch), optimizer, schedule, progress, settings
            )
            scores = _validation_scores(model, cells.select(validation), labels[validation])
            history.append({"step": (epoch + 1) * len(order), "epoch": epoch + 1, "loss": loss, **scores})
            progress.set_postfix(loss=f"{loss:.3f}", validation_macro_f1=f"{scores['eval_macro_f1']:.3f}")
            if scores["eval_macro_f1"] > best:
                best, best_epoch, best_weights = scores["eval_macro_f1"], epoch, copy.deepcopy(model.state_dict())
            elif epoch - best_epoch >= settings.patience:
                break
    model.load_state_dict(best_weights)
    logger.info("best epoch %d of %d: validation macro-F1 %.3f", best_epoch + 1, len(history), best)
    return history


def _train_epoch(
    model: ScDMCForCellClassification,
    cells: TokenizedCells,
    training: np.ndarray,
    targets: torch.Tensor,
    batches: Sequence[np.ndarray],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    progress: tqdm,
    settings: FineTuningSettings,
) -> float:
    """One pass over the training cells; returns the mean loss of a cell."""
    model.train()
    total = torch.zeros((), device=model.device)
    for chosen in batches:
        streams = packed_streams(cells, training[chosen], model.config.classifier_stream).to(model.device)
        loss = nn.functional.cross_entropy(model.classify(streams), targets[chosen].to(model.device))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.detach() * len(chosen)
        progress.update(len(chosen))
    return float(total) / len(training)


def _validation_scores(
    model: ScDMCForCellClassification, cells: TokenizedCells, labels: np.ndarray
) -> dict[str, float]:
    names = np.array([model.config.id2label[index] for index in range(model.config.num_labels)], dtype=object)
    predicted = names[predict_probabilities(model, cells, show_progress=False).argmax(axis=1)]
    scores = classification_scores(labels, predicted)
    return {"eval_macro_f1": scores["macro_f1"], "eval_accuracy": scores["accuracy"]}


@torch.inference_mode()
def predict_probabilities(
    model: ScDMCForCellClassification, cells: TokenizedCells, show_progress: bool = True
) -> np.ndarray:
    """Probability of each class for each cell, shape (n_cells, num_labels), float32."""
    probabilities = np.empty((len(cells), model.config.num_labels), dtype=np.float32)
    was_training = model.training
    model.eval()
    for chosen, streams in inference_batches(
        cells, model.config.classifier_stream, "annotate" if show_progress else None
    ):
        logits = model.classify(streams.to(model.device))
        probabilities[chosen] = logits.float().softmax(dim=-1).cpu().numpy()
    model.train(was_training)
    return probabilities


def predictions_table(
    obs: pd.DataFrame, labels: np.ndarray, split: np.ndarray, names: np.ndarray, probabilities: np.ndarray
) -> pd.DataFrame:
    """One row per cell: who it is, its label, the likeliest class with its probability, and its part of the split.

    Parameters
    ----------
    obs
        With the columns ``source_file`` and ``cell_id``.
    labels, split
        Shape (n_cells,).
    names
        Shape (n_classes,).
    probabilities
        Shape (n_cells, n_classes).
    """
    likeliest, probability, margin = likeliest_class(probabilities)
    return pd.DataFrame(
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


def likeliest_class(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Likeliest class of each cell (index), its probability, and how far that is above the second; each (n_cells,)."""
    order = np.argsort(probabilities, axis=1)
    cells = np.arange(len(probabilities))
    first, second = probabilities[cells, order[:, -1]], probabilities[cells, order[:, -2]]
    return order[:, -1], first, first - second
