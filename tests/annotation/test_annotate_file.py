"""annotate.py, label transfer and the functions for notebooks, on real cells and a tiny trained classifier."""

import re
import shutil

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

import scdmc
from scdmc.annotation import annotate_file as annotated_file
from scdmc.annotation.annotate_file import annotate_file, majority_vote
from scdmc.annotation.annotators import classifier_annotator
from scdmc.annotation.options import AnnotationOptions
from scdmc.cells.gene_coverage import describe_missing_genes, require_known_genes
from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import DEFAULT_GENE_TABLE_FILE
from scdmc.model.folder import open_model_directory
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.model.storage import load_model
from scdmc.reading.options import CountOptions
from scdmc.tokens import tokenizer as tokenization
from tests.small_models import save_small_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "tiny", 256, initializer_range=0.25)


TYPES = ["alpha", "beta", "ductal"]
COLUMNS = ["scDMC_cell_type", "scDMC_probability", "scDMC_margin"]


@pytest.fixture(scope="module")
def three_types(islets_path):
    adata = anndata.read_h5ad(islets_path)
    return adata[adata.obs["cell_type"].isin(TYPES)].copy()


@pytest.fixture(scope="module")
def classifier_path(tmp_path_factory, model_path, three_types):
    path = tmp_path_factory.mktemp("classifier") / "out"
    settings = {"epochs": 8, "batch_size": 8, "learning_rate": 5e-3}
    settings["classifier_start"] = "random"  # from a probe more than half of these cells would be certain
    table = scdmc.fine_tune(three_types, model_path, label_key="cell_type", output_dir=path, **settings)
    assert table.loc["scDMC fine-tuned", "accuracy"] > 0.7
    return path


@pytest.fixture(scope="module")
def annotate(load_script, classifier_path, tmp_path_factory):
    """A function that annotates an AnnData (or a path) by the script, and returns what it wrote."""
    main = load_script("downstream_tasks/annotate.py").main

    def run(data, *flags, model=classifier_path, suffix=".h5ad"):
        folder = tmp_path_factory.mktemp("annotate")
        if isinstance(data, anndata.AnnData):
            data.write_h5ad(folder / "new.h5ad")
            data = folder / "new.h5ad"
        output = folder / f"labelled{suffix}"
        command = ["--model_path", model, "--data_path", data, "--output_file", output, "--num_gpus", 0, *flags]
        command += ["--umap", "no"] if suffix == ".h5ad" else []  # tests/cells/test_viewers.py draws it
        assert main([str(word) for word in command]) == 0
        assert f"Labels of {data.name} by the" in (folder / "labelled.report.html").read_text()
        return anndata.read_h5ad(output) if suffix == ".h5ad" else pd.read_csv(output, index_col="cell_id")

    return run


@pytest.fixture(scope="module")
def labelled(annotate, three_types):
    return annotate(three_types)


def require_same_labels(first, second, atol=1e-4):
    np.testing.assert_allclose(first["scDMC_probability"], second["scDMC_probability"], atol=atol)
    assert (first["scDMC_cell_type"].astype(str) == second["scDMC_cell_type"].astype(str)).all()


def test_most_cells_get_their_type(labelled):
    assert (labelled.obs["scDMC_cell_type"].astype(str) == labelled.obs["cell_type"].astype(str)).mean() > 0.8
    assert labelled.obsm["X_scDMC"].shape == (labelled.n_obs, 32)


def test_the_rest_of_the_file_is_as_it_was(annotate, three_types):
    rich = three_types.copy()
    rich.layers["counts"] = rich.X.copy()
    rich.obsm["X_scDMC"] = np.zeros((rich.n_obs, 3))  # of an earlier model
    rich.obsm["X_other"] = np.ones((rich.n_obs, 2))
    rich.obs["scDMC_probability"] = "old"
    rich.uns["note"] = "kept"
    result = annotate(rich)
    assert (result.X != rich.X).nnz == 0
    assert (result.layers["counts"] != rich.layers["counts"]).nnz == 0
    assert (result.obsm["X_other"] == 1).all()
    assert result.obsm["X_scDMC"].shape == (rich.n_obs, 32)
    assert result.uns["note"] == "kept"
    pd.testing.assert_frame_equal(result.obs[["cell_type", "batch"]], rich.obs[["cell_type", "batch"]])
    pd.testing.assert_frame_equal(result.var, rich.var)
    assert result.obs["scDMC_probability"].dtype == np.float32


def test_blocks_of_cells_do_not_change_a_result(monkeypatch, tmp_path, three_types, classifier_path, labelled):
    three_types.write_h5ad(tmp_path / "new.h5ad")
    few_cells = 7
    original = tokenization.tokenize_blocks
    monkeypatch.setattr(annotated_file, "tokenize_blocks", lambda *a: original(*a, block_size=few_cells))
    model = load_model(classifier_path, ScDMCForCellClassification)
    sizes = []
    annotator = classifier_annotator(model, classifier_path)

    def annotate(cells):
        sizes.append(len(cells))
        return annotator.annotate(cells)

    annotate_file(
        tmp_path / "new.h5ad", tmp_path / "out.h5ad", open_model_directory(classifier_path),
        annotated_file.Annotator(annotator.names, annotator.width, annotate), AnnotationOptions(), CountOptions(),
    )  # fmt: skip
    assert max(sizes) == few_cells
    result = anndata.read_h5ad(tmp_path / "out.h5ad")
    require_same_labels(result.obs, labelled.obs)
    np.testing.assert_allclose(result.obsm["X_scDMC"], labelled.obsm["X_scDMC"], atol=1e-4)


def test_a_failure_on_the_way_leaves_no_output(tmp_path, three_types, classifier_path):
    three_types.write_h5ad(tmp_path / "new.h5ad")

    def annotate(cells):
        raise ScDMCError("on the way")

    with pytest.raises(ScDMCError, match="on the way"):
        annotate_file(
            tmp_path / "new.h5ad", tmp_path / "out.h5ad", open_model_directory(classifier_path),
            annotated_file.Annotator(np.array(TYPES), 32, annotate), AnnotationOptions(), CountOptions(),
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["new.h5ad"]


def test_a_table_can_be_written_instead(annotate, three_types, labelled):
    table = annotate(three_types, suffix=".csv")
    assert list(table.columns) == ["cell_type", "batch", "n_counts", *COLUMNS]
    require_same_labels(table, labelled.obs)


def test_no_two_columns_of_a_table_have_one_name(annotate, three_types):
    named = three_types.copy()
    named.obs["cell_id"] = [f"mine_{row}" for row in range(named.n_obs)]
    table = annotate(named, suffix=".csv").reset_index()
    assert table.columns.is_unique
    assert table["cell_id"].tolist() == named.obs_names.tolist()
    assert table["obs_cell_id"].tolist() == named.obs["cell_id"].tolist()


@pytest.mark.parametrize("suffix", [".h5ad", ".csv"])
def test_parquet_is_annotated_like_its_counts(
    suffix, annotate, load_script, tmp_path, three_types, classifier_path, labelled
):
    (tmp_path / "in").mkdir()
    three_types.write_h5ad(tmp_path / "in" / "cells.h5ad")
    status = load_script("tokenizer/tokenizer_combine.py").main(
        ["--input_directory", str(tmp_path / "in"), "--output_directory", str(tmp_path), "--output_prefix", "cells",
         "--gene_median_file", str(classifier_path / "gene_medians.json"), "--obs_columns", "cell_type"])  # fmt: skip
    assert status == 0
    result = annotate(tmp_path / "cells.parquet", suffix=suffix)
    obs = result.obs if suffix == ".h5ad" else result
    require_same_labels(obs, labelled.obs)
    assert obs.index.astype(str).tolist() == labelled.obs_names.tolist()
    assert obs["cell_type"].astype(str).tolist() == labelled.obs["cell_type"].astype(str).tolist()
    if suffix == ".h5ad":
        np.testing.assert_allclose(result.obsm["X_scDMC"], labelled.obsm["X_scDMC"], atol=1e-4)


def test_another_kind_of_output_is_refused(load_script, tmp_path, capsys, classifier_path, islets_path):
    main = load_script("downstream_tasks/annotate.py").main
    output = tmp_path / "out.xlsx"
    assert main(["--model_path", str(classifier_path), "--data_path", str(islets_path),
                 "--output_file", str(output)]) == 2  # fmt: skip
    assert "ends in .h5ad or .csv" in capsys.readouterr().err


def test_the_order_of_genes_and_their_kind_of_name_change_nothing(annotate, three_types, labelled):
    table = pd.read_csv(DEFAULT_GENE_TABLE_FILE, index_col="id")
    id_of = {symbol: gene_id for gene_id, symbol in table["symbol"].drop_duplicates(keep=False).items()}
    other = three_types[:, np.random.default_rng(0).permutation(three_types.n_vars)].copy()
    other = other[:, [name in id_of for name in other.var_names]].copy()  # the islets' own names are symbols
    known = annotate(three_types[:, other.var_names].copy())
    other.var_names = [f"{id_of[name]}.3" for name in other.var_names]
    require_same_labels(annotate(other).obs, known.obs)


def test_genes_that_are_missing_are_counted_and_many_are_a_warning(annotate, three_types, capsys):
    def said(genes):
        probabilities = annotate(three_types[:, genes].copy()).obs["scDMC_probability"]
        assert np.isfinite(probabilities).all()
        lines = capsys.readouterr().err.splitlines()
        return next(line for line in lines if "genes of the labelled cells are missing" in line)

    assert not said(slice(100, None)).startswith("warning")
    assert said(slice(None, None, 2)).startswith("warning")


def test_a_panel_of_few_genes_is_refused_unless_it_is_wanted(
    annotate, load_script, three_types, classifier_path, tmp_path, capsys
):
    panel = three_types[:30, ::40].copy()
    panel.write_h5ad(tmp_path / "panel.h5ad")
    command = ["--model_path", classifier_path, "--data_path", tmp_path / "panel.h5ad", "--num_gpus", 0]
    main = load_script("downstream_tasks/annotate.py").main
    assert main([str(word) for word in (*command, "--output_file", tmp_path / "out.h5ad")]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    found = re.search(r"has ([\d.]+)% of the genes .* less than 30% .* --min_known_genes ([\d.]+) labels", said)
    share, flag = found.groups()
    assert float(share) < 30
    assert not (tmp_path / "out.h5ad").exists()
    assert annotate(panel, "--min_known_genes", flag).obs["scDMC_cell_type"].isin(TYPES).all()
    with pytest.raises(ScDMCError, match=r"adata has .*--min_known_genes"):
        scdmc.annotate(panel.copy(), classifier_path)
    scdmc.annotate(panel, classifier_path, min_known_genes=float(flag))
    require_known_genes("a file", None, set(), 0.3)  # the labelled cells' genes are not known
    require_known_genes("a file", {"A": 3, "B": 7}, {"A"}, 0.3)
    with pytest.raises(ScDMCError, match=r"has 30\.0% of the genes"):
        require_known_genes("a file", {"A": 3, "B": 7}, {"A"}, 0.31)


def test_missing_genes_are_weighted_by_the_cells_that_had_them():
    line, share = describe_missing_genes({"A": 6, "B": 3, "C": 1}, {"C", "B", "X"})
    assert share == pytest.approx(0.6)
    assert line.startswith("1 of the 3 genes")
    assert "60.0% of the genes that these cells had" in line
    assert line.endswith("the most frequent ones A")
    none_missing, share = describe_missing_genes({"A": 6}, {"A"})
    assert none_missing.startswith("0 of the 1 genes")
    assert share == 0


def test_counts_of_genes_that_the_model_does_not_know_are_a_warning(annotate, three_types, capsys):
    strange = three_types.copy()
    names = strange.var_names.to_numpy(dtype=object).copy()
    names[::2] = [f"made_up_{index}" for index in range(len(names[::2]))]
    strange.var_names = names
    annotate(strange)
    assert "lie in genes that the model does not know" in capsys.readouterr().err


def test_cells_of_a_file_without_any_known_gene_are_refused(
    load_script, tmp_path, capsys, three_types, classifier_path
):
    strange = three_types.copy()
    strange.var_names = [f"made_up_{index}" for index in range(strange.n_vars)]
    strange.write_h5ad(tmp_path / "strange.h5ad")
    main = load_script("downstream_tasks/annotate.py").main
    assert main(["--model_path", str(classifier_path), "--data_path", str(tmp_path / "strange.h5ad"),
                 "--output_file", str(tmp_path / "out.h5ad")]) == 2  # fmt: skip
    assert "made_up_0" in capsys.readouterr().err
    assert not (tmp_path / "out.h5ad").exists()


def test_uncertain_and_empty_cells_are_unknown_and_filtered_ones_missing(annotate, three_types, labelled):
    changed = three_types.copy()
    changed.X = changed.X.toarray()
    changed.X[3] = 0
    changed.obs["n_counts"] = changed.X.sum(axis=1)
    changed.obs["filter_pass"] = (np.arange(changed.n_obs) != 5).astype(int)
    threshold = float(labelled.obs["scDMC_probability"].median())
    result = annotate(changed, "--min_probability", threshold)
    is_unknown = (result.obs["scDMC_cell_type"] == "Unknown").to_numpy()
    assert is_unknown[3]
    assert np.isnan(result.obs["scDMC_probability"].iloc[3])
    assert result.obs["scDMC_cell_type"].isna().to_numpy().nonzero()[0].tolist() == [5]
    assert np.isnan(result.obsm["X_scDMC"]).any(axis=1).nonzero()[0].tolist() == [5]
    others = np.setdiff1d(np.arange(changed.n_obs), [3, 5])
    below = labelled.obs["scDMC_probability"].to_numpy()[others] < threshold
    assert (is_unknown[others] == below).mean() > 0.95  # equal but for rounding at the threshold


def test_a_cluster_votes_for_its_most_frequent_label(annotate, three_types):
    labels = np.array(["a", "a", "b", "b", "b", "Unknown", "a", "b"], dtype=object)
    clusters = np.array(["0", "0", "0", "1", "1", "1", "2", "2"])
    assert majority_vote(labels, clusters).tolist() == ["a", "a", "a", "b", "b", "b", "a", "a"]
    changed = three_types.copy()
    changed.X = changed.X.toarray()
    changed.X[3] = 0
    changed.obs["n_counts"] = changed.X.sum(axis=1)
    obs = annotate(changed, "--majority_vote", "--vote_resolution", 1).obs
    assert obs["scDMC_majority_vote"].iloc[3] == "Unknown"
    filled = np.arange(len(obs)) != 3
    by_cluster = obs[filled].groupby("scDMC_cluster", observed=True)
    assert (by_cluster["scDMC_majority_vote"].nunique() == 1).all()
    winners = by_cluster["scDMC_cell_type"].agg(lambda values: values.astype(str).value_counts().idxmax())
    assert (by_cluster["scDMC_majority_vote"].first().astype(str) == winners).mean() > 0.6  # all but for ties
    voted = annotate(changed, "--majority_vote", "--vote_resolution", 1, suffix=".csv")
    assert voted["scDMC_majority_vote"].tolist() == obs["scDMC_majority_vote"].tolist()


def test_a_reference_labels_cells_without_training(annotate, three_types, tmp_path):
    is_reference = np.arange(three_types.n_obs) % 2 == 0
    three_types[is_reference].copy().write_h5ad(tmp_path / "reference.h5ad")
    new = three_types[~is_reference].copy()
    by_votes = ("--reference", tmp_path / "reference.h5ad", "--method", "neighbours")
    flags = (*by_votes, "--pooling", "mean", "--n_neighbors", 5)
    result = annotate(new, *flags)
    assert (result.obs["scDMC_cell_type"].astype(str) == new.obs["cell_type"].astype(str)).mean() > 0.8
    assert result.obs["scDMC_probability"].between(0, 1).all()
    del new.obs["cell_type"]  # labels of the new cells are not looked at
    require_same_labels(annotate(new, *flags).obs, result.obs)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--n_neighbors", 15), "--n_neighbors has no effect without --reference; leave it out"),
        (("--label_key", "cell_type"), "--label_key has no effect without --reference"),
        (("--stream", "rank"), "--stream has no effect without --reference"),
        (("--ignore_labels", "beta"), "--ignore_labels has no effect without --reference"),
        (("--pooling", "cls"), "--pooling has no effect without --reference"),
        (("--vote_resolution", 5), "--vote_resolution has no effect without --majority_vote"),
        (("--layer", "X", "--data_path", "x.parquet"), "--layer has no effect on tokenized parquet"),
        (("--allow_normalized", "--data_path", "x.parquet"), "--allow_normalized has no effect on tokenized parquet"),
    ],
)
def test_flags_that_cannot_have_an_effect_are_refused(
    load_script, tmp_path, capsys, classifier_path, islets_path, flags, said
):
    main = load_script("downstream_tasks/annotate.py").main
    command = ("--model_path", classifier_path, "--data_path", islets_path, "--output_file", tmp_path / "out.csv")
    assert main([str(word) for word in (*command, *flags)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_a_reference_without_the_label_column_is_refused(
    load_script, tmp_path, capsys, three_types, model_path, islets_path
):
    main = load_script("downstream_tasks/annotate.py").main
    assert main(["--model_path", str(model_path), "--data_path", str(islets_path), "--reference", str(islets_path),
                 "--label_key", "no_such_column", "--output_file", str(tmp_path / "out.h5ad")]) == 2  # fmt: skip
    error = capsys.readouterr().err
    assert "no_such_column" in error
    assert "cell_type" in error


def test_the_functions_for_notebooks_do_what_the_scripts_do(three_types, classifier_path, model_path, labelled):
    adata = three_types.copy()
    assert scdmc.annotate(adata, classifier_path) is adata
    require_same_labels(adata.obs, labelled.obs)
    np.testing.assert_allclose(adata.obsm["X_scDMC"], labelled.obsm["X_scDMC"], atol=1e-4)
    scdmc.embed(adata, model_path, stream="rank")
    assert adata.obsm["X_scDMC"].shape == (adata.n_obs, 16)
    reference = three_types[10:].copy()
    reference.obs["cell_type"] = reference.obs["cell_type"].astype("category").cat.remove_unused_categories()
    names = reference.obs["cell_type"].cat.categories
    reference.uns["cell_type_colors"] = ["#112233", "#445566", "#778899"]
    transferred = scdmc.annotate(three_types[:10].copy(), model_path, reference=reference, method="neighbours")
    given = transferred.obs["scDMC_cell_type"].cat.categories
    assert set(given) <= set(TYPES)
    colour_of = dict(zip(names, reference.uns["cell_type_colors"], strict=True))
    assert list(transferred.uns["scDMC_cell_type_colors"]) == [colour_of[name] for name in given]


def test_reference_cells_of_no_type_do_not_vote_unless_they_are_kept(annotate, three_types, model_path, tmp_path):
    reference = three_types.copy()
    reference.obs["cell_type"] = np.where(np.arange(reference.n_obs) % 2, "other", reference.obs["cell_type"])
    reference.write_h5ad(tmp_path / "reference.h5ad")
    flags = ("--reference", tmp_path / "reference.h5ad", "--method", "neighbours", "--n_neighbors", 1)
    by_script = {
        keep: set(annotate(three_types, *flags, *keep, model=model_path).obs["scDMC_cell_type"])
        for keep in ((), ("--keep_labels", "other"))
    }
    assert by_script[()] == set(TYPES)
    assert "other" in by_script["--keep_labels", "other"]
    kept = {"reference": reference, "keep_labels": ["other"], "ignore_labels": ["beta"]}
    for method in ({"method": "neighbours", "n_neighbors": 1}, {}):
        labels = scdmc.annotate(three_types.copy(), model_path, **kept, **method).obs["scDMC_cell_type"]
        assert set(labels) <= {"alpha", "ductal", "other"}
        assert "other" in set(labels)
    with pytest.raises(ScDMCError, match="keep_labels has no effect without reference"):
        scdmc.annotate(three_types.copy(), model_path, keep_labels=["other"])


def test_fine_tuning_in_a_notebook_leaves_the_data_alone_and_writes_a_model_folder(
    tmp_path, three_types, model_path, classifier_path
):
    before = three_types.copy()
    split = np.resize(["train", "train", "validation", "test"], three_types.n_obs)
    scdmc.fine_tune(three_types, model_path, label_key="cell_type", output_dir=tmp_path / "out", split=split, epochs=1)
    pd.testing.assert_frame_equal(three_types.obs, before.obs)
    assert pd.read_csv(tmp_path / "out" / "split.csv")["split"].tolist() == split.tolist()
    assert (tmp_path / "out" / "report.html").exists()
    with pytest.raises(ScDMCError, match="exists already"):
        scdmc.fine_tune(three_types, model_path, label_key="cell_type", output_dir=tmp_path / "out")
    for wrong, said in ((split[:-1], "one word for each of the"), (np.full(len(split), "tets"), "unknown words tets")):
        with pytest.raises(ScDMCError, match=said):
            scdmc.fine_tune(three_types, model_path, label_key="cell_type", output_dir=tmp_path / "new", split=wrong)


def test_a_classifier_without_calibration_says_so(tmp_path, three_types, classifier_path, caplog):
    shutil.copytree(classifier_path, tmp_path / "bare")
    for name in ("calibration.json", "manifest.json"):
        (tmp_path / "bare" / name).unlink()
    scdmc.annotate(three_types[:5].copy(), tmp_path / "bare")
    assert any("has no calibration" in record.message for record in caplog.records)


def test_the_matrix_is_never_read_as_a_whole(monkeypatch, annotate, three_types):
    def read_all(*_):
        raise AssertionError("the whole matrix was read")

    monkeypatch.setattr(anndata, "read_h5ad", read_all)
    three = annotate(three_types, suffix=".csv")
    assert len(three) == three_types.n_obs


def test_columns_and_embeddings_are_written_as_anndata_does(labelled, annotate, three_types, tmp_path):
    labelled.write_h5ad(tmp_path / "again.h5ad")
    with h5py.File(tmp_path / "again.h5ad") as file:
        assert file["obsm/X_scDMC"].attrs["encoding-type"] == "array"
        assert file["obs/scDMC_cell_type"].attrs["encoding-type"] == "categorical"
