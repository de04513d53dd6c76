"""From a text model and a file to descriptions: a table or lines of JSON, and a page.

Source: docs/text.md, "Descriptions".
"""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.cells.data import tokenizer_of_model
from scdmc.errors import ScDMCError, shown_names
from scdmc.files import atomic_path
from scdmc.reading.counts import Counts, cell_totals, open_counts
from scdmc.reading.options import CountOptions, is_counts
from scdmc.reports.provenance import Provenance
from scdmc.reports.tables import without_formulas
from scdmc.result_folders import keep_results, result_folder
from scdmc.text.annotate_file import TextAnnotator
from scdmc.text.annotation import Query, annotate_cells
from scdmc.text.descriptions.captioned import captioned_cells, captioned_groups, captions_of
from scdmc.text.descriptions.facts import Described, described_cells, described_groups
from scdmc.text.descriptions.options import FACTS, DescriptionOptions
from scdmc.text.descriptions.page import write_description_page
from scdmc.text.ontology import CellOntology
from scdmc.text.query import query_of_counts, query_of_file
from scdmc.tokens.streams import total_counts
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizedCells

logger = logging.getLogger(__name__)


TABLE_FILE, LINES_FILE = "descriptions.csv", "descriptions.jsonl"


# A column with more is none of groups: a number of counts, say, or the cells' own names.
MOST_GROUPS = 500


# Words for what is missing in a column of groups.
MISSING = ("", "nan", "None", "<NA>", "NaN")


def describe_file(
    data_path: Path,
    annotator: TextAnnotator,
    ontology: CellOntology,
    output: tuple[Path | None, Path | None],
    options: tuple[DescriptionOptions, CountOptions],
) -> list[str]:
    """Describe the cells of a file, or its groups of cells.

    Parameters
    ----------
    data_path
        Counts, or tokenized cells.
    annotator
        Of :func:`scdmc.text.annotate_file.text_annotator`.
    ontology
        Where definitions are looked up.
    output
        A folder for all results, or a file, ``.csv`` or ``.jsonl``; the other is None.
    options
        What is described, and how counts are read.

    Returns
    -------
    What to say of the results, line by line.

    Raises
    ------
    ScDMCError
        If the file cannot be read, no cell has counts, or the column of groups holds none or too many.
    """
    began, (wanted, counts) = time.time(), options
    folder, file = output
    cells, query, totals = read_described(data_path, annotator, counts, wanted.columns)
    table = description_table(cells, query, totals, (annotator, ontology), wanted)
    if file is not None:
        _write_file(file, table)
        return summary_lines(table, wanted)
    made = Provenance((data_path,), annotator.folder.name, annotator.options.seed, began)
    with result_folder(folder) as hidden:
        for name in (TABLE_FILE, LINES_FILE):
            _write_file(hidden / name, table)
        keep_results(hidden)
        write_description_page(hidden / "report.html", table, wanted, len(annotator.candidates), made)
    return summary_lines(table, wanted)


def read_described(
    data_path: Path, annotator: TextAnnotator, counts: CountOptions, columns: Sequence[str]
) -> tuple[TokenizedCells, Query, np.ndarray | None]:
    """The cells of a file, as annotation reads them, and the counts of each, where the file has them."""
    directory, maker = annotator.model_directory, annotator.maker
    if not is_counts(data_path):
        return *query_of_file(data_path, directory, maker, counts, columns), None
    with open_counts(data_path, **counts.of_counts()) as opened:
        return read_described_counts(opened, annotator, counts, columns)


def read_described_counts(
    opened: Counts, annotator: TextAnnotator, counts: CountOptions, columns: Sequence[str]
) -> tuple[TokenizedCells, Query, np.ndarray]:
    """The same of opened counts."""
    tokenizer = tokenizer_of_model(annotator.model_directory, counts)
    cells, query = query_of_counts(opened, tokenizer, annotator.model_directory, annotator.maker, columns)
    sums = np.concatenate([total_counts(block) for _, block in opened.blocks()])
    return cells, query, cell_totals(opened, np.arange(opened.n_cells), sums)[cells.obs[ROW_COLUMN].to_numpy()]


def description_table(
    cells: TokenizedCells,
    query: Query,
    totals: np.ndarray | None,
    of_types: tuple[TextAnnotator, CellOntology],
    wanted: DescriptionOptions,
) -> pd.DataFrame:
    """A row for each cell or group (:mod:`scdmc.text.descriptions.facts`, :mod:`scdmc.text.descriptions.captioned`).

    Parameters
    ----------
    cells
        With ``cell_id`` and the column of groups.
    query, totals
        Of :func:`read_described`.
    of_types
        What finds the types of cells, and where their definitions are looked up.
    wanted
        What is described.
    """
    (annotator, ontology), obs = of_types, cells.obs
    groups = None if wanted.group_key is None else _groups(obs, wanted.group_key)
    result = annotate_cells(
        annotator.model, query, annotator.candidates, annotator.vectors, annotator.others, annotator.options
    )
    expression = query.expression
    n_genes = np.asarray((expression > 0).sum(axis=1)).ravel()
    described = Described(result, query, totals, n_genes, ontology)
    names, rows = obs["cell_id"].to_numpy(), _drawn(len(obs), wanted, annotator.options.seed)
    if wanted.style == FACTS:
        if groups is None:
            return described_cells(described, names, rows)
        return described_groups(described, groups, wanted.group_column)
    folders = (annotator.folder, wanted.language_model)
    captions = captions_of(described, cells, rows, annotator.maker, folders)
    if groups is None:
        return captioned_cells(described, names, captions)
    return captioned_groups(described, groups, wanted.group_column, captions)


def _drawn(n_cells: int, wanted: DescriptionOptions, seed: int) -> np.ndarray:
    """Rows of the cells that are described, in the order of the file."""
    if wanted.group_key is not None or wanted.max_cells is None or n_cells <= wanted.max_cells:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(seed).choice(n_cells, wanted.max_cells, replace=False))


def _groups(obs: pd.DataFrame, group_key: str) -> np.ndarray:
    """The group of each cell, '' for none, shape (n_cells,)."""
    groups = obs[group_key].astype(object).where(obs[group_key].notna(), "").astype(str).to_numpy(dtype=object)
    groups[np.isin(groups.astype(str), MISSING)] = ""
    names = sorted(set(groups) - {""})
    if not names:
        raise ScDMCError(f"--group_key {group_key}: no cell has a group")
    if len(names) > MOST_GROUPS:
        raise ScDMCError(
            f"--group_key {group_key}: {len(names):,} groups, and at most {MOST_GROUPS} are described, such as "
            f"{shown_names(names[:3])}; name a column of clusters or types"
        )
    if (groups == "").any():
        logger.warning("warning: %s cells have no %s and are left out", f"{(groups == '').sum():,}", group_key)
    return groups


def _write_file(path: Path, table: pd.DataFrame) -> None:
    """A table, or an object of JSON a line, by the suffix."""
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            without_formulas(table).to_csv(temporary, index=False)
            return
        records = table.astype(object).where(table.notna(), None).to_dict("records")
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf8", errors="replace")


def summary_lines(table: pd.DataFrame, wanted: DescriptionOptions) -> list[str]:
    """The first texts, and how many there are."""
    shown, what = table.head(3), "cells" if wanted.group_key is None else "groups"
    lines = [f"{name}: {text}" for name, text in zip(shown.iloc[:, 0], shown["text"], strict=True)]
    return [*lines, f"described {len(table):,} {what}"]
