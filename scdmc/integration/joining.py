"""Embeddings side by side, each with the same say.

Source: docs/method.md, "Adaptation without labels".
"""

from collections.abc import Sequence

import numpy as np


def scaled_block(embedding: np.ndarray) -> np.ndarray:
    """An embedding around its mean, divided by one number, so that the mean squared norm of a cell is 1.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).

    Returns
    -------
    Shape (n_cells, n_dimensions), float64; zeros where all cells are equal.
    """
    centred = np.asarray(embedding, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    size = np.sqrt((centred**2).sum(axis=1).mean())
    return centred / size if size > 0 else centred


def joined(embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """Embeddings of the same cells as blocks of equal mean squared norm, shape (n_cells, sum of the widths)."""
    return np.hstack([scaled_block(embedding) for embedding in embeddings])
