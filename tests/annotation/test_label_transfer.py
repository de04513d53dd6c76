"""Label transfer: votes that can be counted by hand."""

import numpy as np
import pytest

from scdmc.annotation.label_transfer import fit_reference, transfer_labels
from scdmc.errors import ScDMCError

LINE = np.arange(10.0)[:, None]  # reference cells at 0, 1, ..., 9
LABELS = np.array(["a"] * 5 + ["b"] * 5, dtype=object)


def test_near_cells_vote_fully_and_far_ones_for_less():
    reference = fit_reference(LINE, LABELS, n_neighbors=2)
    # Neighbours of the inner cells are at distance 1, of the two at the ends at 1 and 2.
    assert reference.usual_distance == pytest.approx(np.quantile([1] * 18 + [2] * 2, 0.95))
    usual = reference.usual_distance
    shares = transfer_labels(reference, np.array([[0.5], [4.5], [12.0]]))
    np.testing.assert_allclose(shares[0], [1, 0])
    np.testing.assert_allclose(shares[1], [0.5, 0.5])
    np.testing.assert_allclose(shares[2], [0, (usual / 3 + usual / 4) / 2])


def test_confidence_falls_with_the_distance_from_the_reference():
    reference = fit_reference(LINE, LABELS, n_neighbors=3)
    confidence = transfer_labels(reference, np.array([[9.0], [15.0], [50.0], [1000.0]])).max(axis=1)
    assert (np.diff(confidence) < 0).all()
    assert confidence[-1] < 0.01


def test_reference_cells_without_a_label_do_not_vote():
    labels = LABELS.copy()
    labels[:4] = None
    reference = fit_reference(LINE, labels, n_neighbors=1)
    assert reference.names[transfer_labels(reference, np.zeros((1, 1))).argmax()] == "a"
    assert len(reference.types) == 6


def test_identical_reference_cells_are_no_division_by_zero():
    shares = transfer_labels(fit_reference(np.zeros((4, 2)), ["a", "a", "b", "b"], 2), np.zeros((1, 2)))
    assert shares.sum() == pytest.approx(1)


def test_a_reference_of_one_type_is_refused():
    with pytest.raises(ScDMCError, match="1 types"):
        fit_reference(LINE, ["a"] * 10)
