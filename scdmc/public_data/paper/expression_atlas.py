"""MS: a matrix of the Single Cell Expression Atlas, with its lists of genes and cells and its table of the design."""

import shutil
from pathlib import Path

import numpy as np

from scdmc.errors import ScDMCError, shown_names
from scdmc.public_data.paper.archives import unpacked
from scdmc.public_data.paper.form import (
    NORMALIZED,
    PART,
    QUERY,
    REFERENCE,
    PaperCells,
    is_whole,
    read_matrix,
    read_table,
    rows_of,
)
from scdmc.public_data.paper.options import ReadingOptions

# Ends of the names in the archive -> what 10x calls the same.
SUFFIXES = {".mtx": "matrix.mtx", ".mtx_rows": "features.tsv", ".mtx_cols": "barcodes.tsv"}


CELL, CELL_TYPE = "Assay", "Factor Value[inferred cell type - authors labels]"


# Our column -> the columns of the design that say it, the first that is there.
DESIGN = {
    "donor": ("Sample Characteristic[individual]", "Factor Value[individual]"),
    "disease": ("Factor Value[disease]", "Sample Characteristic[disease]"),
    "tissue": ("Sample Characteristic[organism part]", "Factor Value[organism part]"),
}


CONTROL = "normal"


# Pseudo-alignment divides a read that fits several genes, so estimated counts have some fractions; normalised values
# are hardly ever whole.
LEAST_WHOLE = 0.5


ROUNDED = "estimated counts, rounded to whole numbers"


def read_ms(files: dict[str, Path], scratch: Path, options: ReadingOptions) -> PaperCells:
    """Nuclei of controls, which are the reference, and of patients, which are the query.

    Raises
    ------
    ScDMCError
        If a file is damaged, lacks a column, or the cells of the two do not belong together; if the values are
        normalised, unless that is allowed.
    """
    matrix, design = files.values()
    cells = read_matrix(_as_ten_x(matrix, scratch))
    with_counts(cells, matrix, options)
    table = read_table(design, (CELL, CELL_TYPE), "\t")
    columns = {name: next((column for column in of if column in table), None) for name, of in DESIGN.items()}
    missing = [name for name in ("donor", "disease") if columns[name] is None]
    if missing:
        raise ScDMCError(
            f"{design} lacks {shown_names(map(repr, DESIGN[missing[0]]))}; it has {shown_names(map(repr, table), 10)}"
        )
    in_matrix = table[CELL].isin(cells.obs.index)
    if not in_matrix.all() and in_matrix.any():
        cells.note("%s cells of the design are not in the matrix, which is filtered", f"{(~in_matrix).sum():,}")
        table = table[in_matrix]
    rows = rows_of(cells.obs.index, table[CELL], design)
    for name, column in {"cell_type": CELL_TYPE, **columns}.items():
        if column is not None:
            cells.obs[name] = np.append(table[column].to_numpy(dtype=object), None)[rows]
    if (rows < 0).any():
        cells.note("%s cells of the matrix are not in the design", f"{(rows < 0).sum():,}")
    is_control = (cells.obs["disease"] == CONTROL).to_numpy()
    if is_control.all() or not is_control.any():
        found = shown_names(sorted(cells.obs["disease"].dropna().unique()))
        raise ScDMCError(f"{design}: diseases are {found}; there should be {CONTROL!r} and another one")
    cells.obs["batch"] = cells.obs["donor"]
    cells.obs[PART] = np.where(is_control, REFERENCE, QUERY)
    return cells


def with_counts(cells: PaperCells, path: Path, options: ReadingOptions) -> None:
    """Say what the values are, and round estimated counts.

    Raises
    ------
    ScDMCError
        If they are normalised, and that is not allowed.
    """
    if is_whole(cells.counts).all():
        cells.note("the values are whole numbers")
        return
    share = float(np.mean(cells.counts.data == np.rint(cells.counts.data)))
    if options.allow_normalized and share < LEAST_WHOLE:
        cells.values = NORMALIZED
        return
    if share < LEAST_WHOLE:
        raise ScDMCError(
            f"{path}: {share:.0%} of its values are whole numbers, so they are no counts but normalised; download the "
            "raw counts, or keep these with --allow_normalized"
        )
    cells.note("%s of the values are whole numbers; the others are estimated counts, and are rounded", f"{share:.0%}")
    cells.values = ROUNDED
    cells.counts.data = np.rint(cells.counts.data)
    cells.counts.eliminate_zeros()


def _as_ten_x(path: Path, scratch: Path) -> Path:
    """A folder with the three files under the names of 10x: out of the archive, or beside a matrix."""
    folder = scratch / "matrix"
    folder.mkdir(parents=True, exist_ok=True)
    if _plain(path).suffix == ".mtx":
        stem = _plain(path)
        beside = sorted(path.parent.glob(f"{stem.name}*"))
    else:
        beside = unpacked(path, scratch / "archive", lambda place: _plain(place).suffix in SUFFIXES)
    found = {suffix: [file for file in beside if _plain(file).suffix == suffix] for suffix in SUFFIXES}
    odd = [f"{suffix} ({len(of)})" for suffix, of in found.items() if len(of) != 1]
    if odd:
        raise ScDMCError(
            f"{path}: one matrix .mtx with its .mtx_rows and .mtx_cols is needed; there are {', '.join(odd)} files"
        )
    for suffix, (file,) in found.items():
        target = folder / f"{SUFFIXES[suffix]}{'.gz' if file.suffix == '.gz' else ''}"
        shutil.copyfile(file, target) if file.parent == path.parent else file.replace(target)
    return folder


def _plain(path: Path) -> Path:
    """A name without the ``.gz`` at its end."""
    return path.with_suffix("") if path.suffix == ".gz" else path
