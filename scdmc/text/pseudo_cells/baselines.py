"""What generated cells must be compared to: copies, means, independent genes, and the generator without its flow.

Source: docs/pseudo_cells.md, "Scores".
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from scdmc.cells.shared_genes import log1p_cp10k_of
from scdmc.text.pseudo_cells.generator import CellGenerator

LARGEST_DISPERSION = 1e6


@dataclass(frozen=True)
class TypeCells:
    """Training cells of one type.

    Attributes
    ----------
    counts
        Of the panel, dense, shape (n_cells, n_genes).
    totals
        Over all genes, shape (n_cells,).
    """

    counts: np.ndarray
    totals: np.ndarray

    def select(self, cells: np.ndarray) -> "TypeCells":
        """The chosen cells (True for each)."""
        return TypeCells(self.counts[cells], self.totals[cells])

    @property
    def expression(self) -> np.ndarray:
        """ln(1 + CP10k), shape (n_cells, n_genes)."""
        return expression_of(self.counts, self.totals)

    @property
    def shares(self) -> np.ndarray:
        """Of the total counts of all cells, shape (n_genes,)."""
        return self.counts.sum(axis=0) / self.totals.sum()


def expression_of(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """ln(1 + CP10k) of dense counts, float32."""
    return np.log1p(1e4 * counts / totals[:, None]).astype(np.float32)


def copied(cells: TypeCells, n_cells: int, rng: np.random.Generator) -> np.ndarray:
    """Training cells, each at most once as long as there are enough: what no generator can be better than."""
    chosen = rng.choice(len(cells.totals), n_cells, replace=n_cells > len(cells.totals))
    return cells.expression[chosen]


def mean_cells(cells: TypeCells, n_cells: int, rng: np.random.Generator) -> np.ndarray:
    """The mean of the type, again and again; nothing is drawn."""
    del rng
    mean = np.log1p(1e4 * (cells.counts / cells.totals[:, None]).mean(axis=0))
    return np.tile(mean.astype(np.float32), (n_cells, 1))


def poisson_cells(cells: TypeCells, n_cells: int, rng: np.random.Generator) -> np.ndarray:
    """Poisson counts of the mean shares, each gene by itself, for totals of training cells."""
    totals = rng.choice(cells.totals, n_cells)
    return expression_of(rng.poisson(totals[:, None] * cells.shares), totals)


def negative_binomial_cells(cells: TypeCells, n_cells: int, rng: np.random.Generator) -> np.ndarray:
    """Negative binomial counts, each gene by itself, its dispersion by the moments of the training cells."""
    mean = cells.totals[:, None] * cells.shares
    excess = ((cells.counts - mean) ** 2 - mean).sum(axis=0)
    squares = (mean**2).sum(axis=0)
    dispersion = np.clip(squares / np.maximum(excess, squares / LARGEST_DISPERSION + 1e-12), 1e-3, LARGEST_DISPERSION)
    totals = rng.choice(cells.totals, n_cells)
    rates = rng.gamma(dispersion, 1 / dispersion, (n_cells, len(dispersion))) * totals[:, None] * cells.shares
    return expression_of(rng.poisson(rates), totals)


BASELINES = {
    "copies of training cells": copied,
    "mean of the type": mean_cells,
    "independent Poisson": poisson_cells,
    "independent negative binomial": negative_binomial_cells,
}


class _NoFlow(nn.Module):
    """States are the noise itself."""

    def forward(self, states: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(states)


def without_flow(generator: CellGenerator) -> CellGenerator:
    """The generator with states of the normal distribution, to which the autoencoder was drawn."""
    size = len(generator.state_mean)
    plain = {"state_mean": np.zeros(size, np.float32), "state_scale": np.ones(size, np.float32)}
    return replace(generator, flow=_NoFlow(), **plain)


def made_expression(generated: object) -> np.ndarray:
    """ln(1 + CP10k) of generated cells, dense; the total includes the bin of other genes."""
    return log1p_cp10k_of(generated.counts.astype(np.float32), generated.totals).toarray()
