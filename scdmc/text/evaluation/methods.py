"""Who annotates cells in an evaluation: the text models, what they are compared with, and controls.

Source: docs/text.md, "Evaluation".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse

from scdmc.text.annotation import Query, annotate_cells
from scdmc.text.candidates import Candidate, OtherTerms
from scdmc.text.evaluation import references
from scdmc.text.evaluation.cells import TRAINED, UNTRAINED
from scdmc.text.evaluation.rounds import (
    LEFT_OUT,
    MODES,
    NEW_DATA,
    TEST_CELLS,
    Round,
    Trial,
)
from scdmc.text.evaluation.scores import Prediction
from scdmc.text.features import Centre
from scdmc.text.model import CellTextModel
from scdmc.text.options import TextAnnotationOptions, TextTrainingOptions
from scdmc.text.query import EMPTY_LENGTH
from scdmc.text.training import LabelledSet
from scdmc.text.training_data import TrainingData
from scdmc.text.training_results import trained_model

USUAL, ALONE = TextAnnotationOptions(), TextAnnotationOptions(centre="training", smooth="off")


# As measured before, the genes of a definition count a little less than its text.
WITH_MARKERS = TextAnnotationOptions(marker_weight=0.7)


WHOLE_MODES = (TEST_CELLS, NEW_DATA, LEFT_OUT)


# Random orders of the texts among the candidates, and cells without counts, of the controls.
N_PERMUTATIONS, N_DELETED = 10, 20


# Annotates the cells of a trial, which may get the candidates that are given.
Judge = Callable[[Trial, Sequence[str]], Prediction]


@dataclass(frozen=True)
class Method:
    """A row of the tables.

    Attributes
    ----------
    name
        In the tables.
    fit
        Trains it in a round with a seed, and gives what annotates.
    modes
        In which it takes part.
    is_drawn
        Whether the seed changes anything.
    is_ours
        Whether it finds "none of these", and has figures.
    """

    name: str
    fit: Callable[[Round, int], Judge]
    modes: tuple[str, ...] = MODES
    is_drawn: bool = True
    is_ours: bool = False


@dataclass(frozen=True)
class TextModel:
    """How a text model is trained and asked.

    Attributes
    ----------
    features, projector
        See :class:`scdmc.text.options.TextTrainingOptions`.
    encoder
        The model, or one with random weights.
    annotation
        How cells are annotated.
    is_pooled
        Whether all data sets are centred and drawn from as one, as is usual elsewhere.
    """

    features: str = TextTrainingOptions.features
    projector: str = TextTrainingOptions.projector
    encoder: str = TRAINED
    annotation: TextAnnotationOptions = USUAL
    is_pooled: bool = False

    def trained(self, of_round: Round, seed: int) -> tuple[CellTextModel, TrainingData]:
        """The model, trained in a round."""
        key = ("model", self.encoder, self.features, self.projector, self.is_pooled, seed)
        return of_round.once(key, lambda: self._trained(of_round, seed))

    def _trained(self, of_round: Round, seed: int) -> tuple[CellTextModel, TrainingData]:
        data = of_round.data(self.encoder, self.features, self.projector)
        if self.is_pooled:
            data = pooled(data)
        chosen = of_round.inputs.options
        options = TextTrainingOptions(
            self.features, self.projector, chosen.max_steps, n_components=chosen.n_components, seed=seed
        )
        has_calibration = of_round.is_calibrated and not self.is_pooled
        found = trained_model(data, of_round.corpus, options, of_round.inputs.ontology, has_calibration=has_calibration)
        return found.model, data

    def __call__(self, of_round: Round, seed: int) -> Judge:
        """Train, and give what annotates."""
        model, data = self.trained(of_round, seed)

        def judge(trial: Trial, ids: Sequence[str]) -> Prediction:
            query = trial.cells.query(data.maker, self.encoder)
            return annotated(model, query, of_round.candidates(ids), self.annotation, of_round.is_calibrated)

        return judge


def annotated(
    model: CellTextModel,
    query: Query,
    candidates: tuple[list[Candidate], np.ndarray, OtherTerms],
    options: TextAnnotationOptions,
    has_probabilities: bool = True,
) -> Prediction:
    """What annotation by text says; cells without counts have the score 0 everywhere.

    Parameters
    ----------
    model, query, options
        See :func:`scdmc.text.annotation.annotate_cells`.
    candidates
        Of :meth:`scdmc.text.evaluation.rounds.Round.candidates`.
    has_probabilities
        False where the temperature was not looked for.
    """
    result = annotate_cells(model, query, *candidates, options)
    is_none = result.none_of_these > options.max_none
    probabilities = result.probabilities if has_probabilities else None
    none = result.none_of_these if has_probabilities else None
    return Prediction(np.nan_to_num(result.scores), probabilities, none, is_none if has_probabilities else None)


def pooled(data: TrainingData) -> TrainingData:
    """All data sets as one: centred and scaled together, so that batches mix them."""
    raw = [each.features * centre.scale + centre.mean for each, centre in zip(data.sets, data.centres, strict=True)]
    is_training = np.concatenate([each.is_training for each in data.sets])
    features = np.concatenate(raw)
    centre = Centre.of(features[is_training])
    terms = np.concatenate([each.terms for each in data.sets])
    merged = LabelledSet("all", centre.applied(features), terms, is_training, None)
    return replace(data, sets=[merged], centres=[centre])


def permuted_texts(of_round: Round, seed: int) -> Judge:
    """The default model, whose candidates have each other's texts, in several random orders."""
    model, data = TextModel().trained(of_round, seed)
    draw = np.random.default_rng(seed)

    def judge(trial: Trial, ids: Sequence[str]) -> Prediction:
        query = trial.cells.query(data.maker, TRAINED)
        candidates, vectors, others = of_round.candidates(ids)
        orders = [draw.permutation(len(ids)) for _ in range(N_PERMUTATIONS)]
        # A row of cells for each order: accuracy is then the mean over the orders.
        parts = [annotated(model, query, (candidates, vectors[order], others), USUAL).scores for order in orders]
        return Prediction(np.concatenate(parts))

    return judge


def deleted_cells(of_round: Round, seed: int) -> Judge:
    """The default model on cells whose counts were deleted; each row of the scores is 1 for a cell without a label."""
    model, data = TextModel().trained(of_round, seed)

    def judge(trial: Trial, ids: Sequence[str]) -> Prediction:
        whole = trial.cells.query(data.maker, TRAINED)
        empty = trial.cells.cells.select(np.arange(min(N_DELETED, len(trial.cells.cells)))).truncated(EMPTY_LENGTH)
        has_counts = empty.rank_lengths > EMPTY_LENGTH
        n_empty = len(empty)
        query = Query(
            np.concatenate([whole.features, whole.features[:n_empty]]),
            scipy.sparse.vstack([whole.expression, scipy.sparse.csr_matrix((n_empty, whole.expression.shape[1]))]),
            whole.genes,
            np.concatenate([whole.has_counts, has_counts]),
            whole.graph,
        )
        result = annotate_cells(model, query, *of_round.candidates(ids), USUAL)
        names = {candidate.label for candidate in result.candidates}
        return Prediction(np.array([[label not in names] for label in result.labels[-n_empty:]], dtype=float))

    return judge


OURS = "scDMC + components, combined (default)"
COMPONENTS = "PCA 50 + text, same losses"
PERMUTED, DELETED = "control: texts permuted", "control: cells without counts"
USUAL_RECIPE, USUAL_RECIPE_MENDED = "usual recipe: pooled, mixed batches", "usual recipe, annotated as ours"
POOLED = TextModel("scdmc", "linear", annotation=ALONE, is_pooled=True)


# A projector is added by one line: its name, its features, its projector.
METHODS = (
    Method(OURS, TextModel(), is_ours=True),
    Method("default, with genes named in texts", TextModel(annotation=WITH_MARKERS), is_ours=True),
    Method("scDMC alone, combined", TextModel("scdmc"), is_ours=True),
    Method(COMPONENTS, TextModel("pca"), is_ours=True),
    Method("ridge on scDMC + components", TextModel(projector="ridge"), is_drawn=False, is_ours=True),
    Method("untrained scDMC, combined", TextModel("scdmc", encoder=UNTRAINED), WHOLE_MODES),
    Method("genes named in the definition", references.named_genes, is_drawn=False),
    Method("nearest centroid, its text", references.nearest_centroid, is_drawn=False),
    Method("LR label transfer over the ontology", references.label_transfer, is_drawn=False),
    Method("LR with the set's own labels (bound)", references.own_labels, (NEW_DATA, LEFT_OUT)),
    Method("majority", references.majority, is_drawn=False),
    Method("chance", references.chance),
    Method(USUAL_RECIPE, POOLED, (NEW_DATA, LEFT_OUT)),
    Method(USUAL_RECIPE_MENDED, replace(POOLED, annotation=USUAL), (NEW_DATA, LEFT_OUT)),
    Method(PERMUTED, permuted_texts, (NEW_DATA, LEFT_OUT)),
    Method(DELETED, deleted_cells, (NEW_DATA,)),
)
