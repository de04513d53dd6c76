"""The files of the paper's data sets, as ``paper_data.py`` writes them."""

from dataclasses import dataclass
from pathlib import Path

import anndata
import h5py

from scdmc.errors import ScDMCError
from scdmc.public_data.paper.form import NORMALIZED
from scdmc.reading.h5ad import read_obs
from scdmc.reading.matrix_readers import reading
from scdmc.reading.options import CountOptions


@dataclass(frozen=True)
class PaperFile:
    """A data set on the disk.

    Attributes
    ----------
    name, path
        What it is called, and its file.
    counts
        How its counts are read.
    has_query
        True if the field says which cells are tested on.
    about
        Lines for the page: where it comes from, what the values are.
    """

    name: str
    path: Path
    counts: CountOptions
    has_query: bool
    about: tuple[str, ...]


def open_paper_file(name: str, path: Path) -> PaperFile:
    """What a file says of itself.

    Raises
    ------
    ScDMCError
        If it is none that ``paper_data.py`` has written.
    """
    with reading(str(path)), h5py.File(path, "r") as file:
        source = anndata.io.read_elem(file["uns/source"]) if "uns/source" in file else {}
    if not isinstance(source, dict) or source.get("dataset") != name:
        raise ScDMCError(f"{path} is not the {name} that paper_data.py writes: its uns['source'] does not say so")
    values = str(source.get("values", ""))
    about = (str(source.get("citation", "")), f"Values: {values}.", *map(str, source.get("notes", ())))
    options = CountOptions(allow_normalized=NORMALIZED in values)
    return PaperFile(name, path, options, "is_query" in read_obs(path), about)
