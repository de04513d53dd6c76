"""The pre-training model: encoder, masked-gene head, momentum copy, and the loss of a batch.

Source: docs/method.md, "Pre-training".
"""

import copy
from dataclasses import dataclass

import scipy.sparse
import torch
from torch import nn
from torch.nn import functional as F

from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.packing import without_autocast
from scdmc.training.distributed import gather_rows, global_sum, n_processes, own_part
from scdmc.training.masking import PretrainingBatch
from scdmc.training.objectives import (
    MaskedGeneLoss,
    alignment,
    contrastive_loss,
    contrastive_similarities,
    masked_gene_loss,
    mean_weights,
    uniformity,
)
from scdmc.training.settings import ObjectiveOptions


@dataclass(frozen=True)
class MaskedGenes:
    """The masked genes of a batch, judged.

    Attributes
    ----------
    judged
        Loss, cross entropies and hits (see :class:`scdmc.training.objectives.MaskedGeneLoss`).
    stream_values
        Stream -> shape (n_masked,): what each masked gene counts in the mean of its stream; 0 in the other one.
    stream_totals
        Stream -> their sum over all processes.
    """

    judged: MaskedGeneLoss
    stream_values: dict[str, torch.Tensor]
    stream_totals: dict[str, torch.Tensor]

    def sums(self) -> dict[str, torch.Tensor]:
        """Weighted sums of losses and hits of each stream on this process, and the sums of the weights."""
        sums = {}
        for stream, values in self.stream_values.items():
            sums[f"mlm_{stream}_loss"] = (self.judged.cross_entropy * values).sum()
            sums[f"mlm_{stream}_accuracy"] = (self.judged.is_correct * values).sum()
            sums[f"{stream}_total"] = values.sum()
        return sums


class ScDMCForPretraining(nn.Module):
    """The model, its momentum copy, and the loss of a batch.

    Parameters
    ----------
    model
        The encoder with its masked-gene head.
    options
        See :class:`ObjectiveOptions`.

    Attributes
    ----------
    positive_pairs
        Shape (n_rows, n_rows), bool, symmetric, over the rows of the data: cells that are positives of each other in
        the contrast, beside their own other view. None, as published, for none; for one process only.
    """

    def __init__(self, model: ScDMCForMaskedLM, options: ObjectiveOptions | None = None) -> None:
        super().__init__()
        self.model = model
        self.options = options or ObjectiveOptions()
        self.momentum_encoder = copy.deepcopy(model.bert).requires_grad_(False).eval()
        self.momentum_encoder.recompute_layers = False
        size = (self.options.queue_size, model.config.hidden_size)
        for stream in ("rank", "expression"):
            self.register_buffer(f"{stream}_queue", torch.zeros(size))
        self.register_buffer("queue_filled", torch.zeros((), dtype=torch.int64))
        self.positive_pairs: scipy.sparse.csr_array | None = None
        if not self.options.mlm_weight:
            # Its matrix is that of the word embeddings, which the contrast trains.
            model.cls.predictions.transform.requires_grad_(False)
            model.cls.predictions.decoder.bias.requires_grad_(False)

    def train(self, mode: bool = True) -> "ScDMCForPretraining":
        """Training mode for the model; the keys of the momentum encoder never see dropout."""
        super().train(mode)
        self.momentum_encoder.eval()
        return self

    def compile_layers(self) -> None:
        """Compile the parts of every layer that see all tokens alike; attention has kernels of its own."""
        for encoder in (self.model.bert, self.momentum_encoder):
            for layer in encoder.encoder.layer:
                layer.mlp.compile(dynamic=True)
                layer.attention.output.compile(dynamic=True)

    def forward(self, batch: PretrainingBatch) -> dict[str, torch.Tensor]:
        """Losses and metrics of a batch, scalars; only ``loss`` carries a gradient.

        Over several processes ``loss`` is scaled so that the mean of the processes' gradients, which is what
        DistributedDataParallel takes, is the gradient of the joined batch.
        """
        states = self.model.bert.encode(batch.streams)  # (total_tokens of all streams, hidden_size)
        contrast, metrics = self.contrast(states, batch)
        mlm_weight, alpha = self.options.mlm_weight, self.options.alpha
        if not mlm_weight:
            loss = alpha * contrast
            return {"loss": loss * n_processes(), **metrics, "total_loss": loss.detach()}
        genes = self.masked_genes(states, batch)
        loss = mlm_weight * genes.judged.loss + alpha * contrast
        with torch.no_grad():
            sums = genes.sums()
            for stream in genes.stream_values:
                total = genes.stream_totals[stream]
                total = torch.where(total > 0, total, torch.ones_like(total))
                for name in (f"mlm_{stream}_loss", f"mlm_{stream}_accuracy"):
                    metrics[name] = global_sum(sums[name]) / total
            metrics["total_loss"] = mlm_weight * global_sum(genes.judged.loss) + alpha * contrast
        return {"loss": loss * n_processes(), **metrics}

    def sums(self, batch: PretrainingBatch) -> dict[str, torch.Tensor]:
        """What an evaluation adds up over batches: sums over masked genes, and over cells for the contrast.

        Of a batch that processes share, each gets the sums of all of it.
        """
        states = self.model.bert.encode(batch.streams)
        _, contrast = self.contrast(states, batch)
        over_cells = {name: value * sum(batch.cells_by_process) for name, value in contrast.items()}
        over_genes = self.masked_genes(states, batch).sums()
        if batch.is_shared:
            over_genes = {name: global_sum(value) for name, value in over_genes.items()}
        return over_genes | over_cells

    def masked_genes(self, states: torch.Tensor, batch: PretrainingBatch) -> MaskedGenes:
        """Judge the masked genes: the rank stream by their mean, the expression stream weighted by expression."""
        is_rank = torch.arange(len(batch.labels), device=states.device) < batch.n_masked_rank
        values = {"rank": is_rank.float(), "expression": batch.expression_values}
        local = torch.stack([weights.sum() for weights in values.values()])
        totals = dict(zip(values, global_sum(local) if self.training else local, strict=True))
        if self.options.published_objective:
            weights = sum(values.values()) / _tokens_of_a_stream(batch)
        else:
            weights = sum(mean_weights(values[stream], totals[stream]) for stream in values)
        head = self.model.cls.predictions
        masked_states = head.transform(states[batch.masked_positions])
        judged = masked_gene_loss(masked_states, head.decoder.weight, head.decoder.bias, batch.labels, weights)
        return MaskedGenes(judged, values, totals)

    def contrast(self, states: torch.Tensor, batch: PretrainingBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Contrast of each stream's queries with the other stream's keys, and what it looks like.

        Without two streams there is nothing to contrast: a loss of 0.
        """
        positions = batch.streams.cls_positions
        if len(positions) != 2 * batch.n_cells:
            return states.new_zeros(()), {}
        with torch.no_grad():
            keys = self.momentum_encoder.encode_cls(batch.streams).chunk(2)
        queries = states[positions].float().chunk(2)  # rank and expression, (n_cells, hidden_size) each
        keys = tuple(key.float() for key in keys)
        fingerprints = batch.fingerprints
        if batch.is_shared:
            queries = tuple(gather_rows(query, batch.cells_by_process) for query in queries)
            keys = tuple(gather_rows(key, batch.cells_by_process) for key in keys)
            fingerprints = gather_rows(fingerprints, batch.cells_by_process)
        is_same = fingerprints[:, None] == fingerprints[None, :]
        is_positive = self._positives(batch)
        queues = self._past_keys()
        with without_autocast(states):  # bfloat16 would move similarities by a tenth
            loss = sum(
                contrastive_loss(
                    queries[stream], keys[1 - stream], self.options.temperature, is_same, queues[1 - stream],
                    is_positive,
                )
                for stream in (0, 1)
            ) / 2  # fmt: skip
            with torch.no_grad():
                metrics = {
                    "contrastive_loss": loss.detach(),
                    "contrastive_accuracy": _share_of_nearest(queries, keys),
                    "alignment": alignment(queries[0], keys[1]),
                    "uniformity": uniformity(queries[0]),
                }
        with torch.no_grad():
            if self.training and self.options.queue_size:
                self._remember(keys)
        return loss, metrics

    def _positives(self, batch: PretrainingBatch) -> torch.Tensor | None:
        """Which cells of the batch are positives of each other, shape (n_cells, n_cells); None without such pairs."""
        if self.positive_pairs is None or not self.training:
            return None
        rows = batch.cells.numpy()
        return torch.from_numpy(self.positive_pairs[rows][:, rows].toarray()).to(batch.labels.device)

    def _past_keys(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The filled part of the queues of both streams; None without queues."""
        if not self.options.queue_size:
            return None, None
        n_filled = min(int(self.queue_filled), self.options.queue_size)
        return self.rank_queue[:n_filled], self.expression_queue[:n_filled]

    def _remember(self, keys: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Put the keys of a batch into the queues in place of the oldest ones."""
        n_keys = min(len(keys[0]), self.options.queue_size)
        places = (self.queue_filled + torch.arange(n_keys, device=keys[0].device)) % self.options.queue_size
        self.rank_queue[places] = F.normalize(keys[0][:n_keys], dim=-1)
        self.expression_queue[places] = F.normalize(keys[1][:n_keys], dim=-1)
        self.queue_filled += n_keys

    @torch.no_grad()
    def update_momentum_encoder(self, momentum: float) -> None:
        """Move the momentum encoder towards the encoder: key = m key + (1 - m) query, once per optimizer step."""
        keys, queries = (
            [own_part(parameter.detach()) for parameter in encoder.parameters()]
            for encoder in (self.momentum_encoder, self.model.bert)
        )
        torch._foreach_lerp_(keys, queries, 1.0 - momentum)


def _tokens_of_a_stream(batch: PretrainingBatch) -> torch.Tensor:
    """Real tokens of one stream of the batch, over all processes: the divisor of the published objective."""
    lengths = batch.streams.layout.lengths
    n_tokens = sum(lengths) / (len(lengths) / batch.n_cells)
    return global_sum(torch.tensor(n_tokens + 1e-8, device=batch.labels.device))


def _share_of_nearest(queries: tuple[torch.Tensor, ...], keys: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """How often the nearest key of a query is that of the same cell, over both directions."""
    cells = torch.arange(len(queries[0]), device=queries[0].device)
    hits = [contrastive_similarities(queries[i], keys[1 - i]).argmax(dim=1) == cells for i in (0, 1)]
    return torch.cat(hits).float().mean()
