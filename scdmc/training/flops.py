"""Floating-point operations of a training step, and what a GPU can do of them."""

import re

from scdmc.configuration import ScDMCConfig

# Peaks of GPUs in TFLOP/s by their data sheets (NVIDIA), without sparsity: part of the device's name, in bfloat16, in
# float32 without TF32. The first that fits counts.
PEAK_TFLOPS = (
    ("H100 PCIe", 756.0, 51.0), ("H100 NVL", 835.0, 60.0), ("H200 NVL", 835.0, 60.0), ("H100", 989.0, 67.0),
    ("H200", 989.0, 67.0), ("GH200", 989.0, 67.0), ("A100", 312.0, 19.5), ("A40", 149.7, 37.4), ("A30", 165.0, 10.3),
    ("A10", 125.0, 31.2), ("L40S", 362.0, 91.6), ("L40", 181.0, 90.5), ("L4", 121.0, 30.3),
)  # fmt: skip


def peak_flops(device_name: str, bf16: bool) -> float | None:
    """FLOP/s that a GPU of this name reaches at most; None if it is not among :data:`PEAK_TFLOPS`."""
    for name, in_bfloat16, in_float32 in PEAK_TFLOPS:
        if re.search(rf"\b{name}\b", device_name):
            return 1e12 * (in_bfloat16 if bf16 else in_float32)
    return None


def training_flops(
    config: ScDMCConfig, n_tokens: int, sum_of_squared_lengths: int, masked_share: float = 0.15
) -> float:
    """Floating-point operations of forward, backward and momentum pass, a multiply-add counted as two.

    Matrices of the layers: 2 x parameters per token forward, twice that backward, once more for the momentum pass,
    whose last layer computes keys and values only (of queries those of ``<cls>``). Attention: 4 x length x hidden_size
    per token and layer forward, without counting what a kernel computes again. The masked-gene head counts for
    ``masked_share`` of the tokens. Element-wise work is left out.

    Parameters
    ----------
    config
        Sizes of the model.
    n_tokens
        Tokens of all streams.
    sum_of_squared_lengths
        Sum over the streams of their squared lengths.
    masked_share
        Share of the tokens that reach the head; 0 without weight on the masked genes.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    per_layer = 4 * hidden**2 + 3 * hidden * config.intermediate_size
    layer = 2 * per_layer * n_tokens + 4 * hidden * sum_of_squared_lengths
    momentum = (layers - 1) * layer + 4 * hidden**2 * n_tokens
    head = 2 * masked_share * n_tokens * (hidden**2 + hidden * config.vocab_size)
    return 3.0 * layers * layer + momentum + 3.0 * head
