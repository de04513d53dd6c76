"""What a model says of transcription factors and targets: three scores, each a matrix of factors x targets.

* association: cosine of gene embeddings. It has no direction.
* attention: how much the target reads of the factor, against what readers of its rank read of genes of that rank.
* perturbation: what happens to the predicted probability of the target when the factor is taken out or raised.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from scdmc.errors import ScDMCError
from scdmc.gene_analysis.attention_maps import attention_batches, eager_attention, layer_weights
from scdmc.gene_analysis.data import GeneData
from scdmc.gene_analysis.edits import edit_genes
from scdmc.gene_analysis.states import GeneEmbeddings, centred_units
from scdmc.genes.vocabulary import EOS_TOKEN_ID, MASK_TOKEN_ID
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.packing import NO_VALUE, UNKNOWN_VALUE, PackedCells, packed_streams
from scdmc.progress import progress_bar
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.masking import hashed_uniform

RANK_BINS = 10


EXPECTATION_CELLS = 100


# So many cells of even attention are added to what is seen and to what is expected: rare pairs stay near 0.
PSEUDO_CELLS = 5.0


MASK_FOLDS = 5


LOGIT_ROWS = 512


def association_scores(embedded: GeneEmbeddings, factors: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cosine of centred gene embeddings of one cell type, shape (n_factors, n_targets); 0 for genes without one."""
    row_of = {int(token): row for row, token in enumerate(embedded.table["token"])}
    units = np.vstack([centred_units(embedded.means), np.zeros((1, embedded.means.shape[1]), np.float32)])
    factor_rows, target_rows = ([row_of.get(int(token), -1) for token in tokens] for tokens in (factors, targets))
    return units[factor_rows] @ units[target_rows].T


def attention_scores(
    data: GeneData,
    factors: np.ndarray,
    targets: np.ndarray,
    stream: str = "rank",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    show_progress: bool = True,
) -> np.ndarray:
    """Directed scores factor -> target: the target attends to the factor more than their ranks explain.

    Over the cells that have both, log((seen + k) / (expected + k)): ``seen`` is the attention that the target pays to
    the factor, mean over layers and heads, times the length of the cell; ``expected`` the same for any two genes of
    those ranks (tenths of the cell); k keeps pairs that are seldom together near 0.

    Parameters
    ----------
    data
        The cells of one type.
    factors, targets
        Tokens, shape (n_factors,) and (n_targets,).
    stream
        ``rank`` or ``expression``.
    layers, heads
        Which ones, from 0; all without them.
    show_progress
        Whether to show a progress bar.

    Returns
    -------
    Shape (n_factors, n_targets), float64; 0 where the two are never together.
    """
    vocab_size = len(data.model_directory.vocabulary)
    sample = np.random.default_rng(0).permutation(len(data.cells))[:EXPECTATION_CELLS]
    totals, pairs = np.zeros((RANK_BINS, RANK_BINS)), np.zeros((RANK_BINS, RANK_BINS))
    for _, attention, bins in _mean_attention(data, data.cells.select(sample), stream, layers, heads, None):
        one_hot = np.eye(RANK_BINS)[bins]
        totals += one_hot.T @ attention @ one_hot
        pairs += np.outer(one_hot.sum(axis=0), one_hot.sum(axis=0))
    expected = totals / np.maximum(pairs, 1)
    factor_of, target_of = _index_of(factors, vocab_size), _index_of(targets, vocab_size)
    seen, awaited = np.zeros((len(factors), len(targets))), np.zeros((len(factors), len(targets)))
    what = "attention of the network" if show_progress else None
    for genes, attention, bins in _mean_attention(data, data.cells, stream, layers, heads, what):
        columns, rows = np.flatnonzero(factor_of[genes] >= 0), np.flatnonzero(target_of[genes] >= 0)
        place = np.ix_(factor_of[genes[columns]], target_of[genes[rows]])
        seen[place] += attention[np.ix_(rows, columns)].T
        awaited[place] += expected[np.ix_(bins[rows], bins[columns])].T
    return np.log((seen + PSEUDO_CELLS) / (awaited + PSEUDO_CELLS))


def _index_of(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    index = np.full(vocab_size, -1, dtype=np.int64)
    index[tokens] = np.arange(len(tokens))
    return index


def _mean_attention(
    data: GeneData, cells: TokenizedCells, stream: str, layers: Sequence[int] | None, heads: Sequence[int] | None,
    what: str | None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:  # fmt: skip
    """Yield genes, attention among them times the cell's length (n_genes, n_genes), and bin of their rank, per cell."""
    encoder = data.encoder
    layers = set(range(encoder.config.num_hidden_layers) if layers is None else layers)
    heads = sorted(set(range(encoder.config.num_attention_heads) if heads is None else heads))
    with eager_attention(encoder):
        for chosen, batch in attention_batches(encoder, cells, stream, what):
            sums = [0.0] * len(chosen)
            for layer, weights in enumerate(layer_weights(encoder, batch)):
                if layer in layers:
                    sums = [total + of_cell[heads].mean(dim=0) for total, of_cell in zip(sums, weights, strict=True)]
            ids = batch.input_ids.cpu().numpy()
            starts = np.cumsum([0, *batch.layout.lengths])
            for cell, total in enumerate(sums):
                genes = ids[starts[cell] + 1 : starts[cell + 1] - 1]
                attention = total[1:-1, 1:-1].cpu().numpy() * (len(total) / len(layers))
                row = chosen[cell]
                ranked = cells.rank_ids[cells.rank_offsets[row] + 1 : cells.rank_offsets[row + 1] - 1]
                order = np.argsort(ranked, kind="stable")
                rank = order[np.searchsorted(ranked[order], genes)]
                yield genes, attention, rank * RANK_BINS // max(1, len(ranked))


@dataclass(frozen=True)
class PerturbationScores:
    """What perturbing factors does.

    Attributes
    ----------
    effect
        Mean change of the log probability of each target that the presence (or rise) of the factor brings, shape
        (n_factors, n_targets); NaN where no cell could tell.
    cls_shift
        Mean 1 - cosine of ``<cls>`` before and after, shape (n_factors,); NaN for a factor that no cell has.
    n_cells
        Cells in which each factor was perturbed, shape (n_factors,).
    """

    effect: np.ndarray
    cls_shift: np.ndarray
    n_cells: np.ndarray


@torch.inference_mode()
def perturbation_scores(
    data: GeneData,
    factors: np.ndarray,
    targets: np.ndarray,
    stream: str = "rank",
    edit: str = "remove",
    n_cells: int = 8,
    seed: int = 42,
    show_progress: bool = True,
) -> PerturbationScores:
    """In-silico perturbation of each factor in cells that have it.

    Each cell is read five times, another fifth of its genes masked each time (never the factor), with the factor and
    after the edit; what is compared is the log probability that the model gives to the masked gene itself.

    Parameters
    ----------
    data
        The cells of one type; the model needs its masked-gene head.
    factors, targets
        Tokens.
    stream
        ``rank`` or ``expression``.
    edit
        ``remove`` or ``raise`` (:func:`scdmc.gene_analysis.edits.edit_genes`).
    n_cells
        Cells for each factor, drawn with the seed.
    seed
        Of the cells and masks.
    show_progress
        Whether to show a progress bar.

    Raises
    ------
    ScDMCError
        If the model has no masked-gene head.
    """
    if not isinstance(data.model, ScDMCForMaskedLM):
        raise ScDMCError("perturbation scores need the masked-gene head of a pre-trained model; this one has none")
    target_of = _index_of(targets, len(data.model_directory.vocabulary))
    effect, counts = np.zeros((len(factors), len(targets))), np.zeros((len(factors), len(targets)))
    shifts, used = np.full(len(factors), np.nan), np.zeros(len(factors), dtype=np.int64)
    generator = np.random.default_rng(seed)
    cell_of_token = np.repeat(np.arange(len(data.cells)), data.cells.rank_lengths)
    for number, factor in enumerate(progress_bar(factors, desc="perturb factors", disable=not show_progress)):
        having = np.unique(cell_of_token[data.cells.rank_ids == factor])
        drawn = np.sort(generator.choice(having, min(n_cells, len(having)), replace=False))
        if not len(drawn):
            continue
        before = data.cells.select(drawn)
        after = edit_genes(before, [np.array([factor])] * len(drawn), edit, data.model_directory.context)
        states, log_p = zip(*(_read(data, cells, stream, factor, target_of, seed) for cells in (before, after)),
                            strict=True)  # fmt: skip
        sign = 1 if edit == "raise" else -1
        for cell in range(len(drawn)):
            change = sign * (log_p[1][cell] - log_p[0][cell])  # NaN where one of the two lacks the target
            is_known = np.isfinite(change)
            effect[number, is_known] += change[is_known]
            counts[number, is_known] += 1
        shifts[number] = float((1 - torch.cosine_similarity(states[0], states[1], dim=-1)).mean())
        used[number] = len(drawn)
    mean = np.divide(effect, counts, out=np.full(effect.shape, np.nan), where=counts > 0)
    return PerturbationScores(mean, shifts, used)


def _read(
    data: GeneData, cells: TokenizedCells, stream: str, factor: int, target_of: np.ndarray, seed: int
) -> tuple[torch.Tensor, np.ndarray]:
    """``<cls>`` states (n_cells, hidden_size), log probability of the targets (n_cells, n_targets), NaN if absent."""
    encoder, device = data.encoder, data.encoder.device
    packed = packed_streams(cells, np.arange(len(cells)), stream)
    states = encoder.encode_cls(packed.to(device)).float()
    ids = packed.input_ids.numpy()
    cell = np.repeat(np.arange(len(cells)), packed.layout.lengths)
    # The fold of a gene depends on the gene, so that it is the same before and after the edit.
    fold = (hashed_uniform(seed, 0, 0, cells.rows[cell], ids) * MASK_FOLDS).astype(np.int64)
    is_asked = (target_of[ids] >= 0) & (ids != factor)
    log_p = np.full((len(cells), int(target_of.max()) + 1), np.nan)
    for number in range(MASK_FOLDS):
        is_masked = (fold == number) & (ids > EOS_TOKEN_ID) & (ids != factor)
        asked = np.flatnonzero(is_masked & is_asked)
        if len(asked):
            hidden = _with_masks(packed, is_masked).to(device)
            asked_states = encoder.encode(hidden)[torch.from_numpy(asked).to(device)]
            log_p[cell[asked], target_of[ids[asked]]] = _log_probabilities(data.model, asked_states, ids[asked])
    return states, log_p


def _with_masks(packed: PackedCells, is_masked: np.ndarray) -> PackedCells:
    masked = torch.from_numpy(is_masked)
    values = packed.expression_values
    hidden = values.masked_fill(masked & (values != NO_VALUE), UNKNOWN_VALUE)
    return replace(packed, input_ids=packed.input_ids.masked_fill(masked, MASK_TOKEN_ID), expression_values=hidden)


def _log_probabilities(model: ScDMCForMaskedLM, states: torch.Tensor, genes: np.ndarray) -> np.ndarray:
    """Log probability of one gene at each state, shape (n,); logits of a few hundred states at a time."""
    parts = []
    for rows, wanted in zip(states.split(LOGIT_ROWS), torch.from_numpy(genes).split(LOGIT_ROWS), strict=True):
        logits = model.cls(rows).float()
        parts.append(logits.gather(1, wanted.to(logits.device)[:, None])[:, 0] - logits.logsumexp(dim=1))
    return torch.cat(parts).cpu().numpy()
