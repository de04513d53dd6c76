"""From a text model and a file to labels: an annotated copy, a table, a page.

Source: docs/text.md, "Annotation by text".
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anndata
import h5py
import numpy as np
import pandas as pd

from scdmc.cells.results import add_to_file
from scdmc.cells.viewers import MAP_KEY, ForViewers, map_of_cells, wants_map
from scdmc.files import atomic_path
from scdmc.model.folder import ModelDirectory
from scdmc.reading.h5ad import require_room_for_results, results_file
from scdmc.reading.options import CountOptions, is_h5ad
from scdmc.reports.provenance import Provenance
from scdmc.reports.tables import without_formulas
from scdmc.result_folders import keep_results, result_folder
from scdmc.text.annotation import TextAnnotation, annotate_cells
from scdmc.text.annotation_page import write_annotation_page
from scdmc.text.candidates import Candidate, OtherTerms, candidate_vectors, other_terms
from scdmc.text.features import FeatureMaker
from scdmc.text.model import CellTextModel
from scdmc.text.ontology import CellOntology
from scdmc.text.options import NO_COUNTS, TextAnnotationOptions
from scdmc.text.query import query_of_file
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizedCells

if TYPE_CHECKING:
    from scdmc.text.encoders import TextEncoder

CELL_COLUMN = "cell_id"


ANNOTATED_FILE, LABELS_FILE, CANDIDATES_FILE = "annotated.h5ad", "labels.csv", "candidates.csv"


# Keys of an AnnData.
CELLS_KEY, FACTS_KEY = "X_scDMC_text", "scDMC_text"


DEPENDS = "The labels of cells depend on the other cells of the file."


@dataclass(frozen=True)
class TextAnnotator:
    """A text model, the candidates, and what else is needed to annotate cells.

    Attributes
    ----------
    model, model_directory, maker
        The model, the folder of its encoder of cells, and what makes features.
    folder
        Of the model.
    candidates, vectors, others
        The candidates, their texts' vectors, and what other training terms say.
    options
        How.
    """

    model: CellTextModel
    model_directory: ModelDirectory
    maker: FeatureMaker
    candidates: list[Candidate]
    vectors: np.ndarray
    others: OtherTerms
    options: TextAnnotationOptions
    folder: Path


def text_annotator(
    folder: Path,
    model: CellTextModel,
    maker: FeatureMaker,
    candidates: list[Candidate],
    ontology: CellOntology,
    open_encoder: "Callable[[], TextEncoder]",
    options: TextAnnotationOptions,
) -> TextAnnotator:
    """Encode the candidates, and find out which training terms stand for none of these.

    Parameters
    ----------
    folder, model, maker
        The folder of the model, the model, and what makes its features.
    candidates
        Of :func:`scdmc.text.candidates.read_candidates`.
    ontology
        Which terms are related.
    open_encoder
        Opens the text encoder, if a candidate needs it.
    options
        How cells are annotated.
    """
    vectors = candidate_vectors(candidates, model.texts, open_encoder)
    others = other_terms(candidates, vectors, model.texts, ontology)
    return TextAnnotator(model, maker.model_directory, maker, candidates, vectors, others, options, folder)


def annotation_columns(result: TextAnnotation) -> dict[str, np.ndarray]:
    """Columns of obs, each of shape (n_cells,)."""
    names = np.array([*(each.label for each in result.candidates), NO_COUNTS], dtype=object)
    ids = np.array([each.cl_id or "" for each in result.candidates], dtype=object)
    is_labelled = result.labels == names[result.best]
    is_labelled &= result.best >= 0
    cells = np.arange(len(result.best))
    probability = np.where(result.best >= 0, result.probabilities[cells, result.best], np.nan)
    return {
        "scDMC_text_type": result.labels,
        "scDMC_text_cl_id": np.where(is_labelled, ids[result.best], "").astype(object),
        "scDMC_text_probability": probability,
        "scDMC_none_of_these": result.none_of_these,
        "scDMC_second_type": names[result.second],
    }


def annotation_facts(annotator: TextAnnotator, result: TextAnnotation) -> dict[str, object]:
    """What ``uns['scDMC_text']`` says: candidates, what was done, what stands for none of these."""
    model = annotator.model
    return {
        "candidates": np.array([each.label for each in result.candidates], dtype=object),
        "texts": np.array([each.text for each in result.candidates], dtype=object),
        "cl_ids": np.array([each.cl_id or "" for each in result.candidates], dtype=object),
        "distractors": np.array(list(result.distractors), dtype=object),
        "genes_in_texts": json.dumps(result.markers, sort_keys=True),
        "centre": "file" if result.is_centred_by_file else "training",
        "standardised": str(result.is_standardised).lower(),
        "smoothed": str(result.is_smoothed).lower(),
        "depends_on_other_cells": str(result.is_centred_by_file or result.is_smoothed).lower(),
        "marker_weight": str(annotator.options.marker_weight if result.is_standardised else 0.0),
        "max_none": str(annotator.options.max_none),
        "temperature": str(model.temperature),
        "none_margin": str(model.none_margin),
        "features": model.features,
        "projector": model.projector,
        "text_encoder": f"{model.texts.encoder_name} {model.texts.encoder_sha256}",
    }


def annotate_file_by_text(
    data_path: Path,
    annotator: TextAnnotator,
    output: tuple[Path | None, Path | None],
    counts: CountOptions,
    has_map: bool | None = None,
) -> list[str]:
    """Annotate the cells of a file.

    Parameters
    ----------
    data_path
        Counts, or tokenized cells.
    annotator
        Of :func:`text_annotator`.
    output
        A folder for all results, or a file, ``.h5ad`` or ``.csv``; the other is None.
    counts
        How counts are read.
    has_map
        Whether an ``.h5ad`` gets a map (:class:`scdmc.cells.viewers.ForViewers`).

    Returns
    -------
    What to say of the results, line by line.

    Raises
    ------
    ScDMCError
        If the file cannot be read, or no cell has counts.
    """
    began = time.time()
    folder, file = output
    require_room_for_results(data_path, (folder or file).absolute().parent)
    cells, query = query_of_file(data_path, annotator.model_directory, annotator.maker, counts)
    result = annotate_cells(
        annotator.model, query, annotator.candidates, annotator.vectors, annotator.others, annotator.options
    )
    made = Provenance((data_path,), annotator.folder.name, annotator.options.seed, began)
    annotated = _Annotated(data_path, cells, result, annotation_facts(annotator, result), made)
    if file is not None and file.suffix == ".csv":
        _write_table(file, annotated)
        return summary_lines(result)
    place = None
    if wants_map(has_map, len(cells)):
        place = map_of_cells(result.cells, result.best >= 0, annotator.options.seed)
    if file is not None:
        _write_copy(file, annotated, place)
        return summary_lines(result)
    with result_folder(folder) as hidden:
        _write_copy(hidden / ANNOTATED_FILE, annotated, place)
        _write_table(hidden / LABELS_FILE, annotated)
        candidates = candidate_table(result)
        without_formulas(candidates).to_csv(hidden / CANDIDATES_FILE, index=False)
        keep_results(hidden)
        write_annotation_page(hidden / "report.html", result, (cells.obs, place), candidates, made)
    return summary_lines(result)


@dataclass(frozen=True)
class _Annotated:
    """What is written: where the cells are from, their labels, what is said of them."""

    data_path: Path
    cells: TokenizedCells
    result: TextAnnotation
    facts: dict[str, object]
    made: Provenance

    @property
    def obs(self) -> pd.DataFrame:
        """Annotation of the cells, named by them."""
        table = self.cells.obs.set_index(CELL_COLUMN).drop(columns=ROW_COLUMN, errors="ignore")
        table.index = table.index.astype(str)
        return table


def _write_table(path: Path, annotated: _Annotated) -> None:
    """One row a cell."""
    table = pd.DataFrame(annotation_columns(annotated.result), index=annotated.obs.index)
    with atomic_path(path) as temporary:
        without_formulas(table).to_csv(temporary, index_label=CELL_COLUMN)


def _write_copy(path: Path, annotated: _Annotated, place: np.ndarray | None) -> None:
    """A copy of the user's ``.h5ad`` with the results, or of other data the cells without genes."""
    data_path, cells, result = annotated.data_path, annotated.cells, annotated.result
    with atomic_path(path) as temporary, results_file(temporary, data_path, annotated.obs) as file:
        rows = cells.obs[ROW_COLUMN].to_numpy() if is_h5ad(data_path) else np.arange(len(cells))
        matrices = {CELLS_KEY: result.cells} | ({} if place is None else {MAP_KEY: place})
        add_to_file(file, rows, annotation_columns(result), matrices, ForViewers(annotated.made))
        add_facts(file, annotated.facts)


def add_facts(file: h5py.File, facts: dict[str, object]) -> None:
    """Add ``uns['scDMC_text']`` to an open ``.h5ad``, in place of an older one."""
    uns = file["uns"]
    if FACTS_KEY in uns:
        del uns[FACTS_KEY]
    anndata.io.write_elem(uns, FACTS_KEY, facts)


def candidate_table(result: TextAnnotation) -> pd.DataFrame:
    """One row a candidate: its id, its cells, their median probability, and the genes that its text names."""
    columns = annotation_columns(result)
    rows = []
    for each in result.candidates:
        own = columns["scDMC_text_type"] == each.label
        middle = float(np.median(columns["scDMC_text_probability"][own])) if own.any() else np.nan
        genes = result.markers[each.label]
        rows.append((each.label, each.cl_id or "", int(own.sum()), own.mean(), middle, len(genes), each.text))
    names = ["candidate", "cl_id", "cells", "share", "median probability", "genes named", "text"]
    return pd.DataFrame(rows, columns=names)


def summary_lines(result: TextAnnotation) -> list[str]:
    """How many cells each candidate got, in plain words."""
    counts = pd.Series(result.labels, name="scDMC_text_type").value_counts()
    lines = [counts.to_string()]
    if result.distractors:
        lines.append(f"none of these: {len(result.distractors)} training terms stand for it")
    else:
        lines.append("none of these: not looked for, as all training terms are relatives of candidates")
    if result.is_centred_by_file or result.is_smoothed:
        lines.append(DEPENDS)
    return lines
