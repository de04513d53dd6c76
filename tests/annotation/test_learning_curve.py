"""Scores of several runs become one table and one figure."""

import json

import pandas as pd
import pytest

METHODS = {"scDMC fine-tuned": 0.8, "logistic regression": 0.7}


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("downstream_tasks/learning_curve.py")


def write_results(folder, fraction, gain):
    """What downstream_tasks.py leaves of five runs."""
    folder.mkdir()
    (folder / "arguments.json").write_text(json.dumps({"label_fraction": str(fraction)}))
    rows = [
        {"task": "annotation", "method": method, "metric": metric, "value": value + gain, "sd": 0.01, "runs": 5}
        for method, value in METHODS.items()
        for metric in ("accuracy", "macro_f1")
    ]
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    return folder


@pytest.fixture
def result_dirs(tmp_path):
    return [write_results(tmp_path / name, *rest) for name, *rest in (("all", 1.0, 0.1), ("few", 0.05, 0.0))]


def run(script, result_dirs, output_dir, *options):
    return script.main([str(word) for word in ("--result_dirs", *result_dirs, "--output_dir", output_dir, *options)])


def test_the_table_has_every_score_of_every_share_and_a_figure_is_drawn(script, result_dirs, tmp_path, capsys):
    assert run(script, result_dirs, tmp_path / "out") == 0
    table = pd.read_csv(tmp_path / "out" / "learning_curve.csv")
    assert len(table) == 8
    wide = table[table["metric"] == "macro_f1"].pivot(index="method", columns="label_fraction", values="value")
    for method, value in METHODS.items():
        assert wide.loc[method].tolist() == pytest.approx([value, value + 0.1])
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".csv", ".html", ".json", ".pdf", ".png"}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf8")
    assert "scDMC fine-tuned is ahead with 5% and 100% of the labels" in page
    assert "0.700 for logistic regression" in page
    assert "0.05" in capsys.readouterr().out


def test_other_methods_of_the_same_share_are_joined(script, result_dirs, tmp_path):
    changed = pd.read_csv(result_dirs[1] / "metrics.csv").replace(dict.fromkeys(METHODS, "another"))
    changed.drop_duplicates(["method", "metric"]).to_csv(result_dirs[1] / "metrics.csv", index=False)
    (result_dirs[1] / "arguments.json").write_text('{"label_fraction": "1.0"}')
    assert run(script, result_dirs, tmp_path / "out") == 0
    table = pd.read_csv(tmp_path / "out" / "learning_curve.csv")
    assert set(table["method"]) == {*METHODS, "another"}
    assert set(table["label_fraction"]) == {1.0}


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda folder: (folder / "metrics.csv").unlink(), (), "is no output folder of downstream_tasks.py"),
        (lambda folder: (folder / "arguments.json").write_text('{"label_fraction": "1.0"}'), (), "the same share"),
        (
            lambda folder: (folder / "arguments.json").write_text('{"label_fraction": "0.05", "seed": "7"}'),
            (),
            "other test cells: seed is None and 7",
        ),
        (lambda folder: None, ("--metric", "auc"), "there are accuracy, macro_f1"),
    ],
)
def test_what_cannot_be_joined_is_refused(script, result_dirs, tmp_path, capsys, change, options, said):
    change(result_dirs[1])
    assert run(script, result_dirs, tmp_path / "out", *options) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
