"""Flags of the downstream scripts that contradict each other are refused at once, before any path is looked at."""

import re

import pytest

from tests.cli.scripts import run_script

TASK = ("--model", "absent", "--data_path", "absent.h5ad")
FOLDER = (*TASK, "--output_dir", "output")


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("annotate", (*TASK, "--output_file", "a.csv", "--pooling", "mean"), "--pooling has no effect without --ref"),
        ("annotate", (*TASK, "--output_file", "a.csv", "--vote_resolution", "2"), "no effect without --majority_vote"),
        ("cluster", (*FOLDER, "--oracle"), "--oracle chooses by labels: name their column with --label_key"),
        ("downstream_tasks", (*FOLDER, "--split_file", "s.csv", "--cross_validate", "3"), "leave out --split_file"),
        ("downstream_tasks", (*FOLDER, "--lora_rank", "4"), "--lora_rank has no effect with --train full"),
        ("gene_modules", (*FOLDER, "--permutations", "10"), "--permutations has no effect without --gene_sets"),
        (
            "gene_regulatory_network",
            (*FOLDER, "--regulons", "r.csv", "--graph_score", "perturbation", "--perturbed_factors", "0"),
            "--graph_score perturbation needs factors that are perturbed",
        ),
        ("integration", (*FOLDER, "--adapt_steps", "3"), "--adapt_steps has no effect without --adapt encoder"),
        ("integration", (*TASK, "absent.h5ad"), "--data_path: two data sets are called absent"),
        ("perturb", FOLDER, "nothing to perturb: name --genes, or --gene_sets"),
    ],
)
def test_a_contradiction_is_one_line(script, words, said):
    outcome = run_script(f"downstream_tasks/{script}.py", *words)
    assert outcome.status == 2
    assert re.fullmatch(r"error: .*\n", outcome.err)
    assert said in outcome.err
    assert not outcome.heavy
    assert outcome.cpu < 1


@pytest.mark.parametrize(("script", "flags", "suffixes"), [
    ("downstream_tasks/annotate.py", ("--model", "scDMC-small"), ".h5ad or .csv"),
    ("downstream_tasks/embed.py", ("--model", "scDMC-small"), ".h5ad or .csv"),
    ("prepare/split_cells.py", ("--label_key", "cell_type"), ".csv"),
    ("tokenizer/gene_medians.py", (), ".json"),
    ("benchmarks/probe.py", ("--model", "scDMC-small", "--label_key", "cell_type"), ".json"),
    ("benchmarks/embedding_choices.py", ("--model", "scDMC-small", "--label_key", "cell_type"), ".csv"),
])  # fmt: skip
def test_a_file_is_written_only_as_its_name_says(script, flags, suffixes, load_script, islets_path, tmp_path, capsys):
    output = tmp_path / "a.txt"
    words = (*flags, "--data_path", islets_path, "--output_file", output)
    assert load_script(script).main([str(word) for word in words]) == 2
    assert capsys.readouterr().err == f"error: --output_file {output}: name a file that ends in {suffixes}\n"


PRETRAIN = ("--data_path", "absent.parquet", "--output_dir", "output")


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("scDMC_pretrain", (*PRETRAIN, "--batch_size", "3", "--gradient_accumulation_steps", "2"), "is no multiple of"),
        ("scDMC_pretrain", (*PRETRAIN, "--fsdp"), "start it with torchrun"),
        (
            "scDMC_pretrain",
            (*PRETRAIN, "--model", "x", "--hidden_size", "64"),
            "--hidden_size has no effect with --mod",
        ),
        ("scDMC_pretrain", (*PRETRAIN, "--resume"), "holds no complete checkpoint"),
        ("scDMC_pretrain", (*PRETRAIN, "--resume", "nowhere"), "nowhere is no checkpoint"),
        ("scDMC_pretrain", (*PRETRAIN, "--hold_out", "a=b", "--split_file", "s.csv"), "--split_file and --hold_out"),
        ("export_model", ("--model", "x", "--output_dir", "y", "--push_to_hub", "bad"), "write it as user/name"),
    ],
)
def test_a_contradiction_of_pre_training_and_export_is_one_line(script, words, said, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    outcome = run_script(f"pretrain/{script}.py", *words)
    assert outcome.status == 2
    assert re.fullmatch(r"error: .*\n", outcome.err)
    assert said in outcome.err
    assert not outcome.heavy
    assert outcome.cpu < 1
