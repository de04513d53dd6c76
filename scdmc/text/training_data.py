"""From a corpus on the disk to what a text model is trained on: features of cells by data set, vectors of texts."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from scdmc.cells.expression import expression_of_streams
from scdmc.disk import shown_size
from scdmc.errors import ScDMCError, shown_names
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory
from scdmc.text.corpus import TRAIN, Corpus
from scdmc.text.features import Centre, Components, FeatureMaker, fitted_components
from scdmc.text.model import TEXTS_OF_TERM, TextSpace
from scdmc.text.options import GENE_STATES, TextTrainingOptions
from scdmc.text.projectors.states import SHARE_OF_FREE_MEMORY, GeneStates, free_memory
from scdmc.text.training import FEWEST_TERMS, LabelledSet, Trained
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.distributed import process_number

if TYPE_CHECKING:
    from scdmc.text.encoders import TextEncoder

logger = logging.getLogger(__name__)


VALIDATION = "validation"


@dataclass(frozen=True)
class TrainingData:
    """What a text model is trained on.

    Attributes
    ----------
    sets
        The data sets.
    centres
        Of their training cells, in the same order.
    space
        The training texts.
    maker
        Of the features.
    """

    sets: list[LabelledSet]
    centres: list[Centre]
    space: TextSpace
    maker: FeatureMaker

    def read_by(self, trained: Trained) -> "TrainingData":
        """The same with the features of a trained Q-Former; unchanged where there is none."""
        if trained.reader is None:
            return self
        sets, centres = zip(*(trained.read(each) for each in self.sets), strict=True)
        return TrainingData(list(sets), list(centres), self.space, replace(self.maker, reader=trained.reader))


def data_sets_to_train_on(corpus: Corpus) -> list[str]:
    """The data sets of at least two terms: of others nothing can be told apart; they are named in the log.

    Raises
    ------
    ScDMCError
        If fewer than four terms remain.
    """
    terms = _trained_terms(corpus)
    single = [name for name, own in terms.items() if len(own) < 2]
    if single:
        logger.warning("warning: data sets of one term take no part, as a contrast needs two: %s", shown_names(single))
    usable = [name for name in terms if name not in single]
    n_terms = len({term for name in usable for term in terms[name]})
    if n_terms < FEWEST_TERMS:
        raise ScDMCError(
            f"{corpus.path}: {n_terms} terms in data sets of at least two, and {FEWEST_TERMS} are needed; add data sets"
        )
    return usable


def _trained_terms(corpus: Corpus) -> dict[str, set[str]]:
    """Data set -> the terms of its training cells; those without such cells are left out."""
    obs = corpus.cells.obs.loc[corpus.cells_of(TRAIN), ["dataset", "cl_id"]].astype(str)
    return {name: set(own) for name, own in obs.groupby("dataset", sort=True)["cl_id"]}


def training_texts(corpus: Corpus, data_sets: Sequence[str], open_encoder: "Callable[[], TextEncoder]") -> TextSpace:
    """The texts of the terms that have training cells; none of a term that is held out.

    Parameters
    ----------
    corpus
        Whose vectors are taken, where it has some.
    data_sets
        Those that are trained on (:func:`data_sets_to_train_on`): a term of others is no training term.
    open_encoder
        Opens the text encoder, where it has none.
    """
    of_sets = _trained_terms(corpus)
    trained = set().union(*(of_sets[name] for name in data_sets)) - corpus.unseen
    rows = corpus.terms_of(TRAIN)
    rows = rows[rows["cl_id"].isin(trained)]
    wide = rows[rows["kind"].isin(TEXTS_OF_TERM)].pivot(index="cl_id", columns="kind", values=["text", "row"])
    terms = wide["text"][list(TEXTS_OF_TERM)].reset_index().rename_axis(columns=None)
    if corpus.vectors is not None:
        vectors = corpus.vectors[wide["row"][list(TEXTS_OF_TERM)].to_numpy(dtype=int)]  # (n_terms, 2, text_size)
        encoder = corpus.facts["text_encoder"]
        return TextSpace(terms, vectors.astype(np.float32), encoder["name"], encoder["sha256"])
    opened = open_encoder()
    vectors = np.stack([opened.encode(terms[kind].tolist()) for kind in TEXTS_OF_TERM], axis=1)
    return TextSpace(terms, vectors, opened.name, opened.sha256)


def training_data(
    corpus: Corpus,
    data_sets: Sequence[str],
    encoder: ScDMCModel,
    model_directory: ModelDirectory,
    space: TextSpace,
    options: TextTrainingOptions,
    states: Callable[[TokenizedCells], np.ndarray] | None = None,
) -> TrainingData:
    """Features of the training and validation cells, data set by data set.

    Parameters
    ----------
    corpus
        The cells.
    data_sets
        Those that are trained on (:func:`data_sets_to_train_on`).
    encoder, model_directory
        What reads them.
    space
        The training texts.
    options
        Which features.
    states
        See :class:`scdmc.text.features.FeatureMaker`.

    Raises
    ------
    ScDMCError
        If the data sets share too few genes for components.
    """
    row_of_term = {cl_id: row for row, cl_id in enumerate(space.terms["cl_id"])}
    obs = corpus.cells.obs
    terms = obs["cl_id"].astype(object).map(row_of_term).to_numpy(dtype=float)
    usable = obs["split"].isin((TRAIN, VALIDATION)).to_numpy() & ~np.isnan(terms)
    names = obs["dataset"].astype(str).to_numpy()
    chosen = {name: np.flatnonzero(usable & (names == name)) for name in data_sets}
    is_training = corpus.cells_of(TRAIN)
    cells = {name: _read(corpus.cells, rows, model_directory) for name, rows in chosen.items()}
    expression = {name: expression_of_streams(part, model_directory) for name, part in cells.items()}
    sets = [
        LabelledSet(
            name,
            np.empty((len(rows), 0), dtype=np.float32),  # until they are made below, or a Q-Former is trained
            terms[rows].astype(int),
            is_training[rows],
            expression[name][0],
        )
        for name, rows in chosen.items()
    ]
    if options.projector == "qformer":
        maker = FeatureMaker(GENE_STATES, encoder, model_directory, None)
        gene_states = _states(maker, list(cells.values()), options.max_tokens)
        return TrainingData(
            [replace(each, states=own) for each, own in zip(sets, gene_states, strict=True)], [], space, maker
        )
    components = _components(expression, {each.name: each.is_training for each in sets}, corpus, options)
    maker = FeatureMaker(options.features, encoder, model_directory, components, states)
    features = [maker.of(cells[each.name]) for each in sets]
    centres = [
        Centre.of(values[each.is_training], weights=each.weights) for each, values in zip(sets, features, strict=True)
    ]
    sets = [
        replace(each, features=centre.applied(values))
        for each, centre, values in zip(sets, centres, features, strict=True)
    ]
    return TrainingData(sets, centres, space, maker)


def _states(maker: FeatureMaker, cells: Sequence[TokenizedCells], max_tokens: int) -> list[GeneStates]:
    """What a Q-Former reads of each data set, kept in memory where all of it takes a fair share of what is free."""
    states = [maker.states_of(part, max_tokens) for part in cells]
    n_bytes = sum(each.n_bytes for each in states)
    free = free_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # each process keeps its own
    if n_bytes <= SHARE_OF_FREE_MEMORY * free:
        for each in states:
            each.keep("encode" if process_number() == 0 else None)
    else:
        logger.info(
            "states of the genes are computed at every step: they would take %s of %s that are free",
            shown_size(n_bytes), shown_size(free),
        )  # fmt: skip
    return states


def _read(cells: TokenizedCells, rows: np.ndarray, model_directory: ModelDirectory) -> TokenizedCells:
    return cells.select(rows).truncated(model_directory.context)


def _components(
    expression: dict, is_training: dict[str, np.ndarray], corpus: Corpus, options: TextTrainingOptions
) -> Components | None:
    """Components of the training cells, where the features need them."""
    if options.features == "scdmc":
        return None
    parts = [(matrix[is_training[name]], genes) for name, (matrix, genes) in expression.items()]
    return fitted_components(parts, options.n_components, str(corpus.path))
