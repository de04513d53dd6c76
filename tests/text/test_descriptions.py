"""Descriptions: every clause is what the file and the model say."""

import json
import re

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import scdmc
from scdmc.genes.symbols import official_symbol
from scdmc.text.descriptions.facts import genes_of_groups, group_in_words, specific_genes
from scdmc.text.ontology import CellOntology
from scdmc.text.texts import first_sentence

INS, GCG, CD3E = "ENSG00000254647", "ENSG00000115263", "ENSG00000198851"


@pytest.fixture(scope="module")
def describe(load_script):
    """A function: run the script, with a file or a folder to write."""
    script = load_script("downstream_tasks/describe.py")

    def run(world, *more):
        words = ["--model", world["model"], "--data_path", world["islets"], "--text_encoder", world["texts"], *more]
        return script.main([str(word) for word in words])

    return run


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("A cell. It lives.", "A cell."),
        ("A cell, e.g. Kupffer cells. It lives.", "A cell, e.g. Kupffer cells."),
        ("A cell of T. Brucei (i.e. A thing). More.", "A cell of T. Brucei (i.e. A thing)."),
        ("CD4.2-positive cell of 1.5 um", "CD4.2-positive cell of 1.5 um."),
        ("One only.", "One only."),
    ],
)
def test_the_first_sentence_ends_where_a_reader_ends_it(text, first):
    assert first_sentence(text) == first


def test_genes_of_a_cell_stand_out_among_the_cells_and_have_counts():
    expression = np.zeros((40, 4), dtype=np.float32)
    expression[:, 0] = np.linspace(2, 4, 40)  # in all cells
    expression[:5, 1] = 3  # in few
    expression[0, 2] = 5  # in one: no mark
    expression[:4, 3] = 6  # no known gene
    told = specific_genes(scipy.sparse.csr_matrix(expression), np.array([INS, GCG, CD3E, ""]))
    assert told[0] == ["GCG"]
    assert told[39] == ["INS"]
    assert told[20] == []


def test_cells_without_a_type_are_not_among_the_nearest_types():
    ontology = CellOntology.load()
    types = pd.DataFrame(
        [["B cell", "CL:0000236", 0.5, 0.3], ["Unknown", "", 0.3, np.nan], ["T cell", "CL:0000084", 0.2, 0.4]],
        columns=["type", "cl_id", "share", "probability"],
    )
    assert group_in_words(types, ontology) == (
        "Unsure; the nearest types are 50% B cell (CL:0000236, mean probability 0.30); 20% T cell (CL:0000084, mean "
        "probability 0.40). Beside these: 30% none of the types that were looked for."
    )
    assert group_in_words(types.iloc[[1]].assign(share=1.0), ontology) == "100% none of the types that were looked for."


def test_genes_of_a_group_are_those_of_its_cells():
    draw = np.random.default_rng(0)
    expression = draw.random((60, 3)).astype(np.float32)
    expression[:30, 1] += 2
    groups = np.array(["a"] * 30 + ["b"] * 30)
    found = genes_of_groups(scipy.sparse.csr_matrix(expression), np.array([INS, GCG, ""]), groups)
    assert found["a"] == ["GCG"]
    assert "GCG" not in found.get("b", [])
    assert genes_of_groups(scipy.sparse.csr_matrix(expression), np.array([INS, GCG, ""]), np.array(["a"] * 60)) == {}


def test_every_clause_of_a_cell_is_true(describe, text_world, tmp_path):
    assert describe(text_world, "--output_file", tmp_path / "cells.jsonl", "--max_cells", 60) == 0
    rows = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    adata, ontology = anndata.read_h5ad(text_world["islets"]), CellOntology.load()
    cells = adata.obs_names.get_indexer([row["cell_id"] for row in rows])
    assert len(cells) == 60
    assert (np.diff(cells) > 0).all()
    symbols = np.array([official_symbol(name) for name in adata.var_names])
    counts = adata.X.toarray()
    n_typed = 0
    for cell, row in zip(cells, rows, strict=True):
        genes = row["genes"].split(", ") if row["genes"] else []
        assert set(genes) <= set(symbols[counts[cell] > 0])
        assert f" {adata.obs['n_counts'].iloc[cell]:,.0f} counts, {(counts[cell] > 0).sum():,} genes." in row["text"]
        if row["cl_id"]:
            n_typed += 1
            term = ontology[row["cl_id"]]
            told = f"{term.label} ({term.cl_id}, probability {row['probability']:.2f})."
            is_sure, definition = row["probability"] >= 0.5, f" {first_sentence(term.definition)}"
            assert row["text"].startswith(f"{told}{definition}" if is_sure else f"Unsure; the nearest types are {told}")
            assert is_sure or definition not in row["text"]
    assert n_typed > 50


def test_types_that_no_cell_is_are_not_found(text_world):
    adata = anndata.read_h5ad(text_world["islets"])
    told = scdmc.describe(adata, text_world["model"], "cell_type", text_encoder=text_world["texts"])
    told = told.set_index("cell_type")
    assert told.loc["beta", "cl_id"] == "CL:0000169"
    assert told.loc["alpha", "cl_id"] == "CL:0000171"
    assert told.loc["beta", "share"] > 0.8
    assert "INS" in told.loc["beta", "genes"]
    assert "GCG" in told.loc["alpha", "genes"]
    number = int((adata.obs["cell_type"] == "beta").sum())
    assert re.match(rf"{number} cells\. \d+% type B pancreatic cell \(CL:0000169, mean prob", told.loc["beta", "text"])
    beta = adata[adata.obs["cell_type"] == "beta"].copy()  # no other type is in the file
    alone = scdmc.describe(beta, text_world["model"], "cell_type", centre="training", text_encoder=text_world["texts"])
    assert alone["cl_id"].tolist() == ["CL:0000169"]


@pytest.mark.parametrize("key", ["type", "share"])
def test_a_column_of_groups_may_be_called_as_a_column_of_the_results(describe, text_world, tmp_path, key):
    adata = anndata.read_h5ad(text_world["islets"])
    adata.obs[key] = adata.obs["cell_type"].astype(str)
    adata.write_h5ad(tmp_path / "named.h5ad")
    world = text_world | {"islets": tmp_path / "named.h5ad"}
    assert describe(world, "--output_dir", tmp_path / "out", "--group_key", key) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "descriptions.jsonl").read_text().splitlines()]
    assert {row["group"] for row in rows} == set(adata.obs[key])
    assert (tmp_path / "out" / "report.html").exists()


def test_the_order_of_cells_does_not_matter(text_world):
    adata = anndata.read_h5ad(text_world["islets"])
    order = np.random.default_rng(0).permutation(adata.n_obs)
    one, other = (
        scdmc.describe(cells, text_world["model"], "cell_type", types="CL:0000169; CL:0000171; duct",
                       text_encoder=text_world["texts"])
        for cells in (adata, adata[order].copy())
    )  # fmt: skip
    pd.testing.assert_frame_equal(
        one[["cell_type", "cells", "type", "genes"]], other[["cell_type", "cells", "type", "genes"]]
    )
    assert np.allclose(one["share"], other["share"], atol=0.02)


def test_cells_of_no_group_and_without_counts_are_said_so(text_world, tmp_path, caplog):
    adata = anndata.read_h5ad(text_world["islets"])
    adata.obs["group"] = adata.obs["cell_type"].astype(object).where(np.arange(adata.n_obs) > 9, np.nan)
    dense = adata.X.toarray()
    dense[12] = 0
    adata.X = scipy.sparse.csr_matrix(dense)
    groups = scdmc.describe(adata, text_world["model"], "group", text_encoder=text_world["texts"])
    assert groups["cells"].sum() == adata.n_obs - 10
    assert "10 cells have no group and are left out" in caplog.text
    cells = scdmc.describe(adata, text_world["model"], text_encoder=text_world["texts"])
    assert cells["type"].iloc[12] == "no counts"
    assert cells["text"].iloc[12] == "No counts in the genes of the model."
    assert len(cells) == adata.n_obs


def test_the_folder_has_table_lines_and_page(describe, text_world, tmp_path):
    assert describe(text_world, "--output_dir", tmp_path / "out", "--group_key", "cell_type") == 0
    table = pd.read_csv(tmp_path / "out" / "descriptions.csv")
    lines = (tmp_path / "out" / "descriptions.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == table["text"].tolist()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "A cell that secretes insulin" in page
    assert (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--group_key", "absent"], "absent"),
        (["--group_key", "cell_type", "--max_cells", "3"], "--max_cells counts cells"),
        (["--types", "a; b", "--under", "CL:0000988"], "and not with both"),
        (["--max_cells", "0"], "is not a positive integer"),
        (["--model", "MODEL_OF_CELLS"], "is no text model"),
        (["--group_key", "of_each_cell"], "300 groups, and at most 200 are described"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(describe, text_world, tmp_path, capsys, monkeypatch, more, words):
    monkeypatch.setattr("scdmc.text.descriptions.describe_file.MOST_GROUPS", 200)
    world = dict(text_world)
    if "of_each_cell" in more:
        adata = anndata.read_h5ad(world["islets"])
        adata.obs["of_each_cell"] = adata.obs_names
        adata.write_h5ad(tmp_path / "named.h5ad")
        world["islets"] = tmp_path / "named.h5ad"
    more = [world["cells"] if word == "MODEL_OF_CELLS" else word for word in more]
    try:
        status = describe(world, "--output_file", tmp_path / "out.csv", *more)
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert error[-1].startswith("error: ")
    assert words in error[-1]
    assert not (tmp_path / "out.csv").exists()
