"""The benchmark of labels: rows of every method, a run that is there is not repeated, and a table at the end."""

import anndata
import numpy as np
import pandas as pd
import pytest

from scdmc.annotation import fine_tuning
from scdmc.tokens.medians import GeneMedians
from tests.small_models import save_small_model

pytestmark = pytest.mark.slow


@pytest.fixture
def benchmark(load_script, tmp_path, islets_path):
    """A function that runs the benchmark on the 300 cells."""
    adata = anndata.read_h5ad(islets_path)
    adata.obs["batch"] = np.resize(["one", "two", "two"], adata.n_obs)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    model = save_small_model(tmp_path / "model", 64, GeneMedians({}, source="a test"))
    main = load_script("benchmarks/annotation.py").main

    def run(*more):
        command = ["--model", model, "--num_gpus", 0, "--seeds", 1, "--output_file", tmp_path / "rows.csv", *more]
        assert main([str(word) for word in command]) == 0
        return pd.read_csv(tmp_path / "rows.csv")

    return run


def test_rows_grow_by_what_is_not_there_and_a_table_ends_the_run(benchmark, tmp_path, capsys):
    cells = tmp_path / "cells.h5ad"
    within = benchmark("--within", cells, "--label_fractions", 0.5)
    assert within["macro_f1"].between(0, 1).all()
    assert {"G: logistic regression on genes", "L: untrained vectors", "scdmc annotate"} <= set(within["method"])
    printed = capsys.readouterr().out
    assert "| within cells.h5ad, 50% of the labels, scdmc annotate |" in printed
    both = benchmark("--within", cells, "--label_fractions", 0.5, "--batches", cells)
    pd.testing.assert_frame_equal(both[: len(within)], within)
    assert set(both["new"][len(within) :]) == {"cells.h5ad one", "cells.h5ad two"}


def test_the_fine_tuned_view_comes_where_it_is_asked_for_in_the_place_of_older_rows(
    benchmark, tmp_path, capsys, monkeypatch
):
    for name in ("FEWEST_EPOCHS", "MOST_EPOCHS"):
        monkeypatch.setattr(fine_tuning, name, 1)
    few = anndata.read_h5ad(tmp_path / "cells.h5ad")
    few[few.obs["cell_type"].isin(["beta", "ductal"])][:90].copy().write_h5ad(tmp_path / "cells.h5ad")
    command = ("--within", tmp_path / "cells.h5ad", "--label_fractions", 0.5)
    before = benchmark(*command).set_index("method")
    rows = benchmark(*command, "--finetuned")
    after = rows.set_index("method")
    assert not rows["method"].duplicated().any()
    assert set(after.index) - set(before.index) == {"F: scDMC fine-tuned", "G+P+F", "G+P+E+F"}
    pd.testing.assert_frame_equal(after.loc[before.index], before)
    assert "finetuned=" in after.loc["G+P+E+F", "weights"]
    assert "fine-tuning 6 times" in capsys.readouterr().err
    pd.testing.assert_frame_equal(benchmark(*command, "--finetuned"), rows)  # nothing is trained again
    assert "fine-tuning" not in capsys.readouterr().err
