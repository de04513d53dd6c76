"""Options of pre-training: objectives, streams, precision, budgets of time, interruptions, several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.packing import NO_VALUE, UNKNOWN_VALUE, PackedCells
from scdmc.training.checkpoint_files import checkpoints, find_checkpoint
from scdmc.training.checkpoints import without_prefix
from scdmc.training.dual_stream import ScDMCForPretraining
from scdmc.training.evaluation import evaluate
from scdmc.training.flops import peak_flops, training_flops
from scdmc.training.masking import masked_batch
from scdmc.training.objectives import contrastive_loss, contrastive_similarities
from scdmc.training.pretraining import Pretraining
from scdmc.training.settings import MaskingOptions, ObjectiveOptions, PretrainingSettings
from tests.conftest import ROOT
from tests.training.oracles import published_mlm_loss
from tests.training.runs import (
    CELLS,
    CPU,
    HELD_OUT,
    SETTINGS,
    make_model,
    make_run,
    require_equal_states,
    state_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def batch_of(cells=6, **options):
    return masked_batch(CELLS, np.arange(cells), 0, MaskingOptions(seed=0, **options))


# ---- objectives


def test_the_published_objective_divides_by_all_tokens_and_weighs_the_expression_stream():
    module = ScDMCForPretraining(make_model(dropout=0.0), ObjectiveOptions(alpha=0.0, published_objective=True)).eval()
    batch = batch_of(mask_expression_input=False)
    lengths = batch.streams.layout.lengths
    ids = torch.nn.utils.rnn.pad_sequence(batch.streams.input_ids.split(lengths), batch_first=True)
    labels = torch.full((sum(lengths),), -100)
    labels[batch.masked_positions] = batch.labels
    values = torch.zeros(sum(lengths))
    values[batch.masked_positions] = batch.expression_values
    labels = torch.nn.utils.rnn.pad_sequence(labels.split(lengths), batch_first=True, padding_value=-100)
    values = torch.nn.utils.rnn.pad_sequence(values.split(lengths), batch_first=True)
    mask = ids.ne(0)
    logits = module.model(ids, mask).logits
    expected = published_mlm_loss(logits[:6], labels[:6], mask[:6])
    expected = expected + published_mlm_loss(logits[6:], labels[6:], mask[6:], values[6:])
    torch.testing.assert_close(module(batch)["loss"], expected)


@pytest.mark.parametrize("frozen", [{"published_objective": True}, {"momentum": 1.0}])
def test_the_momentum_encoder_can_be_frozen_as_the_published_objective_does(tmp_path, frozen):
    run = make_run(tmp_path, replace(SETTINGS, **frozen))
    before = {name: tensor.clone() for name, tensor in run.module.momentum_encoder.state_dict().items()}
    run.run()
    require_equal_states(before, run.module.momentum_encoder.state_dict())


@pytest.mark.parametrize("stream", ["rank", "expression"])
def test_one_stream_alone_has_its_mlm_loss_and_nothing_to_contrast(stream):
    module = ScDMCForPretraining(make_model(dropout=0.0)).eval()
    both, alone = module(batch_of()), module(batch_of(streams=stream))
    assert alone["loss"].item() == pytest.approx(both[f"mlm_{stream}_loss"].item(), rel=1e-5)
    assert "contrastive_loss" not in alone


def test_without_contrast_the_loss_is_that_of_the_masked_genes():
    metrics = ScDMCForPretraining(make_model(dropout=0.0), ObjectiveOptions(alpha=0.0)).eval()(batch_of())
    assert metrics["loss"].item() == pytest.approx((metrics["mlm_rank_loss"] + metrics["mlm_expression_loss"]).item())


def test_without_weight_on_the_masked_genes_the_loss_is_the_contrast():
    module = ScDMCForPretraining(make_model(dropout=0.0), ObjectiveOptions(mlm_weight=0.0)).eval()
    metrics = module(batch_of())
    torch.testing.assert_close(metrics["loss"], metrics["contrastive_loss"])
    torch.testing.assert_close(metrics["total_loss"], metrics["contrastive_loss"])
    metrics["loss"].backward()
    assert module.model.cls.predictions.transform.dense.weight.grad is None
    assert not any(name.startswith("mlm") for name in metrics)
    assert {"mlm_rank_loss", "mlm_expression_loss"} <= set(module.sums(batch_of()))  # an evaluation judges them
    assert module.model.bert.embeddings.word_embeddings.weight.grad.any()


def test_views_are_thinned_in_training_and_whole_where_they_are_judged(tmp_path):
    run = make_run(tmp_path, replace(SETTINGS, view_dropout=0.5))
    assert run.settings.masking.view_dropout == 0.5
    assert run.settings.evaluation_masking == MaskingOptions(run.settings.seed, run.settings.mask_probability)
    whole = make_run(tmp_path / "whole")
    run.run()
    whole.run()
    assert run.history[0] == whole.history[0]  # the same weights, judged on the same masks
    assert run.history[-1] != whole.history[-1]


def test_identical_cells_are_not_each_others_negatives():
    module = ScDMCForPretraining(make_model(dropout=0.0), ObjectiveOptions(temperature=0.2)).eval()
    twice = masked_batch(CELLS, np.array([0, 1, 0, 2]), 0, MaskingOptions(seed=0))
    states = module.model.bert.encode(twice.streams)
    positions = twice.streams.cls_positions
    queries = states[positions].chunk(2)
    keys = module.momentum_encoder.encode(twice.streams)[positions].chunk(2)
    is_same = torch.eye(4, dtype=torch.bool)
    is_same[0, 2] = is_same[2, 0] = True
    expected = sum(contrastive_loss(queries[i], keys[1 - i], 0.2, is_same) for i in (0, 1)) / 2
    plain = sum(contrastive_loss(queries[i], keys[1 - i], 0.2) for i in (0, 1)) / 2
    found = module(twice)["contrastive_loss"]
    torch.testing.assert_close(found, expected)
    assert abs(found - plain) > 1e-4


def test_past_keys_are_negatives_of_the_queries_only():
    torch.manual_seed(0)
    queries, keys, past = torch.randn(4, 8), torch.randn(4, 8), torch.randn(5, 8)
    similarities = contrastive_similarities(queries, keys)
    wider = torch.cat([similarities, contrastive_similarities(queries, past)], dim=1)
    cells = torch.arange(4)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(wider, cells) + cross_entropy(similarities.T, cells)) / 2
    torch.testing.assert_close(contrastive_loss(queries, keys, past_keys=past), expected)


def test_the_queue_holds_the_newest_keys_of_each_stream_and_is_part_of_a_checkpoint(tmp_path):
    module = ScDMCForPretraining(make_model(dropout=0.0), ObjectiveOptions(queue_size=10)).train()
    first, second = (masked_batch(CELLS, rows, 0, MaskingOptions()) for rows in (np.arange(6), np.arange(6, 12)))
    module(first)
    before = module.rank_queue.clone()
    module(second)
    keys = module.momentum_encoder.encode(second.streams)[second.streams.cls_positions].chunk(2)
    newest = torch.nn.functional.normalize(keys[0], dim=-1)
    torch.testing.assert_close(module.rank_queue[[6, 7, 8, 9, 0, 1]], newest)
    assert torch.equal(module.rank_queue[2:6], before[2:6])
    settings = replace(SETTINGS, queue_size=12, save_every=3)
    straight, resumed = make_run(tmp_path / "a", settings), make_run(tmp_path / "b", settings)
    straight.run()
    resumed.resume(tmp_path / "a" / "checkpoints" / "step-00000003")
    resumed.run()
    require_equal_states(state_of(straight), state_of(resumed))


# ---- values as input


def test_values_reach_a_model_that_reads_them_and_no_other():
    torch.manual_seed(1)
    layout = batch_of(2).streams.layout
    batch = batch_of(2).streams
    changed = torch.where(batch.expression_values > 0, batch.expression_values + 1, batch.expression_values)
    changed = PackedCells(batch.input_ids, layout, changed)
    for expression_input, reads in (("none", False), ("value", True)):
        encoder = make_model(dropout=0.0, expression_input=expression_input).bert.eval()
        differs = (encoder.encode(batch) - encoder.encode(changed)).abs().amax(dim=1) > 1e-6
        n_rank = sum(layout.lengths[:2])
        assert not differs[:n_rank].any()
        assert bool(differs[n_rank:].any()) is reads


def test_a_masked_gene_does_not_show_its_value():
    encoder = make_model(dropout=0.0, expression_input="value").bert.eval()
    values = encoder.embeddings.value_embeddings(torch.tensor([UNKNOWN_VALUE, NO_VALUE, 0.0, 2.0]))
    torch.testing.assert_close(values[0], encoder.embeddings.value_embeddings.unknown.weight[0])
    assert (values[1] == 0).all()
    assert not torch.equal(values[2], values[3])


def test_a_run_with_values_and_a_random_order_trains(tmp_path):
    settings = replace(SETTINGS, expression_order="random", max_steps=80, learning_rate=1e-2, evaluate_every=80)
    run = make_run(tmp_path, settings, dropout=0.0, expression_input="value", hidden_size=32, initializer_range=0.2)
    run.run()
    assert run.final_metrics["eval_mlm_expression_loss"] < run.history[0]["eval_mlm_expression_loss"] - 0.1


# ---- how it is computed


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path):
    runs = [make_run(tmp_path / str(flag), replace(SETTINGS, gradient_checkpointing=flag)) for flag in (False, True)]
    for run in runs:
        run.run()
    plain, recomputed = (run.module.state_dict() for run in runs)
    for name in plain:
        torch.testing.assert_close(plain[name], recomputed[name], atol=1e-6, rtol=1e-5)


def test_bfloat16_is_close_to_float32(tmp_path):
    module = ScDMCForPretraining(make_model(dropout=0.0))
    plain = evaluate(module, HELD_OUT, np.arange(12), 8, SETTINGS)
    half = evaluate(module, HELD_OUT, np.arange(12), 8, replace(SETTINGS, bf16=True))
    for name in ("mlm_rank_loss", "mlm_expression_loss"):
        assert half[name] == pytest.approx(plain[name], rel=0.02)
        assert half[name] != plain[name]


def test_the_contrast_is_float32_under_bfloat16(monkeypatch):
    module = ScDMCForPretraining(make_model(dropout=0.0)).eval()
    batch = batch_of(8)
    with torch.no_grad():
        states, keys = module.model.bert.encode(batch.streams), module.momentum_encoder.encode_cls(batch.streams)
    monkeypatch.setattr(module.momentum_encoder, "encode_cls", lambda streams: keys)
    loss, metrics = module.contrast(states, batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = module.contrast(states, batch)
    assert half[0].dtype == torch.float32
    assert (half[0], half[1]) == (loss, metrics)


def test_compiled_layers_train_the_same_model_and_are_compiled_once_for_all_lengths_and_layers(tmp_path, monkeypatch):
    # Without the code that inductor would write, which takes most of the time and is torch's own.
    torch._dynamo.reset()
    counter, compile_module = CompileCounterWithBackend("eager"), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda part, **options: compile_module(part, **options, backend=counter))
    plain, compiled = (
        make_run(tmp_path / str(flag), replace(SETTINGS, max_steps=2, torch_compile=flag), dropout=0.0)
        for flag in (False, True)
    )
    plain.run()
    compiled.run()
    for name, tensor in plain.module.state_dict().items():
        torch.testing.assert_close(compiled.module.state_dict()[name], tensor, atol=1e-5, rtol=1e-4)
    # Each part of a layer with and without gradient, in training and in evaluations; all layers of both encoders share.
    assert 0 < counter.frame_count <= 8


def test_batches_of_tokens_train_every_cell_once_an_epoch_and_resume_bit_for_bit(tmp_path, monkeypatch):
    settings = replace(SETTINGS, max_steps=None, epochs=2, tokens_per_batch=150, save_every=4)
    straight = make_run(tmp_path / "straight", settings)
    batches = [straight.order.batches(epoch) for epoch in (0, 1)]
    straight.run()
    assert straight.step == sum(map(len, batches)) > 12
    assert sum(len(batch) for batch in batches[0]) == len(CELLS)
    resumed = make_run(tmp_path / "resumed", settings)
    resumed.resume(tmp_path / "straight" / "checkpoints" / f"step-{straight.step // 4 * 4 - 4:08d}")
    resumed.run()
    require_equal_states(state_of(straight), state_of(resumed))
    assert straight.history[-1]["step"] == straight.step


def test_workers_prepare_the_same_batches(tmp_path):
    alone, helped = (make_run(tmp_path / str(n), replace(SETTINGS, num_workers=n)) for n in (0, 2))
    alone.run()
    helped.run()
    require_equal_states(state_of(alone), state_of(helped))


def test_the_flops_of_a_full_cell_of_the_published_model_are_those_of_the_design():
    # docs/method.md, "Pre-training": about 1.97 TFLOP for two streams of 2,048 tokens, forward, backward and momentum.
    flops = training_flops(ScDMCConfig(), 2 * 2048, 2 * 2048**2)
    assert flops == pytest.approx(1.97e12, rel=0.03)


def test_flops_without_masked_genes_are_fewer_and_a_longer_batch_takes_more():
    config = ScDMCConfig()
    assert training_flops(config, 4096, 2 * 2048**2, masked_share=0.0) < training_flops(config, 4096, 2 * 2048**2)
    assert training_flops(config, 8192, 4 * 2048**2) == pytest.approx(2 * training_flops(config, 4096, 2 * 2048**2))


@pytest.mark.parametrize(
    ("name", "bf16", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", True, 989e12),
        ("NVIDIA H100 PCIe", True, 756e12),
        ("NVIDIA H200", False, 67e12),
        ("NVIDIA GH200 480GB", True, 989e12),
        ("NVIDIA A100-SXM4-80GB", True, 312e12),
        ("NVIDIA L40S", True, 362e12),
        ("NVIDIA L4", True, 121e12),
        ("NVIDIA GeForce RTX 4090", True, None),
    ],
)
def test_the_peak_of_a_gpu_is_that_of_its_data_sheet_or_unknown(name, bf16, expected):
    assert peak_flops(name, bf16) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_run_that_was_to_have_a_gpu_does_not_take_the_cpu(tmp_path):
    with pytest.raises(ScDMCError, match="accelerate chose cpu where cuda was asked for; pass --num_gpus 0"):
        Pretraining(make_model(), make_run(tmp_path).data, SETTINGS, tmp_path, torch.device("cuda"))


def test_a_dry_run_reports_and_leaves_nothing(tmp_path):
    report = make_run(tmp_path / "dry").dry_run()
    assert {"parameters", "seconds a step", "peak memory", "estimated time"} <= set(report)
    assert not (tmp_path / "dry").exists()


def test_a_dry_run_takes_the_longest_batch(tmp_path, monkeypatch):
    run, seen = make_run(tmp_path), []
    monkeypatch.setattr(run, "_optimizer_step", lambda batches: seen.append(batches) or step(batches))
    step = Pretraining._optimizer_step.__get__(run)
    run.dry_run()
    tokens = [sum(sum(batch.streams.layout.lengths) for batch in batches) for batches in seen]
    every = [2 * int(CELLS.rank_lengths[batch].sum()) for batch in run.order.batches(0)]
    assert tokens[0] == max(every)
    assert len(set(every)) > 1


# ---- time and interruptions


def test_a_schedule_by_the_clock_ends_with_the_clock_and_the_rate_at_0(tmp_path):
    run = make_run(tmp_path, replace(SETTINGS, max_steps=None, schedule_minutes=0.03, evaluate_every=1000))
    run.run()
    assert run.is_finished
    assert run.trained_seconds >= 1.8
    assert run.learning_rate == pytest.approx(0.0, abs=1e-9)
    assert len(checkpoints(tmp_path)) >= 1


def test_max_minutes_saves_and_stops_and_the_rest_can_be_resumed(tmp_path):
    straight = make_run(tmp_path / "straight")
    straight.run()
    first = make_run(tmp_path / "parts", replace(SETTINGS, max_minutes=1e-9))
    first.run()
    assert (first.step, first.is_finished) == (1, False)
    second = make_run(tmp_path / "parts", SETTINGS)
    second.resume(find_checkpoint(tmp_path / "parts", "last"))
    second.run()
    require_equal_states(state_of(straight), state_of(second))


def test_sigterm_saves_and_stops(tmp_path, monkeypatch):
    run = make_run(tmp_path, replace(SETTINGS, save_every=100))
    step = Pretraining._optimizer_step

    def interrupted(self, batches):
        metrics = step(self, batches)
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics

    monkeypatch.setattr(Pretraining, "_optimizer_step", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    run.run()
    assert (run.step, run.is_finished) == (2, False)
    assert find_checkpoint(tmp_path, "last").name == "step-00000002"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_that_was_stopped_between_two_log_lines_has_the_history_of_one_that_was_not(tmp_path):
    settings = replace(SETTINGS, max_steps=8, log_every=4, evaluate_every=4)
    straight = make_run(tmp_path / "straight", settings)
    straight.run()
    for _ in range(8):
        part = make_run(tmp_path / "parts", replace(settings, max_minutes=1e-9))
        if checkpoints(tmp_path / "parts"):
            part.resume(find_checkpoint(tmp_path / "parts", "last"))
        part.run()  # one step
    assert part.is_finished
    assert without_speeds(part.history) == without_speeds(straight.history)
    assert [row["step"] for row in part.history] == [0, 4, 4, 8, 8]


@pytest.mark.parametrize(("tracker", "is_there"), [("tensorboard", True), ("none", False)])
def test_a_run_reports_to_its_tracker_or_to_nobody(tmp_path, tracker, is_there):
    make_run(tmp_path, replace(SETTINGS, max_steps=1, report_to=tracker)).run()
    assert any(path.name.startswith("events.out") for path in tmp_path.rglob("*")) == is_there


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs the package wandb")
def test_a_resumed_run_goes_on_with_its_run_of_wandb(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = replace(SETTINGS, report_to="wandb")
    make_run(tmp_path, settings).run()
    name = (tmp_path / "wandb" / "id.txt").read_text()
    resumed = make_run(tmp_path, settings)
    resumed.resume(tmp_path / "checkpoints" / "step-00000003")
    resumed.run()
    assert (tmp_path / "wandb" / "id.txt").read_text() == name
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{name}"))) >= 1


def test_a_checkpoint_has_the_rights_that_the_user_gives_to_files(tmp_path):
    before = os.umask(0o027)
    try:
        make_run(tmp_path, replace(SETTINGS, max_steps=1, save_every=1)).run()
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}


SPEEDS = ("cells_per_second", "tokens_per_second", "mfu")


def without_speeds(history):
    return [{name: value for name, value in row.items() if name not in SPEEDS} for row in history]


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.training.runs import SETTINGS, make_run
settings = replace(SETTINGS, max_steps=10_000, save_every=1, evaluate_every=10_000)
run = make_run(Path(sys.argv[1]), settings, hidden_size=64)
run.run()
"""


@pytest.mark.parametrize("seconds", [0.0, 0.13])
def test_a_run_killed_at_any_moment_resumes_from_a_complete_checkpoint(tmp_path, seconds):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while len(checkpoints(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    settings = replace(SETTINGS, max_steps=10_000, save_every=1, evaluate_every=10_000)
    run = make_run(tmp_path, settings, hidden_size=64)
    last = find_checkpoint(tmp_path, "last")
    run.resume(last)
    assert run.step == int(last.name.removeprefix("step-")) > 0
    run.save_checkpoint()
    assert not list((tmp_path / "checkpoints").glob(".*"))


# ---- several processes

OF_TWO_PROCESSES = {
    "ddp": {"plain": {}, "queue": {"queue_size": 16}},
    "fsdp": {"sharded": {"fsdp": True}},
}
TWO_PROCESSES = """
import json
import sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from scdmc.training.distributed import own_part
from tests.training.runs import SETTINGS, make_run
folder, variants = Path(sys.argv[1]), json.loads(sys.argv[2])
for name, changes in variants.items():
    settings = replace(SETTINGS, max_steps=3, batch_size=7, save_every=3, evaluate_every=3)
    make_run(folder / name, replace(settings, **changes), dropout=0.0).run()
settings = replace(SETTINGS, fsdp=changes.get("fsdp", False))
straight = make_run(folder / "straight", settings)
straight.run()
torch.manual_seed(123)
resumed = make_run(folder / "resumed", settings)
resumed.resume(folder / "straight" / "checkpoints" / "step-00000003")
resumed.run()
model, is_main_process = resumed.whole_model(), resumed.accelerator.is_main_process
assert is_main_process or not settings.fsdp or model is None
if is_main_process:
    model.save_pretrained(folder / "model")
moments = [value for state in resumed.optimizer.state.values() for value in state.values()]
tensors = [*resumed.module.parameters(), *moments]
parts = [own_part(tensor).untyped_storage() for tensor in tensors]
held = {part.data_ptr(): part.nbytes() for part in parts}
(folder / f"held_{resumed.accelerator.process_index}.json").write_text(json.dumps(sum(held.values())))
resumed.end()
"""


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    """A function that gives the folder of all runs on two CPU processes of one kind; each kind is started once."""
    made = {}

    def folder_of(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            run_two_processes(made[kind], TWO_PROCESSES, json.dumps(OF_TWO_PROCESSES[kind]))
        return made[kind]

    return folder_of


def run_two_processes(folder, code, *arguments):
    """Run code on two CPU processes; it gets the folder and the arguments."""
    (folder / "two.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(folder / "two.py"), str(folder), *arguments]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(("kind", "name"), [("ddp", "plain"), ("ddp", "queue"), ("fsdp", "sharded")])
def test_two_processes_train_as_one_on_the_joined_batch(of_two_processes, tmp_path, kind, name):
    settings = replace(SETTINGS, max_steps=3, batch_size=7, save_every=3, evaluate_every=3)
    settings = replace(settings, queue_size=OF_TWO_PROCESSES[kind][name].get("queue_size", 0))
    one = make_run(tmp_path / "one", settings, dropout=0.0)
    one.run()
    folder = of_two_processes(kind) / name
    two = make_run(folder, settings, dropout=0.0, seed=9)
    two.resume(find_checkpoint(folder, "last"))
    logged = [row for row in one.history if "gradient_norm" in row]
    others = [row for row in two.history if "gradient_norm" in row]
    judged, shared = ([row for row in run.history if "eval_loss" in row] for run in (one, two))
    for row, other in zip(judged, shared, strict=True):
        assert other == pytest.approx(row, rel=2e-5)
    for row, other in zip(logged, others, strict=True):
        for name in ("loss", "mlm_rank_loss", "mlm_expression_loss", "contrastive_loss", "gradient_norm"):
            assert other[name] == pytest.approx(row[name], rel=2e-5), name
    first, second = one.module.state_dict(), two.module.state_dict()
    for name in first:
        torch.testing.assert_close(
            second[name], first[name], atol=2e-5, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_resume_bit_for_bit_with_the_dropout_of_each(of_two_processes, kind):
    folder = of_two_processes(kind)
    straight, resumed = (
        load_file(folder / name / "checkpoints" / "step-00000006" / "state.safetensors")
        for name in ("straight", "resumed")
    )
    require_equal_states(straight, resumed)
    assert not torch.equal(straight["random.0.cpu"], straight["random.1.cpu"])
    model = ScDMCForMaskedLM.from_pretrained(folder / "model").state_dict()
    for name, tensor in without_prefix("module.model", resumed).items():
        assert torch.equal(model[name], tensor), name


def test_each_of_two_processes_holds_half_of_a_sharded_run_also_after_resuming(of_two_processes):
    held = {
        kind: [json.loads((of_two_processes(kind) / f"held_{process}.json").read_text()) for process in (0, 1)]
        for kind in OF_TWO_PROCESSES
    }
    assert held["ddp"][0] == held["ddp"][1] == pytest.approx(sum(held["fsdp"]), rel=0.05)
    assert max(held["fsdp"]) < 0.6 * held["ddp"][0]


def test_a_single_process_cannot_be_sharded(tmp_path):
    with pytest.raises(ScDMCError, match="start it with torchrun"):
        make_run(tmp_path, replace(SETTINGS, fsdp=True))


def test_a_batch_that_does_not_divide_into_its_parts_is_refused(tmp_path):
    with pytest.raises(ScDMCError, match="no multiple of --gradient_accumulation_steps 3"):
        make_run(tmp_path, replace(SETTINGS, gradient_accumulation_steps=3))


def test_another_vocabulary_size_needs_no_other_code():
    torch.manual_seed(0)
    config = ScDMCConfig(vocab_size=11, hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=8)
    assert ScDMCForMaskedLM(config)(torch.tensor([[2, 5, 3]])).logits.shape == (1, 3, 11)


def test_paper_defaults_need_no_flag():
    settings = PretrainingSettings()
    assert settings.masking == MaskingOptions()
    assert settings.objective == ObjectiveOptions()
    assert CPU.type == "cpu"
