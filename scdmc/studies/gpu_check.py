"""All that only a GPU can show, in a few minutes: each section in a process of its own, with a deadline.

A section yields rows, so that what it has measured by its deadline is kept. This module is light; what computes is in
:mod:`scdmc.studies.gpu_check_kernels` and :mod:`scdmc.studies.gpu_check_runs`.
"""

import csv
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, remove, write_json
from scdmc.studies.gpu_check_rows import CASE, NOT_MET, STEP, CheckSize, Row

# Section -> the seconds that it may take.
SECTIONS = {
    "facts": 60, "parity": 150, "step": 60, "memory": 100, "training": 240, "loader": 60, "usual": 90, "resume": 60,
    "inference": 60, "ddp": 90,
}  # fmt: skip
JSON_FILE, TABLES_FILE, STEPS_FILE, LOG_FILE = "gpu_check.json", "gpu_check.md", "steps.csv", "log.txt"


@dataclass
class Outcome:
    """What became of a section.

    Attributes
    ----------
    status
        ``done``, ``stopped at its deadline``, ``ended with status N`` or ``left out: no time``.
    seconds
        Of its process.
    rows
        What it measured.
    """

    status: str
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """What was expected and is not so, and a section that broke down or came to no row at all."""
        broken = [self.status] if self.status.startswith("ended") or not self.rows else []
        return broken + [f"{row[CASE]}: {name}" for row in self.rows for name in row.get(NOT_MET, ())]


def measures() -> dict[str, Callable[[CheckSize], Iterator[Row]]]:
    """What computes each section: its rows, as they are asked for."""
    from scdmc.studies import gpu_check_kernels, gpu_check_runs

    return {**gpu_check_kernels.MEASURED, **gpu_check_runs.MEASURED}


def print_rows(section: str, size: CheckSize, rows: Path, log: Path) -> None:
    """Write each row of a section as a line of JSON as soon as it is there; what the process says goes to the log."""
    with log.open("a") as said:
        for number in (1, 2):
            os.dup2(said.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    with rows.open("w", encoding="utf8") as file:
        for row in measures()[section](size):
            print(json.dumps(row), file=file, flush=True)


def check(sections: Sequence[str], size: CheckSize, seconds: float, folder: Path) -> dict[str, Outcome]:
    """Run sections one after the other, and write what is known after each.

    Parameters
    ----------
    sections
        Names, of :data:`SECTIONS`.
    size
        What they compute with.
    seconds
        For all of them.
    folder
        For the tables, the steps and the log.
    """
    for name in (JSON_FILE, TABLES_FILE, STEPS_FILE, LOG_FILE):
        remove(folder / name)  # of an earlier check
    outcomes: dict[str, Outcome] = {}
    if size.is_tiny:
        measures()  # imported here once, and not by each process
    end = time.monotonic() + seconds
    for section in sections:
        left = min(SECTIONS[section], end - time.monotonic())
        if left > 0:
            print(f"{section}: at most {left:.0f} s", flush=True)
            outcomes[section] = run_section(section, size, left, folder)
        else:
            outcomes[section] = Outcome("left out: no time")
        write_outcomes(outcomes, folder)
    return outcomes


def run_section(section: str, size: CheckSize, seconds: float, folder: Path) -> Outcome:
    """Run one section in a process of its own until its deadline.

    On a GPU that process starts from nothing, so that all memory is its own; on a CPU it has what this one imported.
    """
    began, rows = time.monotonic(), folder / f".{section}.jsonl"
    with (folder / LOG_FILE).open("a") as log:
        log.write(f"== {section}\n")
    context = multiprocessing.get_context("fork" if size.is_tiny else "spawn")
    process = context.Process(target=print_rows, args=(section, size, rows, folder / LOG_FILE))
    process.start()
    process.join(seconds)
    is_late = process.is_alive()
    if is_late:
        process.kill()
        process.join()
    lines = rows.read_text(encoding="utf8").splitlines(keepends=True) if rows.exists() else []
    rows.unlink(missing_ok=True)
    status = "done" if process.exitcode == 0 else f"ended with status {process.exitcode}"
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return Outcome("stopped at its deadline" if is_late else status, time.monotonic() - began, whole)


def write_outcomes(outcomes: Mapping[str, Outcome], folder: Path) -> None:
    """Write the numbers as JSON, tables as markdown, and the single steps as CSV."""
    write_json(folder / JSON_FILE, {name: asdict(outcome) for name, outcome in outcomes.items()})
    with atomic_path(folder / TABLES_FILE) as temporary:
        temporary.write_text(tables(outcomes), encoding="utf8")
    steps = [row for outcome in outcomes.values() for row in outcome.rows if STEP in row]
    if steps:
        with atomic_path(folder / STEPS_FILE) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in steps for name in row)))
            writer.writeheader()
            writer.writerows(steps)


def tables(outcomes: Mapping[str, Outcome]) -> str:
    """One table per section, in markdown, and what was expected and is not so."""
    parts = []
    for name, outcome in outcomes.items():
        parts.append(f"## {name}: {outcome.status}, {outcome.seconds:.0f} s\n")
        shown = [row for row in outcome.rows if STEP not in row]
        columns = list(dict.fromkeys(column for row in shown for column in row if column != NOT_MET))
        if shown:
            lines = [columns, ["---"] * len(columns)]
            lines += [[_shown(row.get(column, "")) for column in columns] for row in shown]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
        parts += [f"**Not as expected:** {failure}\n" for failure in outcome.failures]
    return "\n".join(parts)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def verdict(outcomes: Mapping[str, Outcome]) -> str:
    """The last words: what is not as expected, and which sections did not come to their end."""
    failures = [f"{name}: {failure}" for name, outcome in outcomes.items() for failure in outcome.failures]
    cut = [name for name, outcome in outcomes.items() if outcome.status.startswith("stopped") and outcome.rows]
    lines = ["not as expected:", *failures] if failures else ["all as expected"]
    return "\n".join([*(f"{name}: stopped at its deadline; the rest was not checked" for name in cut), *lines])


def require_gpu() -> None:
    """Refuse a check of a GPU where there is none.

    Raises
    ------
    ScDMCError
        With the flag that runs it on the CPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise ScDMCError("there is no GPU that torch can use; --tiny runs the same code on the CPU")
