"""The pre-training run: steps, log lines, evaluations, checkpoints (docs/method.md, "Pre-training")."""

import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from scdmc.errors import ScDMCError
from scdmc.model.devices import computing_dtype
from scdmc.model.encoder import ScDMCModel
from scdmc.model.heads import TIED_WEIGHT, ScDMCForMaskedLM
from scdmc.training.batch_order import batch_order_of
from scdmc.training.checkpoints import (
    checkpoint_to_resume,
    load_optimizer,
    optimizer_tensors,
    random_states,
    read_checkpoint,
    restore_random_states,
    with_prefix,
    without_prefix,
    write_checkpoint,
)
from scdmc.training.distributed import accelerator_on, gathered, global_sum, own_part, shard, spread_like, whole
from scdmc.training.dual_stream import ScDMCForPretraining
from scdmc.training.evaluation import evaluate
from scdmc.training.identity import CellDigests, require_same_run, run_identity
from scdmc.training.loading import TrainingCells, masked_batches, position
from scdmc.training.masking import PretrainingBatch, masked_batch
from scdmc.training.memory import GIB, predicted_memory, require_memory
from scdmc.training.optimization import parameter_groups, warmup_then_cosine
from scdmc.training.run_log import Clock, RunLog, peak_memory
from scdmc.training.settings import PretrainingSettings


@dataclass(frozen=True)
class TimedStep:
    """An optimizer step that was timed: seconds in all and of waiting for batches, the loss, and the batches."""

    seconds: float
    seconds_for_batches: float
    loss: float
    batches: list[PretrainingBatch]


class Pretraining:
    """One run: its state, and what happens to it step by step.

    Parameters
    ----------
    model
        The model to be trained.
    data
        The cells that are trained on, and those that are held out.
    settings
        See :class:`PretrainingSettings`.
    output_dir
        Checkpoints go to ``checkpoints/``, files of the tracker to ``tensorboard/`` or ``wandb/``.
    device
        Where to train; of several processes each takes its own GPU.
    attention
        Attention back end.
    origin
        What else a resumed run must keep: what the weights started from, and what the token ids mean. Flag -> value.
    """

    def __init__(
        self,
        model: ScDMCForMaskedLM,
        data: TrainingCells,
        settings: PretrainingSettings,
        output_dir: Path,
        device: torch.device,
        attention: str = "auto",
        origin: Mapping[str, object] | None = None,
    ) -> None:
        settings.require_usable()
        parts = settings.gradient_accumulation_steps
        self.settings = settings
        self.output_dir = Path(output_dir)
        self.data = data
        self.origin = dict(origin or {})
        self.accelerator = accelerator_on(device)
        self.device = self.accelerator.device
        self.order = data.order
        if self.order is None:
            self.order = batch_order_of(data.cells, data.training, settings)
        if self.order.fewest_cells < self.accelerator.num_processes:
            raise ScDMCError(
                f"--batch_size or --tokens_per_batch: a part of a batch may have {self.order.fewest_cells} cells only, "
                f"fewer than the {self.accelerator.num_processes} processes"
            )
        n_batches = sum(self.order.n_batches(epoch) for epoch in range(settings.epochs))
        self.total_steps = settings.max_steps or max(1, n_batches // parts)
        self.module = ScDMCForPretraining(model, settings.objective)
        self.module.model.bert.recompute_layers = settings.gradient_checkpointing
        if settings.torch_compile:
            self.module.compile_layers()
        self.wrapped = self._spread_over_processes()
        dtype = computing_dtype("bfloat16" if settings.bf16 else "float32", self.device)
        self.attention = self.module.model.set_attention(attention, dtype, for_training=True)
        self.module.momentum_encoder.set_attention(attention, dtype)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.module.model, settings.weight_decay), lr=settings.learning_rate, fused=True
        )
        self.step = 0
        self.trained_seconds = 0.0
        self.log = RunLog(model.config, settings, self.device, self.accelerator.is_main_process)
        self.stop_requested = False
        self.digests: CellDigests | None = None

    def _spread_over_processes(self) -> nn.Module:
        """The module on its device, as the steps call it: it averages the gradients of the processes.

        A module that is sharded goes there in parts: the whole of it may fit no device.
        """
        if not self.settings.fsdp:
            return self.accelerator.prepare_model(self.module.to(self.device))
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

    def run(
        self,
        show: Callable[[list[dict[str, float]]], None] | None = None,
        probe: Callable[[ScDMCModel], dict[str, float]] | None = None,
    ) -> None:
        """Train to the end of the schedule, or until a signal or ``max_minutes`` asks to stop.

        Parameters
        ----------
        show
            Called by the main process with the history after each of its new rows.
        probe
            Judges the encoder, by the main process, every ``probe_every`` steps and at the end: name -> score.
        """
        self._require_memory()
        self.log.show = show
        settings = self.settings
        if self.step == 0:
            # Dropout; the state of the generator is part of a checkpoint. Each process drops other states.
            torch.manual_seed(settings.seed + self.accelerator.process_index)
            self._evaluate()
        self.module.train()
        if self.accelerator.is_main_process:
            self._start_digests()  # the first checkpoint needs them
        loader = self._loader()
        clock = Clock(settings.max_minutes)
        n_cells = None if settings.schedule_minutes else self.total_steps * self.cells_per_step
        seen = self.step * self.cells_per_step, n_cells
        with (
            _stop_on_signal(self),
            self.log.open(self.output_dir, self.step, self.share_done, seen),
        ):
            while self.share_done < 1.0 and not self.stop_requested:
                batches = [next(loader) for _ in range(settings.gradient_accumulation_steps)]
                self.log.add_step(self.step + 1, self._optimizer_step(batches), batches)
                self._advance_clock(clock)
                is_last = self.share_done >= 1.0 or self.stop_requested
                if self.step % settings.log_every == 0 or self.share_done >= 1.0:
                    rate = self.optimizer.param_groups[0]["lr"]
                    self.log.write_line(self.step, rate, self._epoch(), self.share_done)
                elif is_last:
                    self.log.require_finite()  # the line comes where an uninterrupted run has it
                if self.step % settings.evaluate_every == 0 or self.share_done >= 1.0:
                    self._evaluate()
                if probe and (self.step % settings.probe_every == 0 or self.share_done >= 1.0):
                    self._judge(probe)
                if self.step % settings.save_every == 0 or is_last:
                    self.save_checkpoint()

    def dry_run(self) -> dict[str, str]:
        """One evaluation, three steps and one checkpoint, and what they say of a whole run; nothing stays on disk.

        The evaluation and the first step are those with the most tokens, which decide how much memory a run takes.
        """
        self._require_memory()
        batch_size, n_parts = self.order.batch_size, self.settings.gradient_accumulation_steps
        longest = self.data.held_out[np.argsort(-self.data.cells.rank_lengths[self.data.held_out], kind="stable")]
        evaluate(self.module, self.data.cells, longest[:batch_size], batch_size, self.settings)
        self.module.train()
        self._optimizer_step(n_parts * [self._longest_batch()])
        step = min(timed.seconds for timed in self.timed_steps(2))
        with tempfile.TemporaryDirectory() as folder:
            self.output_dir = Path(folder)
            self._save({})
        return {
            "parameters": f"{self.module.model.num_parameters():,}",
            "seconds a step": f"{step:.2f}",
            "cells a second": f"{self.cells_per_step / step:,.1f}",
            "peak memory": f"{peak_memory(self.device) / GIB:.2f} GiB",
            "peak memory of a GPU, computed": f"{self.predicted_memory / GIB:.2f} GiB",
            "steps": f"{self.total_steps:,}",
            "estimated time": f"{self.total_steps * step / 3600:.2f} hours",
        }

    def timed_steps(self, n_steps: int) -> Iterator[TimedStep]:
        """Make steps for a measurement, each until the device has done it; nothing is logged, evaluated or saved."""
        self.module.train()
        loader = self._loader()
        for _ in range(n_steps):
            start = time.perf_counter()
            batches = [next(loader) for _ in range(self.settings.gradient_accumulation_steps)]
            seconds_for_batches = time.perf_counter() - start
            loss = float(self._optimizer_step(batches)["total_loss"])  # waits for the device
            yield TimedStep(time.perf_counter() - start, seconds_for_batches, loss, batches)

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
        settings = self.settings
        return masked_batches(
            self.data, self.order, settings.masking, self._batches_done, self._process, settings.num_workers,
            (self.attention, self.device.type),
        )  # fmt: skip

    def _longest_cells(self) -> np.ndarray:
        """Cells of the part of a batch with the most tokens in the first epoch."""
        return max(self.order.batches(0), key=lambda cells: self.order.lengths[cells].sum())

    def _longest_batch(self) -> PretrainingBatch:
        """The share that this process has of the part of a batch with the most tokens."""
        chosen = self.data.training[self._longest_cells()]
        batch = masked_batch(self.data.cells, chosen, 0, self.settings.masking, *self._process)
        return batch.prepared(self.attention, self.device.type)

    @property
    def predicted_memory(self) -> float:
        """Bytes that a process needs at least (:func:`scdmc.training.memory.predicted_memory`)."""
        n_tokens = int(self.order.lengths[self._longest_cells()].sum())
        n_processes = self.accelerator.num_processes
        return predicted_memory(
            self.module, self.module.model.config, -(-n_tokens // n_processes), self.settings.gradient_checkpointing,
            n_processes if self.settings.fsdp else 1,
        )  # fmt: skip

    def _require_memory(self) -> None:
        """Refuse a run whose longest batch cannot fit its GPU; else it would end at a step that chance decides."""
        if self.device.type == "cuda":
            require_memory(self.predicted_memory, *torch.cuda.mem_get_info(self.device))

    @property
    def _process(self) -> tuple[int, int]:
        """Number of this process, and how many there are."""
        return self.accelerator.process_index, self.accelerator.num_processes

    @property
    def _batches_done(self) -> int:
        return self.step * self.settings.gradient_accumulation_steps

    def _epoch(self) -> float:
        """Epochs that are done, the one in hand as a share."""
        epoch, index = position(self.order, self._batches_done)
        return epoch + index / self.order.n_batches(epoch)

    def _advance_clock(self, clock: Clock) -> None:
        """Training time, and whether it is up. Over several processes all follow the same clock: that of the sum."""
        seconds = clock.lap()
        if self.accelerator.num_processes == 1:  # nobody to agree with, so the device need not be waited for
            self.stop_requested = self.stop_requested or clock.is_up
        else:
            asked = torch.tensor([seconds, float(self.stop_requested or clock.is_up)], device=self.device)
            shared = global_sum(asked) / self.accelerator.num_processes
            seconds, stop = (float(value) for value in shared)
            self.stop_requested = stop > 0
        self.trained_seconds += seconds

    def _evaluate(self) -> None:
        """Losses and accuracies on the held-out cells, into the log."""
        data = self.data
        metrics = evaluate(self.module, data.cells, data.held_out, self.order.batch_size, self.settings)
        self.log.write_evaluation(self.step, metrics)

    def _judge(self, probe: Callable[[ScDMCModel], dict[str, float]]) -> None:
        """Scores of the frozen encoder, into the log; the other processes go on, and wait at their next step."""
        if self.accelerator.is_main_process:
            self.log.write_probe(self.step, probe(self.module.model.bert))

    @property
    def history(self) -> list[dict[str, float]]:
        """One row per log line or evaluation."""
        return self.log.history

    @property
    def final_metrics(self) -> dict[str, float]:
        """Of the last evaluation."""
        return self.log.last_evaluation

    @property
    def bytes_on_disk(self) -> int:
        """What the checkpoints of a run take at most: weights, and two moments of those that are trained."""
        weights = sum(weight.numel() * weight.element_size() for weight in self.module.parameters())
        trained = sum(w.numel() * w.element_size() for w in self.module.parameters() if w.requires_grad)
        # The newest is written before the oldest goes.
        n_checkpoints = min(self.settings.keep_checkpoints + 1, 1 + self.total_steps // self.settings.save_every)
        return n_checkpoints * (weights + 2 * trained)

    def save_checkpoint(self) -> None:
        """Write everything that a resumed run needs; a checkpoint is complete or absent.

        Raises
        ------
        ScDMCError
            If training has diverged (its weights are not worth keeping), or the disk is full.
        """
        self._save(self._identity() if self.accelerator.is_main_process else {})

    def _save(self, identity: dict[str, object]) -> None:
        is_kept, module = self.accelerator.is_main_process, _without_tied(self.module.state_dict())
        # Parts that are finite make a finite whole; every process must know, or the others would wait for it.
        wrong = [name for name, tensor in module.items() if not torch.isfinite(own_part(tensor)).all()]
        if float(global_sum(torch.tensor(len(wrong), device=self.device))):
            raise ScDMCError(f"some weights are no longer finite at step {self.step}: training diverged")
        tensors = with_prefix("module", gathered(module, is_kept))
        tensors |= with_prefix("optimizer", gathered(optimizer_tensors(self.optimizer), is_kept))
        tensors |= with_prefix("random", random_states(self.device))
        state = {"step": self.step, "trained_seconds": self.trained_seconds, "run": identity, **self.log.state()}
        if is_kept:
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

    def whole_model(self) -> ScDMCForMaskedLM | None:
        """The model, also where each process holds a part of it: then all must ask, and only the main one gets it."""
        if not self.settings.fsdp:
            return self.module.model
        is_kept = self.accelerator.is_main_process
        weights = gathered(_without_tied(self.module.model.state_dict()), is_kept)
        if not is_kept:
            return None
        model = ScDMCForMaskedLM(self.module.model.config)
        model.load_state_dict(weights, strict=False)
        model.tie_weights()
        return model

    def resume_from(self, name: str) -> None:
        """Go on from the checkpoint that ``--resume`` means (:func:`checkpoint_to_resume`)."""
        self.resume(checkpoint_to_resume(self.output_dir, name))

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint: weights, momentum encoder, optimizer, schedule, order of the cells, random state.

        Raises
        ------
        ScDMCError
            If the checkpoint belongs to other data, settings or another model.
        """
        tensors, state = read_checkpoint(checkpoint)
        require_same_run(state["run"], self._identity(), self.origin, checkpoint)
        weights, own = without_prefix("module", tensors), self.module.state_dict()
        weights = {name: spread_like(tensor, own.get(name, tensor)) for name, tensor in weights.items()}
        wrong = [name for name, tensor in weights.items() if name in own and tensor.shape != own[name].shape]
        if wrong:
            raise ScDMCError(f"{checkpoint} does not fit the model: {wrong[0]} has another shape")
        missing, unknown = self.module.load_state_dict(weights, strict=False)
        if unknown or any(not name.endswith(TIED_WEIGHT) for name in missing):
            raise ScDMCError(f"{checkpoint} does not fit the model: missing {missing[:3]}, unknown {unknown[:3]}")
        load_optimizer(self.optimizer, without_prefix("optimizer", tensors))
        # Processes that the interrupted run did not have draw from a seed of their own.
        new_seed = self.settings.seed + 1_000_003 * state["step"] + self.accelerator.process_index
        restore_random_states(
            without_prefix(f"random.{self.accelerator.process_index}", tensors), self.device, new_seed
        )
        self.step, self.trained_seconds = state["step"], state["trained_seconds"]
        self.log.restore(state)

    def _start_digests(self) -> CellDigests:
        if self.digests is None:
            self.digests = CellDigests(self.data)
        return self.digests

    def _identity(self) -> dict[str, object]:
        digests = self._start_digests().result()
        return run_identity(self.settings, self.module.model.config, self.data, self.origin, digests)


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
