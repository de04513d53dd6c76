"""The loss curves of a pre-training run."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scdmc.errors import ScDMCError
from scdmc.reports.figures import PALETTE, PANEL_INCHES

LOSS_NAMES = {
    "loss": "total loss",
    "mlm_rank_loss": "masked genes, rank stream",
    "mlm_expression_loss": "masked genes, expression stream",
    "contrastive_loss": "contrast of the two streams",
}


def loss_curve_figure(
    history: pd.DataFrame, title: str, levels: Mapping[str, Mapping[str, float]] | None = None
) -> Figure:
    """Draw each loss in its own panel: training as a thin line, held-out cells as a thick one.

    Parameters
    ----------
    history
        Column step and any of loss, mlm_rank_loss, mlm_expression_loss, contrastive_loss, each also with the prefix
        ``eval_`` for held-out cells; NaN where a step did not log a loss.
    title
        Of the figure: what it shows.
    levels
        Loss -> name -> value: horizontal lines to read the curve against, such as what mere guessing reaches.

    Raises
    ------
    ScDMCError
        If there is no column step or no loss.
    """
    shown = {name: text for name, text in LOSS_NAMES.items() if {name, f"eval_{name}"} & set(history.columns)}
    if "step" not in history.columns or not shown:
        raise ScDMCError(f"a loss curve needs the column step and one of {', '.join(LOSS_NAMES)}")
    n_columns = min(2, len(shown))
    n_rows = -(-len(shown) // n_columns)
    figure = Figure(figsize=(PANEL_INCHES * n_columns, 2.1 * n_rows + 0.5), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes, (name, text) in zip(panels, shown.items(), strict=False):
        _draw_loss(axes, history, name)
        _draw_levels(axes, (levels or {}).get(name, {}))
        axes.set_title(text, fontsize=8)
        axes.margins(y=0.12)  # the name of a level stands below its line
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    lines = {line.get_label(): line for axes in panels for line in axes.lines if line.get_label()[0] != "_"}
    figure.legend(handles=list(lines.values()), loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=9)
    return figure


def _draw_loss(axes: Axes, history: pd.DataFrame, name: str) -> None:
    """Training and held-out values of one loss over the steps."""
    styles = (
        (name, {"linewidth": 0.8, "color": PALETTE[0], "label": "training"}),
        (f"eval_{name}", {"linewidth": 2.0, "color": PALETTE[2], "marker": "o", "ms": 3.5, "label": "held-out cells"}),
    )
    for column, style in styles:
        if column in history.columns:
            logged = history[["step", column]].dropna()
            axes.plot(logged["step"], logged[column], **style)
    axes.set_xlabel("optimizer step", fontsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_ylabel("loss (nats)", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_levels(axes: Axes, levels: Mapping[str, float]) -> None:
    """Dashed lines, named at their right end: the highest above itself, the others below, where they may coincide."""
    for name, value in levels.items():
        is_highest = value == max(levels.values())
        axes.axhline(value, color="#555555", linewidth=0.8, linestyle="--")
        axes.annotate(
            f"{name}: {value:.2f}", (1, value), xycoords=("axes fraction", "data"), xytext=(0, 2 if is_highest else -2),
            textcoords="offset points", ha="right", va="bottom" if is_highest else "top", fontsize=6, color="#555555",
        )  # fmt: skip
