"""The kinds of input with counts: .h5ad, .zarr, .loom, 10x .h5 and 10x mtx folders; which matrices each one holds."""

import importlib.util
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd

from scdmc.errors import COPY_AGAIN, ScDMCError, shown_names
from scdmc.genes.vocabulary import ensembl_id
from scdmc.reading.hdf5_links import open_hdf5
from scdmc.reading.kinds import H5AD, KIND_OF_SUFFIX, LOOM, MTX, TEN_X, ZARR, ZARR_MARKS, kind_of
from scdmc.reading.matrix_readers import (
    DAMAGE,
    MatrixReader,
    RowsReader,
    attribute_text,
    damaged,
    dense_reader,
    first_line,
    reader_of,
    reading,
    sparse_parts,
    text_of,
)
from scdmc.reading.mtx import mtx_annotation, mtx_files, mtx_reader, name_of
from scdmc.reading.zarr_stores import require_own_store, require_sane_arrays

if TYPE_CHECKING:
    import zarr

logger = logging.getLogger(__name__)


# Where raw counts are looked for without --layer; other layers ("spliced") are only taken by name.
COUNT_PLACES = ("X", "layers/counts", "raw/X")


# What is read of AnnData on the disk.
ANNDATA_PARTS = ("X", "layers", "obs", "raw", "var")


HUMAN_GENOMES = ("grch", "hg")


# Compared in lower case without blanks and underscores.
LOOM_CELL_IDS = (
    "cellid", "obsnames", "barcode", "barcodes", "cellbarcode", "cellbarcodes", "cellname", "cellnames", "cell",
    "cells", "index", "id", "name", "names",
)  # fmt: skip


LOOM_GENE_NAMES = ("gene", "varnames", "genename", "genenames", "genesymbol", "genesymbols", "symbol", "name")


LOOM_GENE_IDS = ("accession", "ensemblids", "ensemblid", "geneid", "geneids")


class Place:
    """A matrix that may hold the raw counts. Nothing of it is read before it is asked for."""

    def __init__(self, make_reader: Callable[[], MatrixReader]) -> None:
        self._make_reader = make_reader

    @cached_property
    def reader(self) -> MatrixReader:
        """The reader of the matrix."""
        return self._make_reader()

    @cached_property
    def sample(self) -> np.ndarray:
        """Some of the stored values."""
        return self.reader.sample()

    @property
    def is_filled(self) -> bool:
        """True if there is a value other than 0 in the sample."""
        return bool(self.sample.any())

    def close(self) -> None:
        """Delete the temporary file if there is one."""
        if "reader" in self.__dict__:
            self.reader.close()


@dataclass(frozen=True)
class CountFile:
    """An open input.

    Attributes
    ----------
    name
        What the user knows it by.
    places
        Its matrices: ``X``, ``layers/NAME``, ``raw/X``.
    read_obs
        Returns the annotation of the cells.
    read_var
        Returns the annotation of the features of a place.
    """

    name: str
    places: Mapping[str, Place]
    read_obs: Callable[[], pd.DataFrame]
    read_var: Callable[[str], pd.DataFrame]


def files_of_input(path: Path) -> list[Path]:
    """The files that an input consists of, in the order of their names: itself, or those of a store or folder."""
    if kind_of(path).name == MTX:
        return sorted(mtx_files(path).values())
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


@contextmanager
def open_count_file(path: Path) -> Iterator[CountFile]:
    """Open an input without loading a matrix.

    Raises
    ------
    ScDMCError
        If it is absent, or none of the kinds of input.
    """
    path = Path(path)
    if not path.exists():
        raise ScDMCError(f"{path}: no such file")
    kind = kind_of(path)
    if kind.name is None and path.is_dir():
        raise ScDMCError(
            f"{path} is a folder, but neither a .zarr store nor a 10x folder (matrix.mtx, barcodes.tsv, features.tsv)"
        )
    if kind.name is None:
        raise ScDMCError(f"{path} is no file of counts that can be read, but {kind.reason}")
    with OPENERS[kind.name](path) as file:
        try:
            yield file
        finally:
            for place in file.places.values():
                place.close()


@contextmanager
def _open_mtx(path: Path) -> Iterator[CountFile]:
    obs, var = mtx_annotation(path)
    place = Place(lambda: mtx_reader(path, (len(obs), len(var))))
    yield CountFile(name_of(path), {"X": place}, lambda: obs, lambda _: var)


@contextmanager
def _open_zarr(path: Path) -> Iterator[CountFile]:
    import zarr

    if not any((path / name).exists() for name in ZARR_MARKS):
        raise ScDMCError(
            f"{path} is a folder, but neither a .zarr store nor a 10x folder (matrix.mtx, barcodes.tsv, features.tsv)"
        )
    require_own_store(path)
    try:
        # Consolidated metadata may tell of what is no longer there.
        group = zarr.open_group(str(path), mode="r", use_consolidated=False)
    except DAMAGE as error:
        raise ScDMCError(f"{path} is not a readable .zarr store ({first_line(error)}); {COPY_AGAIN}") from error
    with reading(str(path)):
        require_sane_arrays(group, ANNDATA_PARTS, path)
    yield _anndata_file(group, path, "a zarr store", "AnnData")


@contextmanager
def _open_hdf5(kind: str, path: Path) -> Iterator[CountFile]:
    if importlib.util.find_spec("hdf5plugin") is not None:
        # Importing it tells HDF5 of more ways to decompress.
        import hdf5plugin  # noqa: F401
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_hdf5(path, ANNDATA_PARTS if kind == H5AD else None))
        except OSError as error:
            raise ScDMCError(
                f"{path} is not a readable {SUFFIX_OF[kind]} file ({first_line(error)}); {COPY_AGAIN}"
            ) from error
        if kind == LOOM:
            yield _loom_file(file, path)
        elif kind == TEN_X:
            yield _cellranger_file(file, path)
        else:
            yield _anndata_file(file, path, "an HDF5 file", ".h5ad")


SUFFIX_OF = {kind: suffix for suffix, kind in KIND_OF_SUFFIX.items()}


# Kind of input -> what opens it.
OPENERS = {ZARR: _open_zarr, MTX: _open_mtx, **{kind: partial(_open_hdf5, kind) for kind in (H5AD, LOOM, TEN_X)}}


def _anndata_file(group: "h5py.Group | zarr.Group", path: Path, found: str, wanted: str) -> CountFile:
    """AnnData on the disk, as HDF5 or zarr."""
    name = name_of(path)
    with reading(str(path)):
        elements = {place: group[place] for place in COUNT_PLACES if place in group}
        layers = group.get("layers", {})
        layers = {} if hasattr(layers, "shape") else layers
        elements |= {f"layers/{key}": layers[key] for key in layers}
        # AnnData writes down that it has no matrix; such a place is none.
        elements = {place: element for place, element in elements.items() if not _is_null(element)}
        missing = [key for key in ("obs", "var") if key not in group]
    if missing:
        raise ScDMCError(f"{path} is {found} but no {wanted}: it lacks {', '.join(missing)}")
    places = {
        place: Place(lambda place=place, element=element: reader_of(element, f"{name}: {place}"))
        for place, element in elements.items()
    }

    def read_var(place: str) -> pd.DataFrame:
        return _annotation(group, "raw/var" if place == "raw/X" else "var", name)

    return CountFile(name, places, lambda: _annotation(group, "obs", name), read_var)


def _is_null(element: object) -> bool:
    return attribute_text(element.attrs.get("encoding-type")) == "null" or getattr(element, "shape", ()) is None


def _annotation(group: "h5py.Group | zarr.Group", key: str, name: str) -> pd.DataFrame:
    import anndata
    from anndata._io.specs.registry import IORegistryError  # anndata has no public name for it

    try:
        with reading(f"{name}: {key}"):
            table = anndata.io.read_elem(group[key])
    except IORegistryError as error:
        raise damaged(f"{name}: {key}", first_line(error)) from error
    if not isinstance(table, pd.DataFrame):
        raise ScDMCError(
            f"{name}: {key} is no table as AnnData writes it since version 0.7; "
            "read the file with anndata.read_h5ad and write it again"
        )
    return table


def _loom_file(file: h5py.File, path: Path) -> CountFile:
    """Loom: genes x cells, dense."""
    missing = [key for key in ("matrix", "row_attrs", "col_attrs") if key not in file]
    if missing or not isinstance(file["matrix"], h5py.Dataset):
        raise ScDMCError(f"{path} is an HDF5 file but no .loom: it lacks {', '.join(missing) or 'a dense matrix'}")
    name = path.name
    with reading(str(path)):
        layers = file.get("layers", {})
        matrices = {"X": file["matrix"]} | {f"layers/{key}": layers[key] for key in layers}
    places = {
        place: Place(lambda place=place, matrix=matrix: dense_reader(matrix, f"{name}: {place}", cells_axis=1))
        for place, matrix in matrices.items()
    }
    n_genes, n_cells = file["matrix"].shape
    return CountFile(
        name,
        places,
        lambda: _loom_table(file["col_attrs"], n_cells, LOOM_CELL_IDS, "cell", name),
        lambda _: _loom_genes(file["row_attrs"], n_genes, name),
    )


def _loom_table(group: h5py.Group, n_rows: int, index_names: Sequence[str], what: str, name: str) -> pd.DataFrame:
    """Attributes of one value per row as a table; the index is the first of the names that is there."""
    columns = {}
    for key in group:
        if not isinstance(group[key], h5py.Dataset) or len(group[key].shape) != 1:
            continue
        with reading(f"{name}: {group[key].name}"):
            columns[key] = _text_or_numbers(group[key])
        if len(columns[key]) != n_rows:
            raise damaged(f"{name}: {group[key].name}", f"{len(columns[key]):,} values for {n_rows:,} {what}s")
    found = _columns_called(columns, index_names) or [
        key for key, values in columns.items() if values.dtype == object and len(set(values)) == n_rows
    ]
    if not found:
        logger.warning("warning: %s: no attribute names its %ss; they are called %s_0, %s_1, ...", name, *[what] * 3)
    index = columns[found[0]].astype(str) if found else [f"{what}_{row}" for row in range(n_rows)]
    return pd.DataFrame(columns, index=pd.Index(index, dtype=object))


def _columns_called(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    """The columns that have one of the names, whatever their case and underscores, in the order of the names."""
    plain = {column: column.lower().replace("_", "").replace(" ", "") for column in columns}
    return [column for name in names for column, called in plain.items() if called == name]


def _loom_genes(group: h5py.Group, n_genes: int, name: str) -> pd.DataFrame:
    """Genes of a loom file, with the columns that :func:`scdmc.genes.ids.match_genes` looks for."""
    var = _loom_table(group, n_genes, LOOM_GENE_NAMES, "gene", name)
    # Accessions of other databases would only stand in the way of the symbols.
    ids = [key for key in _columns_called(var, LOOM_GENE_IDS) if _are_ensembl_ids(var[key])]
    symbols = _columns_called(var, LOOM_GENE_NAMES)
    for column, found in (("gene_ids", ids), ("gene_symbols", symbols)):
        if found and column not in var:
            var[column] = var[found[0]]
    return var


def _are_ensembl_ids(names: pd.Series) -> bool:
    return sum(ensembl_id(str(name).strip()) is not None for name in names) > len(names) / 2


def _text_or_numbers(dataset: h5py.Dataset) -> np.ndarray:
    """Values of an HDF5 vector; text as str, of whatever kind HDF5 stores it."""
    values = dataset[:]
    if values.dtype.kind not in "SO":
        return values
    return np.array([text_of(value) for value in values], dtype=object)


def _cellranger_file(file: h5py.File, path: Path) -> CountFile:
    """10x ``.h5``: of Cell Ranger 3 and later (``matrix``), or 2 (one group per genome)."""
    name = path.name
    group = _cellranger_group(file, path)
    with reading(str(path)):
        n_features, n_cells = (int(size) for size in group["shape"][:])
        barcodes = _text_or_numbers(group["barcodes"])
        var = _cellranger_features(group)
    if (len(barcodes), len(var)) != (n_cells, n_features):
        raise damaged(
            name, f"a matrix of {n_features} x {n_cells} with {len(var)} features and {len(barcodes)} barcodes"
        )
    obs = pd.DataFrame(index=pd.Index(barcodes, dtype=object))

    def reader() -> MatrixReader:
        # By columns of features x cells is by rows of cells x features.
        parts = sparse_parts(group, n_cells, f"{name}: X")
        return RowsReader(*parts, (n_cells, n_features), f"{name}: X")

    return CountFile(name, {"X": Place(reader)}, lambda: obs, lambda _: var)


def _cellranger_group(file: h5py.File, path: Path) -> h5py.Group:
    """The matrix; of several genomes of Cell Ranger 2 the human one."""
    with reading(str(path)):
        groups = [key for key in file if isinstance(file[key], h5py.Group) and "barcodes" in file[key]]
    if not groups:
        raise ScDMCError(
            f"{path} is an HDF5 file but no 10x .h5: there is no group with barcodes, only {shown_names(file)}"
        )
    human = [key for key in groups if key.lower().startswith(HUMAN_GENOMES)]
    chosen = groups if len(groups) == 1 else human
    if len(chosen) != 1:
        raise ScDMCError(f"{path} holds matrices of the genomes {groups}; write the wanted one into a file of its own")
    if len(groups) > 1:
        logger.warning("warning: %s: of the genomes %s only %s is taken", path.name, groups, chosen[0])
    return file[chosen[0]]


def _cellranger_features(group: h5py.Group) -> pd.DataFrame:
    if "features" in group:
        features = group["features"]
        keys = {"gene_ids": "id", "gene_symbols": "name", "feature_types": "feature_type", "genome": "genome"}
        columns = {column: _text_or_numbers(features[key]) for column, key in keys.items() if key in features}
    else:
        columns = {"gene_ids": _text_or_numbers(group["genes"]), "gene_symbols": _text_or_numbers(group["gene_names"])}
    return pd.DataFrame(columns, index=pd.Index(columns["gene_symbols"], dtype=object))
