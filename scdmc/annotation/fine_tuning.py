"""Fine-tuning a cell classifier: what is trained, on which cells, and when it ends.

Source: docs/method.md, "Evaluation rules".
"""

import copy
import logging
import math
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from scdmc.annotation.options import (
    CLASS_WEIGHTS,
    CLASSIFIER_STARTS,
    EMBEDDING_OPTIMIZERS,
    EMBEDDING_RATE,
    SAMPLERS,
    START_FACTORS,
    TRAINED_PARTS,
    FineTuningSettings,
)
from scdmc.annotation.prediction import names_of_classes
from scdmc.annotation.probing import linear_probe
from scdmc.annotation.training_parts import Part, class_numbers, logits_of_states, part_scores, parts_of
from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import EOS_TOKEN_ID
from scdmc.model.devices import autocast
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.model.packing import packed_streams
from scdmc.options import DTYPE_CHOICES
from scdmc.progress import ProgressBar, progress_bar
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.batch_order import BatchOrder
from scdmc.training.masking import hashed_uniform
from scdmc.training.optimization import parameter_groups

logger = logging.getLogger(__name__)


EMBEDDING_MOMENTUM = 0.9


# The matrices of every layer; those of the classifier are trained whole.
LORA_TARGETS = r".*encoder\.layer\.\d+\.(attention\.self\.Wqkv|attention\.output\.dense|mlp\.gated_layers|mlp\.wo)"


# Adapted defaults: training cells seen in all, the fewest and the most epochs, and the learning rate times the width
# at 16 cells a batch: 1e-3 at a hidden size of 64, 1.25e-4 at the published 512.
CELLS_SEEN, FEWEST_EPOCHS, MOST_EPOCHS = 30_000, 5, 30


RATE_TIMES_WIDTH, BASE_BATCH = 0.064, 16


RATE_FACTORS = {"full": 1.0, "top_layers": 1.0, "lora": 4.0, "classifier": 10.0}


WARMUP_SHARE = 0.1


STEPS_TIMED = 3


_GENE_DROPOUT = 16  # The stream of random numbers; pre-training has others.


def adapted_settings(n_cells: int, hidden_size: int, **chosen: object) -> FineTuningSettings:
    """Settings for a number of training cells and a width of the encoder.

    Few cells are seen more often (30,000 in all, in 5 to 30 epochs); from 5,000 cells on a batch is twice as large; the
    learning rate goes with the inverse of the width and the square root of the batch, and is higher where less is
    trained. Where the classifier starts from a probe, this rate and that of the word embeddings are multiplied by 0.3.

    Parameters
    ----------
    n_cells
        Training cells.
    hidden_size
        Of the encoder.
    chosen
        Fields of :class:`FineTuningSettings`; one that is None is chosen here.

    Raises
    ------
    ScDMCError
        If there is no such field, no such value of ``train``, ``class_weights``, ``sampler``, ``embedding_optimizer``,
        ``classifier_start`` or ``dtype``, or nothing would be left to train on.
    """
    _require_known(chosen)
    given = {name: value for name, value in chosen.items() if value is not None}
    train, start_factor = given.get("train", "full"), START_FACTORS[given.get("classifier_start", "probe")]
    batch_size = given.get("batch_size", BASE_BATCH if n_cells < 5_000 else 2 * BASE_BATCH)
    epochs = given.get("epochs", int(np.clip(round(CELLS_SEEN / n_cells), FEWEST_EPOCHS, MOST_EPOCHS)))
    rate = RATE_TIMES_WIDTH / hidden_size * (batch_size / BASE_BATCH) ** 0.5 * RATE_FACTORS[train] * start_factor
    adapted = {"batch_size": batch_size, "epochs": epochs, "learning_rate": float(f"{rate:.2g}"),
               "patience": max(4, epochs // 3), "embedding_rate": EMBEDDING_RATE * start_factor}  # fmt: skip
    return FineTuningSettings(**(adapted | given))


def _require_known(chosen: Mapping[str, object]) -> None:
    unknown = sorted(set(chosen) - set(FineTuningSettings.__dataclass_fields__))
    if unknown:
        raise ScDMCError(
            f"no setting {', '.join(unknown)}; there are {', '.join(FineTuningSettings.__dataclass_fields__)}"
        )
    choices = {"train": TRAINED_PARTS, "class_weights": CLASS_WEIGHTS, "sampler": SAMPLERS}
    choices |= {"embedding_optimizer": EMBEDDING_OPTIMIZERS, "classifier_start": CLASSIFIER_STARTS}
    choices |= {"dtype": DTYPE_CHOICES}
    for name, values in choices.items():
        if chosen.get(name) is not None and chosen[name] not in values:
            raise ScDMCError(f"{name} {chosen[name]!r}: there are {', '.join(values)}")
    if chosen.get("epochs") is not None and chosen["epochs"] < 1:
        raise ScDMCError(f"epochs {chosen['epochs']}: at least 1")
    if chosen.get("gene_dropout") is not None and not 0 <= chosen["gene_dropout"] < 1:
        raise ScDMCError(f"gene_dropout {chosen['gene_dropout']}: at least 0 and below 1, or no gene is left")


def class_names(labels: np.ndarray, split: np.ndarray) -> list[str]:
    """Types that training cells have, in alphabetical order."""
    return sorted(set(labels[split == "train"]))


def fit_classifier(
    model: ScDMCForCellClassification,
    cells: TokenizedCells,
    labels: np.ndarray,
    split: np.ndarray,
    settings: FineTuningSettings,
) -> list[dict[str, float]]:
    """Train a classifier on the training cells and keep the epoch that is best on the validation cells.

    Best is the highest macro-F1, and of equals, which few validation cells often give, the lowest loss.

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
        (see :func:`scdmc.cells.splits.require_usable_split`).
    settings
        See :class:`FineTuningSettings`.

    Returns
    -------
    History: one row per epoch with ``step``, ``epoch``, ``loss``, ``eval_loss``, ``eval_macro_f1`` and
    ``eval_accuracy``; before them, where the classifier starts from a probe, the probe's as epoch 0, without ``loss``.
    ``loss`` is what was minimised, with dropout, lost genes and weights; ``eval_loss`` is without.

    Raises
    ------
    ScDMCError
        If there are fewer layers than are to be trained, peft is asked for and not installed, a probe is asked for and
        a class has no training cell, or the loss is no longer a number.
    """
    history = []
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(settings.seed)  # dropout, low-rank weights
        adapters = _choose_what_is_trained(model, settings)
        training, validation = parts_of(model, cells, labels, split, settings)
        if settings.classifier_start == "probe":
            start_from_probe(model, training, validation, settings)
            scores = part_scores(model, validation, settings.dtype)
            history.append({"step": 0, "epoch": 0, "loss": math.nan, **scores})
        to_beat = goodness(history[0]) if history else (-1.0, 0.0)
        history += _train(model, training, validation, settings, to_beat)
    if adapters is not None:
        adapters.merge_and_unload()
        model.has_adapters = False
    model.requires_grad_(True)
    return history


def seconds_per_cell(
    model: ScDMCForCellClassification,
    cells: TokenizedCells,
    labels: np.ndarray,
    split: np.ndarray,
    settings: FineTuningSettings,
) -> float:
    """How long training takes a cell here: measured by a few real steps after a first one, which would not be typical.

    Parameters
    ----------
    model, cells, labels, split, settings
        See :func:`fit_classifier`. The model moves, and is not to be used afterwards.
    """
    rows = np.random.default_rng(settings.seed).permutation(np.flatnonzero(split == "train"))
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        optimizers = make_optimizers(model, settings)
        with progress_bar(disable=True) as progress:
            for n_steps in (1, STEPS_TIMED):
                chosen = rows[: n_steps * settings.batch_size]
                part, targets = Part(cells.select(chosen), labels[chosen]), class_numbers(model, labels[chosen])
                started = time.monotonic()
                _train_epoch(model, part, targets, settings, 0, optimizers, [], progress)
    return (time.monotonic() - started) / len(chosen)


def start_from_probe(
    model: ScDMCForCellClassification, training: Part, validation: Part, settings: FineTuningSettings
) -> None:
    """Put a logistic regression on the states of the training cells in the classifier's place.

    Rare types count for more in it where the settings say so (``class_weights`` or ``sampler``).

    Parameters
    ----------
    model
        The classifier; only its last layer changes.
    training, validation
        Cells with their types.
    settings
        See :class:`FineTuningSettings`.

    Raises
    ------
    ScDMCError
        If a class has no training cell.
    """
    names, is_balanced = names_of_classes(model), "balanced" in (settings.class_weights, settings.sampler)
    absent = sorted(set(names) - set(training.labels))
    if absent:
        raise ScDMCError(f"no training cell is {', '.join(absent[:3])}: a probe cannot know such a class")
    logger.info("fit a probe to the states of %s training cells", f"{len(training):,}")
    states = [part.states_for_probe(model, settings.dtype) for part in (training, validation)]
    probe = linear_probe(states[0], training.labels, states[1], validation.labels, is_balanced)
    rows = [list(probe.names).index(name) for name in names]
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(probe.weight[rows]))
        model.classifier.bias.copy_(torch.from_numpy(probe.bias[rows]))
    logger.info("the classifier starts from a probe, C %g", probe.C)


def _train(
    model: ScDMCForCellClassification,
    training: Part,
    validation: Part,
    settings: FineTuningSettings,
    to_beat: tuple[float, float],
) -> list[dict[str, float]]:
    """The epochs; leaves the weights of the best one in the model, or those it has if none beats them."""
    targets = class_numbers(model, training.labels)
    n_steps = len(epoch_batches(training.cells.rank_lengths, targets.numpy(), settings, 0))
    total_steps = settings.epochs * n_steps
    warmup_steps = max(1, min(n_steps, round(WARMUP_SHARE * total_steps)))
    optimizers = make_optimizers(model, settings)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_peak(step, warmup_steps, total_steps))
        for optimizer in optimizers
    ]
    best, best_epoch, best_weights, history = to_beat, 0, copy.deepcopy(model.state_dict()), []
    with progress_bar(total=settings.epochs * len(training), unit=" cells", desc="fine-tune") as progress:
        for epoch in range(1, settings.epochs + 1):
            loss = _train_epoch(model, training, targets, settings, epoch - 1, optimizers, schedules, progress)
            if not math.isfinite(loss):
                raise ScDMCError(
                    f"fine-tuning diverged in epoch {epoch}: the loss is {loss}; give a lower learning_rate or "
                    "embedding_rate"
                )
            scores = part_scores(model, validation, settings.dtype)
            history.append({"step": epoch * n_steps, "epoch": epoch, "loss": loss, **scores})
            progress.set_postfix(loss=f"{loss:.3f}", validation_macro_f1=f"{scores['eval_macro_f1']:.3f}")
            if goodness(scores) > best:
                best, best_epoch, best_weights = goodness(scores), epoch, copy.deepcopy(model.state_dict())
            elif epoch - best_epoch >= settings.patience:
                break
    model.load_state_dict(best_weights)
    logger.info("best epoch %d of %d: validation macro-F1 %.3f", best_epoch, len(history), best[0])
    return history


def goodness(scores: Mapping[str, float]) -> tuple[float, float]:
    """By what epochs are compared: macro-F1 of the validation cells, then their loss, the lower the better."""
    return scores["eval_macro_f1"], -scores["eval_loss"]


def _train_epoch(
    model: ScDMCForCellClassification,
    training: Part,
    targets: torch.Tensor,
    settings: FineTuningSettings,
    epoch: int,
    optimizers: list[torch.optim.Optimizer],
    schedules: list[torch.optim.lr_scheduler.LRScheduler],
    progress: ProgressBar,
) -> float:
    """One pass over the training cells (epoch counts from 0); returns their mean loss."""
    model.train()
    weights = balanced_weights(targets) if settings.class_weights == "balanced" else None
    is_weighted = model.config.classifier_pooling == "weighted"
    total_loss = torch.zeros((), device=model.device)
    seen = without_random_genes(training.cells, settings.gene_dropout, settings.seed, epoch)
    for chosen in epoch_batches(training.cells.rank_lengths, targets.numpy(), settings, epoch):
        if training.states is None:
            streams = packed_streams(seen, chosen, model.config.classifier_stream, is_weighted)
            with autocast(model.device, settings.dtype):
                logits = model.classify(streams.to(model.device))
        else:
            logits = logits_of_states(model, training.states[chosen])
        loss = _training_step(model, logits, targets[chosen], optimizers, weights, settings)
        total_loss += loss * len(chosen)
        for schedule in schedules:
            schedule.step()
        progress.update(len(chosen))
    return float(total_loss) / len(training)


def make_optimizers(model: ScDMCForCellClassification, settings: FineTuningSettings) -> list[torch.optim.Optimizer]:
    """AdamW for what is trained, and SGD for the word embeddings where these are trained and the settings say so."""
    table, groups = model.bert.embeddings.word_embeddings.weight, parameter_groups(model, settings.weight_decay)
    if settings.embedding_optimizer == "adamw" or not table.requires_grad:
        return [torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)]
    groups = [group | {"params": [each for each in group["params"] if each is not table]} for group in groups]
    rate = settings.embedding_rate * float(table.detach().square().mean())
    return [
        torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True),
        torch.optim.SGD([table], lr=rate, momentum=EMBEDDING_MOMENTUM),
    ]


def _choose_what_is_trained(model: ScDMCForCellClassification, settings: FineTuningSettings) -> object | None:
    """Freeze the weights that ``settings.train`` leaves alone; returns peft's adapters for ``lora``."""
    if settings.train == "full":
        return None
    if settings.train == "lora":
        adapters = _add_adapters(model, settings.lora_rank)
        model.has_adapters = True
        model.classifier.requires_grad_(True)
        return adapters
    layers = model.bert.encoder.layer
    model.bert.requires_grad_(False)
    if settings.train == "top_layers":
        if settings.train_layers > len(layers):
            raise ScDMCError(f"--train_layers {settings.train_layers}: the model has {len(layers)} layers")
        layers[-settings.train_layers :].requires_grad_(True)
    return None


def _add_adapters(model: ScDMCForCellClassification, rank: int) -> object:
    """Put low-rank additions beside the matrices of all layers, in place; only these stay trainable."""
    try:
        import peft
    except ImportError as error:
        raise ScDMCError("--train lora needs the package peft; pip install peft") from error
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=LORA_TARGETS)
    return peft.LoraModel(model, config, "default")


def epoch_batches(
    lengths: np.ndarray, targets: np.ndarray, settings: FineTuningSettings, epoch: int
) -> list[np.ndarray]:
    """Training cells of every batch of an epoch.

    Parameters
    ----------
    lengths, targets
        Shape (n_cells,): tokens and class of each training cell.
    settings, epoch
        Decide the draw.
    """
    if settings.sampler == "shuffle":
        return BatchOrder(lengths, settings.batch_size, settings.seed).batches(epoch)
    cells_of_class = np.bincount(targets)
    share = 1 / (len(cells_of_class) * cells_of_class[targets])
    generator = np.random.default_rng([settings.seed, epoch])
    drawn = generator.choice(len(targets), size=len(targets), p=share / share.sum())
    order = BatchOrder(lengths[drawn], settings.batch_size, settings.seed)
    return [drawn[batch] for batch in order.batches(epoch)]


def balanced_weights(targets: torch.Tensor) -> torch.Tensor:
    """Weight of each class, n_cells / (n_classes * cells of the class); shape (n_classes,)."""
    cells_of_class = torch.bincount(targets)
    return len(targets) / (len(cells_of_class) * cells_of_class)


def without_random_genes(cells: TokenizedCells, share: float, seed: int, epoch: int) -> TokenizedCells:
    """Cells that lost a random share of their genes, the same ones in both streams.

    Parameters
    ----------
    cells
        The cells.
    share
        Probability with which each gene of each cell is lost; special tokens never are.
    seed, epoch
        Decide, with row of the cell and gene, what is lost; neither the batch nor the other cells matter.
    """
    if share == 0:
        return cells

    def kept(ids: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = np.repeat(cells.rows, np.diff(offsets))
        is_kept = (ids <= EOS_TOKEN_ID) | (hashed_uniform(seed, epoch, _GENE_DROPOUT, rows, ids) >= share)
        return is_kept, np.concatenate([[0], np.cumsum(is_kept)])[offsets]

    in_rank, rank_offsets = kept(cells.rank_ids, cells.rank_offsets)
    in_expression, expression_offsets = kept(cells.expression_ids, cells.expression_offsets)
    return TokenizedCells(
        cells.rank_ids[in_rank],
        cells.expression_ids[in_expression],
        cells.expression_values[in_expression],
        rank_offsets,
        expression_offsets,
        cells.obs_table,
        cells.settings,
        cells.rows,
    )


def share_of_peak(step: int, warmup_steps: int, total_steps: int) -> float:
    """Share of the peak learning rate at a step (from 0): a linear rise to 1, then a linear fall to 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return (total_steps - step) / max(1, total_steps - warmup_steps)


def _training_step(
    model: ScDMCForCellClassification,
    logits: torch.Tensor,
    targets: torch.Tensor,
    optimizers: list[torch.optim.Optimizer],
    weights: torch.Tensor | None,
    settings: FineTuningSettings,
) -> torch.Tensor:
    """One step of the optimizers; returns the mean loss of the batch, a scalar."""
    targets = targets.to(model.device)
    loss = nn.functional.cross_entropy(logits, targets, reduction="none")
    # Not divided by the weights of the batch: a batch of rare cells should count for more.
    loss = (loss if weights is None else loss * weights.to(model.device)[targets]).mean()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.detach()
