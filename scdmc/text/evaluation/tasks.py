"""The tasks that can be evaluated: who computes the rows of each, and what the page says of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from scdmc.reports.page import Section, Verdict
from scdmc.text.evaluation.annotation import evaluate_annotation
from scdmc.text.evaluation.annotation_page import annotation_sections, annotation_verdict, headline_table
from scdmc.text.evaluation.cells import EvaluationInputs
from scdmc.text.evaluation.description import evaluate_description
from scdmc.text.evaluation.description_page import description_headline, description_sections, description_verdict
from scdmc.text.evaluation.generation import (
    evaluate_generation,
    generation_headline,
    generation_sections,
    generation_verdict,
)
from scdmc.text.evaluation.rows import KeptRows


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes
    ----------
    compute
        Adds the rows that are missing.
    headline
        The table that is printed, methods x scores as text, from the metrics of the task.
    verdict
        What the metrics (:func:`scdmc.text.evaluation.rows.metric_table`) of the task say.
    sections
        Of the page, from the rows of the task; figures are written to the folder.
    """

    compute: Callable[[EvaluationInputs, KeptRows], None]
    headline: Callable[[pd.DataFrame], pd.DataFrame]
    verdict: Callable[[pd.DataFrame], Verdict]
    sections: Callable[[pd.DataFrame, Path], Sequence[Section]]


# A task is added by one line here and its name in options.TASKS.
TASKS_BY_NAME = {
    "annotation": Task(evaluate_annotation, headline_table, annotation_verdict, annotation_sections),
    "description": Task(evaluate_description, description_headline, description_verdict, description_sections),
    "generation": Task(evaluate_generation, generation_headline, generation_verdict, generation_sections),
}
