"""The linear probe and the neighbours of frozen embeddings."""

import numpy as np
import pytest

from scdmc.annotation.probing import probe_scores
from scdmc.errors import ScDMCError


def three_types(distance, seed=0):
    generator = np.random.default_rng(seed)
    number = np.repeat(np.arange(3), 40)
    return generator.normal(size=(120, 5)) + distance * np.eye(5)[number], np.array(["a", "b", "c"], object)[number]


def test_types_that_lie_apart_are_told_and_noise_is_not():
    apart, noise = (probe_scores(*three_types(distance)) for distance in (20, 0))
    assert apart == {"probe_macro_f1": 1.0, "neighbours_macro_f1": 1.0}
    assert set(noise) == set(apart)
    assert max(noise.values()) < 0.55


def test_the_probe_does_not_depend_on_the_scale_of_a_dimension():
    embedding, labels = three_types(2)
    scaled = embedding * [1, 100, 0.01, 5, 1]
    assert probe_scores(scaled, labels)["probe_macro_f1"] == probe_scores(embedding, labels)["probe_macro_f1"]


def test_rare_types_and_cells_without_a_label_count_nowhere():
    embedding, labels = three_types(3)
    more = np.vstack([embedding, np.full((12, 5), 50.0)])
    named = np.concatenate([labels, np.array(["rare"] * 9 + [None, "", np.nan], object)])
    assert probe_scores(more, named) == probe_scores(embedding, labels)


def test_one_frequent_type_is_too_few():
    embedding, labels = three_types(3)
    with pytest.raises(ScDMCError, match="two types with 10 cells; the largest are a"):
        probe_scores(embedding[:45], labels[:45])
