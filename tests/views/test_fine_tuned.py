"""The fine-tuned view: out of fold, the same each time, weighed and kept as the others are."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest

import scdmc
from scdmc.annotation import fine_tuning
from scdmc.annotation.options import ClassifierOptions
from scdmc.cells.data import tokenizer_of_model
from scdmc.cells.shared_genes import GeneKeys, read_cell_counts
from scdmc.errors import ScDMCError
from scdmc.labels import labels_of
from scdmc.model.encoder import ScDMCModel
from scdmc.model.storage import load_model
from scdmc.reading.counts import counts_of_adata
from scdmc.reading.options import CountOptions
from scdmc.views.classifier import fit_view_classifier
from scdmc.views.fine_tuned import FineTuner, training_split
from scdmc.views.held_out import held_out_scores
from scdmc.views.regression import LabelledFolds

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TYPES = ("acinar", "beta", "ductal", "endothelial")
N_FOLDS = 3


@pytest.fixture(scope="module")
def halves(islets_path):
    """A labelled file of 60 cells of four types, and two new cells of each."""
    adata = anndata.read_h5ad(islets_path)
    adata = adata[adata.obs["cell_type"].isin(TYPES)].copy()
    place = adata.obs.groupby("cell_type", observed=True).cumcount().to_numpy()
    reference, new = adata[place < 15].copy(), adata[(place >= 15) & (place < 17)].copy()
    new.obs["truth"] = new.obs.pop("cell_type").astype(str)
    return reference, new


@pytest.fixture(scope="module")
def tuner(model_directory, model_path):
    """A short training from a random classifier, so that the epoch is what is kept."""
    settings = {"epochs": 1, "classifier_start": "random", "learning_rate": 5e-3}
    return FineTuner(model_directory, load_model(model_path, ScDMCModel), 0, ClassifierOptions(settings=settings))


@pytest.fixture(scope="module")
def labelled(halves, model_directory):
    """Tokens of the labelled cells, and their types by number; 48 of them are in folds."""
    tokenizer = tokenizer_of_model(model_directory, CountOptions())
    counts = counts_of_adata(halves[0])
    cells = read_cell_counts(counts, GeneKeys.of(counts, tokenizer)).tokenized(tokenizer)
    types = np.searchsorted(TYPES, labels_of(halves[0].obs["cell_type"]).astype(str))
    return cells, types, np.arange(len(types)) % 5 != 0


@pytest.fixture
def one_epoch(monkeypatch):
    monkeypatch.setattr(fine_tuning, "FEWEST_EPOCHS", 1)
    monkeypatch.setattr(fine_tuning, "MOST_EPOCHS", 1)


def fitted(tuner, cells, types, in_fold):
    chosen = np.flatnonzero(in_fold)
    taught = LabelledFolds(types, chosen, np.arange(len(chosen)) % N_FOLDS, np.arange(len(types)))
    return tuner.fit(cells, np.array(TYPES, dtype=object), taught)


def test_no_cell_is_called_by_a_model_that_saw_its_label(tuner, labelled, capsys):
    cells, types, in_fold = labelled
    out_of_fold, view = fitted(tuner, *labelled)
    told = capsys.readouterr().err
    assert told.count("fine-tuning 4 times (3 folds and all cells): about ") == 1
    assert told.index("on this machine") < told.index("fine-tune:")
    np.testing.assert_allclose(out_of_fold.sum(axis=1), 1, atol=1e-5)
    assert view.best_epochs == (1, 1, 1, 1)

    chosen, other = np.flatnonzero(in_fold), types.copy()
    held_out = chosen[np.arange(len(chosen)) % N_FOLDS == 0]
    other[held_out] = np.roll(types[held_out], 5)  # what the first fold's model must not see
    other[~in_fold] = np.roll(types[~in_fold], 4)  # and none of them these
    assert (other[held_out] != types[held_out]).any()
    assert (other[~in_fold] != types[~in_fold]).any()
    again, other_view = fitted(tuner, cells, other, in_fold)
    fold_of = np.arange(len(types)) % N_FOLDS
    fold_of[chosen] = np.arange(len(chosen)) % N_FOLDS
    np.testing.assert_array_equal(again[fold_of == 0], out_of_fold[fold_of == 0])
    for fold in (1, 2):  # their models saw other labels of the first fold
        assert not np.allclose(again[fold_of == fold], out_of_fold[fold_of == fold], atol=1e-4)
    assert not np.allclose(other_view.probabilities(cells), view.probabilities(cells), atol=1e-4)


def test_the_view_is_weighed_as_the_others_are_and_controls_do_without_it(tuner, labelled):
    cells, types, _ = labelled
    rng = np.random.default_rng(0)
    guess = np.eye(4)[types] + rng.normal(0, 0.7, (len(types), 4))
    features = {"genes": guess.astype(np.float32), "finetuned": cells}
    labels = np.array(TYPES, dtype=object)[types]
    alone, of_alone = fit_view_classifier({"genes": features["genes"]}, labels)
    classifier, held_out = fit_view_classifier(features, labels, fine_tuner=tuner)
    weights = classifier.consensus_of(["genes", "finetuned"]).weights
    assert set(weights) == {"genes", "finetuned"}
    assert sum(weights.values()) == pytest.approx(1)
    scores = held_out_scores(classifier, held_out, labels).methods
    assert scores["weight"][["genes", "finetuned"]].sum() == pytest.approx(1)
    of_genes = held_out_scores(alone, of_alone, labels).methods.loc["genes"].drop("weight")
    pd.testing.assert_series_equal(
        scores.loc["all views without scDMC"].drop("weight").astype(float), of_genes.astype(float), check_names=False
    )
    # Familiarity asks the views that can be fitted again without each type.
    assert classifier.recommended_of(["genes", "finetuned"]) == alone.recommended_of(["genes"])
    of_views = classifier.of_views(features)
    np.testing.assert_array_equal(
        classifier.familiarity_of(of_views, features), alone.familiarity_of(alone.of_views(features), features)
    )
    by_itself = classifier.familiarity_of({"finetuned": of_views["finetuned"]}, features)
    assert ((by_itself >= 0) & (by_itself <= 1)).all()
    assert by_itself.std() > 0


def test_validation_cells_are_of_the_cells_that_may_be_seen():
    types = np.repeat([0, 1, 2], [24, 3, 1])
    taught = np.arange(4, len(types))
    split = training_split(types, taught)
    assert (split[:4] == "left_out").all()
    assert set(split[taught]) == {"train", "validation"}
    assert (split[types == 1] == "validation").sum() == 1
    assert split[-1] == "train"
    few = training_split(np.array([0, 0, 1, 1, 2]), np.arange(5))
    assert (few == "validation").sum() == 2
    assert set(np.array([0, 0, 1, 1, 2])[few == "train"]) == {0, 1, 2}


def test_folds_that_leave_nothing_to_tell_apart_are_no_obstacle(tuner, labelled):
    cells, types, _ = labelled
    two = np.flatnonzero(types < 2)
    folds = types[two]  # as whole batches can be: each fold is all of a type
    taught = LabelledFolds(types[two], np.arange(len(two)), folds, np.arange(len(two)))
    out_of_fold, view = tuner.fit(cells.select(two), np.array(TYPES[:2], dtype=object), taught)
    np.testing.assert_array_equal(out_of_fold.argmax(axis=1), 1 - types[two])
    assert len(view.best_epochs) == 3


def test_too_few_cells_or_types_and_unknown_views_are_refused_in_one_line(halves, model_path):
    reference, new = halves
    one = reference[reference.obs["cell_type"] == "beta"]
    single = reference[~reference.obs["cell_type"].astype(str).duplicated()]
    for cells, views, message in (
        (one, ("genes", "finetuned"), "a fine-tuning needs two types"),
        (single, ("finetuned",), "two cells of one of them"),
        (reference, ("fine-tuned",), "'fine-tuned' is none; there are genes, components, scdmc, finetuned"),
    ):
        with pytest.raises(ScDMCError, match=message) as refusal:
            scdmc.annotate(new.copy(), model_path, reference=cells, views=views)
        assert "\n" not in str(refusal.value)


def test_the_command_tells_the_time_keeps_the_weights_and_labels_without_the_reference(
    halves, model_path, one_epoch, load_script, tmp_path, capsys
):
    reference, new = halves
    reference.write_h5ad(tmp_path / "reference.h5ad")
    new.write_h5ad(tmp_path / "new.h5ad")
    main, out = load_script("downstream_tasks/annotate.py").main, tmp_path / "out"

    def run(*words):
        status = main([str(word) for word in words])
        return status, capsys.readouterr()

    views = ("genes", "finetuned")
    pair = ("--data_path", tmp_path / "new.h5ad", "--reference", tmp_path / "reference.h5ad", "--views", *views)
    status, printed = run(*pair, "--model", model_path, "--output_dir", out)
    assert status == 0
    told = [line for line in printed.err.splitlines() if "fine-tuning 6 times (5 folds and all cells)" in line]
    assert len(told) == 1
    assert printed.err.index(told[0]) < printed.err.index("fine-tune:")
    found = anndata.read_h5ad(out / "annotated.h5ad").obs
    scores = pd.read_csv(out / "views.csv", index_col="method")
    assert scores["weight"][list(views)].sum() == pytest.approx(1)
    assert scores["macro_f1"][list(views)].between(0, 1).all()
    page = (out / "report.html").read_text(encoding="utf8")
    assert "5 folds and all cells; best epochs" in page
    assert "Views of the language model have" in page

    expected = scdmc.annotate(new.copy(), model_path, reference=reference, views=views).obs
    np.testing.assert_array_equal(found["scDMC_probability"], expected["scDMC_probability"].astype(np.float32))

    folder = out / "classifier"
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".md", ".py"}
    status, printed = run("--model", folder, "--data_path", tmp_path / "new.h5ad", "--output_file", tmp_path / "a.h5ad")
    assert status == 0
    again = anndata.read_h5ad(tmp_path / "a.h5ad").obs
    for column in ("scDMC_cell_type", "scDMC_second_label", "scDMC_view_finetuned", "scDMC_probability"):
        np.testing.assert_array_equal(again[column], found[column])

    require_refusals_of_damage(folder, lambda: run("--model", folder, *pair[:2], "--output_file", tmp_path / "b.csv"))
    assert not (tmp_path / "b.csv").exists()


def require_refusals_of_damage(folder, apply):
    """A folder whose fine-tuned weights are not its own is refused in one line."""
    (folder.parent / "manifest.json").unlink()  # which would say it first
    weights, content = folder / "finetuned.safetensors", json.loads((folder / "views.json").read_text())
    for name, damaged, message in (
        ("views.json", json.dumps(content | {"types": [*content["types"], "zeta"]}), "does not fit"),
        ("views.json", json.dumps({key: each for key, each in content.items() if key != "finetuned"}), "is damaged"),
        ("views.json", json.dumps(content | {"scdmc_views": 1}), "does not fit"),
        ("finetuned.safetensors", weights.read_bytes()[:-7], "is damaged"),
        ("finetuned.safetensors", None, "is damaged"),
    ):
        whole = (folder / name).read_bytes()
        if damaged is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
        status, printed = apply()
        assert status == 2
        assert message in printed.err
        assert "Traceback" not in printed.err
        (folder / name).write_bytes(whole)
