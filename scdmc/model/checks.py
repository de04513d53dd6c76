"""What the files of a model folder may say: type and range of every value, before anything is made from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.model.names import CONFIG_FILE
from scdmc.options import EXPRESSION_INPUTS, MAX_CONTEXT, POOLINGS, STREAMS

MAX_CLASSES = 1_000_000


@dataclass(frozen=True)
class Rule:
    """What a value may be.

    Attributes
    ----------
    allows
        True for what is allowed.
    words
        The same for people.
    """

    allows: Callable[[object], bool]
    words: str


def is_integer(value: object, lowest: int, highest: int) -> bool:
    """True for an integer between the two; ``True`` is none."""
    return type(value) is int and lowest <= value <= highest


def is_number(value: object, lowest: float, highest: float) -> bool:
    """True for a number between the two; NaN lies nowhere."""
    return type(value) in (int, float) and lowest <= value <= highest


def integer(lowest: int, highest: int) -> Rule:
    """An integer between the two."""
    return Rule(lambda value: is_integer(value, lowest, highest), f"an integer from {lowest:,} to {highest:,}")


def number(lowest: float, highest: float) -> Rule:
    """A number between the two."""
    return Rule(lambda value: is_number(value, lowest, highest), f"a number from {lowest} to {highest}")


def one_of(choices: Sequence[object]) -> Rule:
    """One of some words."""
    return Rule(lambda value: any(value is choice or value == choice for choice in choices),
                f"one of {', '.join(map(repr, choices))}")  # fmt: skip


SHARE = number(0, 1)
CONFIG_RULES = {
    "vocab_size": integer(5, 10_000_000),
    "hidden_size": integer(1, 65_536),
    "num_hidden_layers": integer(1, 1000),
    "num_attention_heads": integer(1, 1024),
    "intermediate_size": integer(1, 1_000_000),
    "hidden_act": one_of(["gelu"]),
    "hidden_dropout_prob": SHARE,
    "attention_probs_dropout_prob": SHARE,
    "max_position_embeddings": integer(3, MAX_CONTEXT),
    "alibi_starting_size": integer(3, MAX_CONTEXT),
    "type_vocab_size": integer(1, 1000),
    "initializer_range": number(0, 100),
    "layer_norm_eps": number(1e-30, 1),
    "pad_token_id": one_of([0, None]),
    "tie_word_embeddings": one_of([True]),
    "classifier_dropout": Rule(lambda value: value is None or is_number(value, 0, 1), f"null or {SHARE.words}"),
    "classifier_stream": one_of(STREAMS),
    "classifier_pooling": one_of(POOLINGS),
    "embedding_stream": one_of(STREAMS),
    "embedding_pooling": one_of(POOLINGS),
    "embedding_layer": Rule(lambda value: value is None or is_integer(value, 0, 1000), "null or a layer from 0 on"),
    "expression_input": one_of(EXPRESSION_INPUTS),
}


def require_allowed(content: Mapping[str, object], rules: Mapping[str, Rule], source: str) -> None:
    """Refuse a value that its rule does not allow; absent ones pass.

    Parameters
    ----------
    content
        Name -> value.
    rules
        Name -> rule.
    source
        The file, for the message.

    Raises
    ------
    ScDMCError
        Naming the first such value.
    """
    for name, rule in rules.items():
        if name in content and not rule.allows(content[name]):
            raise ScDMCError(f"{source}: {name} should be {rule.words}, not {shown(content[name])}")


def shown(value: object) -> str:
    """A value for a message, cut where it is long; integers of thousands of digits cannot even be written."""
    if type(value) is int and abs(value) >= 10**30:
        return "an integer of more than 30 digits"
    text = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."


def require_sound_config(content: Mapping[str, object], source: str) -> None:
    """Refuse a ``config.json`` with a value of another type, or outside of any sensible range.

    Raises
    ------
    ScDMCError
        Naming the first such value.
    """
    require_allowed(content, CONFIG_RULES, source)
    sizes = {name: content.get(name, getattr(ScDMCConfig, name)) for name in ("hidden_size", "num_attention_heads")}
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise ScDMCError(
            f"{source}: hidden_size {sizes['hidden_size']} is no multiple of num_attention_heads "
            f"{sizes['num_attention_heads']}"
        )
    layer, n_layers = (
        content.get(name, getattr(ScDMCConfig, name)) for name in ("embedding_layer", "num_hidden_layers")
    )
    if layer is not None and layer > n_layers:
        raise ScDMCError(f"{source}: embedding_layer {layer} is none of the {n_layers} layers")
    if layer == 0 and content.get("embedding_pooling", ScDMCConfig.embedding_pooling) == "cls":
        raise ScDMCError(f"{source}: embedding_layer 0 wants embedding_pooling 'mean' or 'weighted'")
    if "id2label" in content:
        _require_labels(content["id2label"], source)


def _require_labels(labels: object, source: str) -> None:
    """``id2label``: "0", "1", ... -> text, each text once."""
    if not isinstance(labels, dict) or not 1 <= len(labels) <= MAX_CLASSES:
        raise ScDMCError(f"{source}: id2label should map 0, 1, ... to the names of the classes")
    if set(labels) != {str(number) for number in range(len(labels))}:
        raise ScDMCError(f"{source}: the keys of id2label should be 0 to {len(labels) - 1}, once each")
    names = list(labels.values())
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong or len(set(names)) < len(names):
        raise ScDMCError(f"{source}: the names in id2label should be text, each of another class")


def require_fitting_weights(config: ScDMCConfig, shapes: Mapping[str, Sequence[int]], folder: Path) -> None:
    """Refuse a configuration whose sizes are not those of the weights, before memory is taken for them.

    Parameters
    ----------
    config
        What ``config.json`` says.
    shapes
        Name of each tensor -> shape, from the header of the file.
    folder
        The model folder, for the message.

    Raises
    ------
    ScDMCError
        Naming the first size that differs.
    """
    shapes = {name.removeprefix("bert."): tuple(shape) for name, shape in shapes.items()}
    hidden, wide = config.hidden_size, config.intermediate_size
    expected = {
        "embeddings.word_embeddings.weight": (config.vocab_size, hidden),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, hidden),
        "encoder.layer.0.attention.self.Wqkv.weight": (3 * hidden, hidden),
        "encoder.layer.0.mlp.gated_layers.weight": (2 * wide, hidden),
        "classifier.weight": (len(config.id2label), hidden * (2 if config.classifier_stream == "both" else 1)),
    }
    for name, shape in expected.items():
        if name in shapes and shapes[name] != shape:
            raise ScDMCError(
                f"{folder}: {CONFIG_FILE} asks for {name} of shape {shape}, but the weights have {shapes[name]}"
            )
    layers = {name.split(".")[2] for name in shapes if name.startswith("encoder.layer.")}
    if len(layers) != config.num_hidden_layers:
        raise ScDMCError(
            f"{folder}: {CONFIG_FILE} says num_hidden_layers {config.num_hidden_layers}, "
            f"but the weights have {len(layers)}"
        )


def require_gene_numbers(genes: Mapping[str, object], source: str) -> None:
    """Refuse ``training_genes.json`` with anything but how many cells had each gene.

    Raises
    ------
    ScDMCError
        Naming the first other value.
    """
    rule = integer(0, 2**53)
    for gene, n_cells in genes.items():
        if not rule.allows(n_cells):
            raise ScDMCError(f"{source}: {gene[:40]} should be {rule.words}, not {shown(n_cells)}")
