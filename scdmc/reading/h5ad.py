"""Small things about inputs: which ones a path names, reading their cells' annotation, writing a whole ``.h5ad``."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path
from scdmc.reading.count_files import open_count_file
from scdmc.reading.counts import input_files
from scdmc.reading.hdf5_output import hdf5_file

if TYPE_CHECKING:
    from anndata import AnnData


def h5ad_files(data_path: Path) -> list[Path]:
    """The file that a path names, or the inputs of a folder in the order of their names.

    Raises
    ------
    ScDMCError
        If there is neither, or the folder holds none.
    """
    data_path = Path(data_path)
    if data_path.is_file():
        return [data_path]
    if not data_path.exists():
        raise ScDMCError(f"{data_path}: no such file or folder")
    return input_files(data_path)


def read_obs(path: Path) -> pd.DataFrame:
    """Annotation of the cells of an ``.h5ad`` or another input, n_cells rows; its matrix is not touched.

    Raises
    ------
    ScDMCError
        If the file is no such input.
    """
    with open_count_file(path) as file:
        return file.read_obs()


def write_h5ad(adata: "AnnData", path: Path) -> None:
    """Write an AnnData compressed and whole, or not at all."""
    import anndata

    with atomic_path(path) as temporary, hdf5_file(temporary, "w") as file:
        adata.strings_to_categoricals()  # as AnnData.write_h5ad does
        anndata.io.write_elem(file, "/", adata, dataset_kwargs={"compression": "gzip"})
