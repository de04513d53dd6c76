"""Rows of the paper's tables: a failure stays, seeds are counted, and rows of unknown origin are refused."""

import json

import pandas as pd
import pytest

from scdmc.errors import ScDMCError
from scdmc.studies.paper.options import CLUSTERING, INTEGRATION, METRICS
from scdmc.studies.paper.rows import PaperRows
from scdmc.studies.paper.tables import score_table

SCORES = dict.fromkeys(METRICS[CLUSTERING], 0.5)
FACTS, SUMS = {"model": ["a"], "dtype": "auto"}, {"bmmc": "1", "immune": "2"}


def add(rows, dataset, method, seed):
    rows.add(dataset, method, seed, INTEGRATION, {method: SCORES})


@pytest.fixture
def folder(tmp_path):
    rows = PaperRows(tmp_path)
    rows.require_same_run(FACTS, SUMS)
    for dataset in SUMS:
        add(rows, dataset, "PCA", 42)
    return tmp_path


def test_a_failure_of_one_seed_stays_when_another_works(tmp_path):
    rows = PaperRows(tmp_path)
    rows.add_failure("bmmc", "Harmony", 42, "it cannot")
    rows.add_failure("bmmc", "Harmony", 43, "nor now")
    for seed in (42, 43, 44):
        add(rows, "bmmc", "PCA", seed)
    add(rows, "bmmc", "Harmony", 44)
    assert score_table(rows, CLUSTERING, "bmmc").notes == [
        "Harmony failed: with seed 42: it cannot; with seed 43: nor now",
        "Harmony: only 1 of 3 seeds (44)",
    ]
    assert score_table(PaperRows(tmp_path), CLUSTERING, "bmmc").notes == ["Harmony: only 1 of 3 seeds (44)"]


@pytest.mark.parametrize("facts", [{"model": ["b"], "dtype": "auto"}, {**FACTS, "dtype": "float16"}, {**FACTS, "x": 1}])
def test_rows_of_another_run_are_refused_and_stay_as_they_are(folder, facts):
    before = (folder / "rows.csv").read_bytes()
    for forgotten in ((), ("bmmc",)):
        with pytest.raises(ScDMCError, match="with another"):
            PaperRows(folder, forgotten).require_same_run(facts, SUMS)
    assert (folder / "rows.csv").read_bytes() == before
    assert json.loads((folder / "run.json").read_text()) == {**FACTS, "datasets": SUMS}
    PaperRows(folder, tuple(SUMS)).require_same_run(facts, SUMS)  # nothing is left that could be mixed
    assert not (folder / "rows.csv").exists()


def test_rows_of_which_nobody_knows_the_model_are_refused(folder):
    (folder / "run.json").unlink()
    with pytest.raises(ScDMCError, match=r"without run\.json"):
        PaperRows(folder).require_same_run(FACTS, SUMS)
    assert not (folder / "run.json").exists()


def test_only_the_data_sets_that_are_forgotten_may_have_changed(folder):
    with pytest.raises(ScDMCError, match="with another bmmc"):
        PaperRows(folder).require_same_run(FACTS, {"bmmc": "new"})
    rows = PaperRows(folder, ("bmmc",))
    rows.require_same_run(FACTS, {"bmmc": "new"})
    assert set(pd.read_csv(folder / "rows.csv")["dataset"]) == {"immune"}
    assert json.loads((folder / "run.json").read_text())["datasets"] == {"bmmc": "new", "immune": "2"}


def test_a_file_without_rows_gives_way_to_those_that_are_computed_anew(folder):
    (folder / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ScDMCError, match="--overwrite"):
        PaperRows(folder)
    PaperRows(folder, ("bmmc",)).require_same_run(FACTS, SUMS)
    assert not (folder / "rows.csv").exists()
