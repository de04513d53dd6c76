"""Tokenized cells of random genes, for measurements: what is in them does not matter, how long they are does."""

import numpy as np
import pyarrow as pa

from scdmc.genes.vocabulary import CLS_TOKEN_ID, EOS_TOKEN_ID
from scdmc.tokens.tokenized_cells import TokenizedCells

VOCAB_SIZE = 60_534


def synthetic_cells(lengths: np.ndarray, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> TokenizedCells:
    """Cells of the given numbers of tokens, ``<cls>`` and ``<eos>`` included.

    Parameters
    ----------
    lengths
        Shape (n_cells,), each from 3 to 2,048, and no more than the vocabulary has.
    seed
        Of the genes.
    vocab_size
        Ids of genes are below it.
    """
    generator = np.random.default_rng(seed)
    rank, expression, values = [], [], []
    for length in lengths:
        n_genes = length - 2
        # Ascending ids with random gaps; the largest possible sum of them is the last token.
        genes = EOS_TOKEN_ID + np.cumsum(generator.integers(1, (vocab_size - 4) // n_genes + 1, n_genes))
        rank.append(np.concatenate([[CLS_TOKEN_ID], generator.permutation(genes), [EOS_TOKEN_ID]]))
        expression.append(np.concatenate([[CLS_TOKEN_ID], genes, [EOS_TOKEN_ID]]))
        values.append(np.concatenate([[1.0], generator.exponential(1.0, n_genes), [1.0]]))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    names = [f"cell_{cell}" for cell in range(len(lengths))]
    return TokenizedCells(
        np.concatenate(rank).astype(np.int32),
        np.concatenate(expression).astype(np.int32),
        np.concatenate(values).astype(np.float32),
        offsets,
        offsets,
        pa.table({"cell_id": names, "source_file": ["synthetic"] * len(names)}),
        None,
    )
