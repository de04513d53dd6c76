"""Colours that a file gives its labels, as scanpy and cellxgene keep them: ``uns['<label>_colors']``."""

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import anndata


def label_colours(path: Path, column: str | None) -> dict[str, str]:
    """Label -> colour; empty where the file has none, or not one for each category of the column.

    Parameters
    ----------
    path
        An ``.h5ad`` file that can be read; another file has no colours.
    column
        Column of obs.
    """
    path = Path(path)
    if path.suffix != ".h5ad" or not h5py.is_hdf5(path):
        return {}
    with h5py.File(path) as file:
        colours, categories = file.get(f"uns/{column}_colors"), file.get(f"obs/{column}/categories")
        if not all(isinstance(part, h5py.Dataset) and part.shape is not None for part in (colours, categories)):
            return {}
        if colours.shape != categories.shape or len(colours.shape) != 1:
            return {}
        if h5py.check_string_dtype(colours.dtype) is None or h5py.check_string_dtype(categories.dtype) is None:
            return {}
        names = categories.asstr(errors="replace")[:]
        return dict(zip(names, colours.asstr(errors="replace")[:], strict=True))


def label_colours_in(adata: "anndata.AnnData", column: str | None) -> dict[str, str]:
    """The same of an AnnData in memory: label -> colour.

    Parameters
    ----------
    adata
        The cells.
    column
        Column of obs.
    """
    colours = adata.uns.get(f"{column}_colors")
    if column not in adata.obs or not isinstance(adata.obs[column].dtype, pd.CategoricalDtype):
        return {}
    names = [str(name) for name in adata.obs[column].cat.categories]
    if not isinstance(colours, list | tuple | np.ndarray) or len(colours) != len(names):
        return {}
    return dict(zip(names, map(str, colours), strict=True))
