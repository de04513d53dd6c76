"""Makes the corpus of cells and texts: labels become terms, cells are split and tokenized, texts become vectors."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from scdmc.cells.data import read_cells
from scdmc.cells.options import SplitOptions
from scdmc.cells.splits import draw_split, read_split
from scdmc.errors import ScDMCError, shown_names
from scdmc.files import atomic_path, names_of_files, write_json
from scdmc.labels import is_no_label, is_no_type, labels_of, type_labels
from scdmc.model.folder import ModelDirectory
from scdmc.options import LabelOptions
from scdmc.reading.h5ad import read_obs
from scdmc.reading.options import CountOptions, is_counts
from scdmc.reports.tables import write_csv
from scdmc.text.corpus import (
    CELL_LABEL_COLUMNS,
    CELLS_PREFIX,
    CORPUS_FILE,
    CORPUS_FORMAT,
    LABELS_FILE,
    OTHER,
    TERM_COLUMNS,
    TERMS_FILE,
    TRAIN,
    UNSEEN,
    VECTORS_FILE,
    require_terms,
)
from scdmc.text.labels import UNMAPPED, LabelMatch, match_labels, require_mapped, suggestion_text
from scdmc.text.ontology import CellOntology
from scdmc.text.texts import texts_of_term
from scdmc.tokens.output import CELLS_PER_ROW_GROUP
from scdmc.tokens.parquet import (
    gene_medians_path,
    parquet_schema,
    parquet_table,
    parquet_writer,
    read_tokenized,
    token_ids_path,
)
from scdmc.tokens.shard_sets import ShardPlace
from scdmc.tokens.streams import CellStreams
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizedCells, require_obs_columns
from scdmc.version import __version__

if TYPE_CHECKING:
    from scdmc.text.encoders import TextEncoder

logger = logging.getLogger(__name__)


# A corpus of fewer terms has nothing to tell apart.
FEWEST_TERMS = 2


# Tokens of a cell without counts: <cls> and <eos>.
EMPTY_LENGTH = 2


# The user's column of groups may be called as one of ours is ("dataset", "label"), and must not take its place.
GROUP_COLUMN = "group of the split"


@dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """What decides what a corpus holds.

    Attributes
    ----------
    label_key
        Column of obs with the labels, or with ids of the Cell Ontology.
    dataset_key
        Column of obs with the data sets; None: each file is one.
    origin_keys
        "tissue", "disease", "assay" -> column of obs; those that are not known are left out.
    table
        The user's own labels (:func:`scdmc.text.labels.read_label_table`).
    allow_unmapped
        Leave out cells whose label is no term, instead of refusing them.
    held_out
        Ids of terms that are held out, with all of their descendants.
    labels
        Which labels are no type.
    split, split_file
        How cells are split, or where that is written.
    """

    label_key: str = "cell_type"
    dataset_key: str | None = None
    origin_keys: Mapping[str, str] = field(default_factory=dict)
    table: Mapping[str, str | None] = field(default_factory=dict)
    allow_unmapped: bool = False
    held_out: Sequence[str] = ()
    labels: LabelOptions = field(default_factory=LabelOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    split_file: Path | None = None

    @property
    def columns(self) -> list[str]:
        """Columns of obs that are read."""
        more = (self.dataset_key, self.split.split_by if self.split_file is None else None)
        return list(dict.fromkeys([self.label_key, *self.origin_keys.values(), *(name for name in more if name)]))


@dataclass(frozen=True)
class LabelledCells:
    """The cells of the corpus, before they are tokenized.

    Attributes
    ----------
    table
        One row per cell of the files, in their order: file (its number), source_file, cell_id, dataset, label, cl_id
        (None: no type, or unmapped), split ('' where there is no cl_id), the columns of origin, and that of groups
        (:data:`GROUP_COLUMN`).
    matches
        dataset, label, tissue, cells, match.
    """

    table: pd.DataFrame
    matches: pd.DataFrame

    def summary(self) -> list[str]:
        """A line for each data set: how many cells and labels have a term, and which labels have none."""
        lines = []
        for dataset, cells in self.table.groupby("dataset", sort=True):
            of_dataset = self.matches[self.matches["dataset"] == dataset]
            lacking = [match.label for match in of_dataset["match"] if match.cl_id is None]
            without = f"; without a term: {shown_names(dict.fromkeys(lacking))}" if lacking else ""
            n_known = int(cells["cl_id"].notna().sum())
            lines.append(f"{dataset}: {n_known:,} of {len(cells):,} cells have a term, of "
                         f"{cells['cl_id'].nunique()} terms{without}")  # fmt: skip
        return lines


def label_cells(paths: Sequence[Path], options: CorpusOptions, ontology: CellOntology) -> LabelledCells:
    """Read the labels of all files, find their terms, and split the cells. No count is read.

    Raises
    ------
    ScDMCError
        If a column is missing, a label is no term and that is not allowed, or too few terms remain.
    """
    unseen = unseen_terms(options.held_out, ontology)
    names_of_files([path for path in paths if is_counts(path)], "--data_path")
    parts = [_cells_of_file(number, path, options, ontology) for number, path in enumerate(paths)]
    table = pd.concat([part.table for part in parts], ignore_index=True)
    matches = pd.concat([part.matches for part in parts], ignore_index=True)
    table["split"] = _split(table, unseen, options, ontology)
    trained = sorted(set(table.loc[table["split"] == TRAIN, "cl_id"]))
    require_terms([ontology[cl_id].label for cl_id in trained], FEWEST_TERMS, shown_names(path.name for path in paths))
    absent = [cl_id for cl_id in options.held_out if not table["cl_id"].isin(ontology.descendants(cl_id)).any()]
    if absent:
        logger.warning("warning: --hold_out_terms %s: no cell is of it; its texts are held out", shown_names(absent))
    return LabelledCells(table, matches)


def unseen_terms(held_out: Sequence[str], ontology: CellOntology) -> frozenset[str]:
    """Terms that are held out, and all of their descendants."""
    return frozenset().union(*(ontology.descendants(cl_id) for cl_id in held_out))


def _cells_of_file(number: int, path: Path, options: CorpusOptions, ontology: CellOntology) -> LabelledCells:
    """Labels of one file and their terms; ``split`` is still missing."""
    obs = _obs_of(path, options.columns)
    plain, _ = type_labels(obs[options.label_key], _kept_where_named(options))
    sources = obs["source_file"].astype(str)
    table = pd.DataFrame({"file": number, "source_file": sources, "cell_id": obs["cell_id"].astype(str),
                          "dataset": sources.map({name: Path(name).stem for name in sources.unique()}),
                          "label": plain})  # fmt: skip
    if options.dataset_key:
        datasets = labels_of(obs[options.dataset_key])
        if any(dataset is None for dataset in datasets):
            raise ScDMCError(f"{path}: obs[{options.dataset_key!r}] is empty for some cells; fill it in")
        table["dataset"] = datasets
    for origin, column in options.origin_keys.items():
        table[origin] = [text or "" for text in labels_of(obs[column])]
    if options.split.split_by and options.split_file is None:
        table[GROUP_COLUMN] = obs[options.split.split_by].to_numpy()
    tissues = table["tissue"] if "tissue" in table else pd.Series("", index=table.index)
    found: dict[tuple[str, str], LabelMatch] = {}
    for tissue in dict.fromkeys(tissues):
        labels = sorted({label for label in table.loc[tissues == tissue, "label"] if label is not None})
        found |= {(match.label, tissue): match for match in match_labels(labels, ontology, tissue, options.table)}
    if not options.allow_unmapped:
        _require_all(found, table, tissues, ontology, f"{path}: obs[{options.label_key!r}]")
    keys = list(zip(table["label"], tissues, strict=True))
    table["cl_id"] = pd.Series([found[key].cl_id if key in found else None for key in keys], dtype=object)
    counted = Counter((dataset, *key) for dataset, key in zip(table["dataset"], keys, strict=True) if key in found)
    rows = [(dataset, label, tissue, cells, found[label, tissue])
            for (dataset, label, tissue), cells in sorted(counted.items())]  # fmt: skip
    return LabelledCells(table, pd.DataFrame(rows, columns=["dataset", "label", "tissue", "cells", "match"]))


def _require_all(
    found: Mapping[tuple[str, str], LabelMatch],
    table: pd.DataFrame,
    tissues: pd.Series,
    ontology: CellOntology,
    source: str,
) -> None:
    """Refuse labels of which nothing is known in one of the tissues of their cells."""
    unknown = {match.label: match for match in found.values() if match.how == UNMAPPED}
    is_unknown = [key in found and found[key].how == UNMAPPED for key in zip(table["label"], tissues, strict=True)]
    cells = Counter(table.loc[is_unknown, "label"])
    known = {match.label: match for match in found.values()}
    require_mapped(list((known | unknown).values()), cells, ontology, source)


def _kept_where_named(options: CorpusOptions) -> LabelOptions:
    """The labels of no type, without those that the user's own table names."""
    named = [label for label in options.table if is_no_type(label) and not is_no_label(label)]
    named = [label for label in named if label not in options.labels.ignore_labels]
    return replace(options.labels, keep_labels=(*options.labels.keep_labels, *named))


def _obs_of(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of obs, with source_file and cell_id as the tokenizer calls them."""
    if not is_counts(path):
        return read_tokenized(path, columns).obs
    obs = read_obs(path)
    require_obs_columns({path.name: obs}, columns)
    return pd.DataFrame({name: obs[name].to_numpy() for name in columns}).assign(
        source_file=path.name, cell_id=obs.index.astype(str)
    )


def _split(table: pd.DataFrame, unseen: frozenset[str], options: CorpusOptions, ontology: CellOntology) -> np.ndarray:
    """Part of each cell, shape (n_cells,): UNSEEN where its term is held out, '' where it has no term."""
    parts = np.full(len(table), "", dtype=object)
    is_unseen = table["cl_id"].isin(unseen).to_numpy()
    parts[is_unseen] = UNSEEN
    chosen = np.flatnonzero(table["cl_id"].notna().to_numpy() & ~is_unseen)
    cells = table.iloc[chosen]
    seen = [ontology[cl_id].label for cl_id in sorted(set(cells["cl_id"]))]
    require_terms(seen, FEWEST_TERMS, f"obs[{options.label_key!r}]")
    if options.split_file is not None:
        parts[chosen] = read_split(options.split_file, cells)
    else:
        # Each type of each data set by itself: a part without one of them would say nothing of it.
        terms = cells["cl_id"].map(lambda cl_id: ontology[cl_id].label)
        groups = cells.reindex(columns=[GROUP_COLUMN]).set_axis([options.split.split_by], axis=1)
        parts[chosen] = draw_split((terms + " in " + cells["dataset"]).to_numpy(dtype=object), groups, options.split)
    return parts


def write_corpus(
    folder: Path,
    paths: Sequence[Path],
    labelled: LabelledCells,
    options: CorpusOptions,
    model_directory: ModelDirectory,
    ontology: CellOntology,
    counts: Mapping[Path, CountOptions],
    encoder: "TextEncoder | None" = None,
) -> dict:
    """Tokenize the cells as a model reads them, and write the corpus.

    Parameters
    ----------
    folder
        A folder of results (:func:`scdmc.result_folders.result_folder`).
    paths, labelled, options
        What :func:`label_cells` was given, and gave.
    model_directory
        Whose vocabulary, medians and context are taken.
    ontology
        Whose terms are meant.
    counts
        How each file is read.
    encoder
        Makes vectors of the texts; None leaves them to a later step.

    Returns
    -------
    The content of ``corpus.json``.

    Raises
    ------
    ScDMCError
        If no cell has counts, or tokenized data are of another model.
    """
    unseen = unseen_terms(options.held_out, ontology)
    run = _run_of(labelled, model_directory)
    first = folder / f"{CELLS_PREFIX}-00000.parquet"
    kept, n_empty = [], 0
    for number, path in enumerate(paths):
        place = ShardPlace(number, len(paths), run)
        of_file = labelled.table[labelled.table["file"] == number]
        cells = read_cells(path, model_directory, [options.label_key], counts[path])
        shard = folder / f"{CELLS_PREFIX}-{number:05d}.parquet"
        written = _write_cells(shard, cells, of_file, list(options.origin_keys), place, path)
        kept.append(written)
        n_empty += len(of_file[of_file["cl_id"].notna()]) - len(written)
    table = pd.concat(kept, ignore_index=True)
    if n_empty:
        logger.warning("warning: %s cells with a type have no counts, or filter_pass leaves them out", f"{n_empty:,}")
    terms = _terms(table, unseen, ontology)
    trained = terms.loc[terms["part"] == TRAIN, "cl_id"].unique()
    require_terms([ontology[cl_id].label for cl_id in trained], FEWEST_TERMS, "the corpus")
    model_directory.vocabulary.save(token_ids_path(first))
    model_directory.medians.save(gene_medians_path(first))
    with atomic_path(folder / TERMS_FILE) as temporary:
        terms.to_parquet(temporary, index=False)
    if encoder is not None:
        with atomic_path(folder / VECTORS_FILE) as temporary:
            np.save(temporary, encoder.encode(terms["text"].tolist()).astype(np.float16), allow_pickle=False)
    write_csv(folder / LABELS_FILE, _label_table(labelled.matches, ontology))
    facts = _facts(table, terms, unseen, options, model_directory, ontology, encoder)
    write_json(folder / CORPUS_FILE, facts)
    return facts


def _run_of(labelled: LabelledCells, model_directory: ModelDirectory) -> str:
    """Stands for the cells, their terms and parts, and how they are tokenized."""
    columns = labelled.table[["source_file", "cell_id", "cl_id", "split"]].fillna("")
    digest = hashlib.sha256(json.dumps(model_directory.settings.to_dict(), sort_keys=True).encode("utf8"))
    digest.update(pd.util.hash_pandas_object(columns, index=False).to_numpy().tobytes())
    return digest.hexdigest()[:16]


def _write_cells(
    shard: Path, cells: TokenizedCells, of_file: pd.DataFrame, origins: Sequence[str], place: ShardPlace, path: Path
) -> pd.DataFrame:
    """Write the cells of one file that have a term and counts; returns their rows of the table."""
    if cells.settings is None or not np.array_equal(cells.rank_offsets, cells.expression_offsets):
        raise ScDMCError(f"{path} does not say how it was tokenized, or by another tool; tokenize the counts again")
    rows = cells.obs[ROW_COLUMN].to_numpy() if ROW_COLUMN in cells.obs else np.arange(len(cells))
    known = of_file.iloc[rows]
    chosen = np.flatnonzero((cells.rank_lengths > EMPTY_LENGTH) & known["cl_id"].notna().to_numpy())
    known, cells = known.iloc[chosen], cells.select(chosen)
    columns = [*CELL_LABEL_COLUMNS, *origins]
    types = dict.fromkeys(columns, pa.dictionary(pa.int32(), pa.string()))
    schema = parquet_schema(types, cells.settings, path.name, place)
    obs = known[["cell_id", "source_file", *columns]].reset_index(drop=True)
    with atomic_path(shard) as temporary, parquet_writer(temporary, schema) as writer:
        for start in range(0, len(cells), CELLS_PER_ROW_GROUP):
            group = np.arange(start, min(start + CELLS_PER_ROW_GROUP, len(cells)))
            part = cells.select(group)
            streams = CellStreams(
                part.rank_ids, part.expression_ids, part.expression_values, part.rank_offsets, part.rank_lengths
            )
            writer.write_table(parquet_table(streams, obs.iloc[group].reset_index(drop=True), schema))
    return known


def _terms(table: pd.DataFrame, unseen: frozenset[str], ontology: CellOntology) -> pd.DataFrame:
    """All texts of the terms that cells have, in ascending id: the columns of terms.parquet."""
    trained = set(table.loc[table["split"] == TRAIN, "cl_id"])
    rows = []
    for cl_id in sorted(set(table["cl_id"])):
        part = UNSEEN if cl_id in unseen else TRAIN if cl_id in trained else OTHER
        rows += [
            (cl_id, ontology[cl_id].label, text.kind, text.text, len(rows) + number, part)
            for number, text in enumerate(texts_of_term(ontology[cl_id]))
        ]
    return pd.DataFrame(rows, columns=list(TERM_COLUMNS))


def _label_table(matches: pd.DataFrame, ontology: CellOntology) -> pd.DataFrame:
    """The columns of labels.csv: what became of each label of each data set."""
    found = matches["match"]
    return matches.drop(columns="match").assign(
        cl_id=[match.cl_id or "" for match in found],
        cl_label=[ontology[match.cl_id].label if match.cl_id else "" for match in found],
        how=[match.how for match in found],
        suggestions=[suggestion_text(match, ontology) for match in found],
    )


def _facts(
    table: pd.DataFrame,
    terms: pd.DataFrame,
    unseen: frozenset[str],
    options: CorpusOptions,
    model_directory: ModelDirectory,
    ontology: CellOntology,
    encoder: "TextEncoder | None",
) -> dict:
    """The content of corpus.json."""
    datasets = {
        dataset: {"cells": len(cells), "terms": cells["cl_id"].nunique(), "parts": _counted(cells["split"])}
        for dataset, cells in table.groupby("dataset", sort=True)
    }
    return {
        "format": CORPUS_FORMAT,
        "scdmc": __version__,
        "model": model_directory.path.name,
        "vocabulary": model_directory.vocabulary.sha256,
        "gene_medians": model_directory.medians.sha256,
        "ontology": {"version": ontology.version, "sha256": ontology.sha256},
        "text_encoder": encoder and {"name": encoder.name, "sha256": encoder.sha256, "text_size": encoder.text_size},
        "held_out_terms": list(options.held_out),
        "unseen_terms": sorted(unseen),
        "cells": len(table),
        "terms": terms["cl_id"].nunique(),
        "texts": len(terms),
        "parts": _counted(table["split"]),
        "datasets": datasets,
    }


def _counted(parts: pd.Series) -> dict[str, int]:
    return {part: int(number) for part, number in sorted(Counter(parts).items())}
