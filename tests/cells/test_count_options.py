"""Every function for notebooks reads counts as the scripts can be told to: other names of genes, other totals."""

import anndata
import numpy as np
import pandas as pd
import pytest

import scdmc
from scdmc.errors import ScDMCError
from tests.small_models import save_small_model

pytestmark = pytest.mark.usefixtures("one_thread")

TYPES = ["alpha", "beta"]
TOLD = {"gene_id_column": "names_of_ours", "recompute_totals": True}
FLAGS = ["--gene_id_column", "names_of_ours", "--recompute_totals"]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "m", 64, num_hidden_layers=1, initializer_range=0.2)


@pytest.fixture
def plain(islets_path):
    """60 cells of two types whose totals are the sums of their counts."""
    adata = anndata.read_h5ad(islets_path)
    adata = adata[adata.obs["cell_type"].isin(TYPES)][:60].copy()
    adata.obs = adata.obs.drop(columns="n_counts")
    return adata


@pytest.fixture
def odd(plain):
    """The same cells, the genes of which only a column names, and whose totals are logarithms."""
    odd = plain.copy()
    odd.var = pd.DataFrame({"names_of_ours": plain.var_names}, index=[f"row {i}" for i in range(plain.n_vars)])
    odd.obs["n_counts"] = np.log1p(np.asarray(plain.X.sum(axis=1)).ravel())
    return odd


def embedded(adata, model, _, **options):
    return scdmc.embed(adata, model, **options).obsm["X_scDMC"]


def annotated(adata, model, _, **options):
    found = scdmc.annotate(adata[::2].copy(), model, reference=adata[1::2].copy(), method="neighbours", **options)
    return found.obs["scDMC_probability"].to_numpy()


def fine_tuned(adata, model, folder, **options):
    scdmc.fine_tune(adata, model, label_key="cell_type", output_dir=folder, epochs=1, **options)
    return pd.read_csv(folder / "predictions.csv").filter(like="probability").to_numpy(dtype=float)


QUICK = {"seeds": [42], "protocols": ["published"]}


def integrated(adata, model, _, **options):
    adata.obs["batch"] = np.resize(["one", "two"], adata.n_obs)
    scdmc.integration_benchmark(adata, model, methods=["scdmc", "pca"], **QUICK, **options)
    return np.hstack([adata.obsm["X_scDMC"], np.abs(adata.obsm["X_pca"][:, :3])])


def gene_states(adata, model, _, **options):
    return scdmc.gene_embeddings(adata, model, "cell_type", min_cells=5, **options).means


def modules(adata, model, _, **options):
    return scdmc.gene_modules(adata, model, "cell_type", min_cells=5, resolutions=(1.0,), **options).activity["alpha"]


def attention(adata, model, _, **options):
    more = {"min_cells": 5, "attribution_cells": 3, "map_cells": 1}
    return scdmc.attention_analysis(adata, model, "cell_type", **more, **options).genes.select_dtypes("number")


def network(adata, model, _, **options):
    more = {"min_cells": 5, "n_factors": 3, "n_targets": 10, "perturbed_factors": 1, "perturbed_cells": 2}
    names = adata.var.get("names_of_ours", adata.var_names)
    regulons = pd.DataFrame({"tf": ["INS"] * 12, "target": list(names[:12])})
    found = scdmc.gene_network(adata, model, "cell_type", regulons, **more, **options)
    return found["beta"].edges.select_dtypes("number")


def perturbed(adata, model, _, **options):
    table = scdmc.perturb(adata, model, ["INS"], "cell_type", max_cells=2, null_draws=3, edit="raise", **options)
    return table.select_dtypes("number")


FUNCTIONS = {
    "embed": embedded, "annotate": annotated, "fine_tune": fine_tuned, "integration_benchmark": integrated,
    "gene_embeddings": gene_states, "gene_modules": modules, "attention_analysis": attention, "gene_network": network,
    "perturb": perturbed,
}  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_cells_that_are_read_as_they_must_be_give_the_numbers_of_the_plain_cells(
    plain, odd, model_path, function, tmp_path
):
    with pytest.raises(ScDMCError, match=r"none of its 3,000 genes is in the vocabulary.*--gene_id_column"):
        function(odd.copy(), model_path, tmp_path / "refused", recompute_totals=True)
    with pytest.raises(ScDMCError, match="pass --recompute_totals"):
        function(odd.copy(), model_path, tmp_path / "refused", gene_id_column="names_of_ours")
    expected = np.asarray(function(plain, model_path, tmp_path / "plain"), dtype=float)
    found = np.asarray(function(odd, model_path, tmp_path / "odd", **TOLD), dtype=float)
    assert expected.size
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_mistyped_option_names_the_one_that_is_meant(plain, function, tmp_path):
    with pytest.raises(
        TypeError, match=r"no option 'gene_id_colum' \(did you mean 'gene_id_column'\?\); there are .*layer"
    ):
        function(plain, "no such model", tmp_path / "out", gene_id_colum="x")


def test_the_numbers_are_those_of_the_script(odd, model_path, load_script, tmp_path):
    odd.write_h5ad(tmp_path / "odd.h5ad")
    output = tmp_path / "out.h5ad"
    command = ["--model_path", model_path, "--data_path", tmp_path / "odd.h5ad", "--output_file", output, *FLAGS]
    assert load_script("downstream_tasks/embed.py").main([str(word) for word in command]) == 0
    written = anndata.read_h5ad(output).obsm["X_scDMC"]
    np.testing.assert_allclose(embedded(odd, model_path, None, **TOLD), written, atol=1e-5)
