"""Cell embeddings: the encoder's states of each cell, without any label."""

from collections.abc import Iterator

import numpy as np
import torch

from scdmc.errors import ScDMCError
from scdmc.model.encoder import ScDMCModel
from scdmc.model.packing import PackedCells, batches_by_length, packed_streams, pool
from scdmc.options import POOLINGS, STREAMS
from scdmc.progress import progress_bar
from scdmc.tokens.tokenized_cells import TokenizedCells

TOKENS_PER_BATCH = 16_384


EMBEDDING_KEY = "X_scDMC"


def inference_batches(
    cells: TokenizedCells, stream: str, pooling: str, what: str | None
) -> Iterator[tuple[np.ndarray, PackedCells]]:
    """Yield (rows of the cells, their packed stream) in batches of similar lengths, with a progress bar.

    Parameters
    ----------
    cells
        The cells.
    stream
        ``rank``, ``expression`` or ``both`` (all rank streams of the batch, then its expression streams).
    pooling
        How the states become one vector: genes carry their values for ``weighted``.
    what
        Name of the work, for the progress bar; None for none.
    """
    with progress_bar(total=len(cells), unit=" cells", desc=what, disable=what is None) as progress:
        for chosen in batches_by_length(cells.rank_lengths, TOKENS_PER_BATCH):
            yield chosen, packed_streams(cells, chosen, stream, with_gene_values=pooling == "weighted")
            progress.update(len(chosen))


def embedding_width(encoder: ScDMCModel, stream: str) -> int:
    """Number of columns of :func:`cell_embeddings`: hidden_size, or twice that for both streams."""
    return encoder.config.hidden_size * (2 if stream == "both" else 1)


@torch.inference_mode()
def cell_embeddings(
    encoder: ScDMCModel,
    cells: TokenizedCells,
    stream: str = "both",
    pooling: str = "cls",
    show_progress: bool = True,
) -> np.ndarray:
    """Embed cells.

    Parameters
    ----------
    encoder
        The encoder, on the device where the work is to be done; dropout is switched off meanwhile.
    cells
        The cells, as long as the model reads them.
    stream
        ``rank``, ``expression``, or ``both`` joined.
    pooling
        ``cls``: the state of ``<cls>``; ``mean``: the mean state of the genes; ``weighted``: the same, each gene
        weighted by its value ln(1 + CP10k / median).
    show_progress
        Whether to show a progress bar.

    Returns
    -------
    Shape (n_cells, hidden_size), or (n_cells, 2 hidden_size) for both streams; float32.

    Raises
    ------
    ScDMCError
        If stream or pooling are unknown.
    """
    if stream not in STREAMS:
        raise ScDMCError(f"--stream {stream}: there are {', '.join(STREAMS)}")
    if pooling not in POOLINGS:
        raise ScDMCError(f"--pooling {pooling}: there are {', '.join(POOLINGS)}")
    embeddings = np.empty((len(cells), embedding_width(encoder, stream)), dtype=np.float32)
    n_streams = 2 if stream == "both" else 1
    was_training = encoder.training
    encoder.eval()
    for chosen, batch in inference_batches(cells, stream, pooling, "embed" if show_progress else None):
        batch = batch.to(encoder.device)
        if pooling == "cls":
            pooled = encoder.encode_cls(batch).float()
        else:
            pooled = pool(encoder.encode(batch).float(), batch, pooling)
        embeddings[chosen] = torch.cat(pooled.chunk(n_streams), dim=-1).cpu().numpy()
    encoder.train(was_training)
    return embeddings
