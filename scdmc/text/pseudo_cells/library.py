"""How many counts a generated cell has.

Source: docs/pseudo_cells.md, "Counts of a cell".
"""

from dataclasses import dataclass

import numpy as np

from scdmc.text.pseudo_cells.options import MOST_COUNTS

# Quantiles of what the regression leaves: they say more of a library than a normal distribution.
QUANTILES = np.linspace(0.0, 1.0, 101)


PENALTY = 1.0


@dataclass(frozen=True)
class LibraryModel:
    """ln(total) by state and condition, and what is left of it in each data set.

    Attributes
    ----------
    weights
        Shape (latent_size + condition_size + 1,), the last one is the constant.
    residuals
        Quantiles of what is left, shape (n_data_sets, n_quantiles).
    """

    weights: np.ndarray
    residuals: np.ndarray

    def drawn(self, states: np.ndarray, conditions: np.ndarray, data_sets: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Totals, shape (n_cells,), whole numbers of 1 to 10 million.

        Parameters
        ----------
        states, conditions
            Shapes (n_cells, latent_size) and (n_cells, condition_size).
        data_sets
            Number of the data set of each cell, shape (n_cells,).
        draws
            Uniform in 0 to 1, shape (n_cells,).
        """
        logarithms = _with_constant(states, conditions) @ self.weights
        for data_set in np.unique(data_sets):
            own = data_sets == data_set
            logarithms[own] += np.interp(draws[own], QUANTILES, self.residuals[data_set])
        return np.round(np.exp(np.clip(logarithms, 0.0, np.log(MOST_COUNTS))))


def _with_constant(states: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    return np.concatenate([states, conditions, np.ones((len(states), 1))], axis=1).astype(np.float64)


def fitted_library(
    totals: np.ndarray, states: np.ndarray, conditions: np.ndarray, data_sets: np.ndarray
) -> LibraryModel:
    """Ridge regression of the logarithm, and the quantiles of what it leaves in each data set.

    Parameters
    ----------
    totals
        Counts of the training cells, shape (n_cells,).
    states, conditions, data_sets
        As in :meth:`LibraryModel.drawn`.
    """
    wanted, given = np.log(totals), _with_constant(states, conditions)
    penalty = np.full(given.shape[1], PENALTY)
    penalty[-1] = 0.0
    weights = np.linalg.solve(given.T @ given + np.diag(penalty + 1e-9), given.T @ wanted)
    left = wanted - given @ weights
    residuals = np.stack([np.quantile(left[data_sets == each], QUANTILES) for each in np.unique(data_sets)])
    return LibraryModel(weights, residuals)
