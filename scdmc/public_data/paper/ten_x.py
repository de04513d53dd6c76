"""Zheng68K and PBMC10K: archives of 10x with labels of others beside them."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.errors import COPY_AGAIN, ScDMCError
from scdmc.public_data.paper.archives import unpacked
from scdmc.public_data.paper.form import PaperCells, read_matrix, read_table, rows_of
from scdmc.public_data.paper.options import ReadingOptions
from scdmc.reading.mtx import FILE_NAMES

MATRIX_FILES = frozenset(name for names in FILE_NAMES.values() for name in names)


ZHENG_COLUMNS = ("barcodes", "celltype")


# Of the metadata that scvi-tools reads; "Other" is what its authors put no name to.
METADATA_KEYS = ("barcodes", "design", "clusters", "list_clusters")
NO_TYPE = "Other"


# Cells that the archives of 10x do not hold any more end like this.
NOT_IN_THE_ARCHIVE = "11"


# What the metadata are made of. Anything else in a pickle could run a program.
HARMLESS = frozenset({
    ("pandas.core.frame", "DataFrame"), ("pandas.core.series", "Series"),
    ("pandas.core.internals", "BlockManager"), ("pandas.core.internals.managers", "BlockManager"),
    ("pandas.core.indexes.numeric", "Int64Index"), ("pandas.core.indexes.base", "Index"),
    ("pandas.core.indexes.range", "RangeIndex"), ("pandas.core.indexes.base", "_new_Index"),
    ("pandas._libs.internals", "_unpickle_block"), ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"),
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"), ("numpy", "dtype"), ("builtins", "slice"), ("__builtin__", "slice"), ("_codecs", "encode"),
})  # fmt: skip


# What a damaged pickle may raise, beside what pickle promises: the tables in it are made of whatever it holds.
DAMAGES = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, AssertionError, RuntimeError,
    ImportError, ArithmeticError, MemoryError,
)  # fmt: skip


def read_archive(path: Path, scratch: Path) -> PaperCells:
    """Cells of an archive of 10x, or of the folder that it unpacks to."""
    if path.is_dir():
        matrices = sorted(file for name in FILE_NAMES["matrix"] for file in path.rglob(name))
    else:
        files = unpacked(path, scratch / path.name, lambda place: place.name in MATRIX_FILES)
        matrices = [file for file in files if file.name in FILE_NAMES["matrix"]]
    if not matrices:
        held = "none of its files is called " + " or ".join(FILE_NAMES["matrix"])
        raise ScDMCError(f"{path} is no archive of a 10x matrix: {held}")
    if len(matrices) > 1:
        raise ScDMCError(f"{path} holds {len(matrices)} matrices; give the one of the human genome")
    return read_matrix(matrices[0].parent)


def read_zheng68k(files: dict[str, Path], scratch: Path, options: ReadingOptions) -> PaperCells:
    """The blood cells of Zheng et al. 2017; their types are those of the nearest purified population.

    Raises
    ------
    ScDMCError
        If a file is damaged, has other columns, or names cells that the other lacks.
    """
    archive, labels = files.values()
    cells = read_archive(archive, scratch)
    table = read_table(labels, ZHENG_COLUMNS, "\t")
    rows = rows_of(cells.obs.index, table["barcodes"], labels)
    types = np.append(table["celltype"].to_numpy(dtype=object), None)
    cells.obs["cell_type"] = types[rows]
    # Cells of one donor in one run: there are no batches.
    cells.obs = cells.obs.assign(batch="donor_a", donor="donor_a", tissue="blood", disease="normal")
    return cells


def read_pbmc10k(files: dict[str, Path], scratch: Path, options: ReadingOptions) -> PaperCells:
    """The cells and genes of ``scvi.data.pbmc_dataset()``, out of the same files.

    A barcode that both runs have is looked up in the run that the metadata name.

    Raises
    ------
    ScDMCError
        If a file is damaged, has other columns, or names cells that the matrices lack.
    """
    *archives, genes_file, metadata_file = files.values()
    parts = [read_archive(path, scratch / str(number)) for number, path in enumerate(archives)]  # of one name, perhaps
    ids = [_ids_of_genes(part) for part in parts]
    listed = read_table(genes_file, ("ENSG",), ",")["ENSG"]
    wanted = [gene for gene in listed if all(gene in of_part for of_part in ids)]
    if not wanted:
        raise ScDMCError(f"{genes_file}: none of its genes is in the matrices; is it the file of this data set?")
    barcodes, is_second, types = read_metadata(metadata_file)
    is_kept = np.array([not barcode.endswith(NOT_IN_THE_ARCHIVE) for barcode in barcodes])
    rows = np.zeros(len(barcodes), dtype=int)
    for number, part in enumerate(parts):
        here = is_kept & (is_second == bool(number))
        found = rows_of(part.obs.index, barcodes[here], metadata_file)
        of_part = np.flatnonzero(found >= 0)
        rows[here] = of_part[np.argsort(found[of_part])] + number * len(parts[0].obs)
    pairs = zip(parts, ids, strict=True)
    matrix = scipy.sparse.vstack([part.counts[:, names.get_indexer(wanted)] for part, names in pairs])
    order = rows[is_kept]
    types[types == NO_TYPE] = None
    batch = np.where(is_second, "pbmc4k", "pbmc8k")[is_kept]
    names = pd.Index([f"{barcode}_{run}" for barcode, run in zip(barcodes[is_kept], batch, strict=True)])
    obs = pd.DataFrame({"cell_type": types[is_kept], "batch": batch}, index=names)
    # Of one donor, by 10x; the runs are the batches.
    cells = PaperCells(
        scipy.sparse.csr_matrix(matrix)[order],
        obs.assign(donor="healthy donor", tissue="blood", disease="normal"),
        parts[0].var.iloc[ids[0].get_indexer(wanted)].reset_index(drop=True),
    )
    cells.note("%s cells of the metadata are not in the archives and are left out", f"{(~is_kept).sum():,}")
    cells.note("the %s genes that scvi-tools keeps", f"{len(wanted):,}")
    return cells


def _ids_of_genes(part: PaperCells) -> pd.Index:
    column = next((name for name in ("gene_ids", "gene_symbols") if name in part.var), None)
    return pd.Index(part.var.index if column is None else part.var[column])


def read_metadata(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pickle of scvi-tools: barcodes, whether each is one of the second run, types; all of shape (n_cells,).

    Raises
    ------
    ScDMCError
        If the file is damaged, would make anything but tables and arrays, or has other contents.
    """
    metadata = _unpickled(path)
    types = _types_of(metadata, path)
    return *_barcodes_of(metadata, path), types


def _barcodes_of(metadata: dict, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Barcodes of the metadata, and whether each is one of the second run; both of shape (n_cells,)."""
    for key in ("barcodes", "design"):
        if not isinstance(metadata[key], pd.DataFrame):
            raise ScDMCError(f"{path}: {key!r} is no table, but {type(metadata[key]).__name__}: {COPY_AGAIN}")
    barcodes = metadata["barcodes"].index.to_numpy().astype(str)
    column = "batchpbmc4k"
    if (metadata["design"].columns == column).sum() != 1:
        raise ScDMCError(f"{path} lacks one column {column!r} of the design; is it the file of this data set?")
    lengths = {"barcodes": len(barcodes), "design": len(metadata["design"]), "clusters": np.size(metadata["clusters"])}
    if len(set(lengths.values())) > 1:
        raise ScDMCError(f"{path}: its parts are of different lengths, {lengths}: {COPY_AGAIN}")
    return barcodes, metadata["design"][column].to_numpy() == 1


def _types_of(metadata: dict, path: Path) -> np.ndarray:
    """The type of each cell of the metadata, shape (n_cells,)."""
    names, clusters = metadata["list_clusters"], metadata["clusters"]
    is_list = isinstance(names, (list, pd.Series)) or (isinstance(names, np.ndarray) and names.ndim == 1)
    if not (is_list and all(isinstance(name, str) for name in names)):
        raise ScDMCError(f"{path}: 'list_clusters' is no list of names: {COPY_AGAIN}")
    numbers = np.ravel(clusters) if isinstance(clusters, (np.ndarray, pd.Series)) else np.array([None])
    if numbers.dtype.kind not in "iu" or (numbers < 0).any() or (numbers >= len(names)).any():
        raise ScDMCError(f"{path}: 'clusters' are not all whole numbers from 0 to {len(names) - 1}: {COPY_AGAIN}")
    return np.array(list(names), dtype=object)[numbers]


class _CarefulUnpickler(pickle.Unpickler):
    """Makes tables and arrays, as pandas wrote them, and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        """The class, if it is one of :data:`HARMLESS`."""
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it would make a {module}.{name}")
        if (module, name) == ("pandas.core.indexes.numeric", "Int64Index"):
            return pd.Index
        return super().find_class(module, name)


def _unpickled(path: Path) -> dict:
    """The pickle of scvi-tools, of which only tables and arrays are made."""
    try:
        with path.open("rb") as file:
            content = _CarefulUnpickler(file).load()
    except DAMAGES as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ScDMCError(f"{path} is not the metadata that scvi-tools reads ({reason}): {COPY_AGAIN}") from error
    missing = [key for key in METADATA_KEYS if not (isinstance(content, dict) and key in content)]
    if missing:
        raise ScDMCError(f"{path} lacks {missing[0]!r}; is it the pbmc_metadata.pickle of scvi-tools?")
    return content
