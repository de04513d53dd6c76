"""10x folders: matrix.mtx, barcodes.tsv and features.tsv (or genes.tsv), each perhaps gzipped."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from scdmc.errors import ScDMCError
from scdmc.reading import transposition
from scdmc.reading.kinds import MTX_NAME
from scdmc.reading.matrix_readers import VALUES_IN_SAMPLE, TurnedReader, damaged, first_line, require_range
from scdmc.reading.text_lines import open_lines
from scdmc.reading.transposition import Entries, spool

# Names of the three files in order of preference; Cell Ranger 2 calls the features genes.
FILE_NAMES = {
    "matrix": ("matrix.mtx.gz", "matrix.mtx"),
    "barcodes": ("barcodes.tsv.gz", "barcodes.tsv"),
    "features": ("features.tsv.gz", "features.tsv", "genes.tsv.gz", "genes.tsv"),
}


# Of a file of barcodes or features, unpacked: a hundred million lines.
MOST_BYTES = 2**32


FEATURE_COLUMNS = ("gene_ids", "gene_symbols", "feature_types")


HEADER = "%%MatrixMarket matrix coordinate integer|real general"


def name_of(path: Path) -> str:
    """What the user knows a file or folder by; ``.`` has a name, too."""
    return path.name if path.name not in ("", "..") else path.resolve().name


def mtx_files(path: Path) -> dict[str, Path]:
    """``matrix``, ``barcodes`` and ``features`` -> file, of a folder or of a matrix whose name may start otherwise.

    Raises
    ------
    ScDMCError
        If one is absent.
    """
    path = Path(path)
    named = MTX_NAME.fullmatch(path.name) if path.is_file() else None
    folder, prefix = (path.parent, named["prefix"]) if named else (path, "")
    files = {"matrix": path} if named else {}
    for what, names in FILE_NAMES.items():
        found = [folder / f"{prefix}{name}" for name in names if (folder / f"{prefix}{name}").is_file()]
        if not found:
            raise ScDMCError(
                f"{path}: a 10x matrix has files of barcodes and features beside it; there is no {prefix}{names[0]}"
            )
        files.setdefault(what, found[0])
    return files


def mtx_annotation(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Annotation of the cells and of all features.

    Raises
    ------
    ScDMCError
        If a file is absent or no table.
    """
    files = mtx_files(folder)
    barcodes = _table(files["barcodes"])
    features = _table(files["features"])
    columns = dict(zip(FEATURE_COLUMNS, (features[number].to_numpy() for number in features), strict=False))
    var = pd.DataFrame(columns, index=pd.Index(columns.get("gene_symbols", columns["gene_ids"]), dtype=object))
    return pd.DataFrame(index=pd.Index(barcodes[0], dtype=object)), var


def mtx_reader(folder: Path, shape: tuple[int, int]) -> TurnedReader:
    """Reader of the matrix, which is text of one entry a line, in any order.

    Parameters
    ----------
    folder
        The folder, or the file of the matrix.
    shape
        (n_cells, n_features) by the other two files.

    Raises
    ------
    ScDMCError
        If the header is no such matrix or of another shape; while reading, if an entry is none of this shape.
    """
    path = mtx_files(folder)["matrix"]
    source = path.name if folder == path else f"{name_of(folder)}: {path.name}"
    with open_lines(path) as file:
        n_features, n_cells, _ = _header(file, source)
    if (n_cells, n_features) != shape:
        raise ScDMCError(
            f"{source} has {n_features} features x {n_cells} cells, "
            f"but there are {shape[1]} lines of features and {shape[0]} barcodes"
        )

    def sample() -> np.ndarray:
        return next(_entries(path, source, VALUES_IN_SAMPLE), (None, None, np.empty(0)))[2]

    def turn() -> transposition.EntriesByCell:
        return spool(_entries(path, source, transposition.ENTRIES_IN_MEMORY), shape, source)

    return TurnedReader(turn, sample, shape, np.dtype(np.float64))


def _table(path: Path) -> pd.DataFrame:
    """A file of tab-separated text, columns 0, 1, ..."""
    source = f"{name_of(path.parent)}: {path.name}"
    try:
        with open_lines(path, MOST_BYTES) as file:
            return pd.read_csv(
                file, sep="\t", header=None, dtype=str, quoting=3, keep_default_na=False, na_filter=False
            )
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise damaged(source, first_line(error)) from error


def _header(file: BinaryIO, source: str) -> tuple[int, int, int]:
    """Numbers of rows, columns and entries; the file stands at the first entry then."""
    try:
        kind = file.readline().decode("utf8", "replace").split()
        line = file.readline()
        while line.startswith(b"%") or (line and not line.strip()):
            line = file.readline()
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise damaged(source, first_line(error)) from error
    is_known = [word.lower() for word in kind[:3]] == ["%%matrixmarket", "matrix", "coordinate"] and len(kind) == 5
    if not is_known or kind[3].lower() not in ("integer", "real") or kind[4].lower() != "general":
        raise ScDMCError(f"{source} starts with {' '.join(kind)[:60]!r}; a 10x matrix starts with {HEADER!r}")
    sizes = line.split()
    if len(sizes) != 3 or not all(size.isdigit() for size in sizes):
        raise ScDMCError(f"{source}: {line.decode('utf8', 'replace').strip()[:60]!r} should be rows, columns, entries")
    n_rows, n_columns, n_entries = map(int, sizes)
    return n_rows, n_columns, n_entries


def _entries(path: Path, source: str, batch_size: int) -> Iterator[Entries]:
    """Entries as (cells, genes, values), counted from 0, checked; all lines that the header promises."""
    n_read = 0
    with open_lines(path) as file:
        n_features, n_cells, n_entries = _header(file, source)
        try:
            # The fourth column stands for what is too much in a line.
            tables = pd.read_csv(
                file, sep=r"\s+", header=None, names=["gene", "cell", "value", "more"], chunksize=batch_size,
                dtype={"gene": np.int64, "cell": np.int64, "value": np.float64, "more": str}, engine="c",
            ) if n_entries else ()  # fmt: skip
            for table in tables:
                if table["more"].notna().any():
                    raise damaged(source, "a line holds more than gene, cell and value")
                if table["value"].isna().any():
                    raise damaged(source, "a line holds less than gene, cell and value")
                genes, cells = table["gene"].to_numpy() - 1, table["cell"].to_numpy() - 1
                require_range(genes, n_features, "feature", source, first=1)
                require_range(cells, n_cells, "cell", source, first=1)
                n_read += len(table)
                if n_read > n_entries:
                    raise damaged(source, f"the header promises {n_entries:,} entries, but there are more")
                yield cells, genes, table["value"].to_numpy()
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise damaged(source, first_line(error)) from error
    if n_read != n_entries:
        raise damaged(source, f"the header promises {n_entries:,} entries, but there are {n_read:,}")
