"""What ``import scdmc`` offers for genes: each function on real cells and a small model."""

import anndata
import numpy as np
import pandas as pd
import pytest

import scdmc
from scdmc.errors import ScDMCError

pytestmark = pytest.mark.slow


@pytest.fixture
def adata(islets_path):
    cells = anndata.read_h5ad(islets_path)
    return cells[cells.obs["cell_type"].isin(["alpha", "beta"])].copy()


def test_modules_without_gene_sets_say_that_nothing_was_tested(model_path, adata):
    found = scdmc.gene_modules(adata, model_path, "cell_type", min_cells=5, resolutions=(1.0,))
    assert found.tests is None
    assert "not tested" in found.verdict
    assert set(found.activity) == {"alpha", "beta"}


def test_networks_and_perturbations_come_as_tables(model_path, adata):
    regulons = pd.DataFrame({"tf": ["INS"] * 12, "target": list(adata.var_names[:12])})
    options = {"min_cells": 5, "n_factors": 3, "n_targets": 10, "perturbed_factors": 1, "perturbed_cells": 2}
    networks = scdmc.gene_network(adata, model_path, "cell_type", regulons, **options)
    assert set(networks) == {"alpha", "beta"}
    assert set(networks["beta"].edges["tf"]) == {"INS"}
    assert np.isfinite(networks["beta"].edges["attention"]).all()
    with pytest.raises(ScDMCError, match="--heads 0: the model has 1 to 2"):
        scdmc.gene_network(adata, model_path, "cell_type", regulons, heads=(0,), **options)
    table = scdmc.perturb(adata, model_path, ["INS"], "cell_type", max_cells=2, null_draws=3, edit="raise")
    assert table["perturbed"].tolist() == ["INS", "INS"]


def test_attention_of_both_types_is_scored(model_path, adata):
    found = scdmc.attention_analysis(adata, model_path, "cell_type", min_cells=5, attribution_cells=3, map_cells=1)
    assert set(found.genes["cell_type"]) == {"alpha", "beta"}
    assert "AUROC" in found.verdict
    assert len(found.maps) == 1
