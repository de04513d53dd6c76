"""Memory-mapped cells are the cells of the parquet."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from scdmc.errors import ScDMCError
from scdmc.tokens.cache import open_cells
from scdmc.tokens.parquet import read_tokenized


@pytest.fixture(scope="module")
def shards(load_script, islets_path, tmp_path_factory):
    """300 cells in three shards."""
    folder = tmp_path_factory.mktemp("shards")
    arguments = ["--input_directory", islets_path.parent, "--output_directory", folder, "--output_prefix", "islets"]
    arguments += ["--cells_per_shard", "120", "--block_size", "50", "--model_input_size", "256"]
    assert load_script("tokenizer/tokenizer_combine.py").main([str(argument) for argument in arguments]) == 0
    return folder


@pytest.mark.parametrize("context", [256, 64])
def test_every_array_and_name_is_that_of_the_parquet(shards, tmp_path, context):
    mapped = open_cells(shards, tmp_path, context)
    read = read_tokenized(shards, obs_columns=(), model_input_size=context)
    for name in ("rank_ids", "expression_ids", "expression_values", "rank_offsets", "expression_offsets", "rows"):
        np.testing.assert_array_equal(getattr(mapped, name), getattr(read, name), err_msg=name)
    assert mapped.obs["cell_id"].tolist() == read.obs["cell_id"].astype(str).tolist()
    assert mapped.obs["source_file"].tolist() == read.obs["source_file"].astype(str).tolist()
    assert mapped.settings == read.settings
    assert isinstance(mapped.rank_ids, np.memmap)


def test_cells_are_decoded_once_and_again_when_a_file_changes(shards, tmp_path):
    open_cells(shards, tmp_path, 64)
    (folder,) = tmp_path.iterdir()
    before = (folder / "rank_ids").stat().st_mtime_ns
    open_cells(shards, tmp_path, 64)
    assert (folder / "rank_ids").stat().st_mtime_ns == before
    first = sorted(shards.glob("*.parquet"))[0]
    first.touch()
    open_cells(shards, tmp_path, 64)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interrupted_decoding_leaves_nothing_that_could_be_taken_for_whole(shards, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("scdmc.tokens.cache.np.save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_cells(shards, tmp_path, 64)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_was_faster_on_a_shared_disk_is_no_error(shards, tmp_path, monkeypatch):
    def rename_after_another(folder, target):
        shutil.copytree(folder, target)  # the other's folder, in the last moment
        rename(folder, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", rename_after_another)
    assert len(open_cells(shards, tmp_path, 64)) == 300
    assert len(list(tmp_path.iterdir())) == 1


def test_no_data_is_an_error(tmp_path):
    with pytest.raises(ScDMCError, match="no such parquet file"):
        open_cells(tmp_path / "nothing.parquet", tmp_path, 64)
