"""Figures that compare many variants: dot plots and scaling curves."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from scdmc.reports.colours import series_colour
from scdmc.reports.figures import SMALLEST_SPAN


def dot_plot_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Draw scores of variants as dots, one panel for each score; a dashed line stands at the first variant's mean.

    A small dot is one run, a large one the mean of a variant's runs with one budget.

    Parameters
    ----------
    rows
        Columns variant, budget, cells_seen, score (its name), value; one row for each run, in the order to be drawn.
    title
        Of the figure: what it shows.
    """
    variants, scores = (list(rows[name].unique()) for name in ("variant", "score"))
    budgets = list(rows.groupby("budget")["cells_seen"].max().sort_values().index)
    n_columns = min(4, len(scores))
    n_rows = -(-len(scores) // n_columns)
    size = (1.2 + 2.2 * n_columns, 0.9 + n_rows * (0.7 + 0.16 * len(variants)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).flat
    for axes, score in zip(panels, scores, strict=False):
        for index, budget in enumerate(budgets):
            shown = rows[(rows["score"] == score) & (rows["budget"] == budget)]
            means = shown.groupby("variant")["value"].mean()
            axes.scatter(
                shown["value"], shown["variant"].map(variants.index), s=5, color=series_colour(index), alpha=0.6
            )
            axes.scatter(means, means.index.map(variants.index), s=22, color=series_colour(index), label=budget)
            if variants[0] in means:
                axes.axvline(means[variants[0]], color=series_colour(index), linewidth=0.8, linestyle="--")
        if rows.loc[rows["score"] == score, "value"].min() < -1:  # nats below guessing: far ones hide the rest
            axes.set_xscale("symlog", linthresh=1)
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(_two_lines(score), fontsize=7)
        axes.set_yticks(range(len(variants)), variants, fontsize=7)
        axes.tick_params(labelsize=7)
        axes.grid(axis="y", color="#eeeeee", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylim(len(variants) - 0.5, -0.5)  # the first one on top
    for axes in figure.axes[len(scores) :]:
        axes.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="budget (cells)", loc="outside lower center", ncols=6, fontsize=7,
                  title_fontsize=7, frameon=False)  # fmt: skip
    figure.suptitle(f"{title}\nlarge dots: means over seeds; dashed: {variants[0]}", fontsize=9)
    return figure


def scaling_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Draw scores against the cells that training saw, a line for each variant, one panel for each score.

    Where some variants were run with several budgets only those are drawn, and only the scores that they have with
    several, otherwise all, as points. A small dot is one run; no panel spans less than ``SMALLEST_SPAN``, so that noise
    does not look like a trend.

    Parameters
    ----------
    rows
        Columns variant, budget, cells_seen, score (its name), value; one row for each run.
    title
        Of the figure: what it shows.
    """
    n_budgets = rows.groupby("variant", sort=False)["budget"].nunique()
    variants = list(n_budgets.index[n_budgets > 1]) or list(n_budgets.index)
    rows = rows[rows["variant"].isin(variants)]
    n_budgets = rows.groupby("score", sort=False)["budget"].nunique()
    scores = list(n_budgets.index[n_budgets > 1]) or list(n_budgets.index)
    n_columns = min(4, len(scores))
    n_rows = -(-len(scores) // n_columns)
    figure = Figure(figsize=(2.6 * n_columns, 0.6 + 0.14 * len(variants) + 2.3 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).flat
    for axes, score in zip(panels, scores, strict=False):
        for index, variant in enumerate(variants):
            shown = rows[(rows["score"] == score) & (rows["variant"] == variant)]
            means = shown.groupby("budget")[["cells_seen", "value"]].mean().sort_values("cells_seen")
            style = {"color": series_colour(index), "marker": "osD^v"[index // 5 % 5], "ms": 3.5, "lw": 1.2}
            axes.plot(means["cells_seen"], means["value"], label=variant, **style)
            axes.scatter(shown["cells_seen"], shown["value"], s=5, color=series_colour(index), alpha=0.6)
        bottom, top = axes.get_ylim()
        lacking = max(0.0, SMALLEST_SPAN - (top - bottom)) / 2
        axes.set_ylim(bottom - lacking, top + lacking)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(_two_lines(score), fontsize=7)
        axes.set_xlabel("cells seen in training", fontsize=7)
        axes.tick_params(labelsize=7)
        axes.tick_params(axis="x", labelrotation=30)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in figure.axes[len(scores) :]:
        axes.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=6.5, frameon=False)
    figure.suptitle(title, fontsize=9)
    return figure


def _two_lines(score: str) -> str:
    """The name of a score over the name of its data set, or over what stands in brackets."""
    return score.replace(": ", "\n").replace(" (", "\n(")
