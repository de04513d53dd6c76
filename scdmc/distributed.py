"""What several processes of one run tell each other; with one process, nothing happens."""

import torch
from torch import distributed


def n_processes() -> int:
    """Processes of the run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_number() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if n_processes() > 1 else 0


def global_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum over the processes, without gradient."""
    if n_processes() == 1:
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total


def gather_rows(rows: torch.Tensor, rows_by_process: tuple[int, ...]) -> torch.Tensor:
    """Rows of all processes in the order of the joined batch; this process's own rows keep their gradient.

    Process p of n holds the rows p, p + n, p + 2 n, ... (see :func:`scdmc.batches.masked_batch`).

    Parameters
    ----------
    rows
        Shape (n_rows, ...).
    rows_by_process
        How many rows each process has, so that nobody has to ask.

    Returns
    -------
    Shape (sum(rows_by_process), ...), the same on every process.
    """
    if n_processes() == 1:
        return rows
    longest = max(rows_by_process)
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in rows_by_process]
    distributed.all_gather(gathered, padded)
    parts = [part[:n_rows] for part, n_rows in zip(gathered, rows_by_process, strict=True)]
    parts[process_number()] = rows
    places = [torch.arange(number, sum(rows_by_process), n_processes()) for number in range(n_processes())]
    return torch.cat(parts)[torch.cat(places).argsort().to(rows.device)]
