"""What every training of this project shares: parameter groups and schedules."""

import math

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameters with weight decay, and those without: biases and LayerNorm."""
    with_decay, without = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_plain = name.endswith("bias") or "layernorm" in name.lower()
            (without if is_plain else with_decay).append(parameter)
    return [{"params": with_decay, "weight_decay": weight_decay}, {"params": without, "weight_decay": 0.0}]


def warmup_then_cosine(done: float, warmup: float) -> float:
    """Share of the peak learning rate: a linear warm-up, then half a cosine down to 0.

    Parameters
    ----------
    done
        Share of the training that is done, from 0 to 1.
    warmup
        Share of the training that is warm-up.
    """
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / max(1e-12, 1.0 - warmup))))
