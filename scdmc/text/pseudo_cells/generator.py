"""The generator of cells: from the vector of a text, a number and a seed to counts.

It holds no encoder of cells: no cell can be given to it. Source: docs/pseudo_cells.md, "The generator".
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch

from scdmc.model.devices import threads_of_torch
from scdmc.text.model import TEXTS_OF_TERM, TextSpace
from scdmc.text.pseudo_cells.library import LibraryModel
from scdmc.text.pseudo_cells.network import CellDecoder, Flow, flowed
from scdmc.text.pseudo_cells.novelty import TextPlace, place_of_text

# Cells that are made at a time.
CELLS_AT_A_TIME = 1_024


# Of a count, so that it fits 32 bits.
LARGEST_MEAN = 2e9


# A text is what it has beyond all texts, so many times: then it is about as large as a state.
TEXT_SCALE = 3.0


@dataclass(frozen=True)
class CellText:
    """A text that cells are made of.

    Attributes
    ----------
    words
        What it says, in one text or several. They decide what is drawn, and not the last digits of their vector, which
        another machine computes otherwise.
    vector
        Of the text, of length 1, shape (text_size,).
    """

    words: tuple[str, ...]
    vector: np.ndarray


def text_of_term(space: TextSpace, row: int) -> CellText:
    """The text of a training term, by its row in ``space.terms``: its label and its description."""
    return CellText(tuple(str(space.terms[kind].iloc[row]) for kind in TEXTS_OF_TERM), space.of_terms[row])


@dataclass(frozen=True)
class GeneratedCells:
    """Cells that a text has given.

    Attributes
    ----------
    counts
        CSR of shape (n_cells, n_genes), int32.
    other
        Counts of each cell in genes beside the panel, shape (n_cells,), int64.
    data_sets
        Number of the training data set that each cell is like, shape (n_cells,).
    place
        Where the text lies among the training texts.
    """

    counts: scipy.sparse.csr_matrix
    other: np.ndarray
    data_sets: np.ndarray
    place: TextPlace

    @property
    def totals(self) -> np.ndarray:
        """All counts of each cell, shape (n_cells,)."""
        return np.asarray(self.counts.sum(axis=1), dtype=np.int64).ravel() + self.other


@dataclass(frozen=True)
class TermFacts:
    """What is known of the training cells of each term; rows are the terms of the text model.

    Attributes
    ----------
    cells
        How many there are in each data set, shape (n_terms, n_data_sets).
    library
        Quantiles of their total counts, shape (n_terms, n_quantiles).
    expression
        Mean of ln(1 + CP10k) of the panel, shape (n_terms, n_genes).
    """

    cells: np.ndarray
    library: np.ndarray
    expression: np.ndarray


@dataclass(frozen=True)
class CellGenerator:
    """What makes cells of texts.

    Attributes
    ----------
    decoder, flow
        The networks.
    genes
        Ensembl ids of the panel, shape (n_genes,).
    data_sets
        Names of the training data sets.
    state_mean, state_scale
        Of the states of the training cells and, at the end, of their depths, shape (latent_size + 1,).
    library
        What a depth stands for.
    terms
        What is known of the training cells of each term.
    guidance
        Chosen on validation cells.
    """

    decoder: CellDecoder
    flow: Flow
    genes: np.ndarray
    data_sets: tuple[str, ...]
    state_mean: np.ndarray
    state_scale: np.ndarray
    library: LibraryModel
    terms: TermFacts
    guidance: float

    def made(
        self,
        text: CellText,
        n_cells: int,
        space: TextSpace,
        seed: int,
        guidance: float | None = None,
        data_set: int | None = None,
        library_size: int | None = None,
    ) -> GeneratedCells:
        """Cells of a text.

        Parameters
        ----------
        text
            What the cells should be.
        n_cells
            How many.
        space
            The training texts.
        seed
            The same gives the same cells of a text, whatever other texts are asked for.
        guidance
            See :func:`scdmc.text.pseudo_cells.network.flowed`; None for that of the training.
        data_set
            Number of the data set that the cells are like; None for a mixture as the nearest term has.
        library_size
            Total counts of each cell; None to draw them.
        """
        guidance = self.guidance if guidance is None else guidance
        rng = rng_of_text(text.words, seed)
        place = place_of_text(text.vector, space)
        shares = self.terms.cells[place.nearest[0]].astype(np.float64)
        parts = []
        with threads_of_torch(1):  # with more of them the last digits are others, and so are some counts
            for start in range(0, n_cells, CELLS_AT_A_TIME):
                n = min(CELLS_AT_A_TIME, n_cells - start)
                if data_set is None:
                    data_sets = rng.choice(len(shares), size=n, p=shares / shares.sum())
                else:
                    data_sets = np.full(n, data_set)
                parts.append(self._block(text.vector, data_sets, space, rng, guidance, library_size))
        counts, other, data_sets = zip(*parts, strict=True)
        return GeneratedCells(
            scipy.sparse.csr_matrix(scipy.sparse.vstack(counts)),
            np.concatenate(other),
            np.concatenate(data_sets),
            place,
        )

    def _block(
        self,
        vector: np.ndarray,
        data_sets: np.ndarray,
        space: TextSpace,
        rng: np.random.Generator,
        guidance: float,
        library_size: int | None,
    ) -> tuple[scipy.sparse.csr_matrix, np.ndarray, np.ndarray]:
        conditions = conditions_of(np.tile(vector, (len(data_sets), 1)), data_sets, space, len(self.data_sets))
        noise = torch.from_numpy(rng.standard_normal((len(data_sets), len(self.state_mean))).astype(np.float32))
        made = flowed(self.flow, noise, conditions, guidance).numpy() * self.state_scale + self.state_mean
        states, depths = np.ascontiguousarray(made[:, :-1], dtype=np.float32), made[:, -1]
        if library_size is None:
            totals = self.library.totals(depths, data_sets)
        else:
            totals = np.full(len(data_sets), float(library_size))
        with torch.no_grad():
            shares = self.decoder(torch.from_numpy(states), conditions).exp().numpy()
            dispersion = self.decoder.dispersion(conditions, torch.from_numpy(data_sets)).numpy()
        counts = drawn_counts(shares[:, :-1], totals, dispersion[:, :-1], rng)
        other = np.maximum(totals.astype(np.int64) - np.asarray(counts.sum(axis=1), dtype=np.int64).ravel(), 0)
        return counts, other, data_sets


def drawn_counts(
    shares: np.ndarray, totals: np.ndarray, dispersion: np.ndarray, rng: np.random.Generator
) -> scipy.sparse.csr_matrix:
    """Negative binomial counts, each gene by itself: what genes have in common is in the shares; CSR, int32.

    Parameters
    ----------
    shares, dispersion
        Of the genes, shape (n_cells, n_genes).
    totals
        Counts of each cell, shape (n_cells,).
    rng
        Of the draws.
    """
    rates = rng.standard_gamma(dispersion.astype(np.float64)) / dispersion * shares
    means = np.minimum(rates * totals[:, None], LARGEST_MEAN)
    return scipy.sparse.csr_matrix(rng.poisson(means).astype(np.int32))


def rng_of_text(words: Sequence[str], seed: int) -> np.random.Generator:
    """Random numbers of the words of a text and a seed."""
    digest = hashlib.sha256(json.dumps(list(words)).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def text_conditions(vectors: np.ndarray, space: TextSpace) -> np.ndarray:
    """What a text has beyond all training texts, shape (n_texts, text_size)."""
    return (TEXT_SCALE * (vectors - space.mean)).astype(np.float32)


def conditions_of(vectors: np.ndarray, data_sets: np.ndarray, space: TextSpace, n_data_sets: int) -> torch.Tensor:
    """Texts and data sets as the networks read them, shape (n_cells, text_size + n_data_sets)."""
    one_hot = np.eye(n_data_sets, dtype=np.float32)[data_sets]
    return torch.from_numpy(np.concatenate([text_conditions(vectors, space), one_hot], axis=1))
