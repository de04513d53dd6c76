"""The contrast of cells and texts beside a plain loop, and the projection in closed form beside scikit-learn."""

import numpy as np
import torch
from sklearn.linear_model import Ridge

from scdmc.text.objectives import contrast, ridge_projection


def batch(seed=0, n=7, size=5):
    draw = torch.Generator().manual_seed(seed)
    cells, texts = (torch.randn(n, size, generator=draw) for _ in range(2))
    terms = torch.tensor([0, 0, 1, 1, 1, 2, 3])
    return cells, torch.nn.functional.normalize(texts, dim=1), terms, torch.tensor(2.0)


def test_the_contrast_is_the_mean_over_all_cells_and_texts_of_one_term():
    cells, texts, terms, log_scale = batch()
    cells64 = (cells - cells.mean(0)).numpy().astype(float)
    cells64 /= np.linalg.norm(cells64, axis=1, keepdims=True)
    scores = np.exp(2.0) * cells64 @ texts.numpy().T.astype(float)
    total = 0.0
    for i in range(len(terms)):
        same = [j for j in range(len(terms)) if terms[i] == terms[j]]
        for j in same:
            total -= (scores[i, j] - np.log(np.exp(scores[i]).sum())) / len(same)
            total -= (scores[j, i] - np.log(np.exp(scores[:, i]).sum())) / len(same)
    assert np.isclose(contrast(cells, texts, terms, log_scale).item(), total / len(terms), atol=1e-5)


def test_what_all_cells_of_a_data_set_share_does_not_change_the_contrast():
    cells, texts, terms, log_scale = batch()
    moved = contrast(cells + torch.linspace(-3, 3, 5), texts, terms, log_scale)
    assert torch.isclose(moved, contrast(cells, texts, terms, log_scale), atol=1e-5)


def test_a_text_of_the_same_term_is_never_a_wrong_one():
    # Which of its term's texts a cell stands beside makes no difference.
    cells, texts, terms, log_scale = batch()
    swapped = texts[torch.tensor([1, 0, 4, 2, 3, 5, 6])]
    loss = contrast(cells, texts, terms, log_scale)
    assert torch.isclose(contrast(cells, swapped, terms, log_scale), loss, atol=1e-5)
    wrong = texts[torch.tensor([2, 1, 0, 3, 4, 5, 6])]
    assert not torch.isclose(contrast(cells, wrong, terms, log_scale), loss, atol=1e-2)


def test_the_scale_is_at_most_fifty():
    cells, texts, terms, _ = batch()
    at_most = contrast(cells, texts, terms, torch.tensor(np.log(50.0)))
    assert torch.isclose(contrast(cells, texts, terms, torch.tensor(9.0)), at_most)


def test_ridge_weighs_terms_equally_and_is_that_of_scikit_learn():
    draw = np.random.default_rng(0)
    features, texts = draw.normal(size=(30, 4)), draw.normal(size=(30, 3))
    terms = np.repeat([0, 1, 2], [20, 7, 3])
    found = ridge_projection(features, texts, terms, alpha=5.0)
    weight = np.repeat([30 / (3 * 20), 30 / (3 * 7), 30 / (3 * 3)], [20, 7, 3])
    expected = Ridge(alpha=5.0, fit_intercept=False).fit(features, texts, sample_weight=weight).coef_.T
    assert np.allclose(found, expected, atol=1e-5)
