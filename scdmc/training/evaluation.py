"""Losses on held-out cells."""

from dataclasses import replace

import numpy as np
import torch

from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.batch_order import batch_order_of
from scdmc.training.distributed import n_processes, process_number
from scdmc.training.dual_stream import ScDMCForPretraining
from scdmc.training.masking import masked_batch
from scdmc.training.settings import EVALUATION_EPOCH, PretrainingSettings


@torch.no_grad()
def evaluate(
    module: ScDMCForPretraining,
    cells: TokenizedCells,
    held_out: np.ndarray,
    batch_size: int,
    settings: PretrainingSettings,
) -> dict[str, float]:
    """Losses and accuracies on held-out cells, whose masks are the same at every call and whose views are whole.

    MLM metrics are means over all masked genes of the held-out cells (weighted by expression in that stream), whatever
    the batches. The contrast depends on the number of negatives, so it is computed in batches as large as in training
    and averaged over their cells. Several processes share each batch as they do in training, so that none encodes more
    cells at once than there; all must call this.
    """
    was_training = module.training
    module.eval()
    sums: dict[str, float] = {}
    device = module.model.device
    if settings.tokens_per_batch is None:
        settings = replace(settings, batch_size=batch_size, gradient_accumulation_steps=1)
    for chosen in batch_order_of(cells, held_out, settings).batches(EVALUATION_EPOCH):
        # A batch with fewer cells than processes, of a handful of held-out cells, is computed by each of them.
        process = (process_number(), n_processes()) if len(chosen) >= n_processes() else (0, 1)
        batch = masked_batch(cells, held_out[chosen], EVALUATION_EPOCH, settings.evaluation_masking, *process)
        batch = batch.prepared(module.model.attention_back_end, device.type).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            parts = module.sums(batch)
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    module.train(was_training)
    return _means(sums, len(held_out), settings)


def _means(sums: dict[str, float], n_cells: int, settings: PretrainingSettings) -> dict[str, float]:
    """Sums over batches -> means; ``loss`` first."""
    means = {}
    for stream in ("rank", "expression"):
        total = sums.pop(f"{stream}_total")
        for name in (f"mlm_{stream}_loss", f"mlm_{stream}_accuracy"):
            value = sums.pop(name)
            if total > 0:
                means[name] = value / total
    means |= {name: value / n_cells for name, value in sums.items()}
    mlm = sum(means.get(f"mlm_{stream}_loss", 0.0) for stream in ("rank", "expression"))
    contrast = means.get("contrastive_loss", 0.0)
    return {"loss": settings.mlm_weight * mlm + settings.alpha * contrast, **means}
