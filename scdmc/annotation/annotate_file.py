"""Embedding or annotating a file block by block: its cells are never in memory all at once."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scdmc.annotation.annotators import Annotator
from scdmc.annotation.embedding_page import COUNTS_LOST, GENES, GENES_MATCHED, EmbeddedFile
from scdmc.annotation.options import OUTPUT_SUFFIXES, UNKNOWN, AnnotationOptions
from scdmc.annotation.prediction import EMPTY_LENGTH, annotation_columns
from scdmc.cells.clustering import leiden_clusters, neighbour_graph
from scdmc.cells.data import require_same_tokenization, tokenizer_of_model
from scdmc.cells.gene_coverage import log_coverage, require_known_genes
from scdmc.cells.results import obs_column
from scdmc.cells.viewers import ForViewers, add_for_viewers, key_of_map, map_of_cells, wants_map
from scdmc.disk import require_space
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path
from scdmc.model.embeddings import (
    EMBEDDING_KEY,
    EmbeddingChoice,
    cell_embeddings,
    embedding_choice,
    embedding_width,
)
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory
from scdmc.progress import progress_bar
from scdmc.reading.counts import Counts, open_counts
from scdmc.reading.h5ad import add_obs, new_obsm, require_room_for_results, results_file
from scdmc.reading.options import CountOptions, is_counts, is_h5ad
from scdmc.reports.tables import without_formulas
from scdmc.tokens.file_report import new_report
from scdmc.tokens.parquet import parquet_files, read_row_groups, read_settings
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizedCells, require_valid_ids
from scdmc.tokens.tokenizer import cells_of_streams, tokenize_blocks

logger = logging.getLogger(__name__)


# Of the names of the cells, in a table.
CELL_COLUMN = "cell_id"
BYTES_OF_TEXT = 10  # a number of an embedding in a CSV, about


@dataclass(frozen=True)
class AnnotatedFile:
    """What was written.

    Attributes
    ----------
    results
        One row per cell that was read: its results, and ``is_empty``.
    obs
        Annotation of the same cells.
    coordinates
        Their map, shape (n_cells, 2), NaN for cells without counts; None for none.
    """

    results: pd.DataFrame
    obs: pd.DataFrame
    coordinates: np.ndarray | None


class CellSource(Protocol):
    """Cells on the disk, read in blocks."""

    n_cells: int

    def blocks(self) -> Iterator[tuple[np.ndarray, TokenizedCells]]:
        """Yield (rows of the file, ascending; their tokens)."""

    def obs(self) -> pd.DataFrame:
        """Annotation of all cells, once the blocks have been read."""

    def coverage(self) -> dict[str, float]:
        """How much of the file the model could read, once the blocks have been read; empty where that is not known."""

    def log_summary(self) -> None:
        """Say what was read and dropped, once the blocks have been read."""

    def require_known_genes(self, training_genes: Mapping[str, int] | None, least: float) -> None:
        """Refuse cells with too few of the genes of the labelled cells, before any is read."""

    def log_coverage(self, training_genes: Mapping[str, int] | None) -> None:
        """Say how well its genes are those of the labelled cells, once the blocks have been read."""


class _CountsSource:
    """Raw counts, tokenized as the model was trained."""

    def __init__(self, counts: Counts, model_directory: ModelDirectory, options: CountOptions) -> None:
        self.counts = counts
        self.n_cells = counts.n_cells
        self.vocabulary = model_directory.vocabulary
        self.tokenizer = tokenizer_of_model(model_directory, options)
        self.match = self.tokenizer.match(counts)
        self.report = new_report(counts, self.match)

    def blocks(self) -> Iterator[tuple[np.ndarray, TokenizedCells]]:
        for rows, streams in tokenize_blocks(self.counts, self.tokenizer, self.match, self.report):
            yield rows, cells_of_streams(streams, pa.table({ROW_COLUMN: rows}), self.tokenizer.settings)

    def obs(self) -> pd.DataFrame:
        return self.counts.obs

    def coverage(self) -> dict[str, float]:
        shares = (self.report.share_of_counts_lost, self.report.genes, self.report.genes_matched)
        return dict(zip((COUNTS_LOST, GENES, GENES_MATCHED), shares, strict=True))

    def log_summary(self) -> None:
        logger.info(self.report.summary())

    def available(self) -> set[str]:
        """The genes of the vocabulary that the file has."""
        return set(self.vocabulary.tokens[self.match.token_ids[self.match.is_matched]])

    def require_known_genes(self, training_genes: Mapping[str, int] | None, least: float) -> None:
        require_known_genes(self.counts.name, training_genes, self.available(), least)

    def log_coverage(self, training_genes: Mapping[str, int] | None) -> None:
        log_coverage(self.counts.name, self.report.share_of_counts_lost, training_genes, self.available())


class _ParquetSource:
    """Tokenized cells; which genes the original file had, they do not say."""

    def __init__(self, data_path: Path, model_directory: ModelDirectory) -> None:
        self.data_path, self.model_directory = data_path, model_directory
        self.files = parquet_files(data_path)
        self.settings = read_settings(self.files)
        self.n_cells = sum(pq.read_metadata(path).num_rows for path in self.files)
        self.obs_tables: list[pa.Table] = []

    def blocks(self) -> Iterator[tuple[np.ndarray, TokenizedCells]]:
        first = 0
        for path in self.files:
            for cells in read_row_groups(path, None, self.settings, self.model_directory.context):
                self.obs_tables.append(cells.obs_table)
                if not len(cells):
                    continue
                if first:
                    require_valid_ids(cells, len(self.model_directory.vocabulary), str(self.data_path))
                else:
                    require_same_tokenization(cells, self.model_directory, self.data_path)
                yield np.arange(first, first + len(cells)), cells
                first += len(cells)

    def obs(self) -> pd.DataFrame:
        import anndata

        table = pa.concat_tables(self.obs_tables, promote_options="permissive").unify_dictionaries().to_pandas()
        adata = anndata.AnnData(obs=table.set_index(table.pop("cell_id").astype(str)))
        adata.strings_to_categoricals()  # as anndata does where it writes a whole file
        return adata.obs

    def coverage(self) -> dict[str, float]:
        """Nothing is known."""
        return {}

    def log_summary(self) -> None:
        """Nothing is dropped."""

    def require_known_genes(self, training_genes: Mapping[str, int] | None, least: float) -> None:
        """Nothing is known."""

    def log_coverage(self, training_genes: Mapping[str, int] | None) -> None:
        """Nothing is known."""


@contextmanager
def open_cell_source(data_path: Path, model_directory: ModelDirectory, options: CountOptions) -> Iterator[CellSource]:
    """Open an ``.h5ad`` of raw counts or tokenized parquet for reading in blocks.

    Raises
    ------
    ScDMCError
        As :func:`scdmc.cells.data.read_cells`.
    """
    if not is_counts(data_path):
        yield _ParquetSource(Path(data_path), model_directory)
        return
    with open_counts(data_path, **options.of_counts()) as counts:
        yield _CountsSource(counts, model_directory, options)


def require_cells(data_path: Path, options: CountOptions) -> None:
    """Refuse a file whose cells cannot be opened, without reading them.

    Raises
    ------
    ScDMCError
        If a file of counts has no raw ones, or parquet was not written by the tokenizer.
    """
    if is_counts(data_path):
        with open_counts(data_path, **options.of_counts()):
            return
    read_settings(parquet_files(data_path))


def embed_file(
    data_path: Path,
    output_file: Path,
    model_directory: ModelDirectory,
    encoder: ScDMCModel,
    count_options: CountOptions,
    choice: EmbeddingChoice | None = None,
    viewers: ForViewers | None = None,
) -> EmbeddedFile:
    """Write a copy of a file with ``obsm['X_scDMC']``; memory grows by the annotation of the cells only.

    Parameters
    ----------
    data_path
        ``.h5ad`` with raw counts, or tokenized parquet.
    output_file
        ``.h5ad``: the input with the embeddings added, NaN for cells that ``filter_pass`` leaves out; of other data,
        their annotation of the cells, without genes; or ``.csv``: names of the cells and embeddings.
    model_directory
        How the cells must be tokenized.
    encoder
        On its device.
    count_options
        How to read an ``.h5ad``.
    choice
        How states become embeddings; None for what the model's ``config.json`` says.
    viewers
        Whether an ``.h5ad`` gets a map, and what is said of the results.

    Returns
    -------
    What was written, for its page.

    Raises
    ------
    ScDMCError
        If the data cannot be read as the model was trained or hold no cell.
    """
    choice = choice or embedding_choice(encoder.config)
    how = (choice.stream, choice.pooling, False, choice.layer)
    width, n_embedded, coordinates = embedding_width(encoder, choice.stream), 0, None
    output_file = _require_suffix(output_file)
    with open_cell_source(data_path, model_directory, count_options) as source, atomic_path(output_file) as temporary:
        with _output(temporary, data_path, source.n_cells, width) as (file, embeddings):
            for rows, cells in _shown_blocks(source, "embed"):
                _fill_rows(embeddings, rows, cell_embeddings(encoder, cells, *how))
                n_embedded += len(rows)
            if file is None:
                columns = [f"{EMBEDDING_KEY}_{number}" for number in range(width)]
                table = pd.DataFrame(embeddings, index=source.obs().index, columns=columns)
                without_formulas(table).to_csv(temporary, index_label=CELL_COLUMN)
            else:
                if not is_h5ad(data_path):
                    _write_obs(file, source.obs())
                coordinates = _add_for_viewers(file, embeddings, viewers or ForViewers(), ())
        source.log_summary()
        return EmbeddedFile(source.n_cells, n_embedded, width, source.coverage(), source.obs(), coordinates)


def _require_suffix(output_file: Path) -> Path:
    """Refuse a suffix that says another format than is written."""
    if Path(output_file).suffix not in OUTPUT_SUFFIXES:
        raise ScDMCError(f"{output_file}: the output ends in {' or '.join(OUTPUT_SUFFIXES)}")
    return Path(output_file)


def annotate_file(
    data_path: Path,
    output_file: Path,
    model_directory: ModelDirectory,
    annotator: Annotator,
    options: AnnotationOptions,
    count_options: CountOptions,
    viewers: ForViewers | None = None,
) -> AnnotatedFile:
    """Write a copy of a file with the cells' labels; memory grows by some bytes a cell only.

    Parameters
    ----------
    data_path
        ``.h5ad`` with raw counts, or tokenized parquet.
    output_file
        ``.h5ad``: the input with columns of obs and ``obsm['X_scDMC']`` added (of parquet, without genes); or ``.csv``:
        obs with the columns, and no embeddings.
    model_directory
        How the cells must be tokenized.
    annotator, options
        See :class:`Annotator`, :class:`AnnotationOptions`.
    count_options
        How to read an ``.h5ad``.
    viewers
        Whether an ``.h5ad`` gets a map, and what is said of the results.

    Returns
    -------
    What was written, for its page.

    Raises
    ------
    ScDMCError
        If the data cannot be read as the model was trained, hold no cell or too few of the genes of the labelled cells,
        or the output is of another kind.
    """
    output_file, place = _require_suffix(output_file), None
    with open_cell_source(data_path, model_directory, count_options) as source, atomic_path(output_file) as temporary:
        source.require_known_genes(annotator.training_genes, options.min_known_genes)
        if output_file.suffix == ".csv":
            embeddings = np.zeros((source.n_cells, annotator.width), np.float32) if options.majority_vote else None
            results = _annotate_blocks(source, annotator, options, embeddings)
            table = without_formulas(_without_cell_column(source.obs().assign(**_columns(results, source.n_cells))))
            table.to_csv(temporary, index_label=CELL_COLUMN)
        else:
            with _output(temporary, data_path, source.n_cells, annotator.width) as (file, embeddings):
                results = _annotate_blocks(source, annotator, options, embeddings)
                if not is_h5ad(data_path):
                    _write_obs(file, source.obs())
                columns = _columns(results, source.n_cells)
                add_obs(file, columns)
                place = _add_for_viewers(file, embeddings, viewers or ForViewers(), columns)
        source.log_summary()
        source.log_coverage(annotator.training_genes)
        rows = results.index.to_numpy()
        return AnnotatedFile(results, source.obs().iloc[rows], None if place is None else place[rows])


def _annotate_blocks(
    source: CellSource,
    annotator: Annotator,
    options: AnnotationOptions,
    embeddings: "np.ndarray | h5py.Dataset | None",
) -> pd.DataFrame:
    """Results of all blocks, indexed by row of the file; embeddings (n_cells, width) are filled where given."""
    parts = []
    for rows, cells in _shown_blocks(source, "annotate"):
        probabilities, states = annotator.annotate(cells)
        is_empty = cells.rank_lengths <= EMPTY_LENGTH
        columns = annotation_columns(annotator.names, probabilities, is_empty, options.min_probability)
        parts.append(pd.DataFrame({**columns, "is_empty": is_empty}, index=rows))
        if embeddings is not None:
            _fill_rows(embeddings, rows, states)
    results = pd.concat(parts)
    if options.majority_vote:
        results = pd.concat([results, _voted(results, embeddings[:], options)], axis=1)
    return results


def _shown_blocks(source: CellSource, what: str) -> Iterator[tuple[np.ndarray, TokenizedCells]]:
    """The blocks, at least one, with a progress bar; ``what`` is done to the cells."""
    is_empty = True
    with progress_bar(total=source.n_cells, unit=" cells", desc=what) as progress:
        for rows, cells in source.blocks():
            yield rows, cells
            is_empty = False
            progress.update(rows[-1] + 1 - progress.n)
    if is_empty:
        raise ScDMCError(f"there is no cell to {what}: the file is empty, or filter_pass drops them all")


def _fill_rows(embeddings: "np.ndarray | h5py.Dataset", rows: np.ndarray, states: np.ndarray) -> None:
    """Write the embeddings of a block; the rows between its first and last that it lacks become NaN."""
    # Whole stretches of rows: HDF5 is slow at single ones.
    stretch = np.full((rows[-1] + 1 - rows[0], states.shape[1]), np.nan, dtype=np.float32)
    stretch[rows - rows[0]] = states
    embeddings[rows[0] : rows[-1] + 1] = stretch


def _voted(results: pd.DataFrame, embeddings: np.ndarray, options: AnnotationOptions) -> pd.DataFrame:
    filled = results.index[~results["is_empty"]]
    n_neighbors = min(15, len(filled) - 1)
    if n_neighbors < 2:
        raise ScDMCError(f"--majority_vote: {len(filled)} cells with counts cannot be clustered; leave it out")
    graph = neighbour_graph(embeddings[filled], n_neighbors, options.seed)
    clusters = leiden_clusters(graph, options.vote_resolution, options.seed)
    voted = majority_vote(results.loc[filled, "scDMC_cell_type"].to_numpy(), clusters)
    table = pd.DataFrame({"scDMC_cluster": clusters, "scDMC_majority_vote": voted}, index=filled, dtype=object)
    table = table.reindex(results.index)
    return table.assign(scDMC_majority_vote=table["scDMC_majority_vote"].fillna(UNKNOWN))


def summary_lines(results: pd.DataFrame, min_probability: float) -> list[str]:
    """How many cells there are of each type, and how certain that is, in plain words.

    Parameters
    ----------
    results
        Of :class:`AnnotatedFile`.
    min_probability
        Below which a cell became Unknown.
    """
    lines = [results["scDMC_cell_type"].value_counts().to_string()]
    probability = results.loc[~results["is_empty"], "scDMC_probability"]
    if len(probability):
        unsure = (probability < 0.5).mean()
        lines.append(
            f"probability of the label: median {probability.median():.2f}, below 0.5 in {unsure:.1%} of the cells"
        )
    if min_probability == 0:
        lines.append(
            f"no cell is {UNKNOWN} for being uncertain, not even of a type never learned: see --min_probability"
        )
    if results["is_empty"].any():
        n_empty = results["is_empty"].sum()
        lines.append(f"{n_empty:,} cells have no count in any gene of the vocabulary and are {UNKNOWN}")
    return lines


def majority_vote(labels: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """The most frequent label of each cell's cluster, of equals the first by name; Unknown votes like a type.

    Parameters
    ----------
    labels, clusters
        Shape (n_cells,).
    """
    table = pd.crosstab(clusters, labels)  # columns are in the order of the names
    return table.idxmax(axis=1)[clusters].to_numpy(dtype=object)


def _columns(results: pd.DataFrame, n_cells: int) -> dict[str, np.ndarray | pd.Categorical]:
    """The results as columns of obs of all cells; cells that were not read (filter_pass) get missing values."""
    return {
        name: obs_column(values.to_numpy(), results.index.to_numpy(), n_cells)
        for name, values in results.drop(columns="is_empty").items()
    }


def _without_cell_column(obs: pd.DataFrame) -> pd.DataFrame:
    """Make room for the names of the cells: a column of obs that is called like theirs gets another name."""
    if CELL_COLUMN not in obs:
        return obs
    logger.warning("warning: the column %s of obs is called obs_%s in the table", CELL_COLUMN, CELL_COLUMN)
    return obs.rename(columns={CELL_COLUMN: f"obs_{CELL_COLUMN}"})


@contextmanager
def _output(
    path: Path, data_path: Path, n_cells: int, width: int
) -> Iterator[tuple[h5py.File | None, "np.ndarray | h5py.Dataset"]]:
    """Where results go, and the embeddings, NaN so far: an ``.h5ad``, or memory for a table."""
    if path.suffix == ".csv":
        require_space(path.parent, n_cells * width * BYTES_OF_TEXT, f"{data_path} as a table of embeddings")
        yield None, np.full((n_cells, width), np.nan, dtype=np.float32)
        return
    require_room_for_results(data_path, path.parent, n_cells * width * np.float32().nbytes)
    unnamed = pd.DataFrame(index=np.arange(n_cells).astype(str))
    with results_file(path, data_path, unnamed) as file:
        yield file, new_obsm(file, EMBEDDING_KEY, (n_cells, width))


def _add_for_viewers(
    file: h5py.File, embeddings: h5py.Dataset, viewers: ForViewers, ours: Iterable[str]
) -> np.ndarray | None:
    """A map of the embedded cells, if it is wanted, and what else viewers look for; returns the map."""
    map_key = place = None
    if wants_map(viewers.has_map, len(embeddings)):
        map_key, states = key_of_map(file), embeddings[:]
        is_embedded = np.isfinite(states).all(axis=1)
        place = map_of_cells(states, is_embedded, viewers.made.seed)
        new_obsm(file, map_key, place.shape)[:] = place
    add_for_viewers(file, viewers, ours, map_key)
    return place


def _write_obs(file: h5py.File, obs: pd.DataFrame) -> None:
    import anndata

    anndata.io.write_elem(file, "obs", obs.drop(columns="_index", errors="ignore").rename_axis(None))
