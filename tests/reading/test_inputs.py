"""Every entry of a folder is taken once or passed over for a reason that is said; files are known by their content."""

import gzip
import json
import os
import re
import shutil

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import load_vocabulary
from scdmc.reading.counts import open_counts
from scdmc.reading.inputs import input_files, survey_folder
from scdmc.reading.options import is_counts, is_h5ad
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.tokenizer import Tokenizer
from tests.reading.test_count_files import write_10x, write_loom, write_mtx, write_zarr
from tests.reading.test_features_and_totals import as_h5ad, data, expected_values, require_values, values_of


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(load_vocabulary(), load_gene_medians(None))


def packed(path):
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def write_triple(folder, prefix):
    whole = write_mtx(data(), folder / "whole")
    for path in whole.iterdir():
        shutil.move(path, folder / f"{prefix}{path.name}")
    whole.rmdir()


@pytest.fixture
def folder(tmp_path):
    """A folder as downloads leave it."""
    folder = tmp_path / "in"
    (folder / "donor4").mkdir(parents=True)
    for name in ("one.h5ad", "TWO.H5AD", "no_suffix", "wrong.txt", "donor4/four.h5ad", "three.h5ad"):
        as_h5ad(data(), folder / name)
    packed(folder / "three.h5ad")
    write_triple(folder, "GSM100_S5_")
    write_triple(folder, "GSM101.")
    (folder / "GSM102_matrix.mtx.gz").write_bytes(b"")
    with h5py.File(folder / "six.h5mu", "w") as file:
        file.create_group("mod/prot")
        file.create_group("mod/rna")
        file.create_group("obs")
        file.create_group("var")
    with h5py.File(folder / "seven.h5seurat", "w") as file:
        file.create_group("assays")
        file["cell.names"] = np.array([b"a"])
    with h5py.File(folder / "molecule_info.h5", "w") as file:
        for name in ("barcode_idx", "barcodes", "count", "gem_group"):
            file[name] = np.arange(3)
    with h5py.File(folder / "weights.h5", "w") as file:
        file["layer"] = np.arange(3)
    (folder / "._one.h5ad").write_bytes(b"\0\x05\x16\x07")
    (folder / ".hidden.h5ad").write_bytes(b"")
    (folder / "object.rds").write_bytes(gzip.compress(b"X\n\0\0\0\3"))
    (folder / "store.zarr.zip").write_bytes(b"PK\x03\x04")
    (folder / "counts.csv").write_text("a,b\n")
    (folder / "README.md").write_text("")
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe")
    return folder


TAKEN = ["GSM100_S5_matrix.mtx.gz", "GSM101.matrix.mtx.gz", "TWO.H5AD", "no_suffix", "one.h5ad", "wrong.txt"]
REASONS = {
    ".hidden.h5ad": "hidden", "._one.h5ad": "Mac", "GSM102_matrix.mtx.gz": "there is no GSM102_barcodes.tsv.gz",
    "README.md": "no file of counts", "counts.csv": "read_csv", "donor4": "1 input (four.h5ad)",
    "empty": "without inputs", "molecule_info.h5": "molecules", "object.rds": "zellkonverter",
    "seven.h5seurat": "SeuratDisk", "six.h5mu": "mudata.read_h5mu('six.h5mu')['rna']",
    "store.zarr.zip": "unzip store.zarr.zip", "three.h5ad.gz": "gunzip --keep three.h5ad.gz",
    "weights.h5": "no 10x .h5",
    "pipe": "no regular file",
}  # fmt: skip


def test_each_entry_of_a_folder_is_taken_or_passed_over_for_a_reason(folder, tokenizer, caplog):
    caplog.set_level("INFO")
    entries = {entry.path.name: entry for entry in survey_folder(folder)}
    assert set(entries) == {path.name for path in folder.iterdir()}
    assert [path.name for path in input_files(folder)] == TAKEN
    assert {name for name, entry in entries.items() if entry.status == "skipped"} == set(REASONS)
    for name, reason in REASONS.items():
        assert reason in entries[name].why
        assert f"{folder / name} is passed over: {entries[name].why}" in caplog.text
    for path in input_files(folder):
        with open_counts(path) as counts:
            assert counts.name == path.name
            require_values(values_of(counts, tokenizer), expected_values())


def test_the_report_of_a_run_names_each_entry(folder, load_script, tmp_path):
    main = load_script("tokenizer/tokenizer_combine.py").main
    out = tmp_path / "out"
    assert main(["--input_directory", str(folder), "--output_directory", str(out), "--output_prefix", "a"]) == 0
    report = json.loads((out / "a.report.json").read_text())
    assert {entry["name"] for entry in report["folder"]} == {path.name for path in folder.iterdir()}
    assert [entry["name"] for entry in report["folder"] if entry["status"] == "taken"] == TAKEN
    assert any("three.h5ad.gz is passed over" in warning for warning in report["warnings"])
    page = (out / "a.report.html").read_text()
    assert "three.h5ad.gz" in page
    assert re.search(r"<td[^>]*>molecule_info\.h5</td>", page.replace("<wbr>", ""))  # where a long name may break
    sources = [pq.read_table(path)["source_file"].to_pylist() for path in sorted(out.glob("*.parquet"))]
    assert [name for of_shard in sources for name in of_shard] == [name for name in TAKEN for _ in range(7)]


def test_medians_and_splits_take_the_same_files(folder, load_script, tmp_path):
    main = load_script("tokenizer/gene_medians.py").main
    assert main(["--input_directory", str(folder), "--output_file", str(tmp_path / "m.json")]) == 0
    provenance = json.loads((tmp_path / "m.provenance.json").read_text())
    assert (provenance["files"], provenance["cells"]) == (TAKEN, 7 * len(TAKEN))


OUTS = {
    "all": (["filtered_feature_bc_matrix", "filtered_feature_bc_matrix.h5", "molecule_info.h5", "raw_feature_bc_matrix",
             "raw_feature_bc_matrix.h5"], ["filtered_feature_bc_matrix.h5"]),
    "folders": (["filtered_feature_bc_matrix", "raw_feature_bc_matrix"], ["filtered_feature_bc_matrix"]),
    "raw folder beside filtered file": (["filtered_feature_bc_matrix.h5", "raw_feature_bc_matrix"],
                                        ["filtered_feature_bc_matrix.h5"]),
    "raw only": (["raw_feature_bc_matrix", "raw_feature_bc_matrix.h5"], ["raw_feature_bc_matrix.h5"]),
    "two samples": (["a_filtered_feature_bc_matrix.h5", "a_raw_feature_bc_matrix.h5", "b_raw_feature_bc_matrix.h5"],
                    ["a_filtered_feature_bc_matrix.h5", "b_raw_feature_bc_matrix.h5"]),
    "Cell Ranger 2": (["filtered_gene_bc_matrices_h5.h5", "raw_gene_bc_matrices_h5.h5"],
                      ["filtered_gene_bc_matrices_h5.h5"]),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTS)
def test_the_cells_of_a_run_of_cell_ranger_are_taken_once(case, tmp_path):
    names, taken = OUTS[case]
    for name in names:
        if name == "molecule_info.h5":
            with h5py.File(tmp_path / name, "w") as file:
                file["barcode_idx"] = np.arange(3)
        elif name.endswith(".h5"):
            write_10x(data(), tmp_path / name)
        else:
            write_mtx(data(), tmp_path / name)
    assert [path.name for path in input_files(tmp_path)] == taken
    assert {entry.path.name for entry in survey_folder(tmp_path)} == set(names)


WRITERS = {
    "a.H5AD": as_h5ad, "a.h5": as_h5ad, "a.LOOM": write_loom, "loom.h5ad": write_loom, "ten.h5ad": write_10x,
    "a.data": write_10x, "nothing": as_h5ad, "store": write_zarr, "a.zarr": write_zarr, "folder": write_mtx,
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_known_by_its_content(name, tmp_path, tokenizer):
    path = WRITERS[name](data(), tmp_path / name)
    assert is_counts(path)
    assert is_h5ad(path) == (WRITERS[name] is as_h5ad)
    with open_counts(path) as counts:
        require_values(values_of(counts, tokenizer), expected_values())


@pytest.mark.parametrize("name", [name for name in REASONS if name not in ("donor4", "empty", "._one.h5ad",
                                                                         ".hidden.h5ad")])  # fmt: skip
def test_what_cannot_be_read_says_what_it_is_and_what_to_do(name, folder):
    with pytest.raises(ScDMCError) as error, open_counts(folder / name):
        pass
    assert REASONS[name] in str(error.value)
    assert "\n" not in str(error.value)


def test_counts_where_tokenized_cells_are_wanted_say_so(folder, load_script, tmp_path, capsys):
    main = load_script("pretrain/scDMC_pretrain.py").main
    assert main(["--dataset_path", str(folder / "one.h5ad"), "--output_dir", str(tmp_path / "out")]) == 2
    assert "tokenizer_combine.py" in capsys.readouterr().err


def test_a_file_in_place_of_a_folder_is_called_a_file(folder):
    with pytest.raises(ScDMCError, match=r"one.h5ad is a file; name the folder that holds it"):
        input_files(folder / "one.h5ad")


def test_files_beside_a_matrix_are_listed(tmp_path):
    folder = write_mtx(data(), tmp_path / "donor")
    as_h5ad(data(), folder / "other.h5ad")
    entries = {entry.path.name: entry.status for entry in survey_folder(folder)}
    assert entries == {
        "donor": "taken", "matrix.mtx.gz": "part", "barcodes.tsv.gz": "part", "features.tsv.gz": "part",
        "other.h5ad": "skipped",
    }  # fmt: skip
