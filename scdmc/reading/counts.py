"""Raw counts: finding them in a file or an AnnData, reading them in blocks of cells, refusing what is not a count."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.errors import ScDMCError, shown_names
from scdmc.reading.count_files import (
    COUNT_PLACES,
    CountFile,
    Place,
    open_count_file,
)
from scdmc.reading.features import Features, genes_among, types_for_raw
from scdmc.reading.matrix_readers import MatrixReader, MemoryReader, SomeColumns
from scdmc.reading.options import BLOCK_SIZE

if TYPE_CHECKING:
    import anndata


# A total that was added up in single precision may be so much smaller than the sum, relative to it.
ROUNDING = 1e-4


TOTALS_SHOWN, NAMES_OF_LAYERS_SHOWN = 3, 20


@dataclass(frozen=True)
class Counts:
    """Counts of one data set, read in blocks of cells.

    Attributes
    ----------
    name
        File name, or what the user should see in its place.
    layer
        Where the counts come from: ``X``, ``layers/NAME`` or ``raw/X``.
    obs, var
        Annotation of the cells and of the genes (of ``raw`` where the counts come from there).
    is_normalized
        True if no place held integers and the user passed ``--allow_normalized``.
    reader
        Reads rows of the matrix, unchecked.
    where_else
        Where raw counts may lie if these turn out to be none, for the error message.
    left_out
        What the features are that are no genes (:mod:`scdmc.reading.features`) -> how many; ``var`` and the matrix do
        without them.
    recompute_totals
        True if the user passed ``--recompute_totals``.
    """

    name: str
    layer: str
    obs: pd.DataFrame
    var: pd.DataFrame
    is_normalized: bool
    reader: MatrixReader
    where_else: str
    left_out: Mapping[str, int] = field(default_factory=dict)
    recompute_totals: bool = False

    @cached_property
    def is_passing(self) -> np.ndarray:
        """True for the cells that are taken (:func:`passes_filter`), shape (n_cells,)."""
        return passes_filter(self)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.obs)

    def read_rows(self, start: int, stop: int) -> scipy.sparse.csr_matrix:
        """Rows start:stop as CSR of shape (stop - start, n_genes), unchecked.

        Genes of a cell may stand in any order, and one may stand twice; such entries are meant to be added.
        """
        return self.reader.rows(start, stop)

    def blocks(
        self, start: int = 0, stop: int | None = None, block_size: int = BLOCK_SIZE
    ) -> Iterator[tuple[int, scipy.sparse.csr_matrix]]:
        """Yield (first row, counts of shape (at most block_size, n_genes)), checked.

        Raises
        ------
        ScDMCError
            If a block holds a value that is no count.
        """
        stop = self.n_cells if stop is None else stop
        for first in range(start, stop, block_size):
            block = self.read_rows(first, min(first + block_size, stop))
            self._require_counts(block, first)
            yield first, block

    def _require_counts(self, block: scipy.sparse.csr_matrix, first_row: int) -> None:
        is_fine = _is_non_negative(block.data) if self.is_normalized else _is_count(block.data)
        rule = f"which is no count; raw counts are integers of at least 0; {self.where_else}"
        self._require(is_fine, block, first_row, rule)
        if self.is_normalized:
            return
        limit = _largest_exact(self.reader.dtype)
        self._require(
            block.data <= limit, block, first_row,
            f"but {self.reader.dtype} holds every integer only up to {limit:,}, so the count may have been rounded; "
            "store the counts as integers or as float64",
        )  # fmt: skip

    def _require(self, is_fine: np.ndarray, block: scipy.sparse.csr_matrix, first_row: int, complaint: str) -> None:
        if is_fine.all():
            return
        entry = int(np.argmin(is_fine))
        row = int(np.searchsorted(block.indptr, entry, side="right")) - 1
        raise ScDMCError(
            f"{self.name}: {self.layer} holds {block.data[entry]} for cell {str(self.obs.index[first_row + row])!r}, "
            f"gene {str(self.var.index[block.indices[entry]])!r}, {complaint}"
        )


@contextmanager
def open_counts(
    path: Path, layer: str | None = None, allow_normalized: bool = False, recompute_totals: bool = False
) -> Iterator[Counts]:
    """Open the raw counts of a file without loading the matrix.

    Parameters
    ----------
    path
        ``.h5ad``, ``.zarr`` (AnnData), ``.loom``, ``.h5`` of 10x, or a folder with the ``matrix.mtx`` of 10x. A matrix
        that does not lie cell by cell on the disk is turned through a temporary file. Features that are no genes are
        left out (:func:`scdmc.reading.features.genes_among`).
    layer
        ``X``, ``raw`` or the name of a layer; without it the first of X, ``layers['counts']``, ``raw.X`` that holds
        non-negative integers. One that holds nothing but zeros is passed over where another holds values.
    allow_normalized
        Take the first of them with values even if no place holds integers.
    recompute_totals
        Take the sum of each cell as its total, whatever ``obs['n_counts']`` says.

    Raises
    ------
    ScDMCError
        If the file is none of these or damaged, the layer is absent, or no place holds raw counts.
    """
    with open_count_file(path) as file:
        yield replace(_counts_of_file(file, layer, allow_normalized), recompute_totals=recompute_totals)


class _GenesOfPlaces:
    """The features of each place of a data set, and its matrix without those that are no genes."""

    def __init__(self, name: str, places: Mapping[str, Place], read_var: Callable[[str], pd.DataFrame]) -> None:
        self._name, self._whole, self._read_var = name, places, read_var
        self._found: dict[bool, tuple[pd.DataFrame, Features]] = {}
        self.places = {place: Place(partial(self._reader, place)) for place in places}

    def of(self, place: str) -> tuple[pd.DataFrame, Features]:
        """Annotation of all features of a place, and which of them are genes."""
        is_raw = place == "raw/X"
        if is_raw not in self._found:
            var = self._read_var(place)
            types = types_for_raw(var, self._read_var("X")) if is_raw else None
            self._found[is_raw] = var, genes_among(var, self._name, types)
        return self._found[is_raw]

    def _reader(self, place: str) -> MatrixReader:
        reader, is_gene = self._whole[place].reader, self.of(place)[1].is_gene
        # A matrix of another width is refused by who asks for its shape.
        return reader if is_gene.all() or len(is_gene) != reader.shape[1] else SomeColumns(reader, is_gene)


def _counts_of_file(file: CountFile, layer: str | None, allow_normalized: bool) -> Counts:
    if not file.places:
        raise ScDMCError(f"{file.name}: there is no matrix of counts: it lacks X")
    genes = _GenesOfPlaces(file.name, file.places, file.read_var)
    place, is_normalized = _choose_place(file.name, genes.places, layer, allow_normalized)
    obs, (var, _) = file.read_obs(), genes.of(place)
    shape = file.places[place].reader.shape
    if shape != (len(obs), len(var)):
        raise ScDMCError(
            f"{file.name}: {place} has shape {shape}, but there are {len(obs)} cells in obs and {len(var)} genes in var"
        )
    return _counts_of_genes(file.name, place, obs, genes, is_normalized)


def _counts_of_genes(name: str, place: str, obs: pd.DataFrame, genes: _GenesOfPlaces, is_normalized: bool) -> Counts:
    var, features = genes.of(place)
    var = var if features.is_gene.all() else var[features.is_gene]
    reader, where_else = genes.places[place].reader, _where_else(genes.places, [place])
    return Counts(name, place, obs, var, is_normalized, reader, where_else, features.left_out)


def counts_of_adata(
    adata: "anndata.AnnData",
    layer: str | None = None,
    allow_normalized: bool = False,
    name: str = "adata",
    recompute_totals: bool = False,
) -> Counts:
    """Raw counts of an AnnData in memory; the rules are those of :func:`open_counts`."""
    matrices = {"X": adata.X} if adata.X is not None else {}
    matrices |= {f"layers/{key}": matrix for key, matrix in adata.layers.items()}
    if adata.raw is not None:
        matrices["raw/X"] = adata.raw.X
    places = {
        place: Place(lambda place=place, matrix=matrix: MemoryReader(matrix, f"{name}: {place}"))
        for place, matrix in matrices.items()
    }
    genes = _GenesOfPlaces(name, places, lambda place: adata.raw.var if place == "raw/X" else adata.var)
    place, is_normalized = _choose_place(name, genes.places, layer, allow_normalized)
    counts = _counts_of_genes(name, place, adata.obs, genes, is_normalized)
    return replace(counts, recompute_totals=recompute_totals)


def cell_totals(counts: Counts, rows: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Total counts of cells: ``obs['n_counts']`` where there is one, else the sums (docs/method.md, "Tokenization").

    Parameters
    ----------
    counts
        The data set.
    rows
        Shape (n_rows,): the cells.
    sums
        Shape (n_rows,): the sum of each of them over all genes of the file.

    Returns
    -------
    Shape (n_rows,), float64. Cells that ``filter_pass`` leaves out have their sums.

    Raises
    ------
    ScDMCError
        If a cell that is taken has a total that cannot be one: below the sum of its own counts, none, or no number.
    """
    if counts.recompute_totals or "n_counts" not in counts.obs:
        return sums
    column = counts.obs["n_counts"].iloc[rows]
    numbers = column if column.dtype.kind in "iuf" else pd.to_numeric(column.astype(object), errors="coerce")
    words = column[numbers.isna() & column.notna()]
    if len(words):
        raise ScDMCError(f"{counts.name}: obs['n_counts'] should hold numbers, but holds {words.iloc[0]!r}")
    totals = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    is_taken = counts.is_passing[rows]
    is_total = np.isfinite(totals) & (totals > 0) & (totals >= sums * (1 - ROUNDING))
    is_wrong = is_taken & ~is_total & (sums > 0)
    if is_wrong.any():
        raise _impossible_totals(counts, column[is_wrong], sums[is_wrong], len(rows))
    # A cell without counts and without a total is empty.
    return np.where(is_taken & is_total, totals, sums)


def _impossible_totals(counts: Counts, found: pd.Series, sums: np.ndarray, n_read: int) -> ScDMCError:
    shown = "; ".join(
        f"cell {str(cell)!r} has {total:.7g} counts and n_counts {value!r}"
        for cell, total, value in list(zip(found.index, sums, found.tolist(), strict=True))[:TOTALS_SHOWN]
    )
    return ScDMCError(
        f"{counts.name}: obs['n_counts'] cannot be the total counts of {len(found):,} of {n_read:,} cells: {shown}; "
        "a total is at least the sum of the cell's own counts: mend or remove the column, "
        "or pass --recompute_totals, which takes the sums of all cells instead"
    )


def passes_filter(counts: Counts) -> np.ndarray:
    """True where ``obs['filter_pass']`` is 1, or where a file has no such column; shape (n_cells,).

    Raises
    ------
    ScDMCError
        If the column holds words: it is not clear which of them pass.
    """
    if "filter_pass" not in counts.obs:
        return np.ones(counts.n_cells, dtype=bool)
    column = counts.obs["filter_pass"]
    numbers = pd.to_numeric(column.astype(object), errors="coerce")
    words = column[numbers.isna() & column.notna()]
    if len(words):
        raise ScDMCError(
            f"{counts.name}: obs['filter_pass'] should hold 1 for the cells to take and 0 for the others, but holds "
            f"{', '.join(map(repr, words.unique()[:3]))}"
        )
    return (numbers == 1).to_numpy(dtype=bool)


def _choose_place(
    name: str, places: Mapping[str, Place], layer: str | None, allow_normalized: bool
) -> tuple[str, bool]:
    """The place of the raw counts, and whether it holds normalised values that the user allowed."""
    candidates = _candidates(name, places, layer)
    for place in candidates:
        if places[place].is_filled and _is_count(places[place].sample).all():
            return place, False
    # A place without any value holds no counts, but where all are so, the cells are simply empty.
    filled = [place for place in candidates if places[place].is_filled]
    if candidates and not filled:
        return candidates[0], False
    if allow_normalized and filled:
        return filled[0], True
    shown = [f"{place} holds {_shown_values(places[place].sample)}" for place in filled]
    shown = "; ".join(shown) or "there is no X, layers['counts'] or raw"
    raise ScDMCError(
        f"{name}: no raw counts (integers of at least 0): {shown}; {_where_else(places, candidates)}, "
        "or pass --allow_normalized"
    )


def _candidates(name: str, places: Iterable[str], layer: str | None) -> list[str]:
    """The places in which raw counts are looked for: that of the layer the user named, or the usual ones."""
    if layer is None:
        return [place for place in COUNT_PLACES if place in places]
    place = {"X": "X", "raw": "raw/X"}.get(layer, f"layers/{layer}")
    if place not in places:
        raise ScDMCError(f"{name}: there is no layer {layer!r}; there are {_layer_names(places)}")
    return [place]


def _where_else(places: Iterable[str], tried: Sequence[str]) -> str:
    """Where the user may find raw counts that are not in the places tried."""
    others = _layer_names(place for place in places if place not in tried)
    if others:
        return f"name the layer of raw counts with --layer (there are {others})"
    return "look for raw counts in layers or raw of the original file"


def _layer_name(place: str) -> str:
    return "raw" if place == "raw/X" else place.removeprefix("layers/")


def _layer_names(places: Iterable[str]) -> str:
    names = [repr(_layer_name(place)) for place in places]
    return f"[{shown_names(names, NAMES_OF_LAYERS_SHOWN)}]" if names else ""


def _shown_values(values: np.ndarray) -> str:
    wrong = values[~_is_count(values)]
    return ", ".join(f"{value:.4g}" for value in wrong[:3])


def _is_count(values: np.ndarray) -> np.ndarray:
    """True where a value is a non-negative integer; NaN and infinity are none."""
    if values.dtype.kind in "bu":
        return np.ones(len(values), dtype=bool)
    return (values >= 0) & (values == np.floor(values)) & (values < np.inf)


def _is_non_negative(values: np.ndarray) -> np.ndarray:
    return (values >= 0) & (values < np.inf)


def _largest_exact(dtype: np.dtype) -> int:
    """The largest integer up to which a stored value, and its float64, surely is the one that was counted."""
    return 2 ** min(53, np.finfo(dtype).nmant + 1) if dtype.kind == "f" else 2**53
