"""How many counts a generated cell has: its depth, which the flow makes together with its state.

Source: docs/pseudo_cells.md, "Counts of a cell".
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from scdmc.text.pseudo_cells.options import MOST_COUNTS

# Quantiles of a library say more of it than a normal distribution.
QUANTILES = np.linspace(0.0, 1.0, 101)


# Of the normal distribution, so that the depth of the smallest and of the largest cell is finite.
SMALLEST_QUANTILE = 0.002


@dataclass(frozen=True)
class LibraryModel:
    """The total counts of the training cells of each data set, and what stands for them: a standard normal number.

    Attributes
    ----------
    quantiles
        Of ln(total), shape (n_data_sets, n_quantiles).
    """

    quantiles: np.ndarray

    def depths(self, totals: np.ndarray, data_sets: np.ndarray) -> np.ndarray:
        """The normal number of the quantile of each cell in its data set, shape (n_cells,).

        Parameters
        ----------
        totals
            Counts of each cell, shape (n_cells,).
        data_sets
            Number of its data set, shape (n_cells,).
        """
        found = np.zeros(len(totals))
        for data_set in np.unique(data_sets):
            own = data_sets == data_set
            found[own] = np.interp(np.log(totals[own]), self.quantiles[data_set], QUANTILES)
        return ndtri(found.clip(SMALLEST_QUANTILE, 1 - SMALLEST_QUANTILE))

    def totals(self, depths: np.ndarray, data_sets: np.ndarray) -> np.ndarray:
        """Totals, shape (n_cells,), whole numbers of 1 to 10 million.

        Parameters
        ----------
        depths
            Of :meth:`depths`, shape (n_cells,).
        data_sets
            Number of the data set of each cell, shape (n_cells,).
        """
        logarithms = np.zeros(len(depths))
        for data_set in np.unique(data_sets):
            own = data_sets == data_set
            logarithms[own] = np.interp(ndtr(depths[own]), QUANTILES, self.quantiles[data_set])
        return np.round(np.exp(np.clip(logarithms, 0.0, np.log(MOST_COUNTS))))


def library_of(totals: np.ndarray, data_sets: np.ndarray) -> LibraryModel:
    """Quantiles of the training cells of each data set; arguments as in :meth:`LibraryModel.depths`."""
    return LibraryModel(
        np.stack([np.quantile(np.log(totals[data_sets == each]), QUANTILES) for each in np.unique(data_sets)])
    )
