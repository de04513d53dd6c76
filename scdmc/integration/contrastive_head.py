"""A linear layer on frozen embeddings that draws together what batches share; no label is read.

Source: docs/method.md, "Adaptation without labels".
"""

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F

from scdmc.integration.joining import scaled_block
from scdmc.integration.options import HeadSettings
from scdmc.model.devices import threads_of_torch


def contrastive_head(
    features: np.ndarray, pairs: scipy.sparse.csr_array, batch: np.ndarray, settings: HeadSettings, seed: int
) -> np.ndarray:
    """Train the layer on the cells themselves, and embed them by it.

    Positives of a cell are its partners in other batches. Negatives are cells of its own batch only: what tells
    batches apart is no help against them, so that the layer has no reason to keep it.

    Parameters
    ----------
    features
        Shape (n_cells, n_features): frozen, such as principal components and ``<cls>`` joined.
    pairs
        Which cells are partners, shape (n_cells, n_cells), bool, as of
        :func:`scdmc.integration.adaptation.mutual_neighbours`.
    batch
        Shape (n_cells,).
    settings
        See :class:`scdmc.integration.options.HeadSettings`.
    seed
        Of weights, order, partners and dropout.

    Returns
    -------
    Directions, shape (n_cells, settings.dimensions), float32. Without a pair of cells the layer is not trained.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = scaled_block(features) * np.sqrt(np.shape(features)[1])
    inputs = torch.from_numpy(inputs.astype(np.float32))
    layer = torch.nn.utils.skip_init(torch.nn.Linear, inputs.shape[1], settings.dimensions, bias=False)
    bound = inputs.shape[1] ** -0.5
    torch.nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    n_partners = np.diff(pairs.indptr)
    if n_partners.any():
        codes = torch.from_numpy(np.unique(np.asarray(batch, dtype=object).astype(str), return_inverse=True)[1])
        with threads_of_torch(1):  # the matrices are small: more threads would wait for each other
            _train(layer, inputs, (pairs, n_partners), codes, settings, generator)
    with torch.inference_mode():
        return F.normalize(layer(inputs), dim=1).numpy()


def _train(
    layer: torch.nn.Linear,
    inputs: torch.Tensor,
    partners: tuple[scipy.sparse.csr_array, np.ndarray],
    codes: torch.Tensor,
    settings: HeadSettings,
    generator: torch.Generator,
) -> None:
    pairs, n_partners = partners
    optimizer = torch.optim.AdamW(layer.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, settings.steps)
    for _ in range(settings.steps):
        chosen = torch.randperm(len(inputs), generator=generator)[: settings.batch_size]
        rows, draw = chosen.numpy(), torch.rand(len(chosen), generator=generator).numpy()
        has_partner = n_partners[rows] > 0
        place = pairs.indptr[rows] + (draw * n_partners[rows]).astype(int)
        partner = torch.from_numpy(pairs.indices[place[has_partner]]).long()
        embedded = _dropped(layer, inputs[chosen], settings.dropout, generator)
        of_partner = _dropped(layer, inputs[partner], settings.dropout, generator)
        anchors = torch.from_numpy(has_partner)
        is_negative = codes[chosen][anchors][:, None] == codes[chosen][None]
        is_negative &= chosen[anchors][:, None] != chosen[None]
        positive = (embedded[anchors] * of_partner).sum(dim=1, keepdim=True)
        negatives = (embedded[anchors] @ embedded.T).masked_fill(~is_negative, -torch.inf)
        logits = torch.cat([positive, negatives], dim=1) / settings.temperature
        if len(logits):
            optimizer.zero_grad()
            F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()
            optimizer.step()
        schedule.step()


def _dropped(layer: torch.nn.Linear, inputs: torch.Tensor, dropout: float, generator: torch.Generator) -> torch.Tensor:
    """Directions of cells that each lack other features, shape (n_cells, n_dimensions)."""
    kept = torch.rand(inputs.shape, generator=generator) >= dropout
    return F.normalize(layer(inputs * kept / (1 - dropout)), dim=1)
