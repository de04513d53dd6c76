"""split_cells.py over files and folders, and splits that fine-tuning refuses."""

import numpy as np
import pandas as pd
import pytest

from scdmc.cells.splits import make_split
from scdmc.labels import labels_of
from tests.task_scripts import run


@pytest.fixture
def two_files(tmp_path, adata):
    """A folder of two files; cells of the second have the names of the first's, and no batch."""
    folder = tmp_path / "counts"
    folder.mkdir()
    adata[:180].write_h5ad(folder / "a.h5ad")
    second = adata[180:].copy()
    second.obs_names = adata.obs_names[: second.n_obs]
    del second.obs["batch"]
    second.write_h5ad(folder / "b.h5ad")
    return folder


def test_one_split_covers_all_files_of_a_folder(scripts, capsys, tmp_path, two_files, adata):
    status, _ = run(scripts, capsys, "split_cells", None, two_files, tmp_path / "split.csv")
    assert status == 0
    table = pd.read_csv(tmp_path / "split.csv")
    assert table["source_file"].tolist() == ["a.h5ad"] * 180 + ["b.h5ad"] * 120
    assert table["label"].tolist() == adata.obs["cell_type"].tolist()
    expected = make_split(labels_of(adata.obs["cell_type"]))
    assert table["split"].tolist() == expected.tolist()


def test_a_split_needs_no_matrix(scripts, capsys, tmp_path, two_files):
    import h5py

    with h5py.File(two_files / "a.h5ad", "a") as file:
        del file["X"]
    assert run(scripts, capsys, "split_cells", None, two_files, tmp_path / "split.csv")[0] == 0


def test_a_file_without_the_group_column_is_no_group_of_its_own(scripts, capsys, tmp_path, two_files):
    status, error = run(scripts, capsys, "split_cells", None, two_files, tmp_path / "split.csv", "--split_by", "batch")
    assert status == 2
    assert "have no group" in error[0]


def test_a_path_that_is_no_h5ad_is_refused_by_split_cells(scripts, capsys, tmp_path):
    status, error = run(scripts, capsys, "split_cells", None, tmp_path / "absent", tmp_path / "split.csv")
    assert (status, "no such file or folder" in error[0]) == (2, True)
    (tmp_path / "text.h5ad").write_text("no HDF5")
    status, error = run(scripts, capsys, "split_cells", None, tmp_path / "text.h5ad", tmp_path / "split.csv")
    assert (status, "not a readable .h5ad" in error[0]) == (2, True)


def test_a_split_of_another_column_is_refused_before_training(scripts, capsys, tmp_path, adata, model_path):
    other = adata.copy()
    other.obs["other"] = np.where(adata.obs["cell_type"] == "beta", "islet", None)
    other.write_h5ad(tmp_path / "cells.h5ad")
    run(scripts, capsys, "split_cells", None, tmp_path / "cells.h5ad", tmp_path / "split.csv")
    status, error = run(scripts, capsys, "downstream_tasks", model_path, tmp_path / "cells.h5ad", tmp_path / "out",
                        "--split_file", tmp_path / "split.csv", "--label_key", "other")  # fmt: skip
    assert status == 2
    assert "other labels" in error[0]
    assert not (tmp_path / "out").exists()


def test_cells_named_alike_are_refused_before_training(scripts, capsys, tmp_path, adata, model_path):
    alike = adata.copy()
    alike.obs_names = ["same", "same", *adata.obs_names[2:]]
    alike.write_h5ad(tmp_path / "alike.h5ad")
    status, error = run(scripts, capsys, "downstream_tasks", model_path, tmp_path / "alike.h5ad", tmp_path / "out")
    assert status == 2
    assert "repeated" in error[0]
