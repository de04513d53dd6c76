"""Gene embeddings that start from co-expression: the arithmetic, and that only training cells are used."""

import numpy as np
import pytest
import scipy.sparse
import torch

from scdmc.errors import ScDMCError
from scdmc.tokens.tokenized_cells import expression_of_cells
from scdmc.training.coexpression import COMMON_SCALE, VECTOR_SCALE, coexpression_vectors, start_from_coexpression
from tests.training.runs import CELLS, VOCAB_SIZE, make_model

N_GENES = 30


def two_programs(n_cells=200, seed=0):
    """Values of cells that express genes 4-16 or 17-29 together; tokens 0-3 are no genes."""
    generator = np.random.default_rng(seed)
    program = generator.random(n_cells) < 0.5
    is_on = np.where(program[:, None], np.arange(N_GENES) < 17, np.arange(N_GENES) >= 17)
    values = np.where(is_on, generator.uniform(1, 2, (n_cells, N_GENES)), generator.uniform(0, 0.2, (n_cells, N_GENES)))
    values[:, :4] = 0
    return scipy.sparse.csr_matrix(values, dtype=np.float32)


def test_vectors_are_those_of_a_dense_decomposition():
    expression = two_programs()
    vectors = coexpression_vectors(expression, 5)
    _, singular_values, directions = np.linalg.svd(expression.toarray()[:, 4:].astype(np.float64), full_matrices=False)
    expected = directions[:5].T * np.sqrt(singular_values[:5])
    # The same space with the same inner products, whatever the signs and the order of the dimensions.
    gram = expected @ expected.T
    assert not vectors[:4].any()
    np.testing.assert_allclose(
        vectors[4:] @ vectors[4:].T, gram * (VECTOR_SCALE**2 / np.mean(expected**2)), atol=1e-4 * VECTOR_SCALE**2
    )
    assert np.mean(vectors[4:] ** 2) == pytest.approx(VECTOR_SCALE**2, rel=1e-5)


def test_genes_of_one_program_have_similar_vectors():
    vectors = coexpression_vectors(two_programs(), 2)[4:]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    assert cosines[:13, :13].min() > 0.95
    assert cosines[13:, 13:].min() > 0.95
    assert cosines[:13, 13:].max() < 0.5


def test_vectors_follow_from_the_data_and_not_from_the_order_of_the_cells():
    expression = two_programs()
    vectors = coexpression_vectors(expression, 3)
    assert coexpression_vectors(expression, 3).tobytes() == vectors.tobytes()
    order = np.random.default_rng(1).permutation(expression.shape[0])
    np.testing.assert_allclose(coexpression_vectors(expression[order], 3, seed=7), vectors, atol=1e-4)


def test_too_few_cells_are_refused():
    with pytest.raises(ScDMCError, match="4 cells of 26 genes are too few for 8 dimensions"):
        coexpression_vectors(two_programs()[:4], 8)


def test_values_of_cells_are_those_of_their_expression_streams():
    chosen = np.array([7, 0, 3])
    expression = expression_of_cells(CELLS, chosen, VOCAB_SIZE).toarray()
    for row, cell in enumerate(chosen):
        place = slice(CELLS.expression_offsets[cell] + 1, CELLS.expression_offsets[cell + 1] - 1)
        expected = np.zeros(VOCAB_SIZE)
        expected[CELLS.expression_ids[place]] = CELLS.expression_values[place]
        np.testing.assert_allclose(expression[row], expected)


def test_a_model_starts_from_its_training_cells_alone():
    training = np.arange(0, 48, 2)  # the cells of genes 4 to 21
    model, untouched = make_model(), make_model()
    start_from_coexpression(model, CELLS, training, seed=1)
    words, before = (m.bert.embeddings.word_embeddings.weight for m in (model, untouched))
    expected = coexpression_vectors(expression_of_cells(CELLS, training, VOCAB_SIZE), 16, seed=1)
    torch.testing.assert_close(words[4:22].detach(), torch.from_numpy(expected[4:22]))
    assert torch.equal(words[:4], before[:4])
    assert torch.equal(words[22:], before[22:])  # genes that no training cell has
    common = model.bert.embeddings.token_type_embeddings.weight[0].abs()
    assert torch.equal(common, torch.full_like(common, COMMON_SCALE * VECTOR_SCALE))
    loudness = words[4:22].std() / common[0]
    assert 1.5 < loudness < 6, "a gene speaks about three times as loud as what all tokens share"
    assert model.cls.predictions.decoder.weight is words
