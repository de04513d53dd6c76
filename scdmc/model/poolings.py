"""Every pooling of a cell's states: all layers, both streams, all ways to make one vector, in one pass."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from scdmc.model.embeddings import inference_batches, tokens_per_batch
from scdmc.model.encoder import ScDMCModel
from scdmc.model.packing import pool
from scdmc.options import POOLINGS
from scdmc.tokens.tokenized_cells import TokenizedCells


@torch.inference_mode()
def pooled_states(
    encoder: ScDMCModel, cells: TokenizedCells, what: str | None = "embed", layers: Sequence[int] | None = None
) -> dict[tuple[int, str], np.ndarray]:
    """Pool the states of each cell in every way.

    Parameters
    ----------
    encoder
        The encoder, on the device where the work is to be done; dropout is switched off meanwhile.
    cells
        The cells, as long as the model reads them.
    what
        Name of the work, for the progress bar; None for none.
    layers
        Those that are wanted, ascending; all without it.

    Returns
    -------
    (Layer, pooling) -> float32 of shape (n_cells, 2 hidden_size): the rank stream, then the expression stream. Layer 0
    is the embedding of the genes; there ``<cls>`` is the same for each cell.
    """
    layers = range(encoder.config.num_hidden_layers + 1) if layers is None else layers
    hidden_size = encoder.config.hidden_size
    joined = {choice: np.empty((len(cells), 2 * hidden_size), dtype=np.float32) for choice in product(layers, POOLINGS)}
    was_training = encoder.training
    encoder.eval()
    for chosen, batch in inference_batches(cells, "both", "weighted", what, tokens_per_batch(encoder.device)):
        batch = batch.to(encoder.device)
        for layer, states in enumerate(encoder.states_by_layer(batch)):
            for pooling in POOLINGS if layer in layers else ():
                pooled = pool(states.float(), batch, pooling)  # rank streams, then expression streams
                joined[layer, pooling][chosen] = torch.cat(pooled.chunk(2), dim=-1).cpu().numpy()
    encoder.train(was_training)
    return joined


def columns_of_stream(stream: str, hidden_size: int) -> slice:
    """Columns of :func:`pooled_states` that a choice of streams means."""
    return {"rank": slice(hidden_size), "expression": slice(hidden_size, None), "both": slice(None)}[stream]
