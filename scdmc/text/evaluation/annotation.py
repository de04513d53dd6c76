"""The task annotation: every method in every mode, row by row."""

import logging

import numpy as np

from scdmc.text.candidates import read_candidates
from scdmc.text.evaluation.cells import EvaluationInputs
from scdmc.text.evaluation.methods import DELETED, METHODS, N_PERMUTATIONS, PERMUTED, Judge, Method
from scdmc.text.evaluation.options import FEWEST_CELLS_OF_TYPE
from scdmc.text.evaluation.rounds import (
    HELD_OUT_AMONG_ALL,
    HELD_OUT_PAIR,
    NEW_DATA,
    TEST_CELLS,
    Round,
    Trial,
    all_candidates,
    rounds,
)
from scdmc.text.evaluation.rows import KeptRows, Score, Unit
from scdmc.text.evaluation.scores import (
    Prediction,
    figure_scores,
    held_out_scores,
    label_scores,
    none_scores,
    type_scores,
)

logger = logging.getLogger(__name__)


ANNOTATION = "annotation"


def evaluate_annotation(inputs: EvaluationInputs, rows: KeptRows) -> None:
    """Add the rows that are missing.

    Parameters
    ----------
    inputs
        The cells, and how much is computed.
    rows
        What is there, and where rows go.
    """
    # Texts that cannot be encoded end the run before anything is computed.
    ids = all_candidates(inputs)
    inputs.texts.encode([text for each in read_candidates(ids, None, inputs.ontology) for text in each.texts])
    for of_round in rounds(inputs):
        for seed in _seeds(of_round):
            for method in METHODS:
                _add_units(of_round, method, seed, rows)


def _seeds(of_round: Round) -> tuple[int, ...]:
    """All seeds; where a pair is held out, one, which the number of the pair decides."""
    seeds = of_round.inputs.options.seeds
    trial = of_round.trials[0]
    return (seeds[0] + trial.fold,) if trial.held_out else seeds


def _add_units(of_round: Round, method: Method, seed: int, rows: KeptRows) -> None:
    """The units of a method in a round that are missing; the method is trained if there is one."""
    missing = []
    for trial in of_round.trials:
        kept = seed if method.is_drawn else 0
        unit = Unit(ANNOTATION, trial.mode, trial.data_set, trial.fold, method.name, kept)
        if trial.mode in method.modes and not rows.is_done(unit):
            missing.append((unit, trial))
    if missing:
        unit = missing[0][0]
        logger.info("%s: %s, fold %d, %s, seed %d", unit.mode, unit.data_set, unit.fold, method.name, seed)
        judge = method.fit(of_round, seed)
        for unit, trial in missing:
            rows.add(unit, unit_scores(method, judge, trial, of_round))


def unit_scores(method: Method, judge: Judge, trial: Trial, of_round: Round) -> list[Score]:
    """All scores of a method on a trial.

    Parameters
    ----------
    method, judge
        The method, and what it gave when it was trained.
    trial
        The cells.
    of_round
        Of the trial.
    """
    prediction = judge(trial, trial.candidates)
    if method.name == DELETED:
        return [Score("share_without_label", prediction.scores.mean())]
    scored, truth = trial.is_scored, trial.cells.truth
    if method.name == PERMUTED:
        scored, truth = np.tile(scored, N_PERMUTATIONS), np.tile(truth, N_PERMUTATIONS)
    prediction, truth = of_cells(prediction, scored), truth[scored]
    ids = trial.candidates
    if trial.mode == HELD_OUT_AMONG_ALL:
        return held_out_scores(prediction, truth, ids, trial.held_out)
    scores = label_scores(prediction, truth, ids, of_round.inputs.ontology)
    if trial.mode == HELD_OUT_PAIR:
        return [Score("pair_accuracy", score.value) for score in scores if score.metric == "balanced_accuracy"]
    scores += type_scores(prediction, truth, ids)
    if method.is_ours:
        if trial.mode in (NEW_DATA, TEST_CELLS):
            scores += figure_scores(prediction, truth, ids)
        if len(ids) > 2:
            none = {left: _none_without(judge, trial, left)[trial.is_scored] for left in ids}
            scores += none_scores(none, truth, 2 * FEWEST_CELLS_OF_TYPE)
    return scores


def _none_without(judge: Judge, trial: Trial, left_out: str) -> np.ndarray:
    return judge(trial, [each for each in trial.candidates if each != left_out]).none_of_these


def of_cells(prediction: Prediction, chosen: np.ndarray) -> Prediction:
    """What is said of some of the cells; ``chosen`` has the shape (n_cells,)."""
    parts = (prediction.probabilities, prediction.none_of_these, prediction.is_none)
    return Prediction(prediction.scores[chosen], *(None if part is None else part[chosen] for part in parts))
