"""Scores of batches that need no label."""

import numpy as np
import pytest

from scdmc.cells.label_free_scores import batch_entropy, neighbours_kept


@pytest.fixture(scope="module")
def cells():
    """Two types, three batches, one of them shifted; and a batch of one cell."""
    generator = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 100)
    batch = np.array(["x", "y", "z"])[generator.integers(0, 3, 200)]
    batch[0] = "alone"
    embedding = generator.normal(size=(200, 5)).astype(np.float32)
    embedding[labels == "b", 0] += 6
    embedding[batch == "y", 1] += 1.5
    return embedding, labels, batch


def test_neighbours_within_a_batch_survive_a_shift_of_the_batch_but_no_noise(cells):
    embedding, _, batch = cells
    shifted = embedding + 30 * (batch == "y")[:, None]
    assert neighbours_kept(embedding, shifted, batch) == 1
    noise = np.random.default_rng(1).normal(size=(200, 5))
    assert neighbours_kept(embedding, noise, batch) < 0.4
    assert np.isnan(neighbours_kept(embedding, noise, np.arange(200)))


def test_the_entropy_of_batches_is_low_apart_and_high_together(cells):
    embedding, _, batch = cells
    two = np.where(batch == "y", "y", "x")
    assert batch_entropy(embedding + 50 * (two == "y")[:, None], two, 20) == pytest.approx(0, abs=1e-9)
    assert batch_entropy(np.random.default_rng(1).normal(size=(200, 5)), two) > 0.9
    assert np.isnan(batch_entropy(embedding, np.full(200, "one")))
