"""Shards that are published: all of one run or refused, whenever a run is killed, and taken up by --resume."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pyarrow.parquet as pq
import pytest

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, sha256_of_file
from scdmc.genes.vocabulary import Vocabulary, load_vocabulary
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.parquet import read_tokenized
from scdmc.tokens.tokenize_folder import FolderJob, tokenize_folder
from scdmc.tokens.tokenizer import Tokenizer
from tests.killing import Countdown, Killed
from tests.tokens.outputs import fingerprints, visible

N_CELLS = 44


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, islets_path):
    """Two folders of the same cell ids and genes; the counts of the second are doubled."""
    folders = []
    for name, factor in (("one", 1), ("two", 2)):
        folders.append(tmp_path_factory.mktemp(name))
        adata = anndata.read_h5ad(islets_path)[:N_CELLS, ::6].copy()
        adata.X = adata.X * np.float32(factor)
        adata.obs["n_counts"] *= factor
        adata.write_h5ad(folders[-1] / "cells.h5ad")
    return folders


@pytest.fixture(scope="module")
def tokenizer():
    tokens = load_vocabulary().tokens[:3_000].tolist()
    vocabulary = Vocabulary({token: number for number, token in enumerate(tokens)}, "a test")
    return Tokenizer(vocabulary, load_gene_medians(None), model_input_size=64)


@pytest.fixture
def tokenize(tokenizer, tmp_path, monkeypatch):
    def write_html_report(path, *_):  # drawing the page takes longer than all the rest, and is not what is tested
        with atomic_path(path) as temporary:
            temporary.write_text("a page")

    monkeypatch.setattr("scdmc.tokens.report.write_html_report", write_html_report)

    def tokenize(folder, output="out", cells_per_shard=11, **how):
        job = FolderJob(input_directory=folder, output_directory=tmp_path / output, output_prefix="p",
                        tokenizer=tokenizer, cells_per_shard=cells_per_shard)  # fmt: skip
        return tokenize_folder(job, **how)

    return tokenize


def killed(monkeypatch, kill_at, work):
    """Do the work, and die in its publication before the rename, unlink or rmdir of that number.

    Returns
    -------
    How many there are; None if that was the end.
    """
    events = Countdown(kill_at)
    with monkeypatch.context() as patch:
        publish = FolderJob.publish

        def counted_publish(*arguments, **named):
            for name in ("rename", "replace", "unlink", "rmdir"):
                patch.setattr(Path, name, events.counted(getattr(Path, name)))
            patch.setattr(shutil, "rmtree", events.counted(shutil.rmtree))
            return publish(*arguments, **named)

        patch.setattr(FolderJob, "publish", counted_publish)
        try:
            work()
        except Killed:
            return None
    return events.n_events


def clean(folder):
    """What a run left, but for the hidden folder of one that was killed when all had been done."""
    return {name: sha256_of_file(folder / name) for name in visible(folder)}


def test_every_shard_says_its_number_and_its_run(tokenize, inputs, tmp_path):
    paths = tokenize(inputs[0])
    said = [json.loads(pq.read_schema(path).metadata[b"scdmc"]) for path in paths]
    assert [(each["shard"], each["shards"]) for each in said] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert len({each["run"] for each in said}) == 1
    tokenize(inputs[0], "other", cells_per_shard=12)
    other = json.loads(pq.read_schema(tmp_path / "other" / "p-00000.parquet").metadata[b"scdmc"])
    assert other["run"] != said[0]["run"]


def test_a_copy_of_the_input_gives_the_same_bytes(tokenize, inputs, tmp_path):
    shutil.copytree(inputs[0], tmp_path / "copy", copy_function=shutil.copyfile)
    tokenize(inputs[0], "one")
    tokenize(tmp_path / "copy", "two")
    assert fingerprints(tmp_path / "one") == fingerprints(tmp_path / "two")


def test_an_incomplete_set_is_refused_by_name_and_a_chosen_part_is_read(tokenize, inputs, tmp_path, caplog):
    paths = tokenize(inputs[0])
    assert len(read_tokenized(paths[1])) == 11
    assert "1 of 4 shards, as chosen" in caplog.text
    paths[2].unlink()
    with pytest.raises(ScDMCError, match=r"out/p: 3 of 4 shards, number 00002 is not there.*--resume"):
        read_tokenized(tmp_path / "out")


def test_a_mixed_set_is_refused_by_name(tokenize, inputs, tmp_path):
    tokenize(inputs[0], "one")
    tokenize(inputs[1], "two")
    shutil.copyfile(tmp_path / "two" / "p-00001.parquet", tmp_path / "one" / "p-00001.parquet")
    with pytest.raises(ScDMCError, match=r"one/p: its 4 shards are of 2 runs"):
        read_tokenized(tmp_path / "one")


def test_data_of_earlier_versions_are_read(tokenize, inputs, tmp_path):
    for path in tokenize(inputs[0])[:3]:
        table = pq.read_table(path)
        content = json.loads(table.schema.metadata[b"scdmc"])
        older = {name: value for name, value in content.items() if name not in ("shard", "shards", "run")}
        pq.write_table(table.replace_schema_metadata({b"scdmc": json.dumps(older)}), path)
    (tmp_path / "out" / "p-00003.parquet").unlink()
    assert len(read_tokenized(tmp_path / "out")) == 33


@pytest.mark.parametrize("older", [None, 7])
def test_a_kill_at_any_event_leaves_whole_data_or_a_refusal_and_resume_ends_with_the_same_bytes(
    tokenize, inputs, tmp_path, monkeypatch, older
):
    tokenize(inputs[0], "whole", cells_per_shard=22)
    expected = clean(tmp_path / "whole")
    if older:
        tokenize(inputs[1], "older", cells_per_shard=older)
    seen, total, kill_at = set(), None, 0
    while total is None:
        output = f"killed_{kill_at}"
        if older:
            shutil.copytree(tmp_path / "older", tmp_path / output)
        total = killed(monkeypatch, kill_at, lambda output=output: tokenize(
            inputs[0], output, cells_per_shard=22, overwrite=bool(older)))  # fmt: skip
        seen.add(what_is_read(tmp_path / output))
        if total is None:
            half = (tmp_path / output / ".p.shards" / "publishing.json").exists()
            is_over_older = bool(older) and not half
            if visible(tmp_path / output) == [] or half or is_over_older:
                tokenize(inputs[0], output, cells_per_shard=22, resume=True, overwrite=is_over_older)
        assert clean(tmp_path / output) == expected
        kill_at += 2
    assert kill_at >= 24
    assert seen == {"nothing" if older is None else "older", "refused", "whole"}


def what_is_read(folder):
    if not list(folder.glob("*.parquet")):
        return "nothing"
    try:
        cells = read_tokenized(folder)
    except ScDMCError as error:
        return "refused" if "--resume" in str(error) else str(error)
    assert len(cells) == N_CELLS
    return "older" if (folder / "p-00006.parquet").exists() else "whole"


def test_what_another_run_was_publishing_is_not_replaced_unasked(tokenize, inputs, tmp_path, monkeypatch):
    kill_at = 12
    while len(visible(tmp_path / "out")) < 2:  # from where the first files have their names
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        killed(monkeypatch, kill_at, lambda: tokenize(inputs[0]))
        kill_at += 1
    with pytest.raises(ScDMCError, match=r"exists already.*--overwrite"):
        tokenize(inputs[1], resume=True)
    with pytest.raises(ScDMCError, match="do not belong together"):
        read_tokenized(tmp_path / "out")
    tokenize(inputs[1], overwrite=True)
    tokenize(inputs[1], "straight")
    assert fingerprints(tmp_path / "out") == fingerprints(tmp_path / "straight")
