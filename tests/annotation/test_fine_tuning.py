"""Fine-tuning: which weights move, which cells and genes an epoch sees, and defaults that fit the number of cells."""

import contextlib
import sys

import anndata
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from sklearn.preprocessing import StandardScaler

from scdmc.annotation import fine_tuning
from scdmc.annotation.fine_tuning import (
    adapted_settings,
    balanced_weights,
    class_names,
    epoch_batches,
    fit_classifier,
    goodness,
    make_optimizers,
    without_random_genes,
)
from scdmc.annotation.options import FineTuningSettings
from scdmc.annotation.prediction import annotate_cells, names_of_classes, predict_probabilities
from scdmc.annotation.probing import PROBE_GRID, linear_probe, mean_loss
from scdmc.annotation.training_parts import Part
from scdmc.cells.data import read_cells
from scdmc.cells.splits import make_split
from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import EOS_TOKEN_ID
from scdmc.labels import labels_of
from scdmc.model.folder import open_model_directory
from scdmc.model.packing import packed_streams
from scdmc.model.shipped import model_folder
from scdmc.model.storage import load, load_classifier_for_training, save_model_directory
from scdmc.options import POOLINGS
from tests.small_models import new_classifier, save_small_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "tiny", CONTEXT, num_hidden_layers=2)


CONTEXT = 64


def settings(**chosen):
    defaults = {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "embedding_rate": 1000.0, "seed": 0}
    return FineTuningSettings(**{**defaults, "classifier_start": "random", **chosen})


def moved_weights(model_directory, separable, **chosen):
    model = new_classifier(model_directory)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    fit_classifier(model, *separable, settings(**chosen))
    after = model.state_dict()
    assert set(after) == set(before)
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_whole_model_is_trained_by_default(model_directory, separable):
    moved = moved_weights(model_directory, separable)
    assert "classifier.weight" in moved
    assert "bert.embeddings.word_embeddings.weight" in moved
    assert any(name.startswith("bert.encoder.layer.0.") for name in moved)


def test_only_the_classifier_moves_if_asked(model_directory, separable):
    assert moved_weights(model_directory, separable, train="classifier") == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(("pooling", "start"), [("cls", "random"), ("weighted", "probe")])
def test_an_encoder_that_stands_still_reads_every_cell_once_and_the_history_is_the_same(
    monkeypatch, tmp_path, separable, pooling, start
):
    path = save_small_model(tmp_path / "still", CONTEXT, hidden_dropout_prob=0.0)
    chosen = settings(train="classifier", epochs=3, patience=3, classifier_start=start)

    def trained():
        model, n_read = new_classifier(open_model_directory(path), pooling=pooling), []
        model.represent = lambda streams: (n_read.append(0), type(model).represent(model, streams))[1]
        return fit_classifier(model, *separable, chosen), model.state_dict(), len(n_read)

    history, weights, n_read = trained()
    assert n_read == 2  # the training cells and the validation cells, each in one batch
    monkeypatch.setattr(
        fine_tuning,
        "parts_of",
        lambda _, cells, labels, split, __: tuple(
            Part(cells.select(split == part), labels[split == part]) for part in ("train", "validation")
        ),
    )
    other_history, other_weights, n_read = trained()
    assert n_read > 3 * 2
    for row, other in zip(history, other_history, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5, nan_ok=True)
    torch.testing.assert_close(weights, other_weights, rtol=1e-3, atol=1e-5)


def test_only_the_top_layers_move_if_asked(model_directory, separable):
    moved = moved_weights(model_directory, separable, train="top_layers", train_layers=1)
    assert {name.split(".")[0] for name in moved} == {"bert", "classifier"}
    assert all(name.startswith(("bert.encoder.layer.1.", "classifier.")) for name in moved)


def test_more_top_layers_than_there_are_are_refused(model_directory, separable):
    with pytest.raises(ScDMCError, match="--train_layers 3: the model has 2 layers"):
        fit_classifier(new_classifier(model_directory), *separable, settings(train="top_layers", train_layers=3))


def test_low_rank_additions_are_merged_into_a_normal_model_folder(tmp_path, model_directory, separable):
    model, d = new_classifier(model_directory), model_directory
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    history = fit_classifier(model, *separable, settings(train="lora", lora_rank=2))
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    targets = ("Wqkv.weight", "output.dense.weight", "gated_layers.weight", "wo.weight")
    assert all(name.endswith(targets) or name.startswith("classifier.") for name in moved)
    assert len(moved) == 2 * 4 + 2
    # A change of rank 2, no more.
    change = model.state_dict()["bert.encoder.layer.1.mlp.wo.weight"] - before["bert.encoder.layer.1.mlp.wo.weight"]
    assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2
    save_model_directory(tmp_path / "out", model, d.vocabulary, d.medians, d.settings, "a test")
    cells, labels, split = separable
    validation = cells.select(split == "validation")
    probabilities = predict_probabilities(load(tmp_path / "out"), validation, show_progress=False)
    # Merged weights give what the adapters gave when the best epoch was chosen.
    accuracy = (np.array(["beta", "ductal"])[probabilities.argmax(axis=1)] == labels[split == "validation"]).mean()
    best = max(history, key=lambda row: row["eval_macro_f1"])
    assert accuracy == pytest.approx(best["eval_accuracy"])


def test_bfloat16_is_for_the_encoder_and_weights_and_logits_stay_float32(model_directory, separable):
    model, seen = new_classifier(model_directory), set()
    matrix = model.bert.encoder.layer[0].attention.self.Wqkv
    matrix.register_forward_hook(lambda module, inputs, output: seen.add(("encoder", output.dtype)))
    model.classifier.register_forward_hook(lambda module, inputs, output: seen.add(("classifier", output.dtype)))
    history = fit_classifier(model, *separable, settings(dtype="bfloat16", classifier_start="probe"))
    assert seen == {("encoder", torch.bfloat16), ("classifier", torch.float32)}
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.float32}
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert history[-1]["loss"] < history[1]["loss"]


@pytest.mark.parametrize("start", ["random", "probe"])
def test_float32_is_computed_as_without_autocast(monkeypatch, model_directory, separable, start):
    def trained(**chosen):
        model = new_classifier(model_directory)
        history = fit_classifier(model, *separable, settings(epochs=1, classifier_start=start, **chosen))
        return history, model.state_dict()

    in_bfloat16, _ = trained(dtype="bfloat16")
    history, weights = trained()
    monkeypatch.setattr(fine_tuning, "autocast", lambda *_: contextlib.nullcontext())
    other_history, other_weights = trained()
    assert history[-1] == other_history[-1]
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    assert in_bfloat16[-1]["loss"] != history[-1]["loss"]
    assert in_bfloat16[-1]["loss"] == pytest.approx(history[-1]["loss"], rel=0.05)


def test_low_rank_additions_without_peft_are_refused_clearly(monkeypatch, model_directory, separable):
    monkeypatch.setitem(sys.modules, "peft", None)  # importing it fails
    with pytest.raises(ScDMCError, match="pip install peft"):
        fit_classifier(new_classifier(model_directory), *separable, settings(train="lora"))


def test_all_weights_can_be_trained_again_afterwards(model_directory, separable):
    model = new_classifier(model_directory)
    fit_classifier(model, *separable, settings(train="classifier", epochs=1))
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("pooling", ["mean", "weighted"])
def test_pooling_over_genes_learns_and_survives_saving(tmp_path, model_directory, separable, pooling):
    cells, d = separable[0].select(np.arange(10)), model_directory
    model = new_classifier(d, pooling=pooling)
    history = fit_classifier(model, *separable, settings())
    assert history[-1]["loss"] < history[0]["loss"]
    save_model_directory(tmp_path / "mean", model, d.vocabulary, d.medians, d.settings, "a test")
    loaded = load(tmp_path / "mean")
    assert loaded.config.classifier_pooling == pooling
    expected = predict_probabilities(model, cells, show_progress=False)
    np.testing.assert_allclose(predict_probabilities(loaded, cells, show_progress=False), expected, atol=1e-6)
    model.config.classifier_pooling = "cls"
    assert not np.allclose(predict_probabilities(model, cells, show_progress=False), expected, atol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padded_cells_are_classified_like_packed_ones(model_directory, separable, pooling):
    cells = separable[0].select(np.arange(4))
    model = new_classifier(model_directory, pooling=pooling).eval()
    padded = [
        torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(ids[offsets[i] : offsets[i + 1]].astype(np.int64)) for i in range(4)], batch_first=True
        )
        for ids, offsets in (
            (cells.rank_ids, cells.rank_offsets), (cells.expression_ids, cells.expression_offsets)
        )
    ]  # fmt: skip
    values = packed_streams(cells, np.arange(4), "both", with_gene_values=True).gene_values
    values = torch.split(values, 2 * np.diff(cells.rank_offsets).tolist())
    values = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
    logits = model(torch.cat(padded), gene_values=values).logits
    expected = predict_probabilities(model, cells, show_progress=False)
    np.testing.assert_allclose(logits.softmax(dim=-1).detach().numpy(), expected, atol=1e-5)


def test_an_epoch_loses_about_the_asked_share_of_genes_and_the_same_in_both_streams(separable):
    cells = separable[0]
    lossy = without_random_genes(cells, 0.3, seed=1, epoch=0)
    n_genes = len(cells.rank_ids) - 2 * len(cells)
    lost = 1 - (len(lossy.rank_ids) - 2 * len(cells)) / n_genes
    assert lost == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / n_genes) ** 0.5)
    for cell in range(len(cells)):
        rank = lossy.rank_ids[lossy.rank_offsets[cell] : lossy.rank_offsets[cell + 1]]
        expression = lossy.expression_ids[lossy.expression_offsets[cell] : lossy.expression_offsets[cell + 1]]
        assert set(rank) == set(expression)
        assert (rank[0], rank[-1]) == (expression[0], expression[-1]) == (2, EOS_TOKEN_ID)
    values = dict(zip(cells.expression_ids[: cells.expression_offsets[1]], cells.expression_values, strict=False))
    kept = lossy.expression_ids[: lossy.expression_offsets[1]]
    assert [values[gene] for gene in kept] == lossy.expression_values[: len(kept)].tolist()


def test_lost_genes_change_from_epoch_to_epoch_and_depend_on_nothing_else(separable):
    cells = separable[0]
    first = without_random_genes(cells, 0.3, 1, 0)
    assert not np.array_equal(first.rank_ids, without_random_genes(cells, 0.3, 1, 1).rank_ids)
    assert not np.array_equal(first.rank_ids, without_random_genes(cells, 0.3, 2, 0).rank_ids)
    alone = without_random_genes(cells.select(np.array([7])), 0.3, 1, 0)
    assert alone.rank_ids.tolist() == first.rank_ids[first.rank_offsets[7] : first.rank_offsets[8]].tolist()
    assert without_random_genes(cells, 0.0, 1, 0) is cells


def test_gene_dropout_reaches_training(model_directory, separable):
    plain = fit_classifier(new_classifier(model_directory), *separable, settings(epochs=1))
    lossy = fit_classifier(new_classifier(model_directory), *separable, settings(epochs=1, gene_dropout=0.5))
    assert plain[0]["loss"] != lossy[0]["loss"]
    heads = [
        fit_classifier(
            new_classifier(model_directory), *separable, settings(epochs=2, train="classifier", gene_dropout=share)
        )
        for share in (0.0, 0.5)
    ]
    assert heads[0][1]["loss"] != heads[1][1]["loss"]


def moves_of_genes(model_directory, separable, **chosen):
    """How far the word embeddings of genes go, and how many training cells have each gene."""
    model, (cells, _, split) = new_classifier(model_directory), separable
    table = model.bert.embeddings.word_embeddings.weight
    before = table.detach().clone()
    fit_classifier(model, *separable, settings(epochs=1, **chosen))
    training = cells.select(split == "train")
    n_cells = np.bincount(training.rank_ids, minlength=len(table))
    n_cells[: EOS_TOKEN_ID + 1] = 0
    return (table.detach() - before).norm(dim=1).numpy(), n_cells, len(training)


def test_sgd_moves_a_gene_by_what_its_cells_say_and_adamw_does_not(model_directory, separable):
    ratios = {}
    for optimizer in ("sgd", "adamw"):
        moves, n_cells, n_training = moves_of_genes(
            model_directory, separable, embedding_optimizer=optimizer, weight_decay=0.0
        )
        assert not moves[(n_cells == 0)][EOS_TOKEN_ID + 1 :].any()
        ratios[optimizer] = np.median(moves[n_cells == 1]) / np.median(moves[n_cells > n_training / 2])
    assert ratios["sgd"] < 0.5 * ratios["adamw"]


def test_the_rate_of_sgd_is_a_multiple_of_the_mean_square_of_the_word_embeddings(model_directory):
    model = new_classifier(model_directory)
    table = model.bert.embeddings.word_embeddings.weight
    adamw, sgd = make_optimizers(model, settings(embedding_rate=30.0))
    assert sgd.param_groups[0]["params"] == [table]
    assert sgd.param_groups[0]["lr"] == pytest.approx(30 * float(table.detach().square().mean()))
    others = {id(each) for group in adamw.param_groups for each in group["params"]}
    assert others == {id(each) for each in model.parameters()} - {id(table)}
    table.requires_grad_(False)
    assert len(make_optimizers(model, settings())) == 1


def test_fine_tuning_that_diverges_is_stopped_by_name(model_directory, separable):
    with pytest.raises(ScDMCError, match="diverged in epoch 1: the loss is nan; give a lower learning_rate"):
        fit_classifier(new_classifier(model_directory), *separable, settings(learning_rate=1e30))


def test_a_balanced_sampler_draws_each_type_equally_often():
    targets = np.repeat([0, 1], [950, 50])
    lengths = np.full(1000, 10)
    drawn = np.concatenate(epoch_batches(lengths, targets, settings(sampler="balanced"), 0))
    assert len(drawn) == 1000
    assert (targets[drawn] == 1).mean() == pytest.approx(0.5, abs=0.07)
    again = np.concatenate(epoch_batches(lengths, targets, settings(sampler="balanced"), 0))
    other = np.concatenate(epoch_batches(lengths, targets, settings(sampler="balanced"), 1))
    assert drawn.tolist() == again.tolist() != other.tolist()
    shuffled = np.concatenate(epoch_batches(lengths, targets, settings(), 0))
    assert sorted(shuffled) == list(range(1000))


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    targets = np.repeat([0, 1, 2], [70, 25, 5])
    expected = compute_class_weight("balanced", classes=np.unique(targets), y=targets)
    np.testing.assert_allclose(balanced_weights(torch.from_numpy(targets)), expected, rtol=1e-6)


@pytest.mark.parametrize("option", [{"class_weights": "balanced"}, {"sampler": "balanced"}])
def test_rare_types_count_for_more_if_asked(model_directory, separable, option):
    cells, labels, split = separable
    rare = split.copy()
    rare[np.flatnonzero((labels == "ductal") & (split == "train"))[3:]] = "left_out"

    def mean_probability_of_ductal(**chosen):
        model = new_classifier(model_directory)
        fit_classifier(model, cells, labels, rare, settings(epochs=1, patience=1, **chosen))
        return predict_probabilities(model, cells, show_progress=False)[:, 1].mean()

    assert mean_probability_of_ductal(**option) > mean_probability_of_ductal() + 0.03


def test_training_stops_when_validation_no_longer_improves(model_directory, separable):
    history = fit_classifier(
        new_classifier(model_directory),
        *separable,
        settings(epochs=30, patience=2, learning_rate=1e-30, embedding_rate=0.0),
    )
    assert len(history) == 3


def reference_probe(states, labels, split):
    """scikit-learn on standardised states, with C by macro-F1 and then loss of the validation part."""
    train, validation = split == "train", split == "validation"
    scaled, best = StandardScaler().fit(states[train]).transform(states), (-1.0, 0.0)
    for C in PROBE_GRID:
        probe = LogisticRegression(C=C, max_iter=1000).fit(scaled[train], labels[train])
        macro_f1 = f1_score(labels[validation], probe.predict(scaled[validation]), average="macro")
        loss = log_loss(labels[validation], probe.predict_proba(scaled[validation]), labels=probe.classes_)
        if (macro_f1, -loss) > best:
            best, chosen = (macro_f1, -loss), probe
    return chosen.classes_, chosen.predict_proba(scaled), best


STILL = {"learning_rate": 1e-30, "embedding_rate": 0.0, "weight_decay": 0.0, "epochs": 1}


def test_a_probe_is_where_training_starts(model_directory, separable):
    cells, labels, split = separable
    model, before = new_classifier(model_directory), new_classifier(model_directory)
    history = fit_classifier(model, *separable, settings(classifier_start="probe", **STILL))
    assert [row["epoch"] for row in history] == [0, 1]
    assert history[0]["step"] == 0
    probabilities, states = annotate_cells(model, cells, show_progress=False)
    np.testing.assert_allclose(states, annotate_cells(before, cells, show_progress=False)[1], atol=1e-5)
    names, expected, (macro_f1, negative_loss) = reference_probe(states, labels, split)
    assert names.tolist() == ["beta", "ductal"]
    np.testing.assert_allclose(probabilities, expected, atol=5e-3)
    assert history[0]["eval_macro_f1"] == pytest.approx(macro_f1)
    assert history[0]["eval_loss"] == pytest.approx(-negative_loss, abs=5e-3)


@pytest.mark.parametrize("chosen", [{}, {"train": "lora", "lora_rank": 2}, {"train": "top_layers", "train_layers": 1}])
def test_a_probe_stays_where_no_epoch_is_better(model_directory, separable, chosen):
    cells, labels, split = separable
    harmful = {"learning_rate": 0.3, "embedding_rate": 1e4, "epochs": 1} | chosen
    model = new_classifier(model_directory)
    history = fit_classifier(model, *separable, settings(classifier_start="probe", **harmful))
    assert goodness(history[1]) < goodness(history[0])
    _, expected, _ = reference_probe(annotate_cells(model, cells, show_progress=False)[1], labels, split)
    np.testing.assert_allclose(predict_probabilities(model, cells, show_progress=False), expected, atol=5e-3)


def test_a_probe_knows_its_classes_whatever_their_order_and_number(model_directory, separable):
    cells, labels, split = separable
    three = np.where((labels == "beta") & (np.arange(len(labels)) % 2 == 0), "a third type", labels)
    torch.manual_seed(0)
    model = load_classifier_for_training(model_directory, ["ductal", "beta", "a third type"], "rank", 0.0)
    fit_classifier(model, cells, three, split, settings(classifier_start="probe", **STILL))
    probabilities, states = annotate_cells(model, cells, show_progress=False)
    names, expected, _ = reference_probe(states, three, split)
    order = [names.tolist().index(name) for name in names_of_classes(model)]
    np.testing.assert_allclose(probabilities, expected[:, order], atol=5e-3)


def test_a_class_without_training_cells_has_no_probe(model_directory, separable):
    model = load_classifier_for_training(model_directory, ["alpha", "beta", "ductal"], "rank", 0.0)
    with pytest.raises(ScDMCError, match="no training cell is alpha"):
        fit_classifier(model, *separable, settings(classifier_start="probe"))


def test_two_runs_from_a_probe_are_the_same(model_directory, separable):
    models = [new_classifier(model_directory) for _ in range(2)]
    histories = [fit_classifier(model, *separable, settings(classifier_start="probe", epochs=1)) for model in models]
    assert [row["eval_loss"] for row in histories[0]] == [row["eval_loss"] for row in histories[1]]
    for name, weight in models[0].state_dict().items():
        assert torch.equal(weight, models[1].state_dict()[name]), name


@pytest.mark.parametrize("option", [{"class_weights": "balanced"}, {"sampler": "balanced"}])
def test_rare_types_count_for_more_in_a_probe_if_asked(model_directory, separable, option):
    cells, labels, split = separable
    rare = split.copy()
    rare[np.flatnonzero((labels == "ductal") & (split == "train"))[3:]] = "left_out"
    means = []
    for chosen in ({}, option):
        model = new_classifier(model_directory)
        fit_classifier(model, cells, labels, rare, settings(classifier_start="probe", **STILL, **chosen))
        means.append(predict_probabilities(model, cells, show_progress=False)[:, 1].mean())
    assert means[1] > means[0] + 0.01


def test_equal_macro_f1_is_decided_by_the_loss_and_nothing_beats_a_better_macro_f1():
    rows = [{"eval_macro_f1": 0.5, "eval_loss": 0.1}, {"eval_macro_f1": 0.6, "eval_loss": 0.9},
            {"eval_macro_f1": 0.6, "eval_loss": 0.8}]  # fmt: skip
    assert max(rows, key=goodness) is rows[2]


def test_the_loss_of_cells_is_that_of_scikit_learn_and_leaves_unknown_types_out():
    probabilities = np.array([[0.7, 0.3], [0.2, 0.8], [0.9, 0.1]])
    names, labels = np.array(["a", "b"], object), np.array(["a", "b", "c"], object)
    assert mean_loss(probabilities, names, labels) == pytest.approx(log_loss(labels[:2], probabilities[:2]))
    assert np.isnan(mean_loss(probabilities, names, np.array(["c"] * 3, object)))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_half_precision_gives_the_labels_of_full_precision_after_a_probe(islets_path, pooling, tmp_path):
    small = open_model_directory(model_folder("scDMC-small"))
    anndata.read_h5ad(islets_path)[::3].write_h5ad(tmp_path / "some.h5ad")
    cells = read_cells(tmp_path / "some.h5ad", small, ["cell_type"])
    labels = labels_of(cells.obs["cell_type"])
    split = make_split(labels, test_fraction=0.3, validation_fraction=0.2, seed=0)
    model = load_classifier_for_training(small, class_names(labels, split), "both", 0.0, pooling=pooling)
    fit_classifier(model, cells, labels, split, settings(classifier_start="probe", train="classifier", **STILL))
    full = predict_probabilities(model, cells, show_progress=False).argmax(axis=1)
    half = predict_probabilities(model.to(torch.bfloat16), cells, show_progress=False).argmax(axis=1)
    assert (full == half).mean() > 0.95


def test_a_balanced_probe_finds_more_of_a_rare_type():
    generator = np.random.default_rng(0)
    labels = np.repeat(["common", "rare"], [400, 20])
    embedding = generator.normal(size=(420, 5)) + 1.0 * (labels == "rare")[:, None]
    shares = [
        (embedding @ probe.weight.T + probe.bias).argmax(axis=1).mean()
        for probe in (linear_probe(embedding, labels, embedding, labels, is_balanced) for is_balanced in (False, True))
    ]
    assert shares[1] > shares[0] + 0.05


@pytest.mark.parametrize("constant", [1.0, 0.1])
def test_a_dimension_that_is_constant_but_for_rounding_does_no_harm_to_a_probe(constant):
    generator = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 20)
    nearly = np.full(40, constant, dtype=np.float32)
    nearly[labels == "b"] = np.nextafter(nearly[0], np.float32(2))
    embedding = np.column_stack([nearly, generator.normal(size=40) + 5.0 * (labels == "b")])
    probe = linear_probe(embedding, labels, embedding, labels)
    assert not probe.weight[:, 0].any()
    assert (probe.names[(embedding @ probe.weight.T + probe.bias).argmax(axis=1)] == labels).mean() > 0.9


def test_defaults_follow_the_number_of_cells_the_width_and_the_start():
    few, many = (adapted_settings(n_cells, 64, classifier_start="random") for n_cells in (200, 50_000))
    assert (few.epochs, many.epochs) == (30, 5)
    assert few.batch_size < many.batch_size
    assert (few.learning_rate, few.embedding_rate) == (pytest.approx(1e-3), 1000.0)
    wide = adapted_settings(200, 512, classifier_start="random")
    assert wide.learning_rate == pytest.approx(1.25e-4, rel=0.05)
    probed = adapted_settings(200, 64)
    assert probed.classifier_start == "probe"
    assert probed.learning_rate / few.learning_rate == pytest.approx(0.3)
    assert probed.embedding_rate / few.embedding_rate == pytest.approx(0.3)
    assert adapted_settings(200, 64, train="classifier").learning_rate > probed.learning_rate
    chosen = adapted_settings(200, 64, epochs=3, learning_rate=1e-5, batch_size=None, sampler="balanced")
    assert (chosen.epochs, chosen.learning_rate, chosen.batch_size) == (3, 1e-5, few.batch_size)
    assert chosen.sampler == "balanced"


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"epoch": 3}, "no setting epoch; there are epochs"),
        ({"train": "all"}, "there are full, classifier"),
        ({"embedding_optimizer": "adam"}, "there are sgd, adamw"),
        ({"classifier_start": "zero"}, "there are probe, random"),
        ({"epochs": 0}, "at least 1"),
        ({"gene_dropout": 1.0}, "or no gene is left"),
    ],
)
def test_settings_that_do_not_exist_are_refused(chosen, said):
    with pytest.raises(ScDMCError, match=said):
        adapted_settings(200, 64, **chosen)
