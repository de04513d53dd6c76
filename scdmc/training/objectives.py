"""The losses: masked genes in two streams, and contrast between the streams.

Source: docs/method.md, "Masked-gene losses" and on.

Functions of tensors; they know nothing of models, data or devices.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from scdmc.model.packing import computing_type, without_autocast
from scdmc.training.settings import TEMPERATURE

# Rows of logits held at a time: on a CPU few enough for its cache (256 took 0.40 s where 512 took 0.48 s), on a GPU
# enough to keep it busy.
CHUNK_SIZE = {"cpu": 256, "cuda": 2048}


@dataclass(frozen=True)
class MaskedGeneLoss:
    """Result of :func:`masked_gene_loss`.

    Attributes
    ----------
    loss
        Scalar: sum of weight x cross entropy.
    cross_entropy
        Shape (n_masked,), without gradient.
    is_correct
        Shape (n_masked,): True where the likeliest gene is the true one.
    """

    loss: torch.Tensor
    cross_entropy: torch.Tensor
    is_correct: torch.Tensor


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Weighted sum of cross entropies of a linear layer, whose logits exist for one chunk of rows at a time.

    The gradients are made on the way forward, where the logits are at hand, and scaled on the way back.
    """

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx,
        states: torch.Tensor,
        decoder_weight: torch.Tensor,
        decoder_bias: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        dtype: torch.dtype,
        chunk_size: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        needs_gradient = any(context.needs_input_grad[:3])
        matrix, bias = decoder_weight.to(dtype), decoder_bias.to(dtype)
        cross_entropy = states.new_empty(len(states), dtype=torch.float32)
        is_correct = torch.empty(len(states), dtype=torch.bool, device=states.device)
        if needs_gradient:
            gradients = [
                torch.zeros_like(tensor, dtype=torch.float32) for tensor in (states, decoder_weight, decoder_bias)
            ]
        # One place for the logits of all chunks: memory that is new costs a CPU as much time as the product itself.
        shape = (min(chunk_size, len(states)), len(matrix))
        in_float32 = states.new_empty(shape, dtype=torch.float32)
        computed = in_float32 if dtype == torch.float32 else states.new_empty(shape, dtype=dtype)
        for start in range(0, len(states), chunk_size):
            rows = slice(start, start + chunk_size)
            chunk, chunk_labels = states[rows].to(dtype), labels[rows, None]
            slope = computed[: len(chunk)]  # (chunk_size, vocab_size)
            logits = slope if computed is in_float32 else in_float32[: len(chunk)]
            logits.copy_(torch.addmm(bias, chunk, matrix.T, out=slope))
            label_logits = logits.gather(1, chunk_labels).squeeze(1)
            largest, is_correct[rows] = _likeliest(logits, label_logits, chunk_labels.squeeze(1))
            probabilities = logits.sub_(largest[:, None]).exp_()
            totals = probabilities.sum(dim=1)
            cross_entropy[rows] = totals.log() + largest - label_logits
            if needs_gradient:
                # d loss / d logits = weight x (softmax - one-hot)
                probabilities.mul_((weights[rows] / totals)[:, None])
                probabilities.scatter_add_(1, chunk_labels, -weights[rows, None])
                slope.copy_(probabilities)
                gradients[0][rows] = (slope @ matrix).float()
                _add_product(gradients[1], slope.T, chunk)
                gradients[2] += probabilities.sum(dim=0)
        if needs_gradient:
            context.save_for_backward(*gradients)
            context.dtypes = (states.dtype, decoder_weight.dtype, decoder_bias.dtype)
        context.mark_non_differentiable(cross_entropy, is_correct)
        return (cross_entropy * weights).sum(), cross_entropy, is_correct

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, grad_loss: torch.Tensor, *unused: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        gradients = zip(context.saved_tensors, context.dtypes, strict=True)
        return (*((gradient * grad_loss).to(dtype) for gradient, dtype in gradients), None, None, None, None)


def _likeliest(
    logits: torch.Tensor, label_logits: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest logit of each row, and whether it is that of the label; of several, the first counts.

    Parameters
    ----------
    logits
        Shape (n_rows, vocab_size).
    label_logits, labels
        Shape (n_rows,).
    """
    if logits.device.type != "cpu":
        largest, likeliest = logits.max(dim=1)
        return largest, likeliest == labels
    # A CPU finds the value seven times as fast as the place, which is of interest where the value is the label's only.
    largest = logits.amax(dim=1)
    is_correct = label_logits == largest
    found = is_correct.nonzero().squeeze(1)
    is_correct[found] = logits[found].argmax(dim=1) == labels[found]
    return largest, is_correct


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Total += left @ right, with a float32 total whatever the type of the factors."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def masked_gene_loss(
    states: torch.Tensor,
    decoder_weight: torch.Tensor,
    decoder_bias: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    chunk_size: int | None = None,
) -> MaskedGeneLoss:
    """Weighted sum of the cross entropies of masked genes, without ever holding all their logits.

    Parameters
    ----------
    states
        Shape (n_masked, hidden_size): transformed states of the masked positions.
    decoder_weight, decoder_bias
        Shapes (vocab_size, hidden_size) and (vocab_size,).
    labels
        Shape (n_masked,), int64: the true tokens.
    weights
        Shape (n_masked,), float32 (see :func:`mean_weights`).
    chunk_size
        Rows whose logits are held at a time, as fits the device without it; changes speed and memory only.
    """
    device = states.device.type
    chunk_size = chunk_size or CHUNK_SIZE.get(device, CHUNK_SIZE["cuda"])
    dtype = computing_type(decoder_weight)
    with without_autocast(states):
        loss, cross_entropy, is_correct = _ChunkedCrossEntropy.apply(
            states, decoder_weight, decoder_bias, labels, weights, dtype, chunk_size
        )
    return MaskedGeneLoss(loss, cross_entropy, is_correct)


def mean_weights(values: torch.Tensor, total: torch.Tensor | None = None) -> torch.Tensor:
    """Weights that turn a weighted sum of cross entropies into their weighted mean.

    Rank stream: ``values`` of 1. Expression stream: the expression values of the masked genes, so that the scale of the
    loss does not depend on the data. Over several processes ``total`` is the global sum of the values.

    Parameters
    ----------
    values
        Shape (n_masked,), at least 0.
    total
        Scalar; the sum of ``values`` without it. No masked gene gives weights of 0, not NaN.
    """
    total = values.sum() if total is None else total
    return values / torch.where(total > 0, total, torch.ones_like(total))


def contrastive_similarities(
    queries: torch.Tensor, keys: torch.Tensor, temperature: float = TEMPERATURE
) -> torch.Tensor:
    """Cosine similarity of every query with every key, over the temperature; shape (n_queries, n_keys)."""
    return F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).T / temperature


def contrastive_loss(
    queries: torch.Tensor,
    keys: torch.Tensor,
    temperature: float = TEMPERATURE,
    is_same: torch.Tensor | None = None,
    past_keys: torch.Tensor | None = None,
    is_positive: torch.Tensor | None = None,
) -> torch.Tensor:
    """Symmetric InfoNCE of two views of the same cells (MoCo; docs/method.md, "Contrast between the streams").

    Parameters
    ----------
    queries, keys
        Shape (n_cells, hidden_size); row i of both is the same cell, the other rows are its negatives.
    temperature
        Divides the cosine similarities.
    is_same
        Shape (n_cells, n_cells): True where two cells have identical streams; they are not each other's negatives.
    past_keys
        Shape (n_past, hidden_size): keys of earlier batches, more negatives of the queries.
    is_positive
        Shape (n_cells, n_cells), symmetric: True where two cells should be as near as two views of one. The loss of a
        query is then the mean over its positives, itself among them (Khosla et al. 2020, L_out).
    """
    similarities = contrastive_similarities(queries, keys, temperature)
    own = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
    positive = own if is_positive is None else own | is_positive
    if is_same is not None:
        similarities = similarities.masked_fill(is_same & ~positive, float("-inf"))
    key_to_query = _mean_surprise(similarities.T, positive)
    if past_keys is not None:
        similarities = torch.cat([similarities, contrastive_similarities(queries, past_keys, temperature)], dim=1)
    return (_mean_surprise(similarities, positive) + key_to_query) / 2


def _mean_surprise(similarities: torch.Tensor, is_positive: torch.Tensor) -> torch.Tensor:
    """Mean over rows of the mean -ln softmax of their positives; columns beyond ``is_positive`` are negatives."""
    surprises = -similarities.log_softmax(dim=1)[:, : is_positive.shape[1]]
    return (surprises.masked_fill(~is_positive, 0.0).sum(dim=1) / is_positive.sum(dim=1)).mean()


def alignment(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of the two normalised views of a cell (Wang and Isola 2020); 0 is best."""
    return (F.normalize(queries, dim=-1) - F.normalize(keys, dim=-1)).square().sum(dim=-1).mean()


def uniformity(states: torch.Tensor) -> torch.Tensor:
    """Log mean Gaussian potential of pairs of normalised states (Wang and Isola 2020); 0 means collapse, -4 is best."""
    if len(states) < 2:
        return states.new_zeros(())
    return torch.pdist(F.normalize(states, dim=-1)).square().mul(-2).exp().mean().log()
