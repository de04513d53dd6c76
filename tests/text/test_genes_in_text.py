"""Genes that a text names, with the sign that it gives them; texts of terms."""

import json

import pytest

from scdmc.genes.ids import load_gene_table
from scdmc.genes.symbols import gene_of_name
from scdmc.text.genes_in_text import DEFAULT_GENE_ALIAS_FILE, gene_mentions, signed_genes
from scdmc.text.ontology import CellOntology
from scdmc.text.texts import description_of, texts_of_term


def signs(text):
    return [(mention.name, mention.sign) for mention in gene_mentions(text)]


def test_every_alias_stands_for_genes_that_code_for_proteins():
    biotypes = {row["id"]: row["biotype"] for row in load_gene_table()}
    table = json.loads(DEFAULT_GENE_ALIAS_FILE.read_text(encoding="utf8"))
    assert len(table) >= 45
    assert not [
        symbol for of in table.values() for symbol in of if biotypes.get(gene_of_name(symbol)) != "protein_coding"
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("and negative for the lineage markers CD3, CD19, and CD20.", [("CD3", -1), ("CD19", -1), ("CD20", -1)]),
        ("CD25-negative, CD62L-high, and CD44-low", [("CD25", -1), ("CD62L", 1), ("CD44", -1)]),
        ("CD16-positive, CD56-dim; CD127lo CD25-", [("CD16", 1), ("CD56", -1), ("CD127", -1), ("CD25", -1)]),
        ("It lacks CD4 and CD8-alpha. It has CD19.", [("CD4", -1), ("CD8", -1), ("CD19", 1)]),
        ("does not express MS4A1 but expresses CD27", [("MS4A1", -1), ("CD27", 1)]),
        ("lacks CD25 and CCR7-positive ones", [("CD25", -1), ("CCR7", 1)]),
        (
            "CD3-CD19-CD56+ cells, CD4\u2212CD8\u2212",
            [("CD3", -1), ("CD19", -1), ("CD56", 1), ("CD4", -1), ("CD8", -1)],
        ),
        (
            "HLA-DRA+, CD4-CD8 ratio, LHX6-LHX8-GBX1",
            [(name, 1) for name in ("HLA-DRA", "CD4", "CD8", "LHX6", "LHX8", "GBX1")],
        ),
        ("cells lacking CD3 that express CD19", [("CD3", -1), ("CD19", 1)]),
        ("in the absence of markers (e.g. CD3, CD19)", [("CD3", -1), ("CD19", -1)]),
        ("secretes insulin and Glucagon", [("insulin", 1), ("Glucagon", 1)]),
        ("insulin-like growth factor, insulin receptor", []),
        ("the BCR of a cell of a CAT, cd4, Cd4", []),
        ("HLA-DRA and NKX2-1", [("HLA-DRA", 1), ("NKX2-1", 1)]),
        ("", []),
    ],
)
def test_names_and_signs_of_a_text(text, wanted):
    assert signs(text) == wanted


def test_genes_are_ids_a_complex_has_several_and_contradictions_are_left_out():
    assert signed_genes("CD3 and CD4, CD4-negative") == {gene_of_name(symbol): 1 for symbol in ("CD3D", "CD3E", "CD3G")}
    assert signed_genes("CD20-negative") == {gene_of_name("MS4A1"): -1}


def test_texts_of_a_term_are_label_description_and_synonyms():
    term = CellOntology.load()["CL:0000171"]
    texts = texts_of_term(term)
    assert [text.kind for text in texts] == ["label", "description", "synonym", "synonym"]
    assert texts[0].text == "pancreatic A cell"
    assert texts[1].text == description_of(term) == f"pancreatic A cell. {term.definition}"
    assert {text.cl_id for text in texts} == {"CL:0000171"}
