"""The study of what matters: its variants are runs that can start, its table only grows, and what is wrong is named."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from scdmc.annotation.options import FINE_TUNED
from scdmc.errors import ScDMCError
from scdmc.studies.ablation import HEADLINES, HELD_OUT, headline_scores, study_markdown
from scdmc.studies.variants import VARIANTS, training_flags

pytestmark = pytest.mark.slow

EMBEDDINGS_OF_BOTH = {"cls", "weighted", "cls of the rank stream"}


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("benchmarks/ablation.py")


@pytest.fixture(scope="module")
def dataset(tokenize_islets):
    """The islet cells of the tests, tokenized by the script."""
    return tokenize_islets("--model_input_size", 64)


@pytest.fixture
def study(script, dataset, islets_path, tmp_path):
    """A function that runs the study of some variants, in one folder; returns status and that folder."""

    def run(*variants, **flags):
        defaults = {"types_data_path": islets_path, "batches_data_path": islets_path, "budget": "tiny", "num_gpus": 0}
        options = {"dataset_path": dataset, "output_dir": tmp_path / "study", **defaults, **flags}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return script.main([*words, "--variants", *variants]), tmp_path / "study"

    return run


def test_the_study_trains_judges_and_appends(study, capfd):
    status, folder = study("recipe")
    assert status == 0
    first = pd.read_csv(folder / "study.csv")
    assert set(first["cells_seen"]) == {8}
    probed = first[first["judge"] == "probe"]
    assert set(probed["embedding"]) == EMBEDDINGS_OF_BOTH
    assert probed["value"].between(0, 1).all()
    assert set(first["metric"]) >= {
        *("rank_nats_below_unigram", "expression_nats_below_guessing", "contrastive_accuracy"),
        *("probe_macro_f1", "neighbours_macro_f1", "AvgBIO", "AvgBATCH", "overall"),
    }
    model = folder / "models" / "recipe-tiny-42"
    assert not (model / "checkpoints").exists()
    trained, scored = ((model / name).stat().st_mtime_ns for name in ("model.safetensors", "scores.csv"))

    capfd.readouterr()
    assert study("recipe", "expression_only", judges="probe")[0] == 0
    printed = capfd.readouterr().out
    assert re.search(r"\| recipe \| 1 \| 8 \| \d+\.\d \|", printed)
    assert re.search(r"\| expression_only \| 1 \| 8 \| \d+\.\d \| – \| – \|", printed)  # the probe only was asked for
    assert [(model / name).stat().st_mtime_ns for name in ("model.safetensors", "scores.csv")] == [trained, scored]
    both = pd.read_csv(folder / "study.csv")
    kept = both[both["variant"] == "recipe"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, first)
    assert set(both.loc[both["variant"] == "expression_only", "embedding"]) == {"cls", "weighted"}
    assert {path.name for path in folder.iterdir()} == {"models", "study.csv", "study.md", "study.png", "study.pdf",
                                                        "scaling.png", "scaling.pdf"}  # fmt: skip

    # What is judged later is added; a run on other data is refused.
    assert study("recipe", judges="few_labels", label_fractions=0.5)[0] == 0
    added = pd.read_csv(folder / "study.csv").query("judge == 'few_labels'")
    assert set(added["embedding"]) == {"all layers", "gene vectors"}
    assert set(added["metric"]) == {"macro_f1_50"}
    assert added["value"].between(0, 1).all()
    assert study("expression_only", judges="mlm")[0] == 0
    added = pd.read_csv(folder / "study.csv").query("variant == 'expression_only' and judge == 'mlm'")
    assert set(added["metric"]) == {"expression_nats_below_unigram", "expression_nats_below_guessing"}
    facts = json.loads((model / "training.json").read_text())
    (model / "training.json").write_text(json.dumps(facts | {"dataset": "other.parquet"}))
    assert study("recipe")[0] == 2
    assert "recipe-tiny-42 was trained on other.parquet" in capfd.readouterr().err


def test_a_run_that_fails_is_named_with_its_reason(study, capfd):
    status, folder = study("sized", leave_out="dataset=nothing")
    assert status == 2
    errors = capfd.readouterr().err
    assert "sized-tiny-42 failed: scDMC_pretrain.py ended with status 2" in errors
    assert "no column 'dataset'" in errors
    assert "error: 1 of 1 runs failed" in errors
    assert not (folder / "study.csv").exists()


@pytest.mark.parametrize(
    ("flag", "known"),
    [("variants", "sized, random_start, published"), ("judges", "mlm, probe, integration, few_labels")],
)
def test_an_unknown_name_is_an_error_that_names_the_known_ones(script, tmp_path, capfd, flag, known):
    assert script.main(["--dataset_path", "x", "--output_dir", str(tmp_path / "study"), f"--{flag}", "sizd"]) == 2
    assert f"--{flag} sizd: there are {known}" in capfd.readouterr().err
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("budget", ["800", "48", "tiny"])
def test_the_flags_of_every_variant_are_flags_of_pre_training(load_script, budget):
    parse = load_script("pretrain/scDMC_pretrain.py").parse_arguments
    parsed = {
        name: parse(["--dataset_path", "x", "--output_dir", "y", *training_flags(name, budget, 7)]) for name in VARIANTS
    }
    assert all(arguments.seed == 7 for arguments in parsed.values())
    trained = parsed["sized"]
    assert trained.max_steps == {"800": 50, "48": 3, "tiny": 2}[budget]
    assert parsed["batch_64"].max_steps == {"800": 12, "48": 1, "tiny": 2}[budget]
    assert parsed["untrained"].max_steps == 1
    assert (parsed["sized"].gene_start, parsed["random_start"].gene_start) == ("coexpression", "random")
    assert parsed["frozen_momentum"].momentum == 1
    same = {name for name, arguments in parsed.items() if vars(arguments) == vars(trained)}
    sizes = {"batch_8", "batch_64", "context_256", "context_1024"} if budget == "tiny" else set()
    assert same == {"sized", "no_medians"} | sizes


def test_a_budget_of_minutes_is_refused():
    with pytest.raises(ScDMCError, match="--budget 5 cells is less than half a batch of sized"):
        training_flags("sized", "5", 1)


def test_the_flags_of_fine_tuning_are_flags_of_its_script(script, load_script, tmp_path):
    fine_tuning = load_script("downstream_tasks/downstream_tasks.py")
    arguments = script.parse_arguments(["--dataset_path", "x", "--output_dir", "y", "--label_key", "type"])
    run = script.Run("rank_only", "500", 3, tmp_path)
    flags = script.fine_tuning_flags(run, tmp_path / "cells.h5ad", 0.05, arguments)
    parsed = fine_tuning.parse_arguments([*flags, "--output_dir", "z"])
    assert (parsed.label_fraction, parsed.stream, parsed.label_key, parsed.seed) == (0.05, "rank", "type", 3)
    assert FINE_TUNED == script.FINE_TUNED


def test_a_variant_that_needs_other_data_is_left_out_without_them(script, tmp_path):
    command = [
        "--dataset_path",
        "x",
        "--output_dir",
        str(tmp_path),
        "--variants",
        "sized",
        "no_medians",
        "--seeds",
        "2",
    ]
    runs = script.planned_runs(script.parse_arguments(command))
    assert [run.folder.name for run in runs] == ["sized-4000-42", "sized-4000-43"]
    with_data = script.parse_arguments([*command, "--dataset_without_medians", "y", "--budget", "250"])
    assert [run.folder.name for run in script.planned_runs(with_data)][:2] == ["sized-250-42", "no_medians-250-42"]


def test_the_table_has_means_over_seeds_and_the_best_of_each_budget():
    rows = [
        {"variant": variant, "budget": budget, "seed": seed, "cells_seen": 1000.0, "minutes": 1.5, "data": HELD_OUT,
         "judge": "mlm", "embedding": "none", "metric": HEADLINES[0][2], "value": value + seed}
        for budget, values in (("2000", {"untrained": 0.0, "sized": 0.5}), ("500", {"sized": 0.1}))
        for variant, value in values.items()
        for seed in (1, 2)
    ]  # fmt: skip
    rows.append(rows[0] | {"metric": "another", "value": np.nan})
    table = study_markdown(pd.DataFrame(rows))
    assert table.index("Budget: 500 cells") < table.index("Budget: 2,000 cells")
    assert "| sized | 2 | 1,000 | 1.5 | **2.000 ± 0.707** |\n| untrained | 2 | 1,000 | 1.5 | 1.500 ± 0.707 |" in table
    assert "| sized | 2 | 1,000 | 1.5 | **1.600 ± 0.707** |" in table
    assert list(headline_scores(pd.DataFrame(rows))["variant"].unique()) == ["sized", "untrained"]
