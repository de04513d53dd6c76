"""Probabilities that mean what they say: temperature scaling, and how far confidence is from accuracy.

Temperature scaling is that of Guo et al. 2017 (arXiv:1706.04599): one number, fitted on validation cells, that makes
probabilities softer or sharper and leaves their order as it is.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from scdmc.errors import ScDMCError
from scdmc.files import read_json_object, write_json
from scdmc.model.checks import number, require_allowed
from scdmc.model.names import CALIBRATION_FILE
from scdmc.result_folders import require_whole

N_BINS = 15


# Where every validation cell is right, the likelihood alone would ask for a temperature of 0: certainty from few cells.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.5, 20.0


SMALLEST_PROBABILITY = 1e-38


@dataclass(frozen=True)
class Calibration:
    """How the probabilities of a classifier were calibrated.

    Attributes
    ----------
    temperature
        What the logits are divided by.
    cells
        Validation cells that it was fitted on.
    error_before, error_after
        Expected calibration error on these cells.
    """

    temperature: float = 1.0
    cells: int = 0
    error_before: float = 0.0
    error_after: float = 0.0


def calibrate(probabilities: np.ndarray, targets: np.ndarray) -> Calibration:
    """Fit the temperature under which the true classes of validation cells are likeliest.

    Parameters
    ----------
    probabilities
        Shape (n_cells, n_classes), uncalibrated.
    targets
        Shape (n_cells,): index of the true class of each cell.

    Raises
    ------
    ScDMCError
        If there is no cell.
    """
    if not len(targets):
        raise ScDMCError("there are no validation cells of a trained type to calibrate probabilities on")

    def negative_log_likelihood(log_temperature: float) -> float:
        softened = with_temperature(probabilities, float(np.exp(log_temperature)))
        return -float(np.log(np.maximum(softened[np.arange(len(targets)), targets], SMALLEST_PROBABILITY)).mean())

    bounds = np.log([LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE])
    temperature = float(np.exp(minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded").x))
    is_right = probabilities.argmax(axis=1) == targets
    before, after = (
        expected_calibration_error(with_temperature(probabilities, t).max(axis=1), is_right) for t in (1.0, temperature)
    )
    return Calibration(temperature, len(targets), before, after)


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities as if the logits had been divided by a temperature, shape (n_cells, n_classes), float64."""
    log_probabilities = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST_PROBABILITY)) / temperature
    powers = np.exp(log_probabilities - log_probabilities.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def reliability_table(confidence: np.ndarray, is_right: np.ndarray, n_bins: int = N_BINS) -> pd.DataFrame:
    """Mean confidence and accuracy of cells of similar confidence.

    Parameters
    ----------
    confidence
        Shape (n_cells,): probability of the predicted class, 0 to 1.
    is_right
        Shape (n_cells,): True where that class is the true one.
    n_bins
        Bins of equal width; one without cells is left out.

    Returns
    -------
    Columns confidence, accuracy, cells; ascending.
    """
    confidence, is_right = np.asarray(confidence, dtype=np.float64), np.asarray(is_right, dtype=np.float64)
    # A bin is open on the left: (0, 1/n], (1/n, 2/n], ...
    bins = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    table = pd.DataFrame({"bin": bins, "confidence": confidence, "accuracy": is_right, "cells": 1})
    return table.groupby("bin").agg({"confidence": "mean", "accuracy": "mean", "cells": "sum"}).reset_index(drop=True)


def expected_calibration_error(confidence: np.ndarray, is_right: np.ndarray, n_bins: int = N_BINS) -> float:
    """Mean gap between confidence and accuracy over the bins, weighted by cells (Naeini et al. 2015); 0 is perfect.

    Parameters
    ----------
    confidence, is_right, n_bins
        See :func:`reliability_table`.

    Raises
    ------
    ScDMCError
        If there is no cell, or a confidence is not between 0 and 1.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    if not len(confidence) or not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        raise ScDMCError("the calibration error needs cells, each with a confidence between 0 and 1")
    table = reliability_table(confidence, is_right, n_bins)
    return float(np.average((table["confidence"] - table["accuracy"]).abs(), weights=table["cells"]))


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Keep a calibration in a model folder."""
    write_json(Path(folder) / CALIBRATION_FILE, asdict(calibration))


def read_temperature(folder: Path) -> float | None:
    """The temperature of a classifier's folder; None where it was not calibrated.

    Raises
    ------
    ScDMCError
        If the file holds no positive number of a sensible size.
    """
    path = Path(folder) / CALIBRATION_FILE
    require_whole(path.parent, path.name)
    if not path.exists():
        return None
    temperature = read_json_object(path, "calibration").get("temperature")
    require_allowed({"temperature": temperature}, {"temperature": number(1e-6, 1e6)}, str(path))
    return float(temperature)
