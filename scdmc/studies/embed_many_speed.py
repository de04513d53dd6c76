"""How fast cells are embedded shard by shard, and in how much memory, as the number of cells and processes grows."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scdmc.errors import ScDMCError
from scdmc.studies.tokenizing_speed import write_counts

BYTES_PER_MIB = 2**20
CELLS_PER_SHARD = 5120  # so that two processes share out 10,000 cells


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes
    ----------
    n_cells, num_workers
        What was asked for.
    seconds
        By the clock, start of Python included.
    peak_mib
        Resident memory of the largest process at its peak.
    """

    n_cells: int
    num_workers: int
    seconds: float
    peak_mib: float

    @property
    def cells_per_second(self) -> float:
        """Over the whole run."""
        return self.n_cells / self.seconds


def measure_embed_many(
    numbers_of_cells: Sequence[int], numbers_of_workers: Sequence[int], model: str | Path
) -> Iterator[Measured]:
    """Write random cells, and embed them by processes of their own.

    Parameters
    ----------
    numbers_of_cells, numbers_of_workers
        Each number of cells by each number of processes.
    model
        Folder or name.

    Raises
    ------
    ScDMCError
        If a run fails.
    """
    for n_cells in numbers_of_cells:
        with tempfile.TemporaryDirectory() as folder:
            write_counts(Path(folder) / "counts", n_cells, seed=0)
            for num_workers in numbers_of_workers:
                yield _measure(Path(folder) / "counts" / "cells.h5ad", n_cells, num_workers, model)


def _measure(path: Path, n_cells: int, num_workers: int, model: str | Path) -> Measured:
    """Run the script in a process, and ask the system for the largest of it and its workers."""
    code = (
        "import sys; from scdmc.__main__ import main; from scdmc.memory import peak_memory_of_largest_process; "
        "status = main(sys.argv[1:]); print(peak_memory_of_largest_process()); sys.exit(status)"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = ["embed-many", "--model", model, "--data_path", path, "--output_dir", Path(folder) / "out"]
        command += ["--num_workers", num_workers, "--num_gpus", 0, "--cells_per_shard", CELLS_PER_SHARD]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, command)],
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
    if done.returncode:
        raise ScDMCError(f"embed-many ended with status {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    return Measured(n_cells, num_workers, seconds, int(done.stdout.split()[-1]) / BYTES_PER_MIB)
