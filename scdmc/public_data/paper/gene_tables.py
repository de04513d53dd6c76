"""Myeloid: for each cancer a table of expression and one of metadata; counts are recovered where that is exact."""

import gzip
import logging
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse
from pyarrow import csv

from scdmc.errors import COPY_AGAIN, ScDMCError, shown_names
from scdmc.public_data.paper.form import (
    NORMALIZED,
    PART,
    QUERY,
    REFERENCE,
    PaperCells,
    is_whole,
    read_table,
    rows_of,
)
from scdmc.public_data.paper.options import MYELOID_CANCERS, MYELOID_QUERY, ReadingOptions

logger = logging.getLogger(__name__)


EXPRESSION_FILE = re.compile(r"GSE154763_(?P<cancer>.+?)_(normalized_)?expression\.csv(\.gz)?", re.IGNORECASE)


METADATA_FILE = re.compile(r"GSE154763_(?P<cancer>.+?)_metadata\.csv(\.gz)?", re.IGNORECASE)


TYPE_COLUMN = "MajorCluster"


# "M08_Macro_C1QC": the number is that of the cluster in one cancer, and means another type in the next.
CLUSTER_NUMBER = re.compile(r"^M\d+_")


# Rows of a table have some hundred thousand characters: 32 MiB are a few hundred cells.
CSV_BLOCK_BYTES = 32 << 20


# Names of a million cells are far shorter; a packed file of nothing but one line could be of any length.
LONGEST_HEADER = 64 << 20


RECOVERED = "counts, recovered from normalised values"


# A multiple of a cell's unit may be so far from a whole number: in all, and by its size, for the text has few digits.
ABSOLUTE_ERROR, RELATIVE_ERROR = 1e-3, 1e-5


# With fewer values, or all of one size, a cell proves no unit.
FEWEST_VALUES = 10


MOST_OF_LOG = 15.0  # ln(1 + 3 million)


def read_myeloid(files: dict[str, Path], scratch: Path, options: ReadingOptions) -> PaperCells:
    """Myeloid cells of several cancers, with the genes that all tables have.

    The reference and the query are those of scGPT's evaluation: MYE, OV-FTC and ESCA are the query.

    Raises
    ------
    ScDMCError
        If a pair is not complete or there are two, a table is damaged or lacks a column, the cells of a pair do not
        belong together, or the values are normalised without a unit in every cell and that is not allowed.
    """
    pairs = _pairs(files)
    parts = [_read_pair(cancer, *pair, options) for cancer, pair in pairs.items()]
    genes = parts[0].var.index
    for part in parts[1:]:
        genes = genes[genes.isin(part.var.index)]
    matrix = scipy.sparse.vstack([part.counts[:, part.var.index.get_indexer(genes)] for part in parts])
    obs = pd.concat([part.obs for part in parts])
    kinds = sorted({part.values for part in parts})
    var = pd.DataFrame({"gene_symbols": genes.to_numpy(dtype=object)})
    cells = PaperCells(scipy.sparse.csr_matrix(matrix), obs, var, "; ".join(kinds))
    cells.notes += [note for part in parts for note in part.notes]
    cells.note("%s genes are in all of the %d tables", f"{len(genes):,}", len(parts))
    absent = [cancer for cancer in MYELOID_CANCERS if cancer not in pairs]
    if absent:
        note = f"only a part of the data set is there: the tables of {', '.join(absent)} are missing"
        logger.warning("warning: %s", note)
        cells.notes.append(note)
    if (obs[PART] == REFERENCE).all() or (obs[PART] == QUERY).all():
        raise ScDMCError(
            f"the cancers are {shown_names(obs['disease'].unique(), 10)}; one of {', '.join(MYELOID_QUERY)}, which are "
            "tested on, and another one, which is learned from, are needed"
        )
    return cells


def _pairs(files: dict[str, Path]) -> dict[str, tuple[Path, Path]]:
    """Cancer -> its table of expression and its metadata."""
    expression, metadata = ({}, {})
    for path in files.values():
        for kind, pattern in ((expression, EXPRESSION_FILE), (metadata, METADATA_FILE)):
            match = pattern.fullmatch(path.name)
            if match:
                before = kind.setdefault(match["cancer"].upper(), path)
                if before != path:
                    raise ScDMCError(f"{before} and {path.name} are two tables of one cancer; leave one of them there")
    for cancer, path in (expression | metadata).items():
        for kind, what in ((expression, "normalized_expression"), (metadata, "metadata")):
            if cancer not in kind:
                raise ScDMCError(f"{path}: there is no GSE154763_{cancer}_{what}.csv.gz beside it")
    return {cancer: (path, metadata[cancer]) for cancer, path in expression.items()}


def _read_pair(cancer: str, expression: Path, metadata: Path, options: ReadingOptions) -> PaperCells:
    table = read_table(metadata, (TYPE_COLUMN,), ",")
    names = table["index"] if "index" in table else table.iloc[:, 0]
    matrix, cells, genes = read_expression_table(expression, set(names))
    rows = rows_of(cells, names, metadata)
    table = table.reindex(rows).reset_index(drop=True)
    part = PaperCells(matrix, pd.DataFrame(index=[f"{cancer}_{cell}" for cell in cells]), pd.DataFrame(index=genes))
    _recover(part, cancer, expression, options)
    part.obs["cell_type"] = [
        CLUSTER_NUMBER.sub("", cluster) if isinstance(cluster, str) else None for cluster in table[TYPE_COLUMN]
    ]
    for name, column in {"donor": "patient", "batch": "library_id", "tissue": "tissue"}.items():
        if column in table:
            part.obs[name] = table[column].to_numpy(dtype=object)
    if "batch" not in part.obs and "donor" in part.obs:
        part.obs["batch"] = part.obs["donor"]
    part.obs["disease"] = cancer
    part.obs[PART] = QUERY if cancer in MYELOID_QUERY else REFERENCE
    return part


def read_expression_table(path: Path, cells: set[str]) -> tuple[scipy.sparse.csr_matrix, pd.Index, pd.Index]:
    """A table of cells x genes, or of genes x cells, as the names of the cells show.

    Parameters
    ----------
    path
        CSV, perhaps gzipped: names in the first row and the first column.
    cells
        Names of cells that are in it.

    Returns
    -------
    Array of shape (n_cells, n_genes), CSR, and the names of its rows and columns.

    Raises
    ------
    ScDMCError
        If it is no such table, or a value is negative or absent.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            line = file.readline(LONGEST_HEADER + 1)
            if len(line) > LONGEST_HEADER:
                raise ValueError(f"its first line has more than {LONGEST_HEADER:,} characters")
            header = line.decode("utf8").rstrip("\r\n").split(",")
            columns = pd.Index([name.strip('"') for name in header[1:]])
            names, blocks = [], []
            for of_block, block in _blocks(file, columns):
                names += of_block
                blocks.append(block)
    except (OSError, EOFError, zlib.error, ValueError) as error:  # of pyarrow, too
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ScDMCError(f"{path} is no table of numbers ({str(error).splitlines()[0][:200]}): {COPY_AGAIN}") from error
    if not blocks:
        raise ScDMCError(f"{path} holds no cell: {COPY_AGAIN}")
    matrix, rows = scipy.sparse.csr_matrix(scipy.sparse.vstack(blocks)), pd.Index(names)
    if not np.isfinite(matrix.data).all() or (matrix.data < 0).any():
        raise ScDMCError(f"{path} holds a value that is negative or none at all; expression is at least 0")
    if not rows.isin(cells).any() and columns.isin(cells).any():
        matrix, rows, columns = scipy.sparse.csr_matrix(matrix.T), columns, rows
    for kind, index in (("cell", rows), ("gene", columns)):
        if index.has_duplicates:
            raise ScDMCError(f"{path} names the {kind} {index[index.duplicated()][0]!r} twice")
    return matrix, rows, columns


def _blocks(file: object, columns: pd.Index) -> Iterator[tuple[list[str], scipy.sparse.csr_matrix]]:
    """Names of some rows and their values, shape (n_rows, n_columns)."""
    names = ["name", *map(str, range(len(columns)))]
    types = {"name": pa.string()} | dict.fromkeys(names[1:], pa.float64())
    reader = csv.open_csv(
        file,
        read_options=csv.ReadOptions(column_names=names, block_size=CSV_BLOCK_BYTES),
        convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=False),
    )
    for batch in reader:
        dense = np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns[1:]], axis=1)
        yield batch.column(0).to_pylist(), scipy.sparse.csr_matrix(dense)


def _recover(part: PaperCells, cancer: str, path: Path, options: ReadingOptions) -> None:
    """Turn values into counts where they are, or where every cell proves its unit."""
    if is_whole(part.counts).all():
        part.note("%s: the values are whole numbers", cancer)
        return
    failures = {}
    for what, linear in _linear_forms(part.counts).items():
        counts, is_proven = counts_of_units(linear)
        if is_proven.all():
            part.counts, part.values = counts, RECOVERED
            part.note("%s: the values are normalised (%s); counts are recovered, exact in every cell", cancer, what)
            return
        failures[what] = is_proven
    if options.allow_normalized:
        part.values = NORMALIZED
        part.note("%s: the values are normalised and are kept as they are (--allow_normalized)", cancer)
        return
    best = max(failures.values(), key=np.count_nonzero)
    first = part.obs.index[int(np.argmin(best))]
    raise ScDMCError(
        f"{path} holds normalised values, and {(~best).sum():,} of its {len(best):,} cells, the first {first!r}, prove "
        "no unit from which counts could be recovered; --allow_normalized keeps the values as they are"
    )


def _linear_forms(matrix: scipy.sparse.csr_matrix) -> dict[str, scipy.sparse.csr_matrix]:
    """What the values may be -> values that are multiples of a unit in each cell then."""
    forms = {"a scale for each cell": matrix}
    if matrix.nnz and matrix.data.max() < MOST_OF_LOG:
        logged = matrix.copy()
        logged.data = np.expm1(logged.data)
        forms = {"a scale for each cell, then ln(1 + x)": logged, **forms}
    return forms


def counts_of_units(linear: scipy.sparse.csr_matrix) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """Values as multiples of the smallest of their cell, and for which cells all of these are whole numbers.

    A cell proves its unit if it has at least :data:`FEWEST_VALUES` values, not all of one size, and all are whole
    multiples of the smallest one. A cell without values needs no unit.

    Parameters
    ----------
    linear
        Shape (n_cells, n_genes).

    Returns
    -------
    Whole numbers of the same shape, and bools of shape (n_cells,).
    """
    counts, is_proven = linear.copy(), np.zeros(linear.shape[0], dtype=bool)
    counts.eliminate_zeros()
    for cell, (start, stop) in enumerate(zip(counts.indptr[:-1], counts.indptr[1:], strict=True)):
        values = counts.data[start:stop]
        if len(values) == 0:
            is_proven[cell] = True
            continue
        multiples = values / values.min()
        whole = np.rint(multiples)
        is_near = np.abs(multiples - whole) <= ABSOLUTE_ERROR + RELATIVE_ERROR * multiples
        is_proven[cell] = len(values) >= FEWEST_VALUES and whole.max() > 1 and bool(is_near.all())
        counts.data[start:stop] = whole
    return counts, is_proven
