"""Stage 1 of a text model: cells are projected onto texts of their terms, in closed form, by a contrast, or a Q-Former.

Source: docs/text.md, "Training".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.special
import torch

from scdmc.progress import progress_bar
from scdmc.text.annotation import own_neighbours, smoothed
from scdmc.text.features import Centre
from scdmc.text.model import TextSpace, unit
from scdmc.text.objectives import FIRST_SCALE, contrast, ridge_projection
from scdmc.text.options import FEWEST_CELLS_TOGETHER, TextTrainingOptions
from scdmc.text.projectors.batches import (
    MAX_GRADIENT_NORM,
    STEPS_BETWEEN_CHECKS,
    Batches,
    LabelledSet,
    validation_score,
)
from scdmc.text.projectors.qformer import QFormer
from scdmc.text.projectors.qformer_training import Checkpointing, train_qformer

# Fewer terms cannot be told apart by more than chance of which texts they have.
FEWEST_TERMS = 4


# A temperature is found by leaving each data set out in turn, with shorter trainings.
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.3)
UNCALIBRATED, STEPS_WITHOUT_ONE, MOST_CELLS_LEFT_OUT = 0.1, 200, 5_000


# Share of cells of known types that may be called none of these.
FALSE_ALARMS = 0.05


@dataclass(frozen=True)
class Trained:
    """What a training found.

    Attributes
    ----------
    projection
        Shape (n_features, text_size), float32.
    history
        Rows of step, loss, validation_macro_f1, and of a Q-Former cells_per_second.
    reader
        The Q-Former whose features are projected; None where there is none.
    """

    projection: np.ndarray
    history: pd.DataFrame
    reader: QFormer | None = None

    def read(self, cells: LabelledSet) -> tuple[LabelledSet, Centre | None]:
        """A data set with the centred features of the Q-Former, and its centre; as it is without one.

        In the centre each term of the training cells counts the same.
        """
        if self.reader is None:
            return cells, None
        features = self.reader.features(cells.states)
        centre = Centre.of(features[cells.is_training], is_scaled=False, weights=cells.weights)
        return replace(cells, features=centre.applied(features)), centre


def train(
    sets: Sequence[LabelledSet],
    space: TextSpace,
    options: TextTrainingOptions,
    steps: int | None = None,
    checkpointing: Checkpointing | None = None,
) -> Trained:
    """Find the projection.

    Parameters
    ----------
    sets
        Data sets of at least two terms each.
    space
        The training texts.
    options
        What is trained, and how.
    steps
        In place of those of the options, for trainings that leave a data set out.
    checkpointing
        Of a Q-Former: where its checkpoints lie, and whether it goes on from one; None for none.
    """
    if options.projector == "qformer":
        reader, history = train_qformer(sets, space, options, steps, checkpointing)
        return Trained(reader.matrix, history, reader)
    if options.projector == "linear":
        return _train_linear(sets, space, options, steps or options.max_steps, is_shown=steps is None)
    features = np.concatenate([each.features[each.is_training] for each in sets])
    terms = np.concatenate([each.terms[each.is_training] for each in sets])
    projection = ridge_projection(features, (space.of_terms - space.mean)[terms], terms, options.ridge_penalty)
    if options.projector == "ridge":
        score = validation_score(projection, sets, space)
        return Trained(projection, pd.DataFrame({"step": [1], "loss": [np.nan], "validation_macro_f1": [score]}))
    linear = _train_linear(sets, space, options, steps or options.max_steps, is_shown=steps is None)
    return Trained(_of_length_one(projection) + _of_length_one(linear.projection), linear.history)


def _of_length_one(projection: np.ndarray) -> np.ndarray:
    return projection / np.linalg.norm(projection)


def _train_linear(
    sets: Sequence[LabelledSet], space: TextSpace, options: TextTrainingOptions, steps: int, is_shown: bool
) -> Trained:
    """A contrast within data sets, AdamW with one cycle of the rate; the best of the checked steps is kept."""
    draw = np.random.default_rng(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    n_features, text_size = sets[0].features.shape[1], space.vectors.shape[-1]
    bound = n_features**-0.5
    weight = torch.empty(n_features, text_size).uniform_(-bound, bound, generator=generator).requires_grad_()
    log_scale = torch.tensor(float(np.log(FIRST_SCALE)), requires_grad=True)
    optimizer = torch.optim.AdamW([weight, log_scale], lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=steps)
    batches = Batches(sets, space, options.batch_size, draw)
    of_sets = [torch.from_numpy(each.features) for each in sets]
    history, losses, best, best_score = [], [], None, -1.0
    for step in progress_bar(range(1, steps + 1), unit=" steps", desc="train", disable=not is_shown):
        number, rows, texts, terms = batches.next()
        loss = contrast(of_sets[number][rows] @ weight, texts, terms, log_scale)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([weight, log_scale], MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % STEPS_BETWEEN_CHECKS == 0 or step == steps:
            projection = weight.detach().numpy().copy()
            score = validation_score(projection, sets, space)
            history.append((step, np.mean(losses), score))
            losses = []
            if not score < best_score:  # without validation cells the last step stays
                best, best_score = projection, score
    return Trained(best, pd.DataFrame(history, columns=["step", "loss", "validation_macro_f1"]))


def calibrated(
    sets: Sequence[LabelledSet], space: TextSpace, options: TextTrainingOptions, related: np.ndarray
) -> dict[str, object]:
    """How scores become probabilities, found on data sets that a training did not see.

    Parameters
    ----------
    sets, space, options
        See :func:`train`. Each data set is left out in turn.
    related
        Whether two training terms are relatives, shape (n_terms, n_terms).

    Returns
    -------
    The content of ``calibration.json``: ``temperature``, the likeliest, with the mean log-likelihood of each;
    ``none_margin``, by which a text must be nearer than all candidates so that a cell is none of these: 5% of the
    left-out cells are then called so, of those whose types were candidates and have relatives among the training
    terms; and ``is_calibrated``.
    """
    likelihoods, margins = [], []
    for number, left_out in enumerate(sets):
        others = [each for place, each in enumerate(sets) if place != number]
        known = sorted({term for each in others for term in each.own_terms})
        if len(known) >= FEWEST_TERMS:
            trained = train(others, space, options, min(STEPS_WITHOUT_ONE, options.max_steps))
            cells = _as_new(trained.read(left_out)[0], is_scaled=trained.reader is None)
            scores = _scores_of_left_out(cells, trained.projection, space, options.seed)
            likelihoods.append(_likelihoods(left_out, *scores))
            margins += _margin(left_out, *scores, known, related)
    margin = float(np.mean(margins)) if margins else 0.0
    if not likelihoods:
        why = "not calibrated: one data set"
        if len(sets) > 1:
            why = f"not calibrated: without one of the data sets the others have fewer than {FEWEST_TERMS} terms"
        return {"temperature": UNCALIBRATED, "none_margin": margin, "is_calibrated": False, "why": why}
    mean = np.mean(likelihoods, axis=0)
    table = {str(temperature): float(value) for temperature, value in zip(TEMPERATURES, mean, strict=True)}
    best = TEMPERATURES[int(mean.argmax())]
    return {"temperature": best, "none_margin": margin, "is_calibrated": True, "log_likelihoods": table}


def _as_new(cells: LabelledSet, is_scaled: bool) -> LabelledSet:
    """A data set as annotation would read its file: the centre is that of all cells, whose terms nobody knows."""
    return replace(cells, features=Centre.of(cells.features, is_scaled).applied(cells.features))


def _scores_of_left_out(
    cells: LabelledSet, projection: np.ndarray, space: TextSpace, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of at most 5,000 cells, and their scores of all terms, smoothed as annotation does."""
    chosen = np.arange(len(cells.terms))
    if len(chosen) > MOST_CELLS_LEFT_OUT:
        chosen = np.sort(np.random.default_rng(seed).choice(len(chosen), MOST_CELLS_LEFT_OUT, replace=False))
    scores = unit(cells.features[chosen] @ projection) @ space.centred(space.of_terms).T
    return chosen, smoothed(scores.astype(np.float64), own_neighbours(cells.expression[chosen], seed))


def _margin(
    cells: LabelledSet, chosen: np.ndarray, of_all: np.ndarray, trained: Sequence[int], related: np.ndarray
) -> list[float]:
    """How much nearer a term of other types is to the cells that a training could know; nothing where they are few."""
    away = [term for term in trained if not related[term, cells.own_terms].any()]
    is_known = related[:, trained].any(axis=1)[cells.terms[chosen]]
    if not away or is_known.sum() < FEWEST_CELLS_TOGETHER:
        return []
    behind = of_all[:, away].max(axis=1) - of_all[:, cells.own_terms].max(axis=1)
    return [float(np.quantile(behind[is_known], 1 - FALSE_ALARMS))]


def _likelihoods(cells: LabelledSet, chosen: np.ndarray, of_all: np.ndarray) -> list[float]:
    """Mean log-likelihood of the cells' terms among those of their data set, at each temperature."""
    scores = of_all[:, cells.own_terms]
    place = np.searchsorted(cells.own_terms, cells.terms[chosen])
    rows = np.flatnonzero(np.isin(cells.terms[chosen], cells.own_terms))
    return [
        float(scipy.special.log_softmax(scores / temperature, axis=1)[rows, place[rows]].mean())
        for temperature in TEMPERATURES
    ]
