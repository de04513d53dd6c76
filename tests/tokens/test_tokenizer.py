"""tokenizer_combine.py from the command line: from .h5ad to tokenized cells, shards, resumed runs, reports."""

import json

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.genes.ids import UNMATCHED
from scdmc.genes.vocabulary import load_vocabulary
from scdmc.reading.counts import counts_of_adata, open_counts
from scdmc.tokens import tokenizer as tokenization
from scdmc.tokens.file_report import add_histograms
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.parquet import read_tokenized
from scdmc.tokens.tokenized_cells import ROW_COLUMN
from scdmc.tokens.tokenizer import Tokenizer, tokenize_counts
from tests.tokens.outputs import fingerprints, visible

TP53, INS, GCG = "ENSG00000141510", "ENSG00000254647", "ENSG00000115263"


@pytest.fixture(scope="module")
def small_dictionary(tmp_path_factory, islets_path):
    """A vocabulary of the genes of the islets and no others, which is quick to read and write."""
    with open_counts(islets_path) as counts:
        vocabulary = load_vocabulary()
        tokens = np.unique(Tokenizer(vocabulary, load_gene_medians(None)).match(counts).token_ids)
    genes = [str(vocabulary.tokens[token]) for token in tokens if token != UNMATCHED]
    path = tmp_path_factory.mktemp("vocabulary") / "token_ids.json"
    path.write_text(json.dumps({token: i for i, token in enumerate([*vocabulary.tokens[:4], *genes])}))
    return path


@pytest.fixture
def folder(tmp_path, islets_path):
    """60 real cells in two files; the second lacks a column of obs."""
    adata = anndata.read_h5ad(islets_path)[::5].copy()
    adata.obs["donor_age"] = np.arange(60) + 0.5
    adata.var["names"] = adata.var_names
    folder = tmp_path / "in"
    folder.mkdir()
    adata[:25].write_h5ad(folder / "a.h5ad")
    second = adata[25:].copy()
    del second.obs["donor_age"]
    second.write_h5ad(folder / "b.h5ad")
    return folder


@pytest.fixture
def run(load_script, small_dictionary, tmp_path):
    """A function that calls the script as from the command line."""
    script = load_script("tokenizer/tokenizer_combine.py")

    def run(folder, *options, output="out", prefix="islets"):
        argv = ["--input_directory", folder, "--output_directory", tmp_path / output, "--output_prefix", prefix]
        argv += ["--token_dictionary_file", small_dictionary, *options]
        return script.main([str(argument) for argument in argv])

    return run


def cells_by_id(path):
    """cell id -> (rank, expression genes, values) over all shards."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    table = pa.concat_tables([pq.read_table(file) for file in files]).to_pydict()
    names = ("input_ids_rank", "input_ids_epe", "expression_values")
    return {cell: tuple(table[name][i] for name in names) for i, cell in enumerate(table["cell_id"])}


def report_of(folder, prefix="islets"):
    return json.loads((folder / f"{prefix}.report.json").read_text())


BESIDE = [
    "islets.gene_medians.json",
    "islets.report.html",
    "islets.report.json",
    "islets.token_ids.json",
    "islets.unmatched_genes.csv",
]


def test_the_command_of_the_readme_needs_three_options(load_script, tmp_path, islets_path, capsys):
    (tmp_path / "in").mkdir()
    anndata.read_h5ad(islets_path)[:5].write_h5ad(tmp_path / "in" / "cells.h5ad")
    script = load_script("tokenizer/tokenizer_combine.py")
    argv = ["--input_directory", tmp_path / "in", "--output_directory", tmp_path / "out", "--output_prefix", "islets"]
    assert script.main([str(argument) for argument in argv]) == 0
    assert visible(tmp_path / "out") == [BESIDE[0], "islets.parquet", *BESIDE[1:]]
    assert "islets.parquet" in capsys.readouterr().out
    vocabulary = load_vocabulary()
    assert load_vocabulary(tmp_path / "out" / "islets.token_ids.json").sha256 == vocabulary.sha256
    cells = read_tokenized(tmp_path / "out" / "islets.parquet")
    assert cells.settings.vocabulary_sha256 == vocabulary.sha256
    assert cells.settings.gene_medians_sha256 == load_gene_medians(None).sha256
    assert cells.settings.model_input_size == 2048
    assert len(cells) == 5


def test_most_beta_cells_rank_insulin_first_and_most_alpha_cells_glucagon(islets_path):
    adata = anndata.read_h5ad(islets_path)
    adata = adata[adata.obs["cell_type"].isin(["alpha", "beta"])]
    vocabulary = load_vocabulary()
    cells = tokenize_counts(counts_of_adata(adata), Tokenizer(vocabulary, load_gene_medians(None)), ["cell_type"])
    first = vocabulary.tokens[cells.rank_ids[cells.rank_offsets[:-1] + 1]]
    is_beta = (cells.obs["cell_type"] == "beta").to_numpy()
    assert (first[is_beta] == INS).mean() > 0.7 > 0.1 > (first[~is_beta] == INS).mean()
    assert (first[~is_beta] == GCG).mean() > 0.7 > 0.1 > (first[is_beta] == GCG).mean()


def test_one_shard_takes_the_prefix_as_name_and_several_are_numbered(run, folder, tmp_path):
    (folder / "b.h5ad").rename(tmp_path / "b.h5ad")
    assert run(folder) == 0
    assert visible(tmp_path / "out") == [BESIDE[0], "islets.parquet", *BESIDE[1:]]
    assert run(folder, "--cells_per_shard", 10, output="many") == 0
    shards = [f"islets-{i:05d}.parquet" for i in range(3)]
    assert visible(tmp_path / "many") == sorted([*shards, *BESIDE])
    assert [pq.read_metadata(tmp_path / "many" / name).num_rows for name in shards] == [10, 10, 5]


def test_a_shard_never_holds_cells_of_two_files(run, folder, tmp_path):
    assert run(folder, "--cells_per_shard", 30) == 0
    shards = [f"islets-{i:05d}.parquet" for i in range(3)]
    assert visible(tmp_path / "out") == sorted([*shards, *BESIDE])
    sources = [pq.read_table(tmp_path / "out" / name)["source_file"].to_pylist() for name in shards]
    assert sources == [["a.h5ad"] * 25, ["b.h5ad"] * 30, ["b.h5ad"] * 5]
    metadata = [json.loads(pq.read_schema(tmp_path / "out" / name).metadata[b"scdmc"]) for name in shards]
    assert [content["source_file"] for content in metadata] == ["a.h5ad", "b.h5ad", "b.h5ad"]


def test_blocks_do_not_change_a_byte(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("scdmc.tokens.output.CELLS_PER_ROW_GROUP", 8)
    spoil(folder / "a.h5ad", change=lambda adata: adata.obs.__setitem__("filter_pass", [1, 1, 0, 1, 1] * 5))
    spoil(folder / "b.h5ad", change=normalise)
    options = ["--obs_columns", "cell_type", "--allow_normalized"]
    assert run(folder, *options) == 0
    assert pq.read_metadata(tmp_path / "out" / "islets-00000.parquet").num_row_groups == 3
    for block_size in (1, 3, 8, 13):
        assert run(folder, *options, "--block_size", block_size, output=f"other_{block_size}") == 0
        assert fingerprints(tmp_path / f"other_{block_size}") == fingerprints(tmp_path / "out")


def test_shards_blocks_and_the_names_of_files_do_not_change_a_cell(run, folder, tmp_path):
    assert run(folder) == 0
    expected = cells_by_id(tmp_path / "out")
    assert len(expected) == 60
    (folder / "a.h5ad").rename(folder / "z.h5ad")
    for number, options in enumerate([[], ["--cells_per_shard", 7], ["--block_size", 3, "--cells_per_shard", 8]]):
        assert run(folder, *options, output=f"other_{number}") == 0
        assert cells_by_id(tmp_path / f"other_{number}") == expected


def test_cells_stand_in_the_order_of_the_file(run, folder, tmp_path):
    assert run(folder, "--block_size", 4) == 0
    ids = [pq.read_table(tmp_path / "out" / f"islets-{i:05d}.parquet")["cell_id"].to_pylist() for i in range(2)]
    assert ids == [anndata.read_h5ad(folder / name).obs_names.tolist() for name in ("a.h5ad", "b.h5ad")]


def test_the_script_writes_what_the_library_returns(run, folder, tmp_path, small_dictionary):
    assert run(folder, "--model_input_size", 100, "--obs_columns", "cell_type") == 0
    tokenizer = Tokenizer(load_vocabulary(small_dictionary), load_gene_medians(None), model_input_size=100)
    cells = tokenize_counts(counts_of_adata(anndata.read_h5ad(folder / "a.h5ad")), tokenizer, ["cell_type"])
    on_disk = read_tokenized(tmp_path / "out" / "islets-00000.parquet")
    assert on_disk.rank_ids.tolist() == cells.rank_ids.tolist()
    assert on_disk.expression_ids.tolist() == cells.expression_ids.tolist()
    assert on_disk.expression_values.tolist() == cells.expression_values.tolist()
    assert on_disk.rank_lengths.max() == 100
    assert on_disk.settings == cells.settings
    assert on_disk.obs["cell_type"].tolist() == cells.obs["cell_type"].tolist()


def test_columns_of_obs_are_kept_and_null_where_a_file_lacks_them(run, folder, tmp_path):
    assert run(folder, "--obs_columns", "cell_type", "donor_age") == 0
    obs = read_tokenized(tmp_path / "out").obs
    assert list(obs) == ["cell_id", "source_file", "cell_type", "donor_age"]
    assert obs["donor_age"].tolist()[:25] == [i + 0.5 for i in range(25)]
    assert obs["donor_age"].isna().tolist() == [False] * 25 + [True] * 35
    types = [anndata.read_h5ad(folder / name).obs["cell_type"].tolist() for name in ("a.h5ad", "b.h5ad")]
    assert obs["cell_type"].tolist() == types[0] + types[1]
    schema = pq.read_schema(tmp_path / "out" / "islets-00001.parquet")
    assert str(schema.field("cell_type").type).startswith("dictionary")


@pytest.mark.parametrize(("largest", "kind"), [(2**63 + 5, "dictionary"), (7, "int64")])
def test_an_integer_column_that_no_type_can_hold_becomes_text_as_a_whole(run, folder, tmp_path, largest, kind):
    adata = anndata.read_h5ad(folder / "a.h5ad")
    adata.obs["barcode"] = np.arange(25, dtype=np.uint64)
    adata.obs.iloc[7, adata.obs.columns.get_loc("barcode")] = largest
    adata.write_h5ad(folder / "a.h5ad")
    assert run(folder, "--obs_columns", "barcode", "--block_size", "5") == 0
    column = pq.read_table(tmp_path / "out" / "islets-00000.parquet")["barcode"]
    assert str(column.type).startswith(kind)
    assert [str(value) for value in column.to_pylist()] == [str(largest if row == 7 else row) for row in range(25)]


def without_counts(matrix, cells):
    return scipy.sparse.csr_matrix(matrix.toarray() * ~np.isin(np.arange(matrix.shape[0]), cells)[:, None])


def test_the_report_says_what_happened_to_cells_and_genes(run, folder, tmp_path):
    adata = anndata.read_h5ad(folder / "a.h5ad")
    extra = anndata.AnnData(
        X=scipy.sparse.csr_matrix(np.full((25, 3), 4, dtype=np.float32)),
        obs=adata.obs,
        var=pd.DataFrame(index=["ins", INS, "nonsense"]),
    )
    adata = anndata.concat([adata, extra], axis="var", merge="first")
    adata.obs["n_counts"] = adata.obs["n_counts"].astype(float)
    adata.obs.iloc[3, adata.obs.columns.get_loc("n_counts")] = 0
    adata.obs.iloc[4, adata.obs.columns.get_loc("n_counts")] = np.nan
    adata.X = without_counts(adata.X, [3, 4])
    adata.obs["filter_pass"] = [0, 0] + [1] * 23
    adata.write_h5ad(folder / "a.h5ad")
    assert run(folder, "--model_input_size", 800, "--block_size", 10) == 0
    report = report_of(tmp_path / "out")
    assert report["settings"] == read_tokenized(tmp_path / "out").settings.to_dict()
    first, second = report["files"]
    found = cells_by_id(tmp_path / "out" / "islets-00000.parquet")
    lengths = [len(rank) for rank, _, _ in cells_by_id(tmp_path / "out" / "islets-00001.parquet").values()]
    assert second["cells_truncated"] == lengths.count(800) > 0
    assert {name: first[name] for name in ("source_file", "layer", "genes", "duplicate_genes_summed")} == {
        "source_file": "a.h5ad",
        "layer": "X",
        "genes": 3003,
        "duplicate_genes_summed": second["duplicate_genes_summed"] + 2,
    }
    assert first["genes_matched"] == second["genes_matched"] + 2
    assert len(first["genes_unmatched_examples"]) == 10
    assert [first[f"cells_{name}"] for name in ("in", "out", "not_passing_filter", "empty")] == [25, 23, 2, 2]
    assert first["cells_empty_examples"] == adata.obs_names[3:5].tolist()
    assert [found[cell] for cell in adata.obs_names[3:5]] == [([2, 3], [2, 3], [1.0, 1.0])] * 2
    kept = adata[2:].X
    assert first["counts_total"] == kept.sum()
    assert 0 < first["counts_of_unmatched_genes"] < first["counts_total"] / 4


def test_the_report_does_not_depend_on_shards(run, folder, tmp_path):
    assert run(folder) == 0
    assert run(folder, "--cells_per_shard", 9, "--block_size", 4, output="many") == 0
    assert report_of(tmp_path / "many") == report_of(tmp_path / "out")


def test_empty_cells_are_dropped_on_demand(run, folder, tmp_path):
    adata = anndata.read_h5ad(folder / "b.h5ad")
    adata.obs.iloc[[0, 7], adata.obs.columns.get_loc("n_counts")] = 0
    adata.X = without_counts(adata.X, [0, 7])
    adata.write_h5ad(folder / "b.h5ad")
    assert run(folder, "--drop_empty_cells", "--block_size", 1) == 0
    expected = np.delete(adata.obs_names.to_numpy(), [0, 7]).tolist()
    assert list(cells_by_id(tmp_path / "out" / "islets-00001.parquet")) == expected
    assert report_of(tmp_path / "out")["files"][1]["cells_out"] == 33


def test_the_total_of_a_cell_is_n_counts_or_else_the_sum_over_all_genes(run, folder, tmp_path):
    adata = anndata.read_h5ad(folder / "a.h5ad")
    adata.obs["n_counts"] = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.write_h5ad(folder / "a.h5ad")
    assert run(folder, output="named") == 0
    del adata.obs["n_counts"]
    adata.write_h5ad(folder / "a.h5ad")
    assert run(folder) == 0
    assert cells_by_id(tmp_path / "named") == cells_by_id(tmp_path / "out")
    assert report_of(tmp_path / "out")["files"][0]["counts_of_unmatched_genes"] > 0


@pytest.mark.parametrize(
    "passes", [[1, 0, 1], [True, False, True], [1.0, np.nan, 1.0], pd.array([1, None, 1], "Int64")]
)
def test_only_cells_that_pass_the_filter_are_tokenized(published_like, passes):
    adata = toy_adata()
    adata.obs["filter_pass"] = passes
    cells = tokenize_counts(counts_of_adata(adata), published_like)
    assert cells.obs["cell_id"].tolist() == ["x", "z"]
    assert cells.obs[tokenization.ROW_COLUMN].tolist() == [0, 2]


@pytest.fixture
def published_like(make_vocabulary):
    return Tokenizer(make_vocabulary([GCG, TP53, INS]), load_gene_medians(None))


def toy_adata():
    counts = np.array([[1, 2, 3], [4, 0, 1], [0, 5, 5]], dtype=np.float32)
    return anndata.AnnData(counts, pd.DataFrame(index=list("xyz")), pd.DataFrame(index=[INS, TP53, GCG]))


def test_n_counts_that_are_no_numbers_are_an_error(published_like):
    adata = toy_adata()
    adata.obs["n_counts"] = ["many", "few", "none"]
    with pytest.raises(ScDMCError, match=r"obs\['n_counts'\] should hold numbers, but holds 'many'"):
        tokenize_counts(counts_of_adata(adata), published_like)


def test_without_a_cell_that_passes_there_is_nothing_to_tokenize(published_like):
    adata = toy_adata()
    adata.obs["filter_pass"] = 0
    with pytest.raises(ScDMCError, match="no cell is left to tokenize"):
        tokenize_counts(counts_of_adata(adata), published_like)


def test_what_was_read_in_memory_is_in_the_log(published_like, caplog):
    caplog.set_level("INFO", logger="scdmc")
    tokenize_counts(counts_of_adata(toy_adata()), published_like)
    assert "adata: 3 cells in, 3 out" in caplog.text


def test_filter_pass_may_be_numbers_of_any_kind_but_no_words(published_like, caplog):
    adata = toy_adata()
    for values in ([1, 0, 1], [True, False, True], ["1", "0", "1"], [1.0, np.nan, 1.0]):
        adata.obs["filter_pass"] = pd.Series(values, index=adata.obs_names).astype("category")
        assert tokenize_counts(counts_of_adata(adata), published_like).obs[ROW_COLUMN].tolist() == [0, 2]
    adata.obs["filter_pass"] = ["yes", "no", "yes"]
    with pytest.raises(ScDMCError, match=r"obs\['filter_pass'\] should hold 1 .* but holds 'yes', 'no'"):
        tokenize_counts(counts_of_adata(adata), published_like)


def test_repeated_cell_ids_are_a_warning(run, folder, tmp_path, capsys):
    adata = anndata.read_h5ad(folder / "a.h5ad")
    adata.obs_names = ["twin", "twin", *adata.obs_names[2:]]
    adata.write_h5ad(folder / "a.h5ad")
    assert run(folder) == 0
    assert "warning: a.h5ad: 1 cell ids occur more than once, such as twin" in capsys.readouterr().err
    assert pq.read_table(tmp_path / "out" / "islets-00000.parquet")["cell_id"].to_pylist()[:2] == ["twin", "twin"]


def test_cells_of_two_files_with_one_id_are_a_warning_that_names_both(run, folder, tmp_path, capsys):
    adata = anndata.read_h5ad(folder / "b.h5ad")
    adata[:7].write_h5ad(folder / "c.h5ad")
    first = anndata.read_h5ad(folder / "a.h5ad").obs_names[0]
    adata.obs_names = [first, *adata.obs_names[1:]]
    adata.write_h5ad(folder / "b.h5ad")
    assert run(folder) == 0
    log = capsys.readouterr().err
    warnings = [f"{pair} cell ids; source_file" for pair in ("a.h5ad and b.h5ad share 1", "b.h5ad and c.h5ad share 6")]
    assert all(f"warning: {warning}" in log for warning in warnings)
    assert len(report_of(tmp_path / "out")["warnings"]) == 2
    table = read_tokenized(tmp_path / "out").obs
    assert table.loc[table["cell_id"] == first, "source_file"].tolist() == ["a.h5ad", "b.h5ad"]


def test_files_with_different_genes_give_the_cells_that_each_gives_alone(run, folder, tmp_path):
    assert run(folder) == 0
    expected = cells_by_id(tmp_path / "out" / "islets-00001.parquet")
    adata = anndata.read_h5ad(folder / "a.h5ad")
    adata[:, ::-2].copy().write_h5ad(folder / "a.h5ad")
    assert run(folder, output="fewer") == 0
    assert [file["genes"] for file in report_of(tmp_path / "fewer")["files"]] == [1500, 3000]
    assert cells_by_id(tmp_path / "fewer" / "islets-00001.parquet") == expected


def test_the_unmatched_genes_are_listed_with_what_they_lost(run, folder, tmp_path, small_dictionary):
    assert run(folder, "--cells_per_shard", 10, "--block_size", 4) == 0
    table = pd.read_csv(tmp_path / "out" / "islets.unmatched_genes.csv")
    for name, report in zip(("a.h5ad", "b.h5ad"), report_of(tmp_path / "out")["files"], strict=True):
        of_file = table[table["source_file"] == name].set_index("gene")["counts"]
        adata = anndata.read_h5ad(folder / name)
        counts = pd.Series(np.asarray(adata.X.sum(axis=0)).ravel(), adata.var_names)
        assert len(of_file) == report["genes"] - report["genes_matched"] > 100
        assert (counts[of_file.index] == of_file).all()
        assert of_file.sum() == report["counts_of_unmatched_genes"] > 0
        assert of_file.is_monotonic_decreasing


def test_cells_without_a_known_gene_are_counted(run, folder, tmp_path, capsys):
    assert run(folder, output="whole") == 0
    unknown = pd.read_csv(tmp_path / "whole" / "islets.unmatched_genes.csv", nrows=1)["gene"].item()
    adata = anndata.read_h5ad(folder / "a.h5ad")
    counts = adata.X.tolil()
    counts[3] = 0
    counts[3, adata.var_names.get_loc(unknown)] = 9
    adata.X = counts.tocsr()
    adata.write_h5ad(folder / "a.h5ad")
    assert run(folder) == 0
    assert "warning: a.h5ad: 1 cells have counts, but not one in a gene" in capsys.readouterr().err
    report = report_of(tmp_path / "out")["files"][0]
    assert (report["cells_without_known_genes"], report["cells_empty"]) == (1, 0)
    assert report["genes_per_cell"]["0"] == 1


def test_the_histograms_count_every_cell_by_its_genes_and_counts(run, folder, tmp_path):
    assert run(folder, "--model_input_size", 100, "--cells_per_shard", 9) == 0
    assert run(folder, output="whole") == 0
    n_genes = [len(rank) - 2 for rank, _, _ in cells_by_id(tmp_path / "whole").values()]
    files = report_of(tmp_path / "out")["files"]
    for name, values in (
        ("genes_per_cell", n_genes),
        ("counts_per_cell", [n for file in "ab" for n in anndata.read_h5ad(folder / f"{file}.h5ad").obs["n_counts"]]),
    ):
        histogram = add_histograms(files[0][name], files[1][name])
        assert sum(histogram.values()) == 60
        edges = [int(edge) for edge in histogram]
        assert edges == sorted(edges)
        assert sum(n for edge, n in histogram.items() if int(edge) >= 1000) == sum(value >= 1000 for value in values)


def test_the_page_shows_figures_files_and_warnings(run, folder, tmp_path):
    spoil(folder / "b.h5ad", change=normalise)
    assert run(folder, "--allow_normalized") == 0
    page = (tmp_path / "out" / "islets.report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert ">b.h5ad</td>" in page
    assert "holds normalised values, taken because of --allow_normalized" in page
    assert "60 of 60 cells were tokenized, with" in page
    assert "in/b.h5ad" in page  # an input, with size and hash
    assert "http" not in page.replace("http-equiv", "")


def test_the_same_input_gives_the_same_bytes(run, folder, tmp_path):
    assert run(folder, "--cells_per_shard", 20, "--obs_columns", "cell_type", "donor_age") == 0
    assert run(folder, "--cells_per_shard", 20, "--obs_columns", "cell_type", "donor_age", output="again") == 0
    assert fingerprints(tmp_path / "again") == fingerprints(tmp_path / "out")


def test_existing_output_is_replaced_only_on_demand(run, folder, tmp_path, capsys):
    assert run(folder, "--cells_per_shard", 10) == 0
    assert run(folder, prefix="islets-2") == 0
    before = fingerprints(tmp_path / "out")
    assert run(folder, "--model_input_size", 50) == 2
    assert "pass --overwrite" in one_error_line(capsys)
    assert fingerprints(tmp_path / "out") == before
    assert run(folder, "--model_input_size", 50, "--overwrite") == 0
    # The shards of the longer run are gone; those of another prefix stay.
    expected = ["islets-00000.parquet", "islets-00001.parquet", *BESIDE]
    others = [name for name in before if name.startswith("islets-2")]
    assert visible(tmp_path / "out") == sorted([*expected, *others])
    assert read_tokenized(tmp_path / "out" / "islets-00000.parquet").rank_lengths.max() == 50


@pytest.fixture
def interrupted(run, folder, tmp_path, monkeypatch, capsys):
    """A run in five shards that ends with Ctrl-C in the fourth."""
    n_blocks = 0

    def cell_streams(*arguments):
        nonlocal n_blocks
        n_blocks += 1
        if n_blocks == 8:  # two blocks in a shard
            raise KeyboardInterrupt
        return cell_streams_of_the_library(*arguments)

    cell_streams_of_the_library = tokenization.cell_streams
    with monkeypatch.context() as patch:
        patch.setattr(tokenization, "cell_streams", cell_streams)
        assert run(folder, "--cells_per_shard", 15, "--block_size", 8) == 130
    return tmp_path / "out"


@pytest.fixture
def tokenized_rows(monkeypatch):
    """The numbers of cells of the blocks that are tokenized from here on."""
    rows = []
    cell_streams_of_the_library = tokenization.cell_streams

    def cell_streams(counts, *arguments):
        rows.append(counts.shape[0])
        return cell_streams_of_the_library(counts, *arguments)

    monkeypatch.setattr(tokenization, "cell_streams", cell_streams)
    return rows


def test_an_interrupted_run_leaves_nothing_visible_and_only_whole_shards(interrupted, capsys):
    assert visible(interrupted) == []
    hidden = interrupted / ".islets.shards"
    shards = sorted(path.name.rpartition("-")[0] for path in hidden.glob("*.parquet"))
    assert shards == ["a.h5ad-0", "a.h5ad-15", "b.h5ad-0"]
    assert not list(hidden.glob(".*"))
    assert "error: interrupted" in capsys.readouterr().err


def test_resuming_keeps_the_finished_shards_and_gives_the_bytes_of_an_uninterrupted_run(
    interrupted, run, folder, tmp_path, tokenized_rows
):
    finished = [path.stat().st_mtime_ns for path in sorted((interrupted / ".islets.shards").glob("*.parquet"))]
    assert run(folder, "--cells_per_shard", 15, "--block_size", 8, "--resume") == 0
    assert sum(tokenized_rows) == 60 - 25 - 15
    assert not (interrupted / ".islets.shards").exists()
    assert [(interrupted / f"islets-{i:05d}.parquet").stat().st_mtime_ns for i in range(3)] == finished
    assert run(folder, "--cells_per_shard", 15, "--block_size", 8, output="whole") == 0
    assert fingerprints(interrupted) == fingerprints(tmp_path / "whole")


def test_a_shard_that_was_damaged_by_the_interruption_is_not_kept(interrupted, run, folder, tokenized_rows):
    next((interrupted / ".islets.shards").glob("a.h5ad-15-*.json")).unlink()
    assert run(folder, "--cells_per_shard", 15, "--block_size", 8, "--resume") == 0
    assert sum(tokenized_rows) == 60 - 15 - 15


def test_without_resume_a_run_starts_over(interrupted, run, folder, tokenized_rows):
    assert run(folder, "--cells_per_shard", 15) == 0
    assert sum(tokenized_rows) == 60


@pytest.mark.parametrize(
    "changes",
    [
        ["--model_input_size", 50],
        ["--obs_columns", "cell_type"],
        ["--drop_empty_cells"],
        ["--cells_per_shard", 14],
        ["--layer", "X"],
        ["--allow_normalized"],
        ["--gene_id_column", "names"],
        "medians",
        "mapping",
    ],
)
def test_resuming_with_other_settings_starts_over(
    interrupted, run, folder, write_json_file, capsys, tokenized_rows, changes
):
    if changes == "medians":
        changes = ["--gene_median_file", write_json_file("medians.json", {INS: 2.0})]
    elif changes == "mapping":
        changes = ["--gene_mapping_file", write_json_file("mapping.json", {"INS": GCG})]
    assert run(folder, "--cells_per_shard", 15, "--resume", *changes) == 0
    assert sum(tokenized_rows) == 60
    warning = "warning: 3 of 3 finished shards are of no use, since their files or the settings have changed"
    assert warning in capsys.readouterr().err


def test_resuming_with_one_changed_file_keeps_the_shards_of_the_others(
    interrupted, run, folder, tmp_path, capsys, tokenized_rows
):
    adata = anndata.read_h5ad(folder / "b.h5ad")[:20]
    adata.write_h5ad(folder / "b.h5ad")
    adata[:12].write_h5ad(folder / "aa.h5ad")
    assert run(folder, "--cells_per_shard", 15, "--resume") == 0
    assert sum(tokenized_rows) == 20 + 12
    assert "warning: 1 of 3 finished shards are of no use" in capsys.readouterr().err
    assert run(folder, "--cells_per_shard", 15, output="whole") == 0
    assert fingerprints(interrupted) == fingerprints(tmp_path / "whole")


def test_a_column_whose_type_another_file_decides_is_written_again(run, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("scdmc.reading.matrix_readers.CELLS_IN_SAMPLE", 5)
    spoil(folder / "b.h5ad", 2.5)
    assert run(folder, "--obs_columns", "donor_age") == 2
    spoil(folder / "b.h5ad", 2, change=lambda adata: adata.obs.__setitem__("donor_age", "old"))
    assert run(folder, "--obs_columns", "donor_age", "--resume") == 0
    assert read_tokenized(tmp_path / "out").obs["donor_age"].tolist()[24:26] == ["24.5", "old"]


def test_resuming_where_nothing_was_interrupted_is_a_plain_run(run, folder, tmp_path):
    assert run(folder, "--resume") == 0
    assert len(cells_by_id(tmp_path / "out")) == 60


def one_error_line(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def spoil(path, value=None, names=None, change=None):
    """Put a value into the counts of the cell 'bad_cell', near the end of the file, or do another change."""
    adata = anndata.read_h5ad(path)
    if value is not None:
        counts = adata.X.tolil()
        counts[-2, 5] = value
        adata.X = counts.tocsr()
        adata.obs_names = [*adata.obs_names[:-2], "bad_cell", adata.obs_names[-1]]
    if names is not None:
        adata.var_names = names(adata.n_vars)
    if change is not None:
        change(adata)
    adata.write_h5ad(path)


def normalise(adata):
    adata.X = adata.X.log1p()


@pytest.mark.parametrize(
    ("spoiling", "parts"),
    [
        (lambda path: path.write_text("no counts"), ["b.h5ad is not a readable .h5ad file"]),
        (lambda path: spoil(path, change=normalise), ["b.h5ad: no raw counts", "X holds ", "--allow_normalized"]),
        (lambda path: spoil(path, -1), ["b.h5ad: no raw counts", "X holds -1"]),
        (lambda path: spoil(path, np.nan), ["b.h5ad: no raw counts", "X holds nan"]),
        (
            lambda path: spoil(path, names=lambda n: [f"Mouse{i}" for i in range(n)]),
            ["b.h5ad: none of its 3,000 genes", "'Mouse0', 'Mouse1', 'Mouse2'", "var_names"],
        ),
        (
            lambda path: spoil(path, change=lambda adata: adata.obs.__setitem__("n_counts", "many")),
            ["b.h5ad: obs['n_counts'] should hold numbers"],
        ),
    ],
)
def test_a_bad_file_is_one_error_line_and_leaves_nothing_visible(run, folder, tmp_path, capsys, spoiling, parts):
    spoiling(folder / "b.h5ad")
    assert run(folder) == 2
    line = one_error_line(capsys)
    assert all(part in line for part in parts)
    assert visible(tmp_path / "out") == []


def test_a_bad_value_deep_in_the_file_is_an_error_that_names_cell_and_gene(run, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("scdmc.reading.matrix_readers.CELLS_IN_SAMPLE", 5)
    spoil(folder / "b.h5ad", 2.5)
    assert run(folder, "--block_size", 10) == 2
    line = one_error_line(capsys)
    assert "b.h5ad: X holds 2.5 for cell 'bad_cell', gene " in line
    assert visible(tmp_path / "out") == []


def test_normalised_values_are_taken_on_demand_and_recorded(run, folder, tmp_path):
    spoil(folder / "b.h5ad", change=normalise)
    assert run(folder, "--allow_normalized") == 0
    assert [file["allow_normalized"] for file in report_of(tmp_path / "out")["files"]] == [False, True]


def test_bad_folders_are_one_error_line(run, tmp_path, capsys):
    assert run(tmp_path / "absent") == 2
    assert "absent: no such folder" in one_error_line(capsys)
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty") == 2
    assert "there is no .h5ad file" in one_error_line(capsys)
    (tmp_path / "empty" / "notes.txt").touch()
    assert run(tmp_path / "empty") == 2
    assert "only notes.txt" in one_error_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("n_files", [1, 2])
@pytest.mark.parametrize("wanted", [["typo"], ["cell_type", "typo"]])
def test_a_missing_column_of_obs_lists_those_there_are(run, folder, tmp_path, capsys, n_files, wanted):
    if n_files == 1:
        (folder / "b.h5ad").unlink()
    assert run(folder, "--obs_columns", *wanted) == 2
    line = one_error_line(capsys)
    assert "no column 'typo'" in line
    assert "['batch', 'cell_type', 'donor_age', 'n_counts']" in line
    assert visible(tmp_path / "out") == []


def test_columns_that_the_format_uses_itself_cannot_be_kept(run, folder, capsys):
    assert run(folder, "--obs_columns", "length") == 2
    assert "--obs_columns length: the tokenized data has a column of its own" in one_error_line(capsys)


def test_files_without_any_cell_left_are_an_error(run, folder, tmp_path, capsys):
    for name in ("a.h5ad", "b.h5ad"):
        spoil(folder / name, change=lambda adata: adata.obs.__setitem__("filter_pass", 0))
    assert run(folder) == 2
    assert "no cell is left to write: a.h5ad: 25 cells in, 0 out (25 dropped by filter_pass, " in one_error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_a_shard_without_cells_does_not_disturb_the_others(run, folder, tmp_path):
    spoil(folder / "a.h5ad", change=lambda adata: adata.obs.__setitem__("filter_pass", 0))
    assert run(folder) == 0
    assert len(read_tokenized(tmp_path / "out")) == 35


def test_a_context_without_room_for_a_gene_is_an_error(run, folder, capsys):
    assert run(folder, "--model_input_size", 2) == 2
    assert "--model_input_size 2" in one_error_line(capsys)
    assert run(folder, "--model_input_size", 3) == 0


def test_an_error_in_a_later_file_says_which_shards_are_kept(run, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("scdmc.reading.matrix_readers.CELLS_IN_SAMPLE", 5)
    spoil(folder / "b.h5ad", 2.5)
    assert run(folder, "--cells_per_shard", 20) == 2
    log = capsys.readouterr().err
    assert "3 finished shards are kept in " in log
    assert ".islets.shards; --resume takes them up" in log
    assert len(list((tmp_path / "out" / ".islets.shards").glob("*.parquet"))) == 3
    spoil(folder / "a.h5ad", 2.5)
    assert run(folder) == 2
    assert "kept" not in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_is_opened_once_for_all_of_its_shards(run, folder, tmp_path, monkeypatch):
    adata = anndata.read_h5ad(folder / "b.h5ad")
    assert run(folder, "--cells_per_shard", 10, output="rows") == 0
    adata.X = adata.X.tocsc()
    adata.write_h5ad(folder / "b.h5ad")
    read, read_elem = [], anndata.io.read_elem
    monkeypatch.setattr(anndata.io, "read_elem", lambda element: read.append(element.name) or read_elem(element))
    assert run(folder, "--cells_per_shard", 10) == 0
    assert read.count("/obs") == 4  # two files, looked at before and read once
    assert cells_by_id(tmp_path / "out") == cells_by_id(tmp_path / "rows")


def test_old_output_stays_until_the_new_one_stands_in_its_place(run, folder, tmp_path, monkeypatch):
    assert run(folder, "--cells_per_shard", 10) == 0
    before = visible(tmp_path / "out")

    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr(tokenization.GeneMedians, "save", fail)
    assert run(folder, "--overwrite") == 2
    assert visible(tmp_path / "out") == before


def test_an_output_directory_that_is_a_file_is_refused_at_once(run, folder, tmp_path, capsys):
    (tmp_path / "out").touch()
    assert run(folder, "--overwrite") == 2
    assert "out is no folder" in one_error_line(capsys)


def test_medians_by_symbol_are_one_error_line(run, folder, write_json_file, capsys):
    assert run(folder, "--gene_median_file", write_json_file("symbols.json", {"INS": 2.0})) == 2
    assert "symbols.json: none of its 1 genes is in the vocabulary" in one_error_line(capsys)


def test_mouse_genes_are_mapped_to_their_one_human_ortholog(run, folder, tmp_path, capsys):
    assert run(folder, output="human") == 0
    expected = cells_by_id(tmp_path / "human")
    vocabulary = load_vocabulary(tmp_path / "human" / "islets.token_ids.json")
    rows = []
    for name in ("a.h5ad", "b.h5ad"):
        adata = anndata.read_h5ad(folder / name)
        with open_counts(folder / name) as counts:
            tokens = Tokenizer(vocabulary, load_gene_medians(None)).match(counts).token_ids
        rows = [(f"ENSMUSG{i:011d}", str(vocabulary.tokens[t])) for i, t in enumerate(tokens) if t != UNMATCHED]
        adata.var_names = [f"ENSMUSG{i:011d}" for i in range(adata.n_vars)]
        adata.write_h5ad(folder / name)
    human = pd.Series([gene for _, gene in rows])
    single = [row for row, is_repeated in zip(rows, human.duplicated(keep=False), strict=True) if not is_repeated]
    pd.DataFrame(single, columns=["mouse", "human"]).to_csv(tmp_path / "orthologs.csv", index=False)
    assert run(folder, "--species", "mouse") == 2
    assert "--ortholog_file" in one_error_line(capsys)
    assert run(folder, "--species", "mouse", "--ortholog_file", tmp_path / "orthologs.csv") == 0
    lost = {vocabulary.token_ids[gene] for gene in human[human.duplicated()]}
    for cell, (rank, _, _) in cells_by_id(tmp_path / "out").items():
        assert set(rank) == set(expected[cell][0]) - lost
