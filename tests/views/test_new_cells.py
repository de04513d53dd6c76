"""A reference labels new cells: real islet cells, whatever the two files look like."""

import json
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import scdmc
from scdmc.errors import ScDMCError
from scdmc.genes.ids import load_symbols

TYPES = ("acinar", "beta", "ductal", "endothelial")


@pytest.fixture(scope="module")
def halves(islets_path):
    """A labelled file of 80 cells of four types, and 12 new cells of each, whose labels are under another name."""
    adata = anndata.read_h5ad(islets_path)
    adata = adata[adata.obs["cell_type"].isin(TYPES)].copy()
    place = adata.obs.groupby("cell_type", observed=True).cumcount().to_numpy()
    reference, new = adata[place < 20].copy(), adata[(place >= 20) & (place < 23)].copy()
    new.obs["truth"] = new.obs.pop("cell_type").astype(str)
    return reference, new


@pytest.fixture(scope="module")
def expected(halves, model_path):
    """The new cells with their labels."""
    reference, new = halves
    return scdmc.annotate(new.copy(), model_path, reference=reference)


def probabilities(adata):
    return adata.obs["scDMC_probability"].to_numpy()


def test_labels_are_right_and_every_view_votes(halves, expected):
    obs = expected.obs
    assert (obs["scDMC_cell_type"].astype(str) == obs["truth"]).mean() > 0.9
    assert obs["scDMC_probability"].between(0, 1).all()
    assert {f"scDMC_view_{view}" for view in ("genes", "scdmc")} <= set(obs)
    assert (obs["scDMC_second_label"].astype(str) != obs["scDMC_cell_type"].astype(str)).all()
    assert obs["scDMC_distance"].between(0, 1).all()
    assert obs["scDMC_familiarity"].between(0, 1).all()
    assert expected.obsm["X_umap"].shape == (12, 2)


def test_order_and_names_of_genes_change_nothing(halves, expected, model_path):
    reference, new = halves
    new = new[:, ::-1].copy()
    ids = load_symbols()
    new.var = pd.DataFrame(index=[ids.get(name.upper(), name) for name in new.var_names])
    assert (new.var_names.str.startswith("ENSG")).mean() > 0.8
    found = scdmc.annotate(new, model_path, reference=reference)
    np.testing.assert_array_equal(found.obs["scDMC_cell_type"].astype(str), expected.obs["scDMC_cell_type"].astype(str))
    np.testing.assert_allclose(probabilities(found), probabilities(expected), atol=1e-3)


def test_the_same_cells_twice_give_the_same_numbers(halves, expected, model_path):
    reference, new = halves
    again = scdmc.annotate(new.copy(), model_path, reference=reference)
    np.testing.assert_array_equal(probabilities(again), probabilities(expected))


def test_fewer_genes_and_cells_without_counts_are_no_obstacle(halves, model_path):
    reference, new = halves
    fewer = new[:, :1500].copy()
    fewer.X = scipy.sparse.csr_matrix(fewer.X)
    fewer.X[:2] = 0
    fewer.X.eliminate_zeros()
    fewer.obs.drop(columns="n_counts", inplace=True, errors="ignore")
    found = scdmc.annotate(fewer, model_path, reference=reference, min_probability=0.0)
    assert (found.obs["scDMC_cell_type"][:2] == "Unknown").all()
    assert np.isnan(probabilities(found)[:2]).all()
    assert (found.obs["scDMC_cell_type"].astype(str) == found.obs["truth"])[2:].mean() > 0.7


def test_what_new_cells_were_called_before_is_neither_used_nor_lost(halves, expected, model_path):
    reference, new = halves
    annotated = new.copy()
    annotated.obs["cell_type"] = "acinar"
    annotated.obs["scDMC_cell_type"] = "of an older run"
    found = scdmc.annotate(annotated, model_path, reference=reference)
    np.testing.assert_array_equal(found.obs["scDMC_cell_type"].astype(str), expected.obs["scDMC_cell_type"].astype(str))
    assert (found.obs["cell_type"] == "acinar").all()


def test_one_type_is_all_there_is_and_a_rare_one_can_be_learned(halves, model_path):
    reference, new = halves
    one = reference[reference.obs["cell_type"] == "beta"]
    found = scdmc.annotate(new.copy(), model_path, reference=one)
    assert (found.obs["scDMC_cell_type"] == "beta").all()
    labels = reference.obs["cell_type"].astype(str).to_numpy()
    rare = reference[(labels != "ductal") | (np.cumsum(labels == "ductal") <= 1)]
    found = scdmc.annotate(new.copy(), model_path, reference=rare, batch_key="batch")
    assert (found.obs["scDMC_cell_type"].astype(str) == found.obs["truth"]).mean() > 0.6


def test_cells_of_a_type_that_the_reference_lacks_are_mostly_unknown(halves, model_path):
    reference, new = halves
    taught = reference[reference.obs["cell_type"] != "beta"]
    found = scdmc.annotate(new.copy(), model_path, reference=taught, min_probability="auto").obs
    is_unknown, is_beta = found["scDMC_cell_type"] == "Unknown", found["truth"] == "beta"
    assert is_unknown[is_beta].mean() > 0.5
    assert is_unknown[~is_beta].mean() < 0.5
    assert found["scDMC_familiarity"][is_beta].max() < found["scDMC_familiarity"][~is_beta].median()


def test_views_can_be_chosen(halves, model_path):
    reference, new = halves
    found = scdmc.annotate(new.copy(), model_path, reference=reference, views=("scdmc",))
    assert [name for name in found.obs if name.startswith("scDMC_view_")] == ["scDMC_view_scdmc"]


def test_the_embedding_is_the_one_that_embed_gives(halves, model_path, tmp_path):
    model = shutil.copytree(model_path, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    chosen = {"embedding_stream": "rank", "embedding_pooling": "weighted", "embedding_layer": 1}
    (model / "config.json").write_text(json.dumps(config | chosen))
    reference, new = halves
    del (new := new.copy()).obs["n_counts"]  # the totals are those of the genes that both have
    found = scdmc.annotate(new.copy(), model, reference=reference, views=("genes",)).obsm["X_scDMC"]
    np.testing.assert_allclose(found, scdmc.embed(new.copy(), model).obsm["X_scDMC"], atol=1e-4)


def test_what_cannot_be_labelled_is_refused_in_one_line(halves, model_path):
    reference, new = halves
    stranger = new.copy()
    stranger.var = pd.DataFrame(index=[f"tag{number}" for number in range(new.n_vars)])
    unlabelled = reference.copy()
    unlabelled.obs["cell_type"] = "unknown"
    for cells, labelled, options, message in (
        (stranger, reference, {}, "adata"),
        (new, unlabelled, {}, "no cell has a label"),
        (new, reference, {"label_key": "kind"}, "obs has no column 'kind'"),
        (new, reference, {"batch_key": "donor"}, "obs has no column 'donor'"),
        (new, reference, {"views": ("gene",)}, "'gene' is none"),
    ):
        with pytest.raises(ScDMCError, match=message) as refusal:
            scdmc.annotate(cells.copy(), model_path, reference=labelled, **options)
        assert "\n" not in str(refusal.value)


def test_the_command_gives_the_same_numbers_and_a_folder_that_labels_without_the_reference(
    halves, expected, model_path, load_script, tmp_path, capsys
):
    reference, new = halves
    reference.write_h5ad(tmp_path / "reference.h5ad")
    new.write_h5ad(tmp_path / "new.h5ad")
    new[:, :60].copy().write_h5ad(tmp_path / "panel.h5ad")
    new[:, :1800].copy().write_h5ad(tmp_path / "fewer.h5ad")
    main, out = load_script("downstream_tasks/annotate.py").main, tmp_path / "out"

    def run(*words):
        status = main([str(word) for word in words])
        return status, capsys.readouterr()

    pair = ("--data_path", tmp_path / "new.h5ad", "--reference", tmp_path / "reference.h5ad")
    status, printed = run(*pair, "--model", model_path, "--output_dir", out)
    assert status == 0
    assert "weights of the views" in printed.out
    found = anndata.read_h5ad(out / "annotated.h5ad")
    np.testing.assert_array_equal(probabilities(found), probabilities(expected).astype(np.float32))
    assert {"labels.csv", "views.csv", "per_type.csv", "report.html", "classifier", "manifest.json"} <= {
        path.name for path in out.iterdir()
    }
    assert not [path.name for path in (out / "classifier").iterdir() if path.suffix in (".pkl", ".bin", ".pt")]
    scores = pd.read_csv(out / "views.csv", index_col="method")
    controls = {"all views without scDMC", "untrained vectors", "vectors in place of scDMC"}
    assert {"genes", "scdmc", "all views", *controls} <= set(scores.index)
    assert scores["macro_f1"].between(0, 1).all()

    classifier = ("--model", out / "classifier", "--data_path")
    assert run(*classifier, tmp_path / "new.h5ad", "--output_file", tmp_path / "again.h5ad")[0] == 0
    assert "<h1>Labels of new.h5ad by the classifier of out</h1>" in (tmp_path / "again.report.html").read_text()
    again = anndata.read_h5ad(tmp_path / "again.h5ad")
    np.testing.assert_allclose(probabilities(again), probabilities(found), atol=1e-4)
    familiarity = [each.obs["scDMC_familiarity"].to_numpy() for each in (again, found)]
    np.testing.assert_allclose(*familiarity, atol=0.02)  # a share of 80 cells
    assert run(*classifier, tmp_path / "fewer.h5ad", "--output_file", tmp_path / "fewer.csv")[0] == 0
    status, printed = run(*classifier, tmp_path / "fewer.h5ad", "--output_file", tmp_path / "f.csv")
    assert "left out: genes" in printed.out
    status, printed = run(*classifier, tmp_path / "panel.h5ad", "--output_file", tmp_path / "panel.csv")
    assert status == 2
    assert "genes that the classifier knows" in printed.err

    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "cells.parquet")
    parquet = ("--data_path", tmp_path / "cells.parquet", "--output_file", tmp_path / "c.csv")
    remedy = "name the .h5ad that it was made from"
    for words, told in (
        (("--reference", tmp_path / "reference.h5ad"), f"{remedy}, or vote with --method neighbours"),
        (classifier[:2], f"{remedy}\n"),
    ):
        status, printed = run(*words, *parquet)
        assert status == 2
        assert told in printed.err
    assert not (tmp_path / "c.csv").exists()

    damaged = (out / "classifier" / "views.json").read_text().replace('"scdmc_views": 1', '"scdmc_views": 9')
    (out / "classifier" / "views.json").write_text(damaged)
    (out / "manifest.json").unlink()
    status, printed = run(*classifier, tmp_path / "new.h5ad", "--output_file", tmp_path / "b.csv")
    assert status == 2
    assert "views.json" in printed.err
