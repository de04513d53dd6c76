"""What a pre-training run leaves beside its model: the levels that guessing reaches, and the loss curves."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from scdmc.training.guessing import guessing_lines
from scdmc.training.pretraining import Pretraining
from scdmc.training.settings import EVALUATION_EPOCH, PretrainingSettings

logger = logging.getLogger(__name__)


# What the objective is made of; a model card names what differs from the paper.
OBJECTIVE = (
    "mask_probability", "mlm_weight", "alpha", "cell_weight", "value_weight", "group_key", "temperature", "momentum",
    "queue_size", "streams", "expression_order", "expression_input", "view_dropout", "gene_start",
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


def guessing_metrics(run: Pretraining) -> dict[str, float]:
    """What guessing from position alone reaches on the masked genes of the held-out cells."""
    lines = guessing_lines(
        run.data.cells, run.data.training, run.data.held_out, run.settings.evaluation_masking, EVALUATION_EPOCH
    )
    return {f"guessing_{name}": value for name, value in lines.items()}


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
    missing = [package for package in ("matplotlib", "pandas", "sklearn") if find_spec(package) is None]
    if missing:
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
        loss_curve_figure(pd.DataFrame(list(history)), "Pre-training losses", levels), output_dir / "loss_curves"
    )
