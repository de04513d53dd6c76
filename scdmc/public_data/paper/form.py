"""The one form in which every data set of the paper is written: raw counts, Ensembl ids, the same columns of obs."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.errors import ScDMCError, shown_names
from scdmc.genes.ids import match_genes
from scdmc.genes.symbols import gene_symbols
from scdmc.genes.vocabulary import ensembl_id, load_vocabulary
from scdmc.labels import is_missing
from scdmc.reading.counts import open_counts
from scdmc.reading.text_lines import open_lines

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


# Of obs, in their order; `split` is drawn after the cells are read.
COLUMNS = ("cell_type", "batch", "donor", "tissue", "disease")


# What the values are, in `uns['source']['values']`.
AS_COUNTS, NORMALIZED = "counts, as in the source", "normalised, as in the source"


# Which cells a published evaluation learns from, and which it is tested on; a column of obs until the split is drawn.
PART, REFERENCE, QUERY = "part", "reference", "query"


MOST_BYTES_OF_TABLE = 2**32


@dataclass
class PaperCells:
    """The cells of a source as they were read.

    Attributes
    ----------
    counts
        Shape (n_cells, n_genes), CSR.
    obs
        n_cells rows with :data:`COLUMNS` as far as the source has them, and :data:`PART` where there is one.
    var
        n_genes rows with ``gene_ids`` or ``gene_symbols``, as :func:`scdmc.genes.ids.match_genes` reads them.
    values
        What the values are, one phrase.
    notes
        Which of two forms was met, what was left out: one sentence each.
    """

    counts: scipy.sparse.csr_matrix
    obs: pd.DataFrame
    var: pd.DataFrame
    values: str = AS_COUNTS
    notes: list[str] = field(default_factory=list)

    def note(self, text: str, *values: object) -> None:
        """Say something in the log, and keep it for the file."""
        logger.info(text, *values)
        self.notes.append(text % values if values else text)


def read_matrix(path: Path, layer: str | None = None) -> PaperCells:
    """All cells and genes of a file of counts, whatever its values; features that are no genes are left out.

    Parameters
    ----------
    path
        ``.h5ad`` or a folder of 10x.
    layer
        See :func:`scdmc.reading.counts.open_counts`.
    """
    with open_counts(path, layer=layer, allow_normalized=True) as counts:
        blocks = [block for _, block in counts.blocks()]
        matrix = scipy.sparse.csr_matrix(scipy.sparse.vstack(blocks), dtype=np.float64)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        return PaperCells(matrix, counts.obs.copy(), counts.var.copy())


def is_whole(matrix: scipy.sparse.csr_matrix) -> np.ndarray:
    """True for the cells whose values are all whole numbers, shape (n_cells,)."""
    is_odd = matrix.data != np.rint(matrix.data)
    odd = np.add.reduceat(np.append(is_odd, False), matrix.indptr[:-1]) if matrix.shape[0] else np.zeros(0)
    return (odd == 0) | (np.diff(matrix.indptr) == 0)


def read_table(path: Path, columns: Sequence[str], separator: str) -> pd.DataFrame:
    """A table of text with the columns that are needed.

    Raises
    ------
    ScDMCError
        If it is no such table, or lacks a column.
    """
    try:
        with open_lines(path, MOST_BYTES_OF_TABLE) as file:
            table = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False)
    except (ValueError, OSError, EOFError) as error:
        raise ScDMCError(f"{path} is no table that can be read ({str(error).splitlines()[0]})") from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise ScDMCError(
            f"{path} lacks the column {missing[0]!r}; it has {shown_names(map(repr, table), 10)}: is it the file of "
            "this data set?"
        )
    return table


def rows_of(names: Sequence[str], labelled: Sequence[str], path: Path) -> np.ndarray:
    """For each cell of a matrix the row of a table of labels, -1 for none; shape (n_cells,).

    Parameters
    ----------
    names
        Cells of the matrix.
    labelled
        Cells of the table.
    path
        The table, for messages.

    Raises
    ------
    ScDMCError
        If the table names a cell twice, or one that the matrix lacks.
    """
    table = pd.Index(labelled)
    if table.has_duplicates:
        raise ScDMCError(f"{path} names the cell {table[table.duplicated()][0]!r} twice")
    absent = table.difference(pd.Index(names), sort=False)
    if len(absent):
        raise ScDMCError(
            f"{path} names {len(absent):,} of its {len(table):,} cells that the matrix lacks, the first "
            f"{shown_names(map(repr, absent), 3)}: the two files do not belong together"
        )
    return table.get_indexer(pd.Index(names))


def in_one_form(cells: PaperCells, source: Mapping[str, object]) -> "AnnData":
    """An AnnData of the cells: X raw counts (CSR, float32), obs with :data:`COLUMNS`, var_names Ensembl ids.

    Parameters
    ----------
    cells
        What was read.
    source
        Where it comes from, for ``uns['source']``.

    Raises
    ------
    ScDMCError
        If no gene is known, two cells have one name, or no cell has a type.
    """
    from anndata import AnnData

    obs = pd.DataFrame(index=cells.obs.index.astype(str).rename(None))
    if not obs.index.is_unique:
        raise ScDMCError(f"two cells are called {obs.index[obs.index.duplicated()][0]!r}; the source is damaged")
    for name in (*COLUMNS, *([PART] if PART in cells.obs else [])):
        column = cells.obs[name].to_numpy(dtype=object) if name in cells.obs else np.full(len(obs), None)
        texts = np.array([str(value) for value in column], dtype=object)
        texts[is_missing(column)] = None
        obs[name] = pd.Categorical(texts)
    if obs["cell_type"].isna().all():
        raise ScDMCError("no cell has a type; is the table of types that of this data set?")
    is_unlabelled = obs["cell_type"].isna().to_numpy()
    if is_unlabelled.any():
        cells.note("%s cells have no type", f"{is_unlabelled.sum():,}")
    var = _with_ensembl_ids(cells)
    about = {**source, "values": cells.values, "notes": np.array(cells.notes, dtype=object)}
    return AnnData(cells.counts.astype(np.float32), obs=obs, var=var, uns={"source": about})


def _with_ensembl_ids(cells: PaperCells) -> pd.DataFrame:
    """The genes, with an Ensembl id as the name of each gene that has one, and its symbol."""
    from anndata.utils import make_index_unique

    vocabulary = load_vocabulary(None)
    match = match_genes(cells.var, vocabulary, source="the source")
    column = next((name for name in ("gene_symbols", "gene_symbol") if name in cells.var), None)
    symbols = pd.Series(cells.var.index if column is None else cells.var[column].to_numpy()).astype(str)
    named = [name or symbol for name, symbol in zip(match.names, symbols, strict=True)]
    ids = np.array([ensembl_id(name) or name for name in named], dtype=object)
    _, first = np.unique(match.token_ids, return_index=True)
    is_first = np.zeros(len(ids), dtype=bool)
    is_first[first] = True
    # Of two columns of one gene, which are added when they are read, the second keeps its own name.
    known = match.is_matched & is_first
    ids[known] = vocabulary.tokens[match.token_ids[known]]
    n_ids = sum(ensembl_id(name) is not None for name in ids)
    cells.note("%s of %s genes have an Ensembl id; the others keep their names", f"{n_ids:,}", f"{len(ids):,}")
    # A source without symbols has ids in their place.
    official = np.where([ensembl_id(name) is not None for name in symbols], gene_symbols(ids), symbols)
    var = pd.DataFrame({"gene_symbol": official})
    var.index = make_index_unique(pd.Index(ids, dtype=object))
    return var
