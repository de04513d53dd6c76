"""One text per label, and none for the words that say that there is none."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from scdmc.cells.splits import make_split
from scdmc.errors import ScDMCError
from scdmc.labels import NO_LABEL_WORDS, NOT_A_TYPE_WORDS, is_missing, is_no_type, labels_of, type_labels
from scdmc.options import LabelOptions

NUMBERS = [7, 7, 10, -3, 0]
COLUMNS = {
    "text": [str(number) for number in NUMBERS],
    "text of floats": [f"{number}.0" for number in NUMBERS],
    "integers": NUMBERS,
    "small integers": np.array(NUMBERS, dtype=np.int8),
    "floats": np.array(NUMBERS, dtype=float),
    "single precision": np.array(NUMBERS, dtype=np.float32),
    "nullable integers": pd.array(NUMBERS, dtype="Int64"),
    "nullable floats": pd.array(NUMBERS, dtype="Float64"),
    "categories of integers": pd.Categorical(NUMBERS),
    "categories of floats": pd.Categorical(np.array(NUMBERS, dtype=float)),
    "categories of text": pd.Categorical([str(number) for number in NUMBERS]),
    "text of pandas": pd.array([str(number) for number in NUMBERS], dtype="string"),
    "a mixture": pd.Series([7, "7", 10.0, "-3.0", "0"], dtype=object),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_number_has_one_text_in_every_type(kind):
    assert labels_of(pd.Series(COLUMNS[kind])).tolist() == ["7", "7", "10", "-3", "0"]


@pytest.mark.parametrize(
    "values",
    [[True, False], np.array([1, 0], dtype=bool), pd.array([True, False], dtype="boolean"), ["True", "False"],
     ["TRUE", "FALSE"], pd.Categorical([True, False])],
)  # fmt: skip
def test_a_truth_value_has_one_text_in_every_type(values):
    assert labels_of(pd.Series(values)).tolist() == ["True", "False"]


def test_text_that_only_looks_like_a_number_stays():
    for texts in (["1.0", "1.1", "2.0"], ["007", "7"], ["7", "beta"], ["1e3", "x"], ["T cell", "B"]):
        assert labels_of(pd.Series(texts)).tolist() == texts
    assert labels_of(pd.Series([0.5, 2.0])).tolist() == ["0.5", "2"]
    assert labels_of(pd.Series(np.array([0.1], np.float32))).tolist() == ["0.1"]


@pytest.mark.parametrize("word", sorted(NO_LABEL_WORDS - {""}))
@pytest.mark.parametrize("change", [str, str.upper, str.capitalize, lambda word: f" {word} "])
def test_a_word_for_no_label_is_none_and_is_named_and_counted(word, change, caplog):
    word = change(word)
    column = pd.Series(["beta", word, "alpha", word, None], name="type")
    assert labels_of(column).tolist() == ["beta", None, "alpha", None, None]
    assert is_missing(column.to_numpy()).tolist() == [False, True, False, True, True]
    assert f"obs['type']: 2 cells hold a word for no label, {word!r} (2)" in caplog.text
    split = make_split(np.array(["a"] * 10 + ["b"] * 10 + [word] * 10, dtype=object))
    assert (split == "left_out").tolist() == [False] * 20 + [True] * 10


def test_labels_of_no_type_are_left_out_named_and_counted_apart_from_missing_ones(caplog):
    words = ["Doublets", "T/B doublet", "low_quality", "Low-Quality cells", "Debris", "OTHER", "unknown cells", "Mixed"]
    types = ["T cell", "Others-like", "mixed lineage", "brother", "dead-end cell", "unknown type 1", "cell"]
    column = pd.Series([*words, "doublet_1", "beta", "unassigned", *types], name="type")
    labels, left_out = type_labels(column)
    assert labels.tolist() == [None] * len(words) + [None, "beta", None, *types]
    assert left_out == dict.fromkeys([*words, "doublet_1"], 1)
    assert "1 cells hold a word for no label, 'unassigned' (1)" in caplog.text
    assert "9 cells have a label of no type, 'Doublets' (1), 'T/B doublet' (1)" in caplog.text
    assert not [word for word in NOT_A_TYPE_WORDS if not is_no_type(word.upper())]


def test_a_user_decides_which_labels_are_types():
    column = pd.Series(["other", "other", "doublet", "B?", "T", "T", None], name="type")
    labels, left_out = type_labels(column, LabelOptions(ignore_labels=["B?"], keep_labels=["other"]))
    assert labels.tolist() == ["other", "other", None, None, "T", "T", None]
    assert left_out == {"doublet": 1, "B?": 1}
    for options, message in (
        (LabelOptions(["T"], ["T"]), "both name 'T'"),
        (LabelOptions(["t"]), r"--ignore_labels 't': obs\['type'\] has no such label; it has B\?, T, doublet, other"),
        (LabelOptions(keep_labels=["unassigned"]), "'unassigned': this word says that there is no label"),
    ):
        with pytest.raises(ScDMCError, match=message):
            type_labels(column, options)


def test_labels_that_differ_in_case_or_blanks_only_are_named(caplog):
    column = pd.Series(["T cell", "t cell", "Tcell", "B cell", "B cell "], name="type")
    assert labels_of(column).tolist() == column.tolist()
    assert "'T cell' (1) and 'Tcell' (1) and 't cell' (1)" in caplog.text
    assert "'B cell' (1) and 'B cell ' (1)" in caplog.text
    caplog.clear()
    labels_of(pd.Series(["T cell", "B cell"], name="type"))
    assert not caplog.text


def test_the_files_of_a_folder_are_split_by_the_same_labels(load_script, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    numbers = np.arange(40) % 2 + 7
    kinds = {"a": numbers, "b": numbers.astype(float), "c": numbers.astype(str), "d": pd.Categorical(numbers * 1.0)}
    for name, values in kinds.items():
        obs = pd.DataFrame({"cluster": values}, index=[f"{name}{row}" for row in range(40)])
        anndata.AnnData(scipy.sparse.csr_matrix(np.ones((40, 3), np.float32)), obs).write_h5ad(folder / f"{name}.h5ad")
    split = tmp_path / "split.csv"
    main = load_script("prepare/split_cells.py").main
    assert main(["--data_path", str(folder), "--label_key", "cluster", "--output_file", str(split)]) == 0
    table = pd.read_csv(split, dtype=str)
    assert table["label"].tolist() == numbers.astype(str).tolist() * 4
    assert table.groupby("label")["split"].apply(lambda parts: (parts == "train").mean()).between(0.65, 0.75).all()
