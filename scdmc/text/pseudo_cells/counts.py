"""Raw counts of the cells of a corpus, which itself keeps none: the files that it was made of are read again.

Source: docs/pseudo_cells.md, "Counts".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.cells.data import tokenizer_of_model
from scdmc.cells.shared_genes import CellCounts, GeneKeys, log1p_cp10k_of, read_cell_counts
from scdmc.errors import ScDMCError, shown_names
from scdmc.genes.ids import UNMATCHED
from scdmc.model.folder import ModelDirectory
from scdmc.reading.counts import open_counts
from scdmc.reading.options import CountOptions, is_counts
from scdmc.text.corpus import Corpus
from scdmc.tokens.streams import COUNTS_PER_CELL
from scdmc.tokens.tokenized_cells import expression_of_cells

# Between ln(1 + CP10k / median) of a stored cell, in single precision, and of its counts.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class CorpusCounts:
    """Counts of cells of a corpus.

    Attributes
    ----------
    rows
        The cells, as rows of the corpus, shape (n_cells,).
    counts
        CSR of shape (n_cells, n_genes), float32.
    genes
        Ensembl ids, sorted; those that all files have, shape (n_genes,).
    totals
        Counts of each cell over all genes of its file, shape (n_cells,).
    """

    rows: np.ndarray
    counts: scipy.sparse.csr_matrix
    genes: np.ndarray
    totals: np.ndarray

    def select(self, cells: np.ndarray) -> "CorpusCounts":
        """The chosen cells (indices, or True for each)."""
        return replace(self, rows=self.rows[cells], counts=self.counts[cells], totals=self.totals[cells])

    def of_genes(self, genes: np.ndarray) -> scipy.sparse.csr_matrix:
        """Counts of some genes, in this order; one that is not there has none; shape (n_cells, len(genes))."""
        place = pd.Index(self.genes).get_indexer(genes)
        there = np.flatnonzero(place >= 0)
        chooser = scipy.sparse.csr_matrix(
            (np.ones(len(there), dtype=np.float32), (place[there], there)), shape=(len(self.genes), len(genes))
        )
        return scipy.sparse.csr_matrix(self.counts @ chooser)

    def expression(self, genes: np.ndarray) -> scipy.sparse.csr_matrix:
        """ln(1 + CP10k) of some genes, by the total of each cell; shape (n_cells, len(genes))."""
        return log1p_cp10k_of(self.of_genes(genes), self.totals)


def read_corpus_counts(
    corpus: Corpus,
    paths: Sequence[Path],
    model_directory: ModelDirectory,
    options: CountOptions | None = None,
) -> CorpusCounts:
    """Find the cells of a corpus in the files that it was made of, and check that they are the same.

    Parameters
    ----------
    corpus
        The corpus.
    paths
        The files; each is known by its name, which the corpus keeps.
    model_directory
        Whose vocabulary and medians the corpus was made with.
    options
        How the files are read.

    Raises
    ------
    ScDMCError
        If a file of the corpus is not given, a cell is not found, its counts are none, or others than the corpus has.
    """
    options = options or CountOptions()
    sources = corpus.cells.obs["source_file"].astype(str).to_numpy()
    _require_all_files(corpus, sources, paths)
    tokenizer = tokenizer_of_model(model_directory, options)
    rows, parts = [], []
    for path in paths:
        with open_counts(path, **options.of_counts()) as counts:
            if counts.is_normalized:
                raise ScDMCError(f"--counts_path {path} holds no counts, and cells are made of counts only")
            own = read_cell_counts(counts, GeneKeys.of(counts, tokenizer))
        of_file = np.flatnonzero(sources == path.name)
        own = own.select(_cells_of(corpus, of_file, own, path))
        _require_same_cells(corpus, of_file, own, model_directory, path)
        rows.append(of_file)
        parts.append(_of_known_genes(own, model_directory))
    genes = sorted(set.intersection(*(set(part.keys) for part in parts)))
    if not genes:
        raise ScDMCError(f"--counts_path: {shown_names([path.name for path in paths])} share no gene")
    keys = np.array(genes)
    matrices = [part.of_genes(keys).counts for part in parts]
    return CorpusCounts(
        np.concatenate(rows),
        scipy.sparse.csr_matrix(scipy.sparse.vstack(matrices)),
        keys,
        np.concatenate([part.totals for part in parts]),
    )


def _require_all_files(corpus: Corpus, sources: np.ndarray, paths: Sequence[Path]) -> None:
    names = [Path(path).name for path in paths]
    tokenized = [str(path) for path in paths if not is_counts(Path(path))]
    if tokenized:
        raise ScDMCError(f"--counts_path {tokenized[0]} is tokenized; name the raw counts that it was made of")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ScDMCError(f"--counts_path names {shown_names(twice)} twice")
    missing = sorted(set(sources) - set(names))
    if missing:
        raise ScDMCError(
            f"{corpus.path} was made of files whose counts are not given: {shown_names(missing)}; name them with "
            "--counts_path, as the corpus itself keeps no counts"
        )
    strange = sorted(set(names) - set(sources))
    if strange:
        raise ScDMCError(
            f"--counts_path: {shown_names(strange)} is no file of {corpus.path} ({shown_names(set(sources))})"
        )


def _cells_of(corpus: Corpus, of_file: np.ndarray, own: CellCounts, path: Path) -> np.ndarray:
    """Places of the corpus' cells in a file, by their ids."""
    wanted = corpus.cells.obs["cell_id"].astype(str).to_numpy()[of_file]
    names = pd.Index(own.obs.index.astype(str))
    twice = names[names.duplicated()].intersection(wanted)
    if len(twice):
        raise ScDMCError(f"--counts_path {path}: several cells are called {twice[0]!r}; make the names unique, and "
                         "the corpus again")  # fmt: skip
    place = names.get_indexer(wanted)
    if (place < 0).any():
        lost = wanted[place < 0]
        raise ScDMCError(
            f"--counts_path {path} lacks {len(lost):,} of {len(wanted):,} cells of {corpus.path} "
            f"({shown_names(lost[:3])}); name the file that the corpus was made of"
        )
    return place


def _require_same_cells(
    corpus: Corpus, of_file: np.ndarray, own: CellCounts, model_directory: ModelDirectory, path: Path
) -> None:
    """Compare the values that the corpus keeps with those of the counts."""
    vocabulary = model_directory.vocabulary
    kept = expression_of_cells(corpus.cells, of_file, len(vocabulary))  # CSR (n_cells, vocab_size)
    known = np.flatnonzero(own.tokens != UNMATCHED)
    medians = model_directory.medians.by_token(vocabulary)
    scale = COUNTS_PER_CELL / np.where(own.totals > 0, own.totals, 1.0)
    values = scipy.sparse.diags_array(scale) @ own.counts[:, known].astype(np.float64)
    values = scipy.sparse.coo_matrix(values)
    tokens = own.tokens[known][values.col]
    found = scipy.sparse.csr_matrix((np.log1p(values.data / medians[tokens]), (values.row, tokens)), shape=kept.shape)
    difference = np.asarray(abs(kept - found.multiply(kept != 0)).max(axis=1).todense()).ravel()
    wrong = np.flatnonzero(difference > TOLERANCE)
    if len(wrong):
        cell = str(corpus.cells.obs["cell_id"].iloc[of_file[wrong[0]]])
        raise ScDMCError(
            f"--counts_path {path}: {len(wrong):,} of {len(of_file):,} cells have other counts than when "
            f"{corpus.path} was made (cell {cell!r}); make the corpus again"
        )


def _of_known_genes(own: CellCounts, model_directory: ModelDirectory) -> CellCounts:
    """The columns that are genes of the vocabulary, by their Ensembl ids."""
    known = np.flatnonzero(own.tokens != UNMATCHED)
    ids = model_directory.vocabulary.tokens[own.tokens[known]].astype(str)
    order = np.argsort(ids, kind="stable")
    known = known[order]
    return replace(
        own,
        counts=scipy.sparse.csr_matrix(own.counts[:, known]),
        keys=ids[order],
        names=own.names[known],
        tokens=own.tokens[known],
    )
