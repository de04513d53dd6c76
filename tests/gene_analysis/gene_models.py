"""Cells and a model whose biology is planted by hand, for the tests of gene-level analyses."""

import numpy as np
import pyarrow as pa
import torch

from scdmc.configuration import ScDMCConfig
from scdmc.gene_analysis.data import GeneData
from scdmc.genes.vocabulary import CLS_TOKEN_ID, EOS_TOKEN_ID, MASK_TOKEN_ID
from scdmc.model.folder import ModelDirectory
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.tokenized_cells import TokenizationSettings, TokenizedCells


def cells_of_genes(lists, values=None):
    """Tokenized cells whose rank streams are these lists of tokens."""
    rank, expression, expression_values = [], [], []
    for cell, genes in enumerate(lists):
        of_gene = dict(zip(genes, values[cell] if values else np.linspace(3, 1, len(genes)), strict=True))
        rank += [CLS_TOKEN_ID, *genes, EOS_TOKEN_ID]
        expression += [CLS_TOKEN_ID, *sorted(genes), EOS_TOKEN_ID]
        expression_values += [1.0, *(of_gene[gene] for gene in sorted(genes)), 1.0]
    offsets = np.cumsum([0, *(len(genes) + 2 for genes in lists)])
    names = [f"cell_{cell}" for cell in range(len(lists))]
    return TokenizedCells(
        np.array(rank, np.int32), np.array(expression, np.int32), np.array(expression_values, np.float32), offsets,
        offsets, pa.table({"cell_id": names, "source_file": ["test"] * len(lists)}), None,
    )  # fmt: skip


def planted_model(vocab_size, factor, target, sharpness=8.0):
    """A one-layer model in which ``target`` attends to ``factor``, and ``factor`` makes ``target`` likelier.

    Every gene has an axis of its own, attention copies what it reads, and the factor's vector leans towards the target.
    """
    hidden_size = vocab_size + (vocab_size % 2)
    config = ScDMCConfig(
        vocab_size=vocab_size, hidden_size=hidden_size, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=2, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = ScDMCForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.zero_()
        words = model.bert.embeddings.word_embeddings.weight
        words.copy_(torch.eye(vocab_size, hidden_size))
        words[MASK_TOKEN_ID] = 0
        words[factor, target] = 0.7
        attention = model.bert.encoder.layer[0].attention
        qkv = attention.self.Wqkv.weight
        qkv[0, target] = sharpness  # the target asks ...
        qkv[hidden_size, factor] = sharpness  # ... for the factor
        qkv[2 * hidden_size :].copy_(torch.eye(hidden_size))
        attention.output.dense.weight.copy_(torch.eye(hidden_size))
        model.cls.predictions.transform.dense.weight.copy_(torch.eye(hidden_size))
    return model


def gene_data(model, cells, labels, vocabulary, expression):
    """Everything in one, as the analyses take it."""
    settings = TokenizationSettings(vocabulary.sha256, "", model.config.max_position_embeddings)
    directory = ModelDirectory(None, model.config, vocabulary, load_gene_medians(None), settings)
    return GeneData(model, directory, cells, np.asarray(labels, dtype=str), expression)
