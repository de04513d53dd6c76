"""Embeddings: what must not change them, how states are pooled, and that bfloat16 agrees with float32."""

import re
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from scdmc.cells.data import read_cells
from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import DEFAULT_GENE_TABLE_FILE
from scdmc.model.embeddings import EmbeddingChoice, cell_embeddings, embedding_width
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import open_model_directory
from scdmc.model.packing import pool
from scdmc.options import POOLINGS
from scdmc.studies.embedding_choices import embeddings_of_choices
from scdmc.studies.synthetic_cells import VOCAB_SIZE, synthetic_cells
from tests.task_scripts import run

CELLS = synthetic_cells(np.array([3, 40, 44, 45, 90, 200, 201, 256]))


def new_encoder(dtype, expression_input="none"):
    torch.manual_seed(0)
    config = ScDMCConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        initializer_range=0.08, expression_input=expression_input,
    )  # fmt: skip
    return ScDMCModel(config).to(dtype)


@pytest.mark.parametrize("expression_input", ["none", "value"])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("stream", ["rank", "both"])
def test_bfloat16_agrees_to_a_cosine_of_0_999(stream, pooling, expression_input):
    exact, half = (
        cell_embeddings(new_encoder(dtype, expression_input), CELLS, stream, pooling)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert exact.dtype == half.dtype == np.float32
    cosines = (exact * half).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(half, axis=1)
    assert (cosines > 0.999).all()
    assert not np.array_equal(exact, half)
    different = exact @ exact.T / np.linalg.norm(exact, axis=1)[:, None] / np.linalg.norm(exact, axis=1)
    assert different[~np.eye(len(exact), dtype=bool)].max() < cosines.min()  # the cells themselves are further apart


def test_synthetic_cells_have_different_genes_in_both_streams():
    for cell in range(len(CELLS)):
        rank = CELLS.rank_ids[slice(*CELLS.rank_offsets[cell : cell + 2])]
        expression = CELLS.expression_ids[slice(*CELLS.expression_offsets[cell : cell + 2])]
        assert (rank[0], rank[-1]) == (expression[0], expression[-1]) == (2, 3)
        assert (np.diff(expression[1:-1]) > 0).all()
        assert sorted(rank[1:-1]) == expression[1:-1].tolist()
        assert expression[1:-1].max(initial=4) < VOCAB_SIZE


def test_gene_order_symbols_or_ids_do_not_change_an_embedding(tmp_path, adata, model_directory, encoder, cells):
    table = pd.read_csv(DEFAULT_GENE_TABLE_FILE, index_col="id")
    id_of = {symbol: gene_id for gene_id, symbol in table["symbol"].drop_duplicates(keep=False).items()}
    shuffled = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    shuffled.var["ensembl_id"] = [id_of.get(name, "") for name in shuffled.var_names]
    shuffled.write_h5ad(tmp_path / "shuffled.h5ad")
    other = read_cells(tmp_path / "shuffled.h5ad", model_directory)
    np.testing.assert_allclose(cell_embeddings(encoder, other), cell_embeddings(encoder, cells), atol=1e-6)


def test_the_other_cells_of_a_batch_do_not_change_an_embedding(encoder, cells):
    together = cell_embeddings(encoder, cells)
    some = np.array([7, 3, 250])
    np.testing.assert_allclose(cell_embeddings(encoder, cells.select(some)), together[some], atol=1e-5)


def test_embedding_an_h5ad_and_its_parquet_give_the_same(
    tmp_path, islets_path, model_path, encoder, cells, load_script
):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "islets.h5ad").symlink_to(islets_path)
    load_script("tokenizer/tokenizer_combine.py").main(
        ["--input_directory", str(tmp_path / "in"), "--output_directory", str(tmp_path), "--output_prefix", "islets",
         "--gene_median_file", str(model_path / "gene_medians.json")])  # fmt: skip
    from_parquet = read_cells(tmp_path / "islets.parquet", open_model_directory(model_path))
    np.testing.assert_array_equal(cell_embeddings(encoder, from_parquet), cell_embeddings(encoder, cells))


def test_both_streams_are_the_two_streams_joined(encoder, cells):
    few = cells.select(np.arange(5))
    both = cell_embeddings(encoder, few, "both")
    np.testing.assert_allclose(both[:, :16], cell_embeddings(encoder, few, "rank"), atol=1e-6)
    np.testing.assert_allclose(both[:, 16:], cell_embeddings(encoder, few, "expression"), atol=1e-6)


def test_mean_pooling_is_the_mean_of_the_genes_without_special_tokens(encoder, cells):
    from scdmc.model.packing import packed_streams

    packed = packed_streams(cells, np.array([0, 1]), "rank")
    states = torch.randn(len(packed.input_ids), 4)
    first = packed.layout.lengths[0]
    pooled = pool(states, packed, "mean")
    torch.testing.assert_close(pooled[0], states[1 : first - 1].mean(dim=0))
    torch.testing.assert_close(pooled[1], states[first + 1 : -1].mean(dim=0))


def test_weighted_pooling_weights_the_same_genes_in_both_streams_by_their_values(cells):
    from scdmc.model.packing import packed_streams

    packed = packed_streams(cells, np.array([3, 0]), "both", with_gene_values=True)
    value_of_gene = torch.zeros(100_000, 1)
    parts = torch.split(torch.arange(len(packed.input_ids)), list(packed.layout.lengths))
    for cell, rank, expression in ((3, parts[0], parts[2]), (0, parts[1], parts[3])):
        span = slice(cells.expression_offsets[cell] + 1, cells.expression_offsets[cell + 1] - 1)
        ids, values = cells.expression_ids[span].astype(np.int64), torch.from_numpy(cells.expression_values[span])
        assert (values > 0).all()
        assert packed.gene_values[expression[1:-1]].tolist() == values.tolist()
        value_of_gene[ids, 0] = values
        assert packed.gene_values[rank[1:-1]].tolist() == value_of_gene[packed.input_ids[rank[1:-1]], 0].tolist()
        assert packed.gene_values[torch.stack([rank[[0, -1]], expression[[0, -1]]])].tolist() == [[0, 0], [0, 0]]
    states = torch.randn(100_000, 4)[packed.input_ids]
    pooled = pool(states, packed, "weighted")
    torch.testing.assert_close(pooled[:2], pooled[2:])
    genes = parts[1][1:-1]
    weights = packed.gene_values[genes][:, None]
    torch.testing.assert_close(pooled[1], (states[genes] * weights).sum(dim=0) / weights.sum())


def test_an_empty_cell_is_embedded_and_annotated_like_any_other(tmp_path, adata, model_directory, encoder):
    with_empty = adata[:3].copy()
    with_empty.X[1] = 0
    with_empty.obs["n_counts"] = np.asarray(with_empty.X.sum(axis=1)).ravel()
    with_empty.write_h5ad(tmp_path / "empty.h5ad")
    cells = read_cells(tmp_path / "empty.h5ad", model_directory)
    assert cells.rank_lengths[1] == 2
    for pooling in POOLINGS:
        assert np.isfinite(cell_embeddings(encoder, cells, pooling=pooling)).all()


def test_an_unknown_stream_is_refused(encoder, cells):
    with pytest.raises(ScDMCError, match="rank, expression, both"):
        cell_embeddings(encoder, cells, stream="third")


def test_embedding_with_a_named_vocabulary_and_back_end_gives_the_same(
    scripts, capsys, tmp_path, islets_path, model_path, encoder, cells
):
    bare = tmp_path / "bare"
    shutil.copytree(model_path, bare)
    (bare / "token_ids.json").rename(tmp_path / "vocabulary.json")
    status, _ = run(scripts, capsys, "embed", bare, islets_path, tmp_path / "out.h5ad",
                    "--token_dictionary_file", tmp_path / "vocabulary.json", "--attention", "eager")  # fmt: skip
    assert status == 0
    embedded = anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_scDMC"]
    np.testing.assert_allclose(embedded, cell_embeddings(encoder, cells), atol=1e-5)


def test_who_chooses_nothing_gets_what_config_json_says():
    encoder = new_encoder(torch.float32)
    encoder.config.embedding_stream, encoder.config.embedding_pooling = "expression", "weighted"
    encoder.config.embedding_layer = 1
    cells = CELLS.select(np.arange(3))
    expected = embeddings_of_choices(encoder, cells, show_progress=False)
    for asked, given in {
        (None, None, None): EmbeddingChoice(1, "expression", "weighted"),
        ("rank", None, None): EmbeddingChoice(3, "rank", "weighted"),
        (None, "mean", None): EmbeddingChoice(3, "expression", "mean"),
        ("both", "mean", 0): EmbeddingChoice(0, "both", "mean"),
        (None, None, 2): EmbeddingChoice(2, "expression", "weighted"),
    }.items():
        stream, pooling, layer = asked
        found = cell_embeddings(encoder, cells, stream, pooling, layer=layer, show_progress=False)
        np.testing.assert_allclose(found, expected[given], atol=1e-5, err_msg=str(asked))
        assert embedding_width(encoder, stream) == found.shape[1]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layer": 4}, "--encoder_layer 4: there are layers 1 to 3, and 0 for the vectors of the genes"),
        ({"layer": 0}, "--encoder_layer 0 --pooling cls: <cls> is the same for all cells there"),
        ({"pooling": "sum"}, "--pooling sum: there are cls, mean, weighted"),
    ],
)
def test_a_choice_that_is_none_is_refused(asked, message):
    with pytest.raises(ScDMCError, match=re.escape(message)):
        cell_embeddings(new_encoder(torch.float32), CELLS, **asked)
