"""Embeddings that users bring: what is joined, and what is refused with the reason."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from scdmc.cells.options import OwnEmbeddings
from scdmc.cells.own_embeddings import own_embeddings_of, read_own_embeddings, require_own_embeddings
from scdmc.errors import ScDMCError


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def data_path(tmp_path_factory, islets_path, matrix):
    """The 300 cells with an embedding."""
    adata = anndata.read_h5ad(islets_path)
    adata.obsm["X_mine"], adata.obsm["X_table"] = matrix, pd.DataFrame(matrix, adata.obs_names, ["a", "b", "c"])
    path = tmp_path_factory.mktemp("own") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def ids(cells):
    return cells.obs["cell_id"].to_numpy(dtype=str)


def read(path, data_path, cells, name="mine"):
    own = OwnEmbeddings(files={name: Path(path)})
    require_own_embeddings(own, [data_path])
    return read_own_embeddings(own, data_path, cells)[name]


def test_some_cells_of_obsm_and_files_are_found_in_their_order(tmp_path, data_path, cells, ids, matrix):
    chosen = np.array([7, 250, 3])
    some = cells.select(chosen)
    found = read_own_embeddings(OwnEmbeddings(["X_mine", "X_table"]), data_path, some)
    backwards = pd.DataFrame(matrix[::-1], ids[::-1])
    backwards.to_csv(tmp_path / "a.csv")
    anndata.AnnData(np.zeros((300, 1)), obs=backwards[[]], obsm={"X_mine": matrix[::-1]}).write_h5ad(
        tmp_path / "a.h5ad"
    )
    anndata.AnnData(matrix[::-1], obs=backwards[[]]).write_h5ad(tmp_path / "b.h5ad")
    np.save(tmp_path / "a.npy", matrix.astype(np.float64))
    files = [read(tmp_path / name, data_path, some) for name in ("a.csv", "a.h5ad", "b.h5ad", "a.npy")]
    for embedding in (*found.values(), *files):
        assert embedding.dtype == np.float32
        np.testing.assert_allclose(embedding, matrix[chosen], rtol=1e-6)


def test_a_file_that_does_not_fit_the_cells_is_refused_with_the_reason(tmp_path, data_path, cells, ids, matrix):
    table = pd.DataFrame(matrix, ids)
    with_nan, twice = table.copy(), pd.concat([table, table[:2]])
    with_nan.iloc[4, 1] = np.nan
    words = table.assign(words="T cell")
    anndata.AnnData(matrix, obs=table[[]], obsm={"X_a": matrix}).write_h5ad(tmp_path / "other_key.h5ad")
    for name, wrong in (
        ("nan", with_nan),
        ("few", table[:-2]),
        ("twice", twice),
        ("words", words),
        ("none", table[[]]),
    ):
        wrong.to_csv(tmp_path / f"{name}.csv")
    for name, wrong in (("short", matrix[:-1]), ("flat", matrix[:, 0]), ("infinite", matrix * np.inf)):
        np.save(tmp_path / f"{name}.npy", wrong)
    np.save(tmp_path / "objects.npy", np.array([{}] * 300, dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "a.txt").write_text("x")
    refused = {
        "nan.csv": f"1 of 300 cells have a value that is no finite number: {ids[4]}",
        "few.csv": f"lacks 2 of the 300 cells of {data_path}: {ids[-2]}, {ids[-1]}; the file's cells are called",
        "twice.csv": f"2 cells stand there more than once: {ids[0]}, {ids[1]}",
        "words.csv": "columns that hold no numbers: words",
        "none.csv": "has the shape (300, 0)",
        "short.npy": "has 299 rows, and",
        "flat.npy": "has the shape (300,)",
        "infinite.npy": "300 of 300 cells have a value that is no finite number",
        "objects.npy": "is no array of numbers",
        "text.npy": "is no array of numbers",
        "other_key.h5ad": "obsm has neither 'mine' nor 'X_mine'; there are X_a",
        "absent.csv": "no such file",
        "a.txt": "is none of .npy, .csv, .h5ad",
    }
    for name, reason in refused.items():
        with pytest.raises(ScDMCError) as error:
            read(tmp_path / name, data_path, cells)
        assert reason in str(error.value), name
        assert "\n" not in str(error.value)


def test_keys_names_and_data_that_have_none_are_refused(tmp_path, data_path, adata, matrix):
    with pytest.raises(ScDMCError, match="obsm has no 'X_scGPT'; there are X_mine, X_table"):
        require_own_embeddings(OwnEmbeddings(["X_scGPT"]), [data_path])
    (tmp_path / "tokens.parquet").write_bytes(b"PAR1")
    with pytest.raises(ScDMCError, match="holds no obsm"):
        require_own_embeddings(OwnEmbeddings(["X_mine"]), [tmp_path / "tokens.parquet"])
    np.save(tmp_path / "a.npy", matrix)
    with pytest.raises(ScDMCError, match="joined by the order of the cells, and there are 2 data sets"):
        require_own_embeddings(OwnEmbeddings(files={"a": tmp_path / "a.npy"}), [data_path, data_path])
    for wrong in ({"obsm": ["a", "a"]}, {"obsm": ["a"], "files": {"a": "x"}}, {"obsm": ["a/b"]}, {"obsm": [""]}):
        with pytest.raises(ScDMCError, match="embedding '"):
            OwnEmbeddings(**wrong)
    with pytest.raises(ScDMCError, match="obsm has no 'X_mine'; it is empty"):
        own_embeddings_of(adata, ["X_mine"], np.arange(3), adata.obs_names[:3])
