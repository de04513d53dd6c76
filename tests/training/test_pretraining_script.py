"""scDMC_pretrain.py from end to end: what it writes, resumes, goes on from and refuses."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM

from scdmc.model.folder import open_model_directory
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.storage import load_classifier_for_training, load_model
from scdmc.tokens.parquet import read_tokenized
from scdmc.training import results
from scdmc.training.checkpoint_files import checkpoints
from scdmc.training.dual_stream import ScDMCForPretraining
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


TINY = ["--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2", "--intermediate_size", "16",
        "--batch_size", "4", "--max_length", "64", "--num_gpus", "0"]  # fmt: skip


SHORT = [*TINY, "--max_steps", "2", "--save_every", "1"]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("pretrain/scDMC_pretrain.py").main


@pytest.fixture(scope="module")
def dataset(tokenize_islets):
    """The islet cells of the tests, tokenized by the script."""
    return tokenize_islets("--model_input_size", 128)


@pytest.fixture(scope="module")
def model_folder(script, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    assert script(["--dataset_path", str(dataset), "--output_dir", str(folder), *SHORT]) == 0
    return folder


def test_the_script_writes_a_whole_model_folder(model_folder, dataset):
    files = {path.name for path in model_folder.iterdir()}
    assert "| objective | as in the paper |" in (model_folder / "README.md").read_text()
    assert {"config.json", "model.safetensors", "token_ids.json", "gene_medians.json", "tokenization.json", "README.md",
            "arguments.json", "history.csv", "checkpoints", "tensorboard"} <= files  # fmt: skip
    assert not [name for name in files if name.startswith(".") or name == "saved"]
    opened = open_model_directory(model_folder)
    assert opened.context == opened.settings.model_input_size == 64
    assert (opened.config.vocab_size, opened.config.hidden_size) == (60534, 16)
    card = (model_folder / "README.md").read_text()
    assert "285 |" in card  # training cells
    assert "--max_steps 2" in card
    arguments = json.loads((model_folder / "arguments.json").read_text())
    assert arguments["data_path"] == str(dataset)


def test_the_model_of_the_script_is_that_of_its_last_checkpoint(model_folder):
    model = load_model(model_folder, ScDMCForMaskedLM)
    state = load_file(model_folder / "checkpoints" / "step-00000002" / "state.safetensors")
    assert torch.equal(state["module.model.bert.embeddings.word_embeddings.weight"],
                       model.bert.embeddings.word_embeddings.weight)  # fmt: skip
    again = AutoModelForMaskedLM.from_pretrained(model_folder)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert AutoModel.from_pretrained(model_folder).config.max_position_embeddings == 64


def test_the_model_is_written_before_what_reads_all_cells(script, dataset, tmp_path, monkeypatch, capsys):
    def fail(run):
        raise MemoryError

    monkeypatch.setattr("scdmc.training.results.guessing_metrics", fail)
    assert script(["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "run"), *SHORT]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert open_model_directory(tmp_path / "run").config.hidden_size == 16
    assert load_model(tmp_path / "run", ScDMCForMaskedLM).config.hidden_size == 16
    assert not (tmp_path / "run" / "guessing.json").exists()


def test_the_script_resumes_an_interrupted_run(model_folder, script, dataset, tmp_path, capsys):
    first = model_folder / "checkpoints" / "step-00000001"
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "again"), *SHORT]
    had = json.loads((model_folder / "arguments.json").read_text())["dtype"]
    (other,) = {"float32", "bfloat16"} - {had}
    assert script([*arguments, "--resume_from_checkpoint", str(first), "--dtype", other]) == 2
    error = capsys.readouterr().err
    assert f"was made with --dtype {had}, not {other}; a resumed run keeps it" in error
    assert f"on cpu in {other}," in error
    assert script([*arguments, "--resume_from_checkpoint", str(first)]) == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (model_folder / "model.safetensors").read_bytes()


def test_the_page_of_a_run_that_was_stopped_says_so(script, dataset, tmp_path):
    stopped = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "model"), *SHORT]
    assert script([*stopped, "--max_minutes", "1e-9"]) == 0
    page = (tmp_path / "model" / "report.html").read_text()
    assert "The run was stopped before its end" in page
    assert "The run goes on" not in page
    assert script([*stopped, "--resume"]) == 0
    assert "The run was stopped before its end" not in (tmp_path / "model" / "report.html").read_text()


def test_cells_that_are_memory_mapped_train_the_same_model(model_folder, script, dataset, tmp_path):
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "mapped"), *SHORT]
    assert script([*arguments, "--cache_dir", str(tmp_path / "cache"), "--num_workers", "1"]) == 0
    again = tmp_path / "mapped" / "model.safetensors"
    assert again.read_bytes() == (model_folder / "model.safetensors").read_bytes()
    assert list((tmp_path / "cache").iterdir())


def test_the_script_starts_from_co_expression_and_resumes(script, dataset, tmp_path):
    def train(folder, *flags):
        data = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / folder)]
        assert script([*data, *SHORT, "--gene_start", "coexpression", "--alpha", "0.5", *flags]) == 0
        card = (tmp_path / folder / "README.md").read_text()
        assert "| objective | as in the paper, but alpha 0.5, gene_start coexpression |" in card
        return (tmp_path / folder / "model.safetensors").read_bytes()

    weights = train("model")
    first = next((tmp_path / "model" / "checkpoints").glob("*1"))
    assert train("model", "--resume_from_checkpoint", str(first)) == weights


BARELY = ["--batch_size", "4", "--max_steps", "1", "--learning_rate", "1e-12", "--num_gpus", "0"]


def test_the_script_goes_on_from_the_weights_of_a_model(model_folder, script, dataset, tmp_path):
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "on"), *BARELY]
    assert script([*arguments, "--pretrained_model_path", str(model_folder), "--hidden_dropout_prob", "0.1"]) == 0
    before, after = (load_model(folder, ScDMCForMaskedLM) for folder in (model_folder, tmp_path / "on"))
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], tensor, atol=1e-9, rtol=0)
    config = after.config
    assert (config.hidden_dropout_prob, config.hidden_size, config.max_position_embeddings) == (0.1, 16, 64)
    assert config.attention_probs_dropout_prob == before.config.attention_probs_dropout_prob
    card = (tmp_path / "on" / "README.md").read_text()
    assert "| started from | model |" in card
    assert "| objective | as in the paper |" in card
    recorded = json.loads((tmp_path / "on" / "arguments.json").read_text())
    assert (recorded["hidden_size"], recorded["gene_start"]) == (16, None)


def test_a_run_that_started_from_a_model_resumes(model_folder, script, dataset, tmp_path):
    arguments = ["--dataset_path", str(dataset), "--pretrained_model_path", str(model_folder), "--batch_size", "4"]
    arguments += ["--max_steps", "2", "--save_every", "1", "--num_gpus", "0", "--output_dir"]
    assert script([*arguments, str(tmp_path / "straight")]) == 0
    first = tmp_path / "straight" / "checkpoints" / "step-00000001"
    assert script([*arguments, str(tmp_path / "again"), "--resume_from_checkpoint", str(first)]) == 0
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("straight", "again")]
    assert weights[0] == weights[1] != (model_folder / "model.safetensors").read_bytes()


def test_a_model_to_go_on_from_is_not_overwritten(model_folder, script, dataset, capsys):
    before = (model_folder / "model.safetensors").read_bytes()
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(model_folder), *BARELY, "--overwrite"]
    assert script([*arguments, "--pretrained_model_path", str(model_folder)]) == 2
    assert "would be overwritten by what starts from it" in capsys.readouterr().err
    assert (model_folder / "model.safetensors").read_bytes() == before


def test_a_classifier_is_nothing_to_go_on_from(model_folder, script, dataset, tmp_path, capsys):
    classifier = load_classifier_for_training(open_model_directory(model_folder), ["a", "b"], "rank", 0.1)
    shutil.copytree(
        model_folder, tmp_path / "classifier", ignore=shutil.ignore_patterns("checkpoints", "manifest.json")
    )
    classifier.save_pretrained(tmp_path / "classifier")
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "on"), *BARELY]
    assert script([*arguments, "--pretrained_model_path", str(tmp_path / "classifier")]) == 2
    assert "is a classifier; go on from the pre-trained model" in capsys.readouterr().err


def test_data_that_are_shorter_than_the_model_to_go_on_from_set_the_context(
    model_folder, script, load_script, islets_path, tmp_path
):
    tokenize = ["--input_directory", islets_path.parent, "--output_directory", tmp_path, "--output_prefix", "short"]
    assert load_script("tokenizer/tokenizer_combine.py").main([*map(str, tokenize), "--model_input_size", "40"]) == 0
    arguments = ["--dataset_path", str(tmp_path / "short.parquet"), "--output_dir", str(tmp_path / "on"), *BARELY]
    assert script([*arguments, "--pretrained_model_path", str(model_folder)]) == 0
    assert open_model_directory(tmp_path / "on").context == 40


def test_a_model_to_go_on_from_takes_another_context(model_folder, script, dataset, tmp_path):
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "on"), *BARELY, "--max_length", "100"]
    assert script([*arguments, "--pretrained_model_path", str(model_folder)]) == 0
    opened = open_model_directory(tmp_path / "on")
    assert opened.context == opened.settings.model_input_size == 100


@pytest.mark.parametrize(
    "flag", [("--hidden_size", "16"), ("--gene_start", "coexpression"), ("--expression_input", "value")], ids=str
)
def test_a_model_to_go_on_from_says_what_it_is_itself(flag, model_folder, script, dataset, tmp_path, capsys):
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "on"), *BARELY, *flag]
    assert script([*arguments, "--pretrained_model_path", str(model_folder)]) == 2
    assert f"{flag[0]} has no effect with --model; leave it out" in capsys.readouterr().err
    assert not list((tmp_path / "on").glob("*"))


def test_a_model_to_go_on_from_needs_data_that_were_tokenized_for_it(
    model_folder, script, load_script, islets_path, tmp_path, capsys
):
    medians = tmp_path / "medians.json"
    medians.write_text(json.dumps({"ENSG00000254647": 3.0}))
    tokenize = ["--input_directory", islets_path.parent, "--output_directory", tmp_path, "--output_prefix", "others"]
    tokenize += ["--gene_median_file", medians, "--model_input_size", "64"]
    assert load_script("tokenizer/tokenizer_combine.py").main([*map(str, tokenize)]) == 0
    arguments = ["--dataset_path", str(tmp_path / "others.parquet"), "--output_dir", str(tmp_path / "on"), *BARELY]
    assert script([*arguments, "--pretrained_model_path", str(model_folder)]) == 2
    message = f"was tokenized with other gene medians than {model_folder}"
    assert message in capsys.readouterr().err


def test_cells_are_held_out_and_left_out_by_a_column_of_obs(script, load_script, islets_path, tmp_path, capsys):
    folder = tmp_path / "tokenized"
    arguments = ["--input_directory", islets_path.parent, "--output_directory", folder, "--output_prefix", "islets"]
    arguments += ["--model_input_size", "64", "--obs_columns", "batch", "cell_type"]
    assert load_script("tokenizer/tokenizer_combine.py").main([*map(str, arguments)]) == 0
    data = ["--dataset_path", str(folder / "islets.parquet"), "--output_dir", str(tmp_path / "model"), *SHORT]
    obs = read_tokenized(folder / "islets.parquet").obs
    library, others = obs["batch"].unique()[0], (obs["batch"] != obs["batch"].unique()[0])
    rules = ["--hold_out", f"batch={library}", "--leave_out", "cell_type=beta,alpha"]
    assert script([*data, *rules, "--max_held_out_cells", "20"]) == 0
    card = (tmp_path / "model" / "README.md").read_text()
    n_training = int((others & ~obs["cell_type"].isin(["beta", "alpha"])).sum())
    assert f"| training cells | {n_training} |" in card
    assert "| held-out cells | 20 |" in card
    assert script([*data, "--overwrite", *rules, "--max_training_cells", "9"]) == 0
    assert "| training cells | 9 |" in (tmp_path / "model" / "README.md").read_text()
    for rules, message in [
        (["--hold_out", "batch=nobody"], "--hold_out: no cell has batch 'nobody'"),
        (["--hold_out", "donor=1"], "no column 'donor'"),
        (["--leave_out", "batch"], "--leave_out batch: write COLUMN=VALUE"),
        (["--hold_out", f"batch={library}", "--split_file", "split.csv"], "--split_file and --hold_out"),
    ]:
        assert script([*data, "--overwrite", *rules]) == 2
        assert message in capsys.readouterr().err


def test_a_dry_run_of_the_script_says_what_a_run_would_take_and_writes_nothing(
    script, dataset, tmp_path, capsys, monkeypatch
):
    forward, seen = ScDMCForPretraining.forward, set()

    def look(*arguments):
        seen.add(torch.are_deterministic_algorithms_enabled())
        return forward(*arguments)

    monkeypatch.setattr(ScDMCForPretraining, "forward", look)
    command = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "dry"), *SHORT, "--dry_run"]
    assert script([*command, "--deterministic"]) == 0
    assert "estimated time" in capsys.readouterr().out
    assert seen == {True}
    assert not torch.are_deterministic_algorithms_enabled()
    assert not (tmp_path / "dry").exists()


RECIPES = ("scDMC-small", "scDMC-tissues", "published")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_and_flags_after_it_win(name, script, dataset, tmp_path, capsys):
    recipe = ROOT / "pretrain" / "configs" / f"{name}.sh"
    more = [*TINY, "--schedule_minutes", "0.01"] if name != "published" else [*TINY, "--dry_run"]
    told = tmp_path / "told"  # in place of Python: it writes down what it is asked to run
    told.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path / 'words'}\n")
    told.chmod(0o755)
    command = [recipe, "--dataset_path", dataset, "--output_dir", tmp_path / "model", *more]
    subprocess.run(list(map(str, command)), env={**os.environ, "PYTHON": str(told)}, check=True)
    words = (tmp_path / "words").read_text().splitlines()
    place = next(number for number, word in enumerate(words) if word.endswith(".py"))
    assert Path(words[place]).samefile(ROOT / "pretrain" / "scDMC_pretrain.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    assert words[:place] == (launcher if name == "published" else ["-u"])
    assert script(words[place + 1 :]) == 0
    if name == "published":
        assert "estimated time" in capsys.readouterr().out
    else:
        config = open_model_directory(tmp_path / "model").config
        assert (config.expression_input, config.hidden_size) == ("value", 16)


def test_every_recipe_is_tested():
    recipes = ROOT / "pretrain" / "configs"
    assert {path.stem for path in recipes.iterdir()} == set(RECIPES)


def test_overwrite_leaves_nothing_of_the_run_before_that_could_be_resumed(script, dataset, tmp_path, capsys):
    folder = tmp_path / "model"
    (folder / "checkpoints" / "step-00000009").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000009" / "state.json").write_text("{}")
    before = sorted(folder.rglob("*"))
    arguments = ["--dataset_path", str(dataset), "--output_dir", str(folder), *TINY, "--max_steps", "1"]
    assert script(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before
    assert script([*arguments, "--overwrite"]) == 0
    assert [path.name for path in checkpoints(folder)] == ["step-00000001"]
    assert (folder / "model.safetensors").exists()


@pytest.fixture
def other_vocabulary(tmp_path):
    """The vocabulary of the project with two genes swapped."""
    path = ROOT / "tokenizer" / "token_files" / "token_ids_60534.json"
    ids = json.loads(path.read_text())
    first, second = list(ids)[10:12]
    ids[first], ids[second] = ids[second], ids[first]
    (tmp_path / "other.json").write_text(json.dumps(ids))
    return tmp_path / "other.json"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--dataset_path": "nowhere.parquet"}, "no such parquet file"),
        ({"--token_dictionary_file": "OTHER"}, "another vocabulary"),
        ({"--token_dictionary_file": "nowhere.json"}, "no such file"),
        ({"--num_gpus": "99"}, "--num_gpus 99: this machine has"),
        ({"--hidden_size": "15"}, "no multiple of the 2 attention heads"),
        ({"--attention": "flash"}, "needs a GPU"),
        ({"--attention": "flex", "--attention_probs_dropout_prob": "0.1"}, "no attention dropout"),
        ({"--split_file": "nowhere.csv"}, "nowhere.csv"),
        ({"--resume_from_checkpoint": "last"}, "no complete checkpoint"),
        ({"--resume_from_checkpoint": "nowhere"}, "is no checkpoint"),
        ({"--max_length": "2"}, "--max_length"),
        ({"--max_length": "4096"}, "--max_length"),
        pytest.param(
            {"--report_to": "wandb"},
            "--report_to wandb needs wandb, which is not installed: pip install wandb",
            marks=pytest.mark.skipif(find_spec("wandb") is not None, reason="needs an installation without wandb"),
        ),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_status_2(script, dataset, tmp_path, capsys, other_vocabulary, changes, message):
    values = {"--dataset_path": dataset, "--output_dir": tmp_path / "model", **changes}
    values = {flag: other_vocabulary if value == "OTHER" else value for flag, value in values.items()}
    arguments = [*SHORT, *(str(part) for pair in values.items() for part in pair)]
    try:
        status = script(arguments)
    except SystemExit as stopped:  # argparse refuses a value by itself
        status = stopped.code
    assert status == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "model").exists()


def test_a_broken_parquet_is_named(script, tmp_path, capsys):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is not one")
    status = script(["--dataset_path", str(tmp_path / "broken.parquet"), "--output_dir", str(tmp_path / "m"), *SHORT])
    assert status == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "not a readable parquet" in error


def test_data_without_their_vocabulary_beside_them_ask_for_it(script, dataset, tmp_path, capsys):
    lonely = tmp_path / "lonely.parquet"
    lonely.write_bytes(dataset.read_bytes())
    assert script(["--dataset_path", str(lonely), "--output_dir", str(tmp_path / "model"), *SHORT]) == 2
    assert "--token_dictionary_file" in capsys.readouterr().err


def test_torchrun_runs_the_script_and_one_process_writes(script, dataset, tmp_path):
    root = ROOT
    arguments = ["--dataset_path", str(dataset), *SHORT, "--hidden_dropout_prob", "0", "--dtype", "float32"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(root / "pretrain" / "scDMC_pretrain.py"), *arguments, "--output_dir", str(tmp_path / "two")]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.count("wrote the model folder") == 1
    assert script([*arguments, "--output_dir", str(tmp_path / "one")]) == 0
    # Weights may differ where a gradient is rounding noise, which Adam scales up; losses and gradients may not.
    one, two = (list(csv.DictReader((tmp_path / name / "history.csv").open())) for name in ("one", "two"))
    for row, other in zip(one, two, strict=True):
        for name in ("loss", "mlm_rank_loss", "contrastive_loss", "gradient_norm", "eval_mlm_expression_loss"):
            assert row[name] == other[name] == "" or float(other[name]) == pytest.approx(float(row[name]), rel=1e-4)


def test_a_run_shows_how_it_goes_while_it_goes(script, dataset, tmp_path, monkeypatch, capsys):
    seen, pages = {}, []
    whole = results.LiveResults.__call__

    def look(self, history):
        whole(self, history)
        if "eval_loss" in history[-1] and history[-1]["step"] == 2:
            names = ("history.csv", "arguments.json", "loss_curves.png", "progress.json", "model.safetensors")
            seen.update({name: (self.folder / name).is_file() for name in names})
            seen["rows"] = len(pd.read_csv(self.folder / "history.csv"))
            pages.append((self.folder / "report.html").read_text(encoding="utf8"))

    monkeypatch.setattr(results.LiveResults, "__call__", look)
    flags = ["--max_steps", "3", "--log_every", "1", "--evaluate_every", "2"]
    assert script(["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "out"), *TINY, *flags]) == 0
    assert seen == {
        "history.csv": True, "arguments.json": True, "loss_curves.png": True, "progress.json": True,
        "model.safetensors": False, "rows": 4,
    }  # fmt: skip
    assert not (tmp_path / "out" / "progress.json").exists()
    reload = '<p id="reload" data-seconds="30" hidden>'
    final = (tmp_path / "out" / "report.html").read_text(encoding="utf8")
    assert (reload in pages[0], reload in final) == (True, False)
    assert "The run goes on; this page loads itself anew." in pages[0]
    assert "by guessing" in final
    log = capsys.readouterr().err
    lines = re.findall(
        r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  step (\d), epoch .*: loss .*cells/s; (.*)$", log, re.MULTILINE
    )
    assert [step for step, _ in lines] == ["1", "2", "3"]
    assert [left for _, left in lines][1:] == [lines[1][1], "done"]
    assert re.fullmatch(r"\d:\d\d:\d\d left", lines[1][1])
    assert "step 2, held-out cells: loss" in log
    assert "\r" not in log


def test_a_run_is_repeated_by_its_arguments_file(model_folder, script, tmp_path):
    flags = ["--arguments_file", str(model_folder / "arguments.json")]
    assert script([*flags, "--output_dir", str(tmp_path / "b")]) == 0
    first, second = (path / "model.safetensors" for path in (model_folder, tmp_path / "b"))
    assert first.read_bytes() == second.read_bytes()


def test_labelled_cells_judge_a_run_and_change_nothing_of_it(
    model_folder, script, dataset, tokenize_islets, tmp_path, capsys
):
    labelled = tokenize_islets("--model_input_size", 128, "--obs_columns", "cell_type")
    flags = ["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "run"), *SHORT]
    assert script([*flags, "--probe_data_path", str(labelled), "--probe_every", "1"]) == 0
    history = pd.read_csv(tmp_path / "run" / "history.csv").dropna(subset="probe_macro_f1")
    assert history["step"].tolist() == [1, 2]
    assert history["probe_macro_f1"].between(0.05, 1).all()
    assert "step 1, labelled cells: probe_macro_f1 0." in capsys.readouterr().err
    weights = [(path / "model.safetensors").read_bytes() for path in (model_folder, tmp_path / "run")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--probe_every", "3"], "--probe_every has no effect without --probe_data_path"),
        (["--probe_data_path", "DATA", "--label_key", "nothing"], "nothing"),
        (["--probe_data_path", "absent.parquet"], "absent.parquet"),
    ],
)
def test_a_probe_that_cannot_judge_is_refused(flags, message, script, dataset, tmp_path, capsys):
    flags = [str(dataset) if word == "DATA" else word for word in flags]
    assert script(["--dataset_path", str(dataset), "--output_dir", str(tmp_path / "run"), *SHORT, *flags]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


def test_a_checkpoint_is_exported_as_a_model_before_the_run_has_ended(model_folder, load_script, tmp_path, capsys):
    running = tmp_path / "running"  # what a run has before its end
    shutil.copytree(model_folder / "checkpoints", running / "checkpoints")
    export = load_script("pretrain/export_model.py").main
    first = running / "checkpoints" / "step-00000001"
    for name, folder in (("last", tmp_path / "last"), (str(first), tmp_path / "first")):
        assert export(["--model", str(running), "--checkpoint", name, "--output_dir", str(folder)]) == 0
    models = [load_model(path, ScDMCForMaskedLM).state_dict() for path in (model_folder, tmp_path / "last")]
    assert models[0].keys() == models[1].keys()
    for name, weight in models[0].items():
        assert torch.equal(weight.half().float(), models[1][name]), name
    earlier = load_model(tmp_path / "first", ScDMCForMaskedLM).state_dict()
    assert any(not torch.equal(earlier[name], weight) for name, weight in models[1].items())
    assert open_model_directory(tmp_path / "last").settings == open_model_directory(model_folder).settings
    assert (
        export(["--model", str(tmp_path / "first"), "--checkpoint", "last", "--output_dir", str(tmp_path / "x")]) == 2
    )
    assert "holds no complete checkpoint" in capsys.readouterr().err
