"""What the page of the demo says of pre-training, for every way in which the demo can be run."""

import json

import pytest

from scdmc.studies.demo import pretraining_section

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


def test_the_report_names_what_is_missing_and_writes_nothing(load_script, capsys, tmp_path):
    report = load_script("downstream_tasks/demo_report.py").main
    assert report(["--output_dir", str(tmp_path)]) == 2
    assert "pretrained/arguments.json" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
