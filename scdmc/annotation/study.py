"""Fine-tuning as the script does it: every run that was planned, its baselines, and what is left on the disk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch

from scdmc.annotation.baselines import (
    Predicted,
    celltypist_classifier,
    has_celltypist,
    logistic_regression,
    logistic_regression_on_components,
    majority_class,
    nearest_neighbours,
    nearest_neighbours_on_pca,
    principal_components,
)
from scdmc.annotation.cross_validation import RunPlan
from scdmc.annotation.options import FINE_TUNED, FROM_SCRATCH, LOGISTIC_REGRESSION, ON_COMPONENTS, ClassifierOptions
from scdmc.annotation.results import FineTuningTables, draw_fine_tuning_results, write_fine_tuning_tables
from scdmc.annotation.runs import (
    FineTunedRun,
    best_run,
    describe_settings,
    fine_tuned_run,
    predict_without_pretraining,
    save_classifier,
    with_best_model_only,
)
from scdmc.cells.expression import read_expression
from scdmc.cells.splits import PARTS
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.encoder import ScDMCModel, ScDMCPreTrainedModel
from scdmc.model.folder import ModelDirectory
from scdmc.model.storage import load_model, model_card
from scdmc.reading.options import CountOptions
from scdmc.reports.colours import one_colour_per_type
from scdmc.reports.provenance import Provenance
from scdmc.result_folders import keep_results
from scdmc.tokens.tokenized_cells import TokenizedCells

Place = Callable[[ScDMCPreTrainedModel], ScDMCPreTrainedModel]


@dataclass(frozen=True)
class FineTuningTask:
    """What is trained, on which cells, and what is said of it.

    Attributes
    ----------
    model_directory
        The pre-trained model.
    cells, labels
        All cells, and their types, shape (n_cells,).
    options
        How the classifier is built and trained.
    place
        Puts a model that is to be trained onto its device.
    data_name
        What the cells are called.
    hold_out_type
        Type that is not trained on; None for none.
    labels_of_no_type
        Those that were left out, and their cells, for the report (:func:`scdmc.labels.left_out_text`).
    command
        Words of the command, for the model card.
    made
        From what, for the pages.
    colours
        Type -> colour that the file gives it.
    """

    model_directory: ModelDirectory
    cells: TokenizedCells
    labels: np.ndarray
    options: ClassifierOptions
    place: Place
    data_name: str
    hold_out_type: str | None = None
    labels_of_no_type: str = "none"
    command: Sequence[str] = ()
    made: Provenance = field(default_factory=Provenance)
    colours: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BaselineData:
    """What the baselines read of all cells.

    Attributes
    ----------
    expression
        log1p CP10k, CSR of shape (n_cells, n_genes).
    genes
        Their names, shape (n_genes,).
    components
        Principal components of all cells, shape (n_cells, n_components).
    embeddings
        Name of an encoder -> its embeddings, shape (n_cells, n_dimensions).
    """

    expression: scipy.sparse.csr_matrix
    genes: np.ndarray
    components: np.ndarray
    embeddings: dict[str, np.ndarray]


def read_baseline_data(
    task: FineTuningTask, data_path: Path, counts: CountOptions, place: Place, seed: int
) -> BaselineData:
    """The same cells for the baselines; no label is used.

    Parameters
    ----------
    task
        Model and cells.
    data_path, counts
        Where the cells were read, and how.
    place
        Puts a model that is only run onto its device.
    seed
        Of the weights of the untrained encoder.
    """
    expression, genes = read_expression(data_path, task.cells, task.model_directory, counts)
    with torch.random.fork_rng(devices=[]):  # models are made on the CPU
        torch.default_generator.manual_seed(seed)
        encoders = {
            "pre-trained": load_model(task.model_directory.path, ScDMCModel),
            "untrained": ScDMCModel(task.model_directory.config),
        }
    options, config = task.options, task.model_directory.config
    read = options.stream or config.classifier_stream, options.pooling or config.classifier_pooling
    embeddings = {name: cell_embeddings(place(encoder), task.cells, *read) for name, encoder in encoders.items()}
    return BaselineData(expression, genes, principal_components(expression, seed=seed), embeddings)


def baseline_predictions(data: BaselineData, labels: np.ndarray, plan: RunPlan) -> dict[str, Predicted]:
    """What each baseline says of the test cells; the same cells and the same split as ours.

    Parameters
    ----------
    data
        See :class:`BaselineData`.
    labels
        Shape (n_cells,).
    plan
        The split, and the seed of the baselines.
    """
    predictions = {
        LOGISTIC_REGRESSION: logistic_regression(data.expression, labels, plan.split, plan.seed)[0],
        ON_COMPONENTS: logistic_regression_on_components(data.components, labels, plan.split, plan.seed)[0],
        "15-NN on PCA": nearest_neighbours_on_pca(data.expression, labels, plan.split, seed=plan.seed),
    }
    if has_celltypist():
        predictions["CellTypist"] = celltypist_classifier(data.expression, data.genes, labels, plan.split, plan.seed)
    for name, embeddings in data.embeddings.items():
        predictions[f"15-NN on the {name} encoder"] = nearest_neighbours(embeddings, labels, plan.split)
    return predictions | {"majority class": majority_class(labels, plan.split)}


def run_study(
    task: FineTuningTask,
    plans: Sequence[RunPlan],
    output_dir: Path,
    baseline_data: BaselineData | None = None,
    has_untrained: bool = False,
) -> pd.DataFrame:
    """Train, compare and write every run, and all runs together.

    Parameters
    ----------
    task
        What is trained.
    plans
        The runs (:func:`scdmc.annotation.cross_validation.plan_runs`).
    output_dir
        Gets the best classifier and the mean scores; with several runs also a folder for each. What it has, once all
        runs are there, is kept whatever becomes of the figures (:func:`scdmc.result_folders.keep_results`).
    baseline_data
        What the baselines read; None for no baselines.
    has_untrained
        Also fine-tune the same model without pre-training.

    Returns
    -------
    Mean scores, methods x metrics.
    """
    ours = FINE_TUNED if task.options.is_pretrained else FROM_SCRATCH
    shared = (task.model_directory, task.cells, task.labels)
    runs: list[FineTunedRun] = []
    methods: list[dict[str, Predicted]] = []
    saved: list[SavedRuns] = []
    for plan in plans:
        runs.append(fine_tuned_run(*shared, plan, task.options, task.place))
        methods.append({ours: runs[-1].predicted})
        if baseline_data is not None:
            methods[-1] |= baseline_predictions(baseline_data, task.labels, plan)
        if has_untrained:
            methods[-1][FROM_SCRATCH] = predict_without_pretraining(*shared, plan, task.options, task.place)
        if len(plans) > 1:
            saved.append(save_runs(output_dir / plan.name, task, runs[-1:], methods[-1:]))
            runs = with_best_model_only(runs)
    saved.append(save_runs(output_dir, task, runs, methods))
    keep_results(output_dir)
    with one_colour_per_type(task.labels, task.colours):
        for each in saved:
            draw_fine_tuning_results(each.folder, each.runs, each.tables, task.hold_out_type, each.facts, task.made)
    return saved[-1].tables.scores


@dataclass(frozen=True)
class SavedRuns:
    """Some runs whose scores and best model are written, and what their figures and page show."""

    folder: Path
    runs: Sequence[FineTunedRun]
    tables: FineTuningTables
    facts: dict[str, object]


def save_runs(
    folder: Path,
    task: FineTuningTask,
    runs: Sequence[FineTunedRun],
    methods: Sequence[Mapping[str, Predicted]],
) -> SavedRuns:
    """Write scores of some runs, and the model of the best.

    Parameters
    ----------
    folder
        Where to.
    task
        What was trained.
    runs
        At least one.
    methods
        For each run, name of a method -> what it says of the test cells; the first one is ours.
    """
    best = best_run(runs)
    facts = describe_run(task, best)
    if len(runs) > 1:
        facts["runs"] = f"{len(runs)}; the model is that of {best.plan.name}, the best one on validation cells"
    tables = write_fine_tuning_tables(folder, runs, methods, task.hold_out_type)
    metrics = tables.scores.loc[next(iter(methods[0]))].to_dict()
    card = model_card("scDMC, fine-tuned for cell types", facts, metrics, task.command, "tabular-classification")
    save_classifier(folder, best, task.model_directory, card)
    return SavedRuns(folder, [replace(run, model=None) for run in runs], tables, facts)


def describe_run(task: FineTuningTask, run: FineTunedRun) -> dict[str, object]:
    """What a model card and the report say of a run."""
    split, options = run.plan.split, task.options
    return {
        "data": task.data_name,
        "pre-trained model": task.model_directory.path.name + " (sizes only)" * (not options.is_pretrained),
        "training / validation / test cells": " / ".join(f"{(split == part).sum():,}" for part in PARTS[:3]),
        "classes": ", ".join(run.model.config.id2label.values()),
        "labels of no type, left out": task.labels_of_no_type,
        "stream": run.model.config.classifier_stream,
        "pooling": run.model.config.classifier_pooling,
        "seed": run.plan.seed,
        "temperature": f"{run.calibration.temperature:.3f}",
        "dropout before the classifier": run.model.config.classifier_dropout,
        "settings": describe_settings(run.settings),
        "best epoch": run.best_epoch_text,
    }
