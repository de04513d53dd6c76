"""The HTML page: complete in itself, escaped, with tables as they should read."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from scdmc.errors import ScDMCError
from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance

LEAD = Verdict("good", "All is well", ())


PNG = b"\x89PNG\r\n\x1a\n" + b"not much of a picture"


class Cells(HTMLParser):
    """Text and class of each table cell."""

    def __init__(self):
        super().__init__()
        self.cells = []
        self.inside = False

    def handle_starttag(self, tag, attrs):
        self.inside = tag in ("th", "td")
        if self.inside:
            self.cells.append(["", dict(attrs).get("class")])

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.cells[-1][0] += data


def cells_of(page):
    """Those of all tables but the last section's, which says how the page was made."""
    parser = Cells()
    parser.feed(page.partition(">How it was made</h2>")[0])
    return [tuple(cell) for cell in parser.cells]


def written(tmp_path, *sections):
    write_report(tmp_path / "report.html", "Islets", sections, LEAD, Provenance())
    return (tmp_path / "report.html").read_text(encoding="utf8")


def test_contents_lead_to_the_sections_in_their_order(tmp_path):
    page = written(tmp_path, Section("Annotation"), Section("Integration"))
    links = re.findall(r'<li><a href="#(.*?)">(.*?)</a>', page)
    anchors = re.findall(r'<section id="(.*?)">\s*<h2>(.*?)</h2>', page)
    assert links == anchors == [
        ("section-1", "Annotation"), ("section-2", "Integration"), ("section-3", "How it was made")
    ]  # fmt: skip


def test_text_is_escaped_and_blank_lines_make_paragraphs(tmp_path):
    page = written(tmp_path, Section("a < b", "First <script>line\nand on.\n\n\nSecond & last.\n"))
    assert re.findall(r"<p>(.*?)</p>", page) == ["First &lt;script&gt;line and on.", "Second &amp; last."]
    assert page.count("<script") == 2  # the summary and that of the tables
    assert "<h2>a &lt; b</h2>" in page


def test_tables_have_rounded_right_aligned_numbers(tmp_path):
    table = pd.DataFrame(
        {"class": ["<b>", "c"], "f1": [0.98765, np.nan], "cells": [1234, 5], "p": [1e-12, 0.0], "found": [True, False]}
    )
    cells = cells_of(written(tmp_path, Section("s", tables=[("Scores", table)])))
    assert [text for text, _ in cells] == [
        *("class", "f1", "cells", "p", "found"),
        *("<b>", "0.988", "1,234", "1.00e-12", "True"),
        *("c", "–", "5", "0", "False"),
    ]
    assert [kind for _, kind in cells[:5]] == [kind for _, kind in cells[5:10]] == [None, *["number"] * 3, None]


def test_a_column_has_one_format(tmp_path):
    table = pd.DataFrame(
        {"p": [0.5, 3e-5], "score": [0.5, 1.0], "whole": [9.0, 1200.0], "large": [1234.56, 0.5], "none": [np.nan] * 2}
    )
    assert [text for text, _ in cells_of(written(tmp_path, Section("s", tables=[("", table)])))][5:] == [
        *("5.00e-01", "0.500", "9", "1,234.6", "–"),
        *("3.00e-05", "1.000", "1,200", "0.5", "–"),
    ]


def test_a_named_index_becomes_the_first_column_and_row_numbers_do_not(tmp_path):
    table = pd.DataFrame({"ARI": [0.5]}, index=pd.Index(["PCA"], name="method"))
    assert [text for text, _ in cells_of(written(tmp_path, Section("s", tables=[("", table)])))] == [
        *("method", "ARI"),
        *("PCA", "0.500"),
    ]
    plain = table.reset_index(drop=True)
    assert [text for text, _ in cells_of(written(tmp_path, Section("s", tables=[("", plain)])))] == ["ARI", "0.500"]


def test_columns_of_two_levels_have_one_heading(tmp_path):
    table = pd.DataFrame({("ARI", "mean"): [0.5], ("ARI", "sd"): [0.1]}, index=["PCA"])
    texts = [text for text, _ in cells_of(written(tmp_path, Section("s", tables=[("", table)])))]
    assert texts == ["", "ARI mean", "ARI sd", "PCA", "0.500", "0.100"]


def test_wide_tables_of_a_section_that_folds_name_their_values(tmp_path):
    wide = pd.DataFrame({"method": ["PCA"], "a < b": [0.5], "c": [0.6], "d": [0.7]})
    tables = [("wide", wide), ("narrow", wide[["method", "c"]])]
    page = written(tmp_path, Section("s", tables=tables, folds=True))
    assert re.findall(r'<div class="wide ?(.*?)"', page)[:2] == ["folds", ""]
    assert re.findall(r'data-name="(.*?)">(.*?)</td>', page)[:3] == [
        ("method", "PCA"), ("a &lt; b", "0.500"), ("c", "0.600")
    ]  # fmt: skip
    scrolls = written(tmp_path, Section("s", tables=tables))
    assert re.findall(r'<div class="wide ?(.*?)"', scrolls)[:2] == ["pinned", ""]
    assert "data-name=" not in scrolls


def test_figures_are_inside_the_page_and_nothing_is_fetched(tmp_path):
    (tmp_path / "map.png").write_bytes(PNG)
    page = written(tmp_path, Section("s", figures=[('The "map"', tmp_path / "map.png")]))
    (source, caption) = re.search(r'<img[^>]* src="data:image/png;base64,(.*?)" alt="(.*?)">', page).groups()
    assert base64.b64decode(source) == PNG
    assert caption == "The &#34;map&#34;"
    assert not re.search(r"https?://|<script src|<link|url\(", page)


def test_a_verdict_stands_on_top_with_its_numbers_and_the_tables_can_be_sorted(tmp_path):
    number = KeyNumber("F1 <", "0.9", "0.8 without")
    lead = Verdict("caution", "Look & see", ("Why.", "Why more."), (number,))
    section = Section("s", points=["first <point>"], tables=[("t", pd.DataFrame({"a": range(101)}))])
    write_report(tmp_path / "report.html", "Islets", [section], lead, Provenance())
    page = (tmp_path / "report.html").read_text(encoding="utf8")
    verdict = re.search(r'<div class="verdict caution">(.*?)</div>', page, re.S)[1]
    assert verdict.split("\n") == ["", "<strong>Look &amp; see</strong>", "Why. Why more.", ""]
    assert "<dt>F1 &lt;</dt>" in page
    assert page.index("verdict caution") < page.index("<nav")
    assert "<li>first &lt;point&gt;</li>" in page
    assert "(printed: the first 100 of 101 rows)" in page
    assert page.count("<script>") == 1
    assert not re.search(r"https?://|<link|url\(", page)


def test_a_figure_is_as_wide_as_its_text_needs_and_says_what_it_was_told_to_say(tmp_path):
    header = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + (1600).to_bytes(4, "big") + (800).to_bytes(4, "big")
    (tmp_path / "map.png").write_bytes(header)
    page = written(tmp_path, Section("s", figures=[("A map", tmp_path / "map.png", "Beta is largest")]))
    assert '<figure style="max-width: 1000px">' in page
    assert 'alt="Beta is largest">' in page
    assert "<figcaption>A map</figcaption>" in page


def test_text_that_no_file_can_hold_is_replaced(tmp_path):
    assert "half ? character" in written(tmp_path, Section("half \udce9 character"))


def test_an_absent_figure_is_refused_and_no_page_is_left(tmp_path):
    with pytest.raises(ScDMCError, match=r"map\.png: no such file"):
        written(tmp_path, Section("s", figures=[("map", tmp_path / "map.png")]))
    assert list(tmp_path.iterdir()) == []


def test_a_pdf_is_no_figure_for_a_page(tmp_path):
    (tmp_path / "map.pdf").write_bytes(b"%PDF-1.4")
    with pytest.raises(ScDMCError, match="is not a PNG"):
        written(tmp_path, Section("s", figures=[("map", tmp_path / "map.pdf")]))
