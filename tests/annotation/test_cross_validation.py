"""Splits of several runs: folds that cover every cell once, whole groups, a type held out."""

import numpy as np
import pandas as pd
import pytest

from scdmc.annotation.cross_validation import cross_validation_splits, hold_out, plan_runs, with_fewer_labels
from scdmc.annotation.options import RunOptions
from scdmc.cells.options import SplitOptions
from scdmc.cells.splits import make_split, write_split
from scdmc.errors import ScDMCError

LABELS = np.array(["a"] * 60 + ["b"] * 30 + ["c"] * 10 + ["d"] * 3, dtype=object)
GROUPS = np.tile(np.array(["g0", "g1", "g2", "g3"], dtype=object), 26)[: len(LABELS)]
OBS = pd.DataFrame({"source_file": "x", "cell_id": np.arange(len(LABELS)).astype(str), "donor_id": GROUPS})


def options(split_by=None, **chosen):
    return RunOptions(SplitOptions(split_by=split_by, seed=5), **chosen)


def test_each_kept_cell_is_a_test_cell_once_and_every_fold_has_all_types():
    splits = cross_validation_splits(LABELS, n_folds=5)
    times_tested = sum((split == "test").astype(int) for split in splits)
    assert times_tested.tolist() == [1] * 100 + [0] * 3  # "d" has too few cells
    for split in splits:
        assert set(split[LABELS == "d"]) == {"left_out"}
        for part in ("train", "validation", "test"):
            assert {"a", "b"} <= set(LABELS[split == part])
        assert (split == "validation").sum() == pytest.approx(10, abs=3)
        assert (split == "test").sum() == pytest.approx(20, abs=2)


def test_folds_of_groups_keep_groups_whole():
    splits = cross_validation_splits(LABELS, GROUPS, n_folds=4)
    for split in splits:
        kept = split != "left_out"
        for group in np.unique(GROUPS):
            assert len(set(split[kept & (group == GROUPS)])) == 1
    times_tested = sum((split == "test").astype(int) for split in splits)
    assert times_tested.tolist() == [1] * 100 + [0] * 3


def test_folds_depend_on_the_seed_only():
    first, again, other = (cross_validation_splits(LABELS, n_folds=3, seed=seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not all((a == b).all() for a, b in zip(first, other, strict=True))


def test_more_folds_than_cells_of_a_type_or_groups_are_refused():
    with pytest.raises(ScDMCError, match="'c' has 10 cells only"):
        cross_validation_splits(LABELS, n_folds=11)
    with pytest.raises(ScDMCError, match="needs 5 groups at least, and there are 4"):
        cross_validation_splits(LABELS, GROUPS, n_folds=5)


def test_every_seed_draws_its_own_split():
    plans = plan_runs(options(seeds=3), OBS, LABELS)
    assert [(plan.name, plan.seed) for plan in plans] == [("seed_5", 5), ("seed_6", 6), ("seed_7", 7)]
    assert (plans[1].split == make_split(LABELS, seed=6)).all()
    assert not (plans[0].split == plans[1].split).all()


def test_all_seeds_share_a_split_that_is_given(tmp_path):
    split = make_split(LABELS, seed=0)
    write_split(tmp_path / "split.csv", OBS, LABELS, split)
    plans = plan_runs(options(seeds=2, split_file=tmp_path / "split.csv"), OBS, LABELS)
    assert [plan.seed for plan in plans] == [5, 6]
    assert all((plan.split == split).all() for plan in plans)
    with pytest.raises(ScDMCError, match="leave out --split_file"):
        plan_runs(options(cross_validate=3, split_file=tmp_path / "split.csv"), OBS, LABELS)


def test_folds_of_every_seed_are_runs():
    plans = plan_runs(options(seeds=2, cross_validate=3, split_by="donor_id"), OBS, LABELS)
    assert [plan.name for plan in plans[::2]] == ["seed_5_fold_1", "seed_5_fold_3", "seed_6_fold_2"]
    assert len(plans) == 6


def test_a_type_held_out_stays_in_the_test_part_only():
    split = make_split(LABELS, seed=0)
    without_b = hold_out(LABELS, split, "b")
    assert set(without_b[LABELS == "b"]) == {"test", "left_out"}
    assert ((without_b == "test") == (split == "test")).all()
    assert (without_b[LABELS != "b"] == split[LABELS != "b"]).all()
    with pytest.raises(ScDMCError, match="--hold_out_type zeta: no test cell is of that type; there are a, b, c"):
        plan_runs(options(hold_out_type="zeta"), OBS, LABELS)


def test_fewer_labels_keep_a_cell_of_every_type_and_all_test_cells():
    split = make_split(LABELS, seed=0)
    few, more = (with_fewer_labels(LABELS, split, fraction, seed=1) for fraction in (0.05, 0.5))
    assert ((few == "test") == (split == "test")).all()
    for part in ("train", "validation"):
        assert set(LABELS[few == part]) == {"a", "b", "c"}
        assert set(np.flatnonzero(few == part)) <= set(np.flatnonzero(more == part))
    assert [(few[name == LABELS] == "train").sum() for name in "abc"] == [2, 1, 1]
    plan = plan_runs(options(label_fraction=0.05), OBS, LABELS)[0]
    assert (plan.split == "train").sum() == 4
