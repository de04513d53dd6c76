"""A Q-Former that starts from a BERT: its layers, without those that look at cells.

Source: docs/text.md, "The Q-Former".
"""

from pathlib import Path

import torch

from scdmc.errors import ScDMCError, shown_names
from scdmc.files import read_json_object
from scdmc.model.weights import read_weights
from scdmc.text.options import QFormerSize
from scdmc.text.projectors.qformer import QFormer

# Names in a layer of a BERT -> names in a layer of the Q-Former.
NAMES = (
    ("attention.self.", "attention.attention."),
    ("attention.output.", "attention.output."),
    ("intermediate.", "intermediate_query."),
    ("output.", "output_query."),
)
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def size_of_bert(folder: Path, n_queries: int) -> QFormerSize:
    """The sizes that a BERT gives to a Q-Former.

    Parameters
    ----------
    folder
        Of the BERT.
    n_queries
        Queries, which a BERT does not have.

    Raises
    ------
    ScDMCError
        If the folder is no BERT.
    """
    config = read_json_object(Path(folder) / "config.json", "configuration of a BERT")
    wrong = [name for name in SIZES if type(config.get(name)) is not int or config[name] < 1]
    if config.get("model_type") != "bert" or wrong:
        kind = config.get("model_type")
        raise ScDMCError(f"{folder} is no BERT (its model_type is {kind!r}); --qformer_from takes a folder of one")
    return QFormerSize(*(config[name] for name in SIZES), n_queries)


@torch.no_grad()
def start_from_bert(reader: QFormer, folder: Path) -> None:
    """Give the layers of a Q-Former the weights of a BERT; queries and the look at cells stay as they were drawn.

    Parameters
    ----------
    reader
        Of the sizes that :func:`size_of_bert` gave; changed in place.
    folder
        Of the BERT.

    Raises
    ------
    ScDMCError
        If the BERT lacks a weight, or has one of another shape.
    """
    found = {name.removeprefix("bert."): tensor for name, tensor in read_weights(Path(folder)).items()}
    pairs = {f"embeddings.LayerNorm.{kind}": f"layernorm.{kind}" for kind in ("weight", "bias")}
    own = reader.layers.state_dict()
    for name in own:
        layer, _, rest = name.removeprefix("encoder.layer.").partition(".")
        for of_bert, of_query in NAMES:
            if rest.startswith(of_query):
                pairs[f"encoder.layer.{layer}.{rest.replace(of_query, of_bert, 1)}"] = name
    wrong = [name for name, ours in pairs.items() if name not in found or found[name].shape != own[ours].shape]
    if wrong:
        raise ScDMCError(f"{folder}: weights of the BERT are missing or misshapen: {shown_names(wrong)}")
    for name, ours in pairs.items():
        own[ours].copy_(found[name])
