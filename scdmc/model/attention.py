"""ALiBi self-attention over packed cells: four back ends, one interface, equal results (docs/method.md, "Encoder").

Cells lie one after the other without padding: ``qkv`` has shape (total_tokens, 3, n_heads, head_dim), and cell i owns
the tokens ``cu_seqlens[i]:cu_seqlens[i + 1]``.
"""

import functools
import importlib
import importlib.util
import logging
import math
from collections.abc import Callable, Iterator

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from scdmc.errors import ScDMCError
from scdmc.model.layout import PackedLayout, PaddedRuns, SeenBlocks, for_device
from scdmc.options import BACK_ENDS

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
