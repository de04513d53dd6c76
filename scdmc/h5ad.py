"""Small things about ``.h5ad`` files: which ones a path names, reading their cells' annotation, writing one whole."""

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import pandas as pd

from scdmc.counts import input_files
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path

if TYPE_CHECKING:
    from anndata import AnnData


def h5ad_files(data_path: Path) -> list[Path]:
    """The file that a path names, or the ``.h5ad`` files of a folder in the order of their names.

    Raises
    ------
    ScDMCError
        If there is neither, or the folder holds no ``.h5ad``.
    """
    data_path = Path(data_path)
    if data_path.is_file():
        return [data_path]
    if not data_path.exists():
        raise ScDMCError(f"{data_path}: no such file or folder")
    return input_files(data_path)


def read_obs(path: Path) -> pd.DataFrame:
    """Annotation of the cells of an ``.h5ad``, n_cells rows; its matrix is not touched.

    Raises
    ------
    ScDMCError
        If the file is no ``.h5ad``.
    """
    import anndata

    try:
        with h5py.File(path, "r") as file:
            if "obs" not in file:
                raise ScDMCError(f"{path} is an HDF5 file but no .h5ad: it lacks obs")
            return anndata.io.read_elem(file["obs"])
    except OSError as error:
        raise ScDMCError(f"{path} is not a readable .h5ad file ({str(error).partition(chr(10))[0]})") from error


def write_h5ad(adata: "AnnData", path: Path) -> None:
    """Write an AnnData compressed and whole, or not at all."""
    with atomic_path(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")
