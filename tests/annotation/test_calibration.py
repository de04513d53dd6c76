"""Calibration: cases that can be worked out by hand."""

import numpy as np
import pytest

from scdmc.annotation.calibration import (
    HIGHEST_TEMPERATURE,
    Calibration,
    calibrate,
    expected_calibration_error,
    read_temperature,
    reliability_table,
    with_temperature,
    write_calibration,
)
from scdmc.errors import ScDMCError


def test_the_calibration_error_is_the_one_worked_out_by_hand():
    # Bins of a tenth. (0.8, 0.9]: confidence 0.85, 1 of 2 right. (0.5, 0.6]: confidence 0.6, 2 of 2 right.
    confidence = np.array([0.82, 0.88, 0.6, 0.6])
    is_right = np.array([True, False, True, True])
    table = reliability_table(confidence, is_right, n_bins=10)
    np.testing.assert_allclose(table["confidence"], [0.6, 0.85])
    assert table["accuracy"].tolist() == [1.0, 0.5]
    assert table["cells"].tolist() == [2, 2]
    expected = (2 * abs(0.6 - 1) + 2 * abs(0.85 - 0.5)) / 4
    assert expected_calibration_error(confidence, is_right, n_bins=10) == pytest.approx(expected)


def test_confidence_that_is_right_has_no_calibration_error():
    confidence = np.full(100, 0.75)
    assert expected_calibration_error(confidence, np.arange(100) < 75) == pytest.approx(0)
    assert expected_calibration_error(np.ones(5), np.ones(5, dtype=bool)) == 0
    assert expected_calibration_error(np.ones(5), np.zeros(5, dtype=bool)) == 1


@pytest.mark.parametrize("confidence", [[], [1.2], [-0.1], [np.nan]])
def test_what_is_no_confidence_has_no_calibration_error(confidence):
    with pytest.raises(ScDMCError, match="between 0 and 1"):
        expected_calibration_error(np.array(confidence), np.ones(len(confidence), dtype=bool))


def test_the_temperature_is_the_one_worked_out_by_hand():
    # Logits (2, 0) for every cell, and three of four are right: p = 3/4 at temperature 2 / ln(3).
    sure = 1 / (1 + np.exp(-2.0))
    probabilities = np.tile([sure, 1 - sure], (100, 1)).astype(np.float32)
    targets = (np.arange(100) >= 75).astype(int)
    calibration = calibrate(probabilities, targets)
    assert calibration.temperature == pytest.approx(2 / np.log(3), rel=1e-3)
    assert calibration.error_before == pytest.approx(sure - 0.75, abs=1e-4)
    assert calibration.error_after == pytest.approx(0, abs=1e-3)
    assert calibration.cells == 100


def test_a_temperature_keeps_the_order_of_the_classes_and_their_sum():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 50).astype(np.float32)
    softer = with_temperature(probabilities, 3.0)
    np.testing.assert_allclose(softer.sum(axis=1), 1)
    assert (softer.argsort(axis=1) == probabilities.argsort(axis=1)).all()
    assert (softer.max(axis=1) < probabilities.max(axis=1)).all()
    np.testing.assert_allclose(with_temperature(probabilities, 1.0), probabilities, rtol=1e-5)


def test_certainty_from_few_cells_is_bounded():
    probabilities = np.array([[0.9, 0.1]] * 3, dtype=np.float32)
    assert calibrate(probabilities, np.zeros(3, dtype=int)).temperature >= 0.5
    wrong = calibrate(np.array([[1.0, 0.0]] * 3, dtype=np.float32), np.ones(3, dtype=int))
    assert wrong.temperature <= HIGHEST_TEMPERATURE
    with pytest.raises(ScDMCError, match="no validation cells"):
        calibrate(probabilities[:0], np.zeros(0, dtype=int))


def test_a_folder_keeps_its_temperature(tmp_path):
    assert read_temperature(tmp_path) is None
    write_calibration(tmp_path, Calibration(1.5, 10, 0.2, 0.1))
    assert read_temperature(tmp_path) == 1.5
    (tmp_path / "calibration.json").write_text('{"temperature": -1}')
    with pytest.raises(ScDMCError, match=r"temperature should be a number from .*, not -1"):
        read_temperature(tmp_path)
