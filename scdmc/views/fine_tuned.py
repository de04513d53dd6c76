"""The fine-tuned view: scDMC trained on labelled cells, once without each fold of them and once on all.

Source: docs/method.md, "Views of a cell and their weights".
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from scdmc.annotation.cross_validation import RunPlan
from scdmc.annotation.fine_tuning import goodness, seconds_per_cell
from scdmc.annotation.options import ClassifierOptions
from scdmc.annotation.prediction import names_of_classes, predict_probabilities
from scdmc.annotation.runs import new_classifier, settings_of_plan, train_classifier
from scdmc.errors import ScDMCError, shown_names
from scdmc.model.devices import autocast, computing_dtype
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory, changed_config
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.model.names import FINE_TUNED_FILE
from scdmc.model.storage import load_weights
from scdmc.progress import progress_line
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.views.options import FINE_TUNED_VIEW
from scdmc.views.regression import LabelledFolds

logger = logging.getLogger(__name__)

# Of the cells that a fine-tuning may see, those that choose its best epoch: as in a split of 70 / 10 / 20.
VALIDATION_SHARE = 0.125


# What a cell costs where nothing is learned from it, as a share of a training step.
FORWARD_SHARE = 1 / 3


@dataclass(frozen=True)
class FineTunedView:
    """A fine-tuned scDMC as a view of a cell; its features are the tokens of cells.

    Attributes
    ----------
    model
        The classifier, on its device; its weights are float32.
    dtype
        What it computes in.
    best_epochs
        Of the fine-tuning without each fold, and of that of all cells; 0 is the probe that they start from.
    """

    model: ScDMCForCellClassification
    dtype: str
    best_epochs: Sequence[int] = ()

    def probabilities(self, cells: TokenizedCells) -> np.ndarray:
        """Of each type for each cell, shape (n_cells, n_types), float64; not calibrated, as those of other views."""
        with autocast(self.model.device, self.dtype):
            return predict_probabilities(self.model, cells, show_progress=False).astype(np.float64)


@dataclass(frozen=True)
class FineTuner:
    """What makes fine-tuned views.

    Attributes
    ----------
    model_directory
        The model that each fine-tuning starts from.
    encoder
        The same on its device, where the training is, too.
    seed
        Of validation cells, order and dropout.
    options
        How it is trained; the defaults are those of fine-tuning elsewhere.
    """

    model_directory: ModelDirectory
    encoder: ScDMCModel
    seed: int = 42
    options: ClassifierOptions = field(default_factory=ClassifierOptions)

    def fit(self, cells: TokenizedCells, names: np.ndarray, taught: LabelledFolds) -> tuple[np.ndarray, FineTunedView]:
        """Fine-tune without each fold, and on all cells.

        Parameters
        ----------
        cells
            The labelled cells.
        names
            Types, sorted, shape (n_types,).
        taught
            Types and folds of the cells.

        Returns
        -------
        What cells are called by a model that has seen neither their label nor that of another cell of their fold,
        shape (n_cells, n_types); and the model of all cells. A cell that is in no fold is asked of one of the folds'
        models, since all of them have not seen it.

        Raises
        ------
        ScDMCError
            If there is one type only, or each type has one cell.
        """
        labels = names[taught.types].astype(str).astype(object)
        whole = training_split(taught.types, taught.many, self.seed)
        if not _can_teach(whole, labels):
            raise ScDMCError(
                f"--views {FINE_TUNED_VIEW}: {len(labels):,} labelled cells of {shown_names(list(names))} are too few; "
                "a fine-tuning needs two types, and two cells of one of them; leave this view out"
            )
        numbers = np.unique(taught.folds)
        fold_of = np.arange(len(labels)) % len(numbers)  # for cells that are in no fold
        fold_of[taught.chosen] = np.searchsorted(numbers, taught.folds)
        rests = [taught.chosen[fold_of[taught.chosen] != number] for number in range(len(numbers))]
        splits = [*(training_split(taught.types, rest, self.seed) for rest in rests), whole]
        plans = [
            RunPlan(f"fine-tuning {number} of {len(splits)}", self.seed, split)
            for number, split in enumerate(splits, start=1)
        ]
        progress_line(self._time_needed(plans, cells, labels))
        out_of_fold, best_epochs = np.zeros((len(labels), len(names))), []
        for number, plan in enumerate(plans[:-1]):
            asked = np.flatnonzero(fold_of == number)
            known, probabilities, best_epoch = self._of_fold(plan, cells, labels, asked)
            out_of_fold[np.ix_(asked, np.searchsorted(names.astype(str), known))] = probabilities
            best_epochs.append(best_epoch)
        view = self._fitted(plans[-1], cells, labels)
        return out_of_fold, replace(view, best_epochs=(*best_epochs, *view.best_epochs))

    def _fitted(self, plan: RunPlan, cells: TokenizedCells, labels: np.ndarray) -> FineTunedView:
        model, settings, history = train_classifier(
            self.model_directory, cells, labels, plan, self._options(), self._place
        )
        return FineTunedView(model.eval(), settings.dtype, (int(max(history, key=goodness)["epoch"]),))

    def _place(self, model: ScDMCForCellClassification) -> None:
        place_beside(self.encoder, model)

    def _options(self) -> ClassifierOptions:
        return replace(self.options, settings={"dtype": dtype_beside(self.encoder), **self.options.settings})

    def _of_fold(
        self, plan: RunPlan, cells: TokenizedCells, labels: np.ndarray, asked: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Types that a fold's model knows, what it says of the cells that are asked, and its best epoch."""
        if not _can_teach(plan.split, labels):
            known, sizes = np.unique(labels[plan.split != "left_out"].astype(str), return_counts=True)
            return known, np.tile(sizes / max(sizes.sum(), 1), (len(asked), 1)), 0
        view = self._fitted(plan, cells, labels)
        return names_of_classes(view.model).astype(str), view.probabilities(cells.select(asked)), view.best_epochs[0]

    def _time_needed(self, plans: Sequence[RunPlan], cells: TokenizedCells, labels: np.ndarray) -> str:
        """How long the fine-tunings will take, by a few steps of the last one."""
        model, settings = new_classifier(self.model_directory, labels, plans[-1], self._options(), self._place)
        seconds = seconds_per_cell(model, cells, labels, plans[-1].split, settings)
        shortest = longest = 0.0
        for plan in plans:
            if not _can_teach(plan.split, labels):
                continue
            settings = settings_of_plan(self.model_directory, plan, self._options())
            n_training, n_validation = ((plan.split == part).sum() for part in ("train", "validation"))
            of_epoch = seconds * (n_training + FORWARD_SHARE * n_validation)
            shortest += of_epoch * min(settings.patience, settings.epochs)
            longest += of_epoch * settings.epochs
        of_folds = f"{len(plans)} times ({len(plans) - 1} folds and all cells)"
        return f"fine-tuning {of_folds}: about {_range_of_time(shortest, longest)} on this machine"


def _range_of_time(shortest: float, longest: float) -> str:
    """Seconds in words, by the epoch at which the training stops."""
    unit, size = ("hours", 3600) if longest > 2 * 3600 else ("minutes", 60) if longest > 90 else ("seconds", 1)
    digits = 1 if unit == "hours" else 0
    low, high = (f"{max(value / size, 10**-digits):.{digits}f}" for value in (shortest, longest))
    return f"{low if low == high else f'{low} to {high}'} {unit}"


def training_split(types: np.ndarray, taught: np.ndarray, seed: int = 42) -> np.ndarray:
    """Train and validation cells of a fine-tuning, type by type; all others are left out.

    Parameters
    ----------
    types
        Index of the type of each cell, shape (n_cells,).
    taught
        Indices of the cells that it may see.
    seed
        Of the draw.

    Returns
    -------
    Shape (n_cells,), as :func:`scdmc.cells.splits.make_split`. A type with three cells has validation cells; where no
    type has, one cell of each type with two is one.
    """
    rng = np.random.default_rng(seed)
    split = np.full(len(types), "left_out", dtype="<U10")
    split[taught] = "train"
    for fewest in (3, 2):
        if (split == "validation").any():
            break
        for number in np.unique(types[taught]):
            cells = rng.permutation(taught[types[taught] == number])
            n_validation = max(1, round(VALIDATION_SHARE * len(cells))) if len(cells) >= fewest else 0
            split[cells[:n_validation]] = "validation"
    return split


def _can_teach(split: np.ndarray, labels: np.ndarray) -> bool:
    """True if there are two types to tell apart, and validation cells to choose the epoch by."""
    return (split == "validation").any() and len(set(labels[split == "train"])) > 1


def dtype_beside(encoder: ScDMCModel) -> str:
    """What a fine-tuned model computes in: what the encoder does."""
    return "bfloat16" if encoder.dtype == torch.bfloat16 else "float32"


def place_beside(encoder: ScDMCModel, model: ScDMCForCellClassification) -> None:
    """Put a model on the device of an encoder, with its attention back end; the weights stay float32."""
    model.to(encoder.device)
    # A back end that was chosen for a model that is not trained may have no dropout.
    name = "auto" if encoder.config.attention_probs_dropout_prob else encoder.attention_back_end
    model.set_attention(name, computing_dtype(dtype_beside(encoder), encoder.device), for_training=True)


def tensors_of(view: FineTunedView) -> dict[str, torch.Tensor]:
    """Weights of the model, by name, on the CPU."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in view.model.state_dict().items()}


def description_of(view: FineTunedView) -> dict[str, object]:
    """What a folder says of the view beside its weights."""
    config = view.model.config
    return {
        "stream": config.classifier_stream,
        "pooling": config.classifier_pooling,
        "best_epochs": [int(epoch) for epoch in view.best_epochs],
    }


def read_fine_tuned_view(
    folder: Path, description: Mapping[str, object], names: Sequence[str], encoder: ScDMCModel
) -> FineTunedView:
    """Read the weights that :func:`tensors_of` gave to a folder.

    Parameters
    ----------
    folder
        Path of the folder.
    description
        From :func:`description_of`.
    names
        Types, sorted.
    encoder
        Of the folder, on the device where the model is to run.

    Raises
    ------
    ScDMCError
        If a weight has another name or shape than the description asks for, or is no finite number.
    """
    stream, pooling = description["stream"], description["pooling"]
    config = changed_config(
        encoder.config, classifier_stream=stream, classifier_pooling=pooling, classifier_dropout=0.0
    )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    tensors = load_file(folder / FINE_TUNED_FILE)
    with torch.random.fork_rng(devices=[]):  # a new model is random before it gets its weights
        model = ScDMCForCellClassification(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ScDMCError(f"{folder} is damaged: {FINE_TUNED_FILE} does not fit the types and the model; copy it again")
    load_weights(model, tensors, str(folder / FINE_TUNED_FILE))
    place_beside(encoder, model)
    best_epochs = tuple(int(epoch) for epoch in description["best_epochs"])
    return FineTunedView(model.eval(), dtype_beside(encoder), best_epochs)
