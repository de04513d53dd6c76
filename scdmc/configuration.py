"""Configuration of the encoder, with BERT's field names (docs/method.md, "Encoder")."""

from transformers import PreTrainedConfig

from scdmc.options import PUBLISHED_SIZES


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
