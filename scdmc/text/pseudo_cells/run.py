"""Makes cells of texts and writes them: an ``.h5ad``, or a folder with it and a page."""

from pathlib import Path

import anndata

from scdmc.files import atomic_path
from scdmc.reports.provenance import Provenance
from scdmc.result_folders import keep_results, result_folder
from scdmc.text.model import TextSpace
from scdmc.text.pseudo_cells.generator import CellGenerator
from scdmc.text.pseudo_cells.making import MadeOfText, adata_of
from scdmc.text.pseudo_cells.options import MakingOptions
from scdmc.text.pseudo_cells.page import write_page

CELLS_FILE = "generated.h5ad"


def write_cells(
    output: tuple[Path | None, Path | None],
    made: list[MadeOfText],
    model: tuple[CellGenerator, TextSpace, Path],
    options: MakingOptions,
    began: float,
) -> list[str]:
    """Write the cells.

    Parameters
    ----------
    output
        A folder for the cells and a page, or a file; the other is None.
    made
        Of :func:`scdmc.text.pseudo_cells.making.made_of_texts`.
    model
        The generator, the training texts, and the folder of both.
    options
        How they were made.
    began
        When the work began, as ``time.time()`` gives it.

    Returns
    -------
    What to say of them, line by line.
    """
    generator, space, model_folder = model
    folder, file = output
    of = Provenance((), model_folder.name, options.seed, began)
    adata = adata_of(made, generator, space, options, of)
    if file is not None:
        _write(file, adata)
    else:
        with result_folder(folder) as hidden:
            _write(hidden / CELLS_FILE, adata)
            keep_results(hidden)
            write_page(hidden / "report.html", made, generator, space, of)
    return summary_lines(made, space)


def _write(path: Path, adata: anndata.AnnData) -> None:
    with atomic_path(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")


def summary_lines(made: list[MadeOfText], space: TextSpace) -> list[str]:
    """A line for each text."""
    lines = []
    for each in made:
        place = each.cells.place
        nearest = space.terms["label"].iloc[place.nearest[0]]
        novel = "; NOVEL: a guess" if place.is_novel else ""
        lines.append(
            f"{each.candidate.label}: {each.cells.counts.shape[0]:,} cells; nearest training term {nearest} "
            f"(similarity {place.similarity:.2f}){novel}"
        )
    return lines
