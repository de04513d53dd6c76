"""Words that flags and functions of several wings accept. Nothing heavy is imported, so that ``--help`` is quick."""

from dataclasses import dataclass

STREAMS = ("rank", "expression", "both")


POOLINGS = ("cls", "mean", "weighted")


BACK_ENDS = ("auto", "flash", "flex", "sdpa", "eager")


DTYPES = ("float32", "bfloat16")


EXPRESSION_INPUTS = ("none", "value")


# Longest stream, in tokens: no cell has as many genes.
MAX_CONTEXT = 2**20


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
