"""Random data, good and broken: tokenized as a dense reference says, or refused with our error."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import SPECIAL_TOKENS, Vocabulary
from scdmc.reading.counts import counts_of_adata, open_counts
from scdmc.tokens.medians import GeneMedians
from scdmc.tokens.tokenized_cells import ROW_COLUMN
from scdmc.tokens.tokenizer import Tokenizer, tokenize_counts

pytestmark = pytest.mark.slow

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed (pip install hypothesis)")
st = pytest.importorskip("hypothesis.strategies", reason="hypothesis is not installed (pip install hypothesis)")

CLS, EOS = 2, 3
TP53, INS, GCG, XIST, CD3E = (
    "ENSG00000141510", "ENSG00000254647", "ENSG00000115263", "ENSG00000229807", "ENSG00000198851",
)  # fmt: skip
GENES = [TP53, INS, GCG, XIST, CD3E]
# How a file may name a gene, and what that stands for.
NAMES = {
    TP53: TP53, f"{TP53}.18": TP53, TP53.lower(): TP53, "TP53": TP53, "tp53": TP53,
    INS: INS, f"{INS}.2": INS, f"{INS}_PAR_Y": INS, " INS ": INS,
    GCG: GCG, "Gcg": GCG, XIST: XIST, CD3E: CD3E, "CD3E": CD3E,
    "ENSG00000999999": None, "no gene": None, "": None, "nan": None, "<cls>": None,
}  # fmt: skip
DAMAGES = {"nan": np.nan, "negative": -1.0, "fraction": 0.5, "infinite": np.inf}
# Of n_counts: most of them are impossible for a cell with counts.
TOTALS = [0.0, -1.0, np.nan, np.inf, 0.5, 1.0, 7.0, 1e6, 1e-300]
# Totals that are possible, relative to the sum of the cell's counts.
FACTORS = [1.0, 1.5, 7.0, 1e6]


@dataclass
class Case:
    """An AnnData, what is in it, and how it is tokenized."""

    adata: anndata.AnnData
    counts: np.ndarray
    genes: list
    n_counts: np.ndarray
    passes: np.ndarray
    is_broken: bool
    tokenizer: Tokenizer


def reference(case):
    """Both streams of each cell (docs/method.md, "Tokenization"), written down as plainly as possible."""
    tokens, medians = case.tokenizer.vocabulary.token_ids, case.tokenizer.medians.medians
    cells = {}
    for row in np.flatnonzero(case.passes):
        n, values = case.n_counts[row], {}
        is_empty = not (np.isfinite(n) and n > 0)
        if is_empty and case.tokenizer.drop_empty_cells:
            continue
        for gene in set(case.genes) - {None}:
            x = sum(case.counts[row, column] for column, name in enumerate(case.genes) if name == gene)
            if x > 0 and not is_empty:
                values[tokens[gene]] = x / n * 10_000 / medians.get(gene, 1.0)
        rank = sorted(values, key=lambda token: (-values[token], token))[: case.tokenizer.model_input_size - 2]
        expression = sorted(rank)
        cells[row] = (
            [CLS, *rank, EOS],
            [CLS, *expression, EOS],
            [1.0, *(np.log1p(values[token]) for token in expression), 1.0],
        )
    return cells


@st.composite
def cases(draw):
    n_cells, n_genes = draw(st.sampled_from([3, 1, 2, 4, 5, 0])), draw(st.sampled_from([5, 1, 2, 3, 7, 0]))
    names = draw(st.lists(st.sampled_from(list(NAMES)), min_size=n_genes, max_size=n_genes))
    values = st.sampled_from([0, 0, 0, 1, 2, 3, 50, 255])
    counts = np.array(draw(st.lists(values, min_size=n_cells * n_genes, max_size=n_cells * n_genes)), dtype=np.float64)
    counts = counts.reshape(n_cells, n_genes)
    dtype = draw(st.sampled_from(["uint8", "int32", "int64", "uint32", "float32", "float64"]))
    damage = draw(st.sampled_from([*[None] * 10, "huge", *DAMAGES]))
    is_broken = False
    if counts.size and damage is not None:
        place = draw(st.integers(0, n_cells - 1)), draw(st.integers(0, n_genes - 1))
        if damage == "huge":
            dtype = draw(st.sampled_from(["int64", "uint32", "float32", "float64"]))
            counts[place] = 2.0**24 + 2
            is_broken = dtype == "float32"
        else:
            dtype = draw(st.sampled_from(["float32", "float64"]))
            counts[place], is_broken = DAMAGES[damage], True
    matrix = stored(draw, counts.astype(dtype))
    obs, n_counts, passes, is_refused = draw_obs(draw, counts)
    adata = assembled(draw, matrix, counts, obs, var_of(draw, names))
    vocabulary = Vocabulary({token: index for index, token in enumerate((*SPECIAL_TOKENS, *GENES))}, "a test")
    medians = draw(st.sampled_from([{}, {INS: 2.0, TP53: 0.5}, {GCG: 3e-4, CD3E: 977.7}]))
    tokenizer = Tokenizer(
        vocabulary,
        GeneMedians(medians, "a test"),
        model_input_size=draw(st.sampled_from([3, 4, 2048])),
        drop_empty_cells=draw(st.booleans()),
    )
    return Case(adata, counts, [NAMES[name] for name in names], n_counts, passes, is_broken or is_refused, tokenizer)


def stored(draw, counts):
    """The matrix as a file may hold it; a sparse one may store zeros."""
    layout = draw(st.sampled_from(["dense", "csr", "csc"]))
    if layout == "dense":
        return counts
    is_stored = (counts != 0) | (draw(st.booleans()) & (np.arange(counts.size).reshape(counts.shape) % 2 == 0))
    rows, columns = np.nonzero(is_stored)
    matrix = scipy.sparse.csr_matrix((counts[rows, columns], (rows, columns)), shape=counts.shape)
    return matrix if layout == "csr" else matrix.tocsc()


def draw_obs(draw, counts):
    """Obs, the total and the filter of each cell as they should be understood, and whether totals are refused."""
    n_cells = len(counts)
    index = [f"cell{row // 2 if draw(st.booleans()) else row}" for row in range(n_cells)]
    obs = pd.DataFrame(index=pd.Index(index, dtype=object))
    with np.errstate(invalid="ignore"):
        sums, passes = counts.sum(axis=1), np.ones(n_cells, dtype=bool)
    totals = n_counts = sums
    kind = draw(st.sampled_from(["none", "none", "none", "given", "given", "given", "impossible", "text"]))
    if kind in ("given", "impossible"):
        totals = np.array(draw(st.lists(st.sampled_from(TOTALS), min_size=n_cells, max_size=n_cells)), np.float64)
        if kind == "given":
            factors = draw(st.lists(st.sampled_from(FACTORS), min_size=n_cells, max_size=n_cells))
            totals = np.where(sums > 0, sums * factors, totals)
        obs["n_counts"], n_counts = totals, np.where(np.isfinite(totals) & (totals > 0), totals, 0)
    elif kind == "text":
        obs["n_counts"] = pd.Series(["many"] * n_cells, index=obs.index, dtype=object)
    if draw(st.booleans()):
        passes = np.array(draw(st.lists(st.booleans(), min_size=n_cells, max_size=n_cells)), dtype=bool)
        obs["filter_pass"] = passes.astype(draw(st.sampled_from(["int64", "float64", "bool"])))
    is_impossible = passes & (sums > 0) & ~(np.isfinite(totals) & (totals >= sums))
    return obs, n_counts, passes, kind == "text" or is_impossible.any()


def var_of(draw, names):
    """Gene annotation with the names in one of the places where they are looked for."""
    column = draw(st.sampled_from(["index", "ensembl_id", "feature_id", "gene_symbol"]))
    if column == "index":
        return pd.DataFrame(index=pd.Index(names, dtype=object))
    return pd.DataFrame({column: pd.Series(names, dtype=object)}).set_index(
        pd.Index([f"gene {i}" for i in range(len(names))], dtype=object)
    )


def assembled(draw, matrix, counts, obs, var):
    """The matrix in X, or in a layer or raw beside an X of normalised values."""
    place = draw(st.sampled_from(["X", "X", "counts", "raw"]))
    if place == "X":
        return anndata.AnnData(matrix, obs, var)
    with np.errstate(invalid="ignore", divide="ignore"):
        normalised = np.log1p(np.where(np.isfinite(counts), counts, 0).clip(0))
    adata = anndata.AnnData(normalised, obs, var)
    if place == "counts":
        adata.layers["counts"] = matrix
    else:
        adata.raw = anndata.AnnData(matrix, var=var)
    return adata


def require_as_expected(counts, case):
    """Tokenize, and compare with the reference, or with what cannot be tokenized."""
    expected = reference(case) if not case.is_broken else {}
    if case.is_broken or not expected or not any(case.genes):
        with pytest.raises(ScDMCError) as error, counts as opened:
            tokenize_counts(opened, case.tokenizer)
        assert "\n" not in str(error.value)
        return
    with counts as opened:
        cells = tokenize_counts(opened, case.tokenizer)
    assert cells.obs[ROW_COLUMN].tolist() == list(expected)
    assert cells.obs["cell_id"].tolist() == [case.adata.obs_names[row] for row in expected]
    for cell, (rank, expression, values) in enumerate(expected.values()):
        tokens = slice(*cells.rank_offsets[cell : cell + 2])
        assert cells.rank_ids[tokens].tolist() == rank
        assert cells.expression_ids[tokens].tolist() == expression
        np.testing.assert_allclose(cells.expression_values[tokens], values, rtol=1e-6)


class InMemory:
    """Counts of an AnnData, opened as those of a file are: what is wrong with them comes up inside the ``with``."""

    def __init__(self, adata):
        self.adata = adata

    def __enter__(self):
        return counts_of_adata(self.adata)

    def __exit__(self, *_):
        return False


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
@hypothesis.settings(
    derandomize=True, database=None, deadline=None, max_examples=25, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(cases())
def test_any_data_are_tokenized_as_the_reference_says_or_refused(case):
    require_as_expected(InMemory(case.adata), case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        case.adata.write_h5ad(path)
        require_as_expected(open_counts(path), case)
