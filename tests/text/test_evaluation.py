"""Evaluation of annotation by text: metrics by hand, controls, resuming, inputs that are refused."""

import json
import shutil
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest

from scdmc.errors import ScDMCError
from scdmc.text.evaluation import annotation, rounds
from scdmc.text.evaluation.annotation_page import annotation_verdict
from scdmc.text.evaluation.methods import DELETED, METHODS, OURS, PERMUTED, TextModel, pooled
from scdmc.text.evaluation.rows import COLUMNS, KeptRows, Score, Unit, metric_table
from scdmc.text.evaluation.scores import Prediction, held_out_scores, label_scores, none_scores, recall_at
from scdmc.text.ontology import CellOntology

ALPHA, BETA, ENDOCRINE, T_CELL = "CL:0000171", "CL:0000169", "CL:0000163", "CL:0000084"
FEW = (OURS, PERMUTED, DELETED, "genes named in the definition", "chance")


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("downstream_tasks/text_eval.py")


@pytest.fixture(scope="module")
def words(text_world):
    """A function: a command line that writes to a folder."""

    def command(output_dir, *more):
        given = {"--corpus_dir": text_world["corpus"], "--model": text_world["cells"], "--output_dir": output_dir,
                 "--text_encoder": text_world["texts"], "--new_data_path": text_world["islets"], "--seeds": 1,
                 "--held_out_folds": 1, "--max_steps": 40, "--n_components": 20}  # fmt: skip
        return [str(word) for flag in given.items() for word in flag] + [str(word) for word in more]

    return command


@pytest.fixture(scope="module")
def few():
    """Few methods, and types of ten cells that are held out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotation, "METHODS", [method for method in METHODS if method.name in FEW])
        patch.setattr(rounds, "FEWEST_CELLS_HELD_OUT", 10)
        yield


@pytest.fixture(scope="module")
def evaluated(script, words, few, tmp_path_factory):
    """A folder of results."""
    folder = tmp_path_factory.mktemp("evaluated") / "scores"
    assert script.main(words(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def inputs(script, words, tmp_path_factory):
    return script.opened_inputs(script.parse_arguments(words(tmp_path_factory.mktemp("inputs") / "scores")))


# ---- metrics


def as_table(scores):
    return {(score.metric, score.type): score.value for score in scores}


def test_scores_are_those_by_hand():
    ontology, candidates = CellOntology.load(), [ALPHA, BETA, ENDOCRINE, T_CELL]
    truth = np.array([ALPHA, ALPHA, BETA, BETA], dtype=object)
    predicted = [0, 2, 1, 3]  # right, an ancestor, right, another lineage
    scores = np.full((4, 4), 0.1)
    scores[range(4), predicted] = [0.9, 0.6, 0.8, 0.7]
    scores[3, 1] = 0.5
    found = as_table(label_scores(Prediction(scores, probabilities=scores), truth, candidates, ontology))
    assert found["accuracy", ""] == found["balanced_accuracy", ""] == 0.5
    # Recall 1/2 and precision 1 of both true types, 0 of the two that are only predicted.
    assert found["macro_f1", ""] == pytest.approx((2 / 3 + 2 / 3) / 4)
    assert found["equal_or_ancestor", ""] == 0.75
    steps = [0, ontology.distance(ALPHA, ENDOCRINE), 0, ontology.distance(BETA, T_CELL)]
    assert found["ontology_distance", ""] == np.mean(steps) > 0
    # Each cell is alone in its bin: its gap is that of its confidence from 0 or 1.
    assert found["ece", ""] == pytest.approx(np.mean([0.1, 0.6, 0.2, 0.7]))
    assert found["recall_at_3", ""] == 1.0
    assert recall_at(scores, truth, candidates, 2).tolist() == [True, True, True, True]
    assert recall_at(scores, truth, candidates, 1).tolist() == [True, False, True, False]


def test_scores_of_strangers_and_of_types_held_out_are_those_by_hand():
    truth = np.array([ALPHA, ALPHA, BETA, BETA], dtype=object)
    none = {ALPHA: np.array([0.9, 0.2, 0.3, 0.1]), BETA: np.array([0.1, 0.1, 0.5, 0.6])}
    found = as_table(none_scores(none, truth, fewest=2))
    assert found == {("none_auroc", ALPHA): 0.75, ("none_auroc", BETA): 1.0, ("none_auroc", ""): 0.875}
    assert not none_scores(none, truth, fewest=3)
    scores = np.array([[3, 2, 1, 0], [0, 1, 2, 3], [3, 2, 1, 0], [0, 3, 1, 2]])
    candidates = [ALPHA, BETA, ENDOCRINE, T_CELL]
    found = as_table(held_out_scores(Prediction(scores), truth, candidates, [ALPHA]))
    assert found == {("unseen_recall_at_1", ""): 0.5, ("unseen_recall_at_3", ""): 0.5, ("seen_recall", ""): 0.5}


def test_metrics_are_means_over_seeds():
    values = [("annotation", "new data", "a", 0, "x", seed, "", "accuracy", value) for seed, value in
              [(1, 0.5), (2, 0.7)]]  # fmt: skip
    of_type = [("annotation", "new data", "a", 0, "x", 1, BETA, "accuracy", 0.0)]
    (row,) = metric_table(pd.DataFrame(values + of_type, columns=list(COLUMNS))).to_dict("records")
    assert (row["mean"], row["n"]) == (pytest.approx(0.6), 2)
    assert row["sd"] == pytest.approx(np.sqrt(0.02))


@pytest.mark.parametrize(
    ("ours", "of_components", "level"), [(0.9, 0.9, "good"), (0.9, 0.95, "caution"), (0.3, 0.3, "bad")]
)
def test_the_verdict_follows_the_scores(ours, of_components, level):
    means = {OURS: ours, "PCA 50 + text, same losses": of_components, PERMUTED: 0.25}
    rows = [("annotation", "new data", "a", name, "accuracy", mean, 0.01, 3) for name, mean in means.items()]
    names = ["task", "mode", "data_set", "method", "metric", "mean", "sd", "n"]
    assert annotation_verdict(pd.DataFrame(rows, columns=names)).level == level


def test_pairs_alone_have_a_verdict():
    columns = ["task", "mode", "data_set", "method", "metric", "mean", "sd", "n"]
    rows = [("annotation", rounds.HELD_OUT_PAIR, "a", OURS, "pair_accuracy", 0.8, 0.1, 3)]
    assert annotation_verdict(pd.DataFrame(rows, columns=columns)).level == "caution"


# ---- the script


def test_words_carry_the_types_and_permuted_words_are_chance(evaluated):
    metrics = pd.read_csv(evaluated / "metrics.csv")
    assert list(metrics) == ["task", "mode", "data_set", "method", "metric", "mean", "sd", "n"]
    assert set(metrics["mode"]) == set(rounds.MODES)
    means = metrics.set_index(["mode", "data_set", "method", "metric"]).sort_index()["mean"]["new data", "islets_300"]
    types = pd.read_csv(evaluated / "per_type.csv")
    n_types = types.loc[(types["mode"] == "new data") & (types["method"] == OURS), "type"].nunique()
    assert means[OURS, "accuracy"] > 0.6
    assert means[PERMUTED, "accuracy"] < 0.3
    assert abs(means["chance", "accuracy"] - 1 / n_types) < 0.1
    assert means[DELETED, "share_without_label"] == 1
    pairs = metrics[metrics["metric"] == "pair_accuracy"]
    assert pairs["mean"].between(0, 1).all()


def test_the_folder_is_whole_and_has_its_figures(evaluated):
    names = json.loads((evaluated / "manifest.json").read_text())["files"]
    figures = {f"{name}_islets_300.{kind}" for name in ("confusion", "reliability") for kind in ("png", "pdf")}
    assert set(names) == {"metrics.csv", "metrics.md", "per_type.csv", "report.html", *figures}
    assert not (evaluated / "rows" / "states").exists()
    page = (evaluated / "report.html").read_text()
    assert "Held-out pair" in page
    assert "get their types by words" in page


def test_what_is_there_is_not_computed_again_and_what_is_missing_comes_out_the_same(
    script, words, few, evaluated, tmp_path, monkeypatch
):
    copy = shutil.copytree(evaluated, tmp_path / "scores")
    path = copy / "rows" / "rows.csv"
    table = pd.read_csv(path, dtype={"type": str}, keep_default_na=False)
    is_missing = (table["mode"] == "new data") & table["method"].isin(["chance", "genes named in the definition"])
    table[~is_missing].to_csv(path, index=False)

    def never(of_round, seed):
        raise AssertionError("this is there")

    known = ("chance", "genes named in the definition")
    monkeypatch.setattr(
        annotation, "METHODS", [m if m.name in known else replace(m, fit=never) for m in annotation.METHODS]
    )
    assert script.main(words(copy)) == 0
    order = list(COLUMNS)[:-1]
    before, after = (
        pd.read_csv(folder / "rows" / "rows.csv", keep_default_na=False).sort_values(order, ignore_index=True)
        for folder in (evaluated, copy)
    )
    pd.testing.assert_frame_equal(before, after)


def test_other_settings_are_not_mixed_with_the_rows_that_are_there(script, words, evaluated, capsys):
    assert script.main(words(evaluated, "--max_steps", "41")) == 2
    assert "holds rows with another max_steps" in capsys.readouterr().err
    (evaluated / "rows" / "odd").mkdir()
    (evaluated / "rows" / "odd" / "rows.csv").write_text("a,b\n1,2\n")
    (evaluated / "rows" / "odd" / "run.json").write_text("{}")
    with pytest.raises(ScDMCError, match=r"holds no rows of text_eval\.py"):
        KeptRows(evaluated / "rows" / "odd", {})
    forgotten = KeptRows(evaluated / "rows" / "odd", {"seeds": 1}, is_forgotten=True)
    unit = Unit("annotation", "new data", "a", 0, "x", 1)
    forgotten.add(unit, [Score("accuracy", 0.5)])
    assert KeptRows(evaluated / "rows" / "odd", {"seeds": 1}).is_done(unit)


@pytest.mark.parametrize("flag", [("--recompute_totals",), ("--layer", "X"), ("--gene_id_column", "index")])
def test_counts_that_are_read_otherwise_are_not_mixed_with_the_rows_that_are_there(
    script, words, evaluated, capsys, flag
):
    assert script.main(words(evaluated, *flag)) == 2
    assert "holds rows with another reading of counts" in capsys.readouterr().err


@pytest.mark.parametrize(("facts", "forgets", "stays"), [({"a": 1}, False, True), ({"a": 2}, False, False),
                                                         ({"a": 1}, True, False)])  # fmt: skip
def test_states_of_a_run_that_was_stopped_before_its_first_row_serve_the_same_run_alone(
    tmp_path, facts, forgets, stays
):
    KeptRows(tmp_path / "rows", {"a": 1})
    states = tmp_path / "rows" / "states" / "some.npy"
    states.parent.mkdir()
    states.write_text("")
    KeptRows(tmp_path / "rows", facts, is_forgotten=forgets)
    assert states.exists() == stays


def test_a_task_that_was_stopped_is_kept_and_not_shown(tmp_path):
    rows = KeptRows(tmp_path / "rows", {"a": 1})
    for task in ("annotation", "description"):
        rows.add(Unit(task, "test cells", "a", 0, "x", 1), [Score("accuracy", 0.5)])
    rows.finish("annotation")
    again = KeptRows(tmp_path / "rows", {"a": 1})
    assert set(again.table["task"]) == {"annotation", "description"}
    assert set(again.whole["task"]) == {"annotation"}
    again.finish("description")
    assert len(KeptRows(tmp_path / "rows", {"a": 1}).whole) == 2


def test_a_new_file_may_be_called_corpus(script, words, text_world, tmp_path):
    few_cells = anndata.read_h5ad(text_world["islets"])[:60]
    few_cells.write_h5ad(tmp_path / "corpus.h5ad")
    flags = ("--new_data_path", tmp_path / "corpus.h5ad")
    found = script.opened_inputs(script.parse_arguments(words(tmp_path / "scores", *flags)))
    part = found.corpus.corpus.cells.obs["split"].to_numpy()
    for cells in (found.corpus.chosen(part == "test"), found.new_files[0].test_cells):
        assert len(cells.states_by("trained")(cells.cells)) == len(cells.cells)


# ---- what must not be seen


def test_labels_of_new_data_change_no_prediction(inputs):
    of_round = next(rounds.rounds(inputs))
    trial = next(each for each in of_round.trials if each.mode == rounds.NEW_DATA)
    judge = TextModel()(of_round, 1)
    order = np.random.default_rng(0).permutation(len(trial.cells.truth))
    other = replace(trial, cells=replace(trial.cells, truth=trial.cells.truth[order]))
    expected, found = (judge(each, each.candidates) for each in (trial, other))
    assert np.array_equal(found.scores, expected.scores)
    assert np.array_equal(found.none_of_these, expected.none_of_these)


def test_no_cell_and_no_text_of_a_held_out_type_is_trained_on(inputs, few):
    held_out = [each for each in rounds.rounds(inputs) if each.trials[0].held_out]
    assert held_out
    for of_round in held_out:
        pair = of_round.trials[0].held_out
        unseen = set().union(*(inputs.ontology.descendants(each) for each in pair))
        ids = of_round.space.terms["cl_id"].to_numpy()
        assert not unseen & set(ids)
        data = of_round.data("trained", "pca")
        trained = np.concatenate([ids[each.terms] for each in data.sets])
        assert not unseen & set(trained)
        names = of_round.corpus.cells.obs
        assert set(names.loc[names["cl_id"].isin(unseen), "split"]) == {"unseen"}


def test_a_data_set_that_is_left_out_is_not_trained_on(inputs):
    left_out = [each for each in rounds.rounds(inputs) if each.trials[0].mode == rounds.LEFT_OUT]
    assert [each.trials[0].data_set for each in left_out] == ["islets_0", "islets_1"]
    assert [each.data_sets for each in left_out] == [["islets_1"], ["islets_0"]]


def test_the_usual_recipe_mixes_data_sets_that_are_centred_as_one(inputs):
    data = next(rounds.rounds(inputs)).data("trained", "pca")
    (merged,) = pooled(data).sets
    assert len(merged.terms) == sum(len(each.terms) for each in data.sets)
    assert np.allclose(merged.features[merged.is_training].mean(axis=0), 0, atol=1e-4)
    first = merged.features[: len(data.sets[0].terms)]
    assert np.abs(first.mean(axis=0)).max() > 0.05  # one of the sets alone is off the common centre


# ---- inputs


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--label_key", "absent"], "obs has no column 'absent'"),
        (["--label_key", "a", "b", "c"], "--label_key: 3 columns for 1 files"),
        (["--cell_type_table", "absent.tsv"], "absent.tsv"),
        (["--corpus_dir", "."], "corpus.json"),
    ],
)
def test_inputs_that_say_nothing_are_refused_in_one_line(script, words, tmp_path, capsys, more, message):
    assert script.main(words(tmp_path / "scores", *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "scores").exists()


def test_labels_that_are_no_terms_and_a_corpus_of_another_model_are_refused(
    script, words, text_world, tmp_path, capsys
):
    odd = anndata.read_h5ad(text_world["islets"])
    odd.obs["cell_type"] = ["alpha", "zzz of nothing"] * (odd.n_obs // 2)
    odd.write_h5ad(tmp_path / "odd.h5ad")
    assert script.main(words(tmp_path / "scores", "--new_data_path", tmp_path / "odd.h5ad")) == 2
    assert "'zzz of nothing' (150 cells; nearest" in capsys.readouterr().err
    corpus = shutil.copytree(text_world["corpus"], tmp_path / "corpus")
    (corpus / "manifest.json").unlink()
    facts = json.loads((corpus / "corpus.json").read_text())
    (corpus / "corpus.json").write_text(json.dumps(facts | {"gene_medians": "0" * 64}))
    assert script.main(words(tmp_path / "scores", "--corpus_dir", corpus)) == 2
    assert "was made with another gene medians" in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()
