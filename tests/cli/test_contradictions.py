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
        ("integration", (*FOLDER, "--adapt_steps", "3"), "--adapt_steps has no effect without --adapt"),
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


def test_the_labels_of_cells_go_to_a_file_whose_kind_its_name_says(islets_path, tmp_path):
    words = ("--model", "scDMC-small", "--data_path", islets_path, "--output_file", tmp_path / "a.txt")
    outcome = run_script("downstream_tasks/annotate.py", *words)
    assert (outcome.status, outcome.heavy) == (2, set())
    assert outcome.err.endswith("a.txt: name a file that ends in .h5ad or .csv\n")


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
        ("scDMC_pretrain", (*PRETRAIN, "--resume", "nowhere"), "--resume nowhere is no checkpoint"),
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
