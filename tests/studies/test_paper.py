"""The paper's tables, on made-up files in the formats of the sources, by a random model: all runs, and goes on."""

import json
import os
import re
import shutil
import subprocess

import anndata
import numpy as np
import pandas as pd
import pytest

from scdmc.integration.methods import harmony
from scdmc.studies.paper.options import DATASETS, METRICS
from scdmc.studies.paper.splits import split_of_cells
from scdmc.studies.paper.tables import published_figures
from tests.conftest import ROOT
from tests.public_data.paper_sources import WRITERS
from tests.small_models import save_small_model

pytestmark = pytest.mark.slow


ANNOTATION_METHODS = {
    "scDMC, published setting", "scDMC, default", "scDMC without pre-training", "scDMC, views (scdmc annotate)",
    "logistic regression", "15-NN on PCA", "majority class",
}  # fmt: skip


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("benchmarks/paper.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("paper")


@pytest.fixture(scope="module")
def data_dir(load_script, folder):
    """All six data sets, from sources as they are."""
    main = load_script("prepare/paper_data.py").main
    for dataset, write in WRITERS.items():
        source = folder / "sources" / dataset
        source.mkdir(parents=True)
        write(source)
        words = ["--dataset", dataset, "--output_dir", folder / "data", "--source_directory", source]
        assert main([str(word) for word in words]) == 0
    return folder / "data"


@pytest.fixture(scope="module")
def model(folder):
    return save_small_model(folder / "model")


@pytest.fixture(scope="module")
def run(script, data_dir, model):
    """A function that runs the benchmark as small as it gets."""

    def of(output_dir, *words):
        paths = ["--model", model, "--data_dir", data_dir, "--output_dir", output_dir]
        return script.main([str(word) for word in (*paths, "--tiny", "--num_gpus", "0", *words)])

    return of


@pytest.fixture(scope="module")
def tables(run, folder, one_thread):
    """The folder of a whole run."""
    assert run(folder / "tables") == 0
    return folder / "tables"


def test_every_task_has_a_table_a_page_and_all_methods(tables):
    for task, datasets in DATASETS.items():
        table = pd.read_csv(tables / f"{task}.csv")
        assert set(table["dataset"]) == set(datasets)
        assert set(table["metric"]) == set(METRICS[task])
        assert table["mean"].between(-1, 1).all()
        methods = set(table["method"])
        if task == "annotation":
            assert methods >= ANNOTATION_METHODS
        else:
            assert methods >= {"scDMC, published setting", "scDMC, default", "PCA, not integrated", "Harmony"}
        page = (tables / f"{task}.report.html").read_text()
        assert "tiny run" in page
        for name in datasets:
            assert f"{name}, {task}" in page
            assert f"{name}, {task}" in (tables / f"{task}.md").read_text()


def test_others_have_their_figures_beside_ours_and_the_papers_column_is_empty(tables):
    for task, datasets in DATASETS.items():
        text = (tables / f"{task}.md").read_text()
        rows = [line for line in text.splitlines() if line.count("|") > 4 and not line.startswith("|---")]
        heads = [line for line in rows if line.startswith("| score |")]
        assert len(heads) == len(datasets)
        assert all(line.endswith("| the paper |") for line in heads)
        for metric in METRICS[task]:
            of_metric = [line for line in rows if line.startswith(f"| {metric} |")]
            assert len(of_metric) == len(datasets)
            assert all(line.endswith("| – |") for line in of_metric)  # until somebody reads it off
    accuracy = next(line for line in (tables / "annotation.md").read_text().splitlines() if "| 0.766 |" in line)
    assert accuracy.startswith("| accuracy |")


def test_every_published_figure_says_where_it_stands():
    figures = published_figures()
    assert figures[["source", "note", "cited"]].notna().all().all()
    assert not figures.duplicated(["task", "dataset", "method", "cited", "metric"]).any()
    assert figures["value"].between(0, 1).all()
    assert not figures["method"].str.startswith("scDMC").any()
    for row in figures.itertuples():
        assert row.dataset in DATASETS[row.task]
        assert row.metric in METRICS[row.task]


def test_rows_that_are_there_are_not_computed_again(run, tables, monkeypatch):
    before = (tables / "rows.csv").read_bytes()

    def never(*_):
        raise AssertionError("a row was computed again")

    monkeypatch.setattr("scdmc.studies.paper.annotation.fine_tuned_run", never)
    monkeypatch.setattr("scdmc.studies.paper.annotation.baseline_predictions", never)
    monkeypatch.setattr("scdmc.studies.paper.integration.score_embedding", never)
    assert run(tables) == 0
    assert (tables / "rows.csv").read_bytes() == before


def test_a_run_that_was_cut_off_goes_on_with_the_rows_that_are_missing(run, tables, folder):
    whole = pd.read_csv(tables / "rows.csv")
    shutil.copytree(tables, folder / "cut")
    is_lost = (whole["dataset"] == "zheng68k") & whole["run"].isin(["default", "baselines"])
    whole[~is_lost].to_csv(folder / "cut" / "rows.csv", index=False)
    assert run(folder / "cut", "--datasets", "zheng68k", "--tasks", "annotation") == 0
    again = pd.read_csv(folder / "cut" / "rows.csv")
    keys = ["dataset", "method", "metric", "seed", "value"]
    pd.testing.assert_frame_equal(
        again[keys].sort_values(keys, ignore_index=True), whole[keys].sort_values(keys, ignore_index=True)
    )


def test_rows_of_another_model_or_of_other_data_are_not_mixed(run, tables, folder, capsys):
    shutil.copytree(tables, folder / "other")
    path = folder / "other" / "run.json"
    for name in ("model", "dtype", "token_dictionary_file", "ms"):
        content = json.loads((tables / "run.json").read_text())
        (content["datasets"] if name == "ms" else content)[name] = "another"
        path.write_text(json.dumps(content))
        assert run(folder / "other", "--datasets", "ms", "--tasks", "annotation") == 2
        said = capsys.readouterr().err
        assert re.search(rf"error: .* holds rows of .* with another {name}; .*--overwrite", said)


def test_a_file_that_is_no_table_of_rows_is_one_line(run, tables, folder, capsys):
    shutil.copytree(tables, folder / "odd")
    (folder / "odd" / "rows.csv").write_text("a,b\n1,2\n")
    assert run(folder / "odd", "--datasets", "ms", "--tasks", "annotation") == 2
    assert "holds no rows of this benchmark" in capsys.readouterr().err


def test_a_method_that_fails_is_named_and_takes_no_other_with_it(run, folder, monkeypatch, capsys, one_thread):
    def broken(embedding, batch, seed):
        if seed == 42:
            raise ValueError("it cannot")
        return harmony(embedding, batch, seed)

    monkeypatch.setattr("scdmc.integration.methods.harmony", broken)
    monkeypatch.setattr("scdmc.integration.rows.harmony", broken)
    monkeypatch.setattr("scdmc.studies.paper.integration.METHODS", ("scdmc", "pca", "harmony"))
    monkeypatch.setattr("scdmc.integration.adapted_rows.harmony", broken)
    words = ["--datasets", "bmmc", "--tasks", "clustering", "--seeds"]
    assert run(folder / "failing", *words, "2") == 1  # though it works with the second seed
    text = (folder / "failing" / "clustering.md").read_text()
    assert "Harmony failed: with seed 42: it cannot" in text
    assert "Harmony: only 1 of 2 seeds (43)" in text
    assert "Harmony: only 1 of 2 seeds (43)" in capsys.readouterr().out
    assert "| PCA, not integrated |" in text
    monkeypatch.undo()
    monkeypatch.setattr("scdmc.studies.paper.integration.METHODS", ("scdmc", "pca", "harmony"))
    assert run(folder / "failing", *words, "2") == 0
    assert "only 1 of" not in (folder / "failing" / "clustering.md").read_text()


def test_the_published_setting_is_the_same_whatever_the_config_says(run, folder, model, monkeypatch, one_thread):
    """Both streams and <cls>; the default follows the config.json of the model."""
    other = folder / "other_model"
    shutil.copytree(model, other)
    config = json.loads((other / "config.json").read_text())
    reads = {"embedding_stream": "rank", "embedding_pooling": "mean", "embedding_layer": 1}
    reads |= {"classifier_stream": "rank", "classifier_pooling": "mean"}
    assert reads.keys() - {"embedding_layer"} <= config.keys()
    (other / "config.json").write_text(json.dumps(config | reads))
    asked = []

    class EnoughError(Exception):
        pass

    def asked_for(cells, labels, directory, plan, options, place):
        asked.append((options.stream, options.pooling))
        raise EnoughError

    monkeypatch.setattr("scdmc.studies.paper.integration.METHODS", ("scdmc",))
    monkeypatch.setattr("scdmc.studies.paper.annotation.fine_tuned_run", asked_for)
    found = []
    for each in (model, other):
        output_dir = folder / f"rows_of_{each.name}"
        words = ["--model", each, "--datasets", "bmmc", "--tasks", "clustering"]
        assert run(output_dir, *words) == 0
        rows = pd.read_csv(output_dir / "rows.csv")
        found.append({name: of["value"].tolist() for name, of in rows.groupby("run")})
        with pytest.raises(EnoughError):
            run(folder / "annotated", "--model", each, "--datasets", "ms", "--tasks", "annotation")
    assert found[0]["scDMC, published setting"] == found[1]["scDMC, published setting"]
    assert found[0]["scDMC, default"] != found[1]["scDMC, default"]
    assert asked == [("both", "cls")] * 2


def test_to_overwrite_a_data_set_leaves_the_rows_of_the_others(run, tables, folder):
    shutil.copytree(tables, folder / "again")
    before = pd.read_csv(tables / "rows.csv")
    assert run(folder / "again", "--datasets", "bmmc", "--tasks", "clustering", "--overwrite") == 0
    after, is_bmmc = pd.read_csv(folder / "again" / "rows.csv"), before["dataset"] == "bmmc"
    pd.testing.assert_frame_equal(after[: (~is_bmmc).sum()], before[~is_bmmc].reset_index(drop=True))
    assert set(after["dataset"][(~is_bmmc).sum() :]) == {"bmmc"}
    kept = [json.loads((of / "run.json").read_text()) for of in (tables, folder / "again")]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--datasets", "ms", "--tasks", "clustering"], "--datasets ms: none of the tasks clustering has it"),
        (
            ["--data_dir", "{empty}"],
            "lacks zheng68k, ms, myeloid, pbmc10k, bmmc, immune: `python prepare/paper_data.py",
        ),
        (["--data_dir", "{other}", "--datasets", "ms"], "is not the ms that paper_data.py writes"),
    ],
)
def test_what_is_not_there_is_one_line(run, tmp_path, islets_path, capsys, words, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    shutil.copy(islets_path, tmp_path / "other" / "ms.h5ad")
    words = [word.format(empty=tmp_path / "empty", other=tmp_path / "other") for word in words]
    assert run(tmp_path / "out", *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_hours_are_said_without_any_file_and_by_the_files_that_are_there(script, model, data_dir, tmp_path, capsys):
    def said(data_dir):
        words = ["--model", model, "--data_dir", data_dir, "--output_dir", tmp_path / "out", "--dry_run"]
        assert script.main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    of_sources, of_files = said(tmp_path / "nowhere"), said(data_dir)
    assert re.search(r"zheng68k +68579 +its source", of_sources)
    assert re.search(r"myeloid +13178 +Cui et al. 2024, a selection: at least", of_sources)
    assert re.search(r"zheng68k +54 +the file", of_files)
    hours = [float(re.search(r"^ *all .* ([\d.]+)$", text, flags=re.M)[1]) for text in (of_sources, of_files)]
    assert hours[0] > hours[1] >= 0
    assert "Computed, not measured" in of_sources
    assert not (tmp_path / "out").exists()


def test_make_reproduce_says_the_hours_first_then_makes_data_and_tables():
    # A folder is named from where make is called, and the scripts run elsewhere.
    folder = ["MODEL=models/scDMC-small"], str(ROOT / "models" / "scDMC-small")
    # `make test` runs this test, too: the inner make is not to know of the outer one.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    for words, model in (([], "scDMC-small"), (["MODEL=new"], "pretrained"), folder):
        command = [
            "make",
            "--dry-run",
            "--old-file=.venv/installed",
            "--old-file=requirements.txt",
            "reproduce",
            *words,
        ]
        text = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
        places = [text.index(word) for word in ("--dry_run", "paper_data.py --dataset $set", "--data_dir", model)]
        assert places[0] < places[1]
        assert re.search(
            rf"paper.py --model {'/.*/' * (model == 'pretrained')}{model} --data_dir \S+ --output_dir \S+\n*$", text
        )
        assert ("--dataset census_2m" in text) == (model == "pretrained")
        assert (re.search(r'echo "These are the hours of scDMC-small.*12 layers.*"', text) is None) == (
            model != "pretrained"
        )
        assert all(name in text for of in DATASETS.values() for name in of)


def test_cells_are_tested_on_as_the_field_does_it(data_dir):
    ms = anndata.read_h5ad(data_dir / "ms.h5ad").obs
    is_query, labels = ms["is_query"].to_numpy(), ms["cell_type"].to_numpy(dtype=object)
    splits = [split_of_cells(labels, is_query, seed) for seed in (1, 1, 2)]
    assert (splits[0] == splits[1]).all()
    assert (splits[0] != splits[2]).any()
    for split in splits:
        assert set(labels[is_query & (split == "left_out")]) == {"T cell"}
        assert set(split[~is_query]) == {"train", "validation"}
        shares = [np.mean(split[(labels == name) & ~is_query] == "validation") for name in set(labels[~is_query])]
        assert min(shares) > 0
    alone = np.array(["a", "a", "b", "a"], dtype=object)
    query = np.array([False, False, False, True])
    assert split_of_cells(alone, query, 1).tolist()[2:] == ["train", "test"]  # one cell of a type is learned from
