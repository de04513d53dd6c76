"""The encoder, its masked-gene head and its cell classifier (docs/method.md, "Encoder").

Inside, cells are packed one after the other, without padding; ``forward(input_ids, attention_mask)`` of shape
(n_cells, length) unpads once and pads the result once. Parameter names are those of the published checkpoints.
"""

from scdmc.model.encoder import (
    AttentionBlock,
    Embeddings,
    Encoder,
    EncoderLayer,
    GatedLinearUnit,
    ResidualOutput,
    ScDMCModel,
    ScDMCPreTrainedModel,
    SelfAttention,
    ValueEmbedding,
)
from scdmc.model.heads import (
    TIED_WEIGHT,
    MaskedLMHead,
    Predictions,
    PredictionTransform,
    ScDMCForCellClassification,
    ScDMCForMaskedLM,
)
from scdmc.model.packing import NO_VALUE, SMALLEST_WEIGHT, UNKNOWN_VALUE, PackedCells, pack
from scdmc.model.storage import load
from scdmc.options import EXPRESSION_INPUTS, POOLINGS, STREAMS

__all__ = [
    "EXPRESSION_INPUTS",
    "NO_VALUE",
    "POOLINGS",
    "SMALLEST_WEIGHT",
    "STREAMS",
    "TIED_WEIGHT",
    "UNKNOWN_VALUE",
    "AttentionBlock",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "GatedLinearUnit",
    "MaskedLMHead",
    "PackedCells",
    "PredictionTransform",
    "Predictions",
    "ResidualOutput",
    "ScDMCForCellClassification",
    "ScDMCForMaskedLM",
    "ScDMCModel",
    "ScDMCPreTrainedModel",
    "SelfAttention",
    "ValueEmbedding",
    "load",
    "pack",
]
