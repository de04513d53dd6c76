"""What stands on the encoder: masked-gene prediction and cell classification (docs/method.md, "Encoder")."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import EOS_TOKEN_ID
from scdmc.model.encoder import ScDMCModel, ScDMCPreTrainedModel
from scdmc.model.packing import SMALLEST_WEIGHT, PackedCells, pool, without_autocast
from scdmc.options import POOLINGS, STREAMS

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


AutoModelForMaskedLM.register(ScDMCConfig, ScDMCForMaskedLM)


AutoModelForSequenceClassification.register(ScDMCConfig, ScDMCForCellClassification)
