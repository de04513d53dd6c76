"""The numbers behind the views: fits, folds, weights and thresholds."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression

from scdmc.annotation.calibration import expected_calibration_error
from scdmc.views.classifier import fit_view_classifier
from scdmc.views.regression import (
    CompactFeatures,
    Standardisation,
    combined,
    fit_all_cells,
    fit_view,
    fold_of_cells,
    fold_view,
    is_learnable,
    sample_of_cells,
)
from scdmc.views.weights import recommended_threshold, unseen_auroc, view_weights


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def three_groups(rng):
    """Overlapping groups of 60 cells in 40 dimensions: features and types."""
    types = np.repeat([0, 1, 2], 60)
    return (rng.normal(size=(3, 40))[types] * 0.5 + rng.normal(size=(180, 40))).astype(np.float32), types


@pytest.mark.parametrize("n_features", [40, 400])
def test_a_view_is_the_logistic_regression_of_scikit_learn(three_groups, rng, n_features):
    features, types = three_groups
    features = np.concatenate([features, rng.normal(size=(180, n_features - 40)) * 0.3], axis=1).astype(np.float32)
    axes = CompactFeatures(scipy.sparse.csr_matrix(features))
    view = axes.turned_back(fit_view(axes.own, axes.variance, types, 3, C=0.1))
    theirs = LogisticRegression(C=0.1, max_iter=1000, tol=1e-6).fit(features, types).predict_proba(features)
    assert np.abs(view.probabilities(features) - theirs).max() < 0.02
    np.testing.assert_allclose(axes.turned(features), axes.own, atol=1e-3)


def test_a_type_without_cells_gets_no_probability_and_a_single_type_all_of_it(three_groups):
    features, types = three_groups
    axes = CompactFeatures(features)
    two = fit_view(axes.own[types > 0], axes.variance, types[types > 0], 3, C=1.0).probabilities(axes.own)
    assert (two[:, 0] == 0).all()
    one = fit_view(axes.own[:9], axes.variance, np.full(9, 1), 3, C=1.0).probabilities(axes.own)
    np.testing.assert_array_equal(one, np.tile([0.0, 1.0, 0.0], (180, 1)))


def test_components_keep_their_relative_spread(rng):
    features = rng.normal(size=(200, 3)) * [10.0, 1.0, 0.0]
    scaled = Standardisation.of(features, has_one_spread=True).apply(features)
    spread = features.std(axis=0)
    np.testing.assert_allclose(scaled.std(axis=0), spread / spread[0], rtol=1e-5)


def test_standardised_features_give_the_same_view(three_groups):
    features, types = three_groups
    features[:, 3] = 7.0  # a constant
    standard = Standardisation.of(features)
    scaled = standard.apply(features)
    axes = CompactFeatures(scaled)
    view = axes.turned_back(fit_view(axes.own, axes.variance, types, 3, C=0.1))
    np.testing.assert_allclose(standard.undo(view).probabilities(features), view.probabilities(scaled), atol=1e-4)


def test_folds_spread_each_type_and_hold_whole_batches():
    types = np.repeat([0, 1], [50, 10])
    folds = fold_of_cells(types)
    assert all(set(np.bincount(folds[types == each], minlength=5)) <= {2, 10} for each in (0, 1))
    batch = np.array(list("abc") * 20)
    by_batch = fold_of_cells(types, batch)
    assert all(len(set(by_batch[batch == each])) == 1 for each in "abc")
    assert len(set(by_batch)) == 3


def test_a_single_cell_of_a_type_teaches_nothing_about_a_view():
    types = np.array([0] * 10 + [1])
    np.testing.assert_array_equal(is_learnable(types, fold_of_cells(types)), types == 0)


def test_a_sample_keeps_every_type():
    types = np.array([0] * 5000 + [1])
    chosen = sample_of_cells(types, 100)
    assert 100 <= len(chosen) <= 102
    assert types[chosen].max() == 1


def test_more_noise_asks_for_a_smaller_c(three_groups, rng):
    features, types = three_groups
    folds = fold_of_cells(types)
    clear, noisy = (CompactFeatures(each.astype(np.float32)) for each in (
        features + 4 * np.eye(3, 40)[types], rng.normal(size=(180, 40))
    ))  # fmt: skip
    assert fold_view(clear.own, clear.variance, types, folds).C > fold_view(noisy.own, noisy.variance, types, folds).C


def test_the_better_view_weighs_more_and_a_few_cells_hardly_move_the_weights(rng):
    types = rng.integers(0, 3, size=600)
    truth = np.eye(3)[types]

    def noisy(noise):
        logits = 3 * truth + noise * rng.normal(size=truth.shape)
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    views = {"good": noisy(1.0), "bad": noisy(6.0)}
    weights = view_weights(views, types)
    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) >= 0
    assert weights["good"] > 0.8
    few = view_weights({name: each[:6] for name, each in views.items()}, types[:6])
    assert 0.5 < few["good"] < weights["good"] - 0.05
    assert view_weights({"alone": views["bad"]}, types) == {"alone": 1.0}


def test_views_together_are_the_weighted_mean_of_logarithms():
    of_views = {"a": np.array([[0.8, 0.2]]), "b": np.array([[0.5, 0.5]])}
    np.testing.assert_allclose(combined(of_views, {"a": 0.5, "b": 0.5}), [[2 / 3, 1 / 3]])
    np.testing.assert_allclose(combined({"a": of_views["a"]}, {"a": 1.0, "b": 0.0}), of_views["a"])


def test_the_threshold_lies_between_seen_and_unseen():
    seen, unseen = np.linspace(0.7, 1.0, 100), np.linspace(0.2, 0.6, 50)
    assert unseen_auroc(seen, unseen) == 1
    assert 0.6 <= recommended_threshold(seen, np.ones(100, dtype=bool), [(seen, unseen)]) <= 0.71
    # No threshold may cost more right labels than its bound, however many cells of an unseen type it would catch.
    greedy = recommended_threshold(seen, np.ones(100, dtype=bool), [(seen, np.full(50, 0.99))])
    assert (seen < greedy).mean() <= 0.15


def test_a_classifier_of_views_is_better_than_its_parts_and_calibrated(rng):
    types = np.repeat(np.arange(4), 100)
    labels, half = np.array(list("abcd"), dtype=object)[types], np.arange(400) % 2 == 0
    centres = {name: rng.normal(size=(4, 30)) for name in ("components", "scdmc")}
    features = {name: (0.55 * each[types] + rng.normal(size=(400, 30))).astype(np.float32)
                for name, each in centres.items()}  # fmt: skip
    taught = {name: each[half] for name, each in features.items()}
    classifier, held_out = fit_view_classifier(taught, labels[half])
    of_views = classifier.of_views({name: each[~half] for name, each in features.items()})
    together = classifier.consensus_of(list(of_views)).probabilities(of_views)
    right = {name: (each.argmax(axis=1) == types[~half]).mean() for name, each in of_views.items()}
    is_right = together.argmax(axis=1) == types[~half]
    assert is_right.mean() > max(right.values())
    assert expected_calibration_error(together.max(axis=1), is_right, 5) < 0.1
    assert set(held_out.unseen_auroc) == set("abcd")
    assert {"components", "scdmc", "components+scdmc"} == set(classifier.familiarity)
    assert all(0 < each.threshold < 0.5 for each in classifier.familiarity.values())


@pytest.mark.parametrize("n_types", [1, 2, 3])
def test_a_fit_of_all_cells_goes_on_from_that_of_some(three_groups, n_types):
    features, types = three_groups
    kept = np.flatnonzero(types < n_types)
    features, types = scipy.sparse.csr_matrix(features[kept]), types[kept]
    some = CompactFeatures(features[::2])
    start = some.turned_back(fit_view(some.own, some.variance, types[::2], 3, C=0.1))
    found = fit_all_cells(features, types, 3, 0.1, start).probabilities(features)
    axes = CompactFeatures(features)
    np.testing.assert_allclose(
        found, fit_view(axes.own, axes.variance, types, 3, C=0.1).probabilities(axes.own), atol=0.03
    )
