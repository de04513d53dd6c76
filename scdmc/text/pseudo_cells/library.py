"""How many counts a generated cell has, and which share of them lies in the panel.

Source: docs/pseudo_cells.md, "Counts of a cell".
"""

from dataclasses import dataclass

import numpy as np

# Quantiles of what the regression leaves: they say more of a library than a normal distribution.
QUANTILES = np.linspace(0.0, 1.0, 101)


PENALTY = 1.0


# What a cell has at least: a share of 0 or 1 has no logarithm.
LEAST_COUNTS, LARGEST_LOG_SHARE = 1.0, -1e-4


@dataclass(frozen=True)
class LibraryModel:
    """ln(total) and ln(share of the panel) by state and condition, and what is left of them in each data set.

    Attributes
    ----------
    weights
        Shape (latent_size + condition_size + 1, 2), the last row is the constant.
    residuals
        Quantiles of what is left, shape (n_data_sets, 2, n_quantiles).
    """

    weights: np.ndarray
    residuals: np.ndarray

    def drawn(
        self,
        states: np.ndarray,
        conditions: np.ndarray,
        data_sets: np.ndarray,
        draws: np.ndarray,
        library_size: int | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Totals and counts in the panel, shape (n_cells,) each, whole numbers.

        Parameters
        ----------
        states, conditions
            Shapes (n_cells, latent_size) and (n_cells, condition_size).
        data_sets
            Number of the data set of each cell, shape (n_cells,).
        draws
            Uniform in 0 to 1, shape (n_cells, 2).
        library_size
            The total of every cell; None to draw it.
        """
        expected = _with_constant(states, conditions) @ self.weights  # (n_cells, 2)
        for column in range(2):
            for data_set in np.unique(data_sets):
                own = data_sets == data_set
                expected[own, column] += np.interp(draws[own, column], QUANTILES, self.residuals[data_set, column])
        totals = np.round(np.exp(expected[:, 0])) if library_size is None else np.full(len(states), float(library_size))
        totals = np.maximum(totals, LEAST_COUNTS)
        return totals, np.round(totals * np.exp(np.minimum(expected[:, 1], LARGEST_LOG_SHARE)))


def _with_constant(states: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    return np.concatenate([states, conditions, np.ones((len(states), 1))], axis=1).astype(np.float64)


def fitted_library(
    totals: np.ndarray,
    panel_totals: np.ndarray,
    states: np.ndarray,
    conditions: np.ndarray,
    data_sets: np.ndarray,
) -> LibraryModel:
    """Ridge regression of both logarithms, and the quantiles of what it leaves in each data set.

    Parameters
    ----------
    totals, panel_totals
        Counts of the training cells, in all and in the panel, shape (n_cells,).
    states, conditions, data_sets
        As in :meth:`LibraryModel.drawn`.
    """
    share = np.minimum(np.log(np.maximum(panel_totals, 0.5) / totals), LARGEST_LOG_SHARE)
    wanted = np.stack([np.log(totals), share], axis=1)
    given = _with_constant(states, conditions)
    penalty = np.full(given.shape[1], PENALTY)
    penalty[-1] = 0.0
    weights = np.linalg.solve(given.T @ given + np.diag(penalty + 1e-9), given.T @ wanted)
    left = wanted - given @ weights
    residuals = np.stack([np.quantile(left[data_sets == each], QUANTILES, axis=0).T for each in np.unique(data_sets)])
    return LibraryModel(weights, residuals)
