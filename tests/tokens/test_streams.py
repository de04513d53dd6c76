"""The two streams of a cell, against a dense implementation of their definition (docs/method.md, "Tokenization")."""

import math

import numpy as np
import pytest
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.tokens.streams import LARGEST_VOCABULARY, cell_streams, has_counts, sum_duplicate_genes, total_counts

VOCAB_SIZE = 104
NO_MEDIANS = np.ones(VOCAB_SIZE)


def reference_streams(counts, token_ids, n_counts, medians, model_input_size):
    """The definition, written for one dense row after the other."""
    cells = []
    for row, n in zip(counts, n_counts, strict=True):
        summed = {}
        for x, token in zip(row.tolist(), token_ids.tolist(), strict=True):
            if token >= 0 and x != 0:
                summed[token] = summed.get(token, 0.0) + x
        if not (math.isfinite(n) and n > 0):
            summed = {}
        values = {token: x / n * 10_000 / medians[token] for token, x in summed.items()}
        rank = sorted(values, key=lambda token, values=values: (-values[token], token))[: model_input_size - 2]
        genes = sorted(rank)
        expression = [1.0, *(math.log(1 + values[gene]) for gene in genes), 1.0]
        cells.append(([2, *rank, 3], [2, *genes, 3], expression))
    return cells


def random_data(seed, n_cells=30, n_genes=120):
    """Counts with many ties, columns of one gene, columns of no gene, medians and totals."""
    generator = np.random.default_rng(seed)
    counts = generator.poisson(generator.gamma(0.3, 3, n_genes), (n_cells, n_genes)).astype(np.float64)
    token_ids = generator.integers(4, VOCAB_SIZE, n_genes)
    token_ids[generator.random(n_genes) < 0.2] = -1
    medians = np.where(generator.random(VOCAB_SIZE) < 0.5, 1.0, generator.lognormal(size=VOCAB_SIZE))
    return counts, token_ids, counts.sum(axis=1) + generator.integers(0, 50, n_cells), medians


def cells_of(streams):
    """(rank, expression genes, values) of each cell."""
    return [
        tuple(
            array[start:stop].tolist()
            for array in (streams.input_ids_rank, streams.input_ids_epe, streams.expression_values)
        )
        for start, stop in zip(streams.offsets[:-1], streams.offsets[1:], strict=True)
    ]


def assert_equal_to_reference(streams, expected):
    found = cells_of(streams)
    assert [cell[:2] for cell in found] == [cell[:2] for cell in expected]
    for (*_, values), (*_, expected_values) in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, expected_values, rtol=1e-6)


@pytest.mark.parametrize("model_input_size", [3, 20, 2048])
@pytest.mark.parametrize("seed", range(5))
def test_streams_are_those_of_the_definition(seed, model_input_size):
    counts, token_ids, n_counts, medians = random_data(seed)
    expected = reference_streams(counts, token_ids, n_counts, medians, model_input_size)
    streams = cell_streams(scipy.sparse.csr_matrix(counts), token_ids, n_counts, medians, model_input_size)
    assert_equal_to_reference(streams, expected)


def test_random_data_has_what_makes_the_definition_hard():
    counts, token_ids, n_counts, _ = random_data(0)
    matched = token_ids[token_ids >= 0]
    assert len(np.unique(matched)) < len(matched)
    assert (token_ids < 0).any()
    rank = reference_streams(counts, token_ids, n_counts, NO_MEDIANS, 2048)[0][0]
    assert len(rank) > 30
    assert len(set(counts[0][counts[0] > 0])) < len(rank) / 2


def test_columns_of_one_gene_are_summed():
    counts = scipy.sparse.csr_matrix(np.array([[3.0, 5.0, 4.0]]))
    ((rank, genes, values),) = cells_of(cell_streams(counts, np.array([9, 6, 9]), np.array([12.0]), NO_MEDIANS))
    assert rank == [2, 9, 6, 3]
    assert genes == [2, 6, 9, 3]
    np.testing.assert_allclose(values, [1.0, math.log(1 + 5e4 / 12), math.log(1 + 7e4 / 12), 1.0], rtol=1e-7)


def test_ties_stand_in_ascending_token_id_in_whatever_column_they_are():
    tokens = np.random.default_rng(0).permutation(np.arange(4, 54))
    counts = scipy.sparse.csr_matrix(np.full((1, 50), 2.0))
    ((rank, _, _),) = cells_of(cell_streams(counts, tokens, np.array([100.0]), NO_MEDIANS))
    assert rank == [2, *range(4, 54), 3]


def test_a_tie_at_the_cut_keeps_the_lower_token_ids():
    counts = scipy.sparse.csr_matrix(np.array([[1.0, 1.0, 1.0, 7.0]]))
    streams = cell_streams(counts, np.array([30, 20, 10, 40]), np.array([10.0]), NO_MEDIANS, model_input_size=5)
    ((rank, genes, _),) = cells_of(streams)
    assert rank == [2, 40, 10, 20, 3]
    assert genes == [2, 10, 20, 40, 3]
    assert streams.n_truncated == 1


@pytest.mark.parametrize("seed", range(20))
def test_values_that_differ_only_in_their_last_bits_stand_in_the_right_order(seed):
    generator = np.random.default_rng(seed)
    steps = generator.integers(0, 6, 40)
    counts = np.full(40, 1.0)
    for step in range(1, 6):
        counts[steps >= step] = np.nextafter(counts[steps >= step], 2.0)
    tokens = generator.permutation(np.arange(4, 44))
    n_counts = np.array([8192.0])  # a power of two: the division changes no bit
    medians = np.full(VOCAB_SIZE, 1.0)
    streams = cell_streams(scipy.sparse.csr_matrix(counts[None]), tokens, n_counts, medians)
    expected = reference_streams(counts[None], tokens, n_counts, medians, 2048)
    assert len(set((counts / 8192 * 10_000).tolist())) > 3
    assert_equal_to_reference(streams, expected)


def test_an_expression_stream_holds_the_genes_of_the_rank_stream_after_truncation():
    counts, token_ids, n_counts, medians = random_data(7)
    full = cells_of(cell_streams(scipy.sparse.csr_matrix(counts), token_ids, n_counts, medians))
    streams = cell_streams(scipy.sparse.csr_matrix(counts), token_ids, n_counts, medians, model_input_size=12)
    assert streams.n_truncated == sum(len(rank) > 12 for rank, _, _ in full) > 0
    for (rank, genes, values), (full_rank, full_genes, full_values) in zip(cells_of(streams), full, strict=True):
        assert rank[1:-1] == full_rank[1:-1][:10]
        assert genes[1:-1] == sorted(rank[1:-1])
        value_of_gene = dict(zip(full_genes[1:-1], full_values[1:-1], strict=True))
        assert values[1:-1] == [value_of_gene[gene] for gene in genes[1:-1]]


@pytest.mark.parametrize("n", [np.nan, 0.0, -5.0, np.inf, -np.inf])
def test_a_cell_without_a_usable_total_is_empty_and_leaves_its_neighbours_alone(n):
    counts, token_ids, n_counts, medians = random_data(1, n_cells=3)
    before = cells_of(cell_streams(scipy.sparse.csr_matrix(counts), token_ids, n_counts, medians))
    n_counts[1] = n
    after = cells_of(cell_streams(scipy.sparse.csr_matrix(counts), token_ids, n_counts, medians))
    assert after[1] == ([2, 3], [2, 3], [1.0, 1.0])
    assert [after[0], after[2]] == [before[0], before[2]]


def test_cells_without_counts_or_without_known_genes_are_empty():
    counts = scipy.sparse.csr_matrix(np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0], [0.0, 0.0]]))
    cells = cells_of(cell_streams(counts, np.array([-1, 8]), np.full(4, 5.0), NO_MEDIANS))
    empty = ([2, 3], [2, 3], [1.0, 1.0])
    assert [cell == empty for cell in cells] == [True, True, False, True]


def test_a_block_of_no_cells_has_no_tokens():
    streams = cell_streams(scipy.sparse.csr_matrix((0, 3)), np.array([4, 5, 6]), np.zeros(0), NO_MEDIANS)
    assert cells_of(streams) == []
    assert streams.offsets.tolist() == [0]


def test_a_stored_zero_is_no_entry():
    stored = scipy.sparse.csr_matrix((np.array([0.0, 3.0, 0.0]), np.array([0, 1, 2]), np.array([0, 3])), shape=(1, 3))
    assert stored.nnz == 3
    ((rank, _, _),) = cells_of(cell_streams(stored, np.array([4, 5, 6]), np.array([3.0]), NO_MEDIANS))
    assert rank == [2, 5, 3]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.int32, np.uint16, np.uint8, bool])
def test_unsorted_entries_and_entries_stored_twice_count_as_their_sum(dtype):
    # 200 + 200 does not fit into eight bits, and True + True is no True.
    many = dtype(200)
    data = np.array([many, 1, many, 1], dtype=dtype)
    twice = scipy.sparse.csr_matrix((data, np.array([2, 0, 2, 1]), np.array([0, 4])), shape=(1, 3))
    before = twice.copy()
    n_counts = total_counts(twice)
    assert n_counts.tolist() == [2 * float(many) + 2]
    streams = cell_streams(twice, np.array([4, 5, 6]), n_counts, NO_MEDIANS)
    expected = reference_streams(
        np.array([[1.0, 1.0, 2 * float(many)]]), np.array([4, 5, 6]), n_counts, NO_MEDIANS, 2048
    )
    assert_equal_to_reference(streams, expected)
    assert twice.data.tolist() == before.data.tolist()
    assert twice.indices.tolist() == before.indices.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int32, np.uint16, np.uint8])
def test_the_storage_type_of_the_counts_does_not_change_the_streams(dtype):
    counts, token_ids, n_counts, medians = random_data(2)
    assert counts.max() < 256
    expected = cells_of(cell_streams(scipy.sparse.csr_matrix(counts), token_ids, n_counts, medians))
    stored = scipy.sparse.csr_matrix(counts.astype(dtype))
    assert cells_of(cell_streams(stored, token_ids, n_counts, medians)) == expected


def test_gene_order_of_the_file_does_not_change_the_streams():
    counts, token_ids, n_counts, medians = random_data(3)
    order = np.random.default_rng(0).permutation(len(token_ids))
    expected = cell_streams(scipy.sparse.csr_matrix(counts), token_ids, n_counts, medians, 25)
    shuffled = cell_streams(scipy.sparse.csr_matrix(counts[:, order]), token_ids[order], n_counts, medians, 25)
    assert cells_of(shuffled) == cells_of(expected)


def test_the_other_cells_of_a_block_do_not_change_a_cell():
    counts, token_ids, n_counts, medians = random_data(4)
    matrix = scipy.sparse.csr_matrix(counts)
    together = cells_of(cell_streams(matrix, token_ids, n_counts, medians, 25))
    for cells in ([5], [29, 0, 5], list(range(10, 20))):
        block = cell_streams(matrix[cells], token_ids, n_counts[cells], medians, 25)
        assert cells_of(block) == [together[cell] for cell in cells]


def test_arrays_have_the_types_of_the_format():
    counts, token_ids, n_counts, medians = random_data(5)
    streams = cell_streams(scipy.sparse.csr_matrix(counts), token_ids, n_counts, medians)
    types = [array.dtype for array in (streams.input_ids_rank, streams.input_ids_epe, streams.expression_values)]
    assert types == [np.int32, np.int32, np.float32]


def test_the_total_of_a_cell_is_exact_above_the_integers_of_float32():
    counts = scipy.sparse.csr_matrix(np.array([[2**24, 1, 1, 1]], dtype=np.float32))
    assert total_counts(counts).tolist() == [2**24 + 3]


def test_summing_is_skipped_where_every_gene_has_one_column():
    counts = scipy.sparse.csr_matrix(np.eye(3))
    summed, tokens = sum_duplicate_genes(counts, np.array([7, -1, 5]))
    assert summed is counts
    assert tokens.tolist() == [7, -1, 5]


def test_the_largest_vocabulary_still_sorts_by_value_and_a_larger_one_is_refused():
    counts = scipy.sparse.csr_matrix(np.array([[1.0, 2.0, 1.0]]))
    tokens = np.array([LARGEST_VOCABULARY - 1, 4, LARGEST_VOCABULARY - 2])
    ((rank, _, _),) = cells_of(cell_streams(counts, tokens, np.array([4.0]), np.ones(LARGEST_VOCABULARY)))
    assert rank == [2, 4, LARGEST_VOCABULARY - 2, LARGEST_VOCABULARY - 1, 3]
    with pytest.raises(ScDMCError, match="at most 131,072 tokens, not 131,073"):
        cell_streams(counts, tokens, np.array([4.0]), np.ones(LARGEST_VOCABULARY + 1))


def test_a_cell_has_counts_if_its_total_is_positive_and_finite():
    totals = np.array([1.0, 0.0, -1.0, np.nan, np.inf, 1e-9])
    assert has_counts(totals).tolist() == [True, False, False, False, False, True]
