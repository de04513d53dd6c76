"""The functions take a folder, a name or a loaded model as ``model``, and do the same with each."""

import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import scdmc
from scdmc.errors import ScDMCError
from scdmc.model.shipped import model_folder
from tests.conftest import ROOT

NAME = "scDMC-small"
TYPES = ["alpha", "beta"]


@pytest.fixture(scope="module")
def adata():
    adata = anndata.read_h5ad(ROOT / "tests" / "data" / "islets_300.h5ad")
    return adata[adata.obs["cell_type"].isin(TYPES)][:36].copy()


@pytest.fixture
def copied(tmp_path):
    """A folder like that of the shipped model."""
    return shutil.copytree(model_folder(NAME), tmp_path / NAME)


@pytest.fixture
def loaded(copied):
    """The model of a folder whose weights are no longer there."""
    model = scdmc.load(copied)
    for path in copied.glob("model*.safetensors"):
        path.unlink()
    with pytest.raises(ScDMCError, match="holds no weights"):
        scdmc.load(copied)
    return model


def embedding(adata, model, _):
    return scdmc.embed(adata.copy(), model).obsm["X_scDMC"]


def transferred(adata, model, _):
    labelled = scdmc.annotate(adata[::2].copy(), model, reference=adata[1::2], method="neighbours")
    return labelled.obs["scDMC_probability"].to_numpy()


def genes(adata, model, _):
    return scdmc.gene_embeddings(adata, model, "cell_type", min_cells_per_type=5).means


def modules(adata, model, _):
    return scdmc.gene_modules(adata, model, "cell_type", permutations=20).genes.to_csv()


def integrated(adata, model, _):
    scores = scdmc.integration_benchmark(adata.copy(), model, methods=["scdmc"], seeds=[42], protocols=["published"])
    return scores.to_numpy(dtype=float)


def fine_tuned(adata, model, folder):
    scdmc.fine_tune(adata, model, label_key="cell_type", output_dir=folder, epochs=1)
    return pd.read_csv(folder / "predictions.csv").filter(like="probability").to_numpy(dtype=float)


def rank_ids(adata, model, _):
    return scdmc.tokenize(adata, model=model).rank_ids


@pytest.mark.parametrize("function", [rank_ids, embedding, transferred, genes, modules, integrated, fine_tuned])
def test_a_name_a_folder_and_a_loaded_model_give_the_same(adata, loaded, function, tmp_path):
    """The loaded model has no weights on disk to read."""
    folder = shutil.copytree(model_folder(NAME), tmp_path / "folder" / NAME)
    by_name, by_path, by_model = (
        function(adata, model, tmp_path / f"out_{index}") for index, model in enumerate((NAME, folder, loaded))
    )
    assert len(by_name)
    np.testing.assert_array_equal(by_path, by_name)
    np.testing.assert_array_equal(by_model, by_name)


def test_a_loaded_model_stays_as_it_was(adata, loaded, tmp_path):
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    scdmc.embed(adata.copy(), loaded)
    fine_tuned(adata, loaded, tmp_path / "out")
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())
    assert not loaded.training


def test_a_model_of_another_kind_is_refused(adata, loaded, copied):
    with pytest.raises(ScDMCError, match="loaded as ScDMCForMaskedLM, and ScDMCForCellClassification is needed"):
        scdmc.annotate(adata.copy(), loaded)


def test_a_model_without_a_folder_says_so(adata, loaded):
    with pytest.raises(ScDMCError, match=r"does not know the vocabulary .* load it with scdmc\.load\(folder\)"):
        scdmc.embed(adata.copy(), loaded.bert)


def test_model_and_model_path_are_equals(adata):
    one, two = scdmc.tokenize(adata, model=NAME), scdmc.tokenize(adata, model_path=NAME)
    np.testing.assert_array_equal(one.expression_values, two.expression_values)
    with pytest.raises(ScDMCError, match="model and model_path are one thing"):
        scdmc.tokenize(adata, model=NAME, model_path=NAME)


def test_an_unknown_option_is_an_error(adata):
    with pytest.raises(TypeError, match="min_genes"):
        scdmc.tokenize(adata, min_genes=5)
