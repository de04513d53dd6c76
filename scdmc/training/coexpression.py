"""A start for the genes' embeddings: vectors that say which genes are expressed together, by singular values.

A short training run sees most genes a few hundred times only; which genes go together can be read from the same cells
in seconds (as word vectors from counts of neighbours; Levy and Goldberg 2014). No label is used.
"""

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch

from scdmc.errors import ScDMCError
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.tokens.tokenized_cells import TokenizedCells, expression_of_cells

MOST_CELLS = 20_000


# Standard deviation of the vectors, and the share of it that every entry of the vector has which all tokens share.
# LayerNorm after the sum would otherwise make every gene equally loud; beside a common part, a gene with a small vector
# stays quiet. Larger vectors would start the output layer, which is tied to them, far above the loss of chance.
VECTOR_SCALE = 0.1


COMMON_SCALE = 1 / 3


def coexpression_vectors(expression: scipy.sparse.csr_matrix, n_dimensions: int, seed: int = 42) -> np.ndarray:
    """Right singular vectors of the values, each scaled by the root of its singular value.

    Parameters
    ----------
    expression
        Shape (n_cells, vocab_size).
    n_dimensions
        Of the vectors.
    seed
        Of the start of the iteration.

    Returns
    -------
    Shape (vocab_size, n_dimensions), float32, with mean square ``VECTOR_SCALE**2`` over the genes that some cell has;
    zeros for the others.

    Raises
    ------
    ScDMCError
        If there are too few cells or genes for so many dimensions.
    """
    is_seen = expression.getnnz(axis=0) > 0
    seen = expression[:, is_seen].astype(np.float64)
    if n_dimensions >= min(seen.shape):
        raise ScDMCError(
            f"{seen.shape[0]} cells of {seen.shape[1]} genes are too few for {n_dimensions} dimensions of "
            "co-expression; start from random embeddings, or give more cells"
        )
    start = np.random.default_rng(seed).standard_normal(min(seen.shape))
    _, singular_values, directions = scipy.sparse.linalg.svds(seen, n_dimensions, v0=start)
    # The sign of a singular vector is arbitrary: the largest entry of each is made positive.
    largest = directions[np.arange(n_dimensions), np.abs(directions).argmax(axis=1)]
    scaled = (directions * (np.sign(largest) * np.sqrt(singular_values))[:, None]).T
    vectors = np.zeros((expression.shape[1], n_dimensions), dtype=np.float32)
    vectors[is_seen] = scaled * (VECTOR_SCALE / np.sqrt(np.mean(scaled**2)))
    return vectors


@torch.no_grad()
def start_from_coexpression(model: ScDMCForMaskedLM, cells: TokenizedCells, training: np.ndarray, seed: int) -> None:
    """Set the gene embeddings of a new model to co-expression vectors of the training cells, in place.

    Genes that no training cell has, and the special tokens, keep their random vectors.

    Parameters
    ----------
    model
        With random weights.
    cells
        The data.
    training
        Shape (n_training,): which cells may be used; of more than 20,000 a sample is.
    seed
        Of the sample and the signs of the common part.

    Raises
    ------
    ScDMCError
        As :func:`coexpression_vectors`.
    """
    generator = np.random.default_rng(seed)
    sample = np.sort(generator.permutation(training)[:MOST_CELLS])
    config, embeddings = model.config, model.bert.embeddings
    vectors = coexpression_vectors(expression_of_cells(cells, sample, config.vocab_size), config.hidden_size, seed)
    is_seen = torch.from_numpy(vectors.any(axis=1))
    embeddings.word_embeddings.weight[is_seen] = torch.from_numpy(vectors)[is_seen]
    signs = generator.choice([-1.0, 1.0], size=config.hidden_size)
    common = torch.from_numpy(COMMON_SCALE * VECTOR_SCALE * signs).float()
    embeddings.token_type_embeddings.weight[0] = common
