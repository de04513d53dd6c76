"""Cells of a mouse: refused as a human's, and read when what the message says is done."""

import anndata
import numpy as np
import pandas as pd
import pytest

from scdmc.genes.ids import load_symbols

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
    def run(script, *command):
        status = load_script(script).main([str(word) for word in command])
        return status, capsys.readouterr().err

    def embed(data, output):
        return run("downstream_tasks/embed.py", "--model", model_path, "--data_path", data, "--output_file", output)

    status, said = embed(paths / "mouse" / "mouse.h5ad", paths / "refused.h5ad")
    assert status == 2
    flags = (
        "--species mouse", "--ortholog_file", "--obs_columns", "--token_dictionary_file MODEL/token_ids.json",
        "--gene_median_file MODEL/gene_medians.json",
    )  # fmt: skip
    assert all(flag in said for flag in flags)
    command = [
        "tokenizer/tokenizer_combine.py", "--data_path", paths / "mouse", "--output_dir", paths / "tokenized",
        "--output_prefix", "mouse", "--species", "mouse", "--obs_columns", "cell_type", "--token_dictionary_file",
        model_path / "token_ids.json", "--gene_median_file", model_path / "gene_medians.json",
    ]  # fmt: skip
    status, said = run(*command, "--ortholog_file", paths / "ids.tsv")
    assert status == 2
    assert "the table of orthologs has none of them: it needs a column of mouse ids or one of mouse symbols" in said
    assert run(*command, "--ortholog_file", paths / "symbols.tsv")[0] == 0
    assert embed(paths / "tokenized" / "mouse.parquet", paths / "mouse_out.h5ad")[0] == 0
    assert embed(paths / "human.h5ad", paths / "human_out.h5ad")[0] == 0
    found, expected = (anndata.read_h5ad(paths / f"{name}_out.h5ad") for name in ("mouse", "human"))
    np.testing.assert_allclose(found.obsm["X_scDMC"], expected.obsm["X_scDMC"], atol=1e-5)
    assert found.obs["cell_type"].tolist() == expected.obs["cell_type"].tolist()
