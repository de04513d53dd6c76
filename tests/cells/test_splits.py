"""Splits: who goes where, and whether the file gives back what was drawn."""

import logging

import numpy as np
import pandas as pd
import pytest

from scdmc.cells.splits import make_split, read_split, require_usable_split, write_split
from scdmc.errors import ScDMCError
from scdmc.labels import is_missing

LABELS = np.repeat(np.array(["alpha", "beta", "mast", "rare"], dtype=object), [100, 40, 10, 9])


def cells(n_cells, source_file="a.h5ad"):
    return pd.DataFrame({"source_file": source_file, "cell_id": [f"cell_{i}" for i in range(n_cells)]})


@pytest.fixture
def written(tmp_path):
    """A file with all cells of LABELS, and what is in it."""
    split = make_split(LABELS)
    write_split(tmp_path / "split.csv", cells(len(LABELS)), LABELS, split)
    return tmp_path / "split.csv", split


def test_each_type_is_shared_out_in_the_wanted_fractions():
    split = make_split(LABELS, validation_fraction=0.1, test_fraction=0.2)
    shares = pd.crosstab(LABELS, split)
    assert shares.loc["alpha", ["train", "validation", "test"]].tolist() == [70, 10, 20]
    assert shares.loc["beta", ["train", "validation", "test"]].tolist() == [28, 4, 8]
    assert shares.loc["mast", ["train", "validation", "test"]].tolist() == [7, 1, 2]


def test_rare_types_are_left_out_and_named(caplog):
    with caplog.at_level(logging.INFO, logger="scdmc.cells.splits"):
        split = make_split(LABELS, min_cells_per_type=10)
    assert set(split[LABELS == "rare"]) == {"left_out"}
    assert "left_out" not in split[LABELS != "rare"]
    assert "rare (9)" in caplog.text


def test_cells_without_a_label_are_left_out_and_are_no_type():
    labels = LABELS.copy()
    labels[:40] = [None, np.nan, "", pd.NA] * 10
    split = make_split(labels)
    assert set(split[:40]) == {"left_out"}
    assert "left_out" not in split[40:150]


def test_categorical_labels_split_like_plain_ones():
    assert np.array_equal(make_split(pd.Series(LABELS, dtype="category")), make_split(LABELS))


def test_the_smallest_possible_type_is_in_all_three_parts():
    labels = np.repeat(np.array(["a", "b"], dtype=object), [30, 3])
    split = make_split(labels, validation_fraction=0.3, test_fraction=0.6, min_cells_per_type=3)
    assert sorted(split[labels == "b"]) == ["test", "train", "validation"]


def test_the_seed_alone_decides_the_draw():
    assert np.array_equal(make_split(LABELS, seed=1), make_split(LABELS, seed=1))
    assert not np.array_equal(make_split(LABELS, seed=1), make_split(LABELS, seed=2))


@pytest.mark.parametrize("n_groups", [3, 10])
@pytest.mark.parametrize("test_fraction", [0.2, 0.7])
def test_a_group_is_never_in_two_parts_and_no_part_is_empty(n_groups, test_fraction):
    groups = np.arange(len(LABELS)) % n_groups
    split = make_split(LABELS, groups, test_fraction=test_fraction)
    kept = split != "left_out"
    assert set(split[kept]) == {"train", "validation", "test"}
    assert (pd.Series(split[kept]).groupby(groups[kept]).nunique() == 1).all()


def test_groups_are_drawn_so_that_every_type_can_be_tested():
    # Only donors 0 and 1 have beta cells, beside eight donors that have none; one of the two must be in training.
    groups = np.repeat(np.arange(10), 20)
    labels = np.where((groups < 2) & (np.arange(200) % 2 == 0), "beta", "alpha").astype(object)
    for seed in range(5):
        split = make_split(labels, groups, seed=seed)
        assert "train" in split[labels == "beta"]
        assert "test" in split[labels == "beta"]


def test_two_groups_are_too_few_for_three_parts():
    with pytest.raises(ScDMCError, match=r"at least 3 groups.*donor_0, donor_1"):
        make_split(LABELS, np.array([f"donor_{i % 2}" for i in range(len(LABELS))]))


def test_a_cell_without_a_group_is_an_error():
    groups = np.array([f"donor_{i % 5}" for i in range(len(LABELS))], dtype=object)
    groups[:2] = [None, np.nan]
    with pytest.raises(ScDMCError, match="2 cells have no group"):
        make_split(LABELS, groups)


def test_one_type_is_too_few():
    with pytest.raises(ScDMCError, match=r"fewer than two types.*alpha \(100\)"):
        make_split(LABELS, min_cells_per_type=50)


def test_groups_that_leave_one_type_to_train_on_are_an_error():
    labels = np.repeat(np.array(["a", "b", "c"], dtype=object), 20)
    with pytest.raises(ScDMCError, match="training part holds fewer than two types"):
        make_split(labels, groups=labels)


def test_fractions_must_leave_cells_to_train_on():
    with pytest.raises(ScDMCError, match="together below 1"):
        make_split(LABELS, validation_fraction=0.5, test_fraction=0.5)


def test_missing_labels_are_none_nan_and_empty():
    labels = np.array(["a", None, np.nan, "", pd.NA, "nan", 0], dtype=object)
    assert is_missing(labels).tolist() == [False, True, True, True, True, True, False]


def test_a_written_split_is_read_back_in_any_order_of_the_cells(written):
    path, split = written
    order = np.random.default_rng(0).permutation(len(LABELS))[:50]
    assert np.array_equal(read_split(path, cells(len(LABELS)).iloc[order]), split[order])


def test_cells_of_one_name_in_two_files_are_told_apart(tmp_path):
    obs = pd.concat([cells(2, "a.h5ad"), cells(2, "b.h5ad")])
    split = np.array(["train", "test", "validation", "left_out"])
    write_split(tmp_path / "split.csv", obs, ["x", "x", "y", None], split)
    assert read_split(tmp_path / "split.csv", obs.iloc[::-1]).tolist() == split[::-1].tolist()
    assert (tmp_path / "split.csv").read_text().splitlines()[::4] == [
        "source_file,cell_id,label,split",
        "b.h5ad,cell_1,,left_out",
    ]


def test_names_that_look_like_numbers_or_gaps_stay_text(tmp_path):
    obs = pd.DataFrame({"source_file": "a.h5ad", "cell_id": ["NA", "007", "7", "1e3"]})
    split = np.array(["train", "test", "validation", "left_out"])
    write_split(tmp_path / "split.csv", obs, list("abcd"), split)
    assert read_split(tmp_path / "split.csv", obs).tolist() == split.tolist()


def test_cells_named_alike_cannot_be_written(tmp_path):
    obs = pd.concat([cells(2), cells(1)])
    with pytest.raises(ScDMCError, match=r"1 cells \(a.h5ad:cell_0\) repeated"):
        write_split(tmp_path / "split.csv", obs, list("abc"), ["train"] * 3)
    assert list(tmp_path.iterdir()) == []


def test_cells_that_are_not_in_the_file_are_counted_and_named(written):
    path, _ = written
    with pytest.raises(ScDMCError, match=r"4 cells \(a.h5ad:cell_159, a.h5ad:cell_160, a.h5ad:cell_161, \.\.\.\)"):
        read_split(path, cells(len(LABELS) + 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns=["label", "split"]), "column label, split missing"),
        (lambda table: table.replace({"split": {"test": "tset"}}), "unknown value in column split: 'tset'"),
        (lambda table: pd.concat([table, table[:1]]), r"1 cells \(a.h5ad:cell_0\) repeated"),
    ],
)
def test_a_spoilt_file_is_refused(written, change, message):
    path, _ = written
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(ScDMCError, match=message):
        read_split(path, cells(len(LABELS)))


def test_an_absent_or_empty_file_is_refused(tmp_path):
    with pytest.raises(ScDMCError, match="no such file"):
        read_split(tmp_path / "split.csv", cells(1))
    (tmp_path / "split.csv").touch()
    with pytest.raises(ScDMCError, match="not a CSV table"):
        read_split(tmp_path / "split.csv", cells(1))


def test_a_table_of_cells_without_names_is_refused(written):
    path, _ = written
    with pytest.raises(ScDMCError, match="no column source_file"):
        read_split(path, cells(1).drop(columns="source_file"))


def test_a_split_of_the_same_labels_is_read_whatever_stands_for_a_missing_one(tmp_path):
    labels = np.array(["a", None, "b", ""], dtype=object)
    split = np.array(["train", "left_out", "test", "left_out"])
    write_split(tmp_path / "split.csv", cells(4), labels, split)
    same = np.array(["a", "", "b", None], dtype=object)
    assert read_split(tmp_path / "split.csv", cells(4), same).tolist() == split.tolist()


def test_a_split_that_was_made_from_another_column_is_refused(written):
    path, _ = written
    others = LABELS.copy()
    others[:100] = "islet"
    with pytest.raises(ScDMCError, match=r"100 cells \(a.h5ad:cell_0, .*'alpha' instead of 'islet'.*another column"):
        read_split(path, cells(len(LABELS)), others)


SIX_LABELS = np.array(["a", "b", "a", "b", "a", None], dtype=object)
SIX_PARTS = np.array(["train", "train", "validation", "test", "test", "left_out"])


def test_a_split_with_all_parts_labels_and_names_is_usable():
    require_usable_split(SIX_LABELS, SIX_PARTS, cells(6))


@pytest.mark.parametrize("missing", [None, "", np.nan])
def test_a_cell_of_a_part_without_a_label_is_counted_and_named(missing):
    labels = SIX_LABELS.copy()
    labels[2:4] = missing
    with pytest.raises(ScDMCError, match=r"2 cells \(a.h5ad:cell_2, a.h5ad:cell_3\) .* no label.*another column"):
        require_usable_split(labels, SIX_PARTS, cells(6))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_part_without_cells_is_refused_by_name(part):
    split = np.where(part == SIX_PARTS, "left_out", SIX_PARTS)
    with pytest.raises(ScDMCError, match=f"no {part} cells"):
        require_usable_split(SIX_LABELS, split, cells(6))


def test_a_split_with_one_type_to_train_on_is_refused():
    labels = SIX_LABELS.copy()
    labels[1] = "a"
    with pytest.raises(ScDMCError, match="one type only, 'a'"):
        require_usable_split(labels, SIX_PARTS, cells(6))


def test_a_split_of_cells_named_alike_is_refused_before_it_is_used():
    obs = cells(6)
    obs.loc[1, "cell_id"] = "cell_0"
    with pytest.raises(ScDMCError, match=r"1 cells \(a.h5ad:cell_0\) repeated"):
        require_usable_split(SIX_LABELS, SIX_PARTS, obs)
