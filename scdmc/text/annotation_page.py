"""The page of cells annotated by text: how many got which candidate, how sure that is, and their map."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.reports.cell_map import MappedCells, columns_to_map, interactive_map
from scdmc.reports.figures import save_figure, shortened, umap_figure
from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance
from scdmc.text.annotation import TextAnnotation
from scdmc.text.options import NO_COUNTS, UNKNOWN

# Of the median probability of a label, against chance; and of the share of cells without one.
SURE, MOST_UNKNOWN = 2.0, 0.3


def write_annotation_page(
    path: Path,
    result: TextAnnotation,
    cells: tuple[pd.DataFrame, np.ndarray | None],
    candidates: pd.DataFrame,
    made: Provenance,
) -> None:
    """Write the page.

    Parameters
    ----------
    path
        The HTML file.
    result
        The labels.
    cells
        Their annotation, and their map, shape (n_cells, 2); None for no map.
    candidates
        Of :func:`scdmc.text.annotate_file.candidate_table`.
    made
        From what.
    """
    obs, place = cells
    with tempfile.TemporaryDirectory() as folder:
        sections = [_section_of_candidates(result, candidates)]
        if place is not None:
            sections.insert(0, _section_of_map(result, obs, place, Path(folder), made))
        title = f"{len(obs):,} cells annotated by {len(candidates)} texts"
        write_report(path, title, sections, verdict_of(result), made)


def verdict_of(result: TextAnnotation) -> Verdict:
    """How sure the labels are; whether they are right, no file can say without labels of its own."""
    counted = result.best >= 0
    unknown = float((result.labels[counted] == UNKNOWN).mean())
    probability = float(np.median(result.probabilities[counted, result.best[counted]]))
    chance = 1 / len(result.candidates)
    level, headline = "good", f"{1 - unknown:.0%} of the cells have one of {len(result.candidates)} types"
    if unknown > MOST_UNKNOWN or probability < SURE * chance or not result.is_smoothed:
        level = "caution"
    looked = f"{len(result.distractors)} training types stand for it" if result.distractors else "it was not looked for"
    numbers = (
        KeyNumber("Probability of the label, median", f"{probability:.2f}", f"chance {chance:.2f}"),
        KeyNumber("None of these", f"{unknown:.0%}", looked),
    )
    reasons = [
        "No label of these cells was used: a type got its cells by its words. Check the markers of each type.",
        "A type that is absent from the list goes to its nearest relative there, and often unnoticed.",
    ]
    if not result.is_smoothed:
        reasons.append("Each cell was annotated by itself, which is less reliable than with its neighbours.")
    return Verdict(level, headline, tuple(reasons), numbers)


def _section_of_map(
    result: TextAnnotation, obs: pd.DataFrame, place: np.ndarray, folder: Path, made: Provenance
) -> Section:
    counted = result.best >= 0
    largest = pd.Series(result.labels).value_counts()
    title = f"{len(obs):,} cells by their text; the largest label is {shortened(largest.index[0])}"
    figure = umap_figure(place[counted], {"type by text": result.labels[counted]}, title, made.seed or 0)
    names = np.array([*(each.label for each in result.candidates), NO_COUNTS], dtype=object)
    rows = np.arange(len(result.best))
    cells = MappedCells(
        place,
        result.labels,
        names[result.best],
        names[result.second],
        {
            "probability": np.where(counted, result.probabilities[rows, result.best], np.nan),
            "none of these": result.none_of_these,
        },
        UNKNOWN,
        columns=columns_to_map(obs),
        ids=obs["cell_id"].astype(str).to_numpy(),
    )
    text = (
        "Each point is a cell in the space of texts, laid out by UMAP: neighbours are alike, but sizes of groups and "
        "gaps between them mean little."
    )
    return Section(
        "Map", text, maps=[interactive_map(cells, title, save_figure(figure, folder / "umap"), made.seed or 0)]
    )


def _section_of_candidates(result: TextAnnotation, candidates: pd.DataFrame) -> Section:
    table = candidates.rename(columns={"candidate": "type"})
    missing = int(np.isin(result.labels.astype(str), (UNKNOWN, NO_COUNTS)).sum())
    text = "A text that names genes can be checked by them: see the column, and genes_in_texts in uns."
    absent = [shortened(name) for name, cells in zip(table["type"], table["cells"], strict=True) if not cells]
    points = [f"No cell got {name}." for name in absent[:10]]
    if missing:
        points.append(f"{missing:,} cells have no label: none of these, or no counts.")
    if result.distractors:
        points.append(f"None of these: {', '.join(shortened(name) for name in result.distractors[:20])}.")
    return Section("Types", text, [("Cells by type", table)], points=points)
