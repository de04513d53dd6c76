"""Lines of mere guessing, against counting by hand."""

import numpy as np
import pyarrow as pa
import pytest

from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.guessing import best_guess, guessing_lines
from scdmc.training.masking import masked_batch
from scdmc.training.settings import MaskingOptions
from tests.training.runs import random_cells

TRAINING, HELD_OUT = np.arange(40), np.arange(40, 60)
MASKING = MaskingOptions(seed=3, mask_probability=0.3)


def test_the_lines_are_those_of_counting_by_hand():
    cells = random_cells(n_cells=60, vocab_size=120, longest=60)
    lines = guessing_lines(cells, TRAINING, HELD_OUT, MASKING, epoch=5)
    counts = np.zeros(120)
    for cell in TRAINING:
        ids = cells.rank_ids[cells.rank_offsets[cell] + 1 : cells.rank_offsets[cell + 1] - 1]
        np.add.at(counts, ids, 1)
    counts = np.where(np.arange(120) > 3, counts + 0.5, 0)
    frequency = counts / counts.sum()
    rank, expression, bracketed, weights = [], [], [], []
    for cell in HELD_OUT:
        batch = masked_batch(cells, np.array([cell]), 5, MASKING)
        stream = batch.streams.input_ids.numpy()
        for number, (place, gene, value) in enumerate(
            zip(batch.masked_positions.tolist(), batch.labels.tolist(), batch.expression_values.tolist(), strict=True)
        ):
            if number < batch.n_masked_rank:
                rank.append(-np.log(frequency[gene]))
                continue
            left, right = place - 1, place + 1
            while stream[left] == 1:
                left -= 1
            while stream[right] == 1:
                right += 1
            first = stream[left] + 1 if stream[left] > 3 else 4
            last = stream[right] if stream[right] > 3 else 120
            expression.append(-np.log(frequency[gene]))
            bracketed.append(-np.log(frequency[gene] / frequency[first:last].sum()))
            weights.append(value)
    assert lines["rank_unigram"] == pytest.approx(np.mean(rank))
    assert lines["expression_unigram"] == pytest.approx(np.average(expression, weights=weights))
    assert lines["expression_given_neighbours"] == pytest.approx(np.average(bracketed, weights=weights))
    assert lines["expression_given_neighbours"] < lines["expression_unigram"] - 1


def test_a_gene_that_always_has_the_same_rank_is_guessed_from_it():
    genes = np.arange(4, 20)
    rank = np.concatenate([[2], genes, [3]])
    offsets = np.arange(61) * len(rank)
    ids, values = np.tile(rank, 60).astype(np.int32), np.ones(60 * len(rank), dtype=np.float32)
    obs = pa.table({"cell_id": [str(cell) for cell in range(60)]})
    cells = TokenizedCells(ids, ids, values, offsets, offsets, obs, None)
    lines = guessing_lines(cells, TRAINING, HELD_OUT, MASKING, epoch=0)
    assert lines["rank_unigram"] == pytest.approx(np.log(16), rel=1e-3)
    assert lines["rank_given_rank"] < lines["rank_unigram"] - 0.5


def test_a_shuffled_expression_stream_has_no_bracket():
    masking = MaskingOptions(seed=3, expression_order="random")
    lines = guessing_lines(random_cells(), TRAINING, HELD_OUT, masking, epoch=0)
    assert set(lines) == {"rank_unigram", "rank_given_rank", "expression_unigram"}


def test_the_best_guess_of_a_stream_is_its_lowest_line_whichever_there_are():
    guesses = {"guessing_rank_unigram": 9.0, "guessing_rank_given_rank": 8.5, "guessing_expression_unigram": 9.1}
    assert best_guess(guesses, "rank") == 8.5
    assert best_guess(guesses, "expression") == 9.1  # in random order no neighbours tell anything
    assert best_guess(guesses | {"guessing_expression_given_neighbours": 4.0}, "expression") == 4.0
