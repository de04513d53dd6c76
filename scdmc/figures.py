"""Figures as matplotlib ``Figure`` objects: no pyplot, so nothing global, no display and no window.

Text is 7 to 9 points on a figure about as wide as a column of a paper (3.4 inches a panel).
"""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from sklearn.metrics import confusion_matrix

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path
from scdmc.splits import is_missing

DOTS_PER_INCH = 200
PANEL_INCHES = 3.4
MOST_CATEGORIES = 20
SMALLEST_SPAN = 0.15  # of the axis of a score, in a figure of trends
# Ten colours chosen for colour-blind readers (Petroff 2021, arXiv:2107.02270), brown and the greys last.
PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#832db6",
    "#b9ac70",
    "#92dadd",
    "#e76300",
    "#a96b59",
    "#717581",
    "#94a4a2",
)
# No palette keeps more colours than this apart for every reader: beyond it, numbers on the points name the groups.
NUMBERED_FROM = 7
GREY = "#d0d0d0"
UNKNOWN = "unknown"

LOSS_NAMES = {
    "loss": "total loss",
    "mlm_rank_loss": "masked genes, rank stream",
    "mlm_expression_loss": "masked genes, expression stream",
    "contrastive_loss": "contrast of the two streams",
}


def save_figure(figure: Figure, path_stem: Path) -> Path:
    """Write a figure as PNG (200 dpi) and PDF; the same figure gives the same bytes.

    Parameters
    ----------
    figure
        The figure.
    path_stem
        Path without suffix.

    Returns
    -------
    Path
        The PNG.
    """
    path_stem = Path(path_stem)
    # Type 42 keeps text in the PDF as text; without a date two runs give the same file.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", {"Software": None})):
            # Not with_suffix: "leiden_0.2" is a stem, too.
            with atomic_path(path_stem.with_name(path_stem.name + suffix)) as temporary:
                figure.savefig(temporary, dpi=DOTS_PER_INCH, bbox_inches="tight", metadata=metadata)
    return path_stem.with_name(path_stem.name + ".png")


def umap_figure(
    coordinates: np.ndarray,
    colourings: Mapping[str, np.ndarray],
    title: str,
    seed: int = 42,
    same_colours: bool = False,
) -> Figure:
    """Draw the same points once for each colouring, side by side.

    From seven groups on, numbers on the points repeat what the colours say. At most 20 groups are drawn apart: the 19
    largest and "other".

    Parameters
    ----------
    coordinates
        Shape (n_cells, 2).
    colourings
        Title of the panel -> labels of shape (n_cells,); NaN, None and '' are drawn grey, as "unknown".
    title
        Of the figure: what it shows.
    seed
        Of the order in which the points are drawn; a fixed order would put one group on top.
    same_colours
        True if the colourings share their groups (true and predicted types, say): a group then has one colour and
        number in all panels.

    Raises
    ------
    ScDMCError
        If there is no colouring or one does not have n_cells labels.
    """
    coordinates = np.asarray(coordinates)
    if not colourings:
        raise ScDMCError("a UMAP figure needs at least one colouring")
    for name, labels in colourings.items():
        if len(labels) != len(coordinates):
            raise ScDMCError(f"{name}: {len(labels)} labels for {len(coordinates)} cells")
    order = np.random.default_rng(seed).permutation(len(coordinates))
    if same_colours:
        together = _few_groups(np.concatenate([np.asarray(labels, dtype=object) for labels in colourings.values()]))
        drawn = {
            name: labels[order] for name, labels in zip(colourings, np.split(together, len(colourings)), strict=True)
        }
        legends = dict.fromkeys(drawn, _legend(together))
    else:
        drawn = {name: _few_groups(labels)[order] for name, labels in colourings.items()}
        legends = {name: _legend(labels) for name, labels in drawn.items()}
    legend_rows = max(-(-len(legend) // _legend_columns(legend)) for legend in legends.values())
    figure = Figure(figsize=(PANEL_INCHES * len(drawn), PANEL_INCHES + 0.6 + 0.15 * legend_rows), layout="constrained")
    figure.suptitle(title, fontsize=9)
    for axes, name in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        _draw_groups(axes, coordinates[order], drawn[name], legends[name])
        axes.set_title(name, fontsize=8)
    return figure


def umap_grid_figure(
    coordinates: Mapping[str, np.ndarray], colourings: Mapping[str, np.ndarray], title: str, seed: int = 42
) -> Figure:
    """Draw the same cells by several methods: a row for each method, a column for each colouring.

    Parameters
    ----------
    coordinates
        Method -> coordinates of shape (n_cells, 2).
    colourings
        Title of the column -> labels of shape (n_cells,); NaN, None and '' are drawn grey, as "unknown".
    title
        Of the figure: what it shows.
    seed
        Of the order in which the points are drawn.
    """
    n_rows, n_columns = len(coordinates), len(colourings)
    drawn = {name: _few_groups(labels) for name, labels in colourings.items()}
    legends = {name: _legend(labels) for name, labels in drawn.items()}
    legend_rows = max(-(-len(legend) // _legend_columns(legend)) for legend in legends.values())
    height = 0.75 * PANEL_INCHES * n_rows + 0.5 + 0.15 * legend_rows
    figure = Figure(figsize=(0.85 * PANEL_INCHES * n_columns, height), layout="constrained")
    figure.suptitle(title, fontsize=9)
    panels = figure.subplots(n_rows, n_columns, squeeze=False)
    order = np.random.default_rng(seed).permutation(len(next(iter(drawn.values()))))
    for row, (method, points) in zip(panels, coordinates.items(), strict=True):
        for axes, (name, labels) in zip(row, drawn.items(), strict=True):
            _draw_points(axes, np.asarray(points)[order], labels[order], legends[name])
        row[0].set_ylabel(method, fontsize=7)
    for top, bottom, name in zip(panels[0], panels[-1], drawn, strict=True):
        top.set_title(name, fontsize=8)
        _draw_legend(bottom, legends[name])
    return figure


def _few_groups(labels: np.ndarray) -> np.ndarray:
    """Labels as text, shape (n_cells,), with small groups beyond the twentieth as "other (n groups)"."""
    labels = np.where(is_missing(labels), UNKNOWN, np.asarray(labels, dtype=object)).astype(str)
    sizes = pd.Series(labels[labels != UNKNOWN]).value_counts()
    if len(sizes) <= MOST_CATEGORIES:
        return labels
    small = sizes.index[MOST_CATEGORIES - 1 :]
    return np.where(np.isin(labels, small), f"other ({len(small)} groups)", labels)


def _legend(labels: np.ndarray) -> pd.DataFrame:
    """Colour, number on the points ("" for none) and legend text of each group; index: the groups in order."""
    names = _in_natural_order(labels)
    legend = pd.DataFrame(
        {"colour": [_colour(index) for index in range(len(names))], "number": "", "text": names}, names
    )
    if len(names) >= NUMBERED_FROM:
        # Clusters are numbers already.
        are_numbers = all(name.isdecimal() for name in names)
        legend["number"] = names if are_numbers else [str(index) for index in range(1, len(names) + 1)]
        legend["text"] = names if are_numbers else legend["number"] + "  " + legend["text"]
    if UNKNOWN in labels:
        legend.loc[UNKNOWN] = [GREY, "", UNKNOWN]
    return legend


def _legend_columns(legend: pd.DataFrame) -> int:
    """Columns of legend text that fit below one panel."""
    if len(legend) <= 3:
        return 1
    longest = legend["text"].str.len().max()
    return 4 if longest <= 6 else 2 if longest <= 24 else 1


def _draw_groups(axes: Axes, coordinates: np.ndarray, labels: np.ndarray, legend: pd.DataFrame) -> None:
    """Points coloured by group, the legend below them."""
    _draw_points(axes, coordinates, labels, legend)
    _draw_legend(axes, legend)
    axes.set_xlabel("UMAP 1 (no unit)", fontsize=7)
    axes.set_ylabel("UMAP 2 (no unit)", fontsize=7)


def _draw_points(axes: Axes, coordinates: np.ndarray, labels: np.ndarray, legend: pd.DataFrame) -> None:
    """Points coloured by group, with the groups' numbers if there are any."""
    area = float(np.clip(12_000 / len(labels), 0.5, 12))  # points²
    colours = legend["colour"].map(to_rgb)[labels].to_list()
    axes.scatter(*coordinates.T, c=colours, s=area, linewidths=0, alpha=0.85, rasterized=True)
    for name, number in legend.loc[legend["number"] != "", "number"].items():
        if (labels == name).any():
            _write_number(axes, coordinates[labels == name], number)
    axes.set(xticks=[], yticks=[], box_aspect=1)


def _draw_legend(axes: Axes, legend: pd.DataFrame) -> None:
    """The groups, below the axes."""
    handles = [
        Line2D([], [], ls="", marker="o", ms=5, color=group.colour, label=group.text) for group in legend.itertuples()
    ]
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.08),
        ncols=_legend_columns(legend),
        fontsize=7,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.0,
    )


def _in_natural_order(labels: np.ndarray) -> list[str]:
    """Names of the groups, clusters as numbers ("2" before "10"), the collected rest last, without the unknown."""
    names = [str(name) for name in np.unique(labels) if name != UNKNOWN]
    return sorted(names, key=lambda name: (name.startswith("other ("), int(name) if name.isdecimal() else -1, name))


def _colour(index: int) -> str | tuple[float, ...]:
    """Colour of a group; the second ten are the first ten mixed with white."""
    colour = PALETTE[index % len(PALETTE)]
    return colour if index < len(PALETTE) else tuple(0.5 + 0.5 * np.array(to_rgb(colour)))


def _write_number(axes: Axes, points: np.ndarray, number: str) -> None:
    """Write a group's number beside the cell nearest to its median: on it, the number would hide a small group."""
    middle = points[np.linalg.norm(points - np.median(points, axis=0), axis=1).argmin()]
    axes.annotate(
        number,
        middle,
        xytext=(7, 7),
        textcoords="offset points",
        fontsize=7.5,
        weight="bold",
        ha="center",
        va="center",
        arrowprops={"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
        path_effects=[patheffects.withStroke(linewidth=2, foreground="white")],
    )


def confusion_matrix_figure(true: np.ndarray, predicted: np.ndarray, title: str) -> Figure:
    """Draw which type was taken for which: colour is the share of the true type's cells, text the number of cells.

    Parameters
    ----------
    true, predicted
        Labels, shape (n_cells,).
    title
        Of the figure: what it shows.
    """
    names = np.unique(np.concatenate([np.asarray(true, dtype=str), np.asarray(predicted, dtype=str)]))
    counts = confusion_matrix(np.asarray(true, dtype=str), np.asarray(predicted, dtype=str), labels=names)
    # A type that was predicted but is not there has an empty row.
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(2.6, 0.27 * len(names))
    figure = Figure(figsize=(side + 1.9, side + 1.3), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        ink = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=6.5, color=ink)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlabel("predicted type", fontsize=8)
    axes.set_ylabel("true type", fontsize=8)
    axes.set_title(title, fontsize=9)
    bar = figure.colorbar(image, ax=axes, shrink=0.7)
    bar.set_label("share of the true type's cells", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    return figure


def per_class_figure(per_class: pd.DataFrame, title: str) -> Figure:
    """Draw precision, recall and F1 of each type, the largest type on top; types that were never found stand at 0.

    Parameters
    ----------
    per_class
        Columns class, precision, recall, f1, cells, from :func:`scdmc.scores.per_class_scores`.
    title
        Of the figure: what it shows.
    """
    rows = per_class.sort_values("cells", kind="stable")
    height = np.arange(len(rows))
    figure = Figure(figsize=(PANEL_INCHES + 1.6, 1.3 + 0.22 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.hlines(height, 0, rows["f1"], color=GREY, linewidth=2, zorder=1)
    for column, marker, colour in (("precision", ">", PALETTE[0]), ("recall", "<", PALETTE[1]), ("f1", "o", "black")):
        label = "F1" if column == "f1" else column
        # The dot is smaller, so that equal precision and recall show behind it.
        size = 3.5 if column == "f1" else 6.5
        axes.plot(rows[column], height, ls="", marker=marker, ms=size, color=colour, label=label, clip_on=False)
    names = [f"{name} ({cells:,})" for name, cells in zip(rows["class"], rows["cells"], strict=True)]
    axes.set_yticks(height, names, fontsize=7)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_xlabel("score (0 to 1)", fontsize=8)
    axes.set_ylabel("true type (cells scored)", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=9)
    return figure


def reliability_figure(table: pd.DataFrame, title: str) -> Figure:
    """Draw accuracy against confidence, with the diagonal of perfect calibration, above the number of cells.

    Parameters
    ----------
    table
        Columns confidence, accuracy, cells, from :func:`scdmc.calibration.reliability_table`.
    title
        Of the figure: what it shows.
    """
    figure = Figure(figsize=(PANEL_INCHES, PANEL_INCHES + 1.2), layout="constrained")
    curve, cells = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    curve.plot([0, 1], [0, 1], color="#555555", linewidth=0.8, linestyle="--", label="perfect calibration")
    curve.plot(table["confidence"], table["accuracy"], marker="o", ms=4, color=PALETTE[0], label="test cells")
    curve.set(xlim=(0, 1.02), ylim=(0, 1.02))
    curve.set_ylabel("accuracy (share of cells)", fontsize=8)
    curve.legend(fontsize=7, frameon=False, loc="upper left")
    cells.bar(table["confidence"], table["cells"], width=0.03, color=PALETTE[8])
    cells.set_yscale("log")
    cells.yaxis.set_major_formatter("{x:,.0f}")
    cells.yaxis.set_minor_formatter(NullFormatter())
    cells.set_ylabel("cells", fontsize=8)
    cells.set_xlabel("confidence (calibrated probability of the label)", fontsize=8)
    for axes in (curve, cells):
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=9)
    return figure


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


def learning_curve_figure(table: pd.DataFrame, metric: str, title: str) -> Figure:
    """Draw one score against the share of the labels that training had, a line per method.

    Parameters
    ----------
    table
        Columns method, metric, label_fraction, value and sd (NaN for a single run).
    metric
        Which score is drawn.
    title
        Of the figure.
    """
    figure = Figure(figsize=(5.0, 4.0), layout="constrained")
    axes = figure.subplots()
    shown = table[table["metric"] == metric]
    for index, (method, rows) in enumerate(shown.groupby("method", sort=False)):
        rows = rows.sort_values("label_fraction")
        axes.errorbar(
            100 * rows["label_fraction"], rows["value"], yerr=rows["sd"].fillna(0), label=method,
            color=_colour(index), marker="o", ms=3.5, linewidth=1.2, capsize=2,
        )  # fmt: skip
    ticks = sorted(100 * shown["label_fraction"].unique())
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}%" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("labels used", fontsize=7)
    axes.set_ylabel(f"{metric.replace('_', ' ')} (bars: standard deviation)", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=6, frameon=False)
    axes.set_title(title, fontsize=9)
    return figure


def score_table_figure(scores: pd.DataFrame, title: str, is_best: np.ndarray) -> Figure:
    """Draw scores as a heat map with numbers; the best are bold.

    Colour runs from the lowest to the highest score of each column, since the columns are on different scales.

    Parameters
    ----------
    scores
        One row for each method, one column for each metric, higher is better; NaN is left blank.
    title
        Of the figure: what it shows.
    is_best
        Shape (n_methods, n_metrics) (:func:`scdmc.metric_tables.best_of_columns`).
    """
    values = scores.to_numpy(dtype=float)
    lowest, highest = scores.min().to_numpy(dtype=float), scores.max().to_numpy(dtype=float)
    span = np.where(highest > lowest, highest - lowest, 1.0)
    relative = np.where(highest > lowest, (values - lowest) / span, 0.5)
    figure = Figure(figsize=(1.6 + 0.62 * values.shape[1], 1.4 + 0.3 * values.shape[0]), layout="constrained")
    axes = figure.subplots()
    # Pale at both ends of the map, so that black numbers are readable on every cell.
    axes.imshow(np.where(np.isnan(values), np.nan, 0.65 * relative), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(~np.isnan(values)):
        weight = "bold" if is_best[row, column] else "normal"
        axes.text(column, row, f"{values[row, column]:.3f}", ha="center", va="center", fontsize=7, weight=weight)
    axes.set_xticks(range(values.shape[1]), scores.columns, rotation=35, ha="left", rotation_mode="anchor", fontsize=7)
    axes.xaxis.tick_top()
    axes.set_yticks(range(values.shape[0]), scores.index, fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("colour: lowest to highest of the column; bold: best", fontsize=6.5, color="#555555")
    figure.suptitle(title, fontsize=9)
    return figure


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
            axes.scatter(shown["value"], shown["variant"].map(variants.index), s=5, color=_colour(index), alpha=0.6)
            axes.scatter(means, means.index.map(variants.index), s=22, color=_colour(index), label=budget)
            if variants[0] in means:
                axes.axvline(means[variants[0]], color=_colour(index), linewidth=0.8, linestyle="--")
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
            style = {"color": _colour(index), "marker": "osD^v"[index // 5 % 5], "ms": 3.5, "lw": 1.2}
            axes.plot(means["cells_seen"], means["value"], label=variant, **style)
            axes.scatter(shown["cells_seen"], shown["value"], s=5, color=_colour(index), alpha=0.6)
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
