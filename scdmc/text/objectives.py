"""Losses of cells and texts: tensors in, a scalar out; and the projection in closed form.

Source: docs/text.md, "Training".
"""

import numpy as np
import torch

# The scores are multiplied by no more than this.
LARGEST_SCALE = 50.0


# And by this at first (CLIP).
FIRST_SCALE = 14.3


def contrast(cells: torch.Tensor, texts: torch.Tensor, terms: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of a cell among the texts of a batch, and of a text among its cells.

    Cells of one term are all right for each of its texts, so that none of them counts as wrong. The mean of the batch
    is taken away from the cells: what they have in common, such as their data set, tells no text.

    Parameters
    ----------
    cells
        Projected cells of one data set, shape (n, text_size).
    texts
        A text of each cell's term, shape (n, text_size), of length 1.
    terms
        Number of the term of each cell, shape (n,).
    log_scale
        Logarithm of what multiplies the cosines, a scalar; the product is at most 50.
    """
    centred = torch.nn.functional.normalize(cells - cells.mean(dim=0), dim=1)
    scores = log_scale.exp().clamp(max=LARGEST_SCALE) * centred @ texts.T  # (n, n)
    is_same = (terms[:, None] == terms[None, :]).to(scores.dtype)
    share = is_same / is_same.sum(dim=1, keepdim=True)  # symmetric as the terms are
    of_cells = (share * scores.log_softmax(dim=1)).sum()
    of_texts = (share * scores.T.log_softmax(dim=1)).sum()
    return -(of_cells + of_texts) / len(cells)


def weighted_cross_entropy(logits: torch.Tensor, words: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of words, each with its weight.

    Parameters
    ----------
    logits
        Shape (n_texts, length, n_words).
    words
        The right ones, shape (n_texts, length).
    weights
        Shape (n_texts, length); 0 for what is no word.
    """
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), words.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def ridge_projection(features: np.ndarray, texts: np.ndarray, terms: np.ndarray, alpha: float) -> np.ndarray:
    """The matrix that projects features onto texts with the least squares; each term has the same weight.

    Parameters
    ----------
    features
        Shape (n_cells, n_features), centred by data set.
    texts
        The text of each cell's term, shape (n_cells, text_size).
    terms
        Number of the term of each cell, shape (n_cells,).
    alpha
        Penalty on the squares of the matrix.

    Returns
    -------
    Shape (n_features, text_size), float32.
    """
    _, number, sizes = np.unique(terms, return_inverse=True, return_counts=True)
    weight = len(terms) / (len(sizes) * sizes[number])  # (n_cells,), 1 in the mean
    values, weighted = features.astype(np.float64), features * weight[:, None]
    return np.linalg.solve(
        values.T @ weighted + alpha * np.eye(values.shape[1]), weighted.T @ texts.astype(np.float64)
    ).astype(np.float32)
