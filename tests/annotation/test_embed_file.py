"""Embedding a file block by block gives what embedding all its cells at once gives, and half an output never stays."""

import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scdmc.annotation import annotate_file as annotated_file
from scdmc.annotation.annotate_file import embed_file
from scdmc.annotation.embedding_page import EmbeddedFile, shared_neighbours, verdict_of
from scdmc.cells.data import read_cells
from scdmc.cells.results import write_annotated
from scdmc.errors import ScDMCError
from scdmc.model.embeddings import cell_embeddings, embedding_choice
from scdmc.options import POOLINGS, STREAMS
from scdmc.reading.options import CountOptions
from scdmc.tokens import tokenizer as tokenization
from scdmc.tokens.medians import GeneMedians
from tests.small_models import save_small_model


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    medians = GeneMedians({"ENSG00000254647": 50.0}, source="a test")  # INS
    return save_small_model(tmp_path_factory.mktemp("model") / "tiny", CONTEXT, medians, initializer_range=0.25)


CONTEXT = 64
FEW_CELLS = 32


@pytest.fixture(scope="module")
def adata(islets_path):
    return anndata.read_h5ad(islets_path)[:100].copy()


@pytest.fixture
def data_path(tmp_path, adata):
    """100 cells, of which eleven do not pass the filter: the first, a whole block, and one amid the last."""
    partly = adata.copy()
    partly.obs["filter_pass"] = 1
    partly.obs.iloc[[0, *range(FEW_CELLS, 2 * FEW_CELLS), 98], partly.obs.columns.get_loc("filter_pass")] = 0
    partly.layers["other"] = partly.X.copy()
    partly.obsm["X_scDMC"] = np.zeros((partly.n_obs, 3))  # of an earlier model
    partly.obsm["X_other"] = np.ones((partly.n_obs, 2))
    partly.uns["note"] = "kept"
    partly.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.fixture
def parquet_path(tmp_path, adata, load_script, model_path):
    """The 100 cells in row groups of 30, the second of which is empty."""
    (tmp_path / "in").mkdir()
    adata.write_h5ad(tmp_path / "in" / "cells.h5ad")
    command = ["--input_directory", tmp_path / "in", "--output_directory", tmp_path, "--output_prefix", "cells",
               "--gene_median_file", model_path / "gene_medians.json", "--obs_columns", "cell_type",
               "n_counts"]  # fmt: skip
    assert load_script("tokenizer/tokenizer_combine.py").main([str(word) for word in command]) == 0
    table = pq.read_table(tmp_path / "cells.parquet")
    with pq.ParquetWriter(tmp_path / "groups.parquet", table.schema) as writer:
        for first, last in ((0, 30), (30, 30), (30, 60), (60, 90), (90, 100)):
            writer.write_table(table.slice(first, last - first))
    assert pq.ParquetFile(tmp_path / "groups.parquet").num_row_groups == 5
    return tmp_path / "groups.parquet"


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few cells; returns a list that gets their sizes."""
    sizes, tokenize_blocks, embed = [], tokenization.tokenize_blocks, annotated_file.cell_embeddings

    def embed_block(encoder, cells, *more, **options):
        sizes.append(len(cells))
        return embed(encoder, cells, *more, **options)

    monkeypatch.setattr(annotated_file, "tokenize_blocks", lambda *a: tokenize_blocks(*a, block_size=FEW_CELLS))
    monkeypatch.setattr(annotated_file, "cell_embeddings", embed_block)
    return sizes


@pytest.fixture(scope="module")
def embed(load_script):
    main = load_script("downstream_tasks/embed.py").main

    def run(model, data, output, *flags):
        command = ["--model_path", model, "--data_path", data, "--output_file", output, "--num_gpus", 0, *flags]
        command += ["--umap", "no"] if output.suffix == ".h5ad" else []  # tests/cells/test_viewers.py draws it
        return main([str(word) for word in command])

    return run


def whole(data_path, model_directory, encoder, stream="both", pooling="cls"):
    """The user's AnnData with the embeddings of all cells, made at once."""
    cells = read_cells(data_path, model_directory)
    embeddings = {"X_scDMC": cell_embeddings(encoder, cells, stream, pooling)}
    with tempfile.TemporaryDirectory() as folder:
        write_annotated(Path(folder) / "whole.h5ad", data_path, cells, obsm=embeddings)
        return anndata.read_h5ad(Path(folder) / "whole.h5ad")


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("stream", STREAMS)
def test_blocks_give_the_embeddings_of_the_whole_file(
    stream, pooling, tmp_path, data_path, model_directory, encoder, small_blocks
):
    output = tmp_path / "out.h5ad"
    choice = embedding_choice(encoder.config, stream, pooling)
    made = embed_file(data_path, output, model_directory, encoder, CountOptions(), choice)
    assert small_blocks == [31, 32, 3]
    found = anndata.read_h5ad(output).obsm["X_scDMC"]
    expected = whole(data_path, model_directory, encoder, stream, pooling).obsm["X_scDMC"]
    assert (found.dtype, found.shape) == (np.float32, (100, 32 if stream == "both" else 16))
    assert (made.n_cells, made.n_embedded, made.width) == (100, 66, found.shape[1])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (np.isnan(found).all(axis=1) == (anndata.read_h5ad(data_path).obs["filter_pass"] == 0)).all()
    assert np.nanstd(found, axis=0).min() > 1e-3  # the cells are not all alike


def test_the_rest_of_the_file_is_as_it_was(tmp_path, data_path, model_path, embed, small_blocks, capsys):
    before = anndata.read_h5ad(data_path)
    assert embed(model_path, data_path, data_path, "--overwrite") == 0  # in its own place
    assert "obsm['X_scDMC'] of shape (66, 32); wrote" in capsys.readouterr().out
    after = anndata.read_h5ad(data_path)
    assert set(after.obsm) == {"X_scDMC", "X_other"}
    pd.testing.assert_frame_equal(after.obs, before.obs)
    pd.testing.assert_frame_equal(after.var, before.var)
    assert (after.X != before.X).nnz == (after.layers["other"] != before.layers["other"]).nnz == 0
    assert (after.obsm["X_other"] == 1).all()
    assert after.uns["note"] == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "cells.report.html"]
    assert "66 cells have an embedding of 32 numbers" in (tmp_path / "cells.report.html").read_text(encoding="utf8")


def test_parquet_gives_its_cells_without_genes(
    tmp_path, parquet_path, model_path, model_directory, encoder, embed, small_blocks
):
    assert embed(model_path, parquet_path, tmp_path / "out.h5ad") == 0
    assert small_blocks == [30, 30, 30, 10]
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    whole(parquet_path, model_directory, encoder).write_h5ad(tmp_path / "whole.h5ad")
    expected = anndata.read_h5ad(tmp_path / "whole.h5ad")
    assert found.shape == (100, 0)
    assert {"cell_type", "n_counts", "source_file"} <= set(found.obs)
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    np.testing.assert_allclose(found.obsm["X_scDMC"], expected.obsm["X_scDMC"], atol=1e-5)


def test_the_matrix_is_never_read_as_a_whole(monkeypatch, tmp_path, data_path, model_path, embed):
    def read_all(*_):
        raise AssertionError("the whole matrix was read")

    monkeypatch.setattr(anndata, "read_h5ad", read_all)
    assert embed(model_path, data_path, tmp_path / "out.h5ad") == 0


def test_an_interruption_leaves_no_half_output(monkeypatch, tmp_path, data_path, model_path, embed, small_blocks):
    original = annotated_file.cell_embeddings

    def interrupted(*arguments, **options):
        if len(small_blocks) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(annotated_file, "cell_embeddings", interrupted)
    assert embed(model_path, data_path, tmp_path / "new.h5ad") == 130
    assert len(small_blocks) == 2  # some cells had been embedded
    (tmp_path / "old.h5ad").write_text("of an earlier run")
    assert embed(model_path, data_path, tmp_path / "old.h5ad", "--overwrite") == 130
    assert (tmp_path / "old.h5ad").read_text() == "of an earlier run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "old.h5ad"]


def test_a_wrong_token_in_a_later_block_is_refused(tmp_path, parquet_path, model_directory, encoder):
    table = pq.read_table(parquet_path)
    tokens = table["input_ids_rank"].to_pylist()
    tokens[95][1] = 99_999_999
    column = table.schema.get_field_index("input_ids_rank")
    field = table.schema.field(column)
    pq.write_table(
        table.set_column(column, field, pa.array(tokens, field.type)), tmp_path / "bad.parquet", row_group_size=30
    )
    with pytest.raises(ScDMCError, match=r"bad.parquet: token id 99999999 is outside of the vocabulary"):
        embed_file(tmp_path / "bad.parquet", tmp_path / "out.h5ad", model_directory, encoder, CountOptions())
    assert not (tmp_path / "out.h5ad").exists()


def test_a_file_without_cells_to_embed_is_refused(tmp_path, adata, model_path, embed, capsys):
    none = adata.copy()
    none.obs["filter_pass"] = 0
    none.write_h5ad(tmp_path / "none.h5ad")
    assert embed(model_path, tmp_path / "none.h5ad", tmp_path / "out.h5ad") == 2
    assert "there is no cell to embed: the file is empty, or filter_pass drops them all" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["none.h5ad"]


@pytest.mark.parametrize("script", ["embed", "cluster"])
def test_flags_of_reading_counts_are_refused_for_tokens(script, tmp_path, load_script, model_path, capsys):
    output = "--output_file" if script == "embed" else "--output_dir"
    command = ["--model_path", model_path, "--data_path", tmp_path / "cells.parquet", output, tmp_path / "out.h5ad",
               "--layer", "raw", "--allow_normalized"]  # fmt: skip
    assert load_script(f"downstream_tasks/{script}.py").main([str(word) for word in command]) == 2
    error = capsys.readouterr().err
    assert "--layer, --allow_normalized: only an .h5ad is read so" in error
    assert "cells.parquet is tokenized already" in error


def test_a_table_has_one_row_for_each_cell_and_its_name(tmp_path, data_path, model_path, embed):
    assert embed(model_path, data_path, tmp_path / "whole.h5ad") == 0
    assert embed(model_path, data_path, tmp_path / "table.csv") == 0
    whole, table = anndata.read_h5ad(tmp_path / "whole.h5ad"), pd.read_csv(tmp_path / "table.csv", index_col="cell_id")
    assert table.index.tolist() == whole.obs_names.tolist()
    np.testing.assert_allclose(table.to_numpy(), whole.obsm["X_scDMC"], atol=1e-6)


def test_the_page_tells_what_the_model_could_not_read_and_whose_neighbours_are_alike():
    generator = np.random.default_rng(0)
    labels = np.array(["a", "b"] * 30, dtype=object)
    apart = generator.normal(size=(60, 2)) + 50 * (labels == "a")[:, None]
    shared, by_chance = shared_neighbours(apart, labels)
    assert shared == 1
    assert by_chance == pytest.approx(29 / 59)
    apart[:50] = np.nan
    assert shared_neighbours(apart, labels) is None
    obs = pd.DataFrame({"cell_type": pd.Categorical(labels)})
    coverage = {"share of counts lost": 0.4, "genes": 100, "genes matched": 60}
    verdict = verdict_of(EmbeddedFile(60, 58, 32, coverage, obs, None))
    assert (verdict.level, verdict.headline) == ("caution", "The model could not read 40% of the counts")
    assert verdict.numbers[0].beside == "2 of 60 were left out"
