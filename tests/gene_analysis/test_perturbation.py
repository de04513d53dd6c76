"""In-silico perturbation: a planted gene stands out from matched ones, chance by hand, the script and its errors."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from scipy.stats import false_discovery_control

from scdmc.errors import ScDMCError
from scdmc.gene_analysis.options import ScreenOptions
from scdmc.gene_analysis.perturbation import against_chance, random_set, rows_needed, screen_genes
from scdmc.gene_analysis.perturbation_results import readable
from scdmc.model.folder import open_model_directory
from scdmc.model.storage import load_classifier_for_training, save_model_directory
from tests.gene_analysis.gene_models import cells_of_genes, gene_data, planted_model

GENES = [f"ENSG{i:011d}" for i in range(60)]
STRONG = 9


@pytest.fixture(scope="module")
def data(make_vocabulary):
    """Cells of two types of 20 random genes; one gene is far larger than the others in the model's eyes."""
    generator = np.random.default_rng(0)
    lists = [generator.choice(np.arange(4, 64), 20, replace=False).tolist() for _ in range(60)]
    model = planted_model(64, 5, 6, sharpness=0)
    with torch.no_grad():
        words = model.bert.embeddings.word_embeddings.weight
        words[2] = 0
        model.bert.embeddings.LayerNorm = torch.nn.Identity()
        words[STRONG] *= 12
    labels = ["a"] * 30 + ["b"] * 30
    expression = scipy.sparse.csr_matrix((60, 64), dtype=np.float32)
    return gene_data(model, cells_of_genes(lists), labels, make_vocabulary(GENES), expression)


@pytest.mark.parametrize("edit", ["remove", "raise"])
def test_a_gene_that_matters_stands_out_from_matched_genes(data, edit):
    sets = {"strong": np.array([STRONG]), "other": np.array([30]), "pair": np.array([31, 32])}
    table = screen_genes(data, sets, ScreenOptions(edit, max_cells=8, null_draws=40), False)
    p = table.pivot(index="perturbed", columns="cell_type", values="shift_p")
    assert (p.loc["strong"] == 1 / 41).all()
    assert (p.loc["other"] > 0.05).all()
    assert (table["shift"] > 0).all()
    assert (table["shift_fdr"] >= table["shift_p"] - 1e-12).all()
    assert "towards_goal" not in table


def test_a_goal_gives_the_way_towards_it(data):
    table = screen_genes(data, {"x": np.array([30])}, ScreenOptions(goal="b", max_cells=5, null_draws=10), False)
    assert table["cell_type"].tolist() == ["a"]
    assert {"towards_goal", "towards_goal_fdr", "goal_probability", "own_probability_p"} <= set(table)
    with pytest.raises(ScDMCError, match="--goal c: no such type with enough cells; there are a, b"):
        screen_genes(data, {"x": np.array([30])}, ScreenOptions(goal="c"), False)


def test_the_same_seed_gives_the_same_table(data):
    options = ScreenOptions(max_cells=4, null_draws=5, seed=3)
    tables = [screen_genes(data, {"x": np.array([30])}, options, False) for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)


def test_a_random_set_has_as_many_genes_as_the_tested_one(data):
    generator = np.random.default_rng(0)
    drawn = [random_set([np.arange(10, 16)] * 6, generator) for _ in range(20)]
    assert all(sorted(genes) == list(range(10, 16)) for genes in drawn)
    with pytest.raises(ScDMCError, match="a: there are too few other genes to compare half with"):
        screen_genes(data, {"half": np.arange(10, 50)}, ScreenOptions(null_draws=2), False)


def test_chance_is_counted_by_hand():
    null = np.array([1.0, 2, 3, 4])
    assert against_chance("shift", 3.0, null) == {
        "shift": 3, "shift_null": 2.5, "shift_z": pytest.approx(0.5 / null.std()), "shift_p": 3 / 5
    }  # fmt: skip
    assert against_chance("towards_goal", 1.0, null)["towards_goal_p"] == 3 / 5  # two-sided: 1 and 4
    assert np.isnan(against_chance("shift", np.nan, null)["shift_p"])


def test_so_many_rows_must_have_the_smallest_p(data, caplog):
    assert [rows_needed(*numbers) for numbers in ((4, 100), (5, 99), (6, 100), (30, 100), (3, 5))] == [1, 2, 2, 6, 11]
    for n_rows, draws in ((6, 100), (30, 100)):
        needed = rows_needed(n_rows, draws)
        for k, reached in ((needed - 1, False), (needed, True)):
            p = np.r_[np.full(k, 1 / (1 + draws)), np.ones(n_rows - k)]
            assert (false_discovery_control(p).min() < 0.05) == reached
    screen_genes(data, {"x": np.array([30])}, ScreenOptions(max_cells=2, null_draws=5), False)
    assert "with 2 rows and --null_draws 5 at least 7 rows must have the smallest p" in caplog.text


@pytest.fixture
def run(load_script, model_path, islets_path, tmp_path):
    """A function that runs the script."""
    script = load_script("downstream_tasks/perturb.py")

    def run(*options):
        command = ["--model_path", model_path, "--data_path", islets_path, "--output_dir", tmp_path / "out"]
        return script.main(
            [str(word) for word in [*command, "--overwrite", "--max_cells_per_type", 3, "--null_draws", 5, *options]]
        )

    return run


def test_the_script_writes_a_table_figures_and_a_report(run, tmp_path, capsys):
    (tmp_path / "s.gmt").write_text("both\tx\tINS\tIAPP\tNOSUCHGENE\n")
    options = ("--genes", "ins", "ENSG00000115263", "--gene_sets", tmp_path / "s.gmt", "--goal", "alpha")
    assert run(*options, "--cell_types", "beta", "alpha", "delta") == 0
    printed = capsys.readouterr()
    assert "Genes were removed in silico. With 5 random genes no FDR can be below 0.05" in printed.out
    assert "both: 1 of 3 genes are not in the model's vocabulary" in printed.err
    table = pd.read_csv(tmp_path / "out" / "perturbations.csv")
    assert set(table["perturbed"]) <= {"INS", "GCG", "both"}
    assert set(table["cell_type"]) == {"beta", "delta"}
    assert table["shift"].between(0, 2).all()
    assert all((tmp_path / "out" / name).exists() for name in ("shift.png", "towards_goal.pdf", "report.html"))
    assert run("--genes", "INS", "--cell_types", "beta") == 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"manifest.json", "own_probability.pdf", "own_probability.png", "perturbations.csv", "report.html",
                    "shift.pdf", "shift.png"}  # fmt: skip


def test_small_numbers_are_drawn_in_a_power_of_ten_that_shows_them():
    wide, unit = readable(pd.DataFrame([[7e-4, np.nan], [-2e-5, 0.0]]), "1 - cosine")
    np.testing.assert_allclose(wide, [[7, np.nan], [-0.2, 0]])
    assert unit == "1 - cosine, times 1e-4"
    for table in (pd.DataFrame([[0.4, 1e-4]]), pd.DataFrame([[0.0, np.nan]])):
        same, unit = readable(table, "share")
        assert same is table
        assert unit == "share"


def test_a_stream_is_not_asked_of_a_classifier_which_has_its_own(run, model_path, tmp_path, capsys):
    directory = open_model_directory(model_path)
    torch.manual_seed(0)
    classifier = load_classifier_for_training(directory, ["alpha", "beta"], "expression", 0.0)
    save_model_directory(
        tmp_path / "c", classifier, directory.vocabulary, directory.medians, directory.settings, "a test"
    )
    flags = ("--genes", "INS", "--cell_types", "beta", "--model_path", tmp_path / "c")
    assert run(*flags, "--stream", "expression") == 2
    assert "--stream has no effect with a classifier, which reads what it was trained on" in capsys.readouterr().err
    assert run(*flags) == 0


def test_bad_input_is_named(run, tmp_path, capsys):
    (tmp_path / "s.gmt").write_text("INS\tx\tGCG\n")
    assert run("--genes", "INS", "--gene_sets", tmp_path / "s.gmt") == 2
    assert "INS is one of --genes and a set of" in capsys.readouterr().err
    assert run("--genes", "INSS") == 2
    assert "--genes: 1 of 1 genes are not in the model's vocabulary, such as INSS" in capsys.readouterr().err
    assert run() == 2
    assert "nothing to perturb" in capsys.readouterr().err
    assert run("--genes", "XIST", "--cell_types", "beta") == 2
    assert "no cell that the model reads has any of XIST, so there is nothing to remove" in capsys.readouterr().err
    assert run("--genes", "INS", "--cell_types", "beta", "--goal", "beta") == 2
    assert "all cells are of the type --goal beta; choose other types to start from" in capsys.readouterr().err
