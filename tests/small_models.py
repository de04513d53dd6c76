"""Folders of small random models, for tests that need a model and not a good one."""

import torch

from scdmc.configuration import ScDMCConfig
from scdmc.genes.vocabulary import load_vocabulary
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.storage import load_classifier_for_training, save_model_directory
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.tokenized_cells import TokenizationSettings

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def save_small_model(path, context=64, medians=None, vocabulary=None, **changes):
    """Write the folder of a random model, the same each time, and return its path.

    Without them, vocabulary and medians are those that ship with scDMC; ``changes`` are fields of the configuration.
    """
    torch.manual_seed(0)
    vocabulary = load_vocabulary() if vocabulary is None else vocabulary
    medians = load_gene_medians(None) if medians is None else medians
    sizes = {"vocab_size": len(vocabulary), "max_position_embeddings": context, **SIZES}
    settings = TokenizationSettings(vocabulary.sha256, medians.sha256, context)
    model = ScDMCForMaskedLM(ScDMCConfig(**{**sizes, **changes}))
    save_model_directory(path, model, vocabulary, medians, settings, "a test")
    return path


def new_classifier(model_directory, stream="both", pooling="cls"):
    """A classifier of beta and ductal cells whose head is random, the same each time."""
    torch.manual_seed(0)
    return load_classifier_for_training(model_directory, ["beta", "ductal"], stream, 0.0, pooling=pooling)
