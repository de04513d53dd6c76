"""Stage 1 of a text model: cells are projected onto the texts of their terms, in closed form or by a contrast.

Source: docs/text.md, "Training".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.special
import torch
from sklearn.metrics import f1_score

from scdmc.progress import progress_bar
from scdmc.text.annotation import own_neighbours, smoothed
from scdmc.text.model import TextSpace, unit
from scdmc.text.objectives import contrast, ridge_projection
from scdmc.text.options import FEWEST_CELLS_TOGETHER, TextTrainingOptions

# Fewer terms cannot be told apart by more than chance of which texts they have.
FEWEST_TERMS = 4


# The scores are multiplied by this at first (CLIP).
FIRST_SCALE = 14.3


MAX_GRADIENT_NORM = 1.0


STEPS_BETWEEN_CHECKS = 100


# A temperature is found by leaving each data set out in turn, with shorter trainings.
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.3)
UNCALIBRATED, STEPS_WITHOUT_ONE, MOST_CELLS_LEFT_OUT = 0.1, 200, 5_000


# Share of cells of known types that may be called none of these.
FALSE_ALARMS = 0.05


@dataclass(frozen=True)
class LabelledSet:
    """Cells of one data set, ready to be trained on.

    Attributes
    ----------
    name
        Of the data set.
    features
        Centred and scaled by its own training cells, shape (n_cells, n_features), float32.
    terms
        Row of each cell's term among the training terms, shape (n_cells,).
    is_training
        False for validation cells, shape (n_cells,).
    expression
        ln(1 + CP10k), shape (n_cells, n_genes), by which neighbours are found.
    """

    name: str
    features: np.ndarray
    terms: np.ndarray
    is_training: np.ndarray
    expression: object

    @property
    def own_terms(self) -> np.ndarray:
        """The terms that have training cells."""
        return np.unique(self.terms[self.is_training])


@dataclass(frozen=True)
class Trained:
    """What a training found.

    Attributes
    ----------
    projection
        Shape (n_features, text_size), float32.
    history
        Rows of step, loss, validation_macro_f1.
    """

    projection: np.ndarray
    history: pd.DataFrame


def train(
    sets: Sequence[LabelledSet], space: TextSpace, options: TextTrainingOptions, steps: int | None = None
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
    """
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
    batches = _Batches(sets, space, options.batch_size, draw)
    rows, losses, best, best_score = [], [], None, -1.0
    for step in progress_bar(range(1, steps + 1), unit=" steps", desc="train", disable=not is_shown):
        features, texts, terms = batches.next()
        loss = contrast(features @ weight, texts, terms, log_scale)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([weight, log_scale], MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % STEPS_BETWEEN_CHECKS == 0 or step == steps:
            projection = weight.detach().numpy().copy()
            score = validation_score(projection, sets, space)
            rows.append((step, np.mean(losses), score))
            losses = []
            if not score < best_score:  # without validation cells the last step stays
                best, best_score = projection, score
    return Trained(best, pd.DataFrame(rows, columns=["step", "loss", "validation_macro_f1"]))


class _Batches:
    """Cells of one data set at a time, each of its terms equally often, each with one of its term's texts."""

    def __init__(self, sets: Sequence[LabelledSet], space: TextSpace, size: int, draw: np.random.Generator) -> None:
        self._features = [torch.from_numpy(each.features) for each in sets]
        self._cells = [
            {term: np.flatnonzero((each.terms == term) & each.is_training) for term in each.own_terms} for each in sets
        ]
        share = np.sqrt([len(cells) for cells in self._cells])
        self._share, self._size, self._draw = share / share.sum(), size, draw
        means = space.vectors.mean(axis=1, keepdims=True)
        texts = np.concatenate([space.vectors, unit(means)], axis=1)  # label, description, mean of both
        self._texts = torch.from_numpy(unit(texts - space.mean))  # (n_terms, 3, text_size)

    def next(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features (n, n_features), texts (n, text_size) and terms (n,) of a batch."""
        number = self._draw.choice(len(self._cells), p=self._share)
        cells = self._cells[number]
        terms = self._draw.choice(list(cells), size=self._size)
        rows = [self._draw.choice(cells[term]) for term in terms]
        kinds = self._draw.integers(self._texts.shape[1], size=self._size)
        return self._features[number][rows], self._texts[terms, kinds], torch.from_numpy(terms)


def validation_score(projection: np.ndarray, sets: Sequence[LabelledSet], space: TextSpace) -> float:
    """Mean over data sets of the macro-F1 of their validation cells among their own terms; NaN without such cells."""
    scores = []
    for each in sets:
        held_out = ~each.is_training & np.isin(each.terms, each.own_terms)
        if held_out.any():
            texts = space.centred(space.of_terms[each.own_terms])
            predicted = each.own_terms[(unit(each.features[held_out] @ projection) @ texts.T).argmax(axis=1)]
            scores.append(f1_score(each.terms[held_out], predicted, average="macro"))
    return float(np.mean(scores)) if scores else float("nan")


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
        trained = sorted({term for each in others for term in each.own_terms})
        if len(trained) >= FEWEST_TERMS:
            projection = train(others, space, options, min(STEPS_WITHOUT_ONE, options.max_steps)).projection
            scores = _scores_of_left_out(left_out, projection, space, options.seed)
            likelihoods.append(_likelihoods(left_out, *scores))
            margins += _margin(left_out, *scores, trained, related)
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
