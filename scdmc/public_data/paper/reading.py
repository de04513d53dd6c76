"""Which files of a data set are there, which are missing, and how they become cells in the one form."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scdmc.errors import ScDMCError, shown_names
from scdmc.public_data.paper.annotated import read_bmmc, read_immune
from scdmc.public_data.paper.download import checked_record, fetch
from scdmc.public_data.paper.expression_atlas import read_ms
from scdmc.public_data.paper.form import PaperCells, in_one_form
from scdmc.public_data.paper.gene_tables import EXPRESSION_FILE, METADATA_FILE, read_myeloid
from scdmc.public_data.paper.options import (
    BMMC,
    IMMUNE,
    MS,
    MYELOID,
    PBMC10K,
    ZHENG68K,
    PaperSource,
    ReadingOptions,
)
from scdmc.public_data.paper.ten_x import read_pbmc10k, read_zheng68k

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

Reader = Callable[[dict[str, Path], Path, ReadingOptions], PaperCells]

READERS: dict[str, Reader] = {
    ZHENG68K: read_zheng68k,
    PBMC10K: read_pbmc10k,
    BMMC: read_bmmc,
    IMMUNE: read_immune,
    MS: read_ms,
    MYELOID: read_myeloid,
}


def source_files(dataset: str, source: PaperSource, folder: Path, is_download: bool) -> dict[str, Path]:
    """The files of a data set, name -> path; what is missing is downloaded if the user says so.

    Parameters
    ----------
    dataset
        Name of the data set.
    source
        What it is made of.
    folder
        Where its files lie.
    is_download
        Whether missing ones may be downloaded.

    Raises
    ------
    ScDMCError
        If files are missing, with the place to get them by hand; or as :func:`fetch`.
    """
    found = {file.name: _lying_in(folder, (file.name, *file.also)) for file in source.files}
    missing = [file for file in source.files if found[file.name] is None]
    more = _tables_of_cancers(folder) if dataset == MYELOID else {}
    if more and not is_download:
        return more  # the cancers that are there
    if missing and not is_download:
        names = shown_names([file.name for file in missing], 3)
        raise ScDMCError(
            f"{folder} lacks {names}: --download gets what is missing, or download it by hand from {source.page}"
        )
    there = {_cancer_of(name) for name in more}
    for file in missing:
        if _cancer_of(file.name) not in there:  # else under another name
            found[file.name] = fetch(file, folder, source)
    return {name: path for name, path in found.items() if path is not None} | more


def _cancer_of(name: str) -> tuple[str, str] | None:
    """Which of the two tables, and of which cancer; None for what is no table of a cancer."""
    for kind, pattern in (("expression", EXPRESSION_FILE), ("metadata", METADATA_FILE)):
        match = pattern.fullmatch(name)
        if match:
            return kind, match["cancer"].upper()
    return None


def _tables_of_cancers(folder: Path) -> dict[str, Path]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.name: path for path in paths if _cancer_of(path.name) is not None}


def _lying_in(folder: Path, patterns: tuple[str, ...]) -> Path | None:
    """The first path in a folder that one of the patterns names."""
    for pattern in patterns if folder.is_dir() else ():
        paths = sorted(path for path in folder.glob(pattern) if not path.name.endswith((".part", ".json")))
        if paths:
            return paths[0]
    return None


def read_dataset(
    dataset: str, source: PaperSource, files: dict[str, Path], scratch: Path, options: ReadingOptions
) -> "AnnData":
    """Read a data set in the one form.

    Parameters
    ----------
    dataset
        One of :data:`READERS`.
    source
        What it is made of.
    files
        See :func:`source_files`.
    scratch
        A folder for what is unpacked.
    options
        See :class:`ReadingOptions`.

    Raises
    ------
    ScDMCError
        If a file has changed since it was downloaded, is damaged, or has another form.
    """
    # Under the names of the source: of two folders, two files may have one name.
    records = {name: checked_record(path) for name, path in files.items() if path.is_file()}
    shown = [name if files[name].name == name else f"{name} (as {files[name].name})" for name in records]
    url_of = {file.name: file.url for file in source.files if file.name in files and files[file.name].name == file.name}
    cells = READERS[dataset](files, scratch, options)
    return in_one_form(
        cells,
        {
            "dataset": dataset,
            "title": source.title,
            "page": source.page,
            "citation": source.citation,
            "terms": source.terms,
            "files": np.array(shown, dtype=object),
            "urls": np.array([of["url"] or url_of.get(name, "") for name, of in records.items()], dtype=object),
            "sha256": np.array([of["sha256"] for of in records.values()], dtype=object),
            "dates": np.array([of["date"] for of in records.values()], dtype=object),
        },
    )
