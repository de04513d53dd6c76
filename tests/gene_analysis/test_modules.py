"""Gene modules: a planted module is found, tests against random sets by hand, the script from counts to report."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from scipy.stats import hypergeom

from scdmc.gene_analysis.module_detection import (
    central_genes,
    enrichment_table,
    expression_profiles,
    find_modules,
    module_activity,
)
from scdmc.gene_analysis.module_results import activity_title
from scdmc.gene_analysis.modules import COEXPRESSION, METHOD, WORDS, ModuleResults
from scdmc.gene_analysis.set_consistency import (
    PermutationTest,
    consistency,
    enriched_sets,
    enrichment_test,
    matching_strata,
    mean_cosines,
    permutation_within,
)
from scdmc.gene_analysis.states import centred_units

PLANTED = np.repeat([0, 1, 2], [50, 40, 30])


@pytest.fixture(scope="module")
def vectors():
    generator = np.random.default_rng(0)
    return generator.normal(size=(3, 8))[PLANTED] * 3 + generator.normal(size=(120, 8))


@pytest.fixture(scope="module")
def found(vectors):
    return find_modules(vectors, (0.1, 0.3), seed=1)


def membership_of(*sets):
    rows = [np.isin(np.arange(120), members) for members in sets]
    return scipy.sparse.csr_matrix(np.array(rows, dtype=np.float32))


def test_planted_modules_are_found_the_largest_first(found):
    assert (found.modules == PLANTED).all()
    assert found.coordinates.shape == (120, 2)
    assert set(found.by_resolution) == {0.1, 0.3}
    texts = central_genes(found, np.array([f"G{i}" for i in range(120)], dtype=object), 3)
    assert all(PLANTED[int(gene[1:])] == module for module, text in enumerate(texts) for gene in text.split(", "))


def test_mean_cosine_is_the_mean_over_pairs(vectors):
    units = centred_units(vectors)
    members = [3, 17, 80, 101]
    pairs = [units[i] @ units[j] for i in members for j in members if i < j]
    assert mean_cosines(units, membership_of(members))[0] == pytest.approx(np.mean(pairs), abs=1e-6)


def test_permutations_keep_every_gene_in_its_stratum():
    strata = matching_strata(np.arange(120.0), np.arange(120) % 7)
    permutation = permutation_within(strata, np.random.default_rng(0))
    assert sorted(permutation) == list(range(120))
    assert (strata[permutation] == strata).all()
    assert (permutation != np.arange(120)).any()
    assert ((strata % 5 == 0) == (np.arange(120) % 7 == 0)).all()  # degree 0 is a bin of its own


def test_a_set_within_a_module_is_consistent_and_a_random_one_is_not(vectors):
    generator = np.random.default_rng(1)
    membership = membership_of(np.arange(20), generator.choice(120, 20, replace=False))
    strata = np.zeros(120, dtype=int)
    test, table = consistency(centred_units(vectors), membership, ["real", "random"], strata, 200)
    assert table["p"].tolist() == [pytest.approx(1 / 201), pytest.approx(table["p"][1])]
    assert table["p"][1] > 0.05
    assert test.observed == pytest.approx(table["mean_cosine"].mean())
    assert test.p < 0.01
    assert test.z > 3


def test_a_permutation_test_counts_the_real_sets_among_the_random():
    test = PermutationTest.of_draws(2.0, np.array([1.0, 2.0, 3.0]))
    assert (test.p, test.null_mean) == (3 / 4, 2.0)


def test_enrichment_is_the_hypergeometric_test_over_all_pairs():
    membership = membership_of(np.arange(30), np.arange(0, 120, 4))
    symbols = np.array([f"G{i}" for i in range(120)], dtype=object)
    table = enrichment_table(PLANTED, symbols, ["in", "everywhere"], membership)
    best = table.iloc[0]
    assert (best["module"], best["gene_set"], best["overlap"], best["set_size"]) == ("M1", "in", 30, 30)
    assert best["p"] == pytest.approx(hypergeom.sf(29, 120, 30, 50), rel=1e-6)
    assert best["fdr"] == pytest.approx(min(1, 6 * best["p"]), rel=1e-6)  # 2 sets x 3 modules
    assert enriched_sets(membership, PLANTED) == (table[table["fdr"] < 0.05]["gene_set"].nunique()) == 1
    test = enrichment_test(membership, PLANTED, np.zeros(120, dtype=int), 50)
    assert test.observed == 1
    assert test.p < 0.1


def test_a_module_is_active_where_its_genes_are_expressed():
    generator = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 40)
    counts = generator.poisson(0.5, size=(80, 120)).astype(np.float32)
    counts[:40, PLANTED == 0] += 2
    expression = scipy.sparse.csr_matrix(np.log1p(counts))
    activity = module_activity(expression, PLANTED, labels)
    assert activity.shape == (3, 2)
    assert activity.loc["M1", "a"] - activity.loc["M1", "b"] > 0.5
    profiles = centred_units(expression_profiles(expression, 5))
    inside = profiles[PLANTED == 0] @ profiles[PLANTED == 0].T
    outside = profiles[PLANTED == 0] @ profiles[PLANTED == 1].T
    assert inside.mean() > outside.mean() + 0.2


def test_a_module_without_control_genes_has_no_activity(caplog):
    counts = np.random.default_rng(0).poisson(2, size=(20, 6)).astype(np.float32)
    activity = module_activity(scipy.sparse.csr_matrix(counts), np.zeros(6, dtype=int), np.repeat(["a", "b"], 10))
    assert activity.loc["M1"].isna().all()
    assert "no activity of M1" in caplog.text


def test_the_title_counts_modules_that_stand_out_only_where_there_are_types_enough():
    of_four = pd.DataFrame([[1.7, -0.6, -0.6, -0.6], [1.0, 1.0, -1.0, -1.0]])
    assert activity_title(of_four).startswith("1 of 2 modules are active in some type")
    assert activity_title(of_four.iloc[:, :3]).startswith("2 modules in 3 types, too few")


def test_the_verdict_names_every_baseline_and_what_cannot_be_compared():
    test = {"test": "pathway consistency", "observed": 0.3, "null_mean": 0.1, "p": 0.001}
    other = test | {"test": "enriched gene sets"}
    tests = [
        test | {"method": METHOD, "z": 3.0}, test | {"method": WORDS, "z": 5.0},
        test | {"method": COEXPRESSION, "z": 2.0},
        other | {"method": METHOD, "z": np.nan}, other | {"method": COEXPRESSION, "z": 2.0},
    ]  # fmt: skip
    verdict = ModuleResults(None, None, None, None, tests=pd.DataFrame(tests)).verdict
    assert f"less far (3.0 standard deviations) than {WORDS} (5.0;" in verdict
    assert f"further (3.0 standard deviations) than {COEXPRESSION} (2.0;" in verdict
    assert f"not comparable with {COEXPRESSION} (random sets do not vary;" in verdict


def test_the_script_writes_tables_figures_and_a_report(load_script, model_path, islets_path, tmp_path, capsys):
    symbols = anndata.read_h5ad(islets_path, backed="r").var_names
    lines = [f"set_{i}\tx\t" + "\t".join(symbols[i::40]) for i in range(30)]
    (tmp_path / "sets.gmt").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    options = ["--model_path", model_path, "--data_path", islets_path, "--output_dir", out, "--min_cells_per_gene", 5]
    options += ["--gene_sets", tmp_path / "sets.gmt", "--permutations", 20, "--resolutions", 0.5, 1.5]
    script = load_script("downstream_tasks/gene_modules.py")
    assert script.main([str(word) for word in options]) == 0
    captured = capsys.readouterr()
    assert "with --permutations 20 no p can be below 0.01, so no claim can hold" in captured.err
    printed = captured.out
    assert "Genes of one set lie closer together" in printed
    assert "co-expression" in printed
    genes = pd.read_csv(out / "genes.csv")
    assert {"gene_id", "symbol", "module", "resolution_0.5", "resolution_1.5", "UMAP1"} <= set(genes)
    tests = pd.read_csv(out / "tests.csv")
    assert sorted(tests["test"].value_counts()) == [2, 3]
    assert (tests["p"] >= 1 / 21 - 1e-9).all()
    page = (out / "report.html").read_text(encoding="utf8")
    assert page.count("data:image/png;base64,") >= 3
    for name in ("umap", "activity", "consistency"):
        assert (out / f"{name}.png").exists()
        assert (out / f"{name}.pdf").exists()
    assert script.main([str(word) for word in [*options, "--overwrite", "--cell_types", "neuron"]]) == 2
    assert "no cell type 'neuron' with enough cells; there are " in capsys.readouterr().err
    assert (out / "enrichment.csv").exists()
    without_sets = [*options[:8], "--resolutions", 0.5, "--overwrite"]
    assert script.main([str(word) for word in without_sets]) == 0
    stems = ("activity", "genes", "manifest", "modules", "report", "umap")
    assert {path.stem for path in out.iterdir()} == set(stems)
    assert script.main([str(word) for word in [*without_sets, "--permutations", 1000]]) == 2
    assert "--permutations has no effect without --gene_sets" in capsys.readouterr().err
