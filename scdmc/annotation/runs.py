"""One training of a cell classifier, from the split to calibrated predictions of every cell, and its model folder."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from scdmc.annotation.baselines import Predicted
from scdmc.annotation.calibration import Calibration, calibrate, with_temperature, write_calibration
from scdmc.annotation.cross_validation import RunPlan
from scdmc.annotation.fine_tuning import adapted_settings, class_names, fit_classifier, goodness
from scdmc.annotation.options import CLASSIFIER_DROPOUTS, ClassifierOptions, FineTuningSettings
from scdmc.annotation.prediction import annotate_cells, names_of_classes, predict_probabilities, predictions_table
from scdmc.cells.gene_coverage import genes_of_cells, write_training_genes
from scdmc.model.devices import autocast
from scdmc.model.folder import ModelDirectory
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.model.storage import load_classifier_for_training, save_model_directory
from scdmc.tokens.tokenized_cells import TokenizedCells

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FineTunedRun:
    """A trained classifier and what it says of all cells.

    Attributes
    ----------
    plan
        Name, seed and split.
    model
        The classifier, with the weights of its best epoch; None where they are on the disk only.
    settings, history, calibration
        How it was trained and calibrated.
    predictions
        See :func:`scdmc.annotation.prediction.predictions_table`; one row per cell, probabilities calibrated.
    test_probabilities
        Shape (n_test, n_classes), calibrated.
    test_embeddings
        Shape (n_test, width): what the classifier reads of the test cells.
    training_genes
        See :func:`scdmc.cells.gene_coverage.genes_of_cells`.
    """

    plan: RunPlan
    model: ScDMCForCellClassification | None
    settings: FineTuningSettings
    history: list[dict[str, float]]
    calibration: Calibration
    predictions: pd.DataFrame
    test_probabilities: np.ndarray
    test_embeddings: np.ndarray
    training_genes: dict[str, int]

    @property
    def test_predictions(self) -> pd.DataFrame:
        """The rows of :attr:`predictions` of test cells."""
        return self.predictions[self.predictions["split"] == "test"]

    @property
    def predicted(self) -> Predicted:
        """Labels of the test cells, with calibrated confidence."""
        table = self.test_predictions
        return Predicted(table["predicted"].to_numpy(), table["probability"].to_numpy())

    @property
    def best_row(self) -> dict[str, float]:
        """The row of the history whose weights the model has (:func:`scdmc.annotation.fine_tuning.goodness`)."""
        return max(self.history, key=goodness)

    @property
    def best_epoch_text(self) -> str:
        """The epoch of :attr:`best_row`, and what it means if that is 0."""
        epoch = int(self.best_row["epoch"])
        return str(epoch) if epoch else "0: none was better than the probe; the encoder is the pre-trained one"


def best_run(runs: Sequence[FineTunedRun]) -> FineTunedRun:
    """The best run by its validation cells (:func:`scdmc.annotation.fine_tuning.goodness`); of equals the first."""
    return max(runs, key=lambda run: goodness(run.best_row))


def ensemble_of(runs: Sequence[FineTunedRun]) -> Predicted | None:
    """What the mean of the runs' probabilities says of the test cells; None if the runs have different splits."""
    if len(runs) < 2 or any((run.plan.split != runs[0].plan.split).any() for run in runs):
        return None
    names = np.array(class_names(runs[0].predictions["label"].to_numpy(dtype=object), runs[0].plan.split), object)
    return Predicted.of_probabilities(names, np.mean([run.test_probabilities for run in runs], axis=0))


def with_best_model_only(runs: Sequence[FineTunedRun]) -> list[FineTunedRun]:
    """The runs, without the weights of all but the best: many large models do not fit into memory."""
    best = best_run(runs)
    return [run if run is best else replace(run, model=None) for run in runs]


def train_classifier(
    model_directory: ModelDirectory,
    cells: TokenizedCells,
    labels: np.ndarray,
    plan: RunPlan,
    options: ClassifierOptions,
    place: Callable[[ScDMCForCellClassification], object],
) -> tuple[ScDMCForCellClassification, FineTuningSettings, list[dict[str, float]]]:
    """A fine-tuned classifier, its settings and its history.

    Parameters
    ----------
    model_directory
        The pre-trained model.
    cells, labels
        All cells, and their types, shape (n_cells,).
    plan
        The seed and the split.
    options
        See :class:`ClassifierOptions`.
    place
        Moves a model to the device where it is to be trained.
    """
    model, settings = new_classifier(model_directory, labels, plan, options, place)
    logger.info(
        "%s: %s training cells; at most %d epochs of batches of %d, learning rate %g",
        plan.name, f"{int((plan.split == 'train').sum()):,}", settings.epochs, settings.batch_size,
        settings.learning_rate,
    )  # fmt: skip
    return model, settings, fit_classifier(model, cells, labels, plan.split, settings)


def settings_of_plan(model_directory: ModelDirectory, plan: RunPlan, options: ClassifierOptions) -> FineTuningSettings:
    """The settings that were chosen, and for the number of training cells those that were not."""
    chosen = {**options.settings, "seed": plan.seed}
    if chosen.get("classifier_start") is None:  # random weights have to move, and fast
        chosen["classifier_start"] = "probe" if options.is_pretrained else "random"
    n_training = int((plan.split == "train").sum())
    return adapted_settings(n_training, model_directory.config.hidden_size, **chosen)


def new_classifier(
    model_directory: ModelDirectory,
    labels: np.ndarray,
    plan: RunPlan,
    options: ClassifierOptions,
    place: Callable[[ScDMCForCellClassification], object],
) -> tuple[ScDMCForCellClassification, FineTuningSettings]:
    """A classifier before its training, and the settings of that; see :func:`train_classifier`."""
    settings = settings_of_plan(model_directory, plan, options)
    dropout = CLASSIFIER_DROPOUTS[settings.classifier_start] if options.dropout is None else options.dropout
    with torch.random.fork_rng(devices=[]):  # models are made on the CPU
        torch.default_generator.manual_seed(plan.seed)  # the new head's weights, or all of them
        model = load_classifier_for_training(
            model_directory,
            class_names(labels, plan.split),
            options.stream,
            dropout,
            options.is_pretrained,
            options.pooling,
        )
    place(model)
    return model, settings


def fine_tuned_run(
    model_directory: ModelDirectory,
    cells: TokenizedCells,
    labels: np.ndarray,
    plan: RunPlan,
    options: ClassifierOptions,
    place: Callable[[ScDMCForCellClassification], object],
) -> FineTunedRun:
    """Train a classifier, calibrate it on validation cells, and predict all cells (:func:`train_classifier`)."""
    model, settings, history = train_classifier(model_directory, cells, labels, plan, options, place)
    with autocast(model.device, settings.dtype):
        probabilities, embeddings = annotate_cells(model, cells)
    names = names_of_classes(model)
    calibration = calibrate_on_validation(probabilities, labels, plan.split, names)
    calibrated = with_temperature(probabilities, calibration.temperature)
    predictions = predictions_table(cells.obs, labels, plan.split, names, calibrated)
    genes = genes_of_cells(cells.select(plan.split == "train"), model_directory.vocabulary)
    is_test = plan.split == "test"
    return FineTunedRun(
        plan, model, settings, history, calibration, predictions, calibrated[is_test], embeddings[is_test], genes
    )


def calibrate_on_validation(
    probabilities: np.ndarray, labels: np.ndarray, split: np.ndarray, names: np.ndarray
) -> Calibration:
    """The calibration on those validation cells whose type the training cells have.

    Parameters
    ----------
    probabilities
        Shape (n_cells, n_classes).
    labels, split
        Shape (n_cells,).
    names
        Shape (n_classes,).
    """
    class_of = {name: index for index, name in enumerate(names)}
    chosen = np.array([cell for cell in np.flatnonzero(split == "validation") if labels[cell] in class_of], dtype=int)
    return calibrate(probabilities[chosen], np.array([class_of[label] for label in labels[chosen]], dtype=int))


def predict_without_pretraining(
    model_directory: ModelDirectory,
    cells: TokenizedCells,
    labels: np.ndarray,
    plan: RunPlan,
    options: ClassifierOptions,
    place: Callable[[ScDMCForCellClassification], object],
) -> Predicted:
    """What the same model, trained from random weights, says of the test cells (:func:`train_classifier`)."""
    untrained = ClassifierOptions(**{**vars(options), "is_pretrained": False})
    model, settings, _ = train_classifier(model_directory, cells, labels, plan, untrained, place)
    with autocast(model.device, settings.dtype):
        probabilities = predict_probabilities(model, cells)
    calibration = calibrate_on_validation(probabilities, labels, plan.split, names_of_classes(model))
    calibrated = with_temperature(probabilities[plan.split == "test"], calibration.temperature)
    return Predicted.of_probabilities(names_of_classes(model), calibrated)


def save_classifier(folder: Path, run: FineTunedRun, model_directory: ModelDirectory, card: str) -> None:
    """Write the model folder of a run: weights, calibration, and the genes of its training cells."""
    folder.mkdir(parents=True, exist_ok=True)
    write_calibration(folder, run.calibration)
    write_training_genes(folder, run.training_genes)
    save_model_directory(
        folder, run.model, model_directory.vocabulary, model_directory.medians, model_directory.settings, card
    )


def describe_settings(settings: FineTuningSettings) -> str:
    """The settings on one line."""
    return ", ".join(f"{name} {value}" for name, value in asdict(settings).items())
