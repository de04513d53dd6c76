"""Cells that integration can compare: types and batches that are missing, or that live apart."""

import anndata
import numpy as np
import pandas as pd
import pytest

from scdmc.errors import ScDMCError
from scdmc.integration.comparison import compare_integrations, require_types_in_batches
from tests.task_scripts import run


def test_one_batch_is_refused_by_integration(scripts, capsys, tmp_path, adata, model_path):
    one = adata.copy()
    one.obs["batch"] = "only"
    one.write_h5ad(tmp_path / "one.h5ad")
    status, error = run(scripts, capsys, "integration", model_path, tmp_path / "one.h5ad", tmp_path / "out")
    assert status == 2
    assert "only" in error[0]
    del one.obs["cell_type"]  # without labels, too
    one.write_h5ad(tmp_path / "one.h5ad")
    status, error = run(scripts, capsys, "integration", model_path, tmp_path / "one.h5ad", tmp_path / "out")
    assert (status, error) == (2, [
        "error: obs['batch'] holds one batch only, 'only'; integration needs at least two"])  # fmt: skip


@pytest.mark.slow
def test_cells_without_a_type_are_integrated_but_not_scored(scripts, capsys, tmp_path, adata, model_path):
    partly = adata.copy()
    partly.obs["cell_type"] = partly.obs["cell_type"].astype(object)
    partly.obs["batch"] = partly.obs["batch"].astype(object)
    partly.obs.iloc[:20, partly.obs.columns.get_loc("cell_type")] = ""
    partly.obs.iloc[20:25, partly.obs.columns.get_loc("batch")] = ""
    partly.obs.iloc[25:28, partly.obs.columns.get_loc("cell_type")] = np.nan
    partly.obs.iloc[24, partly.obs.columns.get_loc("batch")] = "lonely"  # a batch of one cell
    is_beta = partly.obs["cell_type"] == "beta"
    partly.obs.loc[partly.obs_names[is_beta][-20:], "batch"] = "beta only"  # a batch of one type
    partly.write_h5ad(tmp_path / "partly.h5ad")
    more = ("--seeds", "1", "--protocols", "scib")
    status, _ = run(scripts, capsys, "integration", model_path, tmp_path / "partly.h5ad", tmp_path / "out", *more)
    assert status == 0
    metrics = pd.read_csv(tmp_path / "out" / "metrics.csv")
    assert set(metrics["protocol"]) == {"scib", "label_free"}
    assert metrics["value"].between(0, 1).all()
    integrated = anndata.read_h5ad(tmp_path / "out" / "integrated.h5ad")
    for key in ("X_scDMC", "X_pca", "X_harmony"):
        has_embedding = np.isfinite(integrated.obsm[key]).all(axis=1)
        assert np.flatnonzero(~has_embedding).tolist() == list(range(20, 25))


def test_cells_without_a_type_change_no_score():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.array(["a", "b"], dtype=object), 40)
    batch = np.tile(np.array(["x", "y"], dtype=object), 40)
    embedding = rng.normal(size=(80, 3)) + 5 * (labels == "a")[:, None]
    full = compare_integrations({"ours": embedding}, labels, batch)["ours"]
    assert full.scores["ARI"] == pytest.approx(1)
    more = np.vstack([embedding, rng.normal(size=(10, 3))])
    with_unknown = compare_integrations({"ours": more}, [*labels, *["", None] * 5], [*batch, *["x"] * 10])["ours"]
    assert with_unknown.scores == full.scores
    assert with_unknown.graph.shape == (80, 80)


def test_types_that_live_in_one_batch_each_are_refused():
    labels = np.repeat(np.array(["a", "b"], dtype=object), 10)
    with pytest.raises(ScDMCError, match="no type of obs\\['type'\\] has cells in two batches of obs\\['lab'\\]"):
        require_types_in_batches(labels, labels, "type", "lab")
