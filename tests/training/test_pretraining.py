"""Pre-training: its loss, its momentum encoder, its checkpoints, and the script from end to end."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.model.folder import open_model_directory
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.storage import load_classifier_for_training, load_model
from scdmc.tokens.parquet import read_tokenized
from scdmc.tokens.tokenized_cells import TokenizedCells, concatenate_cells
from scdmc.training import checkpoints as checkpoints_module
from scdmc.training import loading
from scdmc.training.checkpoints import checkpoints, find_checkpoint
from scdmc.training.dual_stream import ScDMCForPretraining
from scdmc.training.evaluation import evaluate
from scdmc.training.loading import TrainingCells
from scdmc.training.masking import masked_batch
from scdmc.training.optimization import parameter_groups
from scdmc.training.pretraining import Pretraining
from scdmc.training.run_log import write_history
from scdmc.training.settings import MaskingOptions, ObjectiveOptions, PretrainingSettings
from tests.conftest import ROOT

CPU = torch.device("cpu")
VOCAB_SIZE = 40
SETTINGS = PretrainingSettings(
    batch_size=8, learning_rate=3e-3, max_steps=6, log_every=1, evaluate_every=3, save_every=3, keep_checkpoints=5
)
METRICS = (
    "loss",
    "mlm_rank_loss",
    "mlm_expression_loss",
    "contrastive_loss",
    "mlm_rank_accuracy",
    "mlm_expression_accuracy",
    "contrastive_accuracy",
    "alignment",
    "uniformity",
)
SPEEDS = ("cells_per_second", "tokens_per_second")


def make_cells(n_cells=48, seed=0):
    """Cells of two kinds: genes 4-21 or genes 22-39, the ranks in a noisy common order."""
    generator = np.random.default_rng(seed)
    rank, expression, values, offsets = [], [], [], [0]
    for cell in range(n_cells):
        genes = generator.choice(np.arange(4, 22), generator.integers(5, 16), replace=False) + 18 * (cell % 2)
        genes = genes[np.argsort(genes + generator.normal(0, 2, len(genes)))]
        rank += [2, *genes, 3]
        expression += [2, *np.sort(genes), 3]
        values += [1.0, *generator.uniform(0.5, 3, len(genes)), 1.0]
        offsets.append(len(rank))
    offsets = np.array(offsets, dtype=np.int64)
    return TokenizedCells(
        np.array(rank, np.int32), np.array(expression, np.int32), np.array(values, np.float32), offsets, offsets,
        pa.table({"cell_id": [str(cell) for cell in range(n_cells)]}), settings=None,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For models this small, several threads cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CELLS, HELD_OUT = make_cells(), make_cells(12, seed=1)


def make_model(dropout=0.1, seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 16, "hidden_dropout_prob": dropout}  # fmt: skip
    return ScDMCForMaskedLM(ScDMCConfig(**{**sizes, **changes}))


def make_run(output_dir, settings=SETTINGS, cells=CELLS, **model):
    everything = concatenate_cells([cells, HELD_OUT])
    training, held_out = np.arange(len(cells)), np.arange(len(cells), len(everything))
    data = TrainingCells(everything, training, held_out)
    return Pretraining(make_model(**model), data, settings, output_dir, CPU)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of six steps with checkpoints at steps 3 and 6."""
    run = make_run(tmp_path_factory.mktemp("finished"))
    run.run()
    return run


def without_speeds(history):
    return [{name: value for name, value in row.items() if name not in SPEEDS} for row in history]


def state_of(run):
    """Every tensor of a run's state."""
    tensors = {f"module.{name}": tensor for name, tensor in run.module.state_dict().items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def require_equal_states(first, second):
    assert set(first) == set(second)
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


# ---- the loss


def test_the_loss_of_a_batch_is_that_of_the_design():
    torch.manual_seed(5)
    module = ScDMCForPretraining(make_model(dropout=0.0), ObjectiveOptions(alpha=0.7, temperature=0.2))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    batch = masked_batch(CELLS, np.arange(6), 0, MaskingOptions(seed=0))
    module.train()
    metrics = module(batch)

    lengths, ids = batch.streams.layout.lengths, batch.streams.input_ids
    labels = torch.full_like(ids, -100)
    labels[batch.masked_positions] = batch.labels
    values = torch.zeros(len(ids))
    values[batch.masked_positions] = batch.expression_values
    states, keys, sums = [], [], {"rank": [0, 0], "expression": [0, 0]}
    for part, (stream_ids, stream_labels, stream_values) in enumerate(
        zip(ids.split(lengths), labels.split(lengths), values.split(lengths), strict=True)
    ):
        output = module.model(stream_ids[None], output_hidden_states=True)
        states.append(output.hidden_states[-1][0, 0])
        keys.append(module.momentum_encoder(stream_ids[None]).last_hidden_state[0, 0].detach())
        for logits, label, value in zip(output.logits[0], stream_labels, stream_values, strict=True):
            if label >= 0:
                weight = 1.0 if part < 6 else value
                of_stream = sums["rank" if part < 6 else "expression"]
                of_stream[0] = of_stream[0] - weight * F.log_softmax(logits, dim=0)[label]
                of_stream[1] = of_stream[1] + weight
    rank, expression = (total / weight for total, weight in sums.values())
    states, keys = F.normalize(torch.stack(states), dim=1), F.normalize(torch.stack(keys), dim=1)
    contrast, cells = 0, torch.arange(6)
    for similarities in (states[:6] @ keys[6:].T / 0.2, states[6:] @ keys[:6].T / 0.2):
        contrast += (F.cross_entropy(similarities, cells) + F.cross_entropy(similarities.T, cells)) / 4
    assert metrics["mlm_rank_loss"].item() == pytest.approx(rank.item(), rel=1e-5)
    assert metrics["mlm_expression_loss"].item() == pytest.approx(expression.item(), rel=1e-5)
    assert metrics["contrastive_loss"].item() == pytest.approx(contrast.item(), rel=1e-5)
    total = rank + expression + 0.7 * contrast
    assert metrics["loss"].item() == pytest.approx(total.item(), rel=1e-5)

    parameters = list(module.model.parameters())
    expected = torch.autograd.grad(total, parameters)
    for found, gradient in zip(torch.autograd.grad(metrics["loss"], parameters), expected, strict=True):
        assert (found - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-7


def test_accuracies_of_a_perfect_and_of_a_useless_model():
    module = ScDMCForPretraining(make_model(dropout=0.0)).eval()
    batch = masked_batch(CELLS, np.arange(8), 0, MaskingOptions(seed=0))
    head = module.model.cls.predictions
    with torch.no_grad():
        head.decoder.bias.fill_(-1e4)
        head.decoder.bias[batch.labels[0]] = 1e4
    metrics = module(batch)
    right = (batch.labels == batch.labels[0]).float()
    n_rank, values = batch.n_masked_rank, batch.expression_values
    assert metrics["mlm_rank_accuracy"].item() == pytest.approx(right[:n_rank].mean().item())
    assert metrics["mlm_expression_accuracy"].item() == pytest.approx((right * values).sum().item() / values.sum())
    assert set(metrics) == {*METRICS, "total_loss"}


def test_a_batch_without_genes_has_a_finite_loss():
    empty = TokenizedCells(
        np.array([2, 3, 2, 3], np.int32), np.array([2, 3, 2, 3], np.int32), np.ones(4, np.float32),
        np.array([0, 2, 4]), np.array([0, 2, 4]), pa.table({"cell_id": ["a", "b"]}), settings=None,
    )  # fmt: skip
    module = ScDMCForPretraining(make_model())
    metrics = module(masked_batch(empty, np.arange(2), 0, MaskingOptions(seed=0)))
    metrics["loss"].backward()
    assert metrics["mlm_rank_loss"].item() == metrics["mlm_expression_loss"].item() == 0
    assert math.isfinite(metrics["loss"].item())
    for parameter in module.model.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


def test_the_loss_falls(tmp_path):
    settings = replace(SETTINGS, max_steps=80, learning_rate=1e-2, save_every=80, evaluate_every=80)
    run = make_run(tmp_path, settings, dropout=0.0, hidden_size=32, initializer_range=0.2)
    run.run()
    before, after = run.history[0], run.history[-1]
    any_gene = math.log(VOCAB_SIZE - 4)  # the cross entropy of who does not even tell the two kinds of cells apart
    for stream in ("rank", "expression"):
        assert before[f"eval_mlm_{stream}_loss"] > any_gene
        assert after[f"eval_mlm_{stream}_loss"] < any_gene - 0.25


# ---- the momentum encoder


@pytest.mark.parametrize("parts", [1, 2])
def test_the_momentum_encoder_moves_once_per_optimizer_step(tmp_path, monkeypatch, parts):
    moves, update = [], ScDMCForPretraining.update_momentum_encoder

    def recorded(module, momentum):
        before = [parameter.clone() for parameter in module.momentum_encoder.parameters()]
        update(module, momentum)
        moves.append((before, [query.detach().clone() for query in module.model.bert.parameters()],
                      [parameter.clone() for parameter in module.momentum_encoder.parameters()]))  # fmt: skip

    monkeypatch.setattr(ScDMCForPretraining, "update_momentum_encoder", recorded)
    run = make_run(tmp_path, replace(SETTINGS, max_steps=4, momentum=0.9, gradient_accumulation_steps=parts))
    initial = [parameter.clone() for parameter in run.module.momentum_encoder.parameters()]
    run.run()
    assert len(moves) == run.step == 4
    for before, queries, after in moves:
        for key, query, moved in zip(before, queries, after, strict=True):
            torch.testing.assert_close(moved, 0.9 * key + 0.1 * query, atol=1e-7, rtol=1e-6)
    # Between its moves nothing touches it.
    for (_, _, after), (before, _, _) in pairwise(moves):
        assert all(torch.equal(one, other) for one, other in zip(after, before, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(initial, moves[0][0], strict=True))
    assert any(not torch.equal(one, other) for one, other in zip(initial, moves[-1][2], strict=True))


def test_the_momentum_encoder_starts_equal_has_no_head_and_gets_no_gradient():
    module = ScDMCForPretraining(make_model())
    keys = module.momentum_encoder.state_dict()
    encoder = module.model.bert.state_dict()
    assert set(keys) == set(encoder)
    assert all(torch.equal(keys[name], encoder[name]) for name in keys)
    assert not {t.data_ptr() for t in keys.values()} & {t.data_ptr() for t in encoder.values()}
    assert not any(parameter.requires_grad for parameter in module.momentum_encoder.parameters())
    module(masked_batch(CELLS, np.arange(4), 0, MaskingOptions(seed=0)))["loss"].backward()
    assert all(parameter.grad is None for parameter in module.momentum_encoder.parameters())
    assert module.model.bert.embeddings.word_embeddings.weight.grad is not None


def test_the_keys_never_see_dropout():
    module = ScDMCForPretraining(make_model(dropout=0.5)).train()
    assert module.model.bert.embeddings.dropout.training
    assert not any(child.training for child in module.momentum_encoder.modules())


def test_the_optimizer_holds_the_model_only(finished):
    held = {id(parameter) for group in finished.optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in finished.module.model.parameters()}


# ---- optimizer and schedule


def test_biases_and_layer_norms_have_no_weight_decay():
    model = make_model()
    with_decay, without = parameter_groups(model, 0.25)
    assert (with_decay["weight_decay"], without["weight_decay"]) == (0.25, 0.0)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {name_of[id(parameter)] for parameter in with_decay["params"]}
    plain = {name_of[id(parameter)] for parameter in without["params"]}
    assert len(with_decay["params"]) + len(without["params"]) == len(name_of) == len(decayed | plain)
    assert "bert.embeddings.word_embeddings.weight" in decayed
    assert "bert.embeddings.LayerNorm.weight" in plain
    assert all(model.get_parameter(name).ndim == 2 for name in decayed)
    assert all(model.get_parameter(name).ndim == 1 for name in plain)


def rate_at(run, step):
    run.step = step
    return run.learning_rate


def test_end_points_of_the_learning_rate(tmp_path):
    run = make_run(tmp_path, replace(SETTINGS, max_steps=100, learning_rate=1.0, warmup_fraction=0.05))
    rates = [rate_at(run, step) for step in range(101)]
    np.testing.assert_allclose(rates[:6], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates[52] == pytest.approx(0.5, abs=0.02)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert all(later < earlier for earlier, later in pairwise(rates[5:]))


def test_the_rates_of_the_schedule_are_those_of_the_optimizer(finished):
    logged = [row["learning_rate"] for row in finished.history if "learning_rate" in row]
    assert logged == [rate_at(make_run(finished.output_dir), step) for step in range(6)]
    assert {group["lr"] for group in finished.optimizer.param_groups} == {logged[-1]}


@pytest.mark.parametrize(("parts", "expected"), [(1, 18), (2, 18)])
def test_epochs_become_steps(tmp_path, parts, expected):
    settings = replace(SETTINGS, max_steps=None, epochs=3, gradient_accumulation_steps=parts)
    run = make_run(tmp_path, settings)  # 48 cells, 8 per step
    assert run.total_steps == expected


def test_an_epoch_shows_every_cell_once(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        loading, "masked_batch",
        lambda cells, chosen, epoch, *rest: shown.append((epoch, chosen)) or masked_batch(cells, chosen, epoch, *rest),
    )  # fmt: skip
    settings = replace(SETTINGS, max_steps=None, epochs=2, gradient_accumulation_steps=2, evaluate_every=99)
    make_run(tmp_path, settings).run()
    for epoch in range(2):
        rows = np.concatenate([chosen for found, chosen in shown if found == epoch])
        assert sorted(rows.tolist()) == list(range(48))


def test_large_gradients_are_scaled_down(tmp_path):
    settings = replace(SETTINGS, max_steps=1, max_gradient_norm=1e-9, weight_decay=0.0, learning_rate=1e-9)
    run = make_run(tmp_path, settings)
    run.run()
    moments = [state["exp_avg"] for state in run.optimizer.state_dict()["state"].values()]
    norm = math.sqrt(sum(float(moment.square().sum()) for moment in moments)) / 0.1
    assert norm == pytest.approx(1e-9, rel=1e-3)
    assert run.history[1]["gradient_norm"] > 1e-3


def test_the_gradient_of_a_batch_in_parts_is_the_mean_of_theirs(tmp_path):
    settings = replace(SETTINGS, max_steps=1, gradient_accumulation_steps=2)
    run = make_run(tmp_path, settings, dropout=0.0)
    module = ScDMCForPretraining(make_model(dropout=0.0))
    batches = [masked_batch(CELLS, chosen, 0, settings.masking) for chosen in run.order.batches(0)[:2]]
    assert [batch.n_cells for batch in batches] == [4, 4]
    losses = [module(batch)["loss"] for batch in batches]
    gradients = torch.autograd.grad(sum(losses) / 2, list(module.model.parameters()))
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    run.run()
    assert run.history[1]["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    assert run.history[1]["loss"] == pytest.approx(sum(losses).item() / 2, rel=1e-5)


# ---- evaluation


def test_evaluating_twice_gives_the_same_numbers():
    module = ScDMCForPretraining(make_model(dropout=0.5)).train()
    first = evaluate(module, HELD_OUT, np.arange(12), 8, SETTINGS)
    assert first == evaluate(module, HELD_OUT, np.arange(12), 8, SETTINGS)
    assert set(first) == set(METRICS)
    assert module.training
    assert not module.momentum_encoder.training


def test_evaluation_does_not_change_the_training(tmp_path, finished):
    run = make_run(tmp_path, replace(SETTINGS, evaluate_every=1))
    run.run()
    require_equal_states(state_of(finished), state_of(run))


# ---- checkpoints


@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(tmp_path, attention_dropout):
    settings = replace(SETTINGS, gradient_accumulation_steps=2, max_steps=8, save_every=4, evaluate_every=2)
    straight = make_run(tmp_path / "straight", settings, attention_probs_dropout_prob=attention_dropout)
    straight.run()
    resumed = make_run(tmp_path / "resumed", settings, seed=9, attention_probs_dropout_prob=attention_dropout)
    torch.manual_seed(1234)
    resumed.resume(tmp_path / "straight" / "checkpoints" / "step-00000004")
    assert resumed.step == 4
    resumed.run()
    require_equal_states(state_of(straight), state_of(resumed))
    assert without_speeds(straight.history) == without_speeds(resumed.history)
    saved = [load_file(tmp_path / name / "checkpoints" / "step-00000008" / "state.safetensors")
             for name in ("straight", "resumed")]  # fmt: skip
    require_equal_states(*saved)
    assert resumed.module.model.cls.predictions.decoder.weight is (
        resumed.module.model.bert.embeddings.word_embeddings.weight
    )


def test_a_finished_run_can_be_resumed_and_does_nothing(finished, tmp_path):
    run = make_run(tmp_path, seed=9)
    run.resume(find_checkpoint(finished.output_dir, "last"))
    run.run()
    require_equal_states(state_of(finished), state_of(run))
    assert run.final_metrics == finished.final_metrics
    assert set(run.final_metrics) == {f"eval_{name}" for name in METRICS}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 1e-4}, "learning_rate 0.003, not 0.0001"),
        ({"seed": 1}, "seed 42, not 1"),
        ({"batch_size": 4}, "batch_size 8, not 4"),
        ({"max_steps": 12}, "max_steps 6, not 12"),
        ({"momentum": 0.9}, "momentum 0.995, not 0.9"),
    ],
)
def test_changed_settings_are_refused_and_named(finished, tmp_path, changes, named):
    run = make_run(tmp_path, replace(SETTINGS, **changes))
    with pytest.raises(ScDMCError, match=named):
        run.resume(find_checkpoint(finished.output_dir, "last"))


def test_how_often_to_log_and_save_may_change(finished, tmp_path):
    run = make_run(tmp_path, replace(SETTINGS, log_every=2, evaluate_every=5, save_every=1, keep_checkpoints=1))
    run.resume(find_checkpoint(finished.output_dir, "last"))
    assert run.step == 6


def test_other_data_are_refused(finished, tmp_path):
    run = make_run(tmp_path, cells=make_cells(47))
    with pytest.raises(ScDMCError, match="n_training_cells 48, not 47"):
        run.resume(find_checkpoint(finished.output_dir, "last"))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 1},
        {"hidden_size": 32},
        {"num_attention_heads": 4},
        {"dropout": 0.3},
        {"vocab_size": 41},
    ],
)
def test_a_model_of_other_sizes_is_refused(finished, tmp_path, changes):
    run = make_run(tmp_path, **changes)
    name = {"dropout": "hidden_dropout_prob"}.get(*changes, *changes)
    with pytest.raises(ScDMCError, match=name):
        run.resume(find_checkpoint(finished.output_dir, "last"))


def test_only_the_last_checkpoints_stay(tmp_path):
    make_run(tmp_path, replace(SETTINGS, save_every=1, keep_checkpoints=2)).run()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000005", "step-00000006"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000005", "step-00000006"]


@pytest.mark.parametrize("broken", ["save_file", "json"])
def test_a_full_disk_is_an_error_that_leaves_the_checkpoint_before(tmp_path, monkeypatch, broken):
    run = make_run(tmp_path, replace(SETTINGS, save_every=2))
    whole = {"save_file": checkpoints_module.save_file, "json": json.dumps}[broken]

    def fail_later(*arguments):
        if run.step == 4:
            raise OSError("No space left on device")
        return whole(*arguments)

    if broken == "json":
        monkeypatch.setattr(checkpoints_module.json, "dumps", fail_later)
    else:
        monkeypatch.setattr(checkpoints_module, broken, fail_later)
    with pytest.raises(ScDMCError, match=r"No space left on device.*--resume_from_checkpoint last"):
        run.run()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert find_checkpoint(tmp_path, "last").name == "step-00000002"


def test_a_folder_without_state_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoints" / "step-00000009").mkdir(parents=True)
    with pytest.raises(ScDMCError, match="holds no complete checkpoint"):
        find_checkpoint(tmp_path, "last")
    with pytest.raises(ScDMCError, match="is no checkpoint"):
        make_run(tmp_path).resume(find_checkpoint(tmp_path, str(tmp_path / "checkpoints" / "step-00000009")))


# ---- what goes wrong


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(tmp_path, monkeypatch, log_every):
    run = make_run(tmp_path, replace(SETTINGS, log_every=log_every, save_every=2))
    forward = ScDMCForPretraining.forward

    def spoilt(module, batch):
        metrics = forward(module, batch)
        if run.step != 3:
            return metrics
        return metrics | {name: metrics[name] * math.nan for name in ("loss", "total_loss")}

    monkeypatch.setattr(ScDMCForPretraining, "forward", spoilt)
    with pytest.raises(ScDMCError, match=r"(the loss is not|no longer) finite at step 4"):
        run.run()
    assert find_checkpoint(tmp_path, "last").name == "step-00000002"


def test_gradients_that_are_no_numbers_end_the_run_before_it_is_saved(tmp_path):
    run = make_run(tmp_path, replace(SETTINGS, log_every=100, save_every=2))
    weight = run.module.model.bert.encoder.layer[0].mlp.wo.weight
    weight.register_hook(lambda gradient: gradient * math.inf if run.step == 3 else gradient)
    with pytest.raises(ScDMCError, match="at step 4"):
        run.run()
    assert find_checkpoint(tmp_path, "last").name == "step-00000002"


def test_the_history_is_written_with_a_column_for_every_name(tmp_path, finished):
    write_history(finished.history, tmp_path / "history.csv")
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert len(lines) == 1 + len(finished.history) == 1 + 6 + 3
    columns = lines[0].split(",")
    assert {"step", "epoch", "learning_rate", *METRICS, *SPEEDS, *(f"eval_{name}" for name in METRICS)} <= set(columns)
    assert [row["step"] for row in finished.history] == [0, 1, 2, 3, 3, 4, 5, 6, 6]


def test_settings_default_to_those_of_the_paper():
    settings = PretrainingSettings()
    assert (settings.batch_size, settings.learning_rate, settings.weight_decay) == (24, 5e-5, 1e-3)
    assert (settings.warmup_fraction, settings.epochs, settings.seed) == (0.05, 3, 42)
    assert (settings.mask_probability, settings.alpha) == (0.15, 1.0)
    assert (settings.temperature, settings.momentum) == (0.07, 0.995)


# ---- the script

TINY = ["--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2", "--intermediate_size", "16",
        "--batch_size", "4", "--max_length", "64", "--num_gpus", "0"]  # fmt: skip
SHORT = [*TINY, "--max_steps", "2", "--save_every", "1"]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("pretrain/scDMC_pretrain.py").main


@pytest.fixture(scope="module")
def dataset(load_script, islets_path, tmp_path_factory):
    """The islet cells of the tests, tokenized by the script."""
    folder = tmp_path_factory.mktemp("tokenized")
    arguments = ["--input_directory", islets_path.parent, "--output_directory", folder, "--output_prefix", "islets"]
    assert load_script("tokenizer/tokenizer_combine.py").main([*map(str, arguments), "--model_input_size", "128"]) == 0
    return folder / "islets.parquet"


@pytest.fixture(scope="module")
def model_folder(script, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    assert script(["--dataset_path", str(dataset), "--output_dir", str(folder), *SHORT]) == 0
    return folder


def test_the_script_writes_a_whole_model_folder(model_folder, dataset):
    files = {path.name for path in model_folder.iterdir()}
    assert "| objective | as in the paper |" in (model_folder / "README.md").read_text()
    assert {"config.json", "model.safetensors", "token_ids.json", "gene_medians.json", "tokenization.json", "README.md",
            "arguments.json", "history.csv", "checkpoints", "tensorboard"} <= files  # fmt: skip
    assert not [name for name in files if name.startswith(".") or name == "saved"]
    opened = open_model_directory(model_folder)
    assert opened.context == opened.settings.model_input_size == 64
    assert (opened.config.vocab_size, opened.config.hidden_size) == (60534, 16)
    card = (model_folder / "README.md").read_text()
    assert "285 |" in card  # training cells
    assert "--max_steps 2" in card
    arguments = json.loads((model_folder / "arguments.json").read_text())
    assert arguments["dataset_path"] == str(dataset)


def test_the_model_of_the_script_is_that_of_its_last_checkpoint(model_folder):
    model = load_model(model_folder, ScDMCForMaskedLM)
    state = load_file(model_folder / "checkpoints" / "step-00000002" / "state.safetensors")
    assert torch.equal(state["module.model.bert.embeddings.word_embeddings.weight"],
                       model.bert.embeddings.word_embeddings.weight)  # fmt: skip
    again = AutoModelForMaskedLM.from_pretrained(model_folder)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert AutoModel.from_pretrained(model_folder).config.max_position_embeddings == 64


def test_the_script_resumes_an_interrupted_run(model_folder, script, dataset, tmp_path):
    first = model_folder / "checkpoints" / "step-00000001"
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "again"), *SHORT]
    assert script([*arguments, "--resume_from_checkpoint", str(first)]) == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (model_folder / "model.safetensors").read_bytes()


def test_cells_that_are_memory_mapped_train_the_same_model(model_folder, script, dataset, tmp_path):
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "mapped"), *SHORT]
    assert script([*arguments, "--cache_dir", str(tmp_path / "cache"), "--num_workers", "1"]) == 0
    again = tmp_path / "mapped" / "model.safetensors"
    assert again.read_bytes() == (model_folder / "model.safetensors").read_bytes()
    assert list((tmp_path / "cache").iterdir())


def test_the_script_starts_from_co_expression_and_resumes(script, dataset, tmp_path):
    def train(folder, *flags):
        data = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / folder)]
        assert script([*data, *SHORT, "--gene_start", "coexpression", "--alpha", "0.5", *flags]) == 0
        card = (tmp_path / folder / "README.md").read_text()
        assert "| objective | as in the paper, but alpha 0.5, gene_start coexpression |" in card
        return (tmp_path / folder / "model.safetensors").read_bytes()

    weights = train("model")
    first = next((tmp_path / "model" / "checkpoints").glob("*1"))
    assert train("model", "--resume_from_checkpoint", str(first)) == weights


BARELY = ["--batch_size", "4", "--max_steps", "1", "--learning_rate", "1e-12", "--num_gpus", "0"]


def test_the_script_goes_on_from_the_weights_of_a_model(model_folder, script, dataset, tmp_path):
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "on"), *BARELY]
    assert script([*arguments, "--pretrained_model_path", str(model_folder), "--hidden_dropout_prob", "0.1"]) == 0
    before, after = (load_model(folder, ScDMCForMaskedLM) for folder in (model_folder, tmp_path / "on"))
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], tensor, atol=1e-9, rtol=0)
    config = after.config
    assert (config.hidden_dropout_prob, config.hidden_size, config.max_position_embeddings) == (0.1, 16, 64)
    assert config.attention_probs_dropout_prob == before.config.attention_probs_dropout_prob
    card = (tmp_path / "on" / "README.md").read_text()
    assert "| started from | model |" in card
    assert "| objective | as in the paper |" in card
    recorded = json.loads((tmp_path / "on" / "arguments.json").read_text())
    assert (recorded["hidden_size"], recorded["gene_start"]) == ("16", "None")


def test_a_run_that_started_from_a_model_resumes(model_folder, script, dataset, tmp_path):
    arguments = ["--dataset_path", str(dataset), "--pretrained_model_path", str(model_folder), "--batch_size", "4"]
    arguments += ["--max_steps", "2", "--save_every", "1", "--num_gpus", "0", "--output_dir"]
    assert script([*arguments, str(tmp_path / "straight")]) == 0
    first = tmp_path / "straight" / "checkpoints" / "step-00000001"
    assert script([*arguments, str(tmp_path / "again"), "--resume_from_checkpoint", str(first)]) == 0
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("straight", "again")]
    assert weights[0] == weights[1] != (model_folder / "model.safetensors").read_bytes()


def test_a_model_to_go_on_from_is_not_overwritten(model_folder, script, dataset, capsys):
    before = (model_folder / "model.safetensors").read_bytes()
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(model_folder), *BARELY, "--overwrite"]
    assert script([*arguments, "--pretrained_model_path", str(model_folder)]) == 2
    assert "would be overwritten by what starts from it" in capsys.readouterr().err
    assert (model_folder / "model.safetensors").read_bytes() == before


def test_a_classifier_is_nothing_to_go_on_from(model_folder, script, dataset, tmp_path, capsys):
    classifier = load_classifier_for_training(open_model_directory(model_folder), ["a", "b"], "rank", 0.1)
    shutil.copytree(model_folder, tmp_path / "classifier", ignore=shutil.ignore_patterns("checkpoints"))
    classifier.save_pretrained(tmp_path / "classifier")
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "on"), *BARELY]
    assert script([*arguments, "--pretrained_model_path", str(tmp_path / "classifier")]) == 2
    assert "is a classifier; go on from the pre-trained model" in capsys.readouterr().err


def test_data_that_are_shorter_than_the_model_to_go_on_from_set_the_context(
    model_folder, script, load_script, islets_path, tmp_path
):
    tokenize = ["--input_directory", islets_path.parent, "--output_directory", tmp_path, "--output_prefix", "short"]
    assert load_script("tokenizer/tokenizer_combine.py").main([*map(str, tokenize), "--model_input_size", "40"]) == 0
    arguments = ["--dataset_path", str(tmp_path / "short.parquet"), "--output_dir", str(tmp_path / "on"), *BARELY]
    assert script([*arguments, "--pretrained_model_path", str(model_folder)]) == 0
    assert open_model_directory(tmp_path / "on").context == 40


def test_a_model_to_go_on_from_takes_another_context(model_folder, script, dataset, tmp_path):
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "on"), *BARELY, "--max_length", "100"]
    assert script([*arguments, "--pretrained_model_path", str(model_folder)]) == 0
    opened = open_model_directory(tmp_path / "on")
    assert opened.context == opened.settings.model_input_size == 100


@pytest.mark.parametrize(
    "flag", [("--hidden_size", "16"), ("--gene_start", "coexpression"), ("--expression_input", "value")], ids=str
)
def test_a_model_to_go_on_from_says_what_it_is_itself(flag, model_folder, script, dataset, tmp_path, capsys):
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "on"), *BARELY, *flag]
    assert script([*arguments, "--pretrained_model_path", str(model_folder)]) == 2
    assert f"{flag[0]} has no effect with --pretrained_model_path; leave it out" in capsys.readouterr().err
    assert not list((tmp_path / "on").glob("*"))


def test_a_model_to_go_on_from_needs_data_that_were_tokenized_for_it(
    model_folder, script, load_script, islets_path, tmp_path, capsys
):
    medians = tmp_path / "medians.json"
    medians.write_text(json.dumps({"ENSG00000254647": 3.0}))
    tokenize = ["--input_directory", islets_path.parent, "--output_directory", tmp_path, "--output_prefix", "others"]
    tokenize += ["--gene_median_file", medians, "--model_input_size", "64"]
    assert load_script("tokenizer/tokenizer_combine.py").main([*map(str, tokenize)]) == 0
    arguments = ["--dataset_path", str(tmp_path / "others.parquet"), "--output_dir", str(tmp_path / "on"), *BARELY]
    assert script([*arguments, "--pretrained_model_path", str(model_folder)]) == 2
    message = f"was tokenized with other gene medians than {model_folder}"
    assert message in capsys.readouterr().err


def test_cells_are_held_out_and_left_out_by_a_column_of_obs(script, load_script, islets_path, tmp_path, capsys):
    folder = tmp_path / "tokenized"
    arguments = ["--input_directory", islets_path.parent, "--output_directory", folder, "--output_prefix", "islets"]
    arguments += ["--model_input_size", "64", "--obs_columns", "batch", "cell_type"]
    assert load_script("tokenizer/tokenizer_combine.py").main([*map(str, arguments)]) == 0
    data = ["--dataset_path", str(folder / "islets.parquet"), "--output_dir", str(tmp_path / "model"), *SHORT]
    obs = read_tokenized(folder / "islets.parquet").obs
    library, others = obs["batch"].unique()[0], (obs["batch"] != obs["batch"].unique()[0])
    rules = ["--hold_out", f"batch={library}", "--leave_out", "cell_type=beta,alpha"]
    assert script([*data, *rules, "--max_held_out_cells", "20"]) == 0
    card = (tmp_path / "model" / "README.md").read_text()
    n_training = int((others & ~obs["cell_type"].isin(["beta", "alpha"])).sum())
    assert f"| training cells | {n_training} |" in card
    assert "| held-out cells | 20 |" in card
    for rules, message in [
        (["--hold_out", "batch=nobody"], "--hold_out: no cell has batch 'nobody'"),
        (["--hold_out", "donor=1"], "no column 'donor'"),
        (["--leave_out", "batch"], "--leave_out batch: write COLUMN=VALUE"),
        (["--hold_out", f"batch={library}", "--split_file", "split.csv"], "--split_file and --hold_out"),
    ]:
        assert script([*data, "--overwrite", *rules]) == 2
        assert message in capsys.readouterr().err


def test_a_dry_run_of_the_script_says_what_a_run_would_take_and_writes_nothing(script, dataset, tmp_path, capsys):
    assert script(["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "dry"), *SHORT, "--dry_run"]) == 0
    assert "estimated time" in capsys.readouterr().out
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize("name", ["scDMC-small", "published"])
def test_a_recipe_runs_and_flags_after_it_win(name, dataset, tmp_path):
    root = ROOT
    recipe = root / "pretrain" / "configs" / f"{name}.sh"
    more = [*TINY, "--schedule_minutes", "0.01"] if name == "scDMC-small" else [*TINY, "--dry_run"]
    command = [recipe, "--dataset_path", dataset, "--output_dir", tmp_path / "model", *more]
    environment = {**os.environ, "PYTHON": sys.executable, "ACCELERATE_USE_CPU": "true"}
    finished = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    if name == "published":
        assert "estimated time" in finished.stdout
    else:
        config = open_model_directory(tmp_path / "model").config
        assert (config.expression_input, config.hidden_size) == ("value", 16)


def test_every_recipe_is_tested():
    recipes = ROOT / "pretrain" / "configs"
    assert {path.stem for path in recipes.iterdir()} == {"scDMC-small", "published"}


def test_overwrite_leaves_nothing_of_the_run_before_that_could_be_resumed(script, dataset, tmp_path, capsys):
    folder = tmp_path / "model"
    (folder / "checkpoints" / "step-00000009").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000009" / "state.json").write_text("{}")
    before = sorted(folder.rglob("*"))
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(folder), *TINY, "--max_steps", "1"]
    assert script(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before
    assert script([*arguments, "--overwrite"]) == 0
    assert [path.name for path in checkpoints(folder)] == ["step-00000001"]
    assert (folder / "model.safetensors").exists()


@pytest.fixture
def other_vocabulary(tmp_path):
    """The vocabulary of the project with two genes swapped."""
    path = ROOT / "tokenizer" / "token_files" / "token_ids_60534.json"
    ids = json.loads(path.read_text())
    first, second = list(ids)[10:12]
    ids[first], ids[second] = ids[second], ids[first]
    (tmp_path / "other.json").write_text(json.dumps(ids))
    return tmp_path / "other.json"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--dataset_path": "nowhere.parquet"}, "no such parquet file"),
        ({"--token_dictionary_file": "OTHER"}, "another vocabulary"),
        ({"--token_dictionary_file": "nowhere.json"}, "no such file"),
        ({"--num_gpus": "99"}, "--num_gpus 99: this machine has"),
        ({"--hidden_size": "15"}, "no multiple of the 2 attention heads"),
        ({"--attention": "flash"}, "needs a GPU"),
        ({"--attention": "flex", "--attention_probs_dropout_prob": "0.1"}, "no attention dropout"),
        ({"--split_file": "nowhere.csv"}, "nowhere.csv"),
        ({"--resume_from_checkpoint": "last"}, "no complete checkpoint"),
        ({"--resume_from_checkpoint": "nowhere"}, "is no checkpoint"),
        ({"--max_length": "2"}, "--max_length"),
        ({"--max_length": "4096"}, "--max_length"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_status_2(script, dataset, tmp_path, capsys, other_vocabulary, changes, message):
    values = {"--dataset_path": dataset, "--output_dir": tmp_path / "model", **changes}
    values = {flag: other_vocabulary if value == "OTHER" else value for flag, value in values.items()}
    arguments = [*SHORT, *(str(part) for pair in values.items() for part in pair)]
    try:
        status = script(arguments)
    except SystemExit as stopped:  # argparse refuses a value by itself
        status = stopped.code
    assert status == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "model").exists()


def test_a_broken_parquet_is_named(script, tmp_path, capsys):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is not one")
    status = script(["--dataset_path", str(tmp_path / "broken.parquet"), "--output_dir", str(tmp_path / "m"), *SHORT])
    assert status == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "not a readable parquet" in error


def test_data_without_their_vocabulary_beside_them_ask_for_it(script, dataset, tmp_path, capsys):
    lonely = tmp_path / "lonely.parquet"
    lonely.write_bytes(dataset.read_bytes())
    assert script(["--dataset_path", str(lonely), "--output_dir", str(tmp_path / "model"), *SHORT]) == 2
    assert "--token_dictionary_file" in capsys.readouterr().err


def test_torchrun_runs_the_script_and_one_process_writes(script, dataset, tmp_path):
    root = ROOT
    arguments = ["--dataset_path", str(dataset), *SHORT, "--hidden_dropout_prob", "0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(root / "pretrain" / "scDMC_pretrain.py"), *arguments, "--output_dir", str(tmp_path / "two")]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.count("wrote the model folder") == 1
    assert script([*arguments, "--output_dir", str(tmp_path / "one")]) == 0
    # Weights may differ where a gradient is rounding noise, which Adam scales up; losses and gradients may not.
    one, two = (list(csv.DictReader((tmp_path / name / "history.csv").open())) for name in ("one", "two"))
    for row, other in zip(one, two, strict=True):
        for name in ("loss", "mlm_rank_loss", "contrastive_loss", "gradient_norm", "eval_mlm_expression_loss"):
            assert row[name] == other[name] == "" or float(other[name]) == pytest.approx(float(row[name]), rel=1e-4)
