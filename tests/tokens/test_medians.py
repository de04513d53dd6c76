"""Medians of non-zero CP10k: exact, from a histogram, on disk, and by the script."""

import json
import logging
import os
import pickle
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from scdmc.cells.splits import write_split
from scdmc.errors import ScDMCError
from scdmc.files import sha256_of_file
from scdmc.genes.ids import match_genes
from scdmc.genes.vocabulary import load_vocabulary
from scdmc.reading.counts import open_counts
from scdmc.tokens.medians import (
    DEFAULT_GENE_MEDIAN_FILE,
    GeneMedians,
    MedianAccumulator,
    add_block,
    checked_medians,
    load_gene_medians,
    medians_by_gene,
)
from scdmc.tokens.tokenizer import Tokenizer, collect_medians

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


@pytest.mark.parametrize("exact_limit", [0, 10_000, 25_000, 30_000, 50_000_000])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_merged_accumulators_are_one_pass_bit_for_bit(islets, exact_limit, order):
    counts, token_ids, n_counts = islets
    _, token_ids = np.unique(token_ids, return_inverse=True)  # Small histograms do here.

    def collected(*blocks):
        accumulator = MedianAccumulator(len(token_ids), exact_limit)
        for cells in blocks:
            add_block(accumulator, counts[cells], token_ids, n_counts[cells])
        return accumulator

    blocks = (slice(0, 30), slice(30, 31), slice(31, 300))
    merged, expected = collected(), collected(*blocks)
    for index in order:
        merged.merge(collected(blocks[index]))
    assert merged.medians() == expected.medians()
    assert (merged.n_cells, merged.n_entries) == (expected.n_cells, expected.n_entries)
    assert merged.is_exact == expected.is_exact == (exact_limit > 30_000)


def test_what_was_collected_differently_is_not_merged():
    with pytest.raises(ScDMCError, match="one vocabulary and one --exact_limit"):
        MedianAccumulator(5, 10).merge(MedianAccumulator(5, 11))
    with pytest.raises(ScDMCError, match="one vocabulary and one --exact_limit"):
        MedianAccumulator(6, 10).merge(MedianAccumulator(5, 10))


def test_medians_can_be_asked_for_in_between(islets, vocabulary):
    counts, token_ids, n_counts = islets
    accumulator = MedianAccumulator(len(vocabulary))
    for cells in (slice(0, 100), slice(100, 300)):
        add_block(accumulator, counts[cells], token_ids, n_counts[cells])
        accumulator.medians()
    assert accumulator.medians() == accumulated(islets, vocabulary).medians()


def test_memory_does_not_grow_with_the_corpus():
    accumulator = MedianAccumulator(5, exact_limit=1000)
    for block in range(100):
        accumulator.add(np.full(100, 4), np.linspace(1, 2, 100) + block, 1)
        assert sum(entries.nbytes for entries in accumulator.entries) <= 8 * 1000
    assert accumulator.histogram.nbytes == 4 * 5 * accumulator.n_bins
    values = np.concatenate([np.linspace(1, 2, 100) + block for block in range(100)])
    assert accumulator.medians() == {4: pytest.approx(np.median(values), rel=0.005)}


@pytest.mark.parametrize("values", [[3.0], [1.0, 9.0], [0.01, 2.0, 3000.0], [5, 1, 1, 7], [2e-4, 9999.0, 1.0, 3.0]])
def test_odd_and_even_numbers_of_values_have_the_median_of_numpy(values):
    assert accumulator_of(values, 100).medians() == {4: pytest.approx(np.median(values), rel=1e-7)}
    assert accumulator_of(values, 0).medians() == {4: pytest.approx(np.median(values), rel=0.005)}


@pytest.mark.parametrize("value", [1e-9, 1e9, 1e300])
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


def test_medians_may_be_numbers_of_numpy():
    medians = checked_medians({TP53: np.float32(1.5), INS: np.float64(2.5), GCG: np.int64(3)}, "a test")
    assert medians.medians == {TP53: 1.5, INS: 2.5, GCG: 3.0}
    assert {type(value) for value in medians.medians.values()} == {float}


def test_rounded_medians_keep_significant_digits():
    medians = GeneMedians({TP53: 1.23456789, INS: 1234.56789, GCG: 0.000123456789}, "a test").rounded(4)
    assert medians.medians == {TP53: 1.235, INS: 1235.0, GCG: 0.0001235}


def test_the_medians_that_ship_with_scdmc(vocabulary):
    medians = load_gene_medians("default")
    provenance = json.loads(DEFAULT_GENE_MEDIAN_FILE.with_suffix(".provenance.json").read_text())
    assert medians.sha256 == provenance["sha256"]
    assert len(medians.medians) == medians.n_known_genes(vocabulary) == provenance["genes"]
    assert provenance["vocabulary_sha256"] == vocabulary.sha256
    assert provenance["cells"] == sum(provenance["cells_taken"]["dataset"].values())
    assert not set(provenance["cells_taken"]["dataset"]) & set(provenance["left_out"]["dataset"])
    table = (DEFAULT_GENE_MEDIAN_FILE.parent / "README.md").read_text()
    assert sha256_of_file(DEFAULT_GENE_MEDIAN_FILE) in table
    assert sha256_of_file(DEFAULT_GENE_MEDIAN_FILE.with_suffix(".provenance.json")) in table


def test_the_shipped_medians_are_made_again_from_the_pool(shared, script, tmp_path):
    left_out = json.loads(DEFAULT_GENE_MEDIAN_FILE.with_suffix(".provenance.json").read_text())["left_out"]["dataset"]
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "pretrain_pool.h5ad").symlink_to(shared / "data" / "pretrain_pool.h5ad")
    rule = f"dataset={','.join(left_out)}"
    output = tmp_path / DEFAULT_GENE_MEDIAN_FILE.name
    assert run(script, tmp_path / "pool", output, "--leave_out", rule, "--significant_digits", 6) == 0
    assert output.read_bytes() == DEFAULT_GENE_MEDIAN_FILE.read_bytes()
    provenance = Path(output).with_suffix(".provenance.json")
    assert provenance.read_bytes() == DEFAULT_GENE_MEDIAN_FILE.with_suffix(".provenance.json").read_bytes()


def test_the_published_medians_can_be_given(shared, vocabulary):
    medians = load_gene_medians(shared / "reference_data" / "gene_medians_42005.json")
    assert len(medians.medians) == 42_005
    assert medians.n_known_genes(vocabulary) > 38_000
    medians.require_known_genes(vocabulary)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("number_type", [float, int, np.float64, np.float32, np.int64])
def test_a_pickle_of_numbers_gives_the_same_medians_as_json(tmp_path, number_type, protocol):
    path = tmp_path / "gene_median_dictionary.pkl"
    path.write_bytes(pickle.dumps({TP53: number_type(2), f"{INS}.4": number_type(3)}, protocol))
    assert load_gene_medians(path).medians == {TP53: 2.0, INS: 3.0}


def test_a_pickle_may_name_numpy_as_older_versions_did(tmp_path):
    content = pickle.dumps({TP53: np.float64(1.25)}, 4)
    assert b"numpy._core.multiarray" in content
    old = content.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    (tmp_path / "medians.pkl").write_bytes(old[:2] + b"\x95" + (len(old) - 11).to_bytes(8, "little") + old[11:])
    assert load_gene_medians(tmp_path / "medians.pkl").medians == {TP53: 1.25}


def test_numbers_of_either_byte_order_are_read(tmp_path):
    scalar = np.float64(1).__reduce__()[0]
    big_endian = _Reduced(scalar, (np.dtype(">f8"), np.array([1.25], dtype=">f8").tobytes()))
    (tmp_path / "medians.pkl").write_bytes(pickle.dumps({TP53: big_endian}))
    assert load_gene_medians(tmp_path / "medians.pkl").medians == {TP53: 1.25}


class _Reduced:
    """An object whose pickle calls a function."""

    def __init__(self, function, arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("function", [os.system, eval, Path.touch, print, getattr, np.array, np.load])
def test_a_pickle_that_calls_anything_is_refused_and_not_run(tmp_path, function):
    mark = tmp_path / "it_ran"
    arguments = {os.system: (f"touch {mark}",), Path.touch: (mark,)}
    code = f"open({str(mark)!r}, 'w')"
    path = tmp_path / "medians.pkl"
    path.write_bytes(pickle.dumps({TP53: _Reduced(function, arguments.get(function, (code,)))}))
    with pytest.raises(ScDMCError, match=r"medians.pkl \(gene medians\).*may run code; it was not run"):
        load_gene_medians(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps([1.5]),
        pickle.dumps({1: 1.5}),
        pickle.dumps({TP53: "2"}),
        pickle.dumps({TP53: [1.5]}),
        pickle.dumps({TP53: np.bool_(True)}),
        pickle.dumps({TP53: np.float64(-1)}),
        pickle.dumps({TP53: np.array([1.5])}),
        pickle.dumps({TP53: np.datetime64(1, "s")}),
        pickle.dumps({TP53: np.float64(2)})[:-9],
        pickle.dumps({TP53: _Reduced(np.float64(2).__reduce__()[0], (1, b""))}),
        pickle.dumps({TP53: _Reduced(np.dtype, (7,))}),
        b"",
        b"no pickle",
        b"\x80\x04",
        b'{"ENSG00000141510": 2}',
    ],
)
def test_a_pickle_of_anything_but_numbers_by_name_is_an_error(tmp_path, content):
    (tmp_path / "medians.pkl").write_bytes(content)
    with pytest.raises(ScDMCError, match=r"medians\.pkl"):
        load_gene_medians(tmp_path / "medians.pkl")


def test_a_pickle_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ScDMCError, match=r"absent.pkl: no such file \(gene medians\)"):
        load_gene_medians(tmp_path / "absent.pkl")


def test_medians_that_are_absent_or_no_json_object_are_an_error(tmp_path, write_json_file):
    with pytest.raises(ScDMCError, match=r"absent.json: no such file \(gene medians\)"):
        load_gene_medians(tmp_path / "absent.json")
    (tmp_path / "medians.json").write_bytes(b"\x80\x04}\x94.")
    with pytest.raises(ScDMCError, match="not JSON"):
        load_gene_medians(tmp_path / "medians.json")
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


def test_the_script_leaves_cells_out_by_a_column_of_obs(script, islets_folder, tmp_path, islets, vocabulary):
    cell_type = pd.concat([anndata.read_h5ad(path).obs["cell_type"].astype(str) for path in islets_folder.iterdir()])
    is_taken = ~cell_type.isin(["beta", "alpha"]).to_numpy()
    options = ["--leave_out", "cell_type=beta,alpha", "--significant_digits", 3]
    assert run(script, islets_folder, tmp_path / "medians.json", *options) == 0
    counts, token_ids, n_counts = islets
    expected = numpy_medians(counts[is_taken], token_ids, n_counts[is_taken])
    medians = json.loads((tmp_path / "medians.json").read_text())
    assert {vocabulary.token_ids[gene]: pytest.approx(value, rel=5e-3) for gene, value in medians.items()} == expected
    assert all(value == float(f"{value:.3g}") for value in medians.values())
    provenance = json.loads((tmp_path / "medians.provenance.json").read_text())
    assert provenance["cells"] == is_taken.sum() < 300
    assert provenance["left_out"] == {"cell_type": ["beta", "alpha"]}
    assert provenance["cells_taken"]["cell_type"] == cell_type[is_taken].value_counts().to_dict()
    assert provenance["significant_digits"] == 3


@pytest.mark.parametrize("rule", ["cell_type=Beta", "celltype=beta", "cell_type"])
def test_a_rule_that_leaves_nothing_out_is_an_error(script, islets_folder, tmp_path, capsys, rule):
    assert run(script, islets_folder, tmp_path / "medians.json", "--leave_out", rule) == 2
    assert "error: --leave_out" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [islets_folder]


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
        adata.X = adata.X * 0
        adata.write_h5ad(islets_folder / name)
    assert run(script, islets_folder, tmp_path / "medians.json") == 2
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "medians.json").exists()


def test_the_script_replaces_neither_a_folder_nor_the_provenance_unasked(script, islets_folder, tmp_path, capsys):
    (tmp_path / "medians.provenance.json").write_text("mine")
    assert run(script, islets_folder, tmp_path / "medians.json") == 2
    assert "medians.provenance.json exists already" in capsys.readouterr().err
    folder = tmp_path / "folder.json"
    folder.mkdir()
    assert run(script, islets_folder, folder, "--overwrite") == 2
    assert "folder.json is a folder; name a file" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_the_script_says_where_counts_come_from_and_how_many_genes_matched(script, islets_folder, tmp_path, capsys):
    assert run(script, islets_folder, tmp_path / "medians.json") == 0
    log = capsys.readouterr().err
    assert "a.h5ad: 120 of 120 cells taken; counts from X; " in log
    assert " of 3,000 genes matched by var_names" in log


def test_a_notebook_collects_medians_as_the_script_does(islets_folder, islets, vocabulary):
    files = sorted(islets_folder.iterdir())
    tokenizer = Tokenizer(vocabulary, load_gene_medians(None))
    assert collect_medians(files, tokenizer).medians() == pytest.approx(numpy_medians(*islets))
    first = collect_medians(files, tokenizer, choose_cells=lambda counts: np.arange(counts.n_cells) < 1)
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
