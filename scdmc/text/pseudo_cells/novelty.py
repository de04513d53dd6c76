"""How far a text is from all texts that a generator has seen: beyond that, cells are a guess.

Source: docs/pseudo_cells.md, "Novelty".
"""

from dataclasses import dataclass

import numpy as np

from scdmc.text.model import TextSpace, unit

N_NEAREST = 3


# Of the training terms: so many are as far from their nearest other term.
PERCENTILE = 5.0


# Of all-MiniLM-L6-v2: terms that have nothing to do with each other reach 0.4, close relatives are above. Where the
# training terms are strangers to each other, their own distances would let every text pass.
LEAST_SIMILARITY = 0.42


@dataclass(frozen=True)
class TextPlace:
    """Where a text lies among the training texts.

    Attributes
    ----------
    ordered
        Rows of all training terms, the nearest first.
    similarities
        Cosines to the three nearest, each the largest of the term's texts.
    threshold
        Of the cosine to the nearest: below it the text is novel.
    """

    ordered: tuple[int, ...]
    similarities: tuple[float, ...]
    threshold: float

    @property
    def nearest(self) -> tuple[int, ...]:
        """Rows of the three nearest training terms."""
        return self.ordered[:N_NEAREST]

    @property
    def similarity(self) -> float:
        """Cosine to the nearest training text."""
        return self.similarities[0]

    @property
    def is_novel(self) -> bool:
        """True for a text that is too far from all training terms (:func:`novelty_threshold`)."""
        return self.similarity < self.threshold


def place_of_text(vector: np.ndarray, space: TextSpace) -> TextPlace:
    """Find the nearest training terms of a text.

    Parameters
    ----------
    vector
        Of the text, of length 1, shape (text_size,).
    space
        The training texts.
    """
    cosines = _cosines(vector[None], space)[0]
    ordered = np.argsort(-cosines, kind="stable")
    nearest = tuple(float(cosines[row]) for row in ordered[:N_NEAREST])
    return TextPlace(tuple(int(row) for row in ordered), nearest, novelty_threshold(space))


def novelty_threshold(space: TextSpace) -> float:
    """The cosine that 5% of the training terms have at most to their nearest other term, or a fixed one if more."""
    cosines = _cosines(space.of_terms, space)
    np.fill_diagonal(cosines, -np.inf)
    return max(float(np.percentile(cosines.max(axis=1), PERCENTILE)), LEAST_SIMILARITY)


def _cosines(vectors: np.ndarray, space: TextSpace) -> np.ndarray:
    """The largest cosine of each text to the texts of each term and their mean, shape (n_texts, n_terms)."""
    of_terms = np.concatenate([space.vectors, space.of_terms[:, None]], axis=1)  # (n_terms, 3, text_size)
    known = unit(of_terms - space.mean)
    return np.einsum("id,tkd->itk", unit(vectors - space.mean), known).max(axis=2)
