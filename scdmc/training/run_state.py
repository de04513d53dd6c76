"""How far a pre-training run is, from the files in its folder alone; nothing heavy is imported here.

``progress.json`` is there while a run goes on. It is written at each log line and taken away at the end, so that the
folder of a run that ended is the same each time.
"""

import csv
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from scdmc.errors import ScDMCError
from scdmc.files import remove, write_json
from scdmc.locks import is_alive

PROGRESS_FILE = "progress.json"
RUNNING, ENDED, STOPPED, GONE = "running", "ended", "stopped", "gone"
# Of another machine nobody can ask for the process: without a line for so long it counts as gone.
SECONDS_OF_SILENCE = 1800
SHOWN = {"loss": "loss", "mlm_rank_loss": "rank", "mlm_expression_loss": "expression", "contrastive_loss": "contrast"}


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes
    ----------
    state
        ``running``, ``ended``, ``stopped`` (it can go on with ``--resume``) or ``gone``: it was killed.
    step, total_steps
        Done, and of the whole run.
    seconds_left
        None where that is not known.
    last, evaluation
        The newest means over training steps, and the newest losses of held-out cells, by their names.
    """

    state: str
    step: int
    total_steps: int | None
    seconds_left: float | None
    last: Mapping[str, float]
    evaluation: Mapping[str, float]

    def line(self) -> str:
        """The state in one line."""
        of = f" of {self.total_steps:,} ({self.step / self.total_steps:.0%})" if self.total_steps else ""
        parts = [f"{self.state}: step {self.step:,}{of}"]
        if self.state == RUNNING and self.seconds_left is not None:
            parts.append(f"{timedelta(seconds=round(self.seconds_left))} left")
        if self.last:
            speed = self.last.get("cells_per_second")
            parts.append(f"training {_losses(self.last)}" + ("" if speed is None else f", {speed:,.0f} cells/s"))
        if self.evaluation:
            parts.append(f"held-out cells {_losses(self.evaluation)}")
        return "; ".join(parts)


def _losses(row: Mapping[str, float]) -> str:
    return ", ".join(f"{text} {float(row[name]):.3f}" for name, text in SHOWN.items() if name in row)


def split_history(history: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """The newest row of training steps, and of held-out cells without their ``eval_``."""
    trained = [row for row in history if "loss" in row]
    judged = [row for row in history if "eval_loss" in row]
    evaluation = {name.removeprefix("eval_"): value for name, value in judged[-1].items()} if judged else {}
    return (dict(trained[-1]) if trained else {}), evaluation


def curves_title(history: Sequence[Mapping[str, float]]) -> str:
    """What the loss curves say: how far the loss of held-out cells went, and in how many steps."""
    judged = [row for row in history if "eval_loss" in row]
    if not judged:
        return f"Losses of training cells until step {history[-1]['step']:,.0f}"
    first, last = judged[0], judged[-1]
    return (
        f"Loss of held-out cells: from {first['eval_loss']:.3f} to {last['eval_loss']:.3f} in {last['step']:,.0f} steps"
    )


def write_progress(
    folder: Path, history: Sequence[Mapping[str, float]], total_steps: int | None, seconds_left: float | None
) -> None:
    """Say how far the run of this process is.

    Parameters
    ----------
    folder
        Of the run.
    history
        Its rows so far.
    total_steps, seconds_left
        None where that is not known.
    """
    last, evaluation = split_history(history)
    state = {
        "step": history[-1]["step"], "total_steps": total_steps, "seconds_left": seconds_left, "last": last,
        "evaluation": evaluation, "pid": os.getpid(), "host": socket.gethostname(), "written": time.time(),
    }  # fmt: skip
    write_json(folder / PROGRESS_FILE, state)


def end_progress(folder: Path) -> None:
    """The run ends: what it left speaks for itself."""
    remove(folder / PROGRESS_FILE)


def read_state(folder: Path) -> RunState:
    """How far the run of a folder is.

    Parameters
    ----------
    folder
        ``--output_dir`` of pre-training.

    Raises
    ------
    ScDMCError
        If no run has written there.
    """
    progress = folder / PROGRESS_FILE
    for _ in range(2):  # the run may end between two looks
        try:
            found = json.loads(progress.read_text(encoding="utf8"))
            return RunState(
                RUNNING if _goes_on(found) else GONE,
                *(found[name] for name in ("step", "total_steps", "seconds_left", "last", "evaluation")),
            )
        except FileNotFoundError:
            if (folder / "history.csv").is_file():
                return _of_history(folder)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ScDMCError(f"{progress} cannot be read ({error}); watch the folder of a pre-training run") from error
    raise ScDMCError(
        f"{folder} holds no pre-training run: neither {PROGRESS_FILE} nor history.csv is there; name the --output_dir "
        "of scDMC_pretrain.py (a run writes there before its first step)"
    )


def _goes_on(found: Mapping[str, object]) -> bool:
    if found["host"] == socket.gethostname():
        return is_alive(found["pid"])
    return time.time() - found["written"] < SECONDS_OF_SILENCE


def _of_history(folder: Path) -> RunState:
    try:
        with (folder / "history.csv").open(newline="", encoding="utf8") as file:
            history = [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
    except (ValueError, TypeError):  # text, as of several runs of fine-tuning; or rows longer than the names
        history = []
    if not history or "step" not in history[-1]:
        raise ScDMCError(f"{folder / 'history.csv'} holds no row of losses; watch the folder of a pre-training run")
    last, evaluation = split_history(history)
    state = ENDED if (folder / "model.safetensors").is_file() else STOPPED
    return RunState(state, int(history[-1]["step"]), None, None, last, evaluation)
