"""Pre-training: masked genes in both streams and momentum contrast between them (design.md, section 6)."""

import copy
import csv
import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from scdmc.batches import BatchOrder, PretrainingBatch, masked_batch
from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, remove
from scdmc.modeling import ScDMCForMaskedLM
from scdmc.objectives import (
    TEMPERATURE,
    MaskedGeneLoss,
    contrastive_loss,
    contrastive_similarities,
    masked_gene_loss,
    mean_weights,
)
from scdmc.tokenized_data import TokenizedCells

logger = logging.getLogger(__name__)

# Held-out cells get the masks of an epoch that training never reaches, so every evaluation asks the same questions.
EVALUATION_EPOCH = 2**31
METRICS = (
    "loss",
    "mlm_rank_loss",
    "mlm_expression_loss",
    "contrastive_loss",
    "mlm_rank_accuracy",
    "mlm_expression_accuracy",
    "contrastive_accuracy",
)


@dataclass(frozen=True)
class PretrainingSettings:
    """Settings of a run; the defaults are the paper's.

    Attributes
    ----------
    batch_size
        Cells of an optimizer step, over all processes and accumulation steps.
    learning_rate, weight_decay, warmup_fraction, epochs
        AdamW with a cosine schedule after a linear warm-up; no decay on biases and LayerNorm.
    max_steps
        Stop after this many optimizer steps, whatever ``epochs`` says; the schedule ends there.
    seed
        Of masks, order of the cells, and dropout.
    mask_probability, alpha, temperature, momentum
        Share of masked genes, weight of the contrast, its temperature, and m of the momentum encoder.
    max_gradient_norm
        Gradients are scaled down to this norm.
    gradient_accumulation_steps
        Parts in which a batch is computed.
    log_every, evaluate_every, save_every
        Optimizer steps between log lines, evaluations on held-out cells, and checkpoints.
    keep_checkpoints
        Older checkpoints are deleted.
    """

    batch_size: int = 24
    learning_rate: float = 5e-5
    weight_decay: float = 1e-3
    warmup_fraction: float = 0.05
    epochs: int = 3
    max_steps: int | None = None
    seed: int = 42
    mask_probability: float = 0.15
    alpha: float = 1.0
    temperature: float = TEMPERATURE
    momentum: float = 0.995
    max_gradient_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    log_every: int = 10
    evaluate_every: int = 200
    save_every: int = 200
    keep_checkpoints: int = 2


class ScDMCForPretraining(nn.Module):
    """The model, its momentum copy, and the loss of a batch.

    Parameters
    ----------
    model
        The encoder with its masked-gene head.
    alpha, temperature
        Weight and temperature of the contrast.
    """

    def __init__(self, model: ScDMCForMaskedLM, alpha: float = 1.0, temperature: float = TEMPERATURE) -> None:
        super().__init__()
        self.model = model
        self.momentum_encoder = copy.deepcopy(model.bert).requires_grad_(False).eval()
        self.alpha = alpha
        self.temperature = temperature

    def train(self, mode: bool = True) -> "ScDMCForPretraining":
        """Training mode for the model; the keys of the momentum encoder never see dropout."""
        super().train(mode)
        self.momentum_encoder.eval()
        return self

    def forward(self, batch: PretrainingBatch) -> dict[str, torch.Tensor]:
        """Losses and accuracies of a batch, scalars; only ``loss`` carries a gradient."""
        streams = batch.streams
        states = self.model.bert.encode(streams)  # (total_tokens of both streams, hidden_size)
        masked_genes, is_rank = self._masked_genes(states, batch)
        queries = states[streams.cls_positions].chunk(2)  # rank and expression, (n_cells, hidden_size) each
        with torch.no_grad():
            keys = self.momentum_encoder.encode(streams)[streams.cls_positions].chunk(2)
        contrast = (
            contrastive_loss(queries[0], keys[1], self.temperature)
            + contrastive_loss(queries[1], keys[0], self.temperature)
        ) / 2
        metrics = {"loss": masked_genes.loss + self.alpha * contrast, "contrastive_loss": contrast.detach()}
        with torch.no_grad():
            metrics |= _masked_gene_metrics(masked_genes, is_rank, batch.expression_values)
            similarities = contrastive_similarities(queries[0], keys[1])
            is_nearest = similarities.argmax(dim=1) == torch.arange(len(similarities), device=similarities.device)
            metrics["contrastive_accuracy"] = is_nearest.float().mean()
        return metrics

    def _masked_genes(self, states: torch.Tensor, batch: PretrainingBatch) -> tuple[MaskedGeneLoss, torch.Tensor]:
        """The sum of both masked-gene losses, and which masked genes are in the rank stream."""
        head = self.model.cls.predictions
        is_rank = torch.arange(len(batch.labels), device=states.device) < batch.n_masked_rank
        weights = mean_weights(is_rank.float()) + mean_weights(batch.expression_values)
        masked_states = head.transform(states[batch.masked_positions])
        loss = masked_gene_loss(masked_states, head.decoder.weight, head.decoder.bias, batch.labels, weights)
        return loss, is_rank

    @torch.no_grad()
    def update_momentum_encoder(self, momentum: float) -> None:
        """Move the momentum encoder towards the encoder: key = m key + (1 - m) query, once per optimizer step."""
        keys = list(self.momentum_encoder.parameters())
        torch._foreach_lerp_(keys, [parameter.detach() for parameter in self.model.bert.parameters()], 1.0 - momentum)


def _masked_gene_metrics(
    masked_genes: MaskedGeneLoss, is_rank: torch.Tensor, expression_values: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Loss and accuracy of each stream, each averaged with the weights of its loss."""
    metrics = {}
    for stream, weights in (("rank", mean_weights(is_rank.float())), ("expression", mean_weights(expression_values))):
        metrics[f"mlm_{stream}_loss"] = (masked_genes.cross_entropy * weights).sum()
        metrics[f"mlm_{stream}_accuracy"] = (masked_genes.is_correct * weights).sum()
    return metrics


class _Batches(Dataset):
    """Masked batches by their number since the start of the run, so that a resumed run goes on where it was."""

    def __init__(self, cells: TokenizedCells, order: BatchOrder, settings: PretrainingSettings) -> None:
        self.cells = cells
        self.order = order
        self.settings = settings
        self.epoch: int | None = None
        self.batches: list[np.ndarray] = []

    def __getitem__(self, number: int) -> PretrainingBatch:
        epoch, index = divmod(number, len(self.order))
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, self.order.batches(epoch)
        return masked_batch(self.cells, self.batches[index], self.settings.seed, epoch, self.settings.mask_probability)


class Pretraining:
    """One run: its state, and what happens to it step by step.

    Parameters
    ----------
    model
        The model to be trained.
    training_cells, held_out_cells
        The data.
    settings
        See :class:`PretrainingSettings`.
    output_dir
        Checkpoints go to ``checkpoints/``, tensorboard files to ``tensorboard/``.
    device
        Where to train.
    attention
        Attention back end.
    """

    def __init__(
        self,
        model: ScDMCForMaskedLM,
        training_cells: TokenizedCells,
        held_out_cells: TokenizedCells,
        settings: PretrainingSettings,
        output_dir: Path,
        device: torch.device,
        attention: str = "auto",
    ) -> None:
        self.settings = settings
        self.output_dir = Path(output_dir)
        self.accelerator = Accelerator(cpu=device.type == "cpu")
        self.training_cells = training_cells
        self.held_out_cells = held_out_cells
        parts = settings.gradient_accumulation_steps
        if settings.batch_size % parts:
            raise ScDMCError(
                f"--batch_size {settings.batch_size} is no multiple of --gradient_accumulation_steps {parts}"
            )
        self.order = BatchOrder(training_cells.rank_lengths, settings.batch_size // parts, settings.seed)
        steps_per_epoch = max(1, len(self.order) // settings.gradient_accumulation_steps)
        self.total_steps = settings.max_steps or settings.epochs * steps_per_epoch
        # Accelerate's device placement only: DistributedDataParallel is set up by the issue that scales out.
        self.module = ScDMCForPretraining(model, settings.alpha, settings.temperature).to(self.accelerator.device)
        self.attention = self.module.model.set_attention(attention)
        self.module.momentum_encoder.set_attention(attention)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, settings.weight_decay), lr=settings.learning_rate, fused=True
        )
        self.step = 0
        self.history: list[dict[str, float]] = []

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to 0."""
        warmup = max(1, round(self.total_steps * self.settings.warmup_fraction))
        if step < warmup:
            return self.settings.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.total_steps - warmup)
        return self.settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def run(self) -> None:
        """Train to the last step, with log lines, evaluations and checkpoints on the way."""
        settings = self.settings
        parts = settings.gradient_accumulation_steps
        numbers = range(self.step * parts, self.total_steps * parts)
        data = _Batches(self.training_cells, self.order, settings)
        # A generator of its own: the loader would draw from the global one, which decides the dropout of a resumed run.
        loader = iter(DataLoader(data, batch_size=None, sampler=numbers, generator=torch.Generator()))
        if self.step == 0:
            torch.manual_seed(settings.seed)  # dropout; the state of the generator is part of a checkpoint
            self._evaluate()
        self.module.train()
        window = _Window(self.accelerator.device)
        with SummaryWriter(self.output_dir / "tensorboard") as writer, self._progress() as progress:
            while self.step < self.total_steps:
                batches = [next(loader) for _ in range(parts)]
                window.add(self._optimizer_step(batches), batches)
                progress.update(sum(batch.n_cells for batch in batches))
                if self.step % settings.log_every == 0 or self.step == self.total_steps:
                    self._log(window.close(self.step), writer, progress)
                if self.step % settings.evaluate_every == 0 or self.step == self.total_steps:
                    self._log_scalars(self._evaluate(), writer)
                if self.step % settings.save_every == 0 or self.step == self.total_steps:
                    self.save_checkpoint()

    def _optimizer_step(self, batches: list[PretrainingBatch]) -> dict[str, torch.Tensor]:
        """One step over the parts of a batch; returns its metrics, on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        totals: dict[str, torch.Tensor] = {}
        for batch in batches:
            metrics = self.module(batch.to(self.accelerator.device))
            (metrics["loss"] / len(batches)).backward()
            for name, value in metrics.items():
                totals[name] = totals.get(name, 0) + value.detach() / len(batches)
        totals["gradient_norm"] = nn.utils.clip_grad_norm_(
            self.module.model.parameters(), self.settings.max_gradient_norm
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.module.update_momentum_encoder(self.settings.momentum)
        self.step += 1
        return totals

    def _progress(self) -> tqdm:
        batch_size = self.order.batch_size * self.settings.gradient_accumulation_steps
        return tqdm(
            total=self.total_steps * batch_size,
            initial=self.step * batch_size,
            unit=" cells",
            desc="pre-train",
            smoothing=0.05,
        )

    def _log(self, row: dict[str, float], writer: SummaryWriter, progress: tqdm) -> None:
        if not math.isfinite(row["loss"]):
            raise self._diverged(f"the loss is {row['loss']}")
        row["learning_rate"] = self.learning_rate(self.step - 1)
        row["epoch"] = self.step * self.settings.gradient_accumulation_steps / len(self.order)
        self.history.append(row)
        progress.set_postfix(rank=f"{row['mlm_rank_loss']:.2f}", expression=f"{row['mlm_expression_loss']:.2f}",
                             contrast=f"{row['contrastive_loss']:.2f}")  # fmt: skip
        self._log_scalars(row, writer)

    def _diverged(self, what: str) -> ScDMCError:
        return ScDMCError(
            f"{what} at step {self.step}: training diverged; start again with a lower --learning_rate or a larger "
            "--warmup_fraction"
        )

    def _log_scalars(self, row: Mapping[str, float], writer: SummaryWriter) -> None:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, value, self.step)

    def _evaluate(self) -> dict[str, float]:
        """Losses and accuracies on the held-out cells; appended to the history."""
        metrics = evaluate(self.module, self.held_out_cells, self.order.batch_size, self.settings)
        row = {"step": self.step, **{f"eval_{name}": value for name, value in metrics.items()}}
        self.history.append(row)
        return row

    @property
    def final_metrics(self) -> dict[str, float]:
        """Of the last evaluation."""
        return {name: value for name, value in self.history[-1].items() if name.startswith("eval_")}

    def save_checkpoint(self) -> Path:
        """Write everything that a resumed run needs; a checkpoint is complete or absent.

        Raises
        ------
        ScDMCError
            If training has diverged since the last log line: its weights are not worth keeping.
        """
        if not all(torch.isfinite(parameter).all() for parameter in self.module.model.parameters()):
            raise self._diverged("some weights are no longer finite")
        path = self.output_dir / "checkpoints" / f"step-{self.step:08d}"
        tensors = {f"module.{name}": tensor for name, tensor in _without_tied(self.module.state_dict()).items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.accelerator.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        with atomic_path(path) as temporary:
            temporary.mkdir()
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / "state.safetensors")
            state = {"step": self.step, "total_steps": self.total_steps, "run": self._identity(),
                     "history": self.history}  # fmt: skip
            (temporary / "state.json").write_text(json.dumps(state))
        for old in checkpoints(self.output_dir)[: -self.settings.keep_checkpoints]:
            remove(old)
        return path

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint: weights, momentum encoder, optimizer, schedule, order of the cells, random state.

        Raises
        ------
        ScDMCError
            If the checkpoint belongs to other data, settings or another model.
        """
        if not (checkpoint / "state.json").is_file():
            raise ScDMCError(f"{checkpoint} is no checkpoint")
        state = json.loads((checkpoint / "state.json").read_text())
        self._require_same_run(state, checkpoint)
        tensors = load_file(checkpoint / "state.safetensors", device=str(self.accelerator.device))
        weights = {
            name.removeprefix("module."): tensor for name, tensor in tensors.items() if name.startswith("module.")
        }
        self.module.load_state_dict(weights, strict=False)  # the decoder's matrix is tied and not stored
        optimizer = self.optimizer.state_dict()
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                optimizer["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(optimizer)
        torch.set_rng_state(tensors["random.cpu"].cpu())
        if self.accelerator.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"].cpu())
        self.step = state["step"]
        self.history = state["history"]

    def _identity(self) -> dict[str, object]:
        """What makes a run what it is: settings, sizes of the model, number of cells."""
        config = self.module.model.config
        sizes = {name: getattr(config, name) for name in ScDMCConfig.__annotations__}
        return {**asdict(self.settings), **sizes, "n_training_cells": len(self.training_cells)}

    def _require_same_run(self, state: Mapping, checkpoint: Path) -> None:
        """A resumed run is the interrupted one only if all of this is unchanged."""
        found, expected = state["run"], self._identity()
        free = {"log_every", "evaluate_every", "save_every", "keep_checkpoints"}
        changed = [name for name in expected if name not in free and found.get(name) != expected[name]]
        if changed:
            name = changed[0]
            raise ScDMCError(
                f"{checkpoint} was made with {name} {found.get(name)}, not {expected[name]}; a resumed run keeps it"
            )


def _without_tied(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The decoder's matrix is the word embedding and is stored once."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("cls.predictions.decoder.weight")}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameters with weight decay, and those without: biases and LayerNorm."""
    with_decay, without = [], []
    for name, parameter in model.named_parameters():
        is_plain = name.endswith("bias") or "layernorm" in name.lower()
        (without if is_plain else with_decay).append(parameter)
    return [{"params": with_decay, "weight_decay": weight_decay}, {"params": without, "weight_decay": 0.0}]


class _Window:
    """Means of the metrics since the last log line; they stay on the device until then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._start()

    def _start(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.n_steps = self.n_cells = self.n_tokens = 0
        self.started = time.perf_counter()

    def add(self, metrics: Mapping[str, torch.Tensor], batches: list[PretrainingBatch]) -> None:
        """Add one optimizer step."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.n_steps += 1
        self.n_cells += sum(batch.n_cells for batch in batches)
        self.n_tokens += sum(sum(batch.streams.layout.lengths) for batch in batches)

    def close(self, step: int) -> dict[str, float]:
        """Row of the history for the window; the next one starts empty."""
        row = {"step": step} | {name: float(value) / self.n_steps for name, value in self.sums.items()}
        seconds = time.perf_counter() - self.started
        row |= {"cells_per_second": self.n_cells / seconds, "tokens_per_second": self.n_tokens / seconds}
        self._start()
        return row


@torch.no_grad()
def evaluate(
    module: ScDMCForPretraining, cells: TokenizedCells, batch_size: int, settings: PretrainingSettings
) -> dict[str, float]:
    """Losses and accuracies on held-out cells, whose masks are the same at every call.

    Each metric is the mean over batches, weighted by their cells. (The contrast depends on the number of negatives, so
    the batches are as large as in training.)
    """
    was_training = module.training
    module.eval()
    device = module.model.device
    sums = dict.fromkeys(METRICS, 0.0)
    for chosen in BatchOrder(cells.rank_lengths, batch_size, settings.seed).batches(EVALUATION_EPOCH):
        batch = masked_batch(cells, chosen, settings.seed, EVALUATION_EPOCH, settings.mask_probability)
        metrics = module(batch.to(device))
        for name in METRICS:
            sums[name] += float(metrics[name]) * batch.n_cells
    module.train(was_training)
    return {name: total / len(cells) for name, total in sums.items()}


def checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(path for path in (Path(output_dir) / "checkpoints").glob("step-*") if (path / "state.json").exists())


def find_checkpoint(output_dir: Path, name: str) -> Path:
    """The checkpoint that ``--resume_from_checkpoint`` means: ``last`` or a folder.

    Raises
    ------
    ScDMCError
        If there is none.
    """
    if name != "last":
        return Path(name)
    found = checkpoints(output_dir)
    if not found:
        raise ScDMCError(f"{output_dir} holds no complete checkpoint to resume from")
    return found[-1]


def write_history(history: list[dict[str, float]], path: Path) -> None:
    """The history as CSV, one row per log line or evaluation."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(history)
