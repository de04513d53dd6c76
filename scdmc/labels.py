"""What counts as a label."""

import numpy as np
import pandas as pd


def is_missing(labels: np.ndarray) -> np.ndarray:
    """Return True where a label is NaN, None or ''; shape (n_cells,)."""
    labels = np.asarray(labels, dtype=object)
    missing = pd.isna(labels)
    missing[~missing] = labels[~missing] == ""
    return missing


def labels_of(column: pd.Series) -> np.ndarray:
    """A column of obs as text, shape (n_cells,); None where it holds NaN, None or ''."""
    values = column.to_numpy(dtype=object)
    missing = is_missing(values)
    return np.array([None if absent else str(value) for value, absent in zip(values, missing, strict=True)], object)
