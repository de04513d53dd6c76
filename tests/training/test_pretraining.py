"""Pre-training: its loss, its momentum encoder, its schedule and its checkpoints."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from scdmc.errors import ScDMCError
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training import checkpoints as checkpoints_module
from scdmc.training import loading
from scdmc.training.checkpoint_files import checkpoints, find_checkpoint
from scdmc.training.dual_stream import ScDMCForPretraining
from scdmc.training.evaluation import evaluate
from scdmc.training.masking import masked_batch
from scdmc.training.optimization import parameter_groups
from scdmc.training.run_log import write_history
from scdmc.training.settings import MaskingOptions, ObjectiveOptions, PretrainingSettings
from tests.training.runs import (
    CELLS,
    HELD_OUT,
    SETTINGS,
    VOCAB_SIZE,
    make_cells,
    make_model,
    make_run,
    require_equal_states,
    state_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of six steps with checkpoints at steps 3 and 6."""
    run = make_run(tmp_path_factory.mktemp("finished"))
    run.run()
    return run


def without_speeds(history):
    return [{name: value for name, value in row.items() if name not in SPEEDS} for row in history]


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


def test_evaluation_encodes_no_more_cells_at_once_than_a_part_of_a_batch_in_training(tmp_path, monkeypatch):
    run, encoded = make_run(tmp_path, replace(SETTINGS, gradient_accumulation_steps=2)), []
    sums = ScDMCForPretraining.sums
    monkeypatch.setattr(
        ScDMCForPretraining, "sums", lambda module, batch: encoded.append(batch.n_cells) or sums(module, batch)
    )
    evaluate(run.module, run.data.cells, run.data.held_out, run.order.batch_size, run.settings)
    assert sum(encoded) == len(run.data.held_out) == 12
    assert max(encoded) <= SETTINGS.batch_size // 2


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


@pytest.mark.parametrize("broken", ["save_tensors", "json"])
def test_a_full_disk_is_an_error_that_leaves_the_checkpoint_before(tmp_path, monkeypatch, broken):
    run = make_run(tmp_path, replace(SETTINGS, save_every=2))
    whole = {"save_tensors": checkpoints_module.save_tensors, "json": json.dumps}[broken]

    def fail_later(*arguments, **options):
        if run.step == 4:
            raise OSError("No space left on device")
        return whole(*arguments, **options)

    if broken == "json":
        monkeypatch.setattr(checkpoints_module.json, "dumps", fail_later)
    else:
        monkeypatch.setattr(checkpoints_module, broken, fail_later)
    with pytest.raises(ScDMCError, match=r"No space left on device.*--resume"):
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
