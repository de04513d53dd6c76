"""What is written opens in viewers: scanpy draws it, and the checks of cellxgene and Vitessce find nothing."""

import re

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.sparse

from scdmc.cells.options import MOST_CELLS_OF_MAP
from scdmc.cells.results import add_results
from scdmc.cells.viewers import ForViewers, category_colours, wants_map
from scdmc.reports.colours import UNKNOWN_GREY
from scdmc.reports.figures import group_colours
from scdmc.reports.provenance import Provenance
from scdmc.version import __version__
from tests.small_models import save_small_model


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "tiny", 64)


@pytest.fixture(scope="module")
def data_path(tmp_path_factory, islets_path):
    """60 cells of three types."""
    adata = anndata.read_h5ad(islets_path)
    place = adata.obs.groupby("cell_type", observed=True).cumcount()
    few = adata[(place < 20) & adata.obs["cell_type"].isin(["alpha", "beta", "ductal"])].copy()
    path = tmp_path_factory.mktemp("data") / "cells.h5ad"
    few.write_h5ad(path)
    return path


def found_wrong(adata):
    """What cellxgene-schema would say of data that nobody curated, and what cellxgene and Vitessce need."""
    wrong = []
    for key, matrix in adata.obsm.items():
        is_fine = isinstance(matrix, np.ndarray) and matrix.dtype == np.float32 and matrix.ndim == 2
        if not is_fine or np.isinf(matrix).any() or np.isnan(matrix).all():
            wrong.append(f"obsm {key}")
    if adata.obsm["X_umap"].shape != (adata.n_obs, 2):
        wrong.append("X_umap")
    wrong += [axis for axis, names in (("obs", adata.obs_names), ("var", adata.var_names)) if not names.is_unique]
    wrong += [name for name, column in adata.obs.items() if column.dtype == object]
    if not isinstance(adata.X, scipy.sparse.csr_matrix):
        wrong.append("X")
    for key in [key for key in adata.uns if key.endswith("_colors")]:
        column = adata.obs.get(key.removesuffix("_colors"))
        if not isinstance(column.dtype, pd.CategoricalDtype) or len(adata.uns[key]) != len(column.cat.categories):
            wrong.append(f"uns {key}")
        wrong += [colour for colour in adata.uns[key] if not re.fullmatch("#[0-9a-f]{6}", colour)]
    return wrong


COMMANDS = {
    "embed": ((), "out.h5ad"),
    "annotate": (("--method", "neighbours"), "out.h5ad"),
    "cluster": (("--label_key", "cell_type", "--resolution", "1", "--markers", "0"), "clustered.h5ad"),
    "integration": (
        ("--batch_key", "half", "--methods", "scdmc", "pca", "--protocols", "published", "--seeds", "1"),
        "integrated.h5ad",
    ),
}
COLOURED = {"embed": [], "annotate": ["scDMC_cell_type"], "cluster": ["scDMC_cluster"], "integration": ["half"]}


@pytest.mark.parametrize("script", COMMANDS)
def test_every_file_opens_in_viewers(script, tmp_path, data_path, model_path, load_script):
    adata = anndata.read_h5ad(data_path)
    adata.obs["half"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 2, "a", "b"))
    adata.uns["cell_type_colors"] = np.array(["#000000", "#111111", "#222222"], dtype=object)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    flags, name = COMMANDS[script]
    command = ["--model", model_path, "--data_path", tmp_path / "cells.h5ad", *flags, "--num_gpus", 0]
    command += ["--output_file", tmp_path / name] if name == "out.h5ad" else ["--output_dir", tmp_path / "out"]
    command += ["--reference", data_path] if script == "annotate" else []
    assert load_script(f"downstream_tasks/{script}.py").main([str(word) for word in command]) == 0
    made = anndata.read_h5ad(tmp_path / name if name == "out.h5ad" else tmp_path / "out" / name)
    assert found_wrong(made) == []
    assert np.isfinite(made.obsm["X_umap"]).all()
    said = dict(made.uns["scdmc"])
    assert said.pop("command").startswith(f"python {script}.py --model tiny --data_path cells.h5ad ")
    assert said == {"model": "tiny", "version": __version__, "seed": "42", "map": "X_umap"}
    assert made.uns["cell_type_colors"].tolist() == ["#000000", "#111111", "#222222"]  # the user's
    for column in COLOURED[script]:
        drawn = group_colours(made.obs[column].to_numpy(dtype=object))
        assert dict(zip(made.obs[column].cat.categories, made.uns[f"{column}_colors"], strict=True)) == drawn
    axes = scanpy.pl.umap(made, color=[*COLOURED[script], "cell_type"], show=False)
    assert all(len(each.collections[0].get_offsets()) == made.n_obs for each in np.atleast_1d(axes))


def test_a_map_of_the_user_stays_and_ours_is_made_anew(tmp_path, data_path, model_path, load_script, capsys):
    adata = anndata.read_h5ad(data_path)
    adata.obsm["X_umap"] = np.ones((adata.n_obs, 2), np.float32)
    adata.write_h5ad(tmp_path / "mapped.h5ad")
    embed = load_script("downstream_tasks/embed.py").main
    runs = ((tmp_path / "mapped.h5ad", ()), (data_path, ()), (tmp_path / "out1.h5ad", ("--umap", "no")))
    for number, (path, flags) in enumerate(runs):
        command = ["--model", model_path, "--data_path", path, "--output_file", tmp_path / f"out{number}.h5ad", *flags]
        command.append("--overwrite")
        assert embed([str(word) for word in command]) == 0
    mapped, plain, again = (anndata.read_h5ad(tmp_path / f"out{number}.h5ad") for number in range(3))
    assert (mapped.obsm["X_umap"] == 1).all()
    assert mapped.uns["scdmc"]["map"] == "X_umap_scDMC"
    assert mapped.uns["scdmc"]["command"].endswith("--output_file out0.h5ad")
    assert "obsm['X_umap'] stays as it is" in capsys.readouterr().err
    np.testing.assert_array_equal(mapped.obsm["X_umap_scDMC"], plain.obsm["X_umap"])
    np.testing.assert_array_equal(again.obsm["X_umap"], plain.obsm["X_umap"])
    table = ["--model", model_path, "--data_path", data_path, "--output_file", tmp_path / "a.csv", "--umap", "yes"]
    assert embed([str(word) for word in table]) == 2
    assert "--umap has no effect on a table" in capsys.readouterr().err


def test_an_anndata_in_memory_gets_the_same(data_path):
    adata = anndata.read_h5ad(data_path)[:12].copy()
    adata.obsm["X_umap"] = np.ones((12, 2), np.float32)
    clusters, place = np.array(["10", "9", "2"], dtype=object), np.zeros((3, 2))
    results = ({"scDMC_cluster": clusters}, {"X_umap": place})
    add_results(adata, np.array([1, 5, 7]), *results, ForViewers(Provenance(seed=3), columns=("cell_type",)))
    assert adata.obs["scDMC_cluster"].cat.categories.tolist() == ["2", "9", "10"]
    assert len(adata.uns["scDMC_cluster_colors"]) == 3
    assert len(adata.uns["cell_type_colors"]) == len(adata.obs["cell_type"].cat.categories)
    assert (adata.obsm["X_umap"] == 1).all()
    assert (adata.obsm["X_umap_scDMC"][[1, 5, 7]] == 0).all()
    assert adata.uns["scdmc"]["seed"] == "3"
    assert found_wrong(adata) == []


def test_a_category_without_cells_is_grey_and_too_many_cells_have_no_map():
    labels = pd.Categorical(["a", "b"], ["a", "b", "none has it"])
    assert category_colours(labels)[2] == UNKNOWN_GREY
    assert [wants_map(None, n) for n in (MOST_CELLS_OF_MAP, MOST_CELLS_OF_MAP + 1)] == [True, False]
    assert wants_map(True, MOST_CELLS_OF_MAP + 1)
