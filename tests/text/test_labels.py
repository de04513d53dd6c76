"""Labels of cells become terms: by id, table, name or synonym, by tissue, and never by a guess."""

import json

import pytest

from scdmc.errors import ScDMCError
from scdmc.text.labels import (
    DEFAULT_ALIAS_FILE,
    load_aliases,
    match_labels,
    plain_label,
    read_label_table,
    require_mapped,
    unmapped,
)
from scdmc.text.ontology import CellOntology

ALPHA, ACINAR = "CL:0000171", "CL:0002064"


@pytest.fixture(scope="module")
def ontology():
    return CellOntology.load()


def found(ontology, label, **more):
    (match,) = match_labels([label], ontology, **more)
    return match.cl_id, match.how


def test_every_alias_is_a_live_term_and_every_tissue_is_named(ontology):
    content = json.loads(DEFAULT_ALIAS_FILE.read_text(encoding="utf8"))
    for tissue, table in content["aliases"].items():
        assert not [(label, cl_id) for label, cl_id in table.items() if cl_id not in ontology]
        plain = [plain_label(label) for label in table]
        twice = {one for one in plain if plain.count(one) > 1}
        assert not twice, tissue
    assert set(content["aliases"]) - {""} == set(content["tissues"])
    for tissue, telling in content["telling"].items():
        assert set(telling) < set(content["aliases"][tissue])


def test_the_labels_of_the_reference_map_are_found(ontology, shared):
    wanted = json.loads((shared / "cell_text" / "label_map.json").read_text(encoding="utf8"))
    known = {match.label: match.cl_id for match in match_labels(wanted, ontology)}
    # Without a tissue these words are a label of the ontology, and mean any acinar cell.
    assert known.pop("Acinar_cells") == "CL:0000622"
    assert known == {label: cl_id for label, cl_id in wanted.items() if label != "Acinar_cells"}
    in_pancreas = match_labels(["Acinar_cells"], ontology, "Pancreas")
    assert in_pancreas[0].cl_id == wanted["Acinar_cells"]


@pytest.mark.parametrize(
    ("label", "cl_id", "how"),
    [
        ("CL:0000236", "CL:0000236", "id"), ("cl_0000236", "CL:0000236", "id"), ("CL:0000003", "CL:0000000", "id"),
        ("B cell", "CL:0000236", "label"), ("B_cells", "CL:0000236", "label"), ("B-CELLS", "CL:0000236", "label"),
        ("CD14+ Monocytes", "CL:0001054", "label"), ("CD14-positive monocyte", "CL:0001054", "label"),
        ("B lymphocyte", "CL:0000236", "synonym"), ("Tregs", "CL:0000815", "synonym"),
        ("NK", "CL:0000623", "alias"), ("T_CD4", "CL:0000624", "alias"), ("Naive.CD4.T", "CL:0000895", "alias"),
        ("γδ T", "CL:0000798", "alias"), ("CD4+/CD45RA+/CD25- Naive T", "CL:0000895", "alias"),
        ("DC2", "CL:0002399", "alias"), ("naïve B", "CL:0000788", "alias"),
        ("Bm2' B cell", "CL:0000964", "label"),
    ],
)  # fmt: skip
def test_a_label_is_found_however_it_is_written(ontology, label, cl_id, how):
    assert found(ontology, label) == (cl_id, how)


@pytest.mark.parametrize(
    "label",
    ["T/NK cells", "T_cells_&_NK_cells", "Cancer_clone_A", "HCC827", "CL:9999999", "stellate", "PD", "VIP", "CD4-", "",
     "alpha beta"],
)  # fmt: skip
def test_composites_clones_lines_and_ambiguous_words_are_left_alone(ontology, label):
    assert found(ontology, label) == (None, "unmapped")


def test_alpha_is_a_cell_of_the_pancreas_and_nowhere_else(ontology):
    assert found(ontology, "alpha", tissue="pancreas") == (ALPHA, "alias")
    assert found(ontology, "Alpha cells", tissue="islet of Langerhans") == (ALPHA, "alias")
    assert found(ontology, "alpha") == (ALPHA, "alias")
    assert found(ontology, "alpha", tissue="retina") == (None, "unmapped")


def test_a_label_that_several_tissues_use_needs_the_tissue_or_a_label_that_tells_it(ontology):
    for label, of_pancreas in (("ductal", "CL:0002079"), ("activated_stellate", "CL:0002410"), ("PP", "CL:0002275")):
        assert found(ontology, label) == (None, "unmapped")
        assert found(ontology, label, tissue="breast") == (None, "unmapped")
        assert found(ontology, label, tissue="pancreas") == (of_pancreas, "alias")
        first, _ = match_labels([label, "Alpha cells"], ontology)
        assert (first.cl_id, first.how) == (of_pancreas, "alias")
        first, _ = match_labels([label, "Alpha cells"], ontology, tissue="breast")
        assert first.how == "unmapped"


def test_the_tissue_comes_before_the_name(ontology):
    assert found(ontology, "acinar cell", tissue="pancreas") == (ACINAR, "alias")
    assert found(ontology, "acinar cell", tissue="salivary gland") == ("CL:0000622", "label")
    assert found(ontology, "HSC", tissue="liver") == ("CL:0000632", "alias")
    assert found(ontology, "HSC", tissue="bone marrow") == ("CL:0000037", "alias")


def test_the_users_table_comes_first_and_may_say_that_a_label_is_no_type(ontology):
    table = {"alpha": "CL:0000084", "T/NK cells": None}
    assert found(ontology, "alpha", table=table) == ("CL:0000084", "user")
    assert found(ontology, "T/NK cells", table=table) == (None, "user")
    with pytest.raises(ScDMCError, match=r"label 'x': the Cell Ontology .* has no term CL:1"):
        match_labels(["x"], ontology, table={"x": "CL:1999999"})


def test_unknown_labels_are_an_error_with_their_cells_and_three_suggestions(ontology):
    matches = match_labels(["NK", "T/NK cells", "naive CD8 Tcell"], ontology)
    missing = unmapped(matches)
    assert [match.label for match in missing] == ["T/NK cells", "naive CD8 Tcell"]
    assert all(len(match.suggestions) == 3 and set(match.suggestions) <= set(ontology) for match in missing)
    assert {"CL:0000084", "CL:0000623"} <= set(missing[0].suggestions)
    with pytest.raises(ScDMCError) as refused:
        require_mapped(matches, {"NK": 5, "T/NK cells": 7, "naive CD8 Tcell": 1200}, ontology, "a.h5ad: obs['type']")
    message = str(refused.value)
    assert message.startswith("a.h5ad: obs['type']: 2 of 3 labels are no known name")
    assert "\n" not in message
    assert message.index("'naive CD8 Tcell' (1,200 cells; nearest ") < message.index("'T/NK cells' (7 cells; nearest ")
    assert "T cell CL:0000084" in message
    assert "--cell_type_table" in message


def test_a_table_of_the_user_is_read_with_empty_ids(tmp_path, ontology):
    path = tmp_path / "types.tsv"
    path.write_text("label\tcl_id\tnote\nT/NK\tcl:0000542\tboth\nOther\t\t\n", encoding="utf8")
    assert read_label_table(path, ontology) == {"T/NK": "CL:0000542", "Other": None}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label,cl_id\na,CL:0000236\n", "lacks the column 'label'"),
        ("label\tid\na\tCL:0000236\n", "lacks the column 'cl_id'"),
        ("label\tcl_id\na\tCL:0000236\nb\tCL:1\n", "line 3: 'CL:1' is no id"),
        ("label\tcl_id\na\tCL:9999999\n", "line 2: the Cell Ontology v2026-03-26 has no term"),
        ("label\tcl_id\na\tCL:0000236\na\tCL:0000084\n", "'a' stands there twice"),
        ("", "is no TSV"),
    ],
)
def test_another_table_is_refused(tmp_path, ontology, text, said):
    path = tmp_path / "types.tsv"
    path.write_text(text, encoding="utf8")
    with pytest.raises(ScDMCError, match=said):
        read_label_table(path, ontology)


def test_tissues_are_known_by_the_words_that_begin_like_them():
    aliases = load_aliases()
    assert aliases.tissue("Pancreatic islets") == "pancreas"
    assert aliases.tissue("") == ""
    assert aliases.tissue("blood") is None
