"""How well masked genes can be guessed without any biology: the lines that a loss curve must be read against."""

from collections.abc import Mapping

import numpy as np

from scdmc.genes.vocabulary import EOS_TOKEN_ID, MASK_TOKEN_ID
from scdmc.tokens.tokenized_cells import TokenizedCells, gather_index
from scdmc.training.masking import PretrainingBatch, masked_batch
from scdmc.training.settings import MaskingOptions

# Ranks are binned by factors of the square root of 2, so that the first ranks have bins of their own.
BINS_PER_DOUBLING = 2


CELLS_PER_BLOCK = 256


def guessing_lines(
    cells: TokenizedCells, training: np.ndarray, held_out: np.ndarray, masking: MaskingOptions, epoch: int
) -> dict[str, float]:
    """Cross entropy, in nats, of guesses from position alone, for the masked genes of the held-out cells.

    The frequencies come from the training cells. Means are weighted as the losses are: rank stream plain, expression
    stream by expression value.

    Parameters
    ----------
    cells
        The data.
    training, held_out
        Which cells, as indices.
    masking
        How held-out cells are masked.
    epoch
        The epoch of the evaluation, which decides which genes are masked.

    Returns
    -------
    ``rank_unigram`` and ``expression_unigram`` (the frequency of each gene), ``rank_given_rank`` (its frequency at that
    rank), and, where the expression stream stands in ascending ids, ``expression_given_neighbours`` (its frequency
    among the genes whose ids lie between its two unmasked neighbours).
    """
    vocab_size = 1 + max(int(cells.rank_ids.max()), int(cells.expression_ids.max()))
    counts = _counts_by_rank(cells, training, vocab_size)
    unigram = _frequencies(counts.sum(axis=0) + 0.5)
    # Few cells say little of a gene at a rank: its frequency anywhere counts as one more sighting per known gene.
    prior = np.count_nonzero(counts.any(axis=0))
    at_rank = (counts + prior * unigram) / (counts.sum(axis=1, keepdims=True) + prior)
    cumulative = np.concatenate([[0.0], np.cumsum(unigram)])
    sums = np.zeros(4)
    weights = np.zeros(2)
    for start in range(0, len(held_out), CELLS_PER_BLOCK):
        batch = masked_batch(cells, held_out[start : start + CELLS_PER_BLOCK], epoch, masking)
        labels, values = batch.labels.numpy(), batch.expression_values.numpy().astype(np.float64)
        n_rank = batch.n_masked_rank
        ranks = _places(batch)[:n_rank]
        low, high = _unmasked_neighbours(batch, vocab_size)
        bracket = cumulative[high[n_rank:]] - cumulative[low[n_rank:] + 1]
        expression = -np.log(unigram[labels[n_rank:]])
        sums += [
            -np.log(unigram[labels[:n_rank]]).sum(),
            -np.log(at_rank[_rank_bin(ranks), labels[:n_rank]]).sum(),
            (values[n_rank:] * expression).sum(),
            (values[n_rank:] * (expression + np.log(np.maximum(bracket, unigram[labels[n_rank:]])))).sum(),
        ]
        weights += [n_rank, values.sum()]
    rank, expression = np.maximum(weights, 1e-12)
    lines = {"rank_unigram": sums[0] / rank, "rank_given_rank": sums[1] / rank,
             "expression_unigram": sums[2] / expression}  # fmt: skip
    if masking.expression_order == "token_id":
        lines["expression_given_neighbours"] = sums[3] / expression
    return {name: float(value) for name, value in lines.items()}


def best_guess(guesses: Mapping[str, float], stream: str) -> float:
    """The lowest of a stream's lines: what a loss must be below to know more than frequency and position.

    Parameters
    ----------
    guesses
        ``guessing.json`` of a pre-trained model: name of the line, with ``guessing_`` before it -> nats.
    stream
        ``rank`` or ``expression``.
    """
    return min(value for name, value in guesses.items() if name.startswith(f"guessing_{stream}_"))


def _rank_bin(ranks: np.ndarray) -> np.ndarray:
    """Bin of ranks that start at 1."""
    return np.floor(np.log2(ranks) * BINS_PER_DOUBLING).astype(np.int64)


def _counts_by_rank(cells: TokenizedCells, training: np.ndarray, vocab_size: int) -> np.ndarray:
    """How often each gene stands in each bin of ranks, shape (n_bins, vocab_size)."""
    n_bins = 1 + int(_rank_bin(np.array([max(1, cells.rank_lengths.max())]))[0])
    counts = np.zeros(n_bins * vocab_size)
    for start in range(0, len(training), CELLS_PER_BLOCK):
        positions, offsets = gather_index(cells.rank_offsets, training[start : start + CELLS_PER_BLOCK])
        ids = cells.rank_ids[positions].astype(np.int64)
        ranks = np.arange(len(ids)) - np.repeat(offsets[:-1], np.diff(offsets))
        is_gene = ids > EOS_TOKEN_ID
        counts += np.bincount(_rank_bin(ranks[is_gene]) * vocab_size + ids[is_gene], minlength=len(counts))
    return counts.reshape(n_bins, vocab_size)


def _frequencies(counts: np.ndarray) -> np.ndarray:
    """Share of each gene; special tokens have none."""
    counts = counts.copy()
    counts[: EOS_TOKEN_ID + 1] = 0.0
    return counts / counts.sum()


def _places(batch: PretrainingBatch) -> np.ndarray:
    """Place of each masked gene in its stream, ``<cls>`` being 0."""
    starts = batch.streams.layout.cu_seqlens.numpy().astype(np.int64)
    positions = batch.masked_positions.numpy()
    return positions - starts[np.searchsorted(starts, positions, side="right") - 1]


def _unmasked_neighbours(batch: PretrainingBatch, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the nearest tokens that show themselves before and after each masked gene.

    At the ends of a cell that is the last special token, and one above the highest gene.
    """
    ids = batch.streams.input_ids.numpy().copy()
    is_hidden = ids == MASK_TOKEN_ID
    # The published objective labels genes that it does not hide.
    is_hidden[batch.masked_positions.numpy()] = True
    place = np.arange(len(ids))
    before = np.maximum.accumulate(np.where(is_hidden, -1, place))
    after = np.minimum.accumulate(np.where(is_hidden, len(ids), place)[::-1])[::-1]
    masked = batch.masked_positions.numpy()
    low = np.maximum(ids[before[masked]], EOS_TOKEN_ID)
    high = ids[after[masked]]
    return low, np.where(high == EOS_TOKEN_ID, vocab_size, high)
