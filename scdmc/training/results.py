"""What a pre-training run leaves beside its model: the levels that guessing reaches, and the loss curves."""

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from scdmc.training.guessing import guessing_lines
from scdmc.training.pretraining import Pretraining
from scdmc.training.settings import EVALUATION_EPOCH

logger = logging.getLogger(__name__)


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
