"""What a run says of itself: speed, FLOP/s, memory, and the history of its losses."""

import csv
import importlib
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path
from scdmc.memory import peak_memory_of_process
from scdmc.progress import is_watched
from scdmc.training.distributed import n_processes
from scdmc.training.flops import peak_flops, training_flops
from scdmc.training.masking import PretrainingBatch
from scdmc.training.settings import PretrainingSettings

# Told the numbers of a row, by group and name, and its step.
Tracker = Callable[[Mapping[str, float], int], None]
# Of wandb's site: where the runs of users are found together.
WANDB_PROJECT = "scDMC"

logger = logging.getLogger(__name__)


def peak_memory(device: torch.device) -> int:
    """Largest memory so far, in bytes: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_memory_of_process()


class Clock:
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


# Of a window, as whole numbers.
COUNTED = ("n_steps", "n_cells", "n_tokens", "sum_of_squared_lengths")


class _Window:
    """What happened since the last log line; metrics stay on the device until then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start()

    def start(self) -> None:
        """Forget what was added; the clock starts now."""
        self.sums: dict[str, torch.Tensor] = {}
        self.losses: list[torch.Tensor] = []
        self.cells: list[tuple[int, list[int]]] = []
        self.n_steps = 0
        self.n_cells = self.n_tokens = 0
        self.sum_of_squared_lengths = 0
        self.started = time.perf_counter()

    def add(self, step: int, metrics: Mapping[str, torch.Tensor], batches: list[PretrainingBatch]) -> None:
        """Add one optimizer step."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.losses.append(metrics["total_loss"])
        self.n_steps += 1
        self.cells.append((step, [int(row) for batch in batches for row in batch.cells]))
        self.n_cells += sum(sum(batch.cells_by_process) for batch in batches)
        for batch in batches:
            share = len(batch.cells_by_process)  # the other processes have about as much to do
            self.n_tokens += sum(batch.streams.layout.lengths) * share
            self.sum_of_squared_lengths += sum(length**2 for length in batch.streams.layout.lengths) * share

    def first_diverged_step(self) -> tuple[int, list[int]] | None:
        """Number and rows of cells of the first step whose loss is not finite; the only wait for the device."""
        if not self.losses:
            return None
        is_finite = torch.isfinite(torch.stack(self.losses)).tolist()
        return None if all(is_finite) else self.cells[is_finite.index(False)]

    def state(self) -> dict[str, object]:
        """What was added so far, as JSON: a resumed run goes on with it, and its lines are those of a whole run."""
        return {
            "sums": {name: float(value) for name, value in self.sums.items()},
            **{name: getattr(self, name) for name in COUNTED},
            "seconds": time.perf_counter() - self.started,
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Put back what :meth:`state` gave."""
        self.start()
        # Sums are kept in the precision of the device: the next one is added to the same number.
        self.sums = {
            name: torch.tensor(value, dtype=torch.float32, device=self.device) for name, value in state["sums"].items()
        }
        for name in COUNTED:
            setattr(self, name, state[name])
        self.started = time.perf_counter() - state["seconds"]

    def close(self, peak_seconds: Callable[[int, int], float] | None) -> dict[str, float]:
        """Means over the window and its speed; the next window starts empty.

        ``peak_seconds(n_tokens, sum of squared lengths)`` says how long the GPUs would take at their peak; None where
        the peak is not known.
        """
        row = {name: float(value) / self.n_steps for name, value in self.sums.items()}
        row["loss"] = row.pop("total_loss")
        seconds = time.perf_counter() - self.started
        row |= {"cells_per_second": self.n_cells / seconds, "tokens_per_second": self.n_tokens / seconds}
        if peak_seconds is not None:
            row["mfu"] = peak_seconds(self.n_tokens, self.sum_of_squared_lengths) / seconds
        self.start()
        return row


class RunLog:
    """What a run says while it goes on: its history, log lines, a progress bar on a terminal, and a tracker.

    Parameters
    ----------
    config
        Sizes of the model, for the share of a GPU's peak.
    settings
        Of the run.
    device
        Where the run computes.
    is_main_process
        Lines, bar and files are those of the main process; every process keeps the history.

    Attributes
    ----------
    history
        One row per log line or evaluation, with the ``step`` at which it was written.
    show
        Called by the main process with the history after each new row, if given.
    """

    def __init__(
        self, config: ScDMCConfig, settings: PretrainingSettings, device: torch.device, is_main_process: bool
    ) -> None:
        self.is_main_process = is_main_process
        self.history: list[dict[str, float]] = []
        self._window = _Window(device)
        self._peak_seconds = _peak_seconds(config, settings, device)
        self._resumed: Mapping[str, object] | None = None
        self._settings = settings
        self._track: Tracker | None = None
        self._progress: tqdm | None = None
        self._opened = (0.0, 0.0)
        self.show: Callable[[list[dict[str, float]]], None] | None = None

    @contextmanager
    def open(self, folder: Path, step: int, share_done: float, n_cells: tuple[float, float | None]) -> Iterator[None]:
        """Show a progress bar and report to the tracker of ``report_to`` meanwhile.

        Parameters
        ----------
        folder
            Of the run; the files of the tracker go into one of its own there.
        step
            Steps that are done. A resumed run writes later ones again: what the interrupted one wrote of them is
            dropped.
        share_done
            How much of the run is done, from 0 to 1.
        n_cells
            Cells that have been seen, and those of the whole run; None where the clock ends it.
        """
        done, total = n_cells
        bar = tqdm(
            total=None if total is None else round(total),
            initial=round(done),
            unit=" cells",
            desc="pre-train",
            smoothing=0.05,
            disable=not (self.is_main_process and is_watched()),  # else the log lines tell
        )
        if self._resumed is None:
            self._window.start()
        else:
            self._window.restore(self._resumed)
        self._opened = time.monotonic(), share_done
        with self._tracker(folder, step) as self._track, bar as self._progress, logging_redirect_tqdm():
            yield
        self._track = self._progress = None

    @contextmanager
    def _tracker(self, folder: Path, step: int) -> Iterator[Tracker | None]:
        """The tracker of the main process."""
        trackers = {"tensorboard": _tensorboard, "wandb": _wandb}
        if not self.is_main_process or self._settings.report_to not in trackers:
            yield None
            return
        with trackers[self._settings.report_to](folder, step, asdict(self._settings)) as track:
            yield track

    def add_step(self, step: int, metrics: Mapping[str, torch.Tensor], batches: list[PretrainingBatch]) -> None:
        """Add one optimizer step to the next log line; its metrics stay on the device until then."""
        self._window.add(step, metrics, batches)
        self._progress.update(sum(sum(batch.cells_by_process) for batch in batches))

    def state(self) -> dict[str, object]:
        """The history, and what the next line has of it so far, as JSON."""
        return {"history": self.history, "since_last_line": self._window.state()}

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on with what :meth:`state` gave; checkpoints of earlier versions have no more than the history."""
        self.history, self._resumed = state["history"], state.get("since_last_line")

    def require_finite(self) -> None:
        """Raise if a loss since the last line is not finite.

        Raises
        ------
        ScDMCError
            Naming the step and its cells.
        """
        diverged = self._window.first_diverged_step()
        if diverged is not None:
            diverged_step, rows = diverged
            raise ScDMCError(
                f"the loss is not finite at step {diverged_step}, whose cells are the rows "
                f"{', '.join(map(str, rows))}: training diverged; start again with a lower --learning_rate or a larger "
                "--warmup_fraction"
            )

    def write_line(self, step: int, learning_rate: float, epoch: float, share_done: float) -> None:
        """Append means over the steps since the last line to the history, and say them with the time left.

        Raises
        ------
        ScDMCError
            If a loss is not finite.
        """
        self.require_finite()
        row = {"step": step, **self._window.close(self._peak_seconds), "learning_rate": learning_rate, "epoch": epoch}
        self._append(row)
        speed = f"{row['cells_per_second']:,.0f} cells/s"
        speed += f", {row['mfu']:.0%} of the GPU's peak" if "mfu" in row else ""
        self._say(f"step {step:,}, epoch {epoch:.2f}: {_losses(row)}; {speed}; {self._time_left(share_done)}")

    def write_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the losses on held-out cells to the history."""
        self._append({"step": step, **{f"eval_{name}": value for name, value in metrics.items()}})
        self._say(f"step {step:,}, held-out cells: {_losses(metrics)}")

    def write_probe(self, step: int, scores: Mapping[str, float]) -> None:
        """Append how well a probe of the frozen encoder tells labelled cells apart."""
        self._append({"step": step, **scores})
        self._say(
            f"step {step:,}, labelled cells: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        )

    def _append(self, row: dict[str, float]) -> None:
        self.history.append(row)
        if self._track is not None:
            groups = {
                name.replace("eval_", "eval/", 1) if name.startswith("eval_") else f"train/{name}": value
                for name, value in row.items()
                if name != "step"
            }
            self._track(groups, row["step"])
        if self.is_main_process and self.show is not None:
            self.show(self.history)

    def _say(self, text: str) -> None:
        """A log line with the time of day."""
        if self.is_main_process:
            logger.info("%s  %s", datetime.now().isoformat(" ", "seconds"), text)

    def _time_left(self, share_done: float) -> str:
        """How long the rest will take, if it takes as long as what this process has done."""
        started, share_before = self._opened
        done = share_done - share_before
        if share_done >= 1.0 or done <= 0:
            return "done" if share_done >= 1.0 else "time left unknown"
        seconds = round((time.monotonic() - started) / done * (1.0 - share_done))
        return f"{timedelta(seconds=seconds)} left"

    @property
    def last_evaluation(self) -> dict[str, float]:
        """The newest losses on held-out cells, their names starting with ``eval_``."""
        evaluations = [row for row in self.history if "eval_loss" in row]
        return {name: value for name, value in evaluations[-1].items() if name.startswith("eval_")}


@contextmanager
def _tensorboard(folder: Path, step: int, settings: Mapping[str, object]) -> Iterator[Tracker | None]:
    """Files for tensorboard; a lean training node may lack the package."""
    if find_spec("tensorboard") is None:
        logger.warning("warning: tensorboard is not installed; history.csv holds the numbers")
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder / "tensorboard", purge_step=step + 1) as writer:

        def track(numbers: Mapping[str, float], at: int) -> None:
            for tag, value in numbers.items():
                writer.add_scalar(tag, value, at)

        yield track


@contextmanager
def _wandb(folder: Path, step: int, settings: Mapping[str, object]) -> Iterator[Tracker]:
    """A run of Weights & Biases; a run that is resumed goes on with its own, by the name of its folder.

    What its environment variables say holds: WANDB_MODE=offline writes files only, WANDB_PROJECT names the project.
    """
    wandb = importlib.import_module("wandb")
    file = folder / "wandb" / "id.txt"
    file.parent.mkdir(exist_ok=True)
    name = file.read_text() if step and file.is_file() else uuid.uuid4().hex[:8]
    file.write_text(name)
    project = None if "WANDB_PROJECT" in os.environ else WANDB_PROJECT
    with wandb.init(
        project=project, name=folder.name, dir=folder, config=dict(settings), id=name, resume="allow"
    ) as run:
        yield lambda numbers, at: run.log(dict(numbers), step=at)


def _losses(row: Mapping[str, float]) -> str:
    """The losses of a row in words."""
    shown = {"mlm_rank_loss": "rank", "mlm_expression_loss": "expression", "contrastive_loss": "contrast"}
    parts = ", ".join(f"{text} {row[name]:.3f}" for name, text in shown.items() if name in row)
    return f"loss {row['loss']:.3f} ({parts})"


def _peak_seconds(
    config: ScDMCConfig, settings: PretrainingSettings, device: torch.device
) -> Callable[[int, int], float] | None:
    """How long the GPUs of a run would take at their peak for so many tokens and squared lengths; None if unknown."""
    peak = None
    if device.type == "cuda":
        peak = peak_flops(torch.cuda.get_device_name(device), settings.bf16)
    if peak is None:
        return None
    masked_share = settings.mask_probability if settings.mlm_weight else 0.0
    return lambda n_tokens, squares: training_flops(config, n_tokens, squares, masked_share) / (peak * n_processes())


def write_history(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """The history as CSV, one row per log line or evaluation."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(history)
