"""What every task script refuses: one line, exit status 2, and nothing written."""

import re
import shutil

import pytest

from scdmc.genes.vocabulary import SPECIAL_TOKENS, Vocabulary, load_vocabulary
from tests.task_scripts import ALL_WITH_MODEL, WRITES_A_FOLDER, run


@pytest.mark.parametrize("script", ALL_WITH_MODEL)
def test_a_model_folder_without_weights_is_refused(script, scripts, capsys, tmp_path, islets_path):
    (tmp_path / "empty").mkdir()
    status, error = run(scripts, capsys, script, tmp_path / "empty", islets_path, tmp_path / "out.h5ad")
    assert (status, len(error)) == (2, 1)
    assert "no weights" in error[0]
    assert not (tmp_path / "out.h5ad").exists()


@pytest.mark.parametrize("script", ALL_WITH_MODEL)
def test_more_gpus_than_there_are_is_refused(
    script, scripts, capsys, tmp_path, islets_path, model_path, classifier_path
):
    model = classifier_path if script == "annotate" else model_path
    status, error = run(scripts, capsys, script, model, islets_path, tmp_path / "out.h5ad", "--num_gpus", "99")
    assert (status, len(error)) == (2, 1)
    assert "--num_gpus 99" in error[0]


@pytest.mark.parametrize("script", [*ALL_WITH_MODEL, "split_cells"])
def test_an_existing_output_is_kept_without_overwrite(script, scripts, capsys, tmp_path, islets_path, model_path):
    output = tmp_path / "out.csv"
    precious = output / "kept.csv" if script in WRITES_A_FOLDER else output
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious")
    status, error = run(scripts, capsys, script, model_path, islets_path, output)
    assert (status, len(error)) == (2, 1)
    assert "--overwrite" in error[0]
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("script", ["downstream_tasks", "cluster", "integration", "split_cells"])
def test_a_missing_label_column_is_refused_with_the_columns_there_are(
    script, scripts, capsys, tmp_path, islets_path, model_path
):
    status, error = run(
        scripts, capsys, script, model_path, islets_path, tmp_path / "out.csv", "--label_key", "no_such_column"
    )
    assert (status, len(error)) == (2, 1)
    assert "no_such_column" in error[0]
    assert "cell_type" in error[0]
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("script", ["downstream_tasks", "cluster", "integration", "split_cells"])
@pytest.mark.parametrize(("label", "said"), [("beta", "beta"), ("", "no label at all|is empty for all 300 cells")])
def test_labels_of_fewer_than_two_classes_are_refused_before_anything_is_computed(
    script, label, said, scripts, capsys, tmp_path, adata, model_path
):
    one = adata.copy()
    one.obs["cell_type"] = label
    one.write_h5ad(tmp_path / "one.h5ad")
    output = tmp_path / "out.csv"
    status, error = run(scripts, capsys, script, model_path, tmp_path / "one.h5ad", output, "--label_key", "cell_type")
    assert (status, len(error)) == (2, 1)
    assert re.search(said, error[0])
    assert "[]" not in error[0]
    assert not output.exists()


def test_data_tokenized_with_another_vocabulary_are_refused(
    scripts, capsys, tmp_path, islets_path, model_path, load_script
):
    tokens = list(load_vocabulary().tokens)
    other = Vocabulary({token: i for i, token in enumerate([*SPECIAL_TOKENS, *reversed(tokens[4:])])}, source="other")
    other.save(tmp_path / "other.json")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "islets.h5ad").symlink_to(islets_path)
    tokenize = load_script("tokenizer/tokenizer_combine.py").main
    tokenize(["--input_directory", str(tmp_path / "in"), "--output_directory", str(tmp_path),
              "--output_prefix", "other_data", "--token_dictionary_file", str(tmp_path / "other.json")])  # fmt: skip
    status, error = run(scripts, capsys, "embed", model_path, tmp_path / "other_data.parquet", tmp_path / "out.h5ad")
    assert status == 2
    assert "another vocabulary" in error[0]
    assert "other_data.parquet" in error[0]
    assert str(model_path) in error[0]


@pytest.mark.parametrize("script", ALL_WITH_MODEL)
def test_the_vocabulary_of_a_folder_that_has_none_can_be_named(
    script, scripts, capsys, tmp_path, islets_path, model_path
):
    bare = tmp_path / "bare"
    shutil.copytree(model_path, bare)
    (bare / "token_ids.json").rename(tmp_path / "vocabulary.json")
    status, error = run(scripts, capsys, script, bare, islets_path, tmp_path / "out.h5ad")
    assert status == 2
    assert "--token_dictionary_file" in error[0]
    absent = tmp_path / "absent.json"
    status, error = run(
        scripts, capsys, script, bare, islets_path, tmp_path / "out.h5ad", "--token_dictionary_file", absent
    )
    assert status == 2
    assert str(absent) in error[0]


@pytest.mark.parametrize("script", ["embed", "cluster", "integration"])
def test_an_attention_back_end_that_cannot_run_is_refused(script, scripts, capsys, tmp_path, islets_path, model_path):
    status, error = run(
        scripts, capsys, script, model_path, islets_path, tmp_path / "out.h5ad", "--attention", "flash", "--num_gpus", 0
    )
    assert (status, len(error)) == (2, 1)
    assert "--attention flash" in error[0]
