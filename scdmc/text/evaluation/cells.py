"""The cells that methods are evaluated on, their terms, and their states, which are computed once."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from scdmc.cells.options import SplitOptions
from scdmc.files import atomic_path
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory
from scdmc.reading.options import CountOptions
from scdmc.text.annotation import Query, own_neighbours
from scdmc.text.candidates import require_same_encoder
from scdmc.text.corpus import Corpus
from scdmc.text.corpus_maker import CorpusOptions, label_cells
from scdmc.text.encoders import TextEncoder
from scdmc.text.evaluation.options import FEWEST_CELLS_OF_TYPE, EvaluationOptions
from scdmc.text.features import FeatureMaker
from scdmc.text.model import TextSpace
from scdmc.text.ontology import CellOntology
from scdmc.text.options import POOLING, STREAM
from scdmc.text.query import query_of_cells, query_of_file
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizedCells

# Encoders of cells: the model, and one of its shape with random weights.
TRAINED, UNTRAINED = "trained", "untrained"


STATES_FOLDER = "states"


# Of the graph over which scores are smoothed, and of the random weights: the same for all seeds.
FIXED_SEED = 42


class KnownTexts:
    """Vectors of texts: of the corpus, and of others, which are encoded once.

    It stands in for a text encoder: it has its ``sha256``, its ``folder`` for messages, and ``encode``. ``is_named``
    says that a user has named an encoder: scores that need it are not left out where it cannot be opened.
    """

    def __init__(self, corpus: Corpus, open_encoder: Callable[[], TextEncoder], is_named: bool = False) -> None:
        """Take the vectors that the corpus has; the encoder is opened where a text is missing."""
        self._open, self.is_named = open_encoder, is_named
        self._encoder: TextEncoder | None = None
        self._known: dict[str, np.ndarray] = {}
        self.name, self.sha256, self.folder = "", "", corpus.path
        if corpus.vectors is None:
            self._opened()
        else:
            made = corpus.facts["text_encoder"]
            self.name, self.sha256 = made["name"], made["sha256"]
            self._known = dict(zip(corpus.terms["text"], corpus.vectors[corpus.terms["row"]], strict=True))

    def _opened(self) -> TextEncoder:
        if self._encoder is None:
            self._encoder = self._open()
            if self.sha256:
                require_same_encoder(self._encoder, TextSpace(None, None, self.name, self.sha256))
            self.name, self.sha256 = self._encoder.name, self._encoder.sha256
            self.folder = self._encoder.folder
        return self._encoder

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, shape (n_texts, text_size), float32."""
        missing = list(dict.fromkeys(text for text in texts if text not in self._known))
        if missing:
            self._known |= dict(zip(missing, self._opened().encode(missing), strict=True))
        return np.array([self._known[text] for text in texts], dtype=np.float32)


class StatesOfCells:
    """States of cells by the encoders, kept on the disk until all is computed."""

    def __init__(self, folder: Path, model_directory: ModelDirectory, encoders: Mapping[str, object]) -> None:
        """Name the encoders.

        Parameters
        ----------
        folder
            Where states are kept.
        model_directory
            Of the model.
        encoders
            :data:`TRAINED` and :data:`UNTRAINED` -> a function that opens the encoder.
        """
        self._folder, self.model_directory, self._open = Path(folder), model_directory, encoders
        self._opened: dict[str, ScDMCModel] = {}
        self._known: dict[tuple[str, str], np.ndarray] = {}

    def encoder(self, name: str) -> ScDMCModel:
        """One of the encoders."""
        if name not in self._opened:
            self._opened[name] = self._open[name]()
        return self._opened[name]

    def of_all(self, encoder: str, data: str, cells: TokenizedCells) -> np.ndarray:
        """States of all cells of some data, shape (n_cells, 2 hidden_size); ``data`` is a name for the file."""
        key = (encoder, data)
        if key not in self._known:
            path = self._folder / f"{hashlib.sha256(f'{encoder} {data}'.encode()).hexdigest()[:16]}.npy"
            if not path.is_file():
                values = cell_embeddings(self.encoder(encoder), cells, STREAM, POOLING)
                with atomic_path(path) as temporary, temporary.open("wb") as file:
                    np.save(file, values, allow_pickle=False)
            self._known[key] = np.load(path, allow_pickle=False)
        return self._known[key]


def untrained_encoder(model_directory: ModelDirectory) -> ScDMCModel:
    """An encoder of the same shape with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(FIXED_SEED)
        return ScDMCModel(model_directory.config)


class CorpusCells:
    """Cells of the corpus, cut to the context of the model, in the rows of the corpus."""

    name = ""  # no file is called so: a new file may well be called corpus.h5ad

    def __init__(self, corpus: Corpus, states: StatesOfCells) -> None:
        """Take the cells of a corpus."""
        self.corpus, self._states = corpus, states
        self._cells = corpus.cells.truncated(states.model_directory.context)

    def states_by(self, encoder: str) -> Callable[[TokenizedCells], np.ndarray]:
        """A function that gives the states of cells that were selected from the corpus."""

        def known(cells: TokenizedCells) -> np.ndarray:
            return self._states.of_all(encoder, self.name, self._cells)[cells.rows]

        return known

    def chosen(self, is_chosen: np.ndarray) -> "TestCells":
        """Some of the cells to be annotated; ``is_chosen`` has the shape (n_cells,)."""
        cells = self._cells.select(is_chosen)
        truth = cells.obs["cl_id"].astype(object).to_numpy()
        return TestCells(cells, truth, self._states.model_directory, self.states_by)


class NewFile:
    """Cells of a file that no training sees."""

    def __init__(self, path: Path, truth: np.ndarray, counts: CountOptions, states: StatesOfCells) -> None:
        """Name the file.

        Parameters
        ----------
        path
            The file.
        truth
            Term of each of its cells, shape (n_cells of the file,); None without one.
        counts
            How it is read.
        states
            Where its states are kept.
        """
        self.path, self.name, self.truth = Path(path), Path(path).stem, truth
        self._counts, self._states = counts, states

    @cached_property
    def _read(self) -> tuple[TokenizedCells, Query]:
        """All cells, and all of what a query has but for its features."""
        directory = self._states.model_directory
        maker = FeatureMaker("scdmc", None, directory, None, _no_states)
        return query_of_file(self.path, directory, maker, self._counts)

    @cached_property
    def test_cells(self) -> "TestCells":
        """All cells of the file."""
        cells, query = self._read

        def states_by(encoder: str) -> Callable[[TokenizedCells], np.ndarray]:
            return lambda _: self._states.of_all(encoder, self.name, cells)

        rows = cells.obs[ROW_COLUMN].to_numpy() if ROW_COLUMN in cells.obs else np.arange(len(cells))
        return TestCells(cells, self.truth[rows], self._states.model_directory, states_by, query)


@dataclass(frozen=True)
class TestCells:
    """Cells that methods annotate, and their terms, which no method is shown but those that say so.

    Attributes
    ----------
    cells
        The cells.
    truth
        Ids of their terms, shape (n_cells,); None for a cell that is annotated with the others and not scored.
    model_directory
        Of the model.
    states_by
        Encoder -> a function that gives states of the cells.
    of_file
        What was read of a file of counts; None for cells of a corpus.
    """

    cells: TokenizedCells
    truth: np.ndarray
    model_directory: ModelDirectory
    states_by: Callable[[str], Callable[[TokenizedCells], np.ndarray]]
    of_file: Query | None = None

    @cached_property
    def plain(self) -> Query:
        """The query without features, with its graph."""
        query = self.of_file
        if query is None:
            maker = FeatureMaker("scdmc", None, self.model_directory, None, _no_states)
            query = query_of_cells(self.cells, self.model_directory, maker)
        graph = own_neighbours(query.expression[query.has_counts], FIXED_SEED)
        return Query(query.features, query.expression, query.genes, query.has_counts, graph)

    def query(self, maker: FeatureMaker, encoder: str) -> Query:
        """The cells with the features of a model, whose states are those of an encoder."""
        known = replace(maker, states=self.states_by(encoder))
        plain = self.plain
        return Query(known.of(self.cells), plain.expression, plain.genes, plain.has_counts, plain.graph)


def _no_states(cells: TokenizedCells) -> np.ndarray:
    return np.zeros((len(cells), 0), dtype=np.float32)


@dataclass(frozen=True)
class GeneratorInputs:
    """A generator that is judged.

    Attributes
    ----------
    model
        Folder of the text model.
    counts_paths, counts
        The files of counts that the corpus was made of, and how they are read.
    """

    model: Path
    counts_paths: Sequence[Path]
    counts: CountOptions


@dataclass(frozen=True)
class CaptionInputs:
    """What says captions.

    Attributes
    ----------
    model
        Folder of the text model; None trains one with each seed.
    language_model
        Its language model, where the text model does not hold it: a folder, or ``smollm2``.
    caption_steps
        Of each training of captions.
    """

    model: Path | None
    language_model: Path | None
    caption_steps: int


@dataclass(frozen=True)
class EvaluationInputs:
    """What all tasks of an evaluation share.

    Attributes
    ----------
    corpus, new_files
        The cells, trained on and new.
    states
        Their states.
    texts
        Vectors of texts.
    ontology
        Which terms are related.
    options
        How much is computed.
    generator
        Of the task generation; None without it.
    captions
        Of the task description; None without it.
    """

    corpus: CorpusCells
    new_files: Sequence[NewFile]
    states: StatesOfCells
    texts: KnownTexts
    ontology: CellOntology
    options: EvaluationOptions
    generator: GeneratorInputs | None = None
    captions: CaptionInputs | None = None


def terms_of_file(path: Path, options: CorpusOptions, ontology: CellOntology) -> np.ndarray:
    """The term of each cell of a new file, as the corpus reads labels; None without one. Shape (n_cells,).

    Raises
    ------
    ScDMCError
        If the column is absent, a label is no term and that is not allowed, or there are fewer than two types.
    """
    options = replace(options, split=SplitOptions(min_cells_per_type=FEWEST_CELLS_OF_TYPE))
    labelled = label_cells([path], options, ontology)
    return labelled.table["cl_id"].to_numpy(dtype=object)


def frequent_terms(truth: np.ndarray, fewest: int = FEWEST_CELLS_OF_TYPE) -> list[str]:
    """Ids of the terms that enough cells have, in order."""
    names, cells = np.unique(truth[[name is not None for name in truth]].astype(str), return_counts=True)
    return [str(name) for name, number in zip(names, cells, strict=True) if number >= fewest]


def with_parts(corpus: Corpus, part: np.ndarray) -> Corpus:
    """A corpus whose cells have other parts, shape (n_cells,)."""
    cells = corpus.cells
    place = cells.obs_table.column_names.index("split")
    table = cells.obs_table.set_column(place, "split", pa.array(part.astype(str)))
    changed = TokenizedCells(
        cells.rank_ids, cells.expression_ids, cells.expression_values, cells.rank_offsets, cells.expression_offsets,
        table, cells.settings, cells.rows,
    )  # fmt: skip
    return Corpus(corpus.path, changed, corpus.terms, corpus.vectors, corpus.facts)
