"""downstream_tasks.py from end to end on real cells and a tiny model: runs, folds, an unseen type, every output."""

import html
import json

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from scdmc.annotation import study
from scdmc.annotation.calibration import expected_calibration_error
from scdmc.model.folder import open_model_directory
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.model.storage import load
from scdmc.result_folders import result_folder
from tests.small_models import save_small_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "tiny", CONTEXT, initializer_range=0.25)


CONTEXT = 64
TYPES = ["alpha", "beta", "ductal"]


@pytest.fixture(scope="module")
def data_path(tmp_path_factory, islets_path):
    """Three types, from three libraries."""
    adata = anndata.read_h5ad(islets_path)
    path = tmp_path_factory.mktemp("data") / "three.h5ad"
    adata[adata.obs["cell_type"].isin(TYPES)].copy().write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def fine_tune(load_script, model_path, data_path):
    """A function that runs the script with further flags, and returns its status."""
    main = load_script("downstream_tasks/downstream_tasks.py").main

    def run(output, *flags):
        return main([str(word) for word in (
            "--pretrained_model_path", model_path, "--finetune_data_path", data_path, "--output_dir", output,
            "--num_gpus", 0, "--epochs", 1, *flags)])  # fmt: skip

    return run


@pytest.fixture(scope="module")
def single(fine_tune, tmp_path_factory):
    """The folder of a run with the defaults."""
    output = tmp_path_factory.mktemp("single") / "out"
    assert fine_tune(output, "--epochs", 3, "--learning_rate", "5e-3") == 0
    return output


def metric(folder, method, name, column="value"):
    table = pd.read_csv(folder / "metrics.csv")
    return table[(table["method"] == method) & (table["metric"] == name)][column].item()


def test_the_outputs_of_a_run_are_complete(single):
    names = {path.name for path in single.iterdir()}
    figures = ("confusion_matrix", "reliability", "per_class", "umap", "loss_curves")
    assert {f"{name}.{suffix}" for name in figures for suffix in ("png", "pdf")} <= names
    assert {"metrics.csv", "per_class.csv", "predictions.csv", "split.csv", "history.csv", "arguments.json",
            "report.html", "calibration.json", "training_genes.json", "model.safetensors"} <= names  # fmt: skip
    assert isinstance(load(single), ScDMCForCellClassification)
    page = (single / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(figures)
    assert f"macro-F1 {metric(single, 'scDMC fine-tuned', 'macro_f1'):.3f}" in page


def test_the_map_of_cells_does_not_change_the_number_of_threads(single):
    assert (single / "umap.png").exists()
    assert torch.get_num_threads() == 1


def test_every_method_has_every_metric(single):
    table = pd.read_csv(single / "metrics.csv").pivot(index="method", columns="metric", values="value")
    assert set(table.columns) == {
        "accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "macro_precision", "macro_recall", "cohen_kappa",
        "matthews_correlation", "expected_calibration_error"}  # fmt: skip
    on_components = "logistic regression on principal components"
    assert f"“{on_components}” is transductive" in (single / "report.html").read_text()
    assert {"scDMC fine-tuned", "logistic regression", on_components, "15-NN on PCA", "majority class"} <= set(
        table.index
    )
    assert table.notna().all().all()


def test_predictions_hold_three_classes_with_calibrated_probabilities(single):
    table = pd.read_csv(single / "predictions.csv")
    probabilities = table[["probability", "second_probability", "third_probability"]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)  # there are three types
    assert (np.diff(probabilities, axis=1) <= 0).all()
    assert (table[["predicted", "second", "third"]].apply(set, axis=1) == set(TYPES)).all()
    test = table[table["split"] == "test"]
    is_right = test["label"] == test["predicted"]
    error = expected_calibration_error(test["probability"].to_numpy(), is_right.to_numpy())
    assert metric(single, "scDMC fine-tuned", "expected_calibration_error") == pytest.approx(error)
    assert metric(single, "scDMC fine-tuned", "accuracy") == pytest.approx(is_right.mean())


def test_probabilities_are_those_of_the_calibrated_temperature(single, load_script, data_path, tmp_path):
    calibration = json.loads((single / "calibration.json").read_text())
    assert calibration["temperature"] != 1
    assert calibration["cells"] == (pd.read_csv(single / "split.csv")["split"] == "validation").sum()
    annotate = load_script("downstream_tasks/annotate.py").main
    output = tmp_path / "labelled.csv"
    assert annotate(["--model_path", str(single), "--data_path", str(data_path), "--output_file", str(output)]) == 0
    predicted = pd.read_csv(single / "predictions.csv").set_index("cell_id")
    annotated = pd.read_csv(output, index_col="cell_id")
    assert (annotated["scDMC_cell_type"] == predicted["predicted"]).all()
    np.testing.assert_allclose(annotated["scDMC_probability"], predicted["probability"], atol=1e-5)


def test_cells_of_no_type_are_neither_trained_on_nor_scored_and_the_report_counts_them(
    fine_tune, load_script, data_path, tmp_path, capsys
):
    adata = anndata.read_h5ad(data_path)
    types = adata.obs["cell_type"].astype(str).to_numpy()
    types[::7], types[::11] = "Doublet", "other"
    n_doublets = (types == "Doublet").sum()
    adata.obs["cell_type"] = types
    adata.write_h5ad(tmp_path / "doublets.h5ad")
    flags = ("--data_path", tmp_path / "doublets.h5ad", "--keep_labels", "other", "--min_cells_per_type", 3)
    assert fine_tune(tmp_path / "out", *flags, "--baselines", "none", "--epochs", 1) == 0
    assert f"{n_doublets} cells have a label of no type, 'Doublet' ({n_doublets})" in capsys.readouterr().err
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert set(predictions["predicted"]) | set(predictions["label"].dropna()) == {*TYPES, "other"}
    assert (predictions.loc[types == "Doublet", "split"] == "left_out").all()
    page = html.unescape((tmp_path / "out" / "report.html").read_text())
    assert f"'Doublet' ({n_doublets})" in page
    split_cells = load_script("prepare/split_cells.py").main
    split = tmp_path / "split.csv"
    assert split_cells([str(word) for word in (*flags[:2], "--output_file", split, *flags[4:])]) == 0
    assert fine_tune(tmp_path / "new", *flags[:4], "--split_file", split) == 2
    assert "or with other --ignore_labels or --keep_labels; make it again" in capsys.readouterr().err


def test_several_seeds_are_averaged_with_their_standard_deviation(fine_tune, tmp_path, monkeypatch):
    output, seen = tmp_path / "out", set()

    def look(name, function, *arguments):
        seen.add((name, torch.are_deterministic_algorithms_enabled()))
        return function(*arguments)

    classify, embed = ScDMCForCellClassification.classify, study.cell_embeddings
    monkeypatch.setattr(ScDMCForCellClassification, "classify", lambda *given: look("classify", classify, *given))
    monkeypatch.setattr(study, "cell_embeddings", lambda *given: look("embed", embed, *given))
    assert fine_tune(output, "--seeds", 2, "--seed", 3, "--baselines", "fast", "--deterministic") == 0
    assert seen == {("classify", True), ("embed", True)}
    for method in ("scDMC fine-tuned", "logistic regression"):
        values = [metric(output / run, method, "macro_f1") for run in ("seed_3", "seed_4")]
        assert metric(output, method, "macro_f1") == pytest.approx(np.mean(values))
        assert metric(output, method, "macro_f1", "sd") == pytest.approx(np.std(values, ddof=1))
        assert metric(output, method, "macro_f1", "runs") == 2
    by_run = pd.read_csv(output / "metrics_by_run.csv")
    assert by_run["run"].unique().tolist() == ["seed_3", "seed_4"]
    best = max(("seed_3", "seed_4"), key=lambda run: pd.read_csv(output / run / "history.csv")["eval_macro_f1"].max())
    for name in ("model.safetensors", "split.csv", "calibration.json"):
        assert (output / name).read_bytes() == (output / best / name).read_bytes()
    predictions = pd.read_csv(output / "predictions.csv")
    assert predictions.groupby("run").size().nunique() == 1
    assert {"f1_sd", "runs"} <= set(pd.read_csv(output / "per_class.csv"))


def test_folds_of_whole_groups_test_every_cell_once(fine_tune, tmp_path, data_path):
    output = tmp_path / "out"
    flags = ("--cross_validate", 3, "--split_by", "batch", "--baselines", "none", "--min_cells_per_type", 3)
    assert fine_tune(output, *flags) == 0
    predictions = pd.read_csv(output / "predictions.csv")
    tested = predictions[predictions["split"] == "test"]
    obs = anndata.read_h5ad(data_path).obs
    assert sorted(tested["cell_id"]) == sorted(obs.index)
    batches = obs.loc[tested["cell_id"], "batch"].to_numpy()
    assert pd.Series(batches).groupby(tested["run"].to_numpy()).nunique().tolist() == [1, 1, 1]


def test_confidence_on_a_type_that_was_held_out_is_scored(fine_tune, tmp_path):
    output = tmp_path / "out"
    assert fine_tune(output, "--hold_out_type", "ductal", "--epochs", 8, "--learning_rate", "5e-3") == 0
    predictions = pd.read_csv(output / "predictions.csv")
    ductal = predictions[predictions["label"] == "ductal"]
    assert set(ductal["split"]) == {"left_out", "test"}
    assert set(predictions["predicted"]) == {"alpha", "beta"}
    assert load(output).config.label2id.keys() == {"alpha", "beta"}
    test = predictions[predictions["split"] == "test"]
    # Worked out from pairs: how often is a seen cell more certain than an unseen one.
    seen, unseen = (test.loc[(test["label"] != "ductal") == kind, "probability"].to_numpy() for kind in (True, False))
    pairs = (seen[:, None] > unseen).mean() + 0.5 * (seen[:, None] == unseen).mean()
    assert metric(output, "scDMC fine-tuned", "open_set_auroc") == pytest.approx(pairs)
    assert 0 <= metric(output, "logistic regression", "open_set_auroc") <= 1
    seen_cells = test[test["label"] != "ductal"]
    accuracy = (seen_cells["label"] == seen_cells["predicted"]).mean()
    assert metric(output, "scDMC fine-tuned", "accuracy") == pytest.approx(accuracy)
    assert "A type that was never seen" in (output / "report.html").read_text()


def test_cells_of_types_that_were_never_learned_become_unknown_where_the_classifier_is_unsure(
    fine_tune, load_script, islets_path, tmp_path, capsys
):
    assert fine_tune(tmp_path / "two", "--hold_out_type", "ductal", "--epochs", 8, "--learning_rate", "5e-3") == 0
    annotate = load_script("downstream_tasks/annotate.py").main
    command = ["--model_path", tmp_path / "two", "--data_path", islets_path, "--output_file"]
    assert annotate([str(word) for word in (*command, tmp_path / "sure.csv")]) == 0
    assert "no cell is Unknown for being uncertain" in capsys.readouterr().out
    labelled = pd.read_csv(tmp_path / "sure.csv")
    assert set(labelled["scDMC_cell_type"]) == {"alpha", "beta"}
    threshold = labelled["scDMC_probability"].median()
    assert annotate([str(word) for word in (*command, tmp_path / "unsure.csv", "--min_probability", threshold)]) == 0
    assert "no cell is Unknown" not in capsys.readouterr().out
    is_unknown = (pd.read_csv(tmp_path / "unsure.csv")["scDMC_cell_type"] == "Unknown").to_numpy()
    is_learned = anndata.read_h5ad(islets_path).obs["cell_type"].isin(["alpha", "beta"]).to_numpy()
    assert (is_unknown == (labelled["scDMC_probability"] < threshold)).all()
    assert 0.2 < is_unknown[~is_learned].mean() < 0.8


def test_the_same_model_without_pretraining_stands_beside_ours(fine_tune, tmp_path):
    assert fine_tune(tmp_path / "all", "--baselines", "all") == 0
    untrained = metric(tmp_path / "all", "scDMC without pre-training", "expected_calibration_error")
    assert fine_tune(tmp_path / "scratch", "--from_scratch", "--baselines", "none") == 0
    # The same weights, order and cells: the same numbers.
    alone = metric(tmp_path / "scratch", "scDMC without pre-training", "expected_calibration_error")
    assert alone == pytest.approx(untrained, abs=1e-6)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--cross_validate", 99), "use fewer folds"),
        (("--hold_out_type", "no such type"), "there are alpha, beta, ductal"),
        (("--train", "top_layers", "--train_layers", 9), "the model has 1 layers"),
        (("--train_layers", 2), "--train_layers has no effect with --train full, only with top_layers"),
        (("--train", "classifier", "--lora_rank", 8), "--lora_rank has no effect with --train classifier"),
        (("--train", "lora", "--embedding_optimizer", "sgd"), "--embedding_optimizer has no effect with --train lora"),
        (("--embedding_optimizer", "adamw", "--embedding_rate", 0), "--embedding_rate has no effect unless"),
        (("--cross_validate", 3, "--test_fraction", 0.2), "--test_fraction has no effect with --cross_validate"),
        (("--split_file", "x.csv", "--split_by", "batch"), "--split_by has no effect with --split_file"),
        (("--split_file", "x.csv", "--test_fraction", 0.2), "--test_fraction has no effect with --split_file"),
    ],
)
def test_what_cannot_be_done_is_refused_with_one_line_and_no_output(fine_tune, tmp_path, capsys, flags, said):
    assert fine_tune(tmp_path / "out", "--baselines", "none", *flags) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert said in error[0]
    assert not (tmp_path / "out").exists()


def test_the_flags_reach_the_training(fine_tune, tmp_path):
    flags = ("--train", "classifier", "--pooling", "weighted", "--stream", "rank", "--sampler", "balanced",
             "--class_weights", "balanced", "--gene_dropout", 0.2, "--patience", 2, "--baselines", "none",
             "--max_length", 37)  # fmt: skip
    assert fine_tune(tmp_path / "out", *flags) == 0
    model = load(tmp_path / "out")
    assert (model.config.classifier_pooling, model.config.classifier_stream) == ("weighted", "rank")
    directory = open_model_directory(tmp_path / "out")
    assert (directory.context, directory.settings.model_input_size) == (37, 37)
    card = (tmp_path / "out" / "README.md").read_text()
    for said in ("train classifier", "sampler balanced", "class_weights balanced", "gene_dropout 0.2", "patience 2"):
        assert said in card


def test_bfloat16_gives_a_classifier_of_float32_weights(fine_tune, tmp_path, single, data_path, load_script):
    flags = ("--dtype", "bfloat16", "--split_file", single / "split.csv", "--epochs", 3, "--learning_rate", "5e-3")
    assert fine_tune(tmp_path / "out", *flags) == 0
    assert {weight.dtype for weight in load(tmp_path / "out").state_dict().values()} == {torch.float32}
    assert "dtype bfloat16" in (tmp_path / "out" / "README.md").read_text()
    float32, bfloat16 = (pd.read_csv(folder / "predictions.csv") for folder in (single, tmp_path / "out"))
    assert (float32["probability"] != bfloat16["probability"]).any()
    annotate = load_script("downstream_tasks/annotate.py").main
    command = ["--model", tmp_path / "out", "--data_path", data_path, "--output_file", tmp_path / "labelled.csv"]
    assert annotate([str(word) for word in command]) == 0  # in float32
    labelled = pd.read_csv(tmp_path / "labelled.csv")
    assert (labelled["scDMC_cell_type"] == bfloat16["predicted"]).mean() > 0.95
    assert (labelled["scDMC_probability"] - bfloat16["probability"]).abs().mean() < 0.02


def test_fewer_labels_are_a_part_of_the_same_split(fine_tune, tmp_path, single):
    assert fine_tune(tmp_path / "out", "--label_fraction", 0.3, "--baselines", "none") == 0
    full, fewer = (pd.read_csv(folder / "split.csv") for folder in (single, tmp_path / "out"))
    assert (fewer["cell_id"] == full["cell_id"]).all()
    is_used = fewer["split"] != "left_out"
    assert (fewer["split"] == full["split"])[is_used].all()
    sizes = {split.name: split for split in (full.groupby(["split", "label"]).size().rename("full"),
                                             fewer.groupby(["split", "label"]).size().rename("fewer"))}  # fmt: skip
    for part, label in sizes["full"].index:
        expected = sizes["full"][part, label]
        if part != "test":
            expected = max(1, round(0.3 * expected))
        assert sizes["fewer"][part, label] == expected


def test_low_rank_additions_have_the_rank_that_was_asked_for(fine_tune, model_path, tmp_path):
    flags = ("--train", "lora", "--lora_rank", 3, "--learning_rate", "1e-2", "--baselines", "none",
             "--classifier_start", "random")  # fmt: skip
    assert fine_tune(tmp_path / "out", *flags) == 0
    before, after = (dict(load(folder).bert.named_parameters()) for folder in (model_path, tmp_path / "out"))
    change = {name: (after[name] - before[name]).detach().double().numpy() for name in before}
    matrix = change["encoder.layer.0.attention.self.Wqkv.weight"]
    sizes = np.linalg.svd(matrix, compute_uv=False)
    assert sizes[2] > 1e3 * sizes[3]
    assert not change["embeddings.word_embeddings.weight"].any()
    assert "lora_rank 3" in (tmp_path / "out" / "README.md").read_text()


def test_dropout_before_the_classifier_reaches_the_training(fine_tune, tmp_path):
    losses = {}
    for dropout in (0, 0.9):
        output = tmp_path / str(dropout)
        flags = ("--classifier_dropout", dropout, "--baselines", "none", "--train", "classifier",
                 "--classifier_start", "random")  # fmt: skip
        assert fine_tune(output, *flags) == 0
        assert load(output).config.classifier_dropout == dropout
        losses[dropout] = pd.read_csv(output / "history.csv")["loss"][0]
    assert losses[0.9] > losses[0]


def test_a_pre_trained_model_starts_from_a_probe_and_a_random_one_does_not(fine_tune, tmp_path):
    starts = {}
    for name, flags in {"pre-trained": (), "random": ("--from_scratch",)}.items():
        assert fine_tune(tmp_path / name, "--baselines", "none", *flags) == 0
        epochs = pd.read_csv(tmp_path / name / "history.csv")["epoch"].tolist()
        starts[name] = epochs, load(tmp_path / name).config.classifier_dropout
    assert starts == {"pre-trained": ([0, 1], 0.0), "random": ([1], 0.1)}
    assert "classifier_start probe" in (tmp_path / "pre-trained" / "README.md").read_text()
    flags = ("--from_scratch", "--classifier_start", "probe")
    assert fine_tune(tmp_path / "asked", "--baselines", "none", *flags) == 0
    assert "classifier_start probe" in (tmp_path / "asked" / "README.md").read_text()


def test_a_run_leaves_the_random_state_of_the_caller_alone(fine_tune, tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert fine_tune(tmp_path / "out", "--baselines", "fast") == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_folders_of_runs_of_an_earlier_start_go_and_nothing_else(fine_tune, tmp_path):
    output = tmp_path / "out"
    with result_folder(output) as folder:
        for run in ("seed_4", "seed_5_fold_1"):
            (folder / run).mkdir()
            (folder / run / "config.json").touch()
    others = ("seed_3_mine", "seed_6")
    for name in others:  # no run of ours, but something of the user's
        (output / name).mkdir()
        (output / name / "config.json").touch()
    flags = ("--baselines", "none", "--train", "classifier", "--seeds", 2, "--seed", 3, "--overwrite")
    assert fine_tune(output, *flags) == 0
    assert {path.name for path in output.glob("seed_*")} == {"seed_3", "seed_4", *others}
    assert (output / "seed_4" / "report.html").exists()


def test_seeds_that_share_a_split_are_also_scored_together(fine_tune, tmp_path, single):
    output = tmp_path / "out"
    flags = ("--seeds", 2, "--split_file", single / "split.csv", "--baselines", "none", "--train", "lora")
    assert fine_tune(output, *flags) == 0
    together = "scDMC fine-tuned, 2 together"
    assert metric(output, together, "macro_f1", "runs") == 1
    predictions = pd.read_csv(output / "predictions.csv")
    test = predictions[predictions["split"] == "test"]
    assert test.groupby("cell_id").size().unique().tolist() == [2]
    # Where both seeds agree, so do they together.
    agreeing = test.groupby("cell_id").filter(lambda rows: rows["predicted"].nunique() == 1)
    n_right = (agreeing["label"] == agreeing["predicted"]).sum() / 2
    assert metric(output, together, "accuracy") >= n_right / (len(test) / 2)
