"""What a pre-training run leaves beside its model: the levels that guessing reaches, and the loss curves."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from scdmc.files import atomic_path, write_json
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.names import CARD_FILE
from scdmc.reports.provenance import Provenance
from scdmc.training.data import PretrainingData
from scdmc.training.guessing import guessing_lines
from scdmc.training.pretraining import Pretraining
from scdmc.training.run_log import write_history
from scdmc.training.run_state import ENDED, RUNNING, STOPPED, curves_title, write_progress
from scdmc.training.settings import EVALUATION_EPOCH, PretrainingSettings

logger = logging.getLogger(__name__)


SECONDS_BETWEEN_HISTORIES, SECONDS_BETWEEN_CURVES = 30.0, 60.0


# What the objective is made of; a model card names what differs from the paper.
OBJECTIVE = (
    "mask_probability", "mlm_weight", "alpha", "temperature", "momentum", "queue_size", "streams", "expression_order",
    "expression_input", "view_dropout", "gene_start",
)  # fmt: skip


def objective_in_words(flags: Mapping[str, object]) -> str:
    """What the loss was made of: how it differs from the paper's.

    Parameters
    ----------
    flags
        Fields of :class:`scdmc.training.settings.PretrainingSettings`, ``expression_input`` and ``gene_start``; None
        stands for the default.
    """
    if flags["published_objective"]:
        return "as published"
    defaults = {**asdict(PretrainingSettings()), "expression_input": "none", "gene_start": "random"}
    given = {name: flags[name] for name in OBJECTIVE if flags[name] is not None}
    changed = [f"{name} {value}" for name, value in given.items() if value != defaults[name]]
    return "as in the paper" + (f", but {', '.join(changed)}" if changed else "")


def training_facts(run: Pretraining, model: ScDMCForMaskedLM, data: PretrainingData) -> dict[str, str]:
    """Sizes of the run, the model and the data, as a model card states them."""
    config = model.config
    return {
        "training cells": f"{len(data.training):,}",
        "held-out cells": f"{len(data.held_out):,}",
        "optimizer steps": f"{run.step:,} of {run.cells_per_step:.0f} cells",
        "parameters": f"{model.num_parameters():,}",
        "layers x hidden x heads": f"{config.num_hidden_layers} x {config.hidden_size} x {config.num_attention_heads}",
        "context": f"{config.max_position_embeddings} tokens",
        "gene medians": f"{len(data.medians.medians):,} genes",
    }


def guessing_metrics(run: Pretraining) -> dict[str, float]:
    """What guessing from position alone reaches on the masked genes of the held-out cells."""
    lines = guessing_lines(
        run.data.cells, run.data.training, run.data.held_out, run.settings.evaluation_masking, EVALUATION_EPOCH
    )
    return {f"guessing_{name}": value for name, value in lines.items()}


class LiveResults:
    """``history.csv``, the loss curves and the page of a run that goes on: called after each log line and evaluation.

    The history is written after each evaluation, and else not more often than every
    :data:`SECONDS_BETWEEN_HISTORIES`; the curves and the page after evaluations, no more often than every
    :data:`SECONDS_BETWEEN_CURVES`. All are written whole or not at all.

    Parameters
    ----------
    folder
        Where to.
    run
        Whose results they are.
    made
        From what, for the page.
    """

    def __init__(self, folder: Path, run: Pretraining, made: Provenance) -> None:
        self.folder, self.run, self.made = folder, run, made
        self._began = time.monotonic(), run.share_done
        self._written = self._drawn = -math.inf

    def __call__(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write what the history has become, if it is time."""
        now, is_evaluation = time.monotonic(), "eval_loss" in history[-1]
        write_progress(self.folder, history, total_steps(self.run), self._seconds_left(now))
        if is_evaluation or now - self._written >= SECONDS_BETWEEN_HISTORIES:
            write_history(history, self.folder / "history.csv")
            self._written = now
        if is_evaluation and now - self._drawn >= SECONDS_BETWEEN_CURVES and not missing_to_draw():
            draw_loss_curves(history, {}, self.folder)
            draw_page(self.folder, self.run, history, {}, self.made, RUNNING)
            self._drawn = time.monotonic()

    def _seconds_left(self, now: float) -> float | None:
        """If the rest takes as long as what this process has done."""
        began, share_before = self._began
        done = self.run.share_done - share_before
        return (now - began) / done * (1.0 - self.run.share_done) if done > 0 else None


def total_steps(run: Pretraining) -> int | None:
    """Steps of the whole run; None where the clock ends it."""
    return None if run.settings.schedule_minutes else run.total_steps


def draw_page(
    folder: Path,
    run: Pretraining,
    history: Sequence[Mapping[str, float]],
    guesses: Mapping[str, float],
    made: Provenance,
    state: str = ENDED,
) -> None:
    """Write ``report.html``, where the loss curves are and the packages that a page needs are installed.

    Parameters
    ----------
    folder
        With the loss curves.
    run
        What was trained.
    history, guesses
        Rows of its log, and what :func:`guessing_metrics` gives.
    made
        From what.
    state
        ``running``, ``stopped`` or ``ended``.
    """
    if missing_to_draw():
        return
    from scdmc.training.run_page import write_run_page

    write_run_page(folder, history, guesses, (total_steps(run), state), made)


def draw_stopped(folder: Path, run: Pretraining, made: Provenance) -> None:
    """Draw the curves and the page of a run that was stopped before its end.

    Parameters
    ----------
    folder, run, made
        See :func:`draw_page`.
    """
    if missing_to_draw() or not any("eval_loss" in row for row in run.history):
        return
    draw_loss_curves(run.history, {}, folder)
    draw_page(folder, run, run.history, {}, made, STOPPED)


def missing_to_draw() -> list[str]:
    """Packages that figures need and that are not installed; a training node may lack them."""
    return [package for package in ("jinja2", "matplotlib", "pandas", "sklearn") if find_spec(package) is None]


def write_guesses(folder: Path, guesses: Mapping[str, float], card: str) -> None:
    """Write ``guessing.json``, and a model card that tells of it in place of the one that is there.

    Each is written whole or not at all: a full disk leaves the model with the card that it has.
    """
    write_json(folder / "guessing.json", guesses)
    with atomic_path(folder / CARD_FILE) as temporary:
        temporary.write_text(card, encoding="utf8")


def draw_loss_curves(history: Sequence[Mapping[str, float]], guesses: Mapping[str, float], output_dir: Path) -> None:
    """Write ``loss_curves.png`` and ``.pdf``; a training node may lack the plotting packages, and is told so.

    Parameters
    ----------
    history
        Rows of the run's log.
    guesses
        What :func:`guessing_metrics` gives: levels to compare with.
    output_dir
        Where to.
    """
    if missing := missing_to_draw():
        logger.warning(
            "warning: no loss curves, %s is not installed; history.csv holds the numbers", ", ".join(missing)
        )
        return
    import pandas as pd

    from scdmc.reports.figures import save_figure
    from scdmc.training.figures import loss_curve_figure

    levels = {
        f"mlm_{stream}_loss": {
            name.removeprefix(f"guessing_{stream}_").replace("_", " "): value
            for name, value in guesses.items()
            if name.startswith(f"guessing_{stream}_")
        }
        for stream in ("rank", "expression")
    }
    save_figure(
        loss_curve_figure(pd.DataFrame(list(history)), curves_title(history), levels), output_dir / "loss_curves"
    )
