"""Scores of generated cells: what copies, means and independent genes get, and that no training cell is a neighbour."""

import numpy as np
import pytest

from scdmc.text.pseudo_cells import scores
from scdmc.text.pseudo_cells.baselines import BASELINES, TypeCells, copied, mean_cells, negative_binomial_cells

N_GENES, N_CELLS = 40, 300


def correlated_cells(n_cells, seed, shift=0.0):
    """Cells of one type whose genes vary together, by two factors."""
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(7).normal(0, 0.6, (2, N_GENES))
    base = np.random.default_rng(8).normal(0, 1, N_GENES) + shift * np.random.default_rng(9).normal(0, 1, N_GENES)
    rates = np.exp(base + rng.standard_normal((n_cells, 2)) @ loadings)
    totals = rng.integers(1_500, 4_000, n_cells).astype(np.float64)
    counts = rng.poisson(rates / rates.sum(axis=1, keepdims=True) * totals[:, None] * 0.8)
    return TypeCells(counts.astype(np.float32), np.maximum(totals, counts.sum(axis=1)))


@pytest.fixture(scope="module")
def parts():
    """Three parts of cells of two types: training, reference and test."""
    return [
        {"a": correlated_cells(N_CELLS, seed), "b": correlated_cells(N_CELLS, seed + 10, 1.0)} for seed in (1, 2, 3)
    ]


def joined(part):
    return np.concatenate([cells.expression for cells in part.values()]), np.repeat(list(part), N_CELLS)


def made(part, draw, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([draw(cells, N_CELLS, rng) for cells in part.values()])


def test_copies_of_training_cells_cannot_be_told_from_test_cells_and_means_can(parts, monkeypatch):
    monkeypatch.setattr(scores, "N_TREES", 25)
    train, _, test = parts
    real, _ = joined(test)
    aucs = [scores.two_sample_auc(real, made(train, copied, seed), seed) for seed in range(2)]
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.05)
    assert scores.two_sample_auc(real, made(train, mean_cells)) > 0.95


def test_independent_genes_have_no_correlations_and_copies_have_them(parts):
    train, _, test = parts
    real, types = joined(test)
    for name, draw in BASELINES.items():
        found = scores.gene_correlations(real, types, made(train, draw), types)
        if name == "copies of training cells":
            assert found > 0.9
        elif name != "mean of the type":
            assert abs(found) < 0.1, name


def test_neighbours_alone_are_won_by_a_constant(parts):
    train, reference, test = parts
    space = scores.Space(*joined(reference))
    real, types = joined(test)
    of_real = scores.neighbour_accuracies(space, space.of(real), types)
    of_means = scores.neighbour_accuracies(space, space.of(made(train, mean_cells)), types)
    assert set(of_real) == {3, 5, 10, 25}
    assert of_means[10] >= of_real[10]
    swapped = np.where(types == "a", "b", "a")
    assert scores.neighbour_accuracies(space, space.of(real), swapped)[10] < 0.5


def test_mmd_is_unbiased_and_sees_a_shift():
    rng = np.random.default_rng(0)
    halves = [scores.mmd(*rng.standard_normal((2, 60, 5))) for _ in range(60)]
    assert min(halves) < 0 < max(halves)
    assert abs(np.mean(halves)) < 3 * np.std(halves) / np.sqrt(60)
    one, other = rng.standard_normal((2, 60, 5))
    assert scores.mmd(one, other + 2) > 10 * np.std(halves)


def test_mmd_equals_its_formula():
    one, other = np.random.default_rng(0).standard_normal((2, 6, 3))
    both = [*one, *other]
    pairs = [(i, j) for i in range(12) for j in range(i)]
    middle = np.median([np.sum((both[i] - both[j]) ** 2) for i, j in pairs])

    def mean(pairs):
        return np.mean([np.exp(-np.sum((a - b) ** 2) / middle) for a, b in pairs])

    own = [[(a, b) for i, a in enumerate(part) for j, b in enumerate(part) if i != j] for part in (one, other)]
    expected = mean(own[0]) + mean(own[1]) - 2 * mean([(a, b) for a in one for b in other])
    assert scores.mmd(one, other) == pytest.approx(expected)


def test_the_sliced_distance_of_a_shift_is_its_mean_projection():
    cells = np.random.default_rng(0).standard_normal((50, 4))
    found = scores.sliced_wasserstein(cells, cells + np.array([3.0, 0, 0, 0]), seed=5)
    directions = np.random.default_rng(5).standard_normal((scores.N_DIRECTIONS, 4))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert found == pytest.approx(np.abs(3 * directions[:, 0]).mean())
    assert scores.sliced_wasserstein(cells, cells) == 0


def test_fold_changes_of_the_same_means_have_slope_one_and_halved_ones_a_half():
    rng = np.random.default_rng(0)
    real = {name: np.exp(rng.normal(2, 1, 200)) for name in "abc"}
    assert scores.fold_changes(real, real) == pytest.approx((1, 1, 1))
    a, b = np.exp(rng.normal(2, 1, (2, 200)))
    plus = scores.PSEUDO_COUNT
    middle = np.sqrt((a + plus) * (b + plus))
    weak = {"a": np.sqrt((a + plus) * middle) - plus, "b": np.sqrt((b + plus) * middle) - plus}
    slope, agreement, shared = scores.fold_changes({"a": a, "b": b}, weak)
    assert slope == pytest.approx(0.5)
    assert (agreement, shared) == pytest.approx((1, 1))
    assert np.isnan(scores.fold_changes({"a": a}, {"a": a})[0])


def test_independent_negative_binomial_cells_have_the_mean_and_the_variance_of_the_type():
    cells = correlated_cells(600, 1)
    drawn = negative_binomial_cells(cells, 600, np.random.default_rng(0))
    real = cells.expression
    assert scores.correlation(drawn.mean(axis=0), real.mean(axis=0)) > 0.99
    assert np.median(drawn.var(axis=0) / real.var(axis=0)) == pytest.approx(1, abs=0.2)
