"""Tables that people open in a spreadsheet, and tables that are read back."""

import numpy as np
import pandas as pd

from scdmc.cells.splits import read_split, write_split
from scdmc.reports.tables import latex, markdown, without_formulas, write_csv

FORMULAS = ["=cmd|'/c calc'!A1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "=", "-", "+nan x"]
HARMLESS = ["beta", "CD8+", "a=b", "'=1", "", "-1.5", "+2e3", "1", "-inf"]


def test_no_text_is_a_formula_and_nothing_else_changes(tmp_path):
    texts = [*FORMULAS, *HARMLESS, None]
    numbers = -np.arange(len(texts), dtype=float)
    table = pd.DataFrame({"type": texts, "=name": texts, "n": numbers, "kind": pd.Categorical(texts)}, index=texts)
    before = table.copy()
    shown = without_formulas(table)
    pd.testing.assert_frame_equal(table, before)
    expected = [*("'" + text for text in FORMULAS), *HARMLESS, None]
    assert list(shown.columns) == ["type", "'=name", "n", "kind"]
    for column in ("type", "'=name", "kind"):
        assert [None if pd.isna(value) else value for value in shown[column]] == expected
    assert list(shown.index)[:-1] == expected[:-1]
    assert shown["n"].tolist() == numbers.tolist()
    write_csv(tmp_path / "t.csv", table)
    read = pd.read_csv(tmp_path / "t.csv", keep_default_na=False, dtype=str)
    assert read["type"].tolist() == [*expected[:-1], ""]


def test_labels_of_a_split_come_back_as_they_were(tmp_path):
    labels = np.array([*FORMULAS, *HARMLESS], dtype=object)
    obs = pd.DataFrame({"source_file": "a.h5ad", "cell_id": [f"={number}" for number in range(len(labels))]})
    parts = np.array(["train", "validation", "test"] * (len(labels) // 3), dtype=object)
    write_split(tmp_path / "split.csv", obs, labels, parts)
    assert read_split(tmp_path / "split.csv", obs, labels).tolist() == parts.tolist()


def test_names_of_methods_cannot_become_latex_or_html():
    texts = pd.DataFrame([["1"]], ["$x_1$ \\input{a} ~^"], ["a & b"])
    page = latex(texts, np.array([[False]]))
    assert r"\$x\_1\$ \textbackslash{}input\{a\} \textasciitilde{}\textasciicircum{} & 1 \\" in page
    assert "| <script> |" not in markdown(pd.DataFrame([["1"]], ["<script>"], ["m"]), np.array([[False]]))
    assert "a \\| b" in markdown(pd.DataFrame([["1"]], ["a | b"], ["m"]), np.array([[False]]))
