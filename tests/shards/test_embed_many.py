"""Embedding shard by shard gives what embedding a file at once gives, whoever does it, and a run that broke goes on."""

import json
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import scdmc
from scdmc import result_folders
from scdmc.cells.data import read_cells
from scdmc.errors import ScDMCError
from scdmc.model.embeddings import cell_embeddings
from scdmc.reading.options import CountOptions
from scdmc.reports.provenance import Provenance
from scdmc.shards import results as sharded_results
from scdmc.shards import run as sharded_run
from scdmc.shards.job import EmbeddingJob
from scdmc.shards.run import embed_shards
from scdmc.tokens.shard_sets import finished_shards
from scdmc.tokens.tokenize_folder import Shard

FILTERED = [0, 3, *range(20, 30)]  # of the first file, a whole shard among them


@pytest.fixture(scope="module")
def folder(tmp_path_factory, islets_path):
    """48 cells in two files; some do not pass the filter."""
    adata = anndata.read_h5ad(islets_path)[::6][:48].copy()
    adata.obs["filter_pass"] = 1
    adata.obs.iloc[FILTERED, adata.obs.columns.get_loc("filter_pass")] = 0
    folder = tmp_path_factory.mktemp("in")
    adata[:30].write_h5ad(folder / "a.h5ad")
    adata[30:].write_h5ad(folder / "b.h5ad")
    return folder


@pytest.fixture
def make_job(folder, model_path, tmp_path):
    """A function that makes a job of five shards."""

    def make(name="out", **changes):
        kept = {"data_path": folder, "model": model_path, "cells_per_shard": 10, "placement": {"num_gpus": 0}}
        return EmbeddingJob(output_dir=tmp_path / name, **{**kept, **changes})

    return make


@pytest.fixture
def embed_many(load_script):
    return load_script("downstream_tasks/embed_many.py").main


def run(job, **options):
    return embed_shards(job, Provenance((job.data_path,), "tiny"), **options)


def shards_of(job):
    return {path.name: path.read_bytes() for path in sorted(job.output_dir.glob("*.parquet"))}


def test_every_cell_has_the_embedding_that_its_file_gives(make_job, folder, model_directory, encoder, tmp_path, caplog):
    with caplog.at_level("INFO"):
        index = run(make_job())
    assert "a.h5ad: 30 cells in, 18 out (12 dropped by filter_pass" in caplog.text
    assert [shard["n_cells"] for shard in index["shards"]] == [8, 10, 0, 10, 8]
    assert json.loads((tmp_path / "out" / "index.json").read_text()) == index
    found = scdmc.read_embeddings(tmp_path / "out")
    files = {name: read_cells(folder / name, model_directory) for name in ("a.h5ad", "b.h5ad")}
    expected = np.concatenate([cell_embeddings(encoder, cells, show_progress=False) for cells in files.values()])
    np.testing.assert_allclose(found.obsm["X_scDMC"], expected, atol=1e-5)
    ids = [anndata.read_h5ad(folder / name).obs_names for name in files]
    rows = np.concatenate([np.setdiff1d(np.arange(30), FILTERED), np.arange(18)])
    assert found.obs["row"].tolist() == rows.tolist()
    assert found.obs["source_file"].tolist() == ["a.h5ad"] * 18 + ["b.h5ad"] * 18
    names = [ids[0 if file == "a.h5ad" else 1][row] for file, row in found.obs[["source_file", "row"]].to_numpy()]
    assert found.obs_names.tolist() == names
    assert "36 cells have an embedding of 32 numbers" in (tmp_path / "out" / "report.html").read_text()
    assert not make_job().finished_shards.exists()


@pytest.mark.slow
def test_processes_and_threads_write_the_same_bytes(make_job):
    one, two, ranks = make_job("one"), make_job("two"), make_job("ranks")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    run(one)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    run(two, num_workers=2)
    # What two processes of torchrun do, one after the other.
    assert run(ranks, rank=1, world_size=2) is None
    assert not ranks.output_dir.exists()
    run(ranks, rank=0, world_size=2)
    assert len(shards_of(one)) == 5
    assert shards_of(one) == shards_of(two) == shards_of(ranks)


def test_the_first_process_puts_shards_away_only_when_all_have_seen_them(make_job, writes):
    job = make_job()
    with pytest.raises(ScDMCError, match="no power"):
        run(job, barrier=lambda: stop("no power"))
    assert writes.number == 5
    seen = []
    run(job, world_size=2, barrier=lambda: seen.append((job.output_dir.exists(), job.finished_shards.exists())))
    assert seen == [(False, True)]
    # The other process, had it come too late, would have computed its shards again.
    assert writes.number == 5


def stop(reason):
    raise ScDMCError(reason)


def test_a_late_process_waits_although_its_shards_are_there(make_job, writes):
    job, waited = make_job(), []
    with pytest.raises(ScDMCError, match="no power"):
        run(job, barrier=lambda: stop("no power"))
    assert run(job, rank=1, world_size=2, barrier=lambda: waited.append(True)) is None
    assert waited == [True]
    assert run(make_job(cells_per_shard=100), rank=2, world_size=3, barrier=lambda: waited.append(True)) is None
    assert waited == [True, True]
    assert writes.number == 5


@pytest.mark.parametrize(("n_shards", "n_workers"), [(0, 3), (1, 4), (5, 1), (40, 4), (7, 2)])
def test_the_last_tasks_are_short_and_there_are_few(n_shards, n_workers):
    shards = [Shard(Path("a"), number, number + 1, str(number)) for number in range(n_shards)]
    parts = [task.arguments[1] for task in sharded_run.tasks_of(None, shards, n_workers)]
    assert [shard for part in parts for shard in part] == shards
    sizes = [len(part) for part in parts]
    if n_workers == 1:
        assert sizes == [n_shards]
        return
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-n_workers:] == [1] * min(n_workers, n_shards)
    assert len(sizes) <= 5 * n_workers


def test_workers_of_a_cluster_write_the_same_bytes(make_job):
    distributed = pytest.importorskip("distributed")
    one, spread = make_job("one"), make_job("spread")
    run(one)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", silence_logs=50
    ) as cluster:
        run(spread, scheduler_address=cluster.scheduler_address)
    assert len(shards_of(one)) == 5
    assert shards_of(one) == shards_of(spread)


@pytest.fixture
def writes(monkeypatch):
    """How often a shard was written; from the call on that it is told to break at, writing fails."""
    calls, write = Writes(), sharded_run.write_shard

    def count(*arguments):
        calls.number += 1
        if calls.number == calls.breaks_at:
            raise ScDMCError("the disk is full")
        write(*arguments)

    monkeypatch.setattr(sharded_run, "write_shard", count)
    return calls


@dataclass
class Writes:
    number: int = 0
    breaks_at: int | None = None


@pytest.mark.parametrize(("changes", "n_left"), [({}, 3), ({"embedding": {"stream": "rank"}}, 5)])
def test_a_run_that_broke_goes_on_and_other_settings_start_over(make_job, writes, changes, n_left):
    writes.breaks_at = 3
    with pytest.raises(ScDMCError, match="the disk is full"):
        run(make_job())
    assert not make_job().output_dir.exists()
    writes.number, writes.breaks_at = 0, None
    run(make_job(**changes))
    assert writes.number == n_left
    whole = make_job("whole", **changes)
    run(whole)
    assert len(shards_of(whole)) == 5
    assert shards_of(whole) == shards_of(make_job())


def test_labels_are_those_of_annotate(embed_many, scripts, folder, classifier_path, tmp_path):
    command = ["--model", classifier_path, "--num_gpus", 0, "--data_path"]
    many = ["--output_dir", tmp_path / "many", "--labels", "--min_probability", 0.5, "--cells_per_shard", 7]
    assert embed_many([*map(str, [*command, folder / "b.h5ad", *many])]) == 0
    one = ["--output_file", tmp_path / "one.csv", "--min_probability", 0.5, "--min_known_genes", 0]
    assert scripts["annotate"]([*map(str, [*command, folder / "b.h5ad", *one])]) == 0
    expected = pd.read_csv(tmp_path / "one.csv", index_col="cell_id")
    found = scdmc.read_embeddings(tmp_path / "many").obs
    assert found["scDMC_cell_type"].tolist() == expected["scDMC_cell_type"].tolist()
    np.testing.assert_allclose(found["scDMC_probability"], expected["scDMC_probability"], atol=1e-5)


def test_tokenized_cells_have_the_embeddings_of_their_counts(make_job, folder, model_path, load_script, tmp_path):
    tokenize = ["--input_directory", folder, "--output_directory", tmp_path / "tokens", "--output_prefix", "cells"]
    more = ["--gene_median_file", model_path / "gene_medians.json", "--model_input_size", 128]
    assert load_script("tokenizer/tokenizer_combine.py").main([*map(str, [*tokenize, *more])]) == 0
    run(make_job("counts"))
    run(make_job("tokens_out", data_path=tmp_path / "tokens", cells_per_shard=7))
    counts, tokens = (scdmc.read_embeddings(tmp_path / name) for name in ("counts", "tokens_out"))
    assert tokens.obs_names.tolist() == counts.obs_names.tolist()
    np.testing.assert_allclose(tokens.obsm["X_scDMC"], counts.obsm["X_scDMC"], atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        (["--min_probability", "0.5"], {}, "--min_probability has no effect without --labels"),
        (["--labels", "--stream", "rank"], {}, "--stream has no effect with --labels"),
        (["--labels"], {}, "is no classifier; fine-tune it first"),
        (["--encoder_layer", "7"], {}, "layer 7"),
        (["--layer", "spliced"], {}, "there is no layer 'spliced'"),
        (["--num_workers", "2"], {"RANK": "0", "WORLD_SIZE": "2"}, "torchrun"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    embed_many, folder, model_path, tmp_path, flags, environment, message, capsys, monkeypatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command = ["--model", model_path, "--data_path", folder, "--output_dir", tmp_path / "out", "--num_gpus", 0]
    assert embed_many([*map(str, command), *flags]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert message in line
    assert not [path for path in tmp_path.iterdir() if path.name != "out.lock"]


def test_a_folder_without_an_index_and_a_damaged_one_are_refused(make_job, tmp_path):
    with pytest.raises(ScDMCError, match=r"no index\.json of embeddings here"):
        scdmc.read_embeddings(tmp_path)
    run(make_job())
    (tmp_path / "out" / "embeddings-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ScDMCError, match="has 4 bytes, not the"):
        scdmc.read_embeddings(tmp_path / "out")


def test_what_fails_after_the_last_shard_loses_none_of_them(make_job, writes, monkeypatch):
    def full(*_):
        raise OSError("the disk is full")

    for owner, name in ((sharded_results, "write_embedding_page"), (result_folders, "_publish")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(OSError, match="the disk is full"):
                run(make_job())
        assert not make_job().output_dir.exists()
    assert writes.number == 5
    run(make_job())
    assert writes.number == 5
    assert not make_job().finished_shards.exists()


def test_a_disk_where_a_file_has_one_name_only_gets_the_same_shards(make_job, monkeypatch):
    def refuse(*_):
        raise OSError("Invalid cross-device link")

    run(make_job("linked"))
    monkeypatch.setattr(sharded_results.os, "link", refuse)
    run(make_job("moved"))
    assert len(shards_of(make_job("linked"))) == 5
    assert shards_of(make_job("linked")) == shards_of(make_job("moved"))


def test_a_mapping_of_genes_that_changes_under_its_name_starts_over(make_job, writes, tmp_path):
    mapping = tmp_path / "mapping.json"
    job = make_job(count_options=CountOptions(gene_mapping_file=mapping))
    mapping.write_text('{"ENSG00000254647": "ENSG00000115263"}')
    writes.breaks_at = 3
    with pytest.raises(ScDMCError, match="the disk is full"):
        run(job)
    mapping.write_text('{"ENSG00000254647": "ENSG00000254647"}')
    writes.number, writes.breaks_at = 0, None
    run(job)
    assert writes.number == 5


def test_a_file_is_opened_once_for_all_its_shards(make_job, monkeypatch):
    opened, open_counts = [], sharded_run.open_counts
    monkeypatch.setattr(sharded_run, "open_counts", lambda path, **how: opened.append(path) or open_counts(path, **how))
    run(make_job())
    assert [path.name for path in opened] == ["a.h5ad", "b.h5ad"]


def test_shards_of_the_tokenizer_that_wait_under_the_same_name_stay(make_job, tmp_path):
    waiting = finished_shards(tmp_path, "out")
    waiting.mkdir()
    run(make_job())
    assert waiting.exists()


def test_a_process_without_a_shard_leaves_nothing(make_job, tmp_path):
    job = make_job(cells_per_shard=100)
    assert run(job, rank=2, world_size=3) is None  # two files are two shards
    assert list(tmp_path.iterdir()) == []
