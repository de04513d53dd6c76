"""The encoder: an ALiBi BERT with gated linear units, over packed cells (docs/method.md, "Encoder")."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.model.attention import PackedAttention, choose_back_end, slopes_on
from scdmc.model.layout import PackedLayout
from scdmc.model.packing import NO_VALUE, UNKNOWN_VALUE, PackedCells, computing_type, pack
from scdmc.options import EXPRESSION_INPUTS


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


AutoConfig.register("scdmc", ScDMCConfig)


AutoModel.register(ScDMCConfig, ScDMCModel)
