"""The simple methods: do they learn, from the right cells only, and do they refuse what they cannot use."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import NearestNeighbors

from scdmc.annotation.baselines import (
    REGULARISATION_GRID,
    celltypist_classifier,
    chosen_regularisation,
    logistic_regression,
    logistic_regression_on_components,
    majority_class,
    nearest_neighbours,
    nearest_neighbours_on_pca,
    principal_components,
)
from scdmc.cells.components import component_values, fitted_components
from scdmc.cells.splits import make_split
from scdmc.errors import ScDMCError
from scdmc.integration.methods import harmony, pca_of_variable_genes

N_CELLS, N_GENES = 240, 200


def log1p_cp10k(counts):
    return scipy.sparse.csr_matrix(np.log1p(counts / counts.sum(axis=1, keepdims=True) * 10_000), dtype=np.float32)


@pytest.fixture(scope="module")
def cells():
    """log1p CP10k of three types with ten marker genes each, their labels and a split."""
    generator = np.random.default_rng(0)
    types = np.arange(N_CELLS) % 3
    rates = np.tile(generator.uniform(0.5, 5.0, N_GENES), (N_CELLS, 1))
    for marked in range(3):
        rates[types == marked, 10 * marked : 10 * marked + 10] *= 4.0
    expression = log1p_cp10k(generator.poisson(rates))
    labels = np.array(["acinar", "beta", "ductal"], dtype=object)[types]
    return expression, labels, make_split(labels)


def with_noise_outside_of(part, expression, split):
    """The same values, but random genes for every cell that is in none of the parts."""
    noise = log1p_cp10k(np.random.default_rng(9).poisson(1.0, expression.shape))
    keep = scipy.sparse.diags_array(np.isin(split, part).astype(np.float32))
    drop = scipy.sparse.diags_array((~np.isin(split, part)).astype(np.float32))
    return (keep @ expression + drop @ noise).tocsr()


def test_logistic_regression_finds_marked_types(cells):
    expression, labels, split = cells
    predicted, chosen = logistic_regression(expression, labels, split)
    assert (predicted.labels == labels[split == "test"]).mean() > 0.9
    assert chosen["validation_log_loss"] < 0.3


def test_logistic_regression_is_fitted_on_train_and_validation(cells):
    expression, labels, split = cells
    _, chosen = logistic_regression(expression, labels, split)
    # Validation cells of a type that training has not: only the second fit can know it.
    labels = labels.copy()
    labels[split == "validation"] = "new"
    few = np.where(split == "train", "left_out", split)
    few[np.flatnonzero(split == "train")[:12]] = "train"
    predicted, _ = logistic_regression(expression, labels, few)
    assert "new" in predicted.labels
    assert chosen["C"] > 0


def test_the_strength_of_a_regression_is_the_one_with_the_lowest_log_loss(cells):
    expression, labels, split = cells
    labels = np.where(np.arange(N_CELLS) % 7 == 0, "beta", labels)  # some are wrong: certainty is punished
    train, validation = (expression[split == part] for part in ("train", "validation"))
    losses = {}
    for C in REGULARISATION_GRID:
        model = LogisticRegression(C=C, max_iter=1000).fit(train, labels[split == "train"].astype(str))
        losses[C] = log_loss(labels[split == "validation"], model.predict_proba(validation))
    _, chosen = logistic_regression(expression, labels, split)
    assert chosen["C"] == min(losses, key=losses.get) < REGULARISATION_GRID[-1]
    assert chosen["validation_log_loss"] == pytest.approx(min(losses.values()), rel=1e-3)


def test_a_walk_over_the_grid_ends_where_the_loss_rises():
    asked = []

    def loss_of(C, losses):
        asked.append(C)
        return losses[C]

    def walk(*losses, **options):
        asked.clear()
        return chosen_regularisation(lambda C: loss_of(C, losses), range(len(losses)), **options), list(asked)

    assert walk(3, 2, 4, 0) == ((1, 2), [0, 1, 2])
    assert walk(1, 2, 3, 4, start=2) == ((0, 1), [2, 3, 1, 0])
    assert walk(5, 5, 3, 2.95, start=2, least_gain=0.1) == ((2, 3), [2, 3, 1])
    assert walk(5, 3.05, 3, 9, start=2, least_gain=0.1) == ((1, 3), [2, 3, 1, 0])
    (C, loss), _ = walk(np.nan, 1)
    assert C == 0
    assert np.isnan(loss)


def test_a_regression_on_components_finds_marked_types_and_never_sees_labels_of_test_cells(cells):
    expression, labels, split = cells
    components = principal_components(expression)
    assert components.shape == (N_CELLS, 50)
    np.testing.assert_allclose(components.mean(axis=0), 0, atol=1e-4)
    predicted, chosen = logistic_regression_on_components(components, labels, split)
    assert (predicted.labels == labels[split == "test"]).mean() > 0.9
    hidden = np.where(split == "test", "beta", labels)
    predicted_hidden, chosen_hidden = logistic_regression_on_components(components * 7, hidden, split)
    assert predicted.labels.tolist() == predicted_hidden.labels.tolist()
    assert chosen["C"] == chosen_hidden["C"]
    one_gene = principal_components(expression[:, :1])
    assert one_gene.shape == (N_CELLS, 1)
    assert principal_components(expression[:12]).shape == (12, 11)
    flat, _ = logistic_regression_on_components(np.zeros((N_CELLS, 1)), labels, split)
    assert len(set(flat.labels)) == 1


def test_logistic_regression_never_sees_labels_of_test_cells(cells):
    expression, labels, split = cells
    hidden = labels.copy()
    hidden[split == "test"] = "beta"
    predicted, chosen = logistic_regression(expression, labels, split)
    predicted_hidden, chosen_hidden = logistic_regression(expression, hidden, split)
    assert predicted.labels.tolist() == predicted_hidden.labels.tolist()
    assert chosen == chosen_hidden


def test_neighbours_on_components_find_marked_types(cells):
    expression, labels, split = cells
    predicted = nearest_neighbours_on_pca(expression, labels, split)
    assert (predicted.labels == labels[split == "test"]).mean() > 0.9
    # By hand: 50 directions of the centred training cells, then the votes of the 15 nearest.
    dense, train = expression.toarray().astype(np.float64), split == "train"
    centre = dense[train].mean(axis=0)
    _, _, directions = np.linalg.svd(dense[train] - centre, full_matrices=False)
    components = (dense - centre) @ directions[:50].T
    names = np.unique(labels)
    shares = []
    for cell in components[split == "test"]:
        nearest = np.argsort(np.linalg.norm(components[train] - cell, axis=1))[:15]
        shares.append([(labels[train][nearest] == name).mean() for name in names])
    assert predicted.labels.tolist() == names[np.argmax(shares, axis=1)].tolist()
    np.testing.assert_allclose(predicted.confidence, np.max(shares, axis=1))


def test_neighbours_find_nothing_where_there_is_nothing_to_find(cells):
    expression, labels, split = cells
    shuffled = np.random.default_rng(1).permutation(labels)
    predicted = nearest_neighbours_on_pca(expression, shuffled, split)
    assert (predicted.labels == shuffled[split == "test"]).mean() < 0.6  # one of three types: 0.33 by chance


def test_components_are_fitted_on_training_cells_only(cells):
    expression, labels, split = cells
    noisy = with_noise_outside_of(["train", "test"], expression, split)
    assert not np.array_equal(noisy.toarray(), expression.toarray())
    predicted = nearest_neighbours_on_pca(expression, labels, split)
    assert predicted.labels.tolist() == nearest_neighbours_on_pca(noisy, labels, split).labels.tolist()


def test_neighbours_vote_among_training_cells_only():
    embedding = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2], [0.05], [0.06], [4.9]])
    labels = np.array(["a", "a", "a", "b", "b", "b", "b", "b", "a"], dtype=object)
    split = np.array(["train"] * 6 + ["left_out", "test", "test"])
    assert nearest_neighbours(embedding, labels, split, n_neighbors=3).labels.tolist() == ["a", "b"]


def test_the_majority_is_that_of_the_training_part():
    labels = np.array(["a", "b", "b", "a", "a", "a"], dtype=object)
    split = np.array(["train", "train", "train", "validation", "test", "test"])
    assert majority_class(labels, split).labels.tolist() == ["b", "b"]


def test_a_split_without_test_cells_is_refused(cells):
    expression, labels, _ = cells
    with pytest.raises(ScDMCError, match="no validation, test cells"):
        logistic_regression(expression, labels, np.full(N_CELLS, "train"))


def test_one_type_to_train_on_is_refused():
    with pytest.raises(ScDMCError, match="one type only"):
        majority_class(np.array(["a", "a", "b"]), np.array(["train", "train", "test"]))


def test_all_training_cells_vote_where_there_are_fewer_than_neighbours():
    labels, split = np.array(["a", "b", "b", "a"]), np.array(["train", "train", "train", "test"])
    assert nearest_neighbours(np.zeros((4, 2)), labels, split, n_neighbors=15).labels.tolist() == ["b"]


def test_raw_counts_are_refused(cells):
    _, labels, split = cells
    counts = scipy.sparse.csr_matrix(np.random.default_rng(0).poisson(20, (N_CELLS, N_GENES)))
    with pytest.raises(ScDMCError, match=r"log1p CP10k is at most 9\.21"):
        nearest_neighbours_on_pca(counts, labels, split)


@pytest.mark.slow
def test_components_of_variable_genes_separate_the_types_and_repeat(cells):
    expression, labels, _ = cells
    pca = pca_of_variable_genes(expression, n_top_genes=60, n_components=10)
    assert pca.shape == (N_CELLS, 10)
    np.testing.assert_allclose(pca, pca_of_variable_genes(expression, n_top_genes=60, n_components=10), atol=1e-4)
    neighbours = NearestNeighbors(n_neighbors=2).fit(pca).kneighbors(return_distance=False)
    assert (labels[neighbours[:, 0]] == labels).mean() > 0.9


@pytest.mark.parametrize(("n_cells", "n_genes"), [(60, 900), (900, 60), (600, 700)])
def test_components_are_those_of_all_singular_vectors_whatever_finds_them(n_cells, n_genes):
    rng = np.random.default_rng(0)
    spread = np.where(np.arange(n_genes) < 4, 6.0, 0.3)
    values = (rng.random((n_cells, n_genes)) * spread).astype(np.float32)
    sparse = scipy.sparse.csr_matrix(values)
    found = fitted_components(sparse, 4, seed=0).components_
    exact = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)[2][:4]
    np.testing.assert_allclose(np.abs((found * exact).sum(axis=1)), 1.0, atol=1e-3)
    of_cells = component_values(sparse, 4, seed=0)
    np.testing.assert_allclose(np.abs(of_cells), np.abs((values - values.mean(axis=0)) @ exact.T), atol=1e-2)
    if min(values.shape) <= 500:  # computed in full, so the same bits every time
        np.testing.assert_array_equal(of_cells, component_values(sparse, 4, seed=1))


def test_fewer_genes_than_components_give_fewer_components(cells):
    expression, _, _ = cells
    assert pca_of_variable_genes(expression[:, :8]).shape == (N_CELLS, 7)


@pytest.mark.parametrize("n_components", [5, 120])
def test_harmony_brings_two_shifted_batches_together(n_components):
    # 120 components of 120 cells: a square matrix must not be read the wrong way round.
    generator = np.random.default_rng(0)
    batch = np.array(["x", "y"])[np.arange(120) % 2]
    types = (np.arange(120) // 2) % 2
    pca = generator.normal(size=(120, n_components)) * 0.3
    pca[:, 0] += 10 * types
    pca[:, 1] += 4 * (batch == "y")
    corrected = harmony(pca, batch)
    assert corrected.shape == pca.shape

    def gap(values, groups):
        return np.linalg.norm(values[groups].mean(axis=0) - values[~groups].mean(axis=0))

    assert gap(pca, batch == "y") > 3.9
    assert gap(corrected, batch == "y") < 2
    assert gap(corrected, types == 1) > 8
    np.testing.assert_allclose(corrected, harmony(pca, batch), atol=1e-4)


def test_harmony_of_one_batch_is_refused():
    with pytest.raises(ScDMCError, match="at least two batches"):
        harmony(np.zeros((10, 3)), np.full(10, "x"))


def test_celltypist_finds_marked_types_where_it_is_installed(cells):
    pytest.importorskip("celltypist")
    expression, labels, split = cells
    genes = np.array([f"gene {index}" for index in range(N_GENES)])
    predicted = celltypist_classifier(expression, genes, labels, split)
    assert (predicted.labels == labels[split == "test"]).mean() > 0.9
    assert ((predicted.confidence >= 0) & (predicted.confidence <= 1)).all()


def test_confidence_is_the_share_of_votes_or_cells():
    labels = np.array(["a", "b", "b", "a"], dtype=object)
    split = np.array(["train", "train", "train", "test"])
    np.testing.assert_allclose(nearest_neighbours(np.zeros((4, 2)), labels, split).confidence, [2 / 3])
    np.testing.assert_allclose(majority_class(labels, split).confidence, [2 / 3])


@pytest.mark.parametrize("shape", [(4, 3), (6, 2), (6, 1), (12, 5), (3, 60)])
def test_neighbours_on_few_cells_and_genes_are_all_that_there_are(shape):
    """The most neighbours near, at and above the number of cells; a single gene has no principal components."""
    n_train = shape[0] - 1
    expression = scipy.sparse.csr_matrix(np.log1p(np.random.default_rng(0).poisson(2, shape)).astype(np.float32))
    labels = np.resize(np.array(["a", "b"], dtype=object), shape[0])
    split = np.array(["train"] * n_train + ["test"], dtype=object)
    share_of_all = max(np.mean(labels[:n_train] == name) for name in ("a", "b"))
    for n_neighbors in (n_train, n_train + 1, n_train + 2, 15):
        found = nearest_neighbours_on_pca(expression, labels, split, n_neighbors)
        assert found.confidence == pytest.approx(share_of_all)
    assert nearest_neighbours_on_pca(expression, labels, split, n_train - 1).confidence >= 0.5
