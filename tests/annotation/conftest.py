"""Cells from which a classifier can learn."""

import numpy as np
import pytest

from scdmc.cells.splits import make_split
from scdmc.labels import labels_of


@pytest.fixture(scope="module")
def separable(cells):
    """Beta and ductal cells, their labels and a split: labels that a classifier can learn from few cells."""
    labels = labels_of(cells.obs["cell_type"])
    two = cells.select(np.isin(labels, ["beta", "ductal"]))
    labels = labels_of(two.obs["cell_type"])
    return two, labels, make_split(labels, test_fraction=0.3, validation_fraction=0.2, seed=0)
