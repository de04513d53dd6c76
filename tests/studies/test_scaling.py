"""The fit of the scaling study finds what was put in, is as sure as it should be, and asks for runs enough."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import linregress

from scdmc.studies.scaling import Line, bend_of, can_be_fitted, extrapolation_figure, rows_to_fit, scaling_table


def runs(value, noise=0.0):
    """Runs of a grid, with a score that is a function of the three axes."""
    grid = itertools.product((1000, 3000, 9000), (2000, 6500, 20000), (32, 64, 128))
    rows = pd.DataFrame(grid, columns=["cells_seen", "training_cells", "hidden_size"]).assign(
        score="s", variant="v", budget="1"
    )
    drawn = np.random.default_rng(1).normal(0, noise, len(rows))
    return rows.assign(value=value(*(rows[name] for name in rows.columns[:3])) + drawn)


def test_gains_of_a_known_score_are_found_and_carried_on():
    rows = runs(lambda seen, cells, size: 1 + 0.2 * np.log10(seen) - 0.1 * np.log10(cells) + 0.3 * np.log10(size))
    row = scaling_table(rows).loc["s"]
    assert row["tenfold cells seen"] == "+0.200 ± 0.000"
    assert row["tenfold training cells"] == "-0.100 ± 0.000"
    assert row["tenfold hidden size"] == "+0.300 ± 0.000"
    first, tenth, hundredth = (float(row[f"{times} times"].split()[0]) for times in (1, 10, 100))
    assert tenth - first == pytest.approx(0.1, abs=2e-3)  # a tenfold of cells seen and of training cells
    assert hundredth - first == pytest.approx(0.2, abs=2e-3)


def test_a_bend_is_told_from_a_line():
    bend, error = bend_of(runs(lambda seen, *_: -0.1 * np.log10(seen) ** 2, noise=0.001))
    assert bend == pytest.approx(-0.2, abs=0.02)
    assert abs(bend) > 5 * error
    bend, error = bend_of(runs(lambda seen, *_: 0.1 * np.log10(seen), noise=0.001))
    assert abs(bend) < 3 * error


def test_errors_and_intervals_are_those_of_a_regression():
    x = np.arange(12.0)
    y = 2 * x + np.random.default_rng(1).normal(size=12)
    line, known = Line.through(np.column_stack([np.ones(12), x]), y), linregress(x, y)
    assert line.coefficients == pytest.approx([known.intercept, known.slope])
    assert line.errors() == pytest.approx([known.intercept_stderr, known.stderr])
    _, near = line.interval(np.array([[1, x.mean()]]))
    assert near == pytest.approx(2.2281388 * np.sqrt(line.variance * (1 + 1 / 12)))  # t of 10 degrees of freedom
    _, far = line.interval(np.array([[1, 100.0]]))
    assert far > 5 * near


def test_three_values_of_each_axis_are_needed():
    rows = runs(lambda seen, *_: seen * 1.0)
    assert can_be_fitted(rows)
    assert not can_be_fitted(rows[rows["hidden_size"] > 32])
    assert not can_be_fitted(rows.drop(columns="training_cells"))
    diagonal = rows[[row % 13 == 0 for row in range(len(rows))]]  # three runs, three values of each axis
    assert not can_be_fitted(diagonal)


def test_only_scores_of_runs_enough_are_fitted():
    rows = runs(lambda seen, *_: np.log10(seen), noise=0.1)
    few = rows[rows["training_cells"] == 20000].assign(score="few")
    old = rows.assign(training_cells=np.nan)
    pd.testing.assert_frame_equal(rows_to_fit(pd.concat([rows, few, old])), rows, check_dtype=False)
    assert rows_to_fit(old.drop(columns="training_cells")).empty


def test_the_figure_has_a_panel_for_each_score():
    rows = runs(lambda seen, *_: np.log10(seen), noise=0.1)
    figure = extrapolation_figure(pd.concat([rows, rows.assign(score="other: set")]), "title")
    assert [axes.get_title() for axes in figure.axes if axes.get_visible()] == ["s", "other\nset"]
