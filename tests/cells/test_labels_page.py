"""The page of labels: how sure they are, and no word of how right, which nothing measured."""

import re

import numpy as np
import pandas as pd
import pytest

from scdmc.cells.labels_page import LabelledFile, verdict_of, write_labels_page
from scdmc.reports.page import KeyNumber
from scdmc.reports.provenance import Provenance


def labelled_file(probability, labels=("beta", "alpha", "beta", "Unknown"), **more):
    return LabelledFile("new.h5ad", "the classifier islets", 3, np.array(labels, object), np.array(probability),
                        "Unknown", **more)  # fmt: skip


@pytest.mark.parametrize(
    ("probability", "level", "first"),
    [
        ([0.9, 0.8, 0.6, 0.4], "caution", "25% of the cells have a probability below 0.5"),
        ([0.9, 0.8, 0.6, np.nan], "caution", "25% of the cells have no label."),
    ],
)
def test_doubtful_cells_and_cells_without_a_label_ask_for_a_look(probability, level, first):
    verdict = verdict_of(labelled_file(probability))
    assert verdict.level == level
    assert verdict.reasons[0].startswith(first)
    assert verdict.headline == "3 of 4 cells got one of 2 labels"


def test_sure_labels_are_good_and_still_say_that_nothing_measured_them():
    verdict = verdict_of(labelled_file([0.9, 0.8, 0.6, 0.7], ("beta", "alpha", "beta", "beta")))
    assert verdict.level == "good"
    assert "no score says how often these labels are right" in verdict.reasons[0]
    assert [number.value for number in verdict.numbers] == ["0.75", "0.0%", "0.0%"]
    assert verdict.numbers[0].beside == "0.33 for a guess among 3"


def test_a_score_on_other_cells_stands_among_the_numbers():
    measured = KeyNumber("Macro-F1 on held-out reference cells", "0.9", "accuracy 0.9")
    assert verdict_of(labelled_file([0.9, 0.8, 0.6, 0.7], on_others=measured)).numbers[-1] == measured


def test_the_page_has_the_largest_label_first_and_a_map_only_where_there_is_one(tmp_path):
    obs = pd.DataFrame({"batch": list("xyxy")}, index=list("abcd"))
    place = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [np.nan, np.nan]])
    labelled = labelled_file([0.9, 0.8, 0.3, np.nan], obs=obs, coordinates=place)
    write_labels_page(tmp_path / "map.html", labelled, Provenance(seed=0))
    write_labels_page(tmp_path / "none.html", labelled_file([0.9, 0.8, 0.3, np.nan]), Provenance())
    pages = [(tmp_path / name).read_text() for name in ("map.html", "none.html")]
    assert ['class="points"' in page for page in pages] == [True, False]
    for page in pages:
        assert "<h1>Labels of new.h5ad by the classifier islets</h1>" in page
        assert re.findall(r"<td>(.*?)</td>", page)[:3] == ["beta", "Unknown", "alpha"]
