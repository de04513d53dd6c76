"""What counts as a gene and what as the total of a cell, in every kind of file; values by a short computation."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import load_vocabulary
from scdmc.reading.counts import counts_of_adata, open_counts
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.tokenizer import Tokenizer, tokenize_counts
from tests.reading.test_count_files import write_10x, write_loom, write_mtx, write_zarr

GENES = {
    "CD4": "ENSG00000010610", "CD19": "ENSG00000177455", "INS": "ENSG00000254647", "GCG": "ENSG00000115263",
    "TP53": "ENSG00000141510", "ACTB": "ENSG00000075624",
}  # fmt: skip
COUNTS = np.random.default_rng(0).poisson(3, (7, len(GENES))).astype(np.float32)
COUNTS[:, 0] += 1


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(load_vocabulary(), load_gene_medians(None))


def data(n_others=0, word="Gene Expression", other="Antibody Capture", others=()):
    """Cells of six genes; of other features each is named like a gene and holds 500 counts a cell."""
    symbols = [*GENES, *others] if len(others) else [*GENES, *list(GENES)[:n_others]]
    n_others = len(symbols) - len(GENES)
    matrix = np.hstack([COUNTS, np.full((len(COUNTS), n_others), 500, np.float32)])
    var = pd.DataFrame({"gene_symbol": symbols}, index=[f"f{number}" for number in range(len(symbols))])
    var["ensembl_id"] = [*GENES.values(), *symbols[len(GENES) :]]
    var["feature_types"] = [word] * len(GENES) + [other] * n_others
    obs = pd.DataFrame(index=[f"cell{number}" for number in range(len(matrix))])
    return anndata.AnnData(scipy.sparse.csr_matrix(matrix), obs=obs, var=var)


def expected_values(counts=COUNTS, totals=None):
    """Per cell: gene -> ln(1 + counts / total * 10,000)."""
    totals = counts.sum(axis=1) if totals is None else totals
    return [
        {gene: np.log1p(x / n * 1e4) for gene, x in zip(GENES.values(), row, strict=True) if x}
        for row, n in zip(counts.astype(float), totals, strict=True)
    ]


def values_of(counts, tokenizer):
    """Per cell of tokenized counts: gene -> value."""
    cells, tokens = tokenize_counts(counts, tokenizer), tokenizer.vocabulary.tokens
    found = []
    for start, stop in zip(cells.expression_offsets[:-1] + 1, cells.expression_offsets[1:] - 1, strict=True):
        names = tokens[cells.expression_ids[start:stop]]
        assert set(names) == set(tokens[cells.rank_ids[start:stop]])
        found.append(dict(zip(names, cells.expression_values[start:stop], strict=True)))
    return found


def require_values(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_allclose([one[gene] for gene in other], list(other.values()), rtol=1e-6)


def as_raw(adata, path):
    """Counts in raw; only var of the processed data says what the features are."""
    whole = adata.copy()
    whole.X = scipy.sparse.csr_matrix(np.log1p(adata.X.toarray()) + 0.1)
    whole.raw = anndata.AnnData(adata.X, obs=adata.obs, var=adata.var.drop(columns="feature_types"))
    whole.write_h5ad(path)
    return path


def as_layer(adata, path):
    layered = adata.copy()
    layered.layers["counts"] = adata.X.copy()
    layered.X = scipy.sparse.csr_matrix(np.log1p(adata.X.toarray()) + 0.1)
    layered.write_h5ad(path)
    return path


def as_h5ad(adata, path):
    adata.write_h5ad(path)
    return path


def as_loom(adata, path):
    import h5py

    write_loom(adata, path)
    with h5py.File(path, "r+") as file:
        file["row_attrs/feature_types"] = adata.var["feature_types"].to_numpy(dtype="S")
    return path


WRITERS = {
    "x.h5ad": as_h5ad,
    "raw.h5ad": as_raw,
    "layer.h5ad": as_layer,
    "csc.h5ad": lambda adata, path: as_h5ad(anndata.AnnData(adata.X.tocsc(), obs=adata.obs, var=adata.var), path),
    "x.zarr": write_zarr,
    "x.loom": as_loom,
    "x.h5": lambda adata, path: write_10x(adata, path, types=adata.var["feature_types"].to_numpy(dtype=str)),
    "mtx": lambda adata, path: write_mtx(adata, path, types=adata.var["feature_types"].to_numpy(dtype=str)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_features_that_are_no_genes_count_neither_as_genes_nor_in_totals(kind, tokenizer, tmp_path):
    path = WRITERS[kind](data(2), tmp_path / kind)
    with open_counts(path) as counts:
        assert counts.left_out == {"Antibody Capture": 2}
        assert len(counts.var) == len(GENES)
        require_values(values_of(counts, tokenizer), expected_values())


def test_an_annotated_object_in_memory_is_read_by_the_same_rules(tokenizer):
    counts = counts_of_adata(data(2))
    assert counts.left_out == {"Antibody Capture": 2}
    require_values(values_of(counts, tokenizer), expected_values())


@pytest.mark.parametrize("column", ["feature_types", "feature_type", "modality"])
@pytest.mark.parametrize(
    ("word", "other", "is_left_out"),
    [
        ("Gene Expression", "Peaks", True), ("Gene Expression", "CRISPR Guide Capture", True),
        ("Gene Expression", "Multiplexing Capture", True), ("Gene Expression", "My Own Word", True),
        ("gene expression", "ADT", True), ("GEX", "ATAC", True), ("RNA", "Protein", True), ("Gene", "Antibody", True),
        ("my genes", "Antibody Capture", True), ("my genes", "my genes", False), ("", "", False),
        ("protein_coding", "lncRNA", False), ("", "Peaks", True), (np.nan, "Peaks", True),
    ],
)  # fmt: skip
def test_the_words_for_genes(column, word, other, is_left_out, tokenizer):
    adata = data(2, word, other)
    adata.var = adata.var.rename(columns={"feature_types": column})
    counts = counts_of_adata(adata)
    assert counts.left_out == ({other: 2} if is_left_out else {})
    if is_left_out:
        require_values(values_of(counts, tokenizer), expected_values())


def test_unknown_words_without_gene_expression_are_genes_with_a_warning_but_biotypes_without(caplog):
    assert counts_of_adata(data(2, "exons", "introns")).left_out == {}
    assert "features of the type 'exons', 'introns' are taken as genes" in caplog.text
    caplog.clear()
    counts_of_adata(data(2, "protein_coding", "snoRNA"))
    assert not caplog.text


def test_a_file_without_a_gene_says_what_it_holds():
    with pytest.raises(ScDMCError, match=r"adata: none of its 6 features is a gene: there are 6 Peaks"):
        counts_of_adata(data(0, "Peaks"))


@pytest.mark.parametrize("kind", ["x.h5ad", "x.h5", "mtx", "x.zarr"])
def test_of_a_mixture_of_genomes_the_human_part_is_taken_and_said(kind, tokenizer, tmp_path, caplog):
    caplog.set_level("INFO")
    adata = data(others=["Cd4", "Ins1", "Gcg"])
    adata.var["ensembl_id"] = [f"GRCh38_{name}" for name in GENES.values()] + [
        f"mm10___ENSMUSG0000000000{number}" for number in range(3)
    ]
    adata.var["gene_symbol"] = [f"GRCh38_{name}" for name in GENES] + [f"mm10___{n}" for n in ("Cd4", "Ins1", "Gcg")]
    adata.var["feature_types"] = "Gene Expression"
    adata.var_names = adata.var["gene_symbol"].to_numpy()
    with open_counts(WRITERS[kind](adata, tmp_path / kind)) as counts:
        assert counts.left_out == {"genes of mm10": 3}
        require_values(values_of(counts, tokenizer), expected_values())
    assert "3 genes of mm10" in caplog.text


SUMS = COUNTS.sum(axis=1).astype(float)


@pytest.mark.parametrize(
    "wrong",
    [SUMS / 2, np.log1p(SUMS), SUMS * 1e-3, np.full(len(SUMS), np.nan), np.zeros(len(SUMS)), -SUMS,
     np.full(len(SUMS), np.inf), np.where(np.arange(len(SUMS)) == 3, np.nan, SUMS * 2)],
)  # fmt: skip
def test_a_total_that_cannot_be_one_is_an_error_or_the_sum(wrong, tokenizer, tmp_path):
    adata = data()
    adata.obs["n_counts"] = wrong
    path = as_h5ad(adata, tmp_path / "a.h5ad")
    first = int(np.flatnonzero(~(np.isfinite(wrong) & (wrong >= SUMS)))[0])
    with open_counts(path) as counts, pytest.raises(ScDMCError) as error:
        values_of(counts, tokenizer)
    assert f"cell 'cell{first}' has {SUMS[first]:.7g} counts and n_counts {wrong[first]!s}" in str(error.value)
    assert "--recompute_totals" in str(error.value)
    with open_counts(path, recompute_totals=True) as counts:
        require_values(values_of(counts, tokenizer), expected_values())
    require_values(values_of(counts_of_adata(adata, recompute_totals=True), tokenizer), expected_values())


def test_possible_totals_are_believed_in_every_type(tokenizer):
    adata = data()
    totals = (SUMS * 3).round()
    columns = [
        totals, totals.astype(np.float32), totals.astype(int), pd.array(totals.astype(int), dtype="Int64"),
        pd.Categorical(totals), totals.astype(int).astype(str),
    ]  # fmt: skip
    for column in columns:
        adata.obs["n_counts"] = column
        require_values(values_of(counts_of_adata(adata), tokenizer), expected_values(totals=totals))


def test_rounding_in_single_precision_is_no_fault(tokenizer):
    adata = data()
    adata.obs["n_counts"] = SUMS * (1 - 1e-6)
    require_values(values_of(counts_of_adata(adata), tokenizer), expected_values())


def test_totals_of_cells_that_are_not_taken_do_not_matter(tokenizer):
    adata = data()
    adata.obs["n_counts"] = np.where(np.arange(len(SUMS)) == 2, np.nan, SUMS)
    adata.obs["filter_pass"] = (np.arange(len(SUMS)) != 2).astype(int)
    expected = expected_values()
    del expected[2]
    require_values(values_of(counts_of_adata(adata), tokenizer), expected)


def test_the_report_of_a_file_says_what_was_left_out(load_script, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    adata = data(2)
    adata.obs["n_counts"] = SUMS / 2
    as_h5ad(adata, folder / "cite.h5ad")
    main = load_script("tokenizer/tokenizer_combine.py").main
    flags = ["--input_directory", str(folder), "--output_directory", str(tmp_path / "out"), "--output_prefix", "a"]
    assert main(flags) == 2
    assert main([*flags, "--recompute_totals"]) == 0
    (report,) = json.loads((tmp_path / "out" / "a.report.json").read_text())["files"]
    assert report["features_left_out"] == {"Antibody Capture": 2}
    assert report["recompute_totals"] is True
    assert (report["genes"], report["counts_total"]) == (len(GENES), int(SUMS.sum()))
    medians = load_script("tokenizer/gene_medians.py").main
    flags = ["--input_directory", str(folder), "--output_file", str(tmp_path / "medians.json")]
    assert medians(flags) == 2
    assert medians([*flags, "--recompute_totals"]) == 0
    found = json.loads((tmp_path / "medians.json").read_text())
    share = COUNTS / SUMS[:, None] * 1e4
    for number, gene in enumerate(GENES.values()):
        assert found[gene] == pytest.approx(np.median(share[:, number][share[:, number] > 0]))
