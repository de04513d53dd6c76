"""Sections of the check of a GPU that time runs: training, loading, the usual recipe, resuming, embedding, DDP."""

import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import islice, product
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from scdmc.model.attention import choose_back_end
from scdmc.model.embeddings import TOKENS_PER_BATCH, cell_embeddings
from scdmc.model.encoder import ScDMCModel
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.options import EncoderSizes
from scdmc.studies.embedding_speed import cosines
from scdmc.studies.gpu_check_kernels import (
    device_of,
    free_memory,
    full_batch,
    linear_back_end,
    module_of,
    product_flops,
    relative_error,
    small_config,
    wait,
)
from scdmc.studies.gpu_check_rows import CASE, STEP, CheckSize, Row, judged
from scdmc.studies.pretraining_speed import StepOptions, scdmc_step, time_steps, usual_step
from scdmc.studies.synthetic_cells import synthetic_cells
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.batch_order import batch_order_of
from scdmc.training.flops import peak_flops, training_flops
from scdmc.training.loading import TrainingCells, masked_batches
from scdmc.training.memory import GIB
from scdmc.training.pretraining import Pretraining, TimedStep
from scdmc.training.run_log import peak_memory
from scdmc.training.settings import PretrainingSettings

# Real lengths: a lognormal of which 27% reach a full cell of 2,048 tokens.
MEDIAN_LENGTH, SPREAD = 1500, 0.5
# Largest relative difference of a loss after resuming; a GPU is not the same to the bit at every run.
OF_RESUMED_LOSS = 1e-3
LARGEST_TRIED_BATCH = 256


def cells_of(size: CheckSize, n_cells: int, is_full: bool) -> TokenizedCells:
    """Full cells, or cells of real lengths."""
    lengths = np.full(n_cells, size.length)
    if not is_full:
        drawn = np.random.default_rng(0).lognormal(np.log(MEDIAN_LENGTH * size.length / 2048), SPREAD, n_cells)
        lengths = np.clip(drawn, size.length // 10 + 3, size.length).astype(int)
    return synthetic_cells(lengths, vocab_size=size.vocab_size)


@contextmanager
def host_waits(device: torch.device) -> Iterator[list[warnings.WarningMessage]]:
    """A list that gets one entry for each time that the host waits for the GPU."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        found: list[warnings.WarningMessage] = []
        yield found
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        found += [warning for warning in said if "synchronizing CUDA operation" in str(warning.message)]


# ---- training


def measure_training(size: CheckSize) -> Iterator[Row]:
    """Steps through the real loop at the published configuration, in several ways of computing."""
    base = PretrainingSettings(batch_size=size.cells, bf16=True, max_steps=1000, learning_rate=1e-4)
    few, fewer = max(2, size.steps * 2 // 5), max(2, size.steps * 3 // 10)
    device = device_of(size)
    has_flash = choose_back_end("auto", device, 0.0, torch.bfloat16) == "flash"
    helped = 0 if size.is_tiny else 4
    variants = [
        ("flash", base, size.steps, {}),
        ("flex", base, size.steps, {}),
        ("flex, compiled", replace(base, torch_compile=True), size.steps, {}),
        ("sdpa, dropout 0.1", base, few, {"attention_probs_dropout_prob": 0.1}),
        ("sdpa", base, few, {}),
        ("flex, compiled, checkpointing", replace(base, torch_compile=True, gradient_checkpointing=True,
                                                  batch_size=size.many_cells), fewer, {}),
    ]  # fmt: skip
    if size.is_tiny:  # on a CPU flex has no way back, and compiling takes longer than all of the rest
        variants = [variants[3], variants[4]]
    elif not has_flash:
        variants = variants[1:]
    ceiling = product_flops(size)
    for number, (name, settings, n_steps, changes) in enumerate(variants):
        # The first is timed without workers, too, and on real lengths.
        kinds = [(helped, True), (0, True), (helped, False)] if number == 0 else [(helped, True)]
        for workers, is_full in kinds:
            case = f"{name}, {settings.batch_size} {'full' if is_full else 'real'} cells, {workers} workers"
            cells = cells_of(size, settings.batch_size * 8, is_full)
            with tempfile.TemporaryDirectory() as folder:
                run = _run(size, cells, replace(settings, num_workers=workers), Path(folder), name, changes)
                yield from _timed(case, run, n_steps, ceiling)
                del run
            free_memory(device)


def _run(
    size: CheckSize, cells: TokenizedCells, settings: PretrainingSettings, folder: Path, name: str, changes: dict
) -> Pretraining:
    torch.manual_seed(0)
    torch._dynamo.reset()
    rows = np.arange(len(cells))
    model = ScDMCForMaskedLM(small_config(size, **changes))
    data = TrainingCells(cells, rows, rows[: settings.batch_size])
    return Pretraining(model, data, settings, folder, device_of(size), name.partition(",")[0])


def _timed(case: str, run: Pretraining, n_steps: int, ceiling: float) -> Iterator[Row]:
    """Rows of single steps, then one of their medians; the first steps, which compile, do not count."""
    n_first = min(3, n_steps - 1)
    with host_waits(run.device) as waits:
        steps = []
        for number, step in enumerate(run.timed_steps(n_steps)):
            steps.append(step)
            yield {CASE: case, STEP: number, "seconds": step.seconds, "for batches": step.seconds_for_batches,
                   "loss": step.loss}  # fmt: skip
    yield _summary(case, run, steps, n_first, ceiling, len(waits))


def _summary(case: str, run: Pretraining, steps: list[TimedStep], n_first: int, ceiling: float, n_waits: int) -> Row:
    seconds = np.array([step.seconds for step in steps[n_first:]])
    lengths = [step.batches[0].streams.layout.lengths for step in steps[n_first:]]
    n_tokens, squares = (sum(sum(length**power for length in step) for step in lengths) for power in (1, 2))
    flops = training_flops(run.module.model.config, n_tokens, squares) / seconds.sum()
    losses = np.array([step.loss for step in steps])
    half, n_cells = max(1, len(losses) // 2), sum(step.batches[0].n_cells for step in steps[n_first:])
    row = {
        CASE: case, "attention": run.attention, "first step s": steps[0].seconds, "median s": float(np.median(seconds)),
        "95% s": float(np.percentile(seconds, 95)), "cells/s": n_cells / seconds.sum(),
        "tokens/s": n_tokens / seconds.sum(), "of the measured ceiling": flops / ceiling,
        "for batches": sum(step.seconds_for_batches for step in steps[n_first:]) / seconds.sum(),
        "peak GiB": peak_memory(run.device) / GIB, "first loss": losses[0], "last loss": losses[-1],
    }  # fmt: skip
    row = {name: float(value) if isinstance(value, np.floating) else value for name, value in row.items()}
    if run.device.type != "cuda":
        return judged(row, finite_losses=bool(np.isfinite(losses).all()))
    peak = peak_flops(torch.cuda.get_device_name(), bf16=True)
    row |= {"of the data sheet": flops / peak if peak else "unknown", "host waits": n_waits - len(steps)}
    falls = bool(losses[half:].mean() < losses[:half].mean())
    return judged(
        row, finite_losses=bool(np.isfinite(losses).all()), loss_falls=falls,
        no_host_waits=n_waits <= len(steps),  # the loss of each step is waited for, which is how it is timed
    )  # fmt: skip


def measure_loader(size: CheckSize) -> Iterator[Row]:
    """Batches a second, without any training."""
    settings, rows = PretrainingSettings(batch_size=size.cells), np.arange(size.cells * 16)
    data = TrainingCells(cells_of(size, len(rows), is_full=True), rows, rows)
    order, n_batches = batch_order_of(data.cells, rows, settings), 2 if size.is_tiny else 24
    pinned = [size.device_type] if size.is_tiny else ["cpu", "cuda"]
    for workers, device_type in product(size.workers, pinned):
        batches = masked_batches(data, order, settings.masking, 0, (0, 1), workers, ("flex", device_type))
        next(batches)  # workers start with the first
        start = time.perf_counter()
        n_cells = sum(batch.n_cells for batch in islice(batches, n_batches))
        seconds = time.perf_counter() - start
        pinning = ", pinned" if device_type == "cuda" else ""
        yield {CASE: f"{workers} workers{pinning}", "cells/s": n_cells / seconds}


# ---- beside the usual recipe


def measure_usual(size: CheckSize) -> Iterator[Row]:
    """A step of the usual recipe beside ours, for the same cells; and the largest batch of each that fits."""
    device, sizes = device_of(size), EncoderSizes(size.hidden_size, size.layers, size.heads, size.intermediate_size)
    n_cells = min(8, size.cells)
    for shortest in (size.length, size.length * 3 // 10):
        options = StepOptions(
            sizes, n_cells, shortest, size.length, "bfloat16", linear_back_end(device), size.vocab_size
        )
        for side, make in _sides(options, device):
            step = make()
            seconds = float(np.median(time_steps(step, 2 if size.is_tiny else 15, device)))
            kind = "full" if shortest == size.length else "mixed"
            yield {CASE: f"{side}, {n_cells} {kind} cells", "median s": seconds, "cells/s": n_cells / seconds,
                   "peak GiB": peak_memory(device) / GIB}  # fmt: skip
            del step, make
            free_memory(device)
    options = StepOptions(sizes, 1, size.length, size.length, "bfloat16", linear_back_end(device), size.vocab_size)
    for side in ("usual", "scDMC"):
        largest = _largest_batch(side, options, device, 2 if size.is_tiny else LARGEST_TRIED_BATCH)
        yield {CASE: f"{side}, largest batch of full cells that fits", "cells": largest}


def _sides(options: StepOptions, device: torch.device) -> list[tuple[str, object]]:
    return [("usual", lambda: usual_step(options, device)), ("scDMC", lambda: scdmc_step(options, device)[0])]


def _largest_batch(side: str, options: StepOptions, device: torch.device, most: int) -> int:
    """Cells of the largest batch that fits, by doubling."""
    n_cells = 1
    while n_cells <= most:
        free_memory(device)
        try:
            time_steps(dict(_sides(replace(options, batch_size=n_cells), device))[side](), 1, device)
        except torch.OutOfMemoryError:
            break
        n_cells *= 2
    return n_cells // 2


# ---- resuming, embedding, processes


def measure_resume(size: CheckSize) -> Iterator[Row]:
    """Steps, a checkpoint and more steps, beside as many in one go."""
    n_before, n_after = (1, 1) if size.is_tiny else (10, 5)
    smaller = replace(size, layers=min(4, size.layers), length=min(512, size.length))
    cells, settings = (
        cells_of(smaller, 16 * 8, is_full=False),
        PretrainingSettings(batch_size=8, bf16=True, max_steps=100),
    )
    with tempfile.TemporaryDirectory() as folder:
        runs = [_run(smaller, cells, settings, Path(folder), "auto", {}) for _ in range(3)]
        torch.manual_seed(1)
        straight = list(runs[0].timed_steps(n_before + n_after))[n_before:]
        torch.manual_seed(1)
        list(runs[1].timed_steps(n_before))
        runs[1].save_checkpoint()
        runs[2].resume_from("last")
        resumed = list(runs[2].timed_steps(n_after))
    pairs = [(first.batches[0], second.batches[0]) for first, second in zip(straight, resumed, strict=True)]
    same = all(
        torch.equal(first.cells, second.cells) and torch.equal(first.masked_positions, second.masked_positions)
        for first, second in pairs
    )
    largest = max(abs(second.loss / first.loss - 1) for first, second in zip(straight, resumed, strict=True))
    row = {
        CASE: f"{n_before} steps, a checkpoint, {n_after} more",
        "same cells and masks": same,
        "loss differs by": largest,
    }
    yield judged(row, same_cells_and_masks=same, same_losses=largest <= OF_RESUMED_LOSS)


def measure_inference(size: CheckSize) -> Iterator[Row]:
    """Cells embedded a second, by precision and size of the batch, and how near to float32 they are."""
    device, cells = device_of(size), cells_of(size, size.embedded, is_full=True)
    torch.manual_seed(0)
    encoder = ScDMCModel(small_config(size, initializer_range=0.45 / size.hidden_size**0.5)).to(device).eval()
    truth = None
    for name, n_tokens in product(("float32", "tf32", "bfloat16"), TOKENS_PER_BATCH.values()):
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        encoder.to(torch.bfloat16 if name == "bfloat16" else torch.float32)
        back_end = encoder.set_attention("auto")
        cell_embeddings(encoder, cells, "rank", "cls", show_progress=False, n_tokens=n_tokens)  # does not count
        wait(device)
        start = time.perf_counter()
        embedded = cell_embeddings(encoder, cells, "rank", "cls", show_progress=False, n_tokens=n_tokens)
        seconds = time.perf_counter() - start
        truth = embedded if truth is None else truth
        nearest = float(cosines(truth, embedded).min())
        row = {CASE: f"{name}, {n_tokens:,} tokens a batch", "attention": back_end, "cells/s": len(cells) / seconds,
               "smallest cosine to float32": nearest}  # fmt: skip
        yield judged(row, near_float32=nearest >= 0.999)
    torch.set_float32_matmul_precision("highest")


def measure_ddp(size: CheckSize) -> Iterator[Row]:
    """One process of DistributedDataParallel, with two parts of a batch, beside the bare module."""
    device, dtype = device_of(size), torch.bfloat16
    backend = "nccl" if device.type == "cuda" else "gloo"
    config = small_config(size, num_hidden_layers=min(4, size.layers), hidden_dropout_prob=0.0)
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    try:
        gradients = []
        for is_wrapped in (False, True):
            module = module_of(config, device, linear_back_end(device), dtype)
            batch = full_batch(size, min(8, size.cells), module)
            if is_wrapped and not size.is_tiny:
                module.compile_layers()
            gradients.append(_gradient_of_parts(module, batch, device, is_wrapped))
            free_memory(device)
    finally:
        distributed.destroy_process_group()
    error = relative_error(gradients[1], gradients[0])
    yield judged({CASE: f"DDP by {backend}, two parts", "gradient differs by": error}, same_gradient=error <= 5e-2)


def _gradient_of_parts(module: torch.nn.Module, batch: object, device: torch.device, is_wrapped: bool) -> torch.Tensor:
    """Gradient of a batch that is computed twice, as one vector; wrapped, processes are asked at the second time."""
    called = torch.nn.parallel.DistributedDataParallel(module, broadcast_buffers=False) if is_wrapped else module
    for is_last in (False, True):
        with called.no_sync() if is_wrapped and not is_last else nullcontext():
            with torch.autocast(device.type, torch.bfloat16):
                loss = called(batch)["loss"]
            loss.backward()
    weights = module.model.parameters()
    return torch.cat([weight.grad.flatten().cpu() for weight in weights if weight.grad is not None])


MEASURED = {
    "training": measure_training, "loader": measure_loader, "usual": measure_usual, "resume": measure_resume,
    "inference": measure_inference, "ddp": measure_ddp,
}  # fmt: skip
