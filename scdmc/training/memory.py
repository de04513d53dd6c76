"""How much memory a step takes, before it is tried."""

from torch import nn

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError

# What a step keeps for its way back, in bfloat16: bytes for each token, layer and unit of the width. Counted from the
# tensors that a step saves at the published sizes: 20.4 kB for each token and layer of width 512.
BYTES_OF_LAYER = 20.4e3 / 512
# Likewise outside of the layers: embeddings, the head of the masked genes.
BYTES_OF_HEAD = 13e3 / 512
# With gradient checkpointing a layer keeps its input alone, in float32.
BYTES_OF_INPUT = 4.0
# float32: weight, gradient and AdamW's two moments of what is trained.
BYTES_OF_TRAINED_WEIGHT, BYTES_OF_FROZEN_WEIGHT = 16, 4
GIB = 2**30


def predicted_memory(
    module: nn.Module, config: ScDMCConfig, n_tokens: int, gradient_checkpointing: bool, n_shards: int = 1
) -> float:
    """Bytes that a training step in bfloat16 with flash-attn takes on a GPU; float32 and ``sdpa`` take more.

    Parameters
    ----------
    module
        All weights, trained and frozen ones.
    config
        Sizes of the encoder.
    n_tokens
        Tokens of all streams that one process encodes at once.
    gradient_checkpointing
        Whether the states of layers are computed again.
    n_shards
        Processes over which the weights are spread.
    """
    trained = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
    frozen = sum(weight.numel() for weight in module.parameters()) - trained
    weights = (BYTES_OF_TRAINED_WEIGHT * trained + BYTES_OF_FROZEN_WEIGHT * frozen) / n_shards
    layers = config.num_hidden_layers * BYTES_OF_LAYER
    if gradient_checkpointing:
        layers = BYTES_OF_LAYER + config.num_hidden_layers * BYTES_OF_INPUT
    return weights + n_tokens * config.hidden_size * (layers + BYTES_OF_HEAD)


def require_memory(needed: float, free: float, total: float) -> None:
    """Refuse a run that does not fit into what is free on its GPU.

    Parameters
    ----------
    needed
        Bytes, at least.
    free, total
        Bytes of the GPU.

    Raises
    ------
    ScDMCError
        With the flags that make it smaller.
    """
    if needed > free:
        raise ScDMCError(
            f"the longest batch takes at least {needed / GIB:.1f} GiB, and {free / GIB:.1f} of {total / GIB:.1f} GiB "
            "are free on the GPU; add --gradient_checkpointing, split batches by --gradient_accumulation_steps, or "
            "bound them by --tokens_per_batch"
        )
