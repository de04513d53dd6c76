"""The scDMC model in one file, for transformers' Auto classes where scDMC itself is not installed.

Needs torch and transformers: AutoModel.from_pretrained(FOLDER, trust_remote_code=True).
Made by scDMC 0.1.0 from its source (MIT licence); change the source, not this file.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextlib import nullcontext
from dataclasses import dataclass
from dataclasses import replace
from itertools import groupby
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend
from torch.nn.attention import sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_outputs import SequenceClassifierOutput
import functools
import importlib
import importlib.util
import logging
import math
import torch


class ScDMCError(Exception):
    """Something the user can fix: a file, a column, an option.

    The message is one line that says what is wrong, where (file, column, first bad values) and what to do.
    Scripts print it as ``error: ...`` and leave with status 2; every other exception is a bug and shows its traceback.
    """


STREAMS = ("rank", "expression", "both")


POOLINGS = ("cls", "mean", "weighted")


BACK_ENDS = ("auto", "flash", "flex", "sdpa", "eager")


EXPRESSION_INPUTS = ("none", "value")


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes and dropouts of the encoder; the defaults are the published ones, but for the attention dropout.

    ``attention_probs_dropout_prob`` is 0.1 in the published model; 0.0 lets all attention back ends agree.
    See :class:`scdmc.configuration.ScDMCConfig`, whose defaults these are.
    """

    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    intermediate_size: int = 1024
    hidden_dropout_prob: float = 0.02
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    expression_input: str = EXPRESSION_INPUTS[0]


PUBLISHED_SIZES = EncoderSizes()


class ScDMCConfig(PreTrainedConfig):
    """Sizes and dropouts of the encoder; the defaults are the published ones, but for the attention dropout.

    ``attention_probs_dropout_prob`` is 0.1 in the published model; 0.0 here lets all attention back ends agree.
    ``max_position_embeddings`` is the longest stream (L, ``<cls>`` and ``<eos>`` included). ``classifier_stream``,
    ``classifier_pooling`` (``cls``, ``mean`` or ``weighted``) and ``classifier_dropout`` matter to cell
    classification only. ``embedding_stream``, ``embedding_pooling`` and ``embedding_layer`` (None for the last) say how
    the states of a cell become its embedding, unless a user chooses.
    ``expression_input`` is ``none`` (published) or ``value``: the value of each gene of the expression stream enters
    through a small network added to its embedding.
    """

    model_type = "scdmc"

    vocab_size: int = 60534
    hidden_size: int = PUBLISHED_SIZES.hidden_size
    num_hidden_layers: int = PUBLISHED_SIZES.num_hidden_layers
    num_attention_heads: int = PUBLISHED_SIZES.num_attention_heads
    intermediate_size: int = PUBLISHED_SIZES.intermediate_size
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = PUBLISHED_SIZES.hidden_dropout_prob
    attention_probs_dropout_prob: float | int = PUBLISHED_SIZES.attention_probs_dropout_prob
    max_position_embeddings: int = 2048
    type_vocab_size: int = 1
    initializer_range: float = PUBLISHED_SIZES.initializer_range
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    classifier_dropout: float | int = 0.1
    classifier_stream: str = "both"
    classifier_pooling: str = "cls"
    embedding_stream: str = "both"
    embedding_pooling: str = "cls"
    embedding_layer: int | None = None
    expression_input: str = PUBLISHED_SIZES.expression_input


PAD_TOKEN_ID, MASK_TOKEN_ID, CLS_TOKEN_ID, EOS_TOKEN_ID = range(4)


# How much shorter than the longest cell of a similar run another one may be. On a GPU a call costs more than padding.
LARGEST_PADDING = {"cpu": 0.1, "cuda": 0.5}


# Tokens of a block of FlexAttention's mask.
FLEX_BLOCK = 128


def for_device(choices: Mapping[str, float], device_type: str) -> float:
    """The choice for a kind of device; that for a CPU where there is none."""
    return choices.get(device_type, choices["cpu"])


@dataclass(frozen=True)
class PaddedRun:
    """Neighbouring cells, packed and padded.

    Attributes
    ----------
    start, stop
        Their tokens in the batch.
    is_token
        Shape (n_cells, length): False where there is padding.
    tokens
        Shape (n_cells * length,): the token of the run that stands at each place; some token where there is padding.
    places
        Shape (stop - start,): where each token stands.
    """

    start: int
    stop: int
    is_token: torch.Tensor
    tokens: torch.Tensor
    places: torch.Tensor

    @classmethod
    def of_cells(cls, start: int, lengths: list[int], starts: torch.Tensor) -> "PaddedRun":
        """The run of cells of these lengths, which start at ``starts`` (n_cells,); made where that tensor is.

        Nothing is sent to the device and nothing is waited for.
        """
        n_tokens, longest = sum(lengths), max(lengths)
        starts = starts - start
        ends = torch.cat([starts[1:], starts.new_full((1,), n_tokens)])
        place = torch.arange(longest, device=starts.device)
        is_token = place < (ends - starts)[:, None]
        tokens = (starts[:, None] + place.where(is_token, 0)).flatten()
        cells = torch.arange(len(lengths), device=starts.device)
        of_token = torch.repeat_interleave(cells, ends - starts, output_size=n_tokens)
        places = torch.arange(n_tokens, device=starts.device) - starts[of_token] + of_token * longest
        return cls(start, start + n_tokens, is_token, tokens, places)

    @property
    def length(self) -> int:
        """Tokens of the longest cell."""
        return self.is_token.shape[1]

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """(total_tokens, ...) -> (n_cells, length, ...)."""
        rows = _Padded.apply(packed[self.start : self.stop].flatten(1), self.tokens, self.places)
        return rows.view(*self.is_token.shape, *packed.shape[1:])

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """(n_cells, length, ...) -> (stop - start, ...)."""
        return padded.flatten(0, 1).index_select(0, self.places)


class _Padded(torch.autograd.Function):
    """Rows at their places in padded cells. Padding gets no gradient, so that the way back is a choice of rows too.

    Autograd's own way back adds rows up one by one, which is slow on a GPU and not the same at every run.
    """

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx, rows: torch.Tensor, tokens: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        context.save_for_backward(places)
        return rows.index_select(0, tokens)

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        (places,) = context.saved_tensors
        return gradient.index_select(0, places), None, None


@dataclass(frozen=True)
class PaddedRuns:
    """All cells of a batch in runs of similar lengths; the tensors of the runs are joined, to be sent as three.

    Attributes
    ----------
    sizes
        Cells, tokens of the longest cell and tokens of each run.
    is_token, tokens, places
        Those of :class:`PaddedRun`, flat and one run after the other.
    """

    sizes: tuple[tuple[int, int, int], ...]
    is_token: torch.Tensor
    tokens: torch.Tensor
    places: torch.Tensor

    @classmethod
    def of_runs(cls, runs: Sequence[PaddedRun]) -> "PaddedRuns":
        """Join runs that follow each other."""
        sizes = tuple((*run.is_token.shape, run.stop - run.start) for run in runs)
        is_token = torch.cat([run.is_token.flatten() for run in runs])
        return cls(sizes, is_token, torch.cat([run.tokens for run in runs]), torch.cat([run.places for run in runs]))

    def __iter__(self) -> Iterator[PaddedRun]:
        start = padded = 0
        for n_cells, length, n_tokens in self.sizes:
            stop, places = start + n_tokens, slice(padded, padded + n_cells * length)
            is_token = self.is_token[places].view(n_cells, length)
            yield PaddedRun(start, stop, is_token, self.tokens[places], self.places[start:stop])
            start, padded = stop, places.stop

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "PaddedRuns":
        """The same with its tensors moved."""
        return PaddedRuns(self.sizes, move(self.is_token), move(self.tokens), move(self.places))


@dataclass(frozen=True)
class SeenBlocks:
    """FlexAttention's block mask as tensors: a token sees the tokens of its own cell.

    ``create_block_mask`` asks for every pair of tokens, which takes memory for the square of all tokens of a batch. Of
    cells that lie one after the other, the tokens of a block see neighbouring blocks only: those of their cells.

    Attributes
    ----------
    cell
        Shape (total_tokens,), int32: the cell of each token.
    partial_counts, partial_numbers
        Shapes (1, 1, n_blocks) and (1, 1, n_blocks, most), int32: how many and which blocks each block sees in part.
    full_counts, full_numbers
        Likewise those that it sees whole, because all tokens of both are of one cell.
    """

    cell: torch.Tensor
    partial_counts: torch.Tensor
    partial_numbers: torch.Tensor
    full_counts: torch.Tensor
    full_numbers: torch.Tensor

    @classmethod
    def of_lengths(cls, lengths: Sequence[int]) -> "SeenBlocks":
        """The blocks of cells of these lengths, on the host."""
        cell_lengths = torch.tensor(lengths)
        ends = cell_lengths.cumsum(0)
        starts, total = ends - cell_lengths, int(ends[-1])
        first_tokens = torch.arange(0, total, FLEX_BLOCK)
        last_tokens = (first_tokens + FLEX_BLOCK).clamp(max=total) - 1
        first_cell, last_cell = (torch.searchsorted(ends, tokens, right=True) for tokens in (first_tokens, last_tokens))
        first_seen, last_seen = starts[first_cell] // FLEX_BLOCK, (ends[last_cell] - 1) // FLEX_BLOCK
        is_inside = (first_cell == last_cell) & (first_tokens + FLEX_BLOCK <= ends[first_cell])
        first_full, end_full = -(-starts[first_cell] // FLEX_BLOCK), ends[first_cell] // FLEX_BLOCK
        seen = first_seen[:, None] + torch.arange(int((last_seen - first_seen).max()) + 1)  # (n_blocks, most seen)
        is_seen = seen <= last_seen[:, None]
        is_full = is_inside[:, None] & (seen >= first_full[:, None]) & (seen < end_full[:, None])
        columns = []
        for listed in (is_seen & ~is_full, is_full):
            numbers = seen.gather(1, (~listed).int().argsort(dim=1, stable=True)).clamp(max=len(seen) - 1)
            columns += [listed.sum(dim=1), numbers]
        cell = torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), cell_lengths, output_size=total)
        return cls(cell, *(column[None, None].int() for column in columns))

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "SeenBlocks":
        """The same with its tensors moved."""
        return SeenBlocks(*(move(getattr(self, name)) for name in self.__dataclass_fields__))

    def block_mask(self) -> object:
        """FlexAttention's ``BlockMask``."""
        from torch.nn.attention.flex_attention import BlockMask

        cell = self.cell

        def same_cell(batch, head, query, key):  # noqa: ANN001  (FlexAttention's own signature)
            return cell[query] == cell[key]

        columns = self.partial_counts, self.partial_numbers, self.full_counts, self.full_numbers
        # What a block sees sees the block: the mask is symmetric.
        return BlockMask((len(cell), len(cell)), *columns, *columns, (FLEX_BLOCK, FLEX_BLOCK), same_cell)


@dataclass(frozen=True)
class PackedLayout:
    """Where the cells lie in a packed batch.

    Attributes
    ----------
    cu_seqlens
        Shape (n_cells + 1,), int32, on the device of the tokens.
    lengths
        Tokens of each cell, on the host, so that no back end has to wait for the device.
    runs, blocks
        What attention makes of it, where that was prepared (:meth:`prepared`).
    """

    cu_seqlens: torch.Tensor
    lengths: tuple[int, ...]
    runs: PaddedRuns | None = None
    blocks: SeenBlocks | None = None

    @classmethod
    def from_lengths(cls, lengths: list[int], device: torch.device | str = "cpu") -> "PackedLayout":
        """Layout of cells of these lengths."""
        cu_seqlens = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        torch.cumsum(torch.tensor(lengths, dtype=torch.int32), dim=0, out=cu_seqlens[1:])
        return cls(cu_seqlens.to(device, non_blocking=True), tuple(lengths))

    @property
    def first_tokens(self) -> torch.Tensor:
        """Where each cell starts, shape (n_cells,), int64."""
        return self.cu_seqlens[:-1].long()

    @property
    def max_length(self) -> int:
        """Tokens of the longest cell."""
        return max(self.lengths)

    def prepared(self, back_end: str, device_type: str) -> "PackedLayout":
        """The same with what attention by a back end on such a device reads, made where the layout is."""
        blocks = SeenBlocks.of_lengths(self.lengths) if back_end == "flex" else None
        return replace(self, runs=self.padded_runs(device_type), blocks=blocks)

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "PackedLayout":
        """The same with its tensors moved."""
        runs, blocks = (part and part.moved(move) for part in (self.runs, self.blocks))
        return PackedLayout(move(self.cu_seqlens), self.lengths, runs, blocks)

    def padded_runs(self, device_type: str) -> PaddedRuns:
        """Neighbouring cells of similar lengths, padded to the longest of them; made where the layout is."""
        runs, n_done, starts = [], 0, self.first_tokens
        for start, lengths in self.similar_runs(for_device(LARGEST_PADDING, device_type)):
            runs.append(PaddedRun.of_cells(start, lengths, starts[n_done : n_done + len(lengths)]))
            n_done += len(lengths)
        return PaddedRuns.of_runs(runs)

    def similar_runs(self, largest_padding: float = LARGEST_PADDING["cpu"]) -> list[tuple[int, list[int]]]:
        """Neighbouring cells of similar lengths as (first token, lengths); padding them all costs little."""
        runs, start, shortest, longest = [], 0, 0, 0
        for length in self.lengths:
            shortest, longest = min(shortest, length), max(longest, length)
            if runs and longest - shortest <= largest_padding * longest:
                runs[-1][1].append(length)
            else:
                runs.append((start, [length]))
                shortest = longest = length
            start += length
        return runs

    def equal_runs(self) -> list[tuple[int, int, int]]:
        """Neighbouring cells of one length as (first token, number of cells, length)."""
        runs, start = [], 0
        for length, cells in groupby(self.lengths):
            n_cells = len(list(cells))
            runs.append((start, n_cells, length))
            start += n_cells * length
        return runs


logger = logging.getLogger(__name__)


# Further components of queries and keys, of which one hides the padding: the kernels of a GPU want multiples of 8.
FURTHER_COMPONENTS = {"cpu": 1, "cuda": 8}


# Strides of the bias: kernels of a GPU copy it at every call unless they are multiples of this.
BIAS_ALIGNMENT = {"cpu": 1, "cuda": 16}


# Kernels of scaled_dot_product_attention on a GPU. cuDNN's is left out: it plans anew for each shape, rounds dropout to
# sixteenths, and reads a mask of another type as garbage in some versions.
CUDA_KERNELS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


# What the packages can do on a GPU.
FLASH_FUNCTION = "flash_attn_varlen_qkvpacked_func"


FLASH_HEAD_DIM, FLASH_CAPABILITY = 256, (8, 0)


FLEX_HEAD_DIM = 16


# Added to the score of a padded key: its weight is exactly 0 then (and float16 can hold it times sqrt(head_dim)).
PADDED_SCORE = -1e3


@functools.cache
def slopes_on(device: torch.device, n_heads: int) -> torch.Tensor:
    """:func:`alibi_slopes` on a device, sent there once: a GPU need not be waited for at every batch."""
    with torch.inference_mode(False):  # whoever asks first: others may train with them
        return alibi_slopes(n_heads).to(device)


def alibi_slopes(n_heads: int) -> torch.Tensor:
    """Slope of each head, shape (n_heads,), float32 (Press et al. 2022; docs/method.md, "Encoder").

    For a power of two 2^(-8 (i + 1) / n_heads); else those of the next lower power of two c, then every other one
    of 2c.
    """

    def slopes(power_of_two: int) -> list[float]:
        return [2.0 ** (-8.0 * (head + 1) / power_of_two) for head in range(power_of_two)]

    lower = 2 ** math.floor(math.log2(n_heads))
    return torch.tensor(slopes(lower) + slopes(2 * lower)[0::2][: n_heads - lower], dtype=torch.float32)


def choose_back_end(
    name: str, device: torch.device, dropout: float, dtype: torch.dtype = torch.float32, head_dim: int = 64
) -> str:
    """Resolve ``auto`` and refuse what cannot run.

    ``auto`` takes flash on a GPU where it can run (in 16 bits), else sdpa. It never takes flex, which compiles for a
    minute and has not been timed on a GPU.

    Raises
    ------
    ScDMCError
        If the back end is unknown, or cannot run: what it lacks.
    """
    if name not in BACK_ENDS:
        raise ScDMCError(f"--attention {name}: there are {', '.join(BACK_ENDS)}")
    if name == "auto":
        return "sdpa" if _flash_lacks(device, dtype, head_dim) else "flash"
    if name == "flash" and (lack := _flash_lacks(device, dtype, head_dim)):
        raise ScDMCError(f"--attention flash {lack}; take sdpa")
    if name == "flex" and dropout > 0:
        raise ScDMCError("--attention flex has no attention dropout; set it to 0 or take sdpa")
    if name == "flex" and device.type == "cuda" and head_dim < FLEX_HEAD_DIM:
        raise ScDMCError(
            f"--attention flex needs heads of {FLEX_HEAD_DIM} and more on a GPU, not {head_dim}; take sdpa"
        )
    if name == "flex" and device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ScDMCError("--attention flex needs the package triton on a GPU; take sdpa")
    return name


def _flash_lacks(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why flash cannot run, or None."""
    if device.type != "cuda" or importlib.util.find_spec("flash_attn") is None:
        return "needs a GPU and the package flash-attn"
    if dtype not in (torch.float16, torch.bfloat16):
        return "computes in 16 bits only: pass --dtype bfloat16"
    if head_dim > FLASH_HEAD_DIM:
        return f"has heads of at most {FLASH_HEAD_DIM}, not {head_dim}"
    if torch.cuda.get_device_capability(device) < FLASH_CAPABILITY:
        return "needs a GPU of the Ampere generation or later"
    return flash_import_error()


@functools.cache
def flash_import_error() -> str | None:
    """Why the package that is there does not give what is called, or None; asked once, and said once.

    flash-attn-4 brings a package of the same name without the function, and a build for another torch cannot be loaded.
    """
    try:
        found = importlib.import_module("flash_attn")
    except (ImportError, OSError) as error:
        lack = f"cannot import flash_attn ({str(error).partition(chr(10))[0]})"
    else:
        lack = (
            None if hasattr(found, FLASH_FUNCTION) else f"needs flash-attn 2: this flash_attn has no {FLASH_FUNCTION}"
        )
    if lack:
        logger.warning("warning: attention by flash %s", lack)
    return lack


class PackedAttention:
    """Attention of one batch: what all layers share is made once.

    Parameters
    ----------
    back_end
        ``flash``, ``flex``, ``sdpa`` or ``eager``.
    layout
        Where the cells lie.
    slopes
        Shape (n_heads,), float32.
    dropout
        Share of attention weights that are dropped; 0 outside of training.
    dtype
        Type in which queries, keys and values come.
    """

    def __init__(
        self, back_end: str, layout: PackedLayout, slopes: torch.Tensor, dropout: float, dtype: torch.dtype
    ) -> None:
        self.back_end = back_end
        self.layout = layout
        self.slopes = slopes
        self.dropout = dropout
        self.weights: list[torch.Tensor] | None = None
        # On a CPU queries in bfloat16 may meet a bias in float32, which holds every distance exactly.
        self.bias_dtype = torch.float32 if dtype == torch.bfloat16 and not slopes.is_cuda else dtype
        if back_end in ("sdpa", "eager"):
            self.bias = _alibi_bias(layout.max_length, slopes, self.bias_dtype)
        elif back_end == "flex":
            self.score_mod, self.block_mask = _flex_inputs(layout, slopes)

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """Attend within each cell: (total_tokens, 3, n_heads, head_dim) -> (total_tokens, n_heads, head_dim)."""
        return {"flash": self._flash, "flex": self._flex, "sdpa": self._sdpa, "eager": self._eager}[self.back_end](qkv)

    def _flash(self, qkv: torch.Tensor) -> torch.Tensor:
        # By name: transformers refuses a modelling file with an import of what is not installed.
        attend = getattr(importlib.import_module("flash_attn"), FLASH_FUNCTION)
        return attend(
            qkv,
            self.layout.cu_seqlens,
            self.layout.max_length,
            dropout_p=self.dropout,
            alibi_slopes=self.slopes,
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )

    def _flex(self, qkv: torch.Tensor) -> torch.Tensor:
        from torch.nn.attention.flex_attention import flex_attention

        attend = _compiled_flex_attention() if qkv.is_cuda else flex_attention
        query, key, value = qkv.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)  # 3 x (1, n_heads, total_tokens, head_dim)
        states = attend(query, key, value, score_mod=self.score_mod, block_mask=self.block_mask)
        return states.squeeze(0).transpose(0, 1)

    def _sdpa(self, qkv: torch.Tensor) -> torch.Tensor:
        if qkv.is_cuda:
            return self._sdpa_of_similar_runs(qkv)
        states = []
        for query, key, value, bias in self._equal_runs(qkv):
            run = _scaled_dot_product(query, key, value, bias, dropout=self.dropout)
            states.append(run.transpose(1, 2).flatten(0, 1))  # (n_cells * length, n_heads, head_dim)
        return torch.cat(states)

    def _sdpa_of_similar_runs(self, qkv: torch.Tensor) -> torch.Tensor:
        """As above in fewer and larger calls; on a GPU only, where launches cost more than gathering.

        Cells are padded to the longest of their run. A further component of queries (1) and keys (0, or very low where
        there is padding) hides the padding, so that one bias still serves the whole batch.
        """
        states, (_, _, n_heads, head_dim) = [], qkv.shape
        for run in self.padded_runs:
            further = torch.zeros(*run.is_token.shape, 3, 1, for_device(FURTHER_COMPONENTS, qkv.device.type),
                                  dtype=self.bias.dtype, device=qkv.device)  # fmt: skip
            further[:, :, 0, :, -1] = 1.0
            further[:, :, 1, :, -1].masked_fill_(~run.is_token[..., None], PADDED_SCORE * math.sqrt(head_dim))
            further = further.expand(-1, -1, -1, n_heads, -1)
            padded = torch.cat([run.pad(qkv).to(self.bias.dtype), further], dim=-1)
            query, key, value = padded.permute(2, 0, 3, 1, 4).unbind(0)
            bias = self.bias[:, :, : run.length, : run.length]
            attended = _scaled_dot_product(query, key, value, bias, self.dropout, head_dim**-0.5)
            states.append(run.unpad(attended.transpose(1, 2))[..., :head_dim].to(qkv.dtype))
        return torch.cat(states)

    def of_first_tokens(self, query: torch.Tensor, key_value: torch.Tensor) -> torch.Tensor:
        """What the first token of each cell attends to, by any back end: there is little to be computed.

        Parameters
        ----------
        query
            Shape (n_cells, n_heads, head_dim).
        key_value
            Shape (total_tokens, 2, n_heads, head_dim).

        Returns
        -------
        Shape (n_cells, n_heads, head_dim).
        """
        states, n_done = torch.empty_like(query), 0
        for run in self.padded_runs:
            cells = slice(n_done, n_done + len(run.is_token))
            key, value = run.pad(key_value).permute(2, 0, 3, 1, 4).unbind(0)  # (n_cells, n_heads, length, head_dim)
            bias = -self.slopes[:, None] * torch.arange(run.length, device=query.device)
            bias = bias.where(run.is_token[:, None], -math.inf).to(self.bias_dtype)[:, :, None]
            attended = _scaled_dot_product(query[cells, :, None], key, value, bias)
            states[cells] = attended[:, :, 0]
            n_done = cells.stop
        return states

    @functools.cached_property
    def padded_runs(self) -> PaddedRuns:
        """Neighbouring cells of similar lengths, padded to the longest of them: as prepared, or made now."""
        return self.layout.runs or self.layout.padded_runs(self.layout.cu_seqlens.device.type)

    def _eager(self, qkv: torch.Tensor) -> torch.Tensor:
        states, self.weights = [], []
        for query, key, value, bias in self._equal_runs(qkv):
            scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
            weights = torch.softmax(scores, dim=-1)  # (n_cells, n_heads, length, length)
            self.weights.extend(weights.unbind(0))
            run = F.dropout(weights, self.dropout).to(value.dtype) @ value
            states.append(run.transpose(1, 2).flatten(0, 1))
        return torch.cat(states)

    def _equal_runs(self, qkv: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Query, key, value (n_cells, n_heads, length, head_dim) and bias of neighbouring cells of one length.

        So no padding is ever computed, and one (n_heads, L, L) bias serves the whole batch.
        """
        for start, n_cells, length in self.layout.equal_runs():
            run = qkv[start : start + n_cells * length].unflatten(0, (n_cells, length))
            query, key, value = run.permute(2, 0, 3, 1, 4).unbind(0)
            yield query, key, value, self.bias[:, :, :length, :length]


def _alibi_bias(length: int, slopes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """-slope |i - j|, shape (1, n_heads, length, length); on a GPU the length is rounded up."""
    alignment = for_device(BIAS_ALIGNMENT, slopes.device.type)
    positions = torch.arange(-(-length // alignment) * alignment, device=slopes.device)
    distance = (positions[:, None] - positions[None, :]).abs()
    return (-slopes[:, None, None] * distance).to(dtype).unsqueeze(0)


def _scaled_dot_product(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    dropout: float = 0.0,
    scale: float | None = None,
) -> torch.Tensor:
    """``F.scaled_dot_product_attention``, on a GPU by :data:`CUDA_KERNELS` only."""
    options = {"attn_mask": bias, "dropout_p": dropout, "scale": scale}
    if not query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value, **options)
    with sdpa_kernel(CUDA_KERNELS):
        return F.scaled_dot_product_attention(query, key, value, **options)


def _flex_inputs(layout: PackedLayout, slopes: torch.Tensor) -> tuple[object, object]:
    """FlexAttention's score function (ALiBi) and block mask (a token sees its own cell only)."""
    blocks = layout.blocks
    if blocks is None:
        made = SeenBlocks.of_lengths(layout.lengths)
        blocks = made.moved(lambda tensor: tensor.to(slopes.device, non_blocking=True))

    def add_alibi(score, batch, head, query, key):  # noqa: ANN001  (FlexAttention's own signature)
        return score - slopes[head] * (query - key).abs()

    return add_alibi, blocks.block_mask()


@functools.cache
def _compiled_flex_attention() -> Callable[..., torch.Tensor]:
    """FlexAttention, compiled on first use: that costs seconds, and importing this module should not."""
    from torch.nn.attention.flex_attention import flex_attention

    # Beyond its limit of recompilations torch would go on uncompiled, with all scores in memory; a whole graph raises.
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


# Weights of genes add up to more, unless a cell has none.
SMALLEST_WEIGHT = 1e-6


# In place of an expression value (which is never negative): a masked gene, and a token that has none.
UNKNOWN_VALUE, NO_VALUE = -1.0, -2.0


@dataclass(frozen=True)
class PackedCells:
    """One stream of several cells, packed.

    Attributes
    ----------
    input_ids
        Shape (total_tokens,), int64.
    layout
        Where each cell lies.
    expression_values
        Shape (total_tokens,), float32, for models with ``expression_input = "value"``; :data:`UNKNOWN_VALUE` for a
        masked gene, :data:`NO_VALUE` for the rank stream and for special tokens.
    gene_values
        Shape (total_tokens,), float32: the value of each gene in either stream, 0 for special tokens; for pooling by
        value, None where nobody asked for it.
    """

    input_ids: torch.Tensor
    layout: PackedLayout
    expression_values: torch.Tensor | None = None
    gene_values: torch.Tensor | None = None

    def to(self, device: torch.device) -> "PackedCells":
        """The same on another device."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "PackedCells":
        """The same in memory that a GPU reads by itself."""
        return self._moved(torch.Tensor.pin_memory)

    def prepared(self, back_end: str, device_type: str) -> "PackedCells":
        """The same with what attention reads of the layout (:meth:`PackedLayout.prepared`)."""
        return replace(self, layout=self.layout.prepared(back_end, device_type))

    def _moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "PackedCells":
        values = (None if values is None else move(values) for values in (self.expression_values, self.gene_values))
        return PackedCells(move(self.input_ids), self.layout.moved(move), *values)

    @property
    def cls_positions(self) -> torch.Tensor:
        """Where the ``<cls>`` of each cell is, shape (n_cells,)."""
        return self.layout.first_tokens


def pack(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, expression_values: torch.Tensor | None = None
) -> PackedCells:
    """Drop the padding of (n_cells, length) ids and values; cells are padded on the right."""
    lengths = attention_mask.sum(dim=1)
    is_right_padded = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]
    if not torch.equal(is_right_padded, attention_mask.bool()):
        raise ValueError("attention_mask should be 1 for the tokens of a cell, then 0 for the padding on the right")
    layout = PackedLayout.from_lengths(lengths.tolist(), input_ids.device)
    values = None if expression_values is None else expression_values[is_right_padded]
    return PackedCells(input_ids[is_right_padded], layout, values)


def pool(states: torch.Tensor, cells: PackedCells, pooling: str) -> torch.Tensor:
    """One vector per stream of a cell: (total_tokens, hidden_size) -> (n_streams, hidden_size)."""
    if pooling == "cls":
        return states[cells.cls_positions]
    lengths = cells.layout.cu_seqlens.diff().long()
    weights = (cells.input_ids > EOS_TOKEN_ID).to(states.dtype)
    if pooling == "weighted":
        if cells.gene_values is None:
            raise ValueError("pooling 'weighted' needs cells that were packed with their gene values")
        weights = weights * cells.gene_values.to(states.dtype)
    streams = torch.arange(len(lengths), device=states.device)
    stream = torch.repeat_interleave(streams, lengths, output_size=len(states))  # else a GPU is waited for
    sums = states.new_zeros(len(lengths), states.shape[-1]).index_add_(0, stream, states * weights[:, None])
    totals = weights.new_zeros(len(lengths)).index_add_(0, stream, weights)
    return sums / totals.clamp(min=SMALLEST_WEIGHT)[:, None]  # a cell without genes gets zeros


def computing_type(tensor: torch.Tensor) -> torch.dtype:
    """The type in which products with a tensor are computed: autocast's where it is on."""
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def without_autocast(tensor: torch.Tensor) -> AbstractContextManager:
    """A context in which products on the device of a tensor are computed in its own type."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


class ValueEmbedding(nn.Module):
    """Expression values as vectors; a masked gene gets a learned one, a token without a value gets zeros."""

    def __init__(self, config: ScDMCConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(1, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        # An embedding of one row, so that it is initialised and decayed as embeddings are.
        self.unknown = nn.Embedding(1, config.hidden_size)

    def forward(self, expression_values: torch.Tensor) -> torch.Tensor:
        """(total_tokens,) -> (total_tokens, hidden_size)."""
        values = expression_values[:, None]
        known = self.output(F.gelu(self.dense(values.clamp(min=0).to(self.dense.weight.dtype))))
        vectors = torch.where(values == UNKNOWN_VALUE, self.unknown.weight.to(known.dtype), known)
        return vectors.masked_fill(values == NO_VALUE, 0.0)


class Embeddings(nn.Module):
    """LayerNorm(word + type 0), dropout; no position embedding, position enters by ALiBi."""

    def __init__(self, config: ScDMCConfig) -> None:
        super().__init__()
        self.value_embeddings = ValueEmbedding(config) if config.expression_input == "value" else None
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, cells: PackedCells) -> torch.Tensor:
        """Packed cells -> (total_tokens, hidden_size)."""
        states = self.word_embeddings(cells.input_ids) + self.token_type_embeddings.weight[0]
        if self.value_embeddings is not None:
            if cells.expression_values is None:
                raise ValueError("this model reads expression values (expression_input = 'value'); pass them")
            states = states + self.value_embeddings(cells.expression_values)
        return self.dropout(self.LayerNorm(states))


class SelfAttention(nn.Module):
    """One matrix for queries, keys and values, then ALiBi attention within each cell."""

    def __init__(self, config: ScDMCConfig) -> None:
        super().__init__()
        self.n_heads = config.num_attention_heads
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, states: torch.Tensor, attend: PackedAttention) -> torch.Tensor:
        """(total_tokens, hidden_size) -> the same."""
        qkv = self.Wqkv(states).unflatten(-1, (3, self.n_heads, -1))  # (total_tokens, 3, n_heads, head_dim)
        return attend(qkv).flatten(1)

    def of_first_tokens(self, states: torch.Tensor, attend: PackedAttention) -> torch.Tensor:
        """What the first token of each cell attends to: (total_tokens, hidden_size) -> (n_cells, hidden_size)."""
        hidden_size = states.shape[-1]
        weight, bias = self.Wqkv.weight, self.Wqkv.bias
        query = F.linear(states[attend.layout.first_tokens], weight[:hidden_size], bias[:hidden_size])
        key_value = F.linear(states, weight[hidden_size:], bias[hidden_size:])
        query, key_value = query.unflatten(-1, (self.n_heads, -1)), key_value.unflatten(-1, (2, self.n_heads, -1))
        return attend.of_first_tokens(query, key_value).flatten(1)


class ResidualOutput(nn.Module):
    """Dense, dropout, then LayerNorm(output + input of the block)."""

    def __init__(self, config: ScDMCConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """(total_tokens, hidden_size) -> the same."""
        return self.LayerNorm(self.dropout(self.dense(states)) + residual)


class AttentionBlock(nn.Module):
    """Self-attention and its output."""

    def __init__(self, config: ScDMCConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = ResidualOutput(config)

    def forward(self, states: torch.Tensor, attend: PackedAttention, only_first: bool = False) -> torch.Tensor:
        """(total_tokens, hidden_size) -> the same, or (n_cells, hidden_size) for the first tokens only."""
        if only_first:
            return self.output(self.self.of_first_tokens(states, attend), states[attend.layout.first_tokens])
        return self.output(self.self(states, attend), states)


class GatedLinearUnit(nn.Module):
    """[a | b] = gated_layers x; u = GELU(a) * b; LayerNorm(wo u + x)."""

    def __init__(self, config: ScDMCConfig) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(total_tokens, hidden_size) -> the same."""
        gate, value = self.gated_layers(states).chunk(2, dim=-1)
        return self.layernorm(self.wo(self.dropout(F.gelu(gate) * value)) + states)


class EncoderLayer(nn.Module):
    """Attention, then the gated linear unit, both post-norm."""

    def __init__(self, config: ScDMCConfig) -> None:
        super().__init__()
        self.attention = AttentionBlock(config)
        self.mlp = GatedLinearUnit(config)

    def forward(self, states: torch.Tensor, attend: PackedAttention, only_first: bool = False) -> torch.Tensor:
        """(total_tokens, hidden_size) -> the same, or (n_cells, hidden_size) for the first tokens only."""
        return self.mlp(self.attention(states, attend, only_first))


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: ScDMCConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))


class ScDMCPreTrainedModel(PreTrainedModel):
    """What the models share: configuration, initial weights, the attention back end."""

    config_class = ScDMCConfig
    base_model_prefix = "bert"

    def __init__(self, config: ScDMCConfig) -> None:
        if config.hidden_size % config.num_attention_heads:
            raise ScDMCError(
                f"hidden size {config.hidden_size} is no multiple of the {config.num_attention_heads} attention heads"
            )
        if config.hidden_act != "gelu":
            raise ScDMCError(f"hidden_act {config.hidden_act!r}: the encoder is defined with gelu")
        if config.expression_input not in EXPRESSION_INPUTS:
            raise ScDMCError(f"expression_input {config.expression_input!r}: there are {', '.join(EXPRESSION_INPUTS)}")
        super().__init__(config)
        self.attention_back_end = "auto"

    @classmethod
    def from_pretrained(cls, *arguments: object, **options: object) -> "ScDMCPreTrainedModel":
        """As in transformers, but an encoder weight that the folder lacks is an error instead of a random number.

        Raises
        ------
        ScDMCError
            With the names of the missing weights.
        """
        wants_info = options.pop("output_loading_info", False)
        model, info = super().from_pretrained(*arguments, output_loading_info=True, **options)
        missing = sorted(name for name in info["missing_keys"] if not name.startswith(("cls.", "classifier.")))
        if missing:
            raise ScDMCError(
                f"{arguments[0]} lacks {len(missing)} weights of the encoder, such as {', '.join(missing[:3])}"
            )
        return (model, info) if wants_info else model

    def set_attention(self, name: str, dtype: torch.dtype | None = None, for_training: bool = False) -> str:
        """Choose the attention back end of the encoder on the device where the weights are; returns what was chosen.

        ``dtype`` is the type in which it will compute, if not that of the weights (autocast). Outside of training
        nothing is dropped, so that a model with dropout may take a back end that has none.
        """
        config = self.config
        head_dim = config.hidden_size // config.num_attention_heads
        dropout = config.attention_probs_dropout_prob if for_training else 0.0
        chosen = choose_back_end(name, self.device, dropout, dtype or self.dtype, head_dim)
        for module in self.modules():
            if isinstance(module, ScDMCPreTrainedModel):
                module.attention_back_end = chosen
        return chosen


class ScDMCModel(ScDMCPreTrainedModel):
    """The encoder."""

    def __init__(self, config: ScDMCConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        # Gradient checkpointing: states inside a layer are computed again on the way back instead of kept.
        self.recompute_layers = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embedding."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embedding."""
        self.embeddings.word_embeddings = value

    def packed_attention(self, layout: PackedLayout, dtype: torch.dtype) -> PackedAttention:
        """The attention of one batch, shared by all layers."""
        n_heads = self.config.num_attention_heads
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        device, head_dim = layout.cu_seqlens.device, self.config.hidden_size // n_heads
        back_end = choose_back_end(self.attention_back_end, device, dropout, dtype, head_dim)
        slopes = slopes_on(device, n_heads)
        return PackedAttention(back_end, layout, slopes, dropout, dtype)

    def encode(self, cells: PackedCells) -> torch.Tensor:
        """Last hidden states of packed cells, shape (total_tokens, hidden_size)."""
        for states in self.states_by_layer(cells):
            last = states
        return last

    def states_by_layer(self, cells: PackedCells) -> Iterator[torch.Tensor]:
        """Yield the states of packed cells, (total_tokens, hidden_size): of the embedding, then of each layer."""
        states = self.embeddings(cells)
        yield states
        attend = self.packed_attention(cells.layout, computing_type(states))
        for layer in self.encoder.layer:
            states = self._run_layer(layer, states, attend)
            yield states

    @torch.no_grad()
    def encode_cls(self, cells: PackedCells) -> torch.Tensor:
        """Last hidden states of ``<cls>``, shape (n_cells, hidden_size), without gradient.

        The last layer is computed for ``<cls>`` alone: nobody reads its other tokens.
        """
        states = self.embeddings(cells)
        attend = self.packed_attention(cells.layout, computing_type(states))
        for layer in self.encoder.layer[:-1]:
            states = layer(states, attend)
        return self.encoder.layer[-1](states, attend, only_first=True)

    def _run_layer(self, layer: EncoderLayer, states: torch.Tensor, attend: PackedAttention) -> torch.Tensor:
        if self.recompute_layers and self.training:
            return checkpoint(layer, states, attend, use_reentrant=False)
        return layer(states, attend)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool = False,
        expression_values: torch.Tensor | None = None,
    ) -> BaseModelOutput:
        """Encode padded cells.

        Parameters
        ----------
        input_ids, attention_mask
            Shape (n_cells, length); without a mask, every ``<pad>`` is padding.
        output_hidden_states
            Also return the output of the embedding and of every layer; as the configuration says without it.
        output_attentions
            Also return the attention weights (``eager`` back end).
        expression_values
            Shape (n_cells, length), for a model that reads them (see :class:`PackedCells`).

        Returns
        -------
        ``last_hidden_state`` of shape (n_cells, length, hidden_size), zero at padded positions; ``attentions``, one
        (n_cells, n_heads, length, length) per layer.
        """
        attention_mask = input_ids.ne(self.config.pad_token_id) if attention_mask is None else attention_mask
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        cells = pack(input_ids, attention_mask, expression_values)
        states = self.embeddings(cells)
        attend = self.packed_attention(cells.layout, computing_type(states))
        if output_attentions and attend.back_end != "eager":
            raise ValueError(f"the attention back end {attend.back_end} returns no weights; set_attention('eager')")
        hidden_states, attentions = [states], []
        for layer in self.encoder.layer:
            states = self._run_layer(layer, states, attend)
            hidden_states.append(states)
            if output_attentions:
                attentions.append(_pad_weights(attend.weights, input_ids.shape[1]))
        mask = attention_mask.bool()
        return BaseModelOutput(
            last_hidden_state=_pad(states, mask),
            hidden_states=tuple(_pad(state, mask) for state in hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )


def _pad(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(total_tokens, hidden_size) -> (n_cells, length, hidden_size), zero at padded positions."""
    padded = states.new_zeros(*mask.shape, states.shape[-1])
    padded[mask] = states
    return padded


def _pad_weights(weights: list[torch.Tensor], length: int) -> torch.Tensor:
    """Attention weights of each cell -> (n_cells, n_heads, length, length)."""
    padded = weights[0].new_zeros(len(weights), weights[0].shape[0], length, length)
    for cell, cell_weights in enumerate(weights):
        padded[cell, :, : cell_weights.shape[1], : cell_weights.shape[2]] = cell_weights
    return padded


# The decoder's matrix is the word embedding; it is stored once, under the latter's name.
TIED_WEIGHT = "cls.predictions.decoder.weight"


class PredictionTransform(nn.Module):
    """LayerNorm(GELU(dense x))."""

    def __init__(self, config: ScDMCConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., hidden_size) -> the same."""
        return self.LayerNorm(F.gelu(self.dense(states)))


class Predictions(nn.Module):
    """Transform, then the decoder, whose matrix is the word embedding."""

    def __init__(self, config: ScDMCConfig) -> None:
        super().__init__()
        self.transform = PredictionTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., hidden_size) -> (..., vocab_size)."""
        return self.decoder(self.transform(states))


class MaskedLMHead(nn.Module):
    """Holds the predictions under the name that the published checkpoints give them."""

    def __init__(self, config: ScDMCConfig) -> None:
        super().__init__()
        self.predictions = Predictions(config)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., hidden_size) -> (..., vocab_size)."""
        return self.predictions(states)


class ScDMCForMaskedLM(ScDMCPreTrainedModel):
    """The encoder with the masked-gene head."""

    _tied_weights_keys = {TIED_WEIGHT: "bert.embeddings.word_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: ScDMCConfig) -> None:
        super().__init__(config)
        self.bert = ScDMCModel(config)
        self.cls = MaskedLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the decoder."""
        self.cls.predictions.decoder = value

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **options: object,
    ) -> MaskedLMOutput:
        """Logits of every position, shape (n_cells, length, vocab_size); with ``labels`` (-100: none) the mean loss.

        Pre-training does not come here: it runs the head on masked positions only.
        """
        encoded = self.bert(input_ids, attention_mask, **options)
        logits = self.cls(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )


class ScDMCForCellClassification(ScDMCPreTrainedModel):
    """The encoder with a linear classifier on one stream, or on both joined: on ``<cls>`` or a mean of the genes."""

    def __init__(self, config: ScDMCConfig) -> None:
        super().__init__(config)
        if config.classifier_stream not in STREAMS:
            raise ScDMCError(f"stream {config.classifier_stream!r}: there are {', '.join(STREAMS)}")
        if config.classifier_pooling not in POOLINGS:
            raise ScDMCError(f"pooling {config.classifier_pooling!r}: there are {', '.join(POOLINGS)}")
        self.bert = ScDMCModel(config)
        n_streams = 2 if config.classifier_stream == "both" else 1
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(n_streams * config.hidden_size, config.num_labels)
        self.has_adapters = False  # True while low-rank additions are trained
        self.post_init()

    def represent(self, streams: PackedCells) -> torch.Tensor:
        """What the classifier reads of packed cells: (n_cells, hidden_size), or (n_cells, 2 hidden_size) for both.

        Parameters
        ----------
        streams
            The cells of ``config.classifier_stream``; for ``both`` all rank streams, then all expression streams.
        """
        # The short cut reads the matrices themselves, past what fine-tuning may have put beside them.
        if self.config.classifier_pooling == "cls" and not (torch.is_grad_enabled() or self.has_adapters):
            states = self.bert.encode_cls(streams)
        else:
            # Means in float32: a classifier that starts from a probe tells states apart that bfloat16 rounds to one.
            states = pool(self.bert.encode(streams).float(), streams, self.config.classifier_pooling)
        return _join_streams(states, self.config.classifier_stream)

    def classify(self, streams: PackedCells) -> torch.Tensor:
        """Logits of packed cells (see :meth:`represent`), shape (n_cells, num_labels)."""
        states = self.dropout(self.represent(streams))
        with without_autocast(states):  # for the reason that represent gives
            return self.classifier(states.to(self.classifier.weight.dtype))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        gene_values: torch.Tensor | None = None,
        **options: object,
    ) -> SequenceClassifierOutput:
        """Logits of padded cells (for ``both``: the rank streams above the expression streams).

        ``gene_values`` (n_streams, length) are what genes are weighted by where the pooling is ``weighted``.
        """
        encoded = self.bert(input_ids, attention_mask, **options)
        states = encoded.last_hidden_state[:, 0]
        if self.config.classifier_pooling != "cls":
            weights = (input_ids > EOS_TOKEN_ID).float()
            if self.config.classifier_pooling == "weighted":
                if gene_values is None:
                    raise ValueError("this model weights genes by their values (pooling 'weighted'); pass gene_values")
                weights = weights * gene_values
            weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=SMALLEST_WEIGHT)
            states = (encoded.last_hidden_state * weights[:, :, None]).sum(dim=1)
        logits = self.classifier(self.dropout(_join_streams(states, self.config.classifier_stream)))
        loss = F.cross_entropy(logits, labels) if labels is not None else None
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )


def _join_streams(states: torch.Tensor, stream: str) -> torch.Tensor:
    """(2 n_cells, hidden_size) of rank and expression streams -> (n_cells, 2 hidden_size)."""
    return torch.cat(states.chunk(2), dim=-1) if stream == "both" else states
