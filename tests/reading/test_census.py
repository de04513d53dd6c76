"""A SOMA experiment, built here, is tokenized as the same cells in an AnnData are."""

import json
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import scdmc
from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import load_vocabulary
from scdmc.reading.census import CensusSlice, census_counts, choose_cells, open_census, open_experiment
from scdmc.tokens.medians import load_gene_medians, medians_by_gene
from scdmc.tokens.parquet import gene_medians_path, read_tokenized, token_ids_path
from scdmc.tokens.tokenizer import Tokenizer, collect_medians
from tests.tokens.outputs import fingerprints

tiledbsoma = pytest.importorskip("tiledbsoma", reason="tiledbsoma is not installed (pip install tiledbsoma)")
soma_io = pytest.importorskip("tiledbsoma.io", reason="tiledbsoma is not installed (pip install tiledbsoma)")

COLUMNS = ["cell_type", "tissue", "donor_id", "assay", "dataset_id"]


def annotated(adata):
    """The cells with the columns of a Census; every fifth is in another data set, too."""
    adata.obs["is_primary_data"] = np.arange(adata.n_obs) % 5 > 0
    adata.obs["donor_id"] = adata.obs["batch"].astype(str)
    for column, value in {"tissue": "islet of Langerhans", "assay": "inDrop", "dataset_id": "d1"}.items():
        adata.obs[column] = pd.Categorical([value] * adata.n_obs)
    return adata


@pytest.fixture(scope="module")
def adata(islets_path):
    return annotated(anndata.read_h5ad(islets_path))


def experiment_of(adata, path, **options):
    options = {"measurement_name": "RNA", "X_layer_name": "raw"} | options
    return soma_io.from_anndata(str(path), adata, **options)


@pytest.fixture(scope="module")
def uri(adata, tmp_path_factory):
    """A SOMA experiment of 300 real cells; the number of a cell is its row."""
    path = tmp_path_factory.mktemp("soma") / "islets"
    experiment_of(adata, path)
    return str(path)


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("tokenizer/census.py")


def run(script, uri, folder, *options):
    """Tokenize with the script; returns its status."""
    command = ["--uri", uri, "--output_directory", folder, "--output_prefix", "islets", *options]
    return script.main([str(word) for word in command])


def read(folder, n_shards=1):
    return read_tokenized(folder / ("islets.parquet" if n_shards == 1 else "islets-*.parquet"))


def require_same_streams(found, expected):
    for attribute in ("rank_ids", "expression_ids", "expression_values", "rank_offsets"):
        np.testing.assert_array_equal(getattr(found, attribute), getattr(expected, attribute), err_msg=attribute)
    assert found.settings == expected.settings


def test_the_cells_of_an_experiment_become_the_tokens_of_the_same_cells_in_memory(script, uri, adata, tmp_path):
    assert run(script, uri, tmp_path, "--all_cells", "--gene_median_file", "default") == 0
    expected = scdmc.tokenize(adata, gene_median_file="default", obs_columns=COLUMNS)
    found = read(tmp_path)
    require_same_streams(found, expected)
    assert found.obs["cell_id"].tolist() == [str(row) for row in range(300)]
    assert set(found.obs["source_file"]) == {"islets"}
    pd.testing.assert_frame_equal(found.obs[COLUMNS].astype(str), expected.obs[COLUMNS].astype(str))


def test_cells_that_are_primary_elsewhere_are_left_out(script, uri, adata, tmp_path):
    assert run(script, uri, tmp_path) == 0
    is_primary = adata.obs["is_primary_data"].to_numpy()
    found = read(tmp_path)
    assert found.obs["cell_id"].tolist() == [str(row) for row in np.flatnonzero(is_primary)]
    require_same_streams(found, scdmc.tokenize(adata[is_primary]))


def test_a_condition_chooses_among_the_primary_cells(script, uri, adata, tmp_path):
    condition = "cell_type == 'alpha' or cell_type == 'beta'"
    assert run(script, uri, tmp_path, "--obs_value_filter", condition) == 0
    wanted = adata.obs["is_primary_data"] & adata.obs["cell_type"].isin(["alpha", "beta"])
    assert read(tmp_path).obs["cell_id"].tolist() == [str(row) for row in np.flatnonzero(wanted)]


def files_of(folder):
    return fingerprints(folder)


def test_a_seed_gives_one_sample_and_another_seed_another(script, uri, adata, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run(script, uri, tmp_path / name, "--max_cells", 60, "--seed", seed) == 0
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    first, other = (read(tmp_path / name).obs["cell_id"].astype(int).to_numpy() for name in "ac")
    assert len(first) == len(other) == 60
    assert first.tolist() == sorted(set(first)) != other.tolist()
    assert adata.obs["is_primary_data"].to_numpy()[first].all()
    require_same_streams(read(tmp_path / "a"), scdmc.tokenize(adata[first]))


def test_more_cells_than_there_are_is_all_of_them(uri):
    with open_experiment(uri) as experiment:
        joinids, n_matching = choose_cells(experiment, CensusSlice(max_cells=10_000))
    assert len(joinids) == n_matching == 240


def test_shards_and_blocks_do_not_change_the_tokens(script, uri, tmp_path):
    assert run(script, uri, tmp_path / "one", "--max_cells", 100) == 0
    assert run(script, uri, tmp_path / "many", "--max_cells", 100, "--cells_per_shard", 30, "--block_size", 7) == 0
    assert len(list((tmp_path / "many").glob("islets-*.parquet"))) == 4
    require_same_streams(read(tmp_path / "many", 4), read(tmp_path / "one"))
    assert run(script, uri, tmp_path / "small", "--max_cells", 100, "--cells_per_shard", 30, "--block_size", 3) == 0
    assert files_of(tmp_path / "small") == files_of(tmp_path / "many")


def test_report_vocabulary_and_medians_lie_beside(script, uri, tmp_path):
    options = ["--max_cells", 50, "--seed", 7, "--gene_median_file", "default", "--obs_value_filter", "assay != 'x'"]
    assert run(script, uri, tmp_path, *options) == 0
    single = tmp_path / "islets.parquet"
    assert load_gene_medians(gene_medians_path(single)).sha256 == load_gene_medians("default").sha256
    assert token_ids_path(single).exists()
    report = json.loads((tmp_path / "islets.report.json").read_text())
    assert report["census"] == {
        "obs_value_filter": "assay != 'x'", "max_cells": 50, "seed": 7, "primary_only": True,
        "cells_matching": 240, "cells_taken": 50,
    }  # fmt: skip
    assert report["settings"] == read(tmp_path).settings.to_dict()
    (of_file,) = report["files"]
    assert (of_file["cells_in"], of_file["cells_out"], of_file["layer"]) == (50, 50, "ms/RNA/X/raw")
    assert "<html" in (tmp_path / "islets.report.html").read_text()
    assert len(pd.read_csv(tmp_path / "islets.unmatched_genes.csv")) > 10
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_own_medians_are_those_of_the_chosen_cells_and_not_of_their_blocks(script, uri, islets_path, adata, tmp_path):
    assert run(script, uri, tmp_path, "--all_cells", "--own_medians", "--block_size", 70) == 0
    beside = gene_medians_path(tmp_path / "islets.parquet")
    vocabulary = load_vocabulary(None)
    accumulator = collect_medians([islets_path], Tokenizer(vocabulary, load_gene_medians(None)))
    assert load_gene_medians(beside).sha256 == medians_by_gene(accumulator, vocabulary, "islets").sha256
    require_same_streams(read(tmp_path), scdmc.tokenize(adata, gene_median_file=beside))


def test_own_medians_and_others_contradict_each_other(script, uri, tmp_path, capsys):
    assert run(script, uri, tmp_path / "out", "--own_medians", "--gene_median_file", "default") == 2
    assert "--own_medians and --gene_median_file both say" in capsys.readouterr().err


def test_totals_and_filters_of_the_experiment_count(script, adata, tmp_path):
    changed = adata[:40].copy()
    changed.obs["filter_pass"] = np.arange(40) % 2
    changed.obs["n_counts"] = changed.obs["n_counts"] * 3
    changed.obs.loc[changed.obs_names[1], "n_counts"] = 0
    changed.X = scipy.sparse.csr_matrix(changed.X.toarray() * (np.arange(40) != 1)[:, None])
    uri = experiment_of(changed, tmp_path / "soma")
    assert run(script, uri, tmp_path / "out", "--all_cells", "--drop_empty_cells") == 0
    found = read(tmp_path / "out")
    assert len(found) == 19
    require_same_streams(found, scdmc.tokenize(changed, drop_empty_cells=True))


def test_without_totals_the_sum_over_all_genes_counts(script, adata, tmp_path):
    changed = adata[:40].copy()
    del changed.obs["n_counts"]
    uri = experiment_of(changed, tmp_path / "soma")
    assert run(script, uri, tmp_path / "out", "--all_cells") == 0
    require_same_streams(read(tmp_path / "out"), scdmc.tokenize(changed))


def test_genes_are_matched_by_their_feature_id(script, adata, tmp_path):
    changed = adata[:20, :4].copy()
    changed.var["feature_id"] = ["ENSG00000141510", "ENSG00000254647", "ENSG00000115263", "no gene"]
    changed.var["feature_name"] = ["TP53", "INS", "GCG", "other"]
    changed.var_names = ["a", "b", "c", "d"]
    uri = experiment_of(changed, tmp_path / "soma")
    assert run(script, uri, tmp_path / "out", "--all_cells") == 0
    report = json.loads((tmp_path / "out" / "islets.report.json").read_text())
    assert report["files"][0]["genes_matched"] == 3
    assert report["files"][0]["gene_columns_used"][0] == "var['feature_id']"
    require_same_streams(read(tmp_path / "out"), scdmc.tokenize(changed))


def test_an_interrupted_run_is_resumed(script, adata, uri, tmp_path, capsys):
    assert run(script, uri, tmp_path / "whole", "--all_cells", "--cells_per_shard", 60) == 0
    # The last cell has a value that is no count, so that the run stops in the last shard.
    broken = adata.copy()
    broken.X.data[-1] = 0.5
    path = tmp_path / "soma" / "islets"
    path.parent.mkdir()
    experiment_of(broken, path)
    options = ["--all_cells", "--cells_per_shard", 60]
    assert run(script, str(path), tmp_path / "out", *options) == 2
    assert "for cell '299'" in capsys.readouterr().err
    (hidden,) = (tmp_path / "out").iterdir()
    assert sorted(file.name for file in hidden.glob("*.parquet")) == [f"{index:05d}.parquet" for index in range(4)]
    kept = (hidden / "00000.parquet").stat().st_mtime_ns
    path.rename(tmp_path / "soma" / "broken")
    experiment_of(adata, path)
    assert run(script, str(path), tmp_path / "out", *options, "--resume") == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert (tmp_path / "out" / "islets-00000.parquet").stat().st_mtime_ns == kept


def test_other_cells_are_not_resumed(script, uri, tmp_path, capsys):
    assert run(script, uri, tmp_path / "whole", "--max_cells", 50, "--seed", 2) == 0
    hidden = tmp_path / "out" / ".islets.shards"
    hidden.mkdir(parents=True)
    (hidden / "fingerprint.json").write_text("{}")
    (hidden / "00000.json").write_text("{}")
    assert run(script, uri, tmp_path / "out", "--max_cells", 50, "--seed", 2, "--resume") == 0
    assert "starting anew" in capsys.readouterr().err
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_existing_output_is_replaced_only_on_demand(script, uri, tmp_path, capsys):
    assert run(script, uri, tmp_path, "--max_cells", 50, "--cells_per_shard", 20) == 0
    before = files_of(tmp_path)
    assert run(script, uri, tmp_path, "--max_cells", 20) == 2
    assert "exists already" in capsys.readouterr().err
    assert files_of(tmp_path) == before
    assert run(script, uri, tmp_path, "--max_cells", 20, "--overwrite") == 0
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == ["islets.parquet"]
    assert len(read(tmp_path)) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--obs_value_filter", "cell_type = 'beta'"], "'beta'\" cannot be used .*write it like"),
        (["--obs_value_filter", "celltype == 'beta'"], "cannot be used .*celltype.*obs has soma_joinid, "),
        (["--obs_value_filter", "cell_type == "], "cannot be used"),
        (["--obs_value_filter", "n_counts == 'many'"], "cannot be used"),
        (["--obs_value_filter", "cell_type == 'neuron'"], "no cell fits is_primary_data == True and .cell_type =="),
        (["--obs_columns", "cell_type", "sex"], "obs has no column 'sex'"),
        (["--obs_columns", "cell_id"], "a column of its own of that name"),
        (["--measurement", "ATAC"], "there is no measurement 'ATAC'; there are RNA"),
        (["--layer", "counts"], "there is no layer 'counts'; there are raw"),
        (["--output_prefix", "a/b"], "--output_prefix 'a/b'"),
        (["--gene_id_column", "ids"], "var has no column 'ids'"),
    ],
)
def test_what_cannot_be_done_is_one_line(script, uri, tmp_path, capsys, options, message):
    assert run(script, uri, tmp_path / "out", *options) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert pd.Series([last]).str.contains(message).all(), last
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_an_experiment_that_does_not_say_which_cells_are_primary(script, adata, tmp_path, capsys):
    other = adata[:20].copy()
    del other.obs["is_primary_data"]
    uri = experiment_of(other, tmp_path / "soma")
    assert run(script, uri, tmp_path / "out") == 2
    assert "take them all with --all_cells" in capsys.readouterr().err
    assert run(script, uri, tmp_path / "out", "--all_cells") == 0


def test_normalised_values_are_refused(script, adata, tmp_path, capsys):
    other = adata[:20].copy()
    other.X = np.log1p(other.X)
    uri = experiment_of(other, tmp_path / "soma")
    assert run(script, uri, tmp_path / "out", "--all_cells") == 2
    assert "which is no count" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_a_place_without_an_experiment_is_an_error(tmp_path, make):
    make(tmp_path / "nothing")
    with pytest.raises(ScDMCError, match="nothing: no SOMA experiment"), open_experiment(str(tmp_path / "nothing")):
        pass


def test_a_part_of_an_experiment_is_none(uri):
    with pytest.raises(ScDMCError, match="obs: no SOMA experiment"), open_experiment(f"{uri}/obs"):
        pass


def test_missing_packages_are_named(uri, monkeypatch):
    monkeypatch.setitem(sys.modules, "cellxgene_census", None)
    with pytest.raises(ScDMCError, match="pip install tiledbsoma cellxgene-census"), open_census("2024-07-01", "x"):
        pass
    monkeypatch.setitem(sys.modules, "tiledbsoma", None)
    with pytest.raises(ScDMCError, match="pip install tiledbsoma cellxgene-census"), open_experiment(uri):
        pass


@pytest.mark.parametrize("version", ["stable", "latest", "2024"])
def test_a_version_that_changes_is_refused(version):
    with pytest.raises(ScDMCError, match="name a version by its date"), open_census(version, "homo_sapiens"):
        pass


def test_a_census_is_opened_by_its_version(script, adata, tmp_path, monkeypatch, capsys):
    """The bucket of the Census is replaced by a folder of the same structure; nothing else is."""
    cellxgene_census = pytest.importorskip("cellxgene_census", reason="cellxgene-census is not installed")
    base = str(tmp_path / "census")
    with tiledbsoma.Collection.create(base) as census:
        organisms = census.add_new_collection("census_data")
        experiment_of(adata, tmp_path / "census" / "census_data" / "homo_sapiens")
        organisms.set("homo_sapiens", tiledbsoma.Experiment.open(f"{base}/census_data/homo_sapiens"))
    open_soma = cellxgene_census.open_soma
    opened = []

    def open_local(census_version, **options):
        opened.append(census_version)
        return open_soma(uri=base, **options)

    monkeypatch.setattr(cellxgene_census, "open_soma", open_local)
    command = ["--census_version", "2024-07-01", "--output_directory", str(tmp_path / "out"), "--output_prefix", "a"]
    assert script.main([*command, "--organism", "mus_musculus"]) == 2
    assert "--organism mus_musculus: the Census has homo_sapiens" in capsys.readouterr().err
    assert script.main([*command, "--max_cells", "30"]) == 0
    cells = read_tokenized(tmp_path / "out" / "a.parquet")
    assert opened == ["2024-07-01"] * 2
    assert set(cells.obs["source_file"]) == {"census_2024-07-01_homo_sapiens"}
    require_same_streams(cells, scdmc.tokenize(adata[cells.obs["cell_id"].astype(int).to_numpy()]))


def test_counts_of_an_experiment_are_those_of_the_matrix(uri, adata):
    chosen = np.array([3, 4, 17, 250])
    with open_experiment(uri) as experiment:
        counts = census_counts(experiment, chosen, ["cell_type"], "islets")
        np.testing.assert_array_equal(counts.read_rows(1, 4).toarray(), adata.X[chosen[1:4]].toarray())
        assert counts.obs["cell_type"].tolist() == adata.obs["cell_type"].iloc[chosen].tolist()
        assert counts.var.index.tolist() == adata.var_names.tolist()


def test_the_papers_cells_are_drawn_by_the_census_command_and_not_replaced(load_script, uri, tmp_path):
    main = load_script("prepare/paper_data.py").main
    words = ["--dataset", "census_2m", "--output_dir", str(tmp_path / "out"), "--source_directory", uri]
    assert main(words) == 0
    before = (tmp_path / "out" / "census_2m.parquet").read_bytes()
    assert main(words) == 2
    assert (tmp_path / "out" / "census_2m.parquet").read_bytes() == before
    found = read_tokenized(tmp_path / "out" / "census_2m.parquet")
    assert found.obs["cell_id"].tolist() == [str(row) for row in range(300) if row % 5]  # the primary data
