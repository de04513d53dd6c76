"""Cells of a mouse: refused as a human's, and read when what the message says is done."""

import anndata
import numpy as np
import pandas as pd
import pytest

import scdmc
from scdmc.genes.ids import load_symbols
from tests.cli.scripts import parser_of
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def paths(adata, tmp_path):
    """Cells of a human, the same of a mouse, and two tables of orthologs: with symbols and without."""
    known = [name for name in adata.var_names if name.upper() in load_symbols()]
    human = adata[:20, known].copy()
    del human.obs["n_counts"]
    mouse = human.copy()
    mouse.var_names = [name.capitalize() for name in known]
    (tmp_path / "mouse").mkdir()
    human.write_h5ad(tmp_path / "human.h5ad")
    mouse.write_h5ad(tmp_path / "mouse" / "mouse.h5ad")
    ids = [load_symbols()[name.upper()] for name in known]
    pairs = {"Gene stable ID": [f"ENSMUSG{i:011d}" for i in range(len(ids))], "Human gene stable ID": ids}
    pd.DataFrame(pairs).to_csv(tmp_path / "ids.tsv", sep="\t", index=False)
    pd.DataFrame(pairs | {"Gene name": mouse.var_names}).to_csv(tmp_path / "symbols.tsv", sep="\t", index=False)
    return tmp_path


def test_what_the_message_says_makes_cells_of_a_mouse_readable(paths, model_path, load_script, capsys):
    def embed(name, output, *flags):
        words = ("--model", model_path, "--data_path", paths / name, "--output_file", paths / output, *flags)
        status = load_script("downstream_tasks/embed.py").main([str(word) for word in words])
        return status, capsys.readouterr().err

    status, said = embed("mouse/mouse.h5ad", "refused.h5ad")
    assert status == 2
    assert "--species mouse and a table of orthologs, --ortholog_file; `python prepare/fetch_orthologs.py" in said
    for flags in (("--species", "mouse"), ("--species", "mouse", "--ortholog_file", paths / "absent.tsv")):
        status, said = embed("mouse/mouse.h5ad", "refused.h5ad", *flags)
        assert status == 2
        assert len(said.splitlines()) == 1
        assert "`python prepare/fetch_orthologs.py --output_dir orthologs` writes orthologs/orthologs.tsv" in said
    assert embed("human.h5ad", "refused.h5ad", "--ortholog_file", paths / "ids.tsv")[0] == 2
    status, said = embed("mouse/mouse.h5ad", "refused.h5ad", "--species", "mouse", "--ortholog_file", paths / "ids.tsv")
    assert status == 2
    assert "the table of orthologs has none of them: it needs a column of mouse ids or one of mouse symbols" in said
    mouse = ("--species", "mouse", "--ortholog_file", paths / "symbols.tsv")
    assert embed("mouse/mouse.h5ad", "mouse_out.h5ad", *mouse)[0] == 0
    assert embed("human.h5ad", "human_out.h5ad")[0] == 0
    found, expected = (anndata.read_h5ad(paths / f"{name}_out.h5ad") for name in ("mouse", "human"))
    np.testing.assert_allclose(found.obsm["X_scDMC"], expected.obsm["X_scDMC"], atol=1e-5)
    in_memory = anndata.read_h5ad(paths / "mouse" / "mouse.h5ad")
    scdmc.embed(in_memory, model_path, species="mouse", ortholog_file=paths / "symbols.tsv")
    np.testing.assert_allclose(in_memory.obsm["X_scDMC"], expected.obsm["X_scDMC"], atol=1e-5)


def test_every_downstream_script_that_reads_counts_reads_those_of_a_mouse(load_script, monkeypatch):
    scripts = sorted((ROOT / "downstream_tasks").glob("*.py"))
    parsers = {path.stem: parser_of(load_script, monkeypatch, f"downstream_tasks/{path.name}") for path in scripts}
    flags = {name: {flag for action in of._actions for flag in action.option_strings} for name, of in parsers.items()}
    reading = {name for name, of in flags.items() if "--layer" in of}
    assert len(reading) > 8
    assert {name for name, of in flags.items() if {"--species", "--ortholog_file"} <= of} == reading
