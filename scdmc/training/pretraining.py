"""The pre-training run: steps, log lines, evaluations, checkpoints (design.md, section 6)."""

import hashlib
import logging
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
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

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.model.heads import TIED_WEIGHT, ScDMCForMaskedLM
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.batch_order import BatchOrder
from scdmc.training.checkpoints import (
    load_optimizer,
    optimizer_tensors,
    read_checkpoint,
    with_prefix,
    without_prefix,
    write_checkpoint,
)
from scdmc.training.distributed import gather_equal, global_sum, shard, spread_like, whole
from scdmc.training.dual_stream import ScDMCForPretraining
from scdmc.training.masking import PretrainingBatch, masked_batch
from scdmc.training.optimization import parameter_groups, warmup_then_cosine
from scdmc.training.settings import MaskingOptions

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
from scdmc.training.batch_order import _batch_order
from scdmc.training.evaluation import evaluate
from scdmc.training.run_log import _Clock, _Window, peak_memory
from scdmc.training.settings import FREE_SETTINGS, PretrainingSettings

logger = logging.getLogger(__name__)


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
