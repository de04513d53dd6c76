"""What a file or a folder is, judged by its content; its name decides only where the content says nothing."""

import gzip
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py

from scdmc.errors import shown_names
from scdmc.reading.magic import HDF5_MAGIC, PARQUET_MAGIC, file_start

# Kinds of input that can be read.
H5AD, LOOM, TEN_X, ZARR, MTX = "h5ad", "loom", "10x .h5", "zarr", "10x mtx"


# What a name promises, where the content cannot be read.
KIND_OF_SUFFIX = {".h5ad": H5AD, ".loom": LOOM, ".h5": TEN_X}


HDF5_KINDS = (H5AD, LOOM, TEN_X)


ZARR_SUFFIX = ".zarr"


ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")


# "matrix.mtx", or with a name of the sample before, as GEO has it.
MTX_NAME = re.compile(r"(?P<prefix>(?:.*[_.-])?)matrix\.mtx(?:\.gz)?", re.IGNORECASE)


GZIP_MAGIC, ZIP_MAGIC, BZ2_MAGIC, XZ_MAGIC = b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ"


# Of R: RDS files (after unpacking) in their three formats, and RData.
R_MAGICS = (b"X\n\0\0", b"A\n2\n", b"A\n3\n", b"B\n", b"RDX", b"RDA")


R_SUFFIXES = (".rds", ".rda", ".rdata", ".qs")


OF_R = (
    "an object of R: write its counts there with zellkonverter::writeH5AD(object, 'cells.h5ad') or "
    "DropletUtils::write10xCounts('counts', counts(object))"
)


@dataclass(frozen=True)
class Kind:
    """What something is.

    Attributes
    ----------
    name
        Of the kind of input; None for what is none.
    reason
        What else it is, and what to do.
    may_hold_cells
        True if its user may think that its cells are read.
    """

    name: str | None
    reason: str = ""
    may_hold_cells: bool = True


def kind_of(path: Path) -> Kind:
    """The kind of a file or folder; nothing of a matrix is read."""
    if path.is_dir():
        return _kind_of_folder(path)
    if not path.is_file():
        return Kind(None, "no regular file", may_hold_cells=False)
    start = file_start(path)
    if start.startswith(HDF5_MAGIC) or (path.suffix.lower() in (".h5mu", *KIND_OF_SUFFIX) and h5py.is_hdf5(path)):
        return _kind_of_hdf5(path)
    if MTX_NAME.fullmatch(path.name):
        return Kind(MTX)
    packed = next((what for magic, what in _PACKED.items() if start.startswith(magic)), None)
    if packed is not None:
        return packed(path)
    if start.startswith(PARQUET_MAGIC):
        return Kind(None, "a parquet file: tokenized cells are read by the later scripts", may_hold_cells=False)
    if start.startswith(R_MAGICS) or path.suffix.lower() in R_SUFFIXES:
        return Kind(None, OF_R)
    by_name = KIND_OF_SUFFIX.get(path.suffix.lower())
    return Kind(by_name) if by_name else _kind_of_other(path)


def _kind_of_folder(path: Path) -> Kind:
    if any((path / name).exists() for name in ZARR_MARKS):
        return Kind(ZARR)
    if any((path / name).is_file() for name in ("matrix.mtx", "matrix.mtx.gz")):
        return Kind(MTX)
    if path.suffix.lower() == ZARR_SUFFIX:
        return Kind(ZARR)
    return Kind(None, "a folder")


def _kind_of_hdf5(path: Path) -> Kind:
    try:
        with h5py.File(path, "r") as file:
            keys = set(file)
            # A link to another file is not followed before it has been looked at (scdmc.reading.hdf5_links).
            own = {key for key in keys if isinstance(file.get(key, getlink=True), h5py.HardLink)}
            is_matrix = "matrix" in own and isinstance(file["matrix"], h5py.Dataset)
            groups = {key: set(file[key]) for key in own if isinstance(file[key], h5py.Group)}
            modalities = sorted(groups.get("mod", ()))
            has_barcodes = any("barcodes" in members for members in groups.values())
    except (OSError, RuntimeError, KeyError, ValueError):
        # Whoever opens it says what is damaged.
        return Kind(KIND_OF_SUFFIX.get(path.suffix.lower(), H5AD))
    if modalities:
        rna = next((name for name in modalities if name.lower() in ("rna", "gex", "gene expression")), modalities[0])
        return Kind(
            None,
            f"a .h5mu of the modalities {shown_names(modalities)}: write the one of gene expression with "
            f"mudata.read_h5mu({path.name!r})[{rna!r}].write_h5ad('{path.stem}_{rna}.h5ad')",
        )
    if {"obs", "var"} <= keys:
        return Kind(H5AD)
    if {"row_attrs", "col_attrs"} & keys or (is_matrix and path.suffix.lower() == ".loom"):
        return Kind(LOOM)
    # The names of its barcodes lie in a group, too.
    if {"barcode_idx", "molecule_info"} & keys or {"count", "barcodes", "gem_group"} <= keys:
        return Kind(
            None, "a molecule_info.h5, which holds molecules and no counts of cells; filtered_feature_bc_matrix.h5 "
            "of the same run holds these", may_hold_cells=False,
        )  # fmt: skip
    if has_barcodes:
        return Kind(TEN_X)
    if {"assays", "cell.names"} <= keys:
        return Kind(None, "an .h5Seurat: in R, SeuratDisk::Convert(source = FILE, dest = 'h5ad') makes an .h5ad of it")
    promised = KIND_OF_SUFFIX.get(path.suffix.lower())
    if promised in (H5AD, LOOM):
        return Kind(promised)
    return Kind(None, f"an HDF5 file, but no .h5ad, no .loom and no 10x .h5: it holds {shown_names(sorted(keys))}")


def _packed_by_gzip(path: Path) -> Kind:
    try:
        with gzip.open(path, "rb") as file:
            start = file.read(len(HDF5_MAGIC))
    except (OSError, EOFError, zlib.error):
        start = b""
    if start.startswith(R_MAGICS) or path.suffix.lower() in R_SUFFIXES:
        return Kind(None, OF_R)
    if start.startswith(HDF5_MAGIC) or Path(path.stem).suffix.lower() in KIND_OF_SUFFIX:
        return Kind(None, f"packed by gzip: unpack it with gunzip --keep {path.name}")
    return _kind_of_other(path)


def _packed_by(command: str) -> Callable[[Path], Kind]:
    return lambda path: Kind(None, f"packed: unpack it with {command} {path.name}")


_PACKED = {
    GZIP_MAGIC: _packed_by_gzip, ZIP_MAGIC: _packed_by("unzip"), BZ2_MAGIC: _packed_by("bunzip2 --keep"),
    XZ_MAGIC: _packed_by("unxz --keep"),
}  # fmt: skip


def _kind_of_other(path: Path) -> Kind:
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".csv", ".tsv", ".txt", ".tab")):
        return Kind(
            None, "text; a table of counts becomes an .h5ad with anndata.io.read_csv(FILE).write_h5ad('cells.h5ad')",
            may_hold_cells=name.endswith((".csv", ".tsv")),
        )  # fmt: skip
    return Kind(None, "no file of counts", may_hold_cells=False)


def inputs_below(path: Path, most: int = 1000) -> list[str]:
    """Inputs in a folder and the folders below it, relative to it; the first so many entries are looked at."""
    found, n_seen = [], 0
    for folder, folders, files in os.walk(path):
        for name in sorted([*folders, *files]):
            n_seen += 1
            if n_seen > most:
                return found
            if not name.startswith(".") and kind_of(Path(folder, name)).name is not None:
                found.append(str(Path(folder, name).relative_to(path)))
                if name in folders:
                    folders.remove(name)
    return found
