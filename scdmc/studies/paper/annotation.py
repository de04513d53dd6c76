"""Annotation of the paper's data sets: fine-tuning in two settings, views, and all baselines on the same test cells."""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from scdmc.annotation.baselines import Predicted
from scdmc.annotation.cross_validation import RunPlan
from scdmc.annotation.options import FROM_SCRATCH, ClassifierOptions
from scdmc.annotation.runs import fine_tuned_run, predict_without_pretraining
from scdmc.annotation.study import BaselineData, FineTuningTask, Place, baseline_predictions, read_baseline_data
from scdmc.cells.data import read_cells
from scdmc.cells.scores import classification_scores
from scdmc.cells.shared_genes import GeneKeys, read_cell_counts
from scdmc.cells.splits import require_usable_split
from scdmc.labels import labels_of, type_labels
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory
from scdmc.model.storage import load_model
from scdmc.reading.counts import open_counts
from scdmc.studies.annotation_views import Describer, views_read_across
from scdmc.studies.paper.data import PaperFile
from scdmc.studies.paper.options import (
    ANNOTATION,
    DEFAULT,
    PUBLISHED_FINE_TUNING,
    PUBLISHED_SETTING,
    PUBLISHED_STATES,
    TINY_FINE_TUNING,
    PaperOptions,
)
from scdmc.studies.paper.rows import PaperRows
from scdmc.studies.paper.splits import split_of_cells
from scdmc.tokens.tokenized_cells import ROW_COLUMN
from scdmc.views.classifier import fit_view_classifier
from scdmc.views.regression import Features

logger = logging.getLogger(__name__)


BY_VIEWS = "scDMC, views (scdmc annotate)"


LABEL, IS_QUERY = "cell_type", "is_query"


Run = Callable[[RunPlan], Mapping[str, Predicted]]


def add_annotation_rows(
    file: PaperFile,
    model_directory: ModelDirectory,
    places: tuple[Place, Place],
    options: PaperOptions,
    rows: PaperRows,
) -> None:
    """Compute what is missing of the rows of a data set, one run after the other.

    Parameters
    ----------
    file
        The data set.
    model_directory
        The pre-trained model.
    places
        Put a model that is trained, and one that is only run, onto its device.
    options
        What is run.
    rows
        Get the scores.

    Raises
    ------
    ScDMCError
        If the file cannot be read as the model was trained, or its split cannot be used.
    """
    columns = [LABEL, *([IS_QUERY] if file.has_query else [])]
    cells = read_cells(file.path, model_directory, columns, file.counts)
    labels, _ = type_labels(cells.obs[LABEL])
    is_query = (labels_of(cells.obs[IS_QUERY]) == "True") if file.has_query else None
    task = FineTuningTask(model_directory, cells, labels, ClassifierOptions(), places[0], file.name)
    study = _Study(file, task, places[1], options)
    for seed in options.seeds:
        plan = RunPlan(f"seed_{seed}", seed, split_of_cells(labels, is_query, seed))
        require_usable_split(labels, plan.split, cells.obs)
        truth = labels[plan.split == "test"]
        for name, run in study.runs():
            if rows.is_done(file.name, name, seed):
                continue
            logger.info("%s: %s, seed %d", file.name, name, seed)
            scores = {method: classification_scores(truth, of.labels) for method, of in run(plan).items()}
            rows.add(file.name, name, seed, ANNOTATION, scores)


class _Study:
    """The runs of one data set; what several of them read is computed once, and only if a run is missing."""

    def __init__(self, file: PaperFile, task: FineTuningTask, place: Place, options: PaperOptions) -> None:
        self.file, self.task, self.place, self.options = file, task, place, options
        self.shared = (task.model_directory, task.cells, task.labels)

    def runs(self) -> Iterator[tuple[str, Run]]:
        """Name of a run -> what it says of the test cells, by method."""
        yield "published setting", functools.partial(self._fine_tuned, PUBLISHED_SETTING, PUBLISHED_FINE_TUNING)
        yield "default", functools.partial(self._fine_tuned, DEFAULT, {})
        yield "without pre-training", self._from_scratch
        yield "views", self._by_views
        yield "baselines", lambda plan: baseline_predictions(self._baseline_data, self.task.labels, plan)

    def _classifier(self, settings: Mapping[str, object]) -> ClassifierOptions:
        tiny = TINY_FINE_TUNING if self.options.tiny else {}
        return ClassifierOptions(settings={**settings, **tiny, "dtype": self.options.dtype})

    def _fine_tuned(self, method: str, settings: Mapping[str, object], plan: RunPlan) -> dict[str, Predicted]:
        classifier = self._classifier(settings)
        if method == PUBLISHED_SETTING:
            classifier = replace(classifier, **PUBLISHED_STATES)
        run = fine_tuned_run(*self.shared, plan, classifier, self.task.place)
        return {method: run.predicted}

    def _from_scratch(self, plan: RunPlan) -> dict[str, Predicted]:
        found = predict_without_pretraining(*self.shared, plan, self._classifier({}), self.task.place)
        return {FROM_SCRATCH: found}

    def _by_views(self, plan: RunPlan) -> dict[str, Predicted]:
        taught = np.flatnonzero(np.isin(plan.split, ("train", "validation")))
        tested = np.flatnonzero(plan.split == "test")
        features = self._features
        reference, new = ({view: of[some] for view, of in features.items()} for some in (taught, tested))
        classifier, _ = fit_view_classifier(reference, self.task.labels[taught], seed=plan.seed)
        consensus = classifier.consensus_of(views_read_across(reference, new, plan.seed))
        probabilities = consensus.probabilities(classifier.of_views(new))
        return {BY_VIEWS: Predicted.of_probabilities(classifier.names.astype(str), probabilities)}

    @functools.cached_property
    def _features(self) -> dict[str, Features]:
        model_directory = self.task.model_directory
        describer = Describer.of(model_directory, self.place(load_model(model_directory.path, ScDMCModel)))
        describer = replace(describer, has_vectors=False)
        with open_counts(self.file.path, **self.file.counts.of_counts()) as opened:
            counts = read_cell_counts(opened, GeneKeys.of(opened, describer.tokenizer))
        rows = np.searchsorted(counts.rows, self.task.cells.obs[ROW_COLUMN].to_numpy())
        (features,) = describer.features(counts.select(rows))
        return features

    @functools.cached_property
    def _baseline_data(self) -> BaselineData:
        seed = self.options.seeds[0]
        return read_baseline_data(self.task, self.file.path, self.file.counts, self.place, seed)
