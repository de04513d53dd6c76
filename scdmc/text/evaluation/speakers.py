"""Who says captions of the test cells: language models, what they are compared with, and controls.

Source: docs/text.md, "Captions: scores".
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from scdmc.errors import ScDMCError
from scdmc.text.annotation import annotate_cells
from scdmc.text.captions.adding import is_same_encoder
from scdmc.text.captions.captioner import Captioner, centred_outputs, open_captioner, outputs_of
from scdmc.text.captions.options import CaptionOptions
from scdmc.text.captions.training import captions_of_cells, trained_captioner
from scdmc.text.corpus import require_same_parts
from scdmc.text.descriptions.types import types_and_options
from scdmc.text.evaluation.caption_scores import Said
from scdmc.text.evaluation.cells import TRAINED, CaptionInputs, EvaluationInputs
from scdmc.text.evaluation.references import FEATURES, MOST_ITERATIONS, PENALTY
from scdmc.text.evaluation.rounds import Round, Trial
from scdmc.text.features import FeatureMaker
from scdmc.text.model import CellTextModel, feature_maker, read_text_model
from scdmc.text.options import GENE_STATES, TextAnnotationOptions, TextTrainingOptions
from scdmc.text.projectors.batches import LabelledSet
from scdmc.text.projectors.states import GeneStates
from scdmc.text.query import EMPTY_LENGTH
from scdmc.text.training_data import TrainingData, training_data
from scdmc.text.training_results import trained_model


@dataclass(frozen=True)
class Speaker:
    """A text model that says captions.

    Attributes
    ----------
    model
        With its Q-Former.
    maker
        Of its features.
    captioner
        Its language model.
    """

    model: CellTextModel
    maker: FeatureMaker
    captioner: Captioner

    def outputs(self, states: GeneStates) -> tuple[np.ndarray, np.ndarray]:
        """What the queries found in the cells of a data set, and in a cell without counts among them, centred alike.

        Parameters
        ----------
        states
            Of the cells.

        Returns
        -------
        Shapes (n_cells, n_queries, hidden_size) and (1, n_queries, hidden_size).
        """
        found = centred_outputs(self.model.reader, states, self.captioner.mean)
        first = np.array([0])
        taken_away = outputs_of(self.model.reader, states.part(first)) - found[:1]
        empty = self.maker.states_of(states.cells.select(first), EMPTY_LENGTH)
        return found, outputs_of(self.model.reader, empty) - taken_away


class Speech:
    """What there is to be said of the test cells, and what says it, each trained once."""

    def __init__(self, inputs: EvaluationInputs, wanted: CaptionInputs, of_round: Round) -> None:
        """Take the cells of a round.

        Parameters
        ----------
        inputs
            What all tasks share.
        wanted
            What says captions.
        of_round
            The training on the whole corpus, and its test cells.
        """
        self.inputs, self._wanted, self._round = inputs, wanted, of_round
        self._speakers: dict[tuple[int, bool], Speaker] = {}

    @property
    def is_given(self) -> bool:
        """Whether a text model is given, so that none is trained and no seed changes anything."""
        return self._wanted.model is not None

    @cached_property
    def data(self) -> TrainingData:
        """The training and validation cells, with the states of their genes."""
        states = self.inputs.states
        return training_data(
            self._round.corpus, self._round.data_sets, states.encoder(TRAINED), states.model_directory,
            self._round.space, self._options(self.inputs.options.seeds[0]),
        )  # fmt: skip

    def _options(self, seed: int) -> TextTrainingOptions:
        most = min(TextTrainingOptions.max_tokens, self.inputs.states.model_directory.context)
        steps = self.inputs.options.max_steps
        return TextTrainingOptions(GENE_STATES, "qformer", steps, max_tokens=most, seed=seed)

    def speaker(self, seed: int, is_shuffled: bool = False) -> Speaker:
        """The text model of a seed; with ``is_shuffled`` its captions were learned with those of other cells."""
        key = (seed, is_shuffled)
        if key not in self._speakers:
            self._speakers[key] = self._opened() if self.is_given else self._trained(seed, is_shuffled)
        return self._speakers[key]

    def _trained(self, seed: int, is_shuffled: bool) -> Speaker:
        sets, ontology, corpus = self.data.sets, self.inputs.ontology, self._round.corpus
        if is_shuffled:  # the Q-Former has learned from the cells as they are: only the captions are mixed up
            model, draw = self.speaker(seed).model, np.random.default_rng(seed)
            sets = [replace(each, terms=draw.permutation(each.terms)) for each in sets]
        else:
            options = self._options(seed)
            model = trained_model(self.data, corpus, options, ontology, has_calibration=False).model
        options = CaptionOptions(caption_steps=self._wanted.caption_steps, seed=seed)
        captioner = trained_captioner(sets, corpus, self._round.space, model.reader, ontology, options)
        return Speaker(model, replace(self.data.maker, reader=model.reader), captioner)

    def _opened(self) -> Speaker:
        """The text model that is given, which must be of this encoder and this corpus."""
        folder, encoder = self._wanted.model, self.inputs.states.encoder(TRAINED)
        model, directory = read_text_model(folder)
        if model.reader is None:
            raise ScDMCError(f"{folder} has no Q-Former, from which captions start")
        maker = feature_maker(model, directory, lambda own: own.to(encoder.device))
        if not is_same_encoder(encoder, maker.encoder):
            raise ScDMCError(f"--model is not the encoder of cells that {folder} holds; name that one")
        trained_on = set(model.facts.get("data_sets", ()))
        if trained_on != set(self._round.data_sets) or set(model.texts.terms["cl_id"]) & self._round.corpus.unseen:
            raise ScDMCError(
                f"{folder} was trained on other data sets or terms than those of {self._round.corpus.path}, whose test "
                "cells it may have seen; name its own --corpus_dir"
            )
        require_same_parts(model.facts, self._round.corpus, str(folder))
        captioner = open_captioner(folder, self._wanted.language_model)
        require_same_parts(captioner.facts, self._round.corpus, f"the language model of {folder}")
        captioner.language_model.model.to(encoder.device)
        captioner.soft_tokens.to(encoder.device)
        return Speaker(model, maker, captioner)

    def captions(self, trial: Trial, seed: int, is_shuffled: bool = False) -> list[str]:
        """What the language model says of the cells of a trial, and behind them of a cell without counts."""
        key = (trial.data_set, seed, is_shuffled)

        def say() -> list[str]:
            speaker = self.speaker(seed, is_shuffled)
            states = speaker.maker.states_of(trial.cells.cells, speaker.model.reader.shape.max_tokens)
            return speaker.captioner.captions(np.concatenate(speaker.outputs(states)), f"captions of {trial.data_set}")

        return self._round.once(("captions", *key), say)

    def true_captions(self, trial: Trial) -> list[str]:
        """What should be said of the cells of a trial."""
        row_of = {cl_id: row for row, cl_id in enumerate(self._round.space.terms["cl_id"])}
        rows = np.array([row_of[cl_id] for cl_id in trial.cells.truth])
        return self._texts(trial.data_set, trial.cells.cells, rows)

    def _texts(self, name: str, cells: object, terms: np.ndarray) -> list[str]:
        states = GeneStates(self.inputs.states.encoder(TRAINED), cells)
        known = LabelledSet(name, np.empty((len(terms), 0)), terms, np.zeros(len(terms), dtype=bool), None, states)
        captions = captions_of_cells(known, self._round.corpus, self._round.space, self.inputs.ontology)
        return [caption.text for caption in captions]

    def of_training(self, trial: Trial) -> "TrainingCells":
        """The training cells of a trial's data set."""

        def make() -> TrainingCells:
            data = self._round.data(TRAINED, FEATURES)
            number = [each.name for each in data.sets].index(trial.data_set)
            own, centre = data.sets[number], data.centres[number]
            obs = self._round.corpus.cells.obs
            rows = np.flatnonzero((obs["dataset"].astype(str) == trial.data_set) & (obs["split"] == "train"))
            rows = rows[obs["cl_id"].iloc[rows].isin(self._round.space.terms["cl_id"])]
            terms = own.terms[own.is_training]
            texts = self._texts(trial.data_set, self._round.corpus.cells.select(rows), terms)
            test = centre.applied(trial.cells.query(data.maker, TRAINED).features)
            n_components = data.maker.components.vectors.shape[1]
            scale = centre.scale[-n_components:]  # components keep their lengths where neighbours are looked for
            features = own.features[own.is_training]
            parts = [values[:, -n_components:] * scale for values in (features, test)]
            return TrainingCells(terms, texts, features, test, *parts)

        return self._round.once(("training cells", trial.data_set), make)

    def types_by_text(self, trial: Trial, seed: int) -> list[str]:
        """What ``describe.py --style facts`` calls the cells: the nearest of all types of the model by the texts."""
        speaker = self.speaker(seed)
        candidates, options = types_and_options(
            None, None, speaker.model, self.inputs.ontology, TextAnnotationOptions()
        )
        _, vectors, others = self._round.candidates([each.cl_id for each in candidates])
        query = trial.cells.query(speaker.maker, TRAINED)
        result = annotate_cells(speaker.model, query, candidates, vectors, others, options)
        return [candidates[place].label for place in result.best]


@dataclass(frozen=True)
class TrainingCells:
    """Training cells of a data set, beside its test cells.

    Attributes
    ----------
    terms
        Rows of the training cells' terms, shape (n_training,).
    texts
        Their captions.
    features, of_test
        States of scDMC and components, centred and scaled by the training cells, of both.
    components, components_of_test
        Of both, centred and not scaled.
    """

    terms: np.ndarray
    texts: list[str]
    features: np.ndarray
    of_test: np.ndarray
    components: np.ndarray
    components_of_test: np.ndarray

    def caption_of_term(self, term: int) -> str:
        """The commonest caption of a term."""
        return _commonest([text for text, own in zip(self.texts, self.terms, strict=True) if own == term])


def _commonest(texts: list[str]) -> str:
    counts = pd.Series(texts).value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return str(counts.index[0])


def language_model(speech: Speech, trial: Trial, seed: int) -> Said:
    """Ours."""
    return Said.of(speech.captions(trial, seed)[:-1])


def facts(speech: Speech, trial: Trial, seed: int) -> Said:
    """The type that the style facts begins with, without a caption."""
    return Said(speech.types_by_text(trial, seed))


def label_of_regression(speech: Speech, trial: Trial, seed: int) -> Said:
    """A logistic regression of the data set's training cells; its label's caption."""
    own = speech.of_training(trial)
    fitted = LogisticRegression(C=PENALTY, max_iter=MOST_ITERATIONS).fit(own.features, own.terms)
    said = {term: own.caption_of_term(term) for term in np.unique(own.terms)}
    return Said.of([said[term] for term in fitted.predict(own.of_test)])


def nearest_cell(speech: Speech, trial: Trial, seed: int) -> Said:
    """The caption of the nearest training cell of the data set, by components of expression."""
    own = speech.of_training(trial)
    search = NearestNeighbors(n_neighbors=1).fit(own.components)
    nearest = search.kneighbors(own.components_of_test, return_distance=False)[:, 0]
    return Said.of([own.texts[row] for row in nearest])


def majority(speech: Speech, trial: Trial, seed: int) -> Said:
    """The commonest caption of the data set's training cells."""
    return Said.of([_commonest(speech.of_training(trial).texts)] * len(trial.cells.truth))


def another_cell(speech: Speech, trial: Trial, seed: int) -> Said:
    """What was found in another cell stands before the words: the same soft tokens always give the same words."""
    texts = speech.captions(trial, seed)[:-1]
    order = np.random.default_rng(seed).permutation(len(texts))
    others = dict(zip(order, np.roll(order, 1), strict=True))  # no cell is its own other
    return Said.of([texts[others[cell]] for cell in range(len(texts))])


def cell_without_counts(speech: Speech, trial: Trial, seed: int) -> Said:
    """What is said of a cell whose counts were deleted; ``describe.py`` says "no counts" and asks no model."""
    return Said.of([speech.captions(trial, seed)[-1]] * len(trial.cells.truth))


def shuffled_captions(speech: Speech, trial: Trial, seed: int) -> Said:
    """A language model that has learned the captions of other cells of the data set."""
    return Said.of(speech.captions(trial, seed, is_shuffled=True)[:-1])


@dataclass(frozen=True)
class Method:
    """A row of the tables.

    Attributes
    ----------
    name
        In the tables.
    say
        What it says of the cells of a trial.
    is_drawn
        Whether the seed changes anything.
    is_trained_for_it
        Whether it takes a training of its own, which is done with the first seed only, and not for a given model.
    """

    name: str
    say: Callable[[Speech, Trial, int], Said]
    is_drawn: bool = True
    is_trained_for_it: bool = False


OURS, REGRESSION = "caption of the language model", "logistic regression's label as caption"
ANOTHER_CELL = "control: another cell's soft tokens"


METHODS = (
    Method(OURS, language_model),
    Method("type by the texts (facts)", facts),
    Method(REGRESSION, label_of_regression, is_drawn=False),
    Method("caption of the nearest training cell", nearest_cell, is_drawn=False),
    Method("commonest caption", majority, is_drawn=False),
    Method(ANOTHER_CELL, another_cell),
    Method("control: a cell without counts", cell_without_counts),
    Method("control: captions shuffled in training", shuffled_captions, is_trained_for_it=True),
)
