"""Cells, labels, expression and results, as the tasks read and write them."""

import anndata
import numpy as np
import pandas as pd
import pytest

from scdmc.cells.data import read_cells
from scdmc.cells.expression import read_expression
from scdmc.cells.results import write_annotated
from scdmc.labels import labels_of
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.folder import open_model_directory
from scdmc.reading.options import CountOptions
from scdmc.tokens.tokenizer import Tokenizer

CONTEXT = 128  # of the model_path of conftest


def test_an_empty_label_is_no_label():
    column = pd.Series(["beta", "", None, np.nan, 3], dtype=object)
    assert labels_of(column).tolist() == ["beta", None, None, None, "3"]
    assert labels_of(column.astype("category")).tolist() == ["beta", None, None, None, "3"]


def test_an_h5ad_is_tokenized_as_the_model_was_trained(adata, islets_path, model_directory, cells):
    tokenizer = Tokenizer(model_directory.vocabulary, model_directory.medians, CONTEXT)
    insulin = model_directory.vocabulary.token_ids["ENSG00000254647"]
    assert tokenizer.median_of_token[insulin] == 50.0
    expected = np.log1p(adata[0, "INS"].X.toarray().item() / adata.obs["n_counts"].iloc[0] * 1e4 / 50.0)
    first = slice(cells.expression_offsets[0], cells.expression_offsets[1])
    value = cells.expression_values[first][cells.expression_ids[first] == insulin]
    assert expected > 0
    assert value == pytest.approx(expected, rel=1e-5)
    assert cells.rank_lengths.max() == CONTEXT


def test_cells_that_were_filtered_out_get_missing_results(tmp_path, adata, model_directory, encoder):
    filtered = adata[:6].copy()
    filtered.obs["filter_pass"] = [1, 0, 1, 1, 0, 1]
    filtered.obs_names = ["same"] * 6  # rows, not names, tell cells apart
    filtered.write_h5ad(tmp_path / "filtered.h5ad")
    cells = read_cells(tmp_path / "filtered.h5ad", model_directory)
    embeddings = cell_embeddings(encoder, cells)
    names = np.array(["a", "b", "c", "d"], dtype=object)
    output = tmp_path / "out.h5ad"
    write_annotated(output, tmp_path / "filtered.h5ad", cells, {"type": names}, {"X_scDMC": embeddings})
    result = anndata.read_h5ad(output)
    assert result.obs["type"].isna().tolist() == [False, True, False, False, True, False]
    assert result.obs["type"].dropna().tolist() == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(
        np.isnan(result.obsm["X_scDMC"]).any(axis=1), [False, True, False, False, True, False]
    )
    np.testing.assert_array_equal(result.obsm["X_scDMC"][[0, 2, 3, 5]], embeddings)


def test_expression_for_the_baselines_is_log1p_cp10k_of_all_genes(adata, islets_path, model_directory, cells):
    expression, genes = read_expression(islets_path, cells, model_directory, CountOptions())
    expected = np.log1p(adata.X.toarray() / adata.obs["n_counts"].to_numpy()[:, None] * 1e4)
    np.testing.assert_allclose(expression.toarray(), expected, rtol=1e-5)
    assert list(genes) == list(adata.var_names)


def test_expression_read_back_from_parquet_is_that_of_the_counts(tmp_path, islets_path, model_path, load_script):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "islets.h5ad").symlink_to(islets_path)
    load_script("tokenizer/tokenizer_combine.py").main(
        ["--input_directory", str(tmp_path / "in"), "--output_directory", str(tmp_path), "--output_prefix", "islets",
         "--gene_median_file", str(model_path / "gene_medians.json")])  # fmt: skip
    directory = open_model_directory(model_path)
    cells = read_cells(tmp_path / "islets.parquet", directory)
    expression, genes = read_expression(tmp_path / "islets.parquet", cells, directory)
    adata = anndata.read_h5ad(islets_path)
    insulin = np.log1p(np.asarray(adata[:, "INS"].X.todense()).ravel() / adata.obs["n_counts"].to_numpy() * 1e4)
    column = int(np.flatnonzero(genes == "ENSG00000254647")[0])
    np.testing.assert_allclose(expression[:, [column]].toarray().ravel(), insulin, rtol=1e-4)
