"""Files that lie apart: only genes carry across."""

import numpy as np
import pytest
import scipy.sparse

from scdmc.views.features import ViewsOfCells
from scdmc.views.options import VIEW_CHOICES, VIEWS
from scdmc.views.shift import separability, views_apart


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def cells_at(place, rng):
    components = rng.normal(place, 1.0, (60, 5)).astype(np.float32)
    return ViewsOfCells({}, scipy.sparse.csr_matrix(np.ones((60, 3))), components, components)


@pytest.mark.parametrize(
    ("place", "views", "left_out"),
    [
        (0.0, VIEWS, set()),
        (9.0, VIEWS, {"components", "scdmc"}),
        (9.0, ("genes", "scdmc"), {"scdmc"}),
        (9.0, ("components", "scdmc"), set()),
        (9.0, ("genes",), set()),
        (9.0, VIEW_CHOICES, {"components", "scdmc", "finetuned"}),
        (9.0, ("finetuned",), set()),
    ],
)
def test_where_components_tell_the_files_apart_only_genes_are_read(rng, place, views, left_out):
    found = views_apart("new.h5ad", cells_at(0.0, rng).components, cells_at(place, rng), views, seed=0)
    assert set(found) == left_out
    assert all("the cells of new.h5ad are told from the reference" in reason for reason in found.values())


def test_a_few_new_cells_tell_nothing(rng):
    assert separability(cells_at(0.0, rng).components, cells_at(9.0, rng).components[:19]) == 0.5
