"""What the page of the demo says of labels and of pre-training, for every way in which the demo can be run."""

import json

import pandas as pd
import pytest

from scdmc.cells.scores import wide_metrics
from scdmc.studies.demo import labels_section, pretraining_section, scores_of_labels

LINES = {"guessing_rank_unigram": 9.0, "guessing_rank_given_rank": 8.5, "guessing_expression_unigram": 9.1}


@pytest.fixture
def pretraining_text(tmp_path):
    """Text of the section for what ``scDMC_pretrain.py`` wrote."""

    def text(start: str | None, expression_loss: float, lines: dict[str, float]) -> str:
        folder = tmp_path / "pretrained"
        folder.mkdir(exist_ok=True)
        arguments = {"model": start, "num_hidden_layers": 2, "hidden_size": 64, "max_length": 256,
                     "max_steps": 150, "batch_size": 32}  # fmt: skip
        (folder / "arguments.json").write_text(json.dumps(arguments))
        (folder / "guessing.json").write_text(json.dumps(lines))
        rows = ["step,loss,eval_mlm_rank_loss,eval_mlm_expression_loss", "0,,10,10", f"150,,8.4,{expression_loss}"]
        (folder / "history.csv").write_text("\n".join([*rows, "150,17.5,,"]))
        return pretraining_section(tmp_path).text

    return text


def test_the_section_names_the_start_and_the_best_guess_of_each_stream(pretraining_text):
    text = pretraining_text("scDMC-small", 8.9, LINES)
    assert "started from scDMC-small" in text
    assert "8.40 nats (rank stream) and 8.90 (expression stream)" in text
    assert "alone reaches 8.50 and 9.10. The model is below both" in text


def test_with_genes_in_order_the_line_of_the_neighbours_counts(pretraining_text):
    text = pretraining_text(None, 8.9, LINES | {"guessing_expression_given_neighbours": 4.0})
    assert "A small, new model" in text
    assert "alone reaches 8.50 and 4.00. The model is not below both" in text


def test_new_cells_are_scored_by_their_hidden_types_beside_each_view(tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    given = {"scDMC_cell_type": ["a", "b", "a", None], "scDMC_view_genes": ["a", "b", "b", "b"],
             "scDMC_view_scdmc": ["a", "a", "a", "a"]}  # fmt: skip
    # The table of the split has other cells, too, and another order.
    pd.DataFrame({"cell_id": ["1", "2", "3", "4"], **given}).to_csv(labels / "labels.csv", index=False)
    pd.DataFrame({"cell_id": list("54321"), "label": list("bbaba")}).to_csv(tmp_path / "split.csv", index=False)
    held_out = {"method": ["genes", "scdmc", "all views", "untrained vectors"], "macro_f1": [0.6, 0.9, 0.7, 0.65]}
    pd.DataFrame(held_out).to_csv(labels / "views.csv", index=False)
    sizes = {"cell_type": ["a", "b"], "n_cells": [10, 20], "new_cells": [3, 1]}
    pd.DataFrame(sizes).to_csv(labels / "per_type.csv", index=False)
    table = wide_metrics(pd.DataFrame(scores_of_labels(tmp_path)))
    assert table["accuracy"].to_dict() == {
        "scDMC, all views": 0.75, "logistic regression on genes": 0.75, "scDMC, its view of the model alone": 0.5
    }  # fmt: skip
    text = labels_section(tmp_path, table).text
    assert "labelled the 4 cells of the third library by the 30 labelled cells" in text
    assert "(logistic regression on genes) reaches 0.733" in text
    assert "macro-F1 0.700, and 0.650 for the best method without the language model (untrained vectors)" in text


def test_the_report_names_what_is_missing_and_writes_nothing(load_script, capsys, tmp_path):
    report = load_script("downstream_tasks/demo_report.py").main
    assert report(["--output_dir", str(tmp_path)]) == 2
    assert "pretrained/arguments.json" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
