"""Labelled cells of data sets, the batches that are drawn of them, and how well validation cells find their terms.

Source: docs/text.md, "Training".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import f1_score

from scdmc.text.model import TextSpace, unit
from scdmc.text.projectors.states import GeneStates

MAX_GRADIENT_NORM = 1.0


STEPS_BETWEEN_CHECKS = 100


@dataclass(frozen=True)
class LabelledSet:
    """Cells of one data set, ready to be trained on.

    Attributes
    ----------
    name
        Of the data set.
    features
        Centred and scaled by its own training cells, each term of which counts the same, shape (n_cells, n_features),
        float32.
    terms
        Row of each cell's term among the training terms, shape (n_cells,).
    is_training
        False for validation cells, shape (n_cells,).
    expression
        ln(1 + CP10k), shape (n_cells, n_genes), by which neighbours are found.
    states
        Of the cells' genes, for a Q-Former, whose features are none until it is trained; None without one.
    """

    name: str
    features: np.ndarray
    terms: np.ndarray
    is_training: np.ndarray
    expression: object
    states: GeneStates | None = None

    @property
    def own_terms(self) -> np.ndarray:
        """The terms that have training cells."""
        return np.unique(self.terms[self.is_training])

    @property
    def weights(self) -> np.ndarray:
        """How much each training cell counts, where each term counts the same; shape (n_training,).

        Otherwise the commonest type lies where the centre is, and has no direction of its own.
        """
        _, place, counts = np.unique(self.terms[self.is_training], return_inverse=True, return_counts=True)
        return 1 / counts[place]


class Batches:
    """Cells of one data set at a time, each of its terms equally often, each with one of its term's texts."""

    def __init__(self, sets: Sequence[LabelledSet], space: TextSpace, size: int, draw: np.random.Generator) -> None:
        self._cells = [
            {term: np.flatnonzero((each.terms == term) & each.is_training) for term in each.own_terms} for each in sets
        ]
        share = np.sqrt([len(cells) for cells in self._cells])
        self._share, self._size, self._draw = share / share.sum(), size, draw
        means = space.vectors.mean(axis=1, keepdims=True)
        texts = np.concatenate([space.vectors, unit(means)], axis=1)  # label, description, mean of both
        self._texts = torch.from_numpy(unit(texts - space.mean))  # (n_terms, 3, text_size)

    def next(self) -> tuple[int, np.ndarray, torch.Tensor, torch.Tensor]:
        """Number of the data set, rows of its cells (n,), texts (n, text_size) and terms (n,) of a batch."""
        number = self._draw.choice(len(self._cells), p=self._share)
        cells = self._cells[number]
        terms = self._draw.choice(list(cells), size=self._size)
        rows = np.array([self._draw.choice(cells[term]) for term in terms])
        kinds = self._draw.integers(self._texts.shape[1], size=self._size)
        return int(number), rows, self._texts[terms, kinds], torch.from_numpy(terms)


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
