"""What makes a cell familiar, and that cells of a type never learned are not."""

import numpy as np
import pytest

from scdmc.views.familiarity import (
    WITHOUT_LEAVING_OUT,
    Familiarity,
    TypeDistances,
    chosen_strengths,
    clues_of_cells,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_distances_are_those_within_types_whatever_the_units(rng):
    types = np.repeat([0, 1, 2], 200)
    spread = np.array([1.0, 5.0, 0.2, 0.0])  # the last component is a constant
    cells = 20 * rng.normal(size=(3, 4))[types] * spread + rng.normal(size=(600, 4)) * spread
    distances = TypeDistances.of(cells, types, 4)
    assert distances.squared(cells, types).mean() == pytest.approx(3 / 4, abs=0.05)  # three components of four vary
    assert distances.squared(cells, (types + 1) % 3).min() > 5
    scaled = TypeDistances.of(cells * 7, types, 4)
    np.testing.assert_allclose(scaled.squared(cells * 7, types), distances.squared(cells, types), rtol=1e-3)


def test_one_cell_of_each_type_has_distances(rng):
    cells = rng.normal(size=(3, 4))
    assert np.isfinite(TypeDistances.of(cells, np.arange(3), 3).squared(cells + 1, np.arange(3))).all()


def test_clues_are_the_probability_of_the_label_and_the_least_of_a_view():
    together = np.array([[0.7, 0.3], [0.0, 1.0]])
    views = [np.array([[0.9, 0.1], [0.5, 0.5]]), np.array([[0.2, 0.8], [0.0, 1.0]])]
    clues = clues_of_cells(together, views, np.array([1.0, 3.0]))
    np.testing.assert_allclose(clues, [[np.log(0.7), np.log(0.2), -1.0], [0.0, np.log(0.5), -3.0]])
    assert (clues_of_cells(together, views, None)[:, 2] == 0).all()


def test_types_that_were_left_out_choose_the_clue_that_tells_them(rng):
    def clues(*means):
        return -np.abs(np.asarray(means) + rng.normal(size=(60, 3)))

    by_distance = chosen_strengths([(clues(0, 0, 0), clues(0, 0, 6))])
    assert by_distance[2] == 2
    least = chosen_strengths([(clues(0, 0, 0), clues(0, 6, 0))])
    assert least[1] >= 0.5
    assert least[2] == 0
    same = clues(0, 0, 0)
    assert chosen_strengths([(same, same)]).tolist() == [1, 0, 0]
    assert chosen_strengths([(same, same[:3])]).tolist() == list(WITHOUT_LEAVING_OUT)


def test_familiarity_is_a_share_of_held_out_cells_and_its_threshold_finds_strangers(rng):
    seen, strangers = -np.abs(rng.normal(size=(300, 3))), -np.abs(rng.normal(size=(50, 3))) - 4
    familiarity, aurocs = Familiarity.learned(seen, np.ones(300, dtype=bool), {7: (seen, strangers)})
    own = familiarity.of_cells(seen)
    assert own.max() == 1
    assert own.mean() == pytest.approx(0.5, abs=0.01)
    assert aurocs[7] > 0.99
    assert (familiarity.of_cells(strangers) < familiarity.threshold).all()
    assert (own < familiarity.threshold).mean() < 0.15


def test_a_file_of_another_batch_is_not_strange_as_a_whole(rng):
    seen = -np.abs([0, 0, 1] + 0.1 * rng.normal(size=(300, 3)))
    strangers = seen[:50] * [1, 1, 3]
    familiarity, _ = Familiarity.learned(seen, np.ones(300, dtype=bool), {7: (seen, strangers)})
    assert familiarity.strengths[2] > 0
    batch = [1, 1, 2.5]
    mixed = familiarity.of_cells(np.concatenate([seen, strangers]) * batch)
    assert (mixed[:300] < familiarity.threshold).mean() < 0.15
    assert (mixed[300:] < familiarity.threshold).all()
    assert (familiarity.of_cells(seen[:9] * batch) == 0).all()  # too few cells to tell
