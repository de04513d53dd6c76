"""What the losses should be, written as plainly as can be."""

import torch
import torch.nn.functional as F


def published_mlm_loss(
    logits: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """MLM loss of the published code: divided by all real tokens, whatever the number of masked ones.

    Parameters
    ----------
    logits
        Shape (n_cells, length, vocab_size).
    labels
        Shape (n_cells, length), -100 where unlabelled.
    attention_mask
        Shape (n_cells, length).
    weights
        Shape (n_cells, length); 1 without it.
    """
    cross_entropy = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
    cross_entropy = cross_entropy.view_as(labels) * attention_mask
    if weights is not None:
        cross_entropy = cross_entropy * weights
    return cross_entropy.sum() / (attention_mask.sum() + 1e-8)
