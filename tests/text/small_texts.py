"""A tiny text encoder with random weights, made on the spot: no network, no wheel."""

import json
from contextlib import contextmanager

import pytest
import torch
from transformers import BertConfig, BertModel

from scdmc.text.captions import captioner, language_models, training
from scdmc.text.ontology import CellOntology

WORDS = (
    "cell b t alpha beta delta pancreatic pancreas acinar ductal type of the a an endothelial stellate macrophage mast "
    "gamma epsilon schwann blood that secretes insulin glucagon somatostatin killer natural monocyte is in and"
)
SMALLEST = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def save_tiny_text_encoder(folder, seed=0, width=32):
    """A folder of a random BERT of two layers, and a tokenizer of words and letters."""
    letters = [letter for small in "abcdefghijklmnopqrstuvwxyz0123456789-;,.+()" for letter in (small, f"##{small}")]
    words = list(dict.fromkeys([*SPECIAL, *letters, *WORDS.split()]))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words), hidden_size=width, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf8")
    return folder


@contextmanager
def small_language_models():
    """Language models for captions are still smaller, learn from few texts, and say few words."""
    few = training.texts_to_learn_from(CellOntology.load(), frozenset())[:100]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_models, "TINY_STEPS", 2)
        patch.setattr(language_models, "TINY_VOCABULARY", 500)
        patch.setattr(language_models, "TINY_SIZES", SMALLEST)
        patch.setattr(training, "MOST_TOKENS", 12)
        patch.setattr(captioner, "MOST_WORDS", 12)
        patch.setattr(training, "texts_to_learn_from", lambda *_: few)
        yield
