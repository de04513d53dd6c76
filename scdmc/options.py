"""Words that flags and functions of several wings accept. Nothing heavy is imported, so that ``--help`` is quick."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches

STREAMS = ("rank", "expression", "both")


POOLINGS = ("cls", "mean", "weighted")


BACK_ENDS = ("auto", "flash", "flex", "sdpa", "eager")


DTYPES = ("float32", "bfloat16")
# auto: bfloat16 on a GPU that has it, else float32.
DTYPE_CHOICES = ("auto", *DTYPES)


EXPRESSION_INPUTS = ("none", "value")


def field_names(kind: type) -> tuple[str, ...]:
    """Names of the fields of a dataclass of options."""
    return tuple(field.name for field in fields(kind))


def part_options(
    function: str, options: Mapping[str, object], *groups: Collection[str]
) -> tuple[dict[str, object], ...]:
    """Part the keywords that a function was given by what they choose.

    Parameters
    ----------
    function
        Name for the message.
    options
        Keyword -> value.
    groups
        Names of the keywords of each group; one that stands in two groups goes to the first.

    Returns
    -------
    The keywords of each group.

    Raises
    ------
    TypeError
        If a keyword is in no group; the message names the nearest one and all there are.
    """
    known = dict.fromkeys(name for group in groups for name in group)
    for name in options:
        if name not in known:
            nearest = get_close_matches(name, known, n=1)
            meant = f" (did you mean {nearest[0]!r}?)" if nearest else ""
            raise TypeError(f"{function}() has no option {name!r}{meant}; there are {', '.join(sorted(known))}")
    left = dict(options)
    return tuple({name: left.pop(name) for name in group if name in left} for group in groups)


# Longest stream, in tokens: no cell has as many genes.
MAX_CONTEXT = 2**20


@dataclass(frozen=True)
class LabelOptions:
    """Which labels are types; see :func:`scdmc.labels.type_labels`.

    Attributes
    ----------
    ignore_labels
        Labels that are no type, beside those that :mod:`scdmc.labels` knows.
    keep_labels
        Labels that are types, although :mod:`scdmc.labels` takes them for none.
    """

    ignore_labels: Sequence[str] = ()
    keep_labels: Sequence[str] = ()


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
