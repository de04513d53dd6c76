"""The pre-training run: steps, log lines, evaluations, checkpoints (design.md, section 6)."""

import csv
import hashlib
import logging
import math
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from scdmc.batches import BatchOrder, MaskingOptions, PretrainingBatch, masked_batch
from scdmc.checkpoints import (
    load_optimizer,
    optimizer_tensors,
    read_checkpoint,
    with_prefix,
    without_prefix,
    write_checkpoint,
)
from scdmc.configuration import ScDMCConfig
from scdmc.distributed import gather_equal, global_sum, n_processes, shard, spread_like, whole
from scdmc.dual_stream import ObjectiveOptions, ScDMCForPretraining
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path
from scdmc.modeling import TIED_WEIGHT, ScDMCForMaskedLM
from scdmc.objectives import TEMPERATURE
from scdmc.optimization import parameter_groups, warmup_then_cosine
from scdmc.tokenized_data import TokenizedCells

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

# Held-out cells get the masks of an epoch that training never reaches, so every evaluation asks the same questions.
EVALUATION_EPOCH = 2**31
# A GPU's peak in bf16 without sparsity, for the share of it that training reaches (H100 and H200).
PEAK_TFLOPS = 989.0
# These may differ between an interrupted run and the one that resumes it.
FREE_SETTINGS = {"log_every", "evaluate_every", "save_every", "keep_checkpoints", "num_workers", "max_minutes", "fsdp"}


@dataclass(frozen=True)
class PretrainingSettings:
    """Settings of a run; the defaults are the paper's.

    Attributes
    ----------
    batch_size
        Cells of an optimizer step, over all processes and accumulation steps.
    tokens_per_batch
        Most tokens of an optimizer step, both streams together, instead of ``batch_size``: memory then does not depend
        on how long the cells are that meet in a batch.
    learning_rate, weight_decay, warmup_fraction, epochs
        AdamW with a cosine schedule after a linear warm-up; no decay on biases and LayerNorm.
    max_steps
        Stop after this many optimizer steps, whatever ``epochs`` says; the schedule ends there.
    schedule_minutes
        Train for this long, whatever ``epochs`` and ``max_steps`` say; the schedule follows the clock and ends there.
        Interruptions do not count.
    max_minutes
        Save a checkpoint and stop after this long (a queue's limit); a resumed run goes on with the same schedule.
    seed
        Of masks, order of the cells, and dropout.
    mask_probability, streams, expression_order, view_dropout
        See :class:`scdmc.batches.MaskingOptions`.
    mlm_weight, alpha, temperature, queue_size, published_objective
        See :class:`scdmc.dual_stream.ObjectiveOptions`. The published objective also leaves the masked genes of the
        expression stream visible and freezes the momentum encoder.
    momentum
        m of the momentum encoder, per optimizer step; 1 freezes it.
    max_gradient_norm
        Gradients are scaled down to this norm.
    gradient_accumulation_steps
        Parts in which a batch is computed; the loss is the mean over the parts.
    bf16, gradient_checkpointing, torch_compile
        Compute in bfloat16; compute states again instead of keeping them; compile the layers.
    fsdp
        Spread weights, gradients and optimizer state over the processes, for models that fit no single GPU.
    num_workers
        Processes that prepare batches; 0 prepares them in between steps.
    log_every, evaluate_every, save_every
        Optimizer steps between log lines, evaluations on held-out cells, and checkpoints.
    keep_checkpoints
        Older checkpoints are deleted.
    """

    batch_size: int = 24
    tokens_per_batch: int | None = None
    learning_rate: float = 5e-5
    weight_decay: float = 1e-3
    warmup_fraction: float = 0.05
    epochs: int = 3
    max_steps: int | None = None
    schedule_minutes: float | None = None
    max_minutes: float | None = None
    seed: int = 42
    mask_probability: float = 0.15
    streams: str = "both"
    expression_order: str = "token_id"
    view_dropout: float = 0.0
    mlm_weight: float = 1.0
    alpha: float = 1.0
    temperature: float = TEMPERATURE
    queue_size: int = 0
    published_objective: bool = False
    momentum: float = 0.995
    max_gradient_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    bf16: bool = False
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    fsdp: bool = False
    num_workers: int = 0
    log_every: int = 10
    evaluate_every: int = 200
    save_every: int = 200
    keep_checkpoints: int = 2

    @property
    def masking(self) -> MaskingOptions:
        """How cells become batches."""
        return MaskingOptions(
            self.seed,
            self.mask_probability,
            self.streams,
            self.expression_order,
            mask_expression_input=not self.published_objective,
            view_dropout=self.view_dropout,
        )

    @property
    def evaluation_masking(self) -> MaskingOptions:
        """How held-out cells become batches: whole, so that runs with other views are judged alike."""
        return replace(self.masking, view_dropout=0.0)

    @property
    def objective(self) -> ObjectiveOptions:
        """What the loss is made of."""
        names = ObjectiveOptions.__dataclass_fields__
        return ObjectiveOptions(**{name: getattr(self, name) for name in names})


class _Batches(Dataset):
    """Masked batches by (epoch, number in the epoch): a resumed run asks for the next one."""

    def __init__(
        self,
        cells: TokenizedCells,
        training: np.ndarray,
        order: BatchOrder,
        masking: MaskingOptions,
        process: int,
        n_processes: int,
    ) -> None:
        self.cells = cells
        self.training = training
        self.order = order
        self.masking = masking
        self.process = (process, n_processes)
        self.epoch: int | None = None
        self.batches: list[np.ndarray] = []

    def __getitem__(self, number: tuple[int, int]) -> PretrainingBatch:
        epoch, index = number
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, self.order.batches(epoch)
        return masked_batch(self.cells, self.training[self.batches[index]], epoch, self.masking, *self.process)


class Pretraining:
    """One run: its state, and what happens to it step by step.

    Parameters
    ----------
    model
        The model to be trained.
    cells
        The data.
    training, held_out
        Which cells are trained on and which are held out, shapes (n_training,) and (n_held_out,).
    settings
        See :class:`PretrainingSettings`.
    output_dir
        Checkpoints go to ``checkpoints/``, tensorboard files to ``tensorboard/``.
    device
        Where to train; of several processes each takes its own GPU.
    attention
        Attention back end.
    order
        Which cells of ``training`` make up each batch; drawn by length and seed without it.
    """

    def __init__(
        self,
        model: ScDMCForMaskedLM,
        cells: TokenizedCells,
        training: np.ndarray,
        held_out: np.ndarray,
        settings: PretrainingSettings,
        output_dir: Path,
        device: torch.device,
        attention: str = "auto",
        order: BatchOrder | None = None,
    ) -> None:
        parts = settings.gradient_accumulation_steps
        if settings.tokens_per_batch is None and settings.batch_size % parts:
            raise ScDMCError(
                f"--batch_size {settings.batch_size} is no multiple of --gradient_accumulation_steps {parts}"
            )
        self.settings = settings
        self.output_dir = Path(output_dir)
        self.cells = cells
        self.training = training
        self.held_out = held_out
        self.accelerator = Accelerator(
            cpu=device.type == "cpu",
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        self.device = self.accelerator.device
        self.order = _batch_order(cells, training, settings) if order is None else order
        if self.order.fewest_cells < self.accelerator.num_processes:
            raise ScDMCError(
                f"--batch_size or --tokens_per_batch: a part of a batch may have {self.order.fewest_cells} cells only, "
                f"fewer than the {self.accelerator.num_processes} processes"
            )
        n_batches = sum(self.order.n_batches(epoch) for epoch in range(settings.epochs))
        self.total_steps = settings.max_steps or max(1, n_batches // parts)
        self.module = ScDMCForPretraining(model, settings.objective).to(self.device)
        dtype = torch.bfloat16 if settings.bf16 else torch.float32
        self.attention = self.module.model.set_attention(attention, dtype)
        self.module.momentum_encoder.set_attention(attention, dtype)
        self.module.model.bert.recompute_layers = settings.gradient_checkpointing
        if settings.torch_compile:
            compile_layers(self.module)
        self.wrapped = self._spread_over_processes()
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.module.model, settings.weight_decay), lr=settings.learning_rate, fused=True
        )
        self.step = 0
        self.trained_seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.stop_requested = False

    def _spread_over_processes(self) -> nn.Module:
        """The module as the steps call it: it averages the gradients of the processes."""
        if not self.settings.fsdp:
            return self.accelerator.prepare_model(self.module)
        if self.accelerator.num_processes == 1:
            raise ScDMCError("--fsdp spreads a model over several processes, and there is one: start it with torchrun")
        encoders = (self.module.model.bert, self.module.momentum_encoder)
        layers = [layer for encoder in encoders for layer in encoder.encoder.layer]
        shard(self.module, layers, self.device, other_forward="sums")
        return self.module

    @property
    def share_done(self) -> float:
        """How much of the schedule is done, from 0 to 1."""
        if self.settings.schedule_minutes:
            return min(1.0, self.trained_seconds / (60 * self.settings.schedule_minutes))
        return self.step / self.total_steps

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        done, warmup = self.share_done, self.settings.warmup_fraction
        if not self.settings.schedule_minutes:
            # Counted in whole steps, so that the first step already learns something.
            warmup_steps = max(1, round(self.total_steps * warmup))
            if self.step < warmup_steps:
                return self.settings.learning_rate * (self.step + 1) / warmup_steps
            warmup = warmup_steps / self.total_steps
        return self.settings.learning_rate * warmup_then_cosine(done, warmup)

    @property
    def cells_per_step(self) -> float:
        """Cells of an optimizer step, on average."""
        return self.order.cells_per_batch * self.settings.gradient_accumulation_steps

    def run(self) -> None:
        """Train to the end of the schedule, or until a signal or ``max_minutes`` asks to stop."""
        settings = self.settings
        if self.step == 0:
            # Dropout; the state of the generator is part of a checkpoint. Each process drops other states.
            torch.manual_seed(settings.seed + self.accelerator.process_index)
            self._evaluate()
        self.module.train()
        loader = self._loader()
        window = _Window(self.device)
        clock = _Clock(settings.max_minutes)
        with _stop_on_signal(self), self._writer() as writer, self._progress() as progress:
            while self.share_done < 1.0 and not self.stop_requested:
                batches = [next(loader) for _ in range(settings.gradient_accumulation_steps)]
                window.add(self.step + 1, self._optimizer_step(batches), batches)
                self._advance_clock(clock)
                progress.update(sum(sum(batch.cells_by_process) for batch in batches))
                is_last = self.share_done >= 1.0 or self.stop_requested
                if self.step % settings.log_every == 0 or is_last:
                    self._log(window, writer, progress)
                if self.step % settings.evaluate_every == 0 or self.share_done >= 1.0:
                    self._log_scalars(self._evaluate(), writer)
                if self.step % settings.save_every == 0 or is_last:
                    self.save_checkpoint()

    def dry_run(self) -> dict[str, str]:
        """One evaluation, three steps and one checkpoint, and what they say of a whole run; nothing stays on disk."""
        batch_size = self.order.batch_size
        evaluate(self.module, self.cells, self.held_out[:batch_size], batch_size, self.settings)
        self.module.train()
        loader, seconds = self._loader(), []
        for _ in range(3):
            start = time.perf_counter()
            metrics = self._optimizer_step([next(loader) for _ in range(self.settings.gradient_accumulation_steps)])
            float(metrics["total_loss"])  # waits for the device
            seconds.append(time.perf_counter() - start)
        with tempfile.TemporaryDirectory() as folder:
            self.output_dir = Path(folder)
            self.save_checkpoint()
        step = min(seconds[1:])
        return {
            "parameters": f"{self.module.model.num_parameters():,}",
            "seconds a step": f"{step:.2f}",
            "cells a second": f"{self.cells_per_step / step:,.1f}",
            "peak memory": f"{peak_memory(self.device) / 2**30:.2f} GiB",
            "steps": f"{self.total_steps:,}",
            "estimated time": f"{self.total_steps * step / 3600:.2f} hours",
        }

    @property
    def is_finished(self) -> bool:
        """True if the schedule has ended, False if the run was asked to stop before."""
        return self.share_done >= 1.0

    def _optimizer_step(self, batches: list[PretrainingBatch]) -> dict[str, torch.Tensor]:
        """One step over the parts of a batch; returns its metrics, on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        totals: dict[str, torch.Tensor] = {}
        for number, batch in enumerate(batches, 1):
            with self._synchronised(number == len(batches)):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
                    metrics = self.wrapped(batch.to(self.device))
                self.accelerator.backward(metrics.pop("loss") / len(batches))
            for name, value in metrics.items():
                totals[name] = totals.get(name, 0) + value.detach() / len(batches)
        norm = nn.utils.clip_grad_norm_(self.module.model.parameters(), self.settings.max_gradient_norm)
        totals["gradient_norm"] = whole(norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not self.settings.published_objective:
            self.module.update_momentum_encoder(self.settings.momentum)
        self.step += 1
        return totals

    @contextmanager
    def _synchronised(self, is_last_part: bool) -> Iterator[None]:
        """Gradients of several processes are averaged once per optimizer step, with its last part."""
        if self.settings.fsdp:
            self.module.set_requires_gradient_sync(is_last_part)
            yield
        elif is_last_part:
            yield
        else:
            with self.accelerator.no_sync(self.wrapped):
                yield

    def _loader(self) -> Iterator[PretrainingBatch]:
        """Batches from where the run stands, without end."""
        processes = (self.accelerator.process_index, self.accelerator.num_processes)
        data = _Batches(self.cells, self.training, self.order, self.settings.masking, *processes)
        # A generator of its own: the loader would draw from the global one, which decides the dropout of a resumed run.
        return iter(
            DataLoader(
                data,
                batch_size=None,
                sampler=self._numbers(),
                num_workers=self.settings.num_workers,
                generator=torch.Generator(),
            )
        )

    def _numbers(self) -> Iterator[tuple[int, int]]:
        """(epoch, number in the epoch) of every batch from here on."""
        epoch, index = self._position()
        while True:
            for number in range(index, self.order.n_batches(epoch)):
                yield epoch, number
            epoch, index = epoch + 1, 0

    def _position(self) -> tuple[int, int]:
        """Epoch and number in it of the next batch."""
        epoch, index = 0, self.step * self.settings.gradient_accumulation_steps
        while index >= self.order.n_batches(epoch):
            index -= self.order.n_batches(epoch)
            epoch += 1
        return epoch, index

    def _advance_clock(self, clock: "_Clock") -> None:
        """Training time, and whether it is up. Over several processes all follow the same clock: that of the sum."""
        seconds = clock.lap()
        if self.settings.schedule_minutes or self.settings.max_minutes or self.accelerator.num_processes > 1:
            asked = torch.tensor([seconds, float(self.stop_requested or clock.is_up)], device=self.device)
            shared = global_sum(asked) / self.accelerator.num_processes
            seconds, stop = (float(value) for value in shared)
            self.stop_requested = stop > 0
        self.trained_seconds += seconds

    @contextmanager
    def _writer(self) -> Iterator["SummaryWriter | None"]:
        """Tensorboard writer of the main process; a lean training node may lack the package."""
        if find_spec("tensorboard") is None:
            logger.warning("warning: tensorboard is not installed; history.csv holds the numbers")
        if not self.accelerator.is_main_process or find_spec("tensorboard") is None:
            yield None
            return
        from torch.utils.tensorboard import SummaryWriter

        # A resumed run writes its steps again: what the interrupted one wrote of them is dropped.
        with SummaryWriter(self.output_dir / "tensorboard", purge_step=self.step + 1) as writer:
            yield writer

    def _progress(self) -> tqdm:
        total = None if self.settings.schedule_minutes else round(self.total_steps * self.cells_per_step)
        return tqdm(
            total=total,
            initial=round(self.step * self.cells_per_step),
            unit=" cells",
            desc="pre-train",
            smoothing=0.05,
            disable=not self.accelerator.is_main_process,
        )

    def _log(self, window: "_Window", writer: "SummaryWriter | None", progress: tqdm) -> None:
        diverged = window.first_diverged_step()
        if diverged is not None:
            step, rows = diverged
            raise ScDMCError(
                f"the loss is not finite at step {step}, whose cells are the rows {', '.join(map(str, rows))}: "
                "training diverged; start again with a lower --learning_rate or a larger --warmup_fraction"
            )
        row = {"step": self.step, **window.close(self.module.model.config)}
        row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        epoch, index = self._position()
        row["epoch"] = epoch + index / self.order.n_batches(epoch)
        self.history.append(row)
        shown = {"mlm_rank_loss": "rank", "mlm_expression_loss": "expression", "contrastive_loss": "contrast"}
        progress.set_postfix({text: f"{row[name]:.2f}" for name, text in shown.items() if name in row})
        self._log_scalars(row, writer)

    def _log_scalars(self, row: Mapping[str, float], writer: "SummaryWriter | None") -> None:
        for name, value in row.items():
            if writer is not None and name != "step":
                writer.add_scalar(name, value, self.step)

    def _evaluate(self) -> dict[str, float]:
        """Losses and accuracies on the held-out cells; appended to the history."""
        metrics = evaluate(self.module, self.cells, self.held_out, self.order.batch_size, self.settings)
        row = {"step": self.step, **{f"eval_{name}": value for name, value in metrics.items()}}
        self.history.append(row)
        return row

    @property
    def final_metrics(self) -> dict[str, float]:
        """Of the last evaluation."""
        evaluations = [row for row in self.history if "eval_loss" in row]
        return {name: value for name, value in evaluations[-1].items() if name.startswith("eval_")}

    def save_checkpoint(self) -> None:
        """Write everything that a resumed run needs; a checkpoint is complete or absent.

        Raises
        ------
        ScDMCError
            If training has diverged (its weights are not worth keeping), or the disk is full.
        """
        weights = self._whole_state(self.module)
        if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
            raise ScDMCError(f"some weights are no longer finite at step {self.step}: training diverged")
        random_states = self._random_states()
        tensors = with_prefix("module", weights)
        tensors |= with_prefix("optimizer", optimizer_tensors(self.optimizer)) | with_prefix("random", random_states)
        state = {"step": self.step, "trained_seconds": self.trained_seconds, "run": self._identity(),
                 "history": self.history}  # fmt: skip
        if self.accelerator.is_main_process:
            write_checkpoint(self.output_dir, self.step, tensors, state, self.settings.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def end(self) -> None:
        """Part from the other processes once all are done: one that just exits may abort, and fail the whole job.

        No step can follow. The wrapper that averages gradients holds on to the connections: it must go before them, or
        they last until the interpreter has gone.
        """
        self.accelerator.wait_for_everyone()
        self.wrapped = self.module
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def _whole_state(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """State of a module, also where each process holds a part of it; all processes must ask."""
        return {name: whole(tensor) for name, tensor in _without_tied(module.state_dict()).items()}

    def whole_model(self) -> ScDMCForMaskedLM:
        """The model, also where each process holds a part of it; all processes must ask."""
        if not self.settings.fsdp:
            return self.module.model
        model = ScDMCForMaskedLM(self.module.model.config)
        model.load_state_dict(self._whole_state(self.module.model), strict=False)
        model.tie_weights()
        return model

    def _random_states(self) -> dict[str, torch.Tensor]:
        """State of every process's generators, ``process.device`` -> bytes: each process drops other states."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state()
        return {
            f"{process}.{name}": state.cpu()
            for name, own in states.items()
            for process, state in enumerate(gather_equal(own.to(self.device)))
        }

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint: weights, momentum encoder, optimizer, schedule, order of the cells, random state.

        Raises
        ------
        ScDMCError
            If the checkpoint belongs to other data, settings or another model.
        """
        tensors, state = read_checkpoint(checkpoint)
        self._require_same_run(state, checkpoint)
        weights, own = without_prefix("module", tensors), self.module.state_dict()
        weights = {name: spread_like(tensor, own.get(name, tensor)) for name, tensor in weights.items()}
        missing, unknown = self.module.load_state_dict(weights, strict=False)
        if unknown or any(not name.endswith(TIED_WEIGHT) for name in missing):
            raise ScDMCError(f"{checkpoint} does not fit the model: missing {missing[:3]}, unknown {unknown[:3]}")
        load_optimizer(self.optimizer, without_prefix("optimizer", tensors))
        random_states = without_prefix(f"random.{self.accelerator.process_index}", tensors)
        if "cpu" in random_states:
            torch.set_rng_state(random_states["cpu"].cpu())
        else:  # the run goes on with more processes than it had: the new ones draw from a seed of their own
            torch.manual_seed(self.settings.seed + 1_000_003 * state["step"] + self.accelerator.process_index)
        if self.device.type == "cuda" and "cuda" in random_states:
            torch.cuda.set_rng_state(random_states["cuda"].cpu())
        self.step, self.trained_seconds, self.history = state["step"], state["trained_seconds"], state["history"]

    def _identity(self) -> dict[str, object]:
        """What makes a run what it is: settings, sizes of the model, the training cells."""
        config = self.module.model.config
        sizes = {name: getattr(config, name) for name in ScDMCConfig.__annotations__ if "classifier" not in name}
        cells = self.cells
        parts = (cells.rows[self.training], cells.rank_lengths, cells.rank_ids[:100_000])
        content = (*parts, cells.expression_values[:100_000], self.held_out)
        digest = hashlib.sha256(b"".join(part.tobytes() for part in content)).hexdigest()
        return {**asdict(self.settings), **sizes, "n_training_cells": len(self.training), "training_cells": digest}

    def _require_same_run(self, state: Mapping, checkpoint: Path) -> None:
        """A resumed run is the interrupted one only if all of this is unchanged."""
        found, expected = state["run"], self._identity()
        changed = [name for name in expected if name not in FREE_SETTINGS and found.get(name) != expected[name]]
        if changed:
            name = changed[0]
            raise ScDMCError(
                f"{checkpoint} was made with {name} {found.get(name)}, not {expected[name]}; a resumed run keeps it"
            )


def _batch_order(cells: TokenizedCells, training: np.ndarray, settings: PretrainingSettings) -> BatchOrder:
    """The order of the parts of batches."""
    parts = settings.gradient_accumulation_steps
    n_streams = 2 if settings.streams == "both" else 1
    tokens = None if settings.tokens_per_batch is None else settings.tokens_per_batch // parts
    lengths = n_streams * cells.rank_lengths[training]
    return BatchOrder(lengths, settings.batch_size // parts, settings.seed, tokens)


def peak_memory(device: torch.device) -> int:
    """Largest memory so far, in bytes: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts kibibytes, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compile_layers(module: ScDMCForPretraining) -> None:
    """Compile the parts of every layer that see all tokens alike; attention has kernels of its own."""
    for encoder in (module.model.bert, module.momentum_encoder):
        for layer in encoder.encoder.layer:
            layer.mlp.compile(dynamic=True)
            layer.attention.output.compile(dynamic=True)


def _without_tied(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The decoder's matrix is the word embedding and is stored once."""
    return {name: tensor for name, tensor in state.items() if not name.endswith(TIED_WEIGHT)}


@contextmanager
def _stop_on_signal(run: Pretraining) -> Iterator[None]:
    """SIGTERM (a cluster that wants its node back) ends the run after the step in hand, with a checkpoint."""

    def stop(number: int, frame: object) -> None:
        run.stop_requested = True

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Clock:
    """Seconds between steps, and whether ``max_minutes`` are over."""

    def __init__(self, max_minutes: float | None) -> None:
        self.deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last call."""
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        return seconds

    @property
    def is_up(self) -> bool:
        """True if the deadline has passed."""
        return self.last >= self.deadline


class _Window:
    """What happened since the last log line; metrics stay on the device until then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._start()

    def _start(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.losses: list[torch.Tensor] = []
        self.cells: list[tuple[int, list[int]]] = []
        self.n_cells = self.n_tokens = 0
        self.sum_of_squared_lengths = 0
        self.started = time.perf_counter()

    def add(self, step: int, metrics: Mapping[str, torch.Tensor], batches: list[PretrainingBatch]) -> None:
        """Add one optimizer step."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.losses.append(metrics["total_loss"])
        self.cells.append((step, [int(row) for batch in batches for row in batch.cells]))
        self.n_cells += sum(sum(batch.cells_by_process) for batch in batches)
        for batch in batches:
            share = len(batch.cells_by_process)  # the other processes have about as much to do
            self.n_tokens += sum(batch.streams.layout.lengths) * share
            self.sum_of_squared_lengths += sum(length**2 for length in batch.streams.layout.lengths) * share

    def first_diverged_step(self) -> tuple[int, list[int]] | None:
        """Number and rows of cells of the first step whose loss is not finite; the only wait for the device."""
        is_finite = torch.isfinite(torch.stack(self.losses)).tolist()
        return None if all(is_finite) else self.cells[is_finite.index(False)]

    def close(self, config: ScDMCConfig) -> dict[str, float]:
        """Means over the window and its speed; the next window starts empty."""
        n_steps = len(self.losses)
        row = {name: float(value) / n_steps for name, value in self.sums.items()}
        row["loss"] = row.pop("total_loss")
        seconds = time.perf_counter() - self.started
        row |= {"cells_per_second": self.n_cells / seconds, "tokens_per_second": self.n_tokens / seconds}
        if self.device.type == "cuda":
            flops = training_flops(config, self.n_tokens, self.sum_of_squared_lengths)
            row["mfu"] = flops / seconds / (PEAK_TFLOPS * 1e12 * n_processes())
        self._start()
        return row


def training_flops(
    config: ScDMCConfig, n_tokens: int, sum_of_squared_lengths: int, masked_share: float = 0.15
) -> float:
    """Floating-point operations of forward, backward and momentum pass, a multiply-add counted as two.

    Matrices of the layers: 2 x parameters per token forward, twice that backward, once more for the momentum pass.
    Attention: 4 x length x hidden_size per token and layer forward, without counting what a kernel computes again.
    The masked-gene head counts for ``masked_share`` of the tokens. Element-wise work is left out.

    Parameters
    ----------
    config
        Sizes of the model.
    n_tokens
        Tokens of all streams.
    sum_of_squared_lengths
        Sum over the streams of their squared lengths.
    masked_share
        Share of the tokens that reach the head.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    per_layer = 4 * hidden**2 + 3 * hidden * config.intermediate_size
    encoder = layers * (2 * per_layer * n_tokens + 4 * hidden * sum_of_squared_lengths)
    head = 2 * masked_share * n_tokens * (hidden**2 + hidden * config.vocab_size)
    return 4.0 * encoder + 3.0 * head


@torch.no_grad()
def evaluate(
    module: ScDMCForPretraining,
    cells: TokenizedCells,
    held_out: np.ndarray,
    batch_size: int,
    settings: PretrainingSettings,
) -> dict[str, float]:
    """Losses and accuracies on held-out cells, whose masks are the same at every call and whose views are whole.

    MLM metrics are means over all masked genes of the held-out cells (weighted by expression in that stream), whatever
    the batches. The contrast depends on the number of negatives, so it is computed in batches as large as in training
    and averaged over their cells.
    """
    was_training = module.training
    module.eval()
    sums: dict[str, float] = {}
    device = module.model.device
    order = _batch_order(cells, held_out, replace(settings, batch_size=batch_size, gradient_accumulation_steps=1))
    for chosen in order.batches(EVALUATION_EPOCH):
        batch = masked_batch(cells, held_out[chosen], EVALUATION_EPOCH, settings.evaluation_masking).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            parts = module.sums(batch)
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    module.train(was_training)
    return _means(sums, len(held_out), settings)


def _means(sums: dict[str, float], n_cells: int, settings: PretrainingSettings) -> dict[str, float]:
    """Sums over batches -> means; ``loss`` first."""
    means = {}
    for stream in ("rank", "expression"):
        total = sums.pop(f"{stream}_total")
        for name in (f"mlm_{stream}_loss", f"mlm_{stream}_accuracy"):
            value = sums.pop(name)
            if total > 0:
                means[name] = value / total
    means |= {name: value / n_cells for name, value in sums.items()}
    mlm = sum(means.get(f"mlm_{stream}_loss", 0.0) for stream in ("rank", "expression"))
    contrast = means.get("contrastive_loss", 0.0)
    return {"loss": settings.mlm_weight * mlm + settings.alpha * contrast, **means}


def write_history(history: list[dict[str, float]], path: Path) -> None:
    """The history as CSV, one row per log line or evaluation."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(history)
