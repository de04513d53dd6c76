"""Fine-tune a pre-trained model to annotate cell types, and score it on test cells beside simple baselines."""

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from scdmc.annotation import FineTuningSettings, class_names, fine_tune, predict_probabilities, predictions_table
from scdmc.baselines import logistic_regression, majority_class, nearest_neighbours, nearest_neighbours_on_pca
from scdmc.command_line import (
    argument_parser,
    non_negative_float,
    positive_float,
    positive_int,
    probability,
    script,
    seed,
)
from scdmc.devices import choose_device
from scdmc.embeddings import cell_embeddings
from scdmc.figures import confusion_matrix_figure, loss_curve_figure, per_class_figure, save_figure
from scdmc.files import atomic_path, require_new_folder
from scdmc.model_directory import (
    ModelDirectory,
    describe_arguments,
    load_classifier_for_training,
    load_model,
    model_card,
    open_model_directory,
    save_model_directory,
)
from scdmc.modeling import STREAMS, ScDMCForCellClassification, ScDMCModel
from scdmc.pretraining import write_history
from scdmc.scores import classification_scores, metric_rows, per_class_scores, write_metrics
from scdmc.splits import (
    PARTS,
    add_split_arguments,
    draw_split,
    read_split,
    require_usable_split,
    split_columns,
    write_split,
)
from scdmc.task_data import (
    add_count_arguments,
    add_model_arguments,
    count_options,
    labels_of,
    place_model,
    read_cells,
    read_expression,
)
from scdmc.tokenized_data import TokenizedCells

TASK = "annotation"
METHOD = "scDMC fine-tuned"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of fine-tuning."""
    defaults = FineTuningSettings()
    parser = argument_parser(__doc__)
    parser.add_argument("--pretrained_model_path", type=Path, required=True, help="folder of a pre-trained model")
    parser.add_argument("--finetune_data_path", type=Path, required=True, help="labelled .h5ad or tokenized parquet")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the classifier and its scores")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --output_dir")
    parser.add_argument("--split_file", type=Path, help="split.csv of an earlier run or of split_cells.py; without it "
                        "the flags of the split draw one")  # fmt: skip
    parser.add_argument("--baselines", choices=("none", "fast", "all"), default="fast",
                        help="all adds the same model without pre-training, fine-tuned")  # fmt: skip
    add_split_arguments(parser)

    training = parser.add_argument_group("training")
    training.add_argument("--stream", choices=STREAMS, default="both", help="<cls> of which stream is classified")
    training.add_argument("--epochs", type=positive_int, default=defaults.epochs, help="passes over the training cells")
    training.add_argument("--patience", type=positive_int, default=defaults.patience, help="epochs without improvement")
    training.add_argument("--batch_size", type=positive_int, default=defaults.batch_size, help="cells of a step")
    training.add_argument("--learning_rate", type=positive_float, default=defaults.learning_rate, help="peak")
    training.add_argument("--weight_decay", type=non_negative_float, default=defaults.weight_decay, help="of matrices")
    training.add_argument("--classifier_dropout", type=probability, default=0.1, help="before the classifier")
    training.add_argument("--seed", type=seed, default=defaults.seed, help="of the split, the head and the order")
    add_model_arguments(parser)
    add_count_arguments(parser)
    return parser.parse_args(argv)


def choose_split(arguments: argparse.Namespace, cells: TokenizedCells, labels: np.ndarray) -> np.ndarray:
    """The split that was given, or a new one; checked before anything is trained on it."""
    if arguments.split_file:
        split = read_split(arguments.split_file, cells.obs, labels)
    else:
        split = draw_split(arguments, labels, cells.obs)
    require_usable_split(labels, split, cells.obs)
    return split


def train_classifier(
    arguments: argparse.Namespace,
    model_directory: ModelDirectory,
    cells: TokenizedCells,
    labels: np.ndarray,
    split: np.ndarray,
    is_pretrained: bool,
) -> tuple[ScDMCForCellClassification, list[dict[str, float]]]:
    """A fine-tuned classifier and its history, from the pre-trained encoder or from random weights."""
    torch.manual_seed(arguments.seed)  # the new head's weights
    model = load_classifier_for_training(
        model_directory, class_names(labels, split), arguments.stream, arguments.classifier_dropout, is_pretrained
    )
    place_model(model, arguments)
    settings = FineTuningSettings(**{name: getattr(arguments, name) for name in ("epochs", "patience", "batch_size",
                                  "learning_rate", "weight_decay", "seed")})  # fmt: skip
    return model, fine_tune(model, cells, labels, split, settings)


def baseline_predictions(
    arguments: argparse.Namespace,
    model_directory: ModelDirectory,
    cells: TokenizedCells,
    labels: np.ndarray,
    split: np.ndarray,
) -> dict[str, np.ndarray]:
    """Labels that each baseline predicts for the test cells, same cells and split."""
    if arguments.baselines == "none":
        return {}
    expression, _ = read_expression(arguments.finetune_data_path, cells, model_directory, count_options(arguments))
    torch.manual_seed(arguments.seed)
    encoders = {
        "pre-trained": load_model(model_directory.path, ScDMCModel),
        "untrained": ScDMCModel(model_directory.config),
    }
    predictions = {
        "logistic regression": logistic_regression(expression, labels, split, arguments.seed)[0],
        "15-NN on PCA": nearest_neighbours_on_pca(expression, labels, split, seed=arguments.seed),
    }
    for name, encoder in encoders.items():
        embeddings = cell_embeddings(place_model(encoder, arguments), cells, arguments.stream)
        predictions[f"15-NN on the {name} encoder"] = nearest_neighbours(embeddings, labels, split)
    predictions["majority class"] = majority_class(labels, split)
    if arguments.baselines == "all":
        model, _ = train_classifier(arguments, model_directory, cells, labels, split, is_pretrained=False)
        names = np.array(class_names(labels, split), dtype=object)
        test_cells = cells.select(split == "test")
        predictions["scDMC without pre-training"] = names[predict_probabilities(model, test_cells).argmax(axis=1)]
    return predictions


def save_scores(
    output_dir: Path, predictions: dict[str, np.ndarray], true: np.ndarray, history: list[dict[str, float]]
) -> pd.DataFrame:
    """Write metrics, scores per class and figures; returns methods x metrics."""
    rows = [
        row
        for method, labels in predictions.items()
        for row in metric_rows(TASK, method, classification_scores(true, labels))
    ]
    table = write_metrics(output_dir / "metrics.csv", rows)
    per_class = per_class_scores(true, predictions[METHOD])
    with atomic_path(output_dir / "per_class.csv") as temporary:
        per_class.to_csv(temporary, index=False)
    write_history(history, output_dir / "history.csv")
    accuracy = classification_scores(true, predictions[METHOD])["accuracy"]
    title = f"{accuracy:.1%} of {len(true):,} test cells are labelled rightly"
    save_figure(confusion_matrix_figure(true, predictions[METHOD], title), output_dir / "confusion_matrix")
    save_figure(per_class_figure(per_class, "Scores of each type on the test cells"), output_dir / "per_class")
    save_figure(loss_curve_figure(pd.DataFrame(history), "Fine-tuning"), output_dir / "loss_curves")
    return table


@script
def main(argv: list[str] | None = None) -> int:
    """Split, fine-tune, score once on the test cells, save."""
    arguments = parse_arguments(argv)
    choose_device(arguments.num_gpus)
    output_dir = arguments.output_dir
    require_new_folder(output_dir, arguments.overwrite)
    model_directory = open_model_directory(arguments.pretrained_model_path, arguments.token_dictionary_file)
    options = count_options(arguments)
    cells = read_cells(arguments.finetune_data_path, model_directory, split_columns(arguments), options)
    labels = labels_of(cells.obs[arguments.label_key])
    split = choose_split(arguments, cells, labels)

    model, history = train_classifier(arguments, model_directory, cells, labels, split, is_pretrained=True)
    probabilities = predict_probabilities(model, cells)
    names = np.array(class_names(labels, split), dtype=object)
    is_test = split == "test"
    predictions = {METHOD: names[probabilities[is_test].argmax(axis=1)]}
    predictions |= baseline_predictions(arguments, model_directory, cells, labels, split)

    with atomic_path(output_dir / "arguments.json") as temporary:
        temporary.write_text(describe_arguments(arguments), encoding="utf8")
    write_split(output_dir / "split.csv", cells.obs, labels, split)
    with atomic_path(output_dir / "predictions.csv") as temporary:
        predictions_table(cells.obs, labels, split, names, probabilities).to_csv(temporary, index=False)
    table = save_scores(output_dir, predictions, labels[is_test], history)
    facts = {"data": arguments.finetune_data_path.name, "pre-trained model": arguments.pretrained_model_path.name,
             "training / validation / test cells": " / ".join(f"{(split == part).sum():,}" for part in PARTS[:3]),
             "classes": ", ".join(names), "stream": arguments.stream, "seed": arguments.seed}  # fmt: skip
    command = ["python", "-u", "downstream_tasks.py", *map(shlex.quote, sys.argv[1:] if argv is None else argv)]
    card = model_card("scDMC, fine-tuned for cell types", facts, table.loc[METHOD].to_dict(), command)
    save_model_directory(
        output_dir, model, model_directory.vocabulary, model_directory.medians, model_directory.settings, card
    )
    print(table.round(3).to_string())
    if arguments.baselines == "fast":
        print("not among them: the same model without pre-training, fine-tuned; --baselines all adds it")
    print(f"wrote the classifier and its scores to {output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
