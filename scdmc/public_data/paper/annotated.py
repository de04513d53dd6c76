"""BMMC and Immune: files of AnnData with counts in a layer."""

from pathlib import Path

import h5py
import numpy as np

from scdmc.errors import COPY_AGAIN, ScDMCError, shown_names
from scdmc.public_data.paper.archives import gunzipped
from scdmc.public_data.paper.form import NORMALIZED, PaperCells, is_whole, read_matrix
from scdmc.public_data.paper.options import ReadingOptions

LAYER = "counts"


def read_annotated(path: Path, scratch: Path, columns: tuple[str, ...]) -> PaperCells:
    """Counts of the layer, and an obs that has the columns.

    Raises
    ------
    ScDMCError
        If the file is damaged, has no such layer, or lacks a column.
    """
    file = gunzipped(path, scratch)
    if not h5py.is_hdf5(file):
        raise ScDMCError(f"{path} is no .h5ad (it is no HDF5): {COPY_AGAIN}")
    cells = read_matrix(file, LAYER)
    missing = [name for name in columns if name not in cells.obs]
    if missing:
        raise ScDMCError(
            f"{path}: obs lacks the column {missing[0]!r}; it has {shown_names(map(repr, cells.obs), 10)}: is it the "
            "file of this data set?"
        )
    return cells


def read_bmmc(files: dict[str, Path], scratch: Path, options: ReadingOptions) -> PaperCells:
    """Bone marrow of the NeurIPS competition: genes without proteins (CITE-seq) or peaks (multiome).

    A batch is a site and a donor, such as s1d1.

    Raises
    ------
    ScDMCError
        As :func:`read_annotated`, or if the counts are none.
    """
    (path,) = files.values()
    cells = read_annotated(path, scratch, ("cell_type", "batch"))
    is_count = is_whole(cells.counts)
    if not is_count.all():
        raise ScDMCError(
            f"{path}: layers['{LAYER}'] holds values that are no whole numbers in {(~is_count).sum():,} of "
            f"{len(is_count):,} cells, the first {cells.obs.index[np.argmin(is_count)]!r}: {COPY_AGAIN}"
        )
    cells.note("the %s part is read", "multiome" if "multiome" in path.name else "CITE-seq")
    batch = cells.obs["batch"].astype(str)
    if "DonorID" in cells.obs:
        donor = cells.obs["DonorID"].astype(str)
        cells.note("donors by the column DonorID")
    else:
        donor = batch.str.extract(r"(d\d+)$")[0].fillna(batch)
        cells.note("there is no column DonorID; donors by the ends of the batches, such as d1 of s1d1")
    cells.obs = cells.obs.assign(batch=batch, donor=donor, tissue="bone marrow", disease="normal")
    return cells


def read_immune(files: dict[str, Path], scratch: Path, options: ReadingOptions) -> PaperCells:
    """Ten batches of immune cells. A batch whose values are no whole numbers holds no counts.

    Such a batch is left out, all of it, or kept as it is with ``allow_normalized``.

    Raises
    ------
    ScDMCError
        As :func:`read_annotated`, or if no batch holds counts.
    """
    (path,) = files.values()
    cells = read_annotated(path, scratch, ("batch", "final_annotation"))
    batch = cells.obs["batch"].astype(str)
    is_odd = batch.isin(batch[~is_whole(cells.counts)].unique()).to_numpy()
    named = shown_names(sorted(batch[is_odd].unique()), 10)
    if is_odd.all() and not options.allow_normalized:
        raise ScDMCError(
            f"{path}: layers['{LAYER}'] holds values that are no whole numbers in every batch; "
            "--allow_normalized keeps them as they are"
        )
    cells.obs = cells.obs.assign(cell_type=cells.obs["final_annotation"], disease="normal")
    cells.obs["donor"] = cells.obs.get("sample_ID", batch)
    if is_odd.any() and options.allow_normalized:
        cells.values = NORMALIZED
        cells.note("batches without counts are kept as they are (--allow_normalized): %s", named)
    elif is_odd.any():
        cells.note("%s cells of batches without counts are left out: %s", f"{is_odd.sum():,}", named)
        cells.counts, cells.obs = cells.counts[~is_odd], cells.obs[~is_odd]
    else:
        cells.note("all batches hold counts")
    return cells
