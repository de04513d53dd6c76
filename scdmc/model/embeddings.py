"""Cell embeddings: the encoder's states of each cell, without any label."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.model.encoder import ScDMCModel
from scdmc.model.packing import PackedCells, batches_by_length, packed_streams, pool
from scdmc.options import POOLINGS, STREAMS
from scdmc.overlap import ahead
from scdmc.progress import progress_bar
from scdmc.tokens.tokenized_cells import TokenizedCells

# Tokens of one stream that are encoded at once.
TOKENS_PER_BATCH = {"cpu": 16_384, "cuda": 65_536}


EMBEDDING_KEY = "X_scDMC"


@dataclass(frozen=True)
class EmbeddingChoice:
    """How the states of a cell become its embedding.

    Attributes
    ----------
    layer
        0 for the embedding of the genes, then 1 to the number of layers.
    stream
        ``rank``, ``expression``, or ``both`` joined.
    pooling
        ``cls``: the state of ``<cls>``; ``mean``: the mean state of the genes; ``weighted``: the same, each gene
        weighted by its value ln(1 + CP10k / median).
    """

    layer: int
    stream: str
    pooling: str

    def __str__(self) -> str:
        return f"layer {self.layer}, {self.stream}, {self.pooling}"


def embedding_choice(
    config: ScDMCConfig, stream: str | None = None, pooling: str | None = None, layer: int | None = None
) -> EmbeddingChoice:
    """What a user chose, and for the rest what the model's ``config.json`` says.

    Parameters
    ----------
    config
        Of the model.
    stream, pooling, layer
        See :class:`EmbeddingChoice`; None where the user chose nothing. Who chooses a stream or a pooling but no layer
        gets the last one: the layer of ``config.json`` belongs to its own pooling.

    Raises
    ------
    ScDMCError
        If there is no such stream, pooling or layer.
    """
    n_layers = config.num_hidden_layers
    if layer is None:
        own = config.embedding_layer if stream is None and pooling is None else None
        layer = n_layers if own is None else own
    choice = EmbeddingChoice(layer, stream or config.embedding_stream, pooling or config.embedding_pooling)
    if choice.stream not in STREAMS:
        raise ScDMCError(f"--stream {choice.stream}: there are {', '.join(STREAMS)}")
    if choice.pooling not in POOLINGS:
        raise ScDMCError(f"--pooling {choice.pooling}: there are {', '.join(POOLINGS)}")
    if not 0 <= layer <= n_layers:
        raise ScDMCError(
            f"--encoder_layer {layer}: there are layers 1 to {n_layers}, and 0 for the vectors of the genes"
        )
    if layer == 0 and choice.pooling == "cls":
        raise ScDMCError(
            "--encoder_layer 0 --pooling cls: <cls> is the same for all cells there; take mean or weighted"
        )
    return choice


def tokens_per_batch(device: torch.device) -> int:
    """Tokens of one stream that a device encodes at once."""
    return TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"])


def inference_batches(
    cells: TokenizedCells, stream: str, pooling: str, what: str | None, n_tokens: int = TOKENS_PER_BATCH["cpu"]
) -> Iterator[tuple[np.ndarray, PackedCells]]:
    """Yield (rows of the cells, their packed stream) in batches of similar lengths, with a progress bar.

    A thread packs the next batches while the caller computes with one.

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
    n_tokens
        Most tokens of a stream in a batch (:func:`tokens_per_batch`).
    """
    batches = (
        (chosen, packed_streams(cells, chosen, stream, with_gene_values=pooling == "weighted"))
        for chosen in batches_by_length(cells.rank_lengths, n_tokens)
    )
    with progress_bar(total=len(cells), unit=" cells", desc=what, disable=what is None) as progress:
        for chosen, batch in ahead(batches):
            yield chosen, batch
            progress.update(len(chosen))


def embedding_width(encoder: ScDMCModel, stream: str | None = None) -> int:
    """Number of columns of :func:`cell_embeddings`: hidden_size, or twice that for both streams."""
    return encoder.config.hidden_size * (2 if (stream or encoder.config.embedding_stream) == "both" else 1)


@torch.inference_mode()
def cell_embeddings(
    encoder: ScDMCModel,
    cells: TokenizedCells,
    stream: str | None = None,
    pooling: str | None = None,
    show_progress: bool = True,
    layer: int | None = None,
    n_tokens: int | None = None,
) -> np.ndarray:
    """Embed cells.

    Parameters
    ----------
    encoder
        The encoder, on the device where the work is to be done; dropout is switched off meanwhile.
    cells
        The cells, as long as the model reads them.
    stream, pooling, layer
        See :class:`EmbeddingChoice`; what is None follows the model's ``config.json`` (:func:`embedding_choice`).
    show_progress
        Whether to show a progress bar.
    n_tokens
        Most tokens of a stream that are encoded at once; as fits the device without it.

    Returns
    -------
    Shape (n_cells, hidden_size), or (n_cells, 2 hidden_size) for both streams; float32.

    Raises
    ------
    ScDMCError
        If stream, pooling or layer are unknown.
    """
    choice = embedding_choice(encoder.config, stream, pooling, layer)
    embeddings = np.empty((len(cells), embedding_width(encoder, choice.stream)), dtype=np.float32)
    n_streams = 2 if choice.stream == "both" else 1
    is_last = choice.layer == encoder.config.num_hidden_layers
    was_training = encoder.training
    encoder.eval()
    n_tokens, what = n_tokens or tokens_per_batch(encoder.device), "embed" if show_progress else None
    for chosen, batch in inference_batches(cells, choice.stream, choice.pooling, what, n_tokens):
        batch = batch.to(encoder.device)
        if is_last and choice.pooling == "cls":
            pooled = encoder.encode_cls(batch).float()
        else:
            states = next(islice(encoder.states_by_layer(batch), choice.layer, None))
            pooled = pool(states.float(), batch, choice.pooling)
        embeddings[chosen] = torch.cat(pooled.chunk(n_streams), dim=-1).cpu().numpy()
    encoder.train(was_training)
    return embeddings
