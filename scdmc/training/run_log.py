"""What a run says of itself: speed, FLOP/s, memory, and the history of its losses."""

import csv
import math
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from scdmc.configuration import ScDMCConfig
from scdmc.files import atomic_path
from scdmc.training.distributed import n_processes
from scdmc.training.masking import PretrainingBatch

# A GPU's peak in bf16 without sparsity, for the share of it that training reaches (H100 and H200).
PEAK_TFLOPS = 989.0


def peak_memory(device: torch.device) -> int:
    """Largest memory so far, in bytes: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts kibibytes, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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


def write_history(history: list[dict[str, float]], path: Path) -> None:
    """The history as CSV, one row per log line or evaluation."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(history)
