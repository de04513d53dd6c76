"""Results are added to a copy of the user's file, of which nothing else is read or changed."""

import shutil
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from scdmc.cells.results import write_annotated
from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import load_vocabulary
from scdmc.reading.counts import open_counts
from scdmc.reading.h5ad import require_room_for_results
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.tokenizer import Tokenizer, tokenize_counts
from tests.reading.test_count_files import write_10x, write_loom, write_mtx, write_zarr
from tests.reading.test_features_and_totals import data


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(load_vocabulary(), load_gene_medians(None))


def with_(change):
    def write(path):
        adata = data()
        adata.obs["type"] = pd.Categorical(list("aabbccc"))
        adata.uns["note"] = "kept"
        adata.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            change(file)

    return write


def unknown_element(file):
    file["uns/strange"] = np.arange(3)
    file["uns/strange"].attrs.update({"encoding-type": "fancy-array", "encoding-version": "9.0.0"})


def names_in_index(file):
    file["obs/other"] = file["obs/_index"][:]
    file["obs"].attrs["column-order"] = np.array(["type", "_index"], dtype=object)
    file["obs"].attrs["_index"] = "other"


def nullable_text(file):
    group = file["obs"].create_group("words")
    group.attrs.update({"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"})
    group["values"] = np.array(["a"] * 7, dtype=object)
    group["values"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    group["mask"] = np.zeros(7, dtype=bool)
    group["mask"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    file["obs"].attrs["column-order"] = np.array(["type", "words"], dtype=object)


STRANGE = {
    "plain": lambda _: None,
    "unknown element in uns": unknown_element,
    "names of cells in another column": names_in_index,
    "nullable text": nullable_text,
    "no obsm": lambda file: file.pop("obsm"),
    "slash in a name of uns": lambda file: file.create_group("uns/a/b/c"),
    "attributes of fixed length": lambda file: file["X"].attrs.update(
        {"encoding-type": np.bytes_(b"csr_matrix"), "encoding-version": np.bytes_(b"0.1.0")}
    ),
    "an older result": lambda file: file["obsm"].create_dataset("X_scDMC", data=np.ones((7, 9))),
}  # fmt: skip


def content_of(path):
    found = {}

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = np.asarray(item[()]).tolist()

    with h5py.File(path) as file:
        file.visititems(add)
    return found


@pytest.mark.parametrize("strange", STRANGE)
def test_results_are_added_and_all_else_stays(strange, tokenizer, tmp_path):
    path, output = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    with_(STRANGE[strange])(path)
    require_room_for_results(path, path.parent)
    with open_counts(path) as counts:
        cells = tokenize_counts(counts, tokenizer)
    labels, embedding = np.array(list("xxyyzzz"), dtype=object), np.arange(14.0).reshape(7, 2)
    write_annotated(output, path, cells, {"found": labels}, {"X_scDMC": embedding})
    before, after = content_of(path), content_of(output)
    new = {"obs/found/categories", "obs/found/codes", "obsm/X_scDMC", "uns/found_colors"}
    new |= {f"uns/scdmc/{name}" for name in ("model", "version", "command", "seed", "map")}
    assert set(after) == set(before) | new
    assert all(after[name] == values for name, values in before.items() if name not in new)
    with h5py.File(output) as file:
        read = anndata.io.read_elem(file["obs"]) if strange != "names of cells in another column" else None
        np.testing.assert_array_equal(file["obsm/X_scDMC"][:], embedding)
        assert "found" in list(file["obs"].attrs["column-order"])
    if read is not None:
        assert read["found"].tolist() == labels.tolist()
        assert read["type"].tolist() == list("aabbccc")


@pytest.mark.parametrize("write", [write_10x, write_loom, write_mtx, write_zarr])
def test_of_other_inputs_the_cells_are_written_with_the_results(write, tokenizer, tmp_path):
    path = write(data(), tmp_path / "in")
    with open_counts(path) as counts:
        cells = tokenize_counts(counts, tokenizer)
    write_annotated(tmp_path / "out.h5ad", path, cells, {"found": np.arange(7.0)}, {"X": np.ones((7, 2))})
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert found.obs_names.tolist() == data().obs_names.tolist()
    assert found.obs["found"].tolist() == list(range(7))
    assert found.obsm["X"].shape == (7, 2)


def test_a_file_to_which_nothing_can_be_added_is_refused_before_the_work(tmp_path):
    path = tmp_path / "old.h5ad"
    with_(lambda file: (file.pop("obsm"), file.create_dataset("obsm", data=np.zeros(7))))(path)
    with pytest.raises(ScDMCError, match="obsm is no group"):
        require_room_for_results(path, path.parent)


@pytest.mark.parametrize("shape", [(1, 100), (50, 1), (50, 0), (0, 50), (50, 100)])
def test_too_few_cells_or_genes_for_principal_components_are_an_error(shape):
    from scdmc.integration.methods import pca_of_variable_genes

    with pytest.raises(ScDMCError, match="at least two cells and two genes"):
        pca_of_variable_genes(scipy.sparse.csr_matrix(shape, dtype=np.float32))


def test_a_graph_says_how_many_neighbours_there_can_be():
    from scdmc.cells.clustering import neighbour_graph

    for n_cells, n_neighbors, reason in ((15, 15, "need more than 15"), (30, 1, "at least 2"), (4, 3, "too few")):
        with pytest.raises(ScDMCError, match=reason):
            neighbour_graph(np.random.default_rng(0).normal(size=(n_cells, 3)), n_neighbors)
    assert neighbour_graph(np.random.default_rng(0).normal(size=(16, 3)), 15).shape == (16, 16)


@pytest.mark.parametrize("shape", [(4, 3), (6, 2), (12, 5), (3, 60)])
def test_methods_on_few_cells_and_genes_give_a_row_for_each_cell_or_say_what_lacks(shape):
    from scdmc.integration.methods import harmony, pca_of_variable_genes, scanorama

    expression = scipy.sparse.csr_matrix(np.log1p(np.random.default_rng(0).poisson(1, shape)).astype(np.float32))
    batch = np.array((["a", "b"] * shape[0])[: shape[0]], dtype=object)
    if shape == (4, 3):  # of which one gene varies enough
        for method in (pca_of_variable_genes, lambda values: scanorama(values, batch)):
            with pytest.raises(ScDMCError, match="4 cells with 1 variable genes"):
                method(expression)
        return
    components = pca_of_variable_genes(expression)
    for embedding in (components, scanorama(expression, batch), harmony(components, batch)):
        assert len(embedding) == shape[0]
        assert np.isfinite(embedding).all()


def test_room_for_the_copy_and_the_results_is_asked_for_before_the_work(tmp_path, monkeypatch):
    path = tmp_path / "in.h5ad"
    with_(STRANGE["plain"])(path)
    size = path.stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size + 100))
    require_room_for_results(path, tmp_path / "out.h5ad", 100)
    with pytest.raises(ScDMCError, match=r"in.h5ad with the results needs .*make room"):
        require_room_for_results(path, tmp_path / "out.h5ad", 101)
