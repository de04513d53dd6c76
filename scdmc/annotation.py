"""Cell-type annotation: fine-tuning a classifier and labelling cells (design.md, section 8)."""

import copy
import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from scdmc.batches import BatchOrder, packed_streams
from scdmc.embeddings import inference_batches
from scdmc.modeling import PackedCells, ScDMCForCellClassification
from scdmc.optimization import parameter_groups
from scdmc.scores import classification_scores
from scdmc.tokenized_data import TokenizedCells

logger = logging.getLogger(__name__)

UNKNOWN = "Unknown"
EMPTY_LENGTH = 2  # <cls> and <eos>


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
        AdamW; ``learning_rate`` is the peak: the rate rises to it linearly over the first epoch and then falls
        linearly to 0 at the end of the last one (see :func:`share_of_peak`).
    max_gradient_norm
        Gradients are scaled down to this norm.
    seed
        Of the order of the cells and dropout.
    """

    epochs: int = 12
    patience: int = 4
    batch_size: int = 16
    learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    max_gradient_norm: float = 1.0
    seed: int = 42


def class_names(labels: np.ndarray, split: np.ndarray) -> list[str]:
    """Types that training cells have, in alphabetical order."""
    return sorted(set(labels[split == "train"]))


def fine_tune(
    model: ScDMCForCellClassification,
    cells: TokenizedCells,
    labels: np.ndarray,
    split: np.ndarray,
    settings: FineTuningSettings,
) -> list[dict[str, float]]:
    """Train a classifier on the training cells and keep the epoch that is best on the validation cells.

    Test cells are never looked at. The random state of the caller stays as it was.

    Parameters
    ----------
    model
        The classifier, whose ``config.id2label`` names the classes; trained in place, on its device.
    cells
        All cells.
    labels
        Shape (n_cells,), text.
    split
        Shape (n_cells,): ``train``, ``validation``, ``test`` or ``left_out``
        (see :func:`scdmc.splits.require_usable_split`).
    settings
        See :class:`FineTuningSettings`.

    Returns
    -------
    History: one row per epoch with ``step``, ``epoch``, ``loss``, ``eval_macro_f1`` and ``eval_accuracy``.
    """
    training, validation = np.flatnonzero(split == "train"), np.flatnonzero(split == "validation")
    class_of = {name: index for index, name in model.config.id2label.items()}
    targets = torch.tensor([class_of[labels[cell]] for cell in training])
    order = BatchOrder(cells.rank_lengths[training], settings.batch_size, settings.seed)
    optimizer = torch.optim.AdamW(parameter_groups(model, settings.weight_decay), lr=settings.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: share_of_peak(step, len(order), settings.epochs * len(order))
    )
    history, best, best_epoch, best_weights = [], -1.0, 0, None
    with (
        torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []),
        tqdm(total=settings.epochs * len(training), unit=" cells", desc="fine-tune") as progress,
    ):
        torch.manual_seed(settings.seed)  # dropout
        for epoch in range(settings.epochs):
            model.train()
            total_loss = torch.zeros((), device=model.device)
            for chosen in order.batches(epoch):
                streams = packed_streams(cells, training[chosen], model.config.classifier_stream)
                total_loss += _training_step(model, streams, targets[chosen], optimizer, settings) * len(chosen)
                schedule.step()
                progress.update(len(chosen))
            loss = float(total_loss) / len(training)
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


def share_of_peak(step: int, warmup_steps: int, total_steps: int) -> float:
    """Share of the peak learning rate at a step (from 0): a linear rise to 1, then a linear fall to 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return (total_steps - step) / max(1, total_steps - warmup_steps)


def _training_step(
    model: ScDMCForCellClassification,
    streams: PackedCells,
    targets: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    settings: FineTuningSettings,
) -> torch.Tensor:
    """One step of the optimizer; returns the mean loss of the batch, a scalar."""
    loss = nn.functional.cross_entropy(model.classify(streams.to(model.device)), targets.to(model.device))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _validation_scores(
    model: ScDMCForCellClassification, cells: TokenizedCells, labels: np.ndarray
) -> dict[str, float]:
    predicted = names_of_classes(model)[predict_probabilities(model, cells, show_progress=False).argmax(axis=1)]
    scores = classification_scores(labels, predicted)
    return {"eval_macro_f1": scores["macro_f1"], "eval_accuracy": scores["accuracy"]}


def names_of_classes(model: ScDMCForCellClassification) -> np.ndarray:
    """Names of a classifier's classes, shape (num_labels,)."""
    return np.array([model.config.id2label[index] for index in range(model.config.num_labels)], dtype=object)


def predict_probabilities(
    model: ScDMCForCellClassification, cells: TokenizedCells, show_progress: bool = True
) -> np.ndarray:
    """Probability of each class for each cell, shape (n_cells, num_labels), float32."""
    return annotate_cells(model, cells, show_progress)[0]


@torch.inference_mode()
def annotate_cells(
    model: ScDMCForCellClassification, cells: TokenizedCells, show_progress: bool = True
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

    Returns
    -------
    probabilities
        Of each class for each cell, shape (n_cells, num_labels), float32.
    embeddings
        What the classifier reads: states of ``<cls>``, both streams joined if it reads both; shape
        (n_cells, hidden_size) or (n_cells, 2 hidden_size), float32.
    """
    stream = model.config.classifier_stream
    n_streams = 2 if stream == "both" else 1
    probabilities = np.empty((len(cells), model.config.num_labels), dtype=np.float32)
    embeddings = np.empty((len(cells), n_streams * model.config.hidden_size), dtype=np.float32)
    was_training = model.training
    model.eval()
    for chosen, streams in inference_batches(cells, stream, "annotate" if show_progress else None):
        streams = streams.to(model.device)
        states = model.bert.encode(streams)[streams.cls_positions]  # (n_streams * n_chosen, hidden_size)
        joined = torch.cat(states.chunk(n_streams), dim=-1)  # (n_chosen, n_streams * hidden_size)
        probabilities[chosen] = model.classifier(joined).float().softmax(dim=-1).cpu().numpy()
        embeddings[chosen] = joined.float().cpu().numpy()
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
