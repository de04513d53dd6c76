"""A slice of a CELLxGENE Census, or of any SOMA experiment, as counts; nothing is copied to disk on the way.

The cells are chosen by their ids alone, before a count is read, so that one seed always gives one sample.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.reading.counts import Counts
from scdmc.reading.matrix_readers import CELLS_IN_SAMPLE, first_line

if TYPE_CHECKING:
    import tiledbsoma


PRIMARY_COLUMN = "is_primary_data"


# Columns that say how a cell is tokenized (scdmc.reading.counts); read wherever an experiment has them.
COUNTING_COLUMNS = ("n_counts", "filter_pass")


JOIN_ID = "soma_joinid"


# tiledbsoma takes a gibibyte for each column of a read by itself.
BUFFER_BYTES = 64 * 1024**2


INSTALL = "pip install tiledbsoma cellxgene-census"


@dataclass(frozen=True)
class CensusSlice:
    """Which cells of an experiment are taken.

    Attributes
    ----------
    obs_value_filter
        Condition on obs in the language of tiledbsoma, such as ``tissue_general == 'blood'``; all cells without it.
    max_cells
        Cells drawn at random where more fit; all of them without it.
    seed
        Of the draw.
    primary_only
        Take each cell from one data set only, ``is_primary_data == True``.
    """

    obs_value_filter: str | None = None
    max_cells: int | None = None
    seed: int = 0
    primary_only: bool = True

    @property
    def value_filter(self) -> str | None:
        """The whole condition."""
        own = f"({self.obs_value_filter})" if self.obs_value_filter else None
        primary = f"{PRIMARY_COLUMN} == True" if self.primary_only else None
        return " and ".join(condition for condition in (primary, own) if condition) or None

    def to_dict(self) -> dict:
        """Plain dictionary, for JSON."""
        return asdict(self)


@contextmanager
def open_experiment(uri: str) -> "Iterator[tiledbsoma.Experiment]":
    """Open a SOMA experiment on disk or in a bucket.

    Raises
    ------
    ScDMCError
        If tiledbsoma is not installed or there is no experiment.
    """
    tiledbsoma = _require_tiledbsoma()
    context = tiledbsoma.SOMATileDBContext(tiledb_config={"soma.init_buffer_bytes": BUFFER_BYTES})
    try:
        experiment = tiledbsoma.Experiment.open(uri, context=context)
    except (tiledbsoma.SOMAError, TypeError) as error:
        raise ScDMCError(f"{uri}: no SOMA experiment ({first_line(error)})") from error
    with experiment:
        yield experiment


@contextmanager
def open_census(census_version: str, organism: str) -> "Iterator[tiledbsoma.Experiment]":
    """Open the experiment of an organism in a Census of CELLxGENE, over the network.

    Raises
    ------
    ScDMCError
        If the packages are not installed, or the version, the organism or the network is not there.
    """
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", census_version):
        raise ScDMCError(
            f"--census_version {census_version}: name a version by its date, such as 2024-07-01; "
            "what 'stable' and 'latest' mean changes"
        )
    tiledbsoma = _require_tiledbsoma()
    try:
        import cellxgene_census
    except ImportError as error:
        raise ScDMCError(f"the Census needs the package cellxgene-census; {INSTALL}") from error
    try:
        census = cellxgene_census.open_soma(
            census_version=census_version, tiledb_config={"soma.init_buffer_bytes": BUFFER_BYTES}
        )
    except (ValueError, OSError, tiledbsoma.SOMAError) as error:
        raise ScDMCError(f"--census_version {census_version} could not be opened ({first_line(error)})") from error
    with census:
        organisms = census["census_data"]
        if organism not in organisms:
            raise ScDMCError(f"--organism {organism}: the Census has {', '.join(sorted(organisms))}")
        yield organisms[organism]


def choose_cells(experiment: "tiledbsoma.Experiment", wanted: CensusSlice) -> tuple[np.ndarray, int]:
    """Choose the cells of a slice.

    Returns
    -------
    joinids
        Shape (n_cells,), int64, ascending.
    n_matching
        Cells that fit, of which ``joinids`` is a sample.

    Raises
    ------
    ScDMCError
        If the condition cannot be read, obs has no column that says which cells are primary, or no cell fits.
    """
    columns = experiment.obs.schema.names
    if wanted.primary_only and PRIMARY_COLUMN not in columns:
        raise ScDMCError(
            f"{experiment.uri}: obs has no column {PRIMARY_COLUMN!r} that says which cells to take; it has "
            f"{_listed(columns)}; take them all with --all_cells"
        )
    tiledbsoma = _require_tiledbsoma()
    try:
        table = experiment.obs.read(column_names=[JOIN_ID], value_filter=wanted.value_filter).concat()
    except (tiledbsoma.SOMAError, SyntaxError, TypeError, ValueError) as error:
        raise ScDMCError(
            f"--obs_value_filter {wanted.obs_value_filter!r} cannot be used ({first_line(error)}); write it like "
            f"\"cell_type == 'B cell' and assay != 'Smart-seq2'\"; obs has {_listed(columns)}"
        ) from error
    joinids = np.sort(table[JOIN_ID].to_numpy())
    if not len(joinids):
        raise ScDMCError(f"{experiment.uri}: no cell fits {wanted.value_filter}")
    if wanted.max_cells is None or wanted.max_cells >= len(joinids):
        return joinids, len(joinids)
    drawn = np.random.default_rng(wanted.seed).choice(len(joinids), wanted.max_cells, replace=False, shuffle=False)
    return joinids[np.sort(drawn)], len(joinids)


def census_counts(
    experiment: "tiledbsoma.Experiment",
    joinids: np.ndarray,
    obs_columns: Sequence[str],
    name: str,
    measurement: str = "RNA",
    layer: str = "raw",
) -> Counts:
    """Raw counts of chosen cells, read in blocks.

    Parameters
    ----------
    experiment
        The open experiment.
    joinids
        Shape (n_cells,), int64, ascending: the cells (see :func:`choose_cells`); their cell ids are these numbers.
    obs_columns
        Columns of obs to read, all of which exist (:func:`obs_columns_of`).
    name
        What the cells' ``source_file`` says.
    measurement, layer
        Where the raw counts are: ``ms[measurement].X[layer]``.

    Raises
    ------
    ScDMCError
        If the measurement or the layer is absent.
    """
    _require_member("measurement", measurement, experiment.ms)
    _require_member("layer", layer, experiment.ms[measurement].X)
    gene_joinids, var = _read_var(experiment.ms[measurement].var)
    return Counts(
        name=name,
        layer=f"ms/{measurement}/X/{layer}",
        obs=_read_obs(experiment, joinids, obs_columns),
        var=var,
        is_normalized=False,
        reader=_CellsReader(experiment.ms[measurement].X[layer], joinids, gene_joinids),
        where_else="name the layer of raw counts with --layer",
    )


def _require_member(kind: str, name: str, collection: "tiledbsoma.Collection") -> None:
    if name not in collection:
        raise ScDMCError(f"{collection.uri}: there is no {kind} {name!r}; there are {_listed(collection)}")


def obs_columns_of(experiment: "tiledbsoma.Experiment") -> list[str]:
    """Names of the columns of obs."""
    return [name for name in experiment.obs.schema.names if name != JOIN_ID]


def _read_obs(experiment: "tiledbsoma.Experiment", joinids: np.ndarray, obs_columns: Sequence[str]) -> pd.DataFrame:
    """The columns of the chosen cells, in the order of ``joinids``."""
    counting = [name for name in COUNTING_COLUMNS if name in obs_columns_of(experiment)]
    columns = dict.fromkeys([JOIN_ID, *obs_columns, *counting])
    table = experiment.obs.read(coords=(joinids,), column_names=list(columns)).concat()
    return table.unify_dictionaries().to_pandas().set_index(JOIN_ID).loc[joinids]


def _read_var(var: "tiledbsoma.DataFrame") -> tuple[np.ndarray, pd.DataFrame]:
    """Ids of the genes, shape (n_genes,), and their annotation; its index is the first column of text."""
    table = var.read().concat().to_pandas().sort_values(JOIN_ID)
    joinids = table.pop(JOIN_ID).to_numpy()
    return joinids, table.set_index(table.columns[0], drop=False).rename_axis(None) if len(table.columns) else table


class _CellsReader:
    """Rows of chosen cells of a SOMA matrix (a :class:`scdmc.reading.matrix_readers.MatrixReader`)."""

    def __init__(self, matrix: "tiledbsoma.SparseNDArray", joinids: np.ndarray, gene_joinids: np.ndarray) -> None:
        self.matrix = matrix
        self.joinids = joinids
        self.gene_joinids = gene_joinids
        self.shape = (len(joinids), len(gene_joinids))
        self.dtype = np.dtype(matrix.schema.field("soma_data").type.to_pandas_dtype())

    def rows(self, start: int, stop: int) -> scipy.sparse.csr_matrix:
        """Counts of a block of cells, shape (stop - start, n_genes)."""
        tiledbsoma = _require_tiledbsoma()
        joinids = self.joinids[start:stop]
        try:
            table = self.matrix.read(coords=(joinids, slice(None))).tables().concat()
        except tiledbsoma.SOMAError as error:
            raise ScDMCError(
                f"{self.matrix.uri}: the counts of the cells from {joinids[0]} on could not be read "
                f"({first_line(error)}); run the same command with --resume"
            ) from error
        rows = np.searchsorted(joinids, table["soma_dim_0"].to_numpy())
        columns = np.searchsorted(self.gene_joinids, table["soma_dim_1"].to_numpy())
        parts = (table["soma_data"].to_numpy(), (rows, columns))
        return scipy.sparse.csr_matrix(parts, shape=(len(joinids), self.shape[1]))

    def sample(self) -> np.ndarray:
        """Values of some of the cells."""
        return self.rows(0, min(CELLS_IN_SAMPLE, self.shape[0])).data

    def close(self) -> None:
        """Nothing: the experiment is closed by whoever opened it."""


def _require_tiledbsoma() -> ModuleType:
    try:
        import tiledbsoma
    except ImportError as error:
        raise ScDMCError(f"reading a SOMA experiment needs the package tiledbsoma; {INSTALL}") from error
    return tiledbsoma


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names))
