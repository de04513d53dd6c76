"""Medians of non-zero CP10k: exact, from a histogram, on disk, and by the script."""

import json
import logging

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from scdmc.counts import open_counts
from scdmc.errors import ScDMCError
from scdmc.gene_ids import match_genes
from scdmc.gene_medians import GeneMedians, MedianAccumulator, add_block, load_gene_medians, medians_by_gene
from scdmc.splits import write_split
from scdmc.tokenization import Tokenizer, collect_medians
from scdmc.vocabulary import load_vocabulary

TP53, INS, GCG = "ENSG00000141510", "ENSG00000254647", "ENSG00000115263"


@pytest.fixture(scope="module")
def vocabulary():
    return load_vocabulary()


@pytest.fixture
def script(load_script):
    return load_script("tokenizer/gene_medians.py")


@pytest.fixture(scope="module")
def islets(islets_path, vocabulary):
    """Counts, tokens of the columns and totals of 300 real cells."""
    with open_counts(islets_path) as counts:
        ((_, block),) = counts.blocks()
        return block, match_genes(counts.var, vocabulary).token_ids, counts.obs["n_counts"].to_numpy(dtype=float)


def numpy_medians(counts, token_ids, n_counts):
    """Median of each gene, gene by gene."""
    dense = counts.toarray().astype(np.float64)
    medians = {}
    for token in np.unique(token_ids[token_ids >= 0]):
        cp10k = dense[:, token_ids == token].sum(axis=1) / n_counts * 10_000
        if cp10k.any():
            medians[int(token)] = np.median(cp10k[cp10k > 0])
    return medians


def accumulated(islets, vocabulary, block_size=300, exact_limit=50_000_000):
    counts, token_ids, n_counts = islets
    accumulator = MedianAccumulator(len(vocabulary), exact_limit)
    for start in range(0, counts.shape[0], block_size):
        stop = start + block_size
        add_block(accumulator, counts[start:stop], token_ids, n_counts[start:stop])
    return accumulator


def accumulator_of(values, exact_limit):
    accumulator = MedianAccumulator(5, exact_limit)
    for value in values:
        accumulator.add(np.array([4]), np.array([value]), 1)
    return accumulator


def test_exact_medians_of_real_cells_are_those_of_numpy(islets, vocabulary):
    expected = numpy_medians(*islets)
    accumulator = accumulated(islets, vocabulary, block_size=70)
    assert accumulator.is_exact
    assert accumulator.n_cells == 300
    medians = accumulator.medians()
    assert list(medians) == list(expected)
    assert len(medians) > 2500
    # The values are kept in float32.
    np.testing.assert_allclose(list(medians.values()), list(expected.values()), rtol=1e-7)


def test_histogram_medians_of_real_cells_are_within_half_a_percent(islets, vocabulary):
    expected = numpy_medians(*islets)
    accumulator = accumulated(islets, vocabulary, block_size=70, exact_limit=30_000)
    assert not accumulator.is_exact
    medians = accumulator.medians()
    assert list(medians) == list(expected)
    np.testing.assert_allclose(list(medians.values()), list(expected.values()), rtol=0.005)


@pytest.mark.parametrize("exact_limit", [0, 30_000, 50_000_000])
def test_blocks_do_not_change_the_medians(islets, vocabulary, exact_limit):
    medians = [accumulated(islets, vocabulary, size, exact_limit).medians() for size in (300, 70, 23)]
    assert medians[0] == medians[1] == medians[2]


@pytest.mark.parametrize("values", [[3.0], [1.0, 9.0], [0.01, 2.0, 3000.0], [5, 1, 1, 7], [2e-4, 9999.0, 1.0, 3.0]])
def test_odd_and_even_numbers_of_values_have_the_median_of_numpy(values):
    assert accumulator_of(values, 100).medians() == {4: pytest.approx(np.median(values), rel=1e-7)}
    assert accumulator_of(values, 0).medians() == {4: pytest.approx(np.median(values), rel=0.005)}


@pytest.mark.parametrize("value", [1e-9, 1e9])
def test_values_beyond_the_histogram_go_to_its_ends(value):
    medians = accumulator_of([value], 0).medians()
    assert medians[4] == pytest.approx(np.clip(value, 1e-4, 1e4), rel=0.02)


def test_columns_of_one_gene_are_summed_before_the_median_is_taken(vocabulary):
    accumulator = MedianAccumulator(len(vocabulary))
    counts = scipy.sparse.csr_matrix(np.array([[1.0, 2.0, 7.0], [5.0, 0.0, 5.0]]))
    add_block(accumulator, counts, np.array([9, 9, -1]), np.array([10.0, 10.0]))
    assert accumulator.medians() == {9: pytest.approx(4000)}


def test_stored_zeros_and_cells_without_a_total_do_not_count(vocabulary):
    accumulator = MedianAccumulator(len(vocabulary))
    counts = scipy.sparse.csr_matrix(np.ones((4, 1)))
    counts.data[:] = [0.0, 4.0, 9.0, 9.0]
    add_block(accumulator, counts, np.array([9]), np.array([10.0, 10.0, 0.0, np.nan]))
    assert accumulator.medians() == {9: pytest.approx(4000)}
    assert accumulator.n_entries == 1


@pytest.mark.parametrize("exact_limit", [0, 100])
def test_without_values_there_are_no_medians(exact_limit):
    accumulator = MedianAccumulator(5, exact_limit)
    assert accumulator.medians() == {}
    accumulator.add(np.zeros(0, dtype=np.int64), np.zeros(0), 3)
    assert accumulator.medians() == {}


def test_medians_survive_the_disk(islets, vocabulary, tmp_path):
    medians = medians_by_gene(accumulated(islets, vocabulary), vocabulary, "a test")
    medians.save(tmp_path / "medians.json")
    read = load_gene_medians(tmp_path / "medians.json")
    assert read.medians == medians.medians
    assert read.sha256 == medians.sha256
    assert list(read.medians) == sorted(read.medians)
    np.testing.assert_array_equal(read.by_token(vocabulary), medians.by_token(vocabulary))


def test_the_hash_depends_on_the_medians_and_not_on_their_order():
    one = GeneMedians({TP53: 1.5, INS: 2}, "a")
    assert one.sha256 == GeneMedians({INS: 2.0, TP53: 1.5}, "b").sha256
    assert one.sha256 != GeneMedians({INS: 2.0, TP53: 1.25}, "a").sha256
    assert one.sha256 != GeneMedians({INS: 2.0, GCG: 1.5}, "a").sha256


def test_a_gene_without_a_median_has_one(vocabulary):
    by_token = GeneMedians({TP53: 2.5, "ENSG00000999999": 7.0}, "a test").by_token(vocabulary)
    assert by_token[vocabulary.token_ids[TP53]] == 2.5
    assert np.delete(by_token, vocabulary.token_ids[TP53]).tolist() == [1.0] * (len(vocabulary) - 1)
    assert set(load_gene_medians(None).by_token(vocabulary)) == {1.0}


@pytest.mark.parametrize("value", [0, -1.5, "2", None, True, [1], float("nan"), float("inf")])
def test_what_is_no_positive_number_is_no_median(write_json_file, value):
    path = write_json_file("medians.json", {TP53: 1.5, INS: value})
    with pytest.raises(ScDMCError, match=f"positive number.*{INS}"):
        load_gene_medians(path)


def test_medians_that_are_absent_or_no_json_object_are_an_error(tmp_path, write_json_file):
    with pytest.raises(ScDMCError, match=r"absent.json: no such file \(gene medians\)"):
        load_gene_medians(tmp_path / "absent.json")
    (tmp_path / "medians.pkl").write_bytes(b"\x80\x04}\x94.")
    with pytest.raises(ScDMCError, match="not JSON"):
        load_gene_medians(tmp_path / "medians.pkl")
    with pytest.raises(ScDMCError, match="JSON object"):
        load_gene_medians(write_json_file("list.json", [1.5]))


@pytest.fixture
def islets_folder(islets_path, tmp_path):
    """The 300 cells as two files."""
    folder = tmp_path / "cells"
    folder.mkdir()
    adata = anndata.read_h5ad(islets_path)
    adata[:120].write_h5ad(folder / "a.h5ad")
    adata[120:].write_h5ad(folder / "b.h5ad")
    return folder


def run(script, folder, output, *options):
    return script.main(["--input_directory", str(folder), "--output_file", str(output), *map(str, options)])


def test_the_script_writes_the_medians_and_where_they_come_from(script, islets_folder, tmp_path, islets, vocabulary):
    assert run(script, islets_folder, tmp_path / "medians.json") == 0
    expected = numpy_medians(*islets)
    medians = json.loads((tmp_path / "medians.json").read_text())
    assert {vocabulary.token_ids[gene]: pytest.approx(value) for gene, value in medians.items()} == expected
    provenance = json.loads((tmp_path / "medians.provenance.json").read_text())
    assert provenance["files"] == ["a.h5ad", "b.h5ad"]
    assert provenance["cells"] == 300
    assert provenance["genes"] == len(expected)
    assert provenance["exact"]
    assert not provenance["training_cells_only"]
    assert provenance["vocabulary_sha256"] == vocabulary.sha256
    assert provenance["sha256"] == load_gene_medians(tmp_path / "medians.json").sha256


def test_the_script_counts_training_cells_only(script, islets_folder, tmp_path, islets, vocabulary):
    parts = np.random.default_rng(0).choice(["train", "validation", "test", "left_out"], 300, p=[0.4, 0.2, 0.2, 0.2])
    names = np.concatenate([anndata.read_h5ad(islets_folder / name).obs_names for name in ("a.h5ad", "b.h5ad")])
    files = np.repeat(["a.h5ad", "b.h5ad"], [120, 180])
    split = tmp_path / "split.csv"
    write_split(split, pd.DataFrame({"source_file": files, "cell_id": names}), np.full(300, "x"), parts)
    assert run(script, islets_folder, tmp_path / "medians.json", "--split_file", split) == 0
    is_train = parts == "train"
    counts, token_ids, n_counts = islets
    expected = numpy_medians(counts[is_train], token_ids, n_counts[is_train])
    medians = json.loads((tmp_path / "medians.json").read_text())
    assert {vocabulary.token_ids[gene]: pytest.approx(value) for gene, value in medians.items()} == expected
    assert expected != numpy_medians(*islets)
    provenance = json.loads((tmp_path / "medians.provenance.json").read_text())
    assert provenance["cells"] == is_train.sum()
    assert provenance["training_cells_only"]


def test_cells_that_are_not_tokenized_do_not_shape_the_medians(script, islets_path, tmp_path, islets, vocabulary):
    adata = anndata.read_h5ad(islets_path)
    passes = np.arange(300) % 3 > 0
    adata.obs["filter_pass"] = passes.astype(int)
    (tmp_path / "cells").mkdir()
    adata.write_h5ad(tmp_path / "cells" / "a.h5ad")
    assert run(script, tmp_path / "cells", tmp_path / "medians.json") == 0
    counts, token_ids, n_counts = islets
    expected = numpy_medians(counts[passes], token_ids, n_counts[passes])
    medians = json.loads((tmp_path / "medians.json").read_text())
    assert {vocabulary.token_ids[gene]: pytest.approx(value) for gene, value in medians.items()} == expected


def test_the_script_says_when_the_medians_are_not_exact(script, islets_folder, tmp_path, capsys):
    assert run(script, islets_folder, tmp_path / "medians.json", "--exact_limit", 1000) == 0
    assert "within 0.5%" in capsys.readouterr().out
    assert not json.loads((tmp_path / "medians.provenance.json").read_text())["exact"]


def test_the_script_does_not_replace_its_output_unasked(script, islets_folder, tmp_path, capsys):
    output = tmp_path / "medians.json"
    output.write_text("mine")
    assert run(script, islets_folder, output) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert output.read_text() == "mine"
    assert run(script, islets_folder, output, "--overwrite") == 0
    assert len(load_gene_medians(output).medians) > 2500


def test_the_script_without_a_training_cell_is_an_error(script, islets_folder, tmp_path, capsys, caplog):
    caplog.set_level(logging.WARNING)
    for name in ("a.h5ad", "b.h5ad"):
        adata = anndata.read_h5ad(islets_folder / name)
        adata.obs["n_counts"] = 0
        adata.write_h5ad(islets_folder / name)
    assert run(script, islets_folder, tmp_path / "medians.json") == 2
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "medians.json").exists()


def test_the_script_replaces_neither_a_folder_nor_the_provenance_unasked(script, islets_folder, tmp_path, capsys):
    (tmp_path / "medians.provenance.json").write_text("mine")
    assert run(script, islets_folder, tmp_path / "medians.json") == 2
    assert "medians.provenance.json exists already" in capsys.readouterr().err
    assert run(script, islets_folder, islets_folder, "--overwrite") == 2
    assert "cells is a folder; name a file" in capsys.readouterr().err
    assert len(list(islets_folder.iterdir())) == 2


def test_the_script_says_where_counts_come_from_and_how_many_genes_matched(script, islets_folder, tmp_path, capsys):
    assert run(script, islets_folder, tmp_path / "medians.json") == 0
    log = capsys.readouterr().err
    assert "a.h5ad: 120 of 120 cells taken; counts from X; " in log
    assert " of 3,000 genes matched by var_names, " in log


def test_a_notebook_collects_medians_as_the_script_does(islets_folder, islets, vocabulary):
    files = sorted(islets_folder.iterdir())
    assert collect_medians(files, vocabulary).medians() == pytest.approx(numpy_medians(*islets))
    first = collect_medians(files, vocabulary, choose_cells=lambda counts: np.arange(counts.n_cells) < 1)
    assert first.n_cells == 2


def test_versions_and_case_of_ids_do_not_matter(write_json_file, vocabulary):
    names = {f"{TP53}.18": 2.0, INS.lower(): 3.0, f"{GCG}.2": 9.0, GCG: 4.0, f"{GCG}.2_PAR_Y": 8.0}
    medians = load_gene_medians(write_json_file("medians.json", names))
    assert medians.medians == {TP53: 2.0, INS: 3.0, GCG: 4.0}
    assert medians.sha256 == GeneMedians({TP53: 2.0, INS: 3.0, GCG: 4.0}, "a test").sha256
    assert medians.n_known_genes(vocabulary) == 3


def test_medians_of_no_gene_of_the_vocabulary_are_refused(write_json_file, vocabulary):
    symbols = load_gene_medians(write_json_file("symbols.json", {"INS": 2.0, "GCG": 3.0}))
    with pytest.raises(ScDMCError, match=r"symbols.json: none of its 2 genes is in the vocabulary.*'GCG', 'INS'"):
        Tokenizer(vocabulary, symbols)
    empty = load_gene_medians(write_json_file("empty.json", {}))
    assert set(Tokenizer(vocabulary, empty).median_of_token) == {1.0}


def test_the_log_says_how_many_medians_are_of_use(write_json_file, vocabulary, caplog):
    caplog.set_level(logging.INFO)
    load_gene_medians(write_json_file("some.json", {"INS": 2.0, TP53: 3.0})).log_known_genes(vocabulary)
    load_gene_medians(None).log_known_genes(vocabulary)
    assert "gene medians: 1 of the 2 in " in caplog.messages[0]
    assert caplog.messages[1] == "gene medians: none (every median is 1)"
