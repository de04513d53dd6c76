"""Trains the generator: an autoencoder of counts, then a flow from noise to its states, then how many counts there are.

Source: docs/pseudo_cells.md, "Training".
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from scdmc.cells.shared_genes import log1p_cp10k_of
from scdmc.model.devices import threads_of_torch
from scdmc.progress import progress_bar
from scdmc.text.model import unit
from scdmc.text.pseudo_cells.generator import CellGenerator, TermFacts, conditions_of
from scdmc.text.pseudo_cells.library import QUANTILES, LibraryModel, library_of
from scdmc.text.pseudo_cells.network import (
    LARGEST_DISPERSION,
    SMALLEST_DISPERSION,
    CellDecoder,
    CellEncoder,
    Flow,
    nb_log_likelihood,
)
from scdmc.text.pseudo_cells.options import GUIDANCE, GeneratorOptions
from scdmc.text.pseudo_cells.training_data import GeneratorData

STEPS_BETWEEN_ROWS = 50


# A dispersion has no other weights to follow it: it must go far by itself.
DISPERSION_RATE = 10.0


@dataclass(frozen=True)
class States:
    """States of all cells, without noise, and their depths.

    Attributes
    ----------
    cells
        Shape (n_cells, latent_size + 1), float32; the depth is the last number.
    centre, scale
        Of the training cells, shape (latent_size + 1,).
    """

    cells: np.ndarray
    centre: np.ndarray
    scale: np.ndarray


def train_generator(data: GeneratorData, options: GeneratorOptions) -> tuple[CellGenerator, pd.DataFrame]:
    """Train a generator on the training cells.

    Parameters
    ----------
    data
        Of :func:`scdmc.text.pseudo_cells.training_data.generator_data`.
    options
        How.

    Returns
    -------
    The generator, and rows of part, step and loss.
    """
    rng = np.random.default_rng(options.seed)
    own = data.is_training
    library = library_of(data.totals[own], data.data_sets[own])
    # Sums over several threads have other last digits, which training makes larger: the bytes would depend on how many
    # threads a process has at that moment.
    with threads_of_torch(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        encoder, decoder, history = _trained_autoencoder(data, options, rng)
        states = _states(encoder, data, library)
        flow, of_flow = _trained_flow(data, states, options, rng)
    round_weights(decoder, flow)
    generator = CellGenerator(
        decoder.eval(), flow.eval(), data.genes, data.names, states.centre, states.scale, library,
        _facts_of_terms(data), GUIDANCE,
    )  # fmt: skip
    return generator, pd.concat([history, of_flow], ignore_index=True)


def round_weights(*modules: torch.nn.Module) -> None:
    """Round weights to half precision, in which they are stored: what is read is what was trained."""
    with torch.no_grad():
        for module in modules:
            for weight in module.parameters():
                weight.copy_(weight.half().float())


def _batches(
    data: GeneratorData, n_steps: int, size: int, options: GeneratorOptions, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Training cells, terms by the root of their size, each with one of its texts: rows and conditions."""
    cells = np.flatnonzero(data.is_training)
    sizes = np.bincount(data.terms[cells], minlength=len(data.space.terms))
    shares = np.cumsum(1 / np.sqrt(sizes[data.terms[cells]]))
    texts = np.concatenate([data.space.vectors, data.space.of_terms[:, None]], axis=1)  # (n_terms, 3, text_size)
    for _ in range(n_steps):
        rows = cells[np.searchsorted(shares, rng.random(size) * shares[-1], side="right")]
        vectors = texts[data.terms[rows], rng.integers(texts.shape[1], size=size)]
        vectors = vectors + options.text_noise * rng.standard_normal(vectors.shape, dtype=np.float32)
        yield rows, conditions_of(unit(vectors), data.data_sets[rows], data.space, len(data.names))


def _trained_autoencoder(
    data: GeneratorData, options: GeneratorOptions, rng: np.random.Generator
) -> tuple[CellEncoder, CellDecoder, pd.DataFrame]:
    n_genes, condition_size = data.counts.shape[1], data.space.vectors.shape[-1] + len(data.names)
    encoder = CellEncoder(n_genes, options.width, options.latent_size)
    sizes = (options.width, options.latent_size, condition_size)
    decoder = CellDecoder(n_genes + 1, sizes, len(data.names))
    with torch.no_grad():  # so that the first shares are those of all cells
        of_genes = np.asarray(data.counts[data.is_training].sum(axis=0)).ravel() + 1.0
        total = np.append(of_genes, max(data.totals[data.is_training].sum() - of_genes.sum(), 1.0))
        decoder.genes.bias.copy_(torch.from_numpy(np.log(total / total.sum())).float())
        decoder.log_dispersion.copy_(torch.from_numpy(_first_dispersion(data)).float())
    steps = _Steps("autoencoder", [encoder, decoder], options.max_steps, options)
    for step, (rows, conditions) in enumerate(_batches(data, options.max_steps, options.batch_size, options, rng)):
        likelihood, divergence = _terms_of_loss(encoder, decoder, data, rows, conditions)
        beta = options.beta * min(1.0, (step + 1) / max(options.warm_up, 1))
        steps.taken((beta * divergence - likelihood).mean())
    fitted = _fit_dispersions(encoder, decoder, data, options, rng)
    return encoder, decoder, pd.concat([steps.history, fitted], ignore_index=True)


def _expression(data: GeneratorData, rows: np.ndarray | slice) -> torch.Tensor:
    """ln(1 + CP10k) of some cells, dense."""
    return torch.from_numpy(log1p_cp10k_of(data.counts[rows], data.totals[rows]).toarray())


def _terms_of_loss(
    encoder: CellEncoder, decoder: CellDecoder, data: GeneratorData, rows: np.ndarray, conditions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithm of the likelihood of some cells, and the divergence of their states from the normal distribution."""
    mean, log_variance = encoder(_expression(data, rows))
    states = mean + (log_variance / 2).exp() * torch.randn_like(mean)
    counts = torch.from_numpy(data.with_other(rows))
    log_mean = decoder(states, conditions) + counts.sum(dim=1, keepdim=True).log()
    likelihood = nb_log_likelihood(
        counts, log_mean, decoder.dispersion(conditions, torch.from_numpy(data.data_sets[rows]))
    )
    return likelihood, 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)


def _fit_dispersions(
    encoder: CellEncoder, decoder: CellDecoder, data: GeneratorData, options: GeneratorOptions, rng: np.random.Generator
) -> pd.DataFrame:
    """Fit the dispersions alone, to what is left around the means that the states without noise give.

    Cells are made without the noise of states. Dispersions that were fitted with it would count its variance twice.
    """
    steps = _Steps("dispersions", [_Dispersions(decoder)], options.dispersion_steps, options)
    for rows, conditions in _batches(data, options.dispersion_steps, options.batch_size, options, rng):
        counts = torch.from_numpy(data.with_other(rows))
        with torch.no_grad():
            states, _ = encoder(_expression(data, rows))
            log_mean = decoder(states, conditions) + counts.sum(dim=1, keepdim=True).log()
        dispersion = decoder.dispersion(conditions, torch.from_numpy(data.data_sets[rows]))
        steps.taken(-nb_log_likelihood(counts, log_mean, dispersion).mean())
    return steps.history


class _Dispersions(torch.nn.Module):
    """The weights of a decoder that give dispersions."""

    def __init__(self, decoder: CellDecoder) -> None:
        super().__init__()
        self.log_dispersion, self.dispersion_of_type = decoder.log_dispersion, decoder.dispersion_of_type


def _first_dispersion(data: GeneratorData) -> np.ndarray:
    """ln(theta) of each gene and of the others in each data set, by the moments within terms: (n_data_sets, n + 1)."""
    found = np.zeros((len(data.names), data.counts.shape[1] + 1))
    for data_set in range(len(data.names)):
        squares, excess = np.zeros(found.shape[1]), np.zeros(found.shape[1])
        for term in np.unique(data.terms):
            own = data.is_training & (data.data_sets == data_set) & (data.terms == term)
            if own.sum() < 2:
                continue
            counts = data.with_other(np.flatnonzero(own)).astype(np.float64)
            size = counts.sum(axis=1, keepdims=True)
            mean = counts.sum(axis=0) / max(size.sum(), 1) * size
            squares += (mean**2).sum(axis=0)
            excess += ((counts - mean) ** 2 - mean).sum(axis=0)
        found[data_set] = np.log((squares + 1e-8) / np.maximum(excess, 0.01 * squares + 1e-8))
    return found.clip(SMALLEST_DISPERSION, LARGEST_DISPERSION)


@torch.no_grad()
def _states(encoder: CellEncoder, data: GeneratorData, library: LibraryModel) -> States:
    parts = range(0, data.counts.shape[0], 1024)
    cells = np.concatenate([encoder(_expression(data, slice(start, start + 1024)))[0].numpy() for start in parts])
    depths = library.depths(data.totals, data.data_sets).astype(np.float32)
    cells = np.concatenate([cells, depths[:, None]], axis=1)
    own = cells[data.is_training]
    return States(cells, own.mean(axis=0), np.maximum(own.std(axis=0), 1e-6))


def _trained_flow(
    data: GeneratorData, states: States, options: GeneratorOptions, rng: np.random.Generator
) -> tuple[Flow, pd.DataFrame]:
    condition_size = data.space.vectors.shape[-1] + len(data.names)
    flow = Flow(options.latent_size + 1, condition_size, options.width)
    steps = _Steps("flow", [flow], options.flow_steps, options)
    for rows, conditions in _batches(data, options.flow_steps, options.flow_batch_size, options, rng):
        target = torch.from_numpy((states.cells[rows] - states.centre) / states.scale)
        noise, times = torch.randn_like(target), torch.rand(len(rows))
        is_without = torch.rand(len(rows)) < options.text_dropout
        between = times[:, None] * target + (1 - times[:, None]) * noise
        velocity = flow(between, times, conditions, is_without)
        steps.taken(((velocity - (target - noise)) ** 2).mean())
    return flow, steps.history


class _Steps:
    """Steps of AdamW with a cosine, and what the loss was."""

    def __init__(self, part: str, modules: list[torch.nn.Module], n_steps: int, options: GeneratorOptions) -> None:
        named = [pair for module in modules for pair in module.named_parameters()]
        self._parameters = [weight for _, weight in named]
        slow = [weight for name, weight in named if "dispersion" not in name]
        fast = [weight for name, weight in named if "dispersion" in name]
        groups = [{"params": slow, "weight_decay": options.weight_decay}]
        groups += [{"params": fast, "lr": DISPERSION_RATE * options.learning_rate, "weight_decay": 0.0}] if fast else []
        self._optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, n_steps)
        self._part, self._losses, self._n_steps = part, [], n_steps
        self._bar = progress_bar(total=n_steps, unit=" steps", desc=part)

    def taken(self, loss: torch.Tensor) -> None:
        """One step."""
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 5.0)
        self._optimizer.step()
        self._schedule.step()
        self._losses.append(float(loss.detach()))
        self._bar.update()
        if len(self._losses) == self._n_steps:
            self._bar.close()

    @property
    def history(self) -> pd.DataFrame:
        """Columns part, step and loss, the mean over the steps before."""
        ends = range(min(STEPS_BETWEEN_ROWS, self._n_steps), self._n_steps + 1, STEPS_BETWEEN_ROWS)
        rows = [(self._part, end, float(np.mean(self._losses[max(end - STEPS_BETWEEN_ROWS, 0) : end]))) for end in ends]
        return pd.DataFrame(rows, columns=["part", "step", "loss"])


def _facts_of_terms(data: GeneratorData) -> TermFacts:
    """What the training cells of each term are like."""
    n_terms, own = len(data.space.terms), np.flatnonzero(data.is_training)
    cells = np.zeros((n_terms, len(data.names)), dtype=np.int64)
    np.add.at(cells, (data.terms[own], data.data_sets[own]), 1)
    expression = log1p_cp10k_of(data.counts[own], data.totals[own])
    library = np.zeros((n_terms, len(QUANTILES)))
    mean = np.zeros((n_terms, data.counts.shape[1]), dtype=np.float32)
    for term in np.unique(data.terms[own]):
        of_term = data.terms[own] == term
        library[term] = np.quantile(data.totals[own][of_term], QUANTILES)
        mean[term] = np.asarray(expression[of_term].mean(axis=0)).ravel()
    return TermFacts(cells, library, mean)
