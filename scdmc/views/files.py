"""From files to files: new cells labelled by a reference, or by the folder that one left."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scdmc.annotation.annotated_cells import ALL_VIEWS, LabelledCells
from scdmc.annotation.new_cells_page import write_new_cells_page
from scdmc.annotation.options import UNKNOWN
from scdmc.cells.data import tokenizer_of_model
from scdmc.cells.labels_page import LabelledFile, write_labels_page
from scdmc.cells.shared_genes import CellCounts, GeneKeys, read_cell_counts
from scdmc.cells.viewers import ForViewers
from scdmc.file_names import page_beside
from scdmc.files import remove
from scdmc.model.encoder import ScDMCModel, ScDMCPreTrainedModel
from scdmc.model.folder import ModelDirectory
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.storage import load, model_card
from scdmc.reading.counts import open_counts
from scdmc.reading.h5ad import require_room_for_results
from scdmc.reading.label_colours import label_colours
from scdmc.reading.options import CountOptions
from scdmc.reports.colours import one_colour_per_type
from scdmc.reports.page import KeyNumber
from scdmc.reports.provenance import Provenance
from scdmc.reports.site import PAGE_NAME
from scdmc.result_folders import keep_results, result_folder
from scdmc.views.fine_tuned import FineTuner
from scdmc.views.new_cells import label_by_fitted, label_new_cells
from scdmc.views.options import ViewOptions
from scdmc.views.pair import read_pair
from scdmc.views.results import (
    result_columns,
    summary_lines,
    write_annotated_cells,
    write_labels_table,
    write_score_tables,
)
from scdmc.views.storage import read_fitted_reference, save_fitted_reference

ANNOTATED_FILE, LABELS_FILE, CLASSIFIER_FOLDER = "annotated.h5ad", "labels.csv", "classifier"


@dataclass(frozen=True)
class Output:
    """Where results go: a folder for all, or a file for the labels.

    Attributes
    ----------
    folder, file
        One of them; the other is None.
    """

    folder: Path | None = None
    file: Path | None = None


def annotate_by_reference(
    data_path: Path,
    reference_path: Path,
    output: Output,
    model: ScDMCPreTrainedModel,
    model_directory: ModelDirectory,
    options: ViewOptions,
    count_options: CountOptions,
) -> list[str]:
    """Label the cells of a file by those of another.

    Parameters
    ----------
    data_path, reference_path
        New and labelled counts; both are opened and checked before anything is read or computed.
    output
        Where the results go.
    model, model_directory
        Whose encoder describes the cells; on its device.
    options, count_options
        What is computed, and how the files are read.

    Returns
    -------
    What to say of the results, line by line.

    Raises
    ------
    ScDMCError
        As :func:`scdmc.views.pair.read_pair` and :func:`scdmc.views.new_cells.label_new_cells`.
    """
    began = time.time()
    tokenizer = tokenizer_of_model(model_directory, count_options)
    with (
        open_counts(data_path, **count_options.of_counts()) as of_new,
        open_counts(reference_path, **count_options.of_counts()) as of_reference,
    ):
        require_room_for_results(data_path, (output.folder or output.file).absolute().parent)
        new, reference, labels = read_pair(of_new, of_reference, tokenizer, options)
    fine_tuner = FineTuner(model_directory, encoder_of(model), options.seed)
    cells, fitted = label_new_cells(new, reference, labels, fine_tuner, tokenizer, options)
    made = Provenance((data_path, reference_path), model_directory.path.name, options.seed, began)
    viewers = ForViewers(made)
    one_colour = one_colour_per_type(labels, label_colours(reference_path, options.label_key))
    if output.folder is None:
        with one_colour:
            _write_file(output.file, data_path, new, cells, viewers)
            scores = cells.held_out.methods.loc[ALL_VIEWS]
            on_others = KeyNumber("Macro-F1 on held-out reference cells", f"{scores['macro_f1']:.3f}",
                                  f"accuracy {scores['accuracy']:.3f}; --output_dir writes all scores")  # fmt: skip
            _write_page(page_beside(output.file), reference_path.name, new, cells, made, on_others)
        return summary_lines(cells, cells.recommended_familiarity)
    metrics = cells.held_out.methods.loc[ALL_VIEWS].drop("weight").to_dict()
    card = model_card("scDMC, views of a reference", dict(cells.facts), metrics, ["scdmc", "annotate"])
    with one_colour, result_folder(output.folder) as folder:
        _write_both(folder, data_path, new, cells, viewers)
        write_score_tables(folder, cells)
        save_fitted_reference(folder / CLASSIFIER_FOLDER, fitted, model, model_directory, card)
        keep_results(folder)
        write_new_cells_page(folder, cells, made)
    return summary_lines(cells, cells.recommended_familiarity)


def annotate_by_folder(
    data_path: Path,
    output: Output,
    model: ScDMCPreTrainedModel,
    model_directory: ModelDirectory,
    options: ViewOptions,
    count_options: CountOptions,
) -> list[str]:
    """Label the cells of a file by the classifier that :func:`annotate_by_reference` left.

    Parameters
    ----------
    data_path, output, options, count_options
        See :func:`annotate_by_reference`; of the options the threshold and the seed.
    model, model_directory
        Of the classifier's folder.

    Returns
    -------
    What to say of the results, line by line.

    Raises
    ------
    ScDMCError
        If the folder is damaged, or the file has too few of its genes.
    """
    began, tokenizer = time.time(), tokenizer_of_model(model_directory, count_options)
    fitted = read_fitted_reference(model_directory.path, encoder_of(model), tokenizer)
    with open_counts(data_path, **count_options.of_counts()) as counts:
        require_room_for_results(data_path, (output.folder or output.file).absolute().parent)
        new = read_cell_counts(counts, GeneKeys.of(counts, tokenizer))
    cells = label_by_fitted(fitted, new, options)
    made = Provenance((data_path,), model_directory.path.name, options.seed, began)
    viewers, labeller = ForViewers(made), f"the classifier of {model_directory.path.absolute().parent.name}"
    if output.folder is None:
        _write_file(output.file, data_path, new, cells, viewers)
        _write_page(page_beside(output.file), labeller, new, cells, made)
    else:
        with result_folder(output.folder) as folder:
            _write_both(folder, data_path, new, cells, viewers)
            keep_results(folder)
            _write_page(folder / PAGE_NAME, labeller, new, cells, made)
    return summary_lines(cells, fitted.classifier.recommended_of(list(cells.view_labels)))


def encoder_of(model: ScDMCPreTrainedModel) -> ScDMCModel:
    """The encoder of a model with a head, or the model itself."""
    return model if isinstance(model, ScDMCModel) else model.bert


def _write_both(folder: Path, data_path: Path, new: CellCounts, cells: LabelledCells, viewers: ForViewers) -> None:
    write_annotated_cells(folder / ANNOTATED_FILE, data_path, new, cells, viewers)
    write_labels_table(folder / LABELS_FILE, new, cells)


def _write_file(path: Path, data_path: Path, new: CellCounts, cells: LabelledCells, viewers: ForViewers) -> None:
    if path.suffix == ".csv":
        write_labels_table(path, new, cells)
    else:
        write_annotated_cells(path, data_path, new, cells, viewers)


def _write_page(
    path: Path, labeller: str, new: CellCounts, cells: LabelledCells, made: Provenance,
    on_others: KeyNumber | None = None,
) -> None:  # fmt: skip
    """The page of labels without the reference's tables: of a file, or of the folder that a reference left."""
    values = {"familiarity": np.asarray(cells.familiarity, dtype=float), "distance": np.asarray(cells.distance)}
    probability = result_columns(cells)["scDMC_probability"]
    labelled = LabelledFile(new.name, labeller, len(cells.names), cells.labels, probability, UNKNOWN, new.obs,
                            cells.umap, values, on_others)  # fmt: skip
    remove(path)  # which is of older labels
    write_labels_page(path, labelled, made)


def load_for_views(model_directory: ModelDirectory) -> ScDMCPreTrainedModel:
    """The model of a folder with its head of masked genes, if it has one: the classifier's folder will hold it."""
    model = load(model_directory.path)
    return model if isinstance(model, ScDMCForMaskedLM) else encoder_of(model)
