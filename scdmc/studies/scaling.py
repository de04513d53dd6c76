"""What longer training, more cells and a larger model give: a line through each score, and how sure it is.

Each score is taken as linear in the logarithms of the cells seen, the training cells and the hidden size, by least
squares over all runs. Intervals are those of Student's t for one more run.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy.stats import t as student

from scdmc.reports.colours import series_colour

# What a run has more or less of, and its name in the table.
AXES = {"cells_seen": "cells seen", "training_cells": "training cells", "hidden_size": "hidden size"}
LEAST_VALUES = 3  # of each axis: two make a line, but no bend
COVERAGE = 0.95


@dataclass(frozen=True)
class Line:
    """A least-squares fit.

    Attributes
    ----------
    coefficients
        Shape (n_parameters,).
    covariance
        Of the coefficients, shape (n_parameters, n_parameters).
    variance
        Of a run about the line.
    freedom
        Degrees of freedom: runs less parameters.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    variance: float
    freedom: int

    @classmethod
    def through(cls, design: np.ndarray, values: np.ndarray) -> "Line":
        """Fit values, shape (n_runs,), by the columns of a design, shape (n_runs, n_parameters)."""
        coefficients, *_ = np.linalg.lstsq(design, values)
        freedom = len(values) - design.shape[1]
        variance = float(((values - design @ coefficients) ** 2).sum() / freedom)
        return cls(coefficients, variance * np.linalg.inv(design.T @ design), variance, freedom)

    def errors(self) -> np.ndarray:
        """Standard errors of the coefficients, shape (n_parameters,)."""
        return np.sqrt(np.diag(self.covariance))

    def interval(self, design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and half width of the interval of one more run, each of shape (n_points,)."""
        spread = np.sqrt(self.variance + np.einsum("ij,jk,ik->i", design, self.covariance, design))
        return design @ self.coefficients, float(student.ppf((1 + COVERAGE) / 2, self.freedom)) * spread


def can_be_fitted(runs: pd.DataFrame) -> bool:
    """True if the runs of a score differ in each of :data:`AXES` by three values or more, and fix a line and its bend.

    Parameters
    ----------
    runs
        One row for each run of the score, with the columns of :data:`AXES`.
    """
    if not all(name in runs and runs[name].nunique() >= LEAST_VALUES for name in AXES):
        return False
    design = bent_design_of(runs)
    return len(runs) > design.shape[1] == np.linalg.matrix_rank(design)


def rows_to_fit(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of those scores that can be fitted; others may be of a few runs only.

    A run of an earlier version, which does not say how large it was, takes no part.

    Parameters
    ----------
    rows
        See :func:`scaling_table`; columns of :data:`AXES` may be absent.
    """
    known = rows.reindex(columns=[*rows, *(name for name in AXES if name not in rows)]).dropna(subset=[*AXES, "value"])
    fits = {score for score, runs in known.groupby("score") if can_be_fitted(runs)}
    return known[known["score"].isin(fits)]


def design_of(rows: pd.DataFrame) -> np.ndarray:
    """One, and the logarithms to base 10 of :data:`AXES`; shape (n_runs, 4)."""
    return np.column_stack([np.ones(len(rows)), *(np.log10(rows[name].to_numpy(float)) for name in AXES)])


def bent_design_of(rows: pd.DataFrame) -> np.ndarray:
    """The same, and the square of the logarithm of the cells seen, about its mean; shape (n_runs, 5)."""
    lengths = np.log10(rows["cells_seen"].to_numpy(float))
    return np.column_stack([design_of(rows), (lengths - lengths.mean()) ** 2])


def bend_of(rows: pd.DataFrame) -> tuple[float, float]:
    """How the gain of a tenfold of cells seen changes with each further tenfold, and its standard error."""
    line = Line.through(bent_design_of(rows), rows["value"].to_numpy())
    return 2 * line.coefficients[-1], 2 * line.errors()[-1]


def largest(rows: pd.DataFrame, times: float = 1.0) -> pd.DataFrame:
    """The longest training of all cells at the usual size, or so many times as many cells, seen as often; one row."""
    usual = rows["hidden_size"].mode().iloc[0]
    point = {"cells_seen": rows["cells_seen"].max() * times, "training_cells": rows["training_cells"].max() * times}
    return pd.DataFrame([{**point, "hidden_size": usual}])


def scaling_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Gains by a tenfold of each axis, the bend, and what ten and a hundred times as much would give.

    Parameters
    ----------
    rows
        Trained runs: columns score, value and those of :data:`AXES`; one row for each run and score.

    Returns
    -------
    Score -> texts: value ± standard error for gains and bend, the interval of :data:`COVERAGE` for what would be.
    """
    texts = {}
    for score, runs in rows.groupby("score", sort=False):
        line = Line.through(design_of(runs), runs["value"].to_numpy())
        gains = zip(AXES.values(), line.coefficients[1:], line.errors()[1:], strict=True)
        row = {f"tenfold {name}": f"{gain:+.3f} ± {error:.3f}" for name, gain, error in gains}
        row["bend"] = "{:+.3f} ± {:.3f}".format(*bend_of(runs))
        for times in (1, 10, 100):
            value, half = line.interval(design_of(largest(runs, times)))
            row[f"{times} times"] = f"{value[0]:.3f} ({value[0] - half[0]:.3f} to {value[0] + half[0]:.3f})"
        texts[score] = row
    return pd.DataFrame.from_dict(texts, orient="index").rename_axis("score")


def extrapolation_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Draw each score against the cells seen, with the line of all cells at the usual size to a hundred times as many.

    Parameters
    ----------
    rows
        See :func:`scaling_table`; a column ``variant`` as well.
    title
        Of the figure: what it shows.
    """
    scores, variants = list(rows["score"].unique()), list(rows["variant"].unique())
    n_columns = min(3, len(scores))
    n_rows = -(-len(scores) // n_columns)
    figure = Figure(figsize=(3.2 * n_columns, 1.2 + 2.4 * n_rows), layout="constrained")
    panels = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for axes, score in zip(panels, scores, strict=False):
        runs = rows[rows["score"] == score]
        for index, variant in enumerate(variants):
            shown = runs[runs["variant"] == variant]
            style = {"color": series_colour(index), "marker": "osD^v"[index % 5], "s": 14, "label": variant}
            axes.scatter(shown["cells_seen"], shown["value"], **style)
        _draw_line(axes, runs)
        axes.axvline(runs["cells_seen"].max(), color="#999999", linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(score.replace(": ", "\n"), fontsize=7)
        axes.set_xlabel("cells seen in training", fontsize=7)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(scores) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=9)
    return figure


def _draw_line(axes: Axes, runs: pd.DataFrame) -> None:
    """The fitted line and the interval of one more run; beyond the runs the cells grow with the cells seen."""
    line, end = Line.through(design_of(runs), runs["value"].to_numpy()), largest(runs)
    lengths = np.geomspace(runs["cells_seen"].min(), 100 * runs["cells_seen"].max(), 60)
    beyond = np.maximum(lengths / end["cells_seen"].item(), 1)
    points = pd.DataFrame(
        {
            "cells_seen": lengths,
            "training_cells": end["training_cells"].item() * beyond,
            "hidden_size": end["hidden_size"].item(),
        }
    )
    value, half = line.interval(design_of(points))
    axes.plot(lengths, value, color="#444444", linewidth=1)
    axes.fill_between(lengths, value - half, value + half, color="#444444", alpha=0.15, linewidth=0)
