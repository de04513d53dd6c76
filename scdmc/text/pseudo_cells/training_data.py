"""Cells with counts and terms, as the generator is trained on them.

Source: docs/pseudo_cells.md, "Training".
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.text.corpus import TRAIN, Corpus
from scdmc.text.model import TextSpace
from scdmc.text.pseudo_cells.counts import CorpusCounts
from scdmc.text.pseudo_cells.panel import chosen_genes
from scdmc.text.training_data import VALIDATION

FEWEST_CELLS = 50


@dataclass(frozen=True)
class GeneratorData:
    """Cells to train on, and validation cells.

    Attributes
    ----------
    counts
        Of the panel, CSR of shape (n_cells, n_genes), float32.
    totals
        Of each cell over all genes, shape (n_cells,).
    terms
        Row of the term of each cell in ``space.terms``, shape (n_cells,).
    data_sets
        Number of the data set of each cell, shape (n_cells,).
    is_training
        False for validation cells, shape (n_cells,).
    genes
        Ensembl ids of the panel.
    names
        Of the data sets.
    space
        The training texts.
    """

    counts: scipy.sparse.csr_matrix
    totals: np.ndarray
    terms: np.ndarray
    data_sets: np.ndarray
    is_training: np.ndarray
    genes: np.ndarray
    names: tuple[str, ...]
    space: TextSpace

    def with_other(self, cells: np.ndarray) -> np.ndarray:
        """Counts of some cells, and in the last column those of all other genes; dense, (n_cells, n_genes + 1)."""
        panel = self.counts[cells].toarray()
        other = np.maximum(self.totals[cells] - panel.sum(axis=1), 0).astype(np.float32)
        return np.concatenate([panel, other[:, None]], axis=1)


def generator_data(corpus: Corpus, counts: CorpusCounts, space: TextSpace, n_genes: int) -> GeneratorData:
    """The training and validation cells of the terms that a text model knows, and the panel of the training cells.

    Cells of terms that are held out are in neither.

    Parameters
    ----------
    corpus, counts
        The cells.
    space
        The texts of the model.
    n_genes
        Of the panel.

    Raises
    ------
    ScDMCError
        If there are too few cells, or too few genes.
    """
    obs = corpus.cells.obs.iloc[counts.rows]
    row_of_term = {cl_id: row for row, cl_id in enumerate(space.terms["cl_id"])}
    terms = obs["cl_id"].astype(object).map(row_of_term).to_numpy(dtype=float)
    parts = obs["split"].astype(str).to_numpy()
    usable = np.flatnonzero(np.isin(parts, (TRAIN, VALIDATION)) & ~np.isnan(terms) & (counts.totals > 0))
    chosen, is_training = counts.select(usable), parts[usable] == TRAIN
    if is_training.sum() < FEWEST_CELLS:
        raise ScDMCError(
            f"{corpus.path}: {is_training.sum()} training cells, and a generator needs {FEWEST_CELLS}; add data sets"
        )
    of_cells = obs["dataset"].astype(str).to_numpy()[usable]
    names = sorted(set(of_cells[is_training]))
    known = np.isin(of_cells, names)
    chosen, is_training, usable, of_cells = chosen.select(known), is_training[known], usable[known], of_cells[known]
    data_sets = np.searchsorted(names, of_cells)
    own = [is_training & (data_sets == number) for number in range(len(names))]
    columns = chosen_genes([chosen.counts[cells] for cells in own], [chosen.totals[cells] for cells in own], n_genes)
    return GeneratorData(
        scipy.sparse.csr_matrix(chosen.counts[:, columns]),
        chosen.totals,
        terms[usable].astype(int),
        data_sets,
        is_training,
        chosen.genes[columns],
        tuple(names),
        space,
    )
