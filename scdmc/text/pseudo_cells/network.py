"""The networks of the generator: an autoencoder of counts under a text, and a flow from noise to its states.

Source: docs/pseudo_cells.md, "The generator".
"""

import math

import torch
from torch import nn

from scdmc.text.pseudo_cells.options import EULER_STEPS

# Frequencies by which the flow knows how far it has come.
N_FREQUENCIES = 8


SMALLEST_DISPERSION, LARGEST_DISPERSION = -4.0, 8.0  # natural logarithms


def nb_log_likelihood(counts: torch.Tensor, log_mean: torch.Tensor, dispersion: torch.Tensor) -> torch.Tensor:
    """Logarithm of the negative binomial probability of cells, shape (n_cells,): most counts are 0, and cost little.

    Parameters
    ----------
    counts
        Shape (n_cells, n_genes).
    log_mean, dispersion
        Of the same shape; the variance is mean + mean^2 / dispersion.
    """
    log_sum = torch.log(dispersion + log_mean.exp())
    of_zeros = (dispersion * (dispersion.log() - log_sum)).sum(dim=1)
    cells, genes = counts.nonzero(as_tuple=True)
    seen, own = counts[cells, genes], dispersion[cells, genes]
    more = torch.lgamma(seen + own) - torch.lgamma(own) - torch.lgamma(seen + 1)
    more = more + seen * (log_mean[cells, genes] - log_sum[cells, genes])
    return of_zeros.index_add(0, cells, more)


class CellEncoder(nn.Module):
    """From ln(1 + CP10k) of the panel to the mean and the log-variance of a state; used in training only."""

    def __init__(self, n_genes: int, width: int, latent_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_genes, width),
            nn.LayerNorm(width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2 * latent_size),
        )

    def forward(self, expression: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Expression (n_cells, n_genes) -> mean and log-variance, (n_cells, latent_size) each."""
        mean, log_variance = self.layers(expression).chunk(2, dim=1)
        return mean, log_variance.clamp(-8, 4)


class CellDecoder(nn.Module):
    """From a state and a condition to the shares of the genes, and their dispersions; all other genes are the last."""

    def __init__(self, n_genes: int, sizes: tuple[int, int, int], n_data_sets: int) -> None:
        super().__init__()
        width, latent_size, condition_size = sizes
        self.condition = nn.Linear(condition_size, width)
        self.state = nn.Linear(latent_size, width)
        self.layers = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.genes = nn.Linear(width, n_genes)
        self.log_dispersion = nn.Parameter(torch.zeros(n_data_sets, n_genes))
        # What a type adds to it: a gene that is ambient in one type is made in another.
        self.dispersion_of_type = nn.Linear(width, n_genes, bias=False)
        nn.init.zeros_(self.dispersion_of_type.weight)

    def forward(self, states: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        """Logarithms of the shares of the genes, shape (n_cells, n_genes)."""
        hidden = self.layers(self.state(states) + self.condition(conditions))
        return torch.log_softmax(self.genes(hidden), dim=1)

    def dispersion(self, conditions: torch.Tensor, data_sets: torch.Tensor) -> torch.Tensor:
        """Of each gene under the condition and in the data set of each cell, shape (n_cells, n_genes)."""
        of_type = self.dispersion_of_type(torch.tanh(self.condition(conditions)))
        # Threads add up the gradient of an index in whatever order they come, and that of an embedding in order.
        of_data_set = nn.functional.embedding(data_sets, self.log_dispersion)
        return (of_data_set + of_type).clamp(SMALLEST_DISPERSION, LARGEST_DISPERSION).exp()


class Flow(nn.Module):
    """A velocity field: where a state goes next, on its way from noise to a cell under a condition or none."""

    def __init__(self, latent_size: int, condition_size: int, width: int) -> None:
        super().__init__()
        self.condition = nn.Linear(condition_size, width)
        self.nothing = nn.Parameter(torch.zeros(width))
        self.enter = nn.Linear(latent_size + 2 * N_FREQUENCIES, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(3)
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, latent_size))

    def forward(
        self, states: torch.Tensor, times: torch.Tensor, conditions: torch.Tensor, is_without: torch.Tensor
    ) -> torch.Tensor:
        """Velocities, shape (n_cells, latent_size).

        Parameters
        ----------
        states
            Shape (n_cells, latent_size).
        times
            Shape (n_cells,), from 0, noise, to 1, a cell.
        conditions
            Shape (n_cells, condition_size).
        is_without
            True for cells that see no condition, shape (n_cells,).
        """
        angles = times[:, None] * math.pi * 2.0 ** torch.arange(N_FREQUENCIES).div(2)
        known = torch.where(is_without[:, None], self.nothing, self.condition(conditions))
        hidden = self.enter(torch.cat([states, angles.sin(), angles.cos()], dim=1)) + known
        for layer in self.layers:
            hidden = hidden + layer(hidden + known)
        return self.leave(hidden)


@torch.no_grad()
def flowed(flow: Flow, noise: torch.Tensor, conditions: torch.Tensor, guidance: float) -> torch.Tensor:
    """States that the flow makes of noise, by Euler steps; shape (n_cells, latent_size).

    Parameters
    ----------
    flow
        The field.
    noise
        Standard normal, shape (n_cells, latent_size).
    conditions
        Shape (n_cells, condition_size).
    guidance
        w of v_0 + w (v_condition - v_0): 1 is the condition alone, more goes beyond it.
    """
    states, n_cells = noise, len(noise)
    with_it, without = torch.zeros(n_cells, dtype=torch.bool), torch.ones(n_cells, dtype=torch.bool)
    for step in range(EULER_STEPS):
        times = torch.full((n_cells,), step / EULER_STEPS)
        velocity = flow(states, times, conditions, with_it)
        if guidance != 1:
            free = flow(states, times, conditions, without)
            velocity = free + guidance * (velocity - free)
        states = states + velocity / EULER_STEPS
    return states
