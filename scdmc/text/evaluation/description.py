"""The task description: captions of test cells beside baselines and controls, row by row."""

import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from scdmc.errors import ScDMCError
from scdmc.text.evaluation.caption_scores import caption_scores
from scdmc.text.evaluation.cells import EvaluationInputs
from scdmc.text.evaluation.rounds import Round, Trial, round_of_test_cells
from scdmc.text.evaluation.rows import KeptRows, Unit
from scdmc.text.evaluation.speakers import METHODS, Method, Speech

logger = logging.getLogger(__name__)


DESCRIPTION = "description"


def evaluate_description(inputs: EvaluationInputs, rows: KeptRows) -> None:
    """Add the rows that are missing.

    Parameters
    ----------
    inputs
        The corpus, and what says captions.
    rows
        What is there, and where rows go.

    Raises
    ------
    ScDMCError
        If the corpus has no test cells, or the text model or text encoder that is given does not fit it.
    """
    of_round = round_of_test_cells(inputs)
    if not of_round.trials:
        raise ScDMCError(f"{of_round.corpus.path} keeps no test cells of trained terms, which captions are scored on")
    speech = Speech(inputs, inputs.captions, of_round)
    missing = [each for each in units_of_captions(speech, of_round) if not rows.is_done(each[0])]
    if not missing:
        return
    encode = _encode(inputs, [text for trial in of_round.trials for text in speech.true_captions(trial)])
    for unit, method, trial, seed in missing:
        logger.info("%s: %s, %s, seed %d", DESCRIPTION, unit.data_set, method.name, seed)
        said, true_texts = method.say(speech, trial, seed), speech.true_captions(trial)
        rows.add(unit, caption_scores(said, trial.cells.truth, true_texts, inputs.ontology, encode))


def units_of_captions(speech: Speech, of_round: Round) -> Iterator[tuple[Unit, Method, Trial, int]]:
    """All units of the task with who answers, those of one seed together.

    A method that no seed changes has one unit for each data set, with the seed 0.
    """
    seeds = speech.inputs.options.seeds[:1] if speech.is_given else speech.inputs.options.seeds
    for seed in seeds:
        for method in METHODS:
            is_once = method.is_trained_for_it or not method.is_drawn
            if (seed != seeds[0] and is_once) or (speech.is_given and method.is_trained_for_it):
                continue
            for trial in of_round.trials:
                kept = seed if method.is_drawn else 0
                yield Unit(DESCRIPTION, trial.mode, trial.data_set, 0, method.name, kept), method, trial, seed


def _encode(inputs: EvaluationInputs, texts: Sequence[str]) -> Callable[[Sequence[str]], np.ndarray] | None:
    """What encodes texts; None, with a warning, where no text encoder is at hand and none was named."""
    try:
        inputs.texts.encode(texts)
    except ScDMCError as error:
        if inputs.texts.is_named:
            raise
        logger.warning("warning: no text_mmd, which takes the text encoder of the corpus: %s", error)
        return None
    return inputs.texts.encode
