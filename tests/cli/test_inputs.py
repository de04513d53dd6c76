"""What a path must be before anything heavy is imported: there, readable, and of the kind that its name says."""

import os
import re
import shlex
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from scdmc.cli.inputs import (
    require_counts,
    require_file,
    require_files,
    require_hdf5,
    require_input,
    require_model,
    require_tokenized,
)
from scdmc.errors import ScDMCError

FLAG = "--data_path"


@pytest.fixture
def files(tmp_path):
    """Some files of each kind, and some that only look like it."""
    (tmp_path / "cells.parquet").write_bytes(b"PAR1...")
    (tmp_path / "text.parquet").write_text("text")
    (tmp_path / "text.h5ad").write_text("text")
    (tmp_path / "empty.h5ad").write_bytes(b"")
    for name in ("cells.h5", "cells.loom"):
        h5py.File(tmp_path / name, "w").close()
    h5py.File(tmp_path / "block.h5ad", "w", userblock_size=1024).close()
    for name in ("folder", "parts", "broken_counts", "cells.zarr"):
        (tmp_path / name).mkdir()
    (tmp_path / "parts" / "a.parquet").write_bytes(b"PAR1...")
    (tmp_path / "parts" / ".hidden.parquet").write_text("text")
    (tmp_path / "broken_counts" / "b.loom").write_text("text")
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "cells.zarr" / ".zgroup").write_text("{}")
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        file["matrix/barcodes"] = np.arange(3)
    return tmp_path


def test_cells_of_the_right_kind_pass(files, islets_path):
    parquet = [files / name for name in ("cells.parquet", "parts", "c*.parquet")]
    for path in (islets_path, files / "block.h5ad", files / "cells.h5", files / "cells.zarr", *parquet):
        require_input(path, FLAG)
    require_counts(islets_path.parent, FLAG)
    require_counts(files / "cells.zarr", FLAG)


@pytest.mark.parametrize(
    ("check", "name", "message"),
    [
        (require_input, "absent.h5ad", "absent.h5ad: no such file or folder"),
        (require_input, "absent.parquet", "absent.parquet: no such parquet file, and no .parquet files there"),
        (require_input, "a*.parquet", "a*.parquet: no such parquet file, and no .parquet files there"),
        (require_input, "folder", "folder: no such parquet file, and no .parquet files there"),
        (require_input, "text.h5ad", "text.h5ad is not a readable .h5ad file (it is no HDF5)"),
        (require_input, "empty.h5ad", "empty.h5ad is not a readable .h5ad file (it is no HDF5)"),
        (require_input, "text.parquet", "text.parquet is not a readable parquet file (it does not begin with PAR1)"),
        (require_input, "notes.txt", "notes.txt is no file of counts that can be read, but text; a table of counts "
         "becomes an .h5ad with anndata.io.read_csv(FILE).write_h5ad('cells.h5ad')"),
        (require_input, "broken_counts", "broken_counts is a folder without parquet, but with counts (b.loom): "
         "name one of them, or tokenize all of them: tokenizer_combine.py --data_path FOLDER/broken_counts "
         "--output_dir tokenized --output_prefix broken_counts (with --obs_columns for labels and batches), and name "
         "tokenized"),
        (require_tokenized, "cells.zarr", "cells.zarr is not tokenized yet: run tokenizer_combine.py --data_path "
         "FOLDER/cells.zarr --output_dir tokenized --output_prefix cells (with --obs_columns for labels and batches), "
         "and name tokenized"),
        (require_tokenized, "block.h5ad", "block.h5ad is not tokenized yet: run tokenizer_combine.py --data_path "
         "FOLDER --output_dir tokenized --output_prefix block (with --obs_columns for labels and batches), and name "
         "tokenized"),
        (require_counts, "absent", "absent: no such folder"),
        (require_counts, "cells.h5", "cells.h5 is a file; give the folder that it lies in"),
        (require_counts, "broken_counts", "broken_counts/b.loom is not a readable .loom file (it is no HDF5); "
         "mend it, or move it out of the folder"),
        (require_file, "folder", "folder is a folder; name a file"),
        (require_hdf5, "text.parquet", "text.parquet is not a readable .parquet file (it is no HDF5)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_flag_and_path(files, check, name, message):
    message = str(files / message).replace("FOLDER", str(files))
    with pytest.raises(ScDMCError, match=f"^{FLAG} {re.escape(message)}$"):
        check(files / name, FLAG)


def test_the_command_that_a_message_names_does_what_is_lacking(tmp_path, islets_path, load_script, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two words" / "outs").mkdir(parents=True)
    shutil.copy(islets_path, tmp_path / "two words" / "outs" / "cells.h5ad")
    for path, check in (("two words", require_input), ("two words/outs/cells.h5ad", require_tokenized)):
        with pytest.raises(ScDMCError) as refusal:
            check(Path(path), FLAG)
        _, *command = shlex.split(re.search(r"tokenizer_combine\.py .*(?= \(with)", str(refusal.value))[0])
        assert load_script("tokenizer/tokenizer_combine.py").main([*command, "--obs_columns", "cell_type"]) == 0
        require_tokenized(Path("tokenized"), FLAG)
        shutil.rmtree("tokenized")


def test_a_file_that_may_not_be_read_is_named(files):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (files / "cells.parquet").chmod(0)
    with pytest.raises(ScDMCError, match=r"cells\.parquet cannot be read \(Permission denied\)"):
        require_input(files / "cells.parquet", FLAG)


def test_flags_that_were_not_given_are_not_looked_at(files):
    require_files(split_file=None, gene_median_file=files / "cells.parquet")
    with pytest.raises(ScDMCError, match=r"^--split_file .*absent: no such file"):
        require_files(gene_median_file=None, split_file=files / "absent")


def test_a_model_is_a_folder_with_a_configuration_or_a_name(files):
    require_model("scDMC-small")
    with pytest.raises(ScDMCError, match=r"^tyni: no such model folder; by name there are scDMC-small, scDMC-tissues$"):
        require_model("tyni")
    with pytest.raises(ScDMCError, match=r"folder.*is .* a model folder\?"):
        require_model(files / "folder")
