"""Which inputs a path names, their cells' annotation, and ``.h5ad`` files to which results are added."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd

from scdmc.disk import require_space
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path
from scdmc.reading.count_files import open_count_file
from scdmc.reading.hdf5_links import require_own_content
from scdmc.reading.hdf5_output import hdf5_file
from scdmc.reading.inputs import input_files
from scdmc.reading.matrix_readers import reading, text_of
from scdmc.reading.options import is_h5ad

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
        if adata.raw is not None:
            adata.strings_to_categoricals(adata.raw.var)
        anndata.io.write_elem(file, "/", adata, dataset_kwargs={"compression": "gzip"})


def require_room_for_results(data_path: Path, output_path: Path, n_bytes: int = 0) -> None:
    """Refuse an ``.h5ad`` to a copy of which no results could be added, before the work.

    Parameters
    ----------
    data_path
        Where the cells come from.
    output_path
        The file or folder that will hold the copy.
    n_bytes
        How much the results take, at least.

    Raises
    ------
    ScDMCError
        If the disk has no room for the copy with the results, obs or obsm is no group, as in files of AnnData before
        version 0.7, or any part of the file leads to another file, which would be changed in place of the copy.
    """
    size = data_path.stat().st_size if is_h5ad(data_path) else 0
    require_space(output_path, size + n_bytes, f"{data_path} with the results")
    if not is_h5ad(data_path):
        return
    require_own_content(data_path)
    with reading(str(data_path)), h5py.File(data_path, "r") as file:
        kinds = {key: file.get(key, getclass=True) for key in ("obs", "obsm")}
    wrong = [key for key, kind in kinds.items() if kind not in (None, h5py.Group)]
    if wrong:
        raise ScDMCError(
            f"{data_path}: no results can be added, since {' and '.join(wrong)} is no group as AnnData writes it since "
            "version 0.7; read the file with anndata.read_h5ad and write it again"
        )


@contextmanager
def results_file(path: Path, data_path: Path, obs: pd.DataFrame | None = None) -> Iterator[h5py.File]:
    """A new ``.h5ad`` to which results are added: a copy of an ``.h5ad``, of other data its cells without genes.

    Whatever else an ``.h5ad`` holds is neither read nor changed.

    Parameters
    ----------
    path
        The new file.
    data_path
        Where the cells came from.
    obs
        Annotation of the cells of other data.
    """
    import anndata

    if is_h5ad(data_path):
        require_own_content(data_path)
        shutil.copyfile(data_path, path)
    else:
        # "_index" is the name that AnnData gives to the names of the cells.
        obs = obs.drop(columns="_index", errors="ignore").rename_axis(None)
        write_h5ad(anndata.AnnData(obs=obs), path)
    with hdf5_file(path, "a") as file:
        yield file


def add_obs(file: h5py.File, columns: Mapping[str, "np.ndarray | pd.Categorical"]) -> None:
    """Add columns to obs of an open ``.h5ad``, in place of older ones of their names; nothing else is touched."""
    import anndata

    obs = file["obs"]
    for name, values in columns.items():
        if name in obs:
            del obs[name]
        anndata.io.write_elem(obs, name, values)
    before = [text_of(name) for name in obs.attrs.get("column-order", ())]
    names = np.array([*(name for name in before if name not in columns), *columns], dtype=object)
    obs.attrs.create("column-order", names, dtype=h5py.string_dtype())


def new_obsm(file: h5py.File, name: str, shape: tuple[int, int]) -> h5py.Dataset:
    """A matrix of obsm of an open ``.h5ad``, NaN so far, in place of an older one; shape (n_cells, n_columns)."""
    group = file.require_group("obsm")
    group.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    if name in group:
        del group[name]
    dataset = group.create_dataset(name, shape, dtype=np.float32, fillvalue=np.nan)
    dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return dataset


def number_of_cells(file: h5py.File) -> int:
    """Cells of an open ``.h5ad``, by their names."""
    obs = file["obs"]
    return int(obs[text_of(obs.attrs.get("_index", "_index"))].shape[0])
