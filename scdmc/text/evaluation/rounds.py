"""What is held back from a training, and which cells are annotated after it (docs/text.md, "Evaluation")."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np

from scdmc.text.candidates import Candidate, OtherTerms, candidate_vectors, other_terms, read_candidates
from scdmc.text.corpus import TRAIN, UNSEEN, Corpus
from scdmc.text.corpus_maker import unseen_terms
from scdmc.text.evaluation.cells import (
    EvaluationInputs,
    TestCells,
    frequent_terms,
    with_parts,
)
from scdmc.text.evaluation.options import FEWEST_CELLS_HELD_OUT
from scdmc.text.model import TextSpace
from scdmc.text.options import TextTrainingOptions
from scdmc.text.training import FEWEST_TERMS
from scdmc.text.training_data import TrainingData, data_sets_to_train_on, training_data, training_texts

# Modes: cells of the corpus that were kept for the test, new files, a data set left out, and types held out.
TEST_CELLS, NEW_DATA, LEFT_OUT = "test cells", "new data", "left-out data set"
HELD_OUT_PAIR, HELD_OUT_AMONG_ALL = "held-out pair", "held-out among all"


# In the order of the page.
MODES = (NEW_DATA, LEFT_OUT, HELD_OUT_PAIR, HELD_OUT_AMONG_ALL, TEST_CELLS)


WITHOUT = "left out"


Made = TypeVar("Made")


@dataclass(frozen=True)
class Trial:
    """Cells that a method annotates.

    Attributes
    ----------
    mode, data_set, fold
        See :class:`scdmc.text.evaluation.rows.Unit`.
    cells
        The cells.
    candidates
        Ids of the terms that they may get.
    held_out
        Ids of those candidates that no training saw.
    """

    mode: str
    data_set: str
    fold: int
    cells: TestCells
    candidates: tuple[str, ...]
    held_out: tuple[str, ...] = ()

    @cached_property
    def is_scored(self) -> np.ndarray:
        """True for cells whose term is a candidate, shape (n_cells,)."""
        return np.isin(self.cells.truth.astype(str), self.candidates) & self.cells.plain.has_counts


@dataclass(frozen=True)
class Round:
    """A training, and the trials that come after it.

    Attributes
    ----------
    corpus
        With the parts of this round: what must not be trained on is in another part.
    trials
        The trials.
    inputs
        What all rounds share.
    is_calibrated
        Whether probabilities are looked at, which takes trainings of their own.
    """

    corpus: Corpus
    trials: tuple[Trial, ...]
    inputs: EvaluationInputs
    is_calibrated: bool = True
    _kept: dict[tuple, object] = field(default_factory=dict)

    @cached_property
    def data_sets(self) -> list[str]:
        """The data sets that are trained on."""
        return data_sets_to_train_on(self.corpus)

    @cached_property
    def space(self) -> TextSpace:
        """The training texts."""
        return training_texts(self.corpus, self.data_sets, lambda: self.inputs.texts)

    def once(self, key: tuple, make: Callable[[], Made]) -> Made:
        """What ``make`` gives, made once in this round."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def data(self, encoder: str, features: str, projector: str = TextTrainingOptions.projector) -> TrainingData:
        """The training data of an encoder, a kind of features and a projector."""
        states = self.inputs.states
        options = TextTrainingOptions(features, projector, n_components=self.inputs.options.n_components)

        def make() -> TrainingData:
            return training_data(
                self.corpus, self.data_sets, states.encoder(encoder), states.model_directory, self.space, options,
                self.inputs.corpus.states_by(encoder),
            )  # fmt: skip

        return self.once(("data", encoder, features, projector), make)

    def candidates(self, ids: Sequence[str]) -> tuple[list[Candidate], np.ndarray, OtherTerms]:
        """Candidates, their vectors and what other training terms say, as annotation has them."""
        candidates = read_candidates(list(ids), None, self.inputs.ontology)
        vectors = candidate_vectors(candidates, self.space, lambda: self.inputs.texts)
        return candidates, vectors, other_terms(candidates, vectors, self.space, self.inputs.ontology)


def rounds(inputs: EvaluationInputs) -> Iterator[Round]:
    """All trainings, the whole corpus first, with the trials after each."""
    corpus = inputs.corpus.corpus
    yield Round(corpus, (*_new_trials(inputs), *_test_trials(inputs)), inputs)
    yield from _without_data_sets(inputs)
    for fold in range(inputs.options.held_out_folds):
        for name in data_sets_to_train_on(corpus):
            yield from _without_pair(inputs, name, fold)


def round_of_test_cells(inputs: EvaluationInputs) -> Round:
    """The training on the whole corpus, with the test cells of its data sets alone; nothing is calibrated."""
    return Round(inputs.corpus.corpus, tuple(_test_trials(inputs)), inputs, is_calibrated=False)


def all_candidates(inputs: EvaluationInputs) -> list[str]:
    """Ids of all terms that a cell of any trial may get."""
    truths = [each.truth for each in inputs.new_files]
    truths.append(inputs.corpus.corpus.cells.obs["cl_id"].astype(object).to_numpy())
    return sorted({name for truth in truths for name in frequent_terms(truth, 1)})


def _new_trials(inputs: EvaluationInputs) -> list[Trial]:
    trials = []
    for each in inputs.new_files:
        cells = each.test_cells
        trials.append(Trial(NEW_DATA, each.name, 0, cells, tuple(frequent_terms(cells.truth))))
    return trials


def _obs(inputs: EvaluationInputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Data set, term and part of each cell of the corpus."""
    obs = inputs.corpus.corpus.cells.obs
    return tuple(obs[name].astype(str).to_numpy() for name in ("dataset", "cl_id", "split"))


def _test_trials(inputs: EvaluationInputs) -> list[Trial]:
    """The test cells of each data set; they may get the terms of its training cells."""
    data_set, term, part = _obs(inputs)
    trials = []
    for name in data_sets_to_train_on(inputs.corpus.corpus):
        trained = np.unique(term[(data_set == name) & (part == TRAIN)])
        is_test = (data_set == name) & (part == "test") & np.isin(term, trained)
        if is_test.any():
            cells = inputs.corpus.chosen(is_test)
            trials.append(Trial(TEST_CELLS, name, 0, cells, tuple(map(str, trained))))
    return trials


def _without_data_sets(inputs: EvaluationInputs) -> Iterator[Round]:
    """Each data set left out in turn; what remains must have terms enough."""
    corpus = inputs.corpus.corpus
    data_set, term, part = _obs(inputs)
    for name in data_sets_to_train_on(corpus):
        changed = np.where(data_set == name, WITHOUT, part)
        ids = frequent_terms(term[data_set == name].astype(object))
        if len(ids) > 1 and _is_enough(data_set, term, changed):
            cells = inputs.corpus.chosen(data_set == name)
            yield Round(with_parts(corpus, changed), (Trial(LEFT_OUT, name, 0, cells, tuple(ids)),), inputs)


def _is_enough(data_set: np.ndarray, term: np.ndarray, part: np.ndarray) -> bool:
    """Whether the training cells suffice: four terms, in data sets of at least two."""
    own = [set(term[(data_set == name) & (part == TRAIN)]) for name in np.unique(data_set)]
    return len(set().union(*(terms for terms in own if len(terms) > 1))) >= FEWEST_TERMS


def _without_pair(inputs: EvaluationInputs, name: str, fold: int) -> Iterator[Round]:
    """Two terms of a data set held out of all, with their descendants; nothing where there are no two to draw."""
    corpus, ontology = inputs.corpus.corpus, inputs.ontology
    data_set, term, part = _obs(inputs)
    is_own = data_set == name
    ids = frequent_terms(term[is_own].astype(object))
    pairs = pairs_to_hold_out(term[is_own], inputs)
    if fold >= len(pairs):
        return
    pair = pairs[fold]
    is_unseen = np.isin(term, list(unseen_terms(pair, ontology)))
    changed = np.where(is_unseen, UNSEEN, part)
    if not _is_enough(data_set, term, changed):
        return
    # Descendants of a term that is held out were not trained on either, but are no candidates that were seen.
    among = [each for each in ids if each in pair or not is_unseen[term == each].any()]
    is_pair = is_own & np.isin(term, pair)
    others = inputs.corpus.chosen(is_pair | (is_own & (part == "test") & np.isin(term, among)))
    trials = [Trial(HELD_OUT_PAIR, name, fold, inputs.corpus.chosen(is_pair), pair, pair)]
    if len(among) > len(pair):
        trials.append(Trial(HELD_OUT_AMONG_ALL, name, fold, others, tuple(among), pair))
    yield Round(with_parts(corpus, changed), tuple(trials), inputs, is_calibrated=False)


def pairs_to_hold_out(terms: np.ndarray, inputs: EvaluationInputs) -> list[tuple[str, str]]:
    """Pairs of terms of a data set in random order, no two the same; relatives make no pair.

    Parameters
    ----------
    terms
        Of its cells, shape (n_cells,).
    inputs
        The first seed decides the order.
    """
    ids = frequent_terms(terms.astype(object), FEWEST_CELLS_HELD_OUT)
    pairs = [
        (one, other)
        for place, one in enumerate(ids)
        for other in ids[place + 1 :]
        if not inputs.ontology.relatives(one, other)
    ]
    order = np.random.default_rng(inputs.options.seeds[0]).permutation(len(pairs))
    return [pairs[place] for place in order]
