"""What ``import scdmc`` offers: tokens in memory are those that the script writes."""

import shutil

import anndata
import numpy as np
import pytest
import scipy.sparse

import scdmc
from scdmc.cells.data import read_cells
from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import load_vocabulary
from scdmc.model.folder import open_model_directory
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.storage import save_model_directory
from scdmc.tokens.medians import GeneMedians, load_gene_medians
from scdmc.tokens.parquet import read_tokenized
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizationSettings

TP53, INS, GCG, UNKNOWN = "ENSG00000141510", "ENSG00000254647", "ENSG00000115263", "ENSG00000999999"


@pytest.fixture
def tokenize_by_script(load_script, tmp_path):
    """A function that saves an AnnData, runs the script on it and reads what it wrote."""
    script = load_script("tokenizer/tokenizer_combine.py")

    def run(adata, *options):
        (tmp_path / "in").mkdir()
        adata.write_h5ad(tmp_path / "in" / "a.h5ad")
        command = ["--input_directory", tmp_path / "in", "--output_directory", tmp_path / "out", "--output_prefix", "a"]
        assert script.main([str(word) for word in (*command, *options)]) == 0
        return read_tokenized(tmp_path / "out" / "a.parquet")

    return run


def require_equal_cells(found, expected):
    for attribute in ("rank_ids", "expression_ids", "expression_values", "rank_offsets", "expression_offsets"):
        np.testing.assert_array_equal(getattr(found, attribute), getattr(expected, attribute), err_msg=attribute)
    assert found.settings == expected.settings
    found, expected = (cells.obs.drop(columns=ROW_COLUMN, errors="ignore").astype(str) for cells in (found, expected))
    assert found.equals(expected)


def test_tokens_in_memory_are_those_of_the_script(adata, tokenize_by_script):
    expected = tokenize_by_script(adata, "--obs_columns", "cell_type", "batch")
    found = scdmc.tokenize(adata, obs_columns=["cell_type", "batch"], name="a.h5ad")
    assert len(found) == 300
    require_equal_cells(found, expected)


def test_options_are_those_of_the_script(adata, tokenize_by_script, write_json_file):
    medians = write_json_file("medians.json", {INS: 40.0, GCG: 20.0})
    mapping = write_json_file("mapping.json", {"INS": GCG})
    adata.layers["mine"] = scipy.sparse.csr_matrix(adata.X.toarray() * (np.arange(300) != 3)[:, None])
    adata.X = np.log1p(adata.X.toarray())
    adata.var["names"] = adata.var_names
    adata.obs.loc[adata.obs_names[3], "n_counts"] = 0
    expected = tokenize_by_script(
        adata, "--gene_median_file", medians, "--gene_mapping_file", mapping, "--layer", "mine", "--drop_empty_cells",
        "--gene_id_column", "names", "--model_input_size", 50,
    )  # fmt: skip
    found = scdmc.tokenize(
        adata, gene_median_file=str(medians), gene_mapping_file=str(mapping), layer="mine", drop_empty_cells=True,
        gene_id_column="names", model_input_size=50, name="a.h5ad",
    )  # fmt: skip
    assert len(found) == 299
    assert found.rank_lengths.max() == 50
    assert found.obs[ROW_COLUMN].tolist() == [row for row in range(300) if row != 3]
    require_equal_cells(found, expected)


def test_medians_may_be_a_mapping_a_file_or_those_of_scdmc(adata, write_json_file):
    path = write_json_file("medians.json", {INS: 40.0, GCG: 20.0})
    from_mapping = scdmc.tokenize(adata, medians={INS: 40.0, GCG: 20.0})
    require_equal_cells(from_mapping, scdmc.tokenize(adata, gene_median_file=path))
    shipped = scdmc.tokenize(adata, gene_median_file="default")
    assert shipped.settings.gene_medians_sha256 == load_gene_medians("default").sha256
    assert len({cells.settings.gene_medians_sha256 for cells in (from_mapping, shipped, scdmc.tokenize(adata))}) == 3
    with pytest.raises(ScDMCError, match="either medians or gene_median_file"):
        scdmc.tokenize(adata, medians={INS: 40.0}, gene_median_file=path)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), "2"])
def test_a_median_that_is_no_positive_number_is_an_error(adata, value):
    with pytest.raises(ScDMCError, match=f"medians: a gene's median is a positive number.*{INS}"):
        scdmc.tokenize(adata, medians={INS: value})


def test_medians_and_columns_are_named_by_text(adata):
    with pytest.raises(ScDMCError, match="medians go by Ensembl id, which is text, but there is 5"):
        scdmc.tokenize(adata, medians={5: 1.0})
    with pytest.raises(ScDMCError, match=r"obs_columns is a list of names: write \['batch'\]"):
        scdmc.tokenize(adata, obs_columns="batch")


def test_genes_of_a_mouse_are_mapped_by_a_table(adata, tmp_path):
    mouse = anndata.AnnData(adata.X[:5, :2].copy())
    mouse.var_names = ["ENSMUSG00000000001", "ENSMUSG00000000002"]
    table = tmp_path / "orthologs.csv"
    table.write_text(f"human,mouse\n{INS},ENSMUSG00000000001\n{GCG},ENSMUSG00000000002\n")
    human = mouse.copy()
    human.var_names = [INS, GCG]
    require_equal_cells(scdmc.tokenize(mouse, species="mouse", ortholog_file=table), scdmc.tokenize(human))


def test_a_dask_array_of_sparse_blocks_is_computed_block_by_block(adata):
    dask_array = pytest.importorskip("dask.array", reason="Dask is not installed (pip install distributed)")
    lazy = adata.copy()
    blocks = [dask_array.from_array(adata.X[start : start + 100], asarray=False) for start in (0, 100, 200)]
    lazy.X = dask_array.concatenate(blocks)
    require_equal_cells(scdmc.tokenize(lazy), scdmc.tokenize(adata))


def test_the_data_are_left_as_they_were(adata):
    before = adata.copy()
    scdmc.tokenize(adata, obs_columns=["cell_type"])
    assert (before.X != adata.X).nnz == 0
    assert before.obs.equals(adata.obs)
    assert before.var.equals(adata.var)


@pytest.fixture
def model_path(tmp_path, make_vocabulary):
    """A model of another vocabulary, other medians and a short context."""
    vocabulary = make_vocabulary([INS, TP53, GCG])
    medians = GeneMedians({INS: 40.0}, "a test")
    config = ScDMCConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=4,
    )  # fmt: skip
    settings = TokenizationSettings(vocabulary.sha256, medians.sha256, 2048)
    save_model_directory(tmp_path / "model", ScDMCForMaskedLM(config), vocabulary, medians, settings, "card")
    return tmp_path / "model"


def test_cells_are_tokenized_as_the_model_was_trained(adata, model_path, islets_path):
    found = scdmc.tokenize(adata, model_path=model_path, name=islets_path.name)
    require_equal_cells(found, read_cells(islets_path, open_model_directory(model_path)))
    assert found.rank_lengths.max() == 4
    assert set(found.rank_ids) <= set(range(7))


@pytest.mark.parametrize("option", [{"medians": {INS: 2.0}}, {"gene_median_file": "default"}, {"model_input_size": 9}])
def test_what_comes_with_the_model_cannot_be_changed(adata, model_path, option):
    with pytest.raises(ScDMCError, match="come with the model"):
        scdmc.tokenize(adata, model_path=model_path, **option)


def test_a_model_without_vocabulary_takes_a_given_one(adata, model_path, tmp_path):
    expected = scdmc.tokenize(adata, model_path=model_path)
    vocabulary = shutil.move(model_path / "token_ids.json", tmp_path / "token_ids.json")
    with pytest.raises(ScDMCError, match=r"has no token_ids\.json"):
        scdmc.tokenize(adata, model_path=model_path)
    require_equal_cells(scdmc.tokenize(adata, model_path=model_path, token_dictionary_file=vocabulary), expected)


def test_a_path_is_no_adata(islets_path):
    with pytest.raises(ScDMCError, match=r"takes an AnnData, not a PosixPath; anndata.read_h5ad"):
        scdmc.tokenize(islets_path)


def test_data_that_cannot_be_tokenized_are_an_error(adata):
    with pytest.raises(ScDMCError, match="no column 'donor'"):
        scdmc.tokenize(adata, obs_columns=["donor"])
    adata.X = adata.X / 3
    with pytest.raises(ScDMCError, match="adata: no raw counts"):
        scdmc.tokenize(adata)
    assert len(scdmc.tokenize(adata, allow_normalized=True)) == 300


def test_the_package_names_what_it_offers():
    assert {"tokenize", "__version__"} <= set(dir(scdmc))
    assert load_vocabulary().token_ids.get(UNKNOWN) is None
    with pytest.raises(AttributeError, match="'scdmc' has no attribute 'tokenise'"):
        scdmc.tokenise  # noqa: B018
