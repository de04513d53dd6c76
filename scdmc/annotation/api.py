"""Annotation in a notebook: what ``import scdmc`` offers beside tokens, on an AnnData in memory."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scdmc.annotation.annotators import Annotator, classifier_annotator, reference_annotator
from scdmc.annotation.cross_validation import RunPlan
from scdmc.annotation.options import FINE_TUNED, N_NEIGHBORS, ClassifierOptions, FineTuningSettings
from scdmc.annotation.prediction import EMPTY_LENGTH, annotation_columns
from scdmc.annotation.results import draw_fine_tuning_results, write_fine_tuning_tables
from scdmc.annotation.runs import describe_settings, fine_tuned_run, save_classifier
from scdmc.cells.data import tokenizer_of_model
from scdmc.cells.from_adata import tokenize
from scdmc.cells.gene_coverage import log_coverage, require_known_genes
from scdmc.cells.options import MIN_KNOWN_GENES, SplitOptions
from scdmc.cells.results import add_results
from scdmc.cells.splits import PARTS, draw_split, require_usable_split
from scdmc.cells.viewers import ForViewers
from scdmc.dates import date_of_results
from scdmc.errors import ScDMCError
from scdmc.files import require_new_folder
from scdmc.labels import left_out_text, type_labels
from scdmc.model.devices import place_model
from scdmc.model.embeddings import EMBEDDING_KEY, cell_embeddings
from scdmc.model.encoder import ScDMCModel, ScDMCPreTrainedModel
from scdmc.model.folder import ModelDirectory
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.model.loaded import model_to_run, open_model
from scdmc.model.storage import model_card
from scdmc.options import LabelOptions, field_names, part_options
from scdmc.reading.counts import counts_of_adata
from scdmc.reading.label_colours import label_colours_in
from scdmc.reading.options import CountOptions, count_options_of
from scdmc.reports.colours import one_colour_per_type
from scdmc.reports.provenance import Provenance
from scdmc.result_folders import keep_results, result_folder
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizedCells

if TYPE_CHECKING:
    import anndata

logger = logging.getLogger(__name__)

CLASSIFIER_READS = ("stream", "pooling")


def fine_tune(
    adata: "anndata.AnnData",
    model: str | Path | ScDMCPreTrainedModel,
    *,
    label_key: str,
    output_dir: str | Path,
    split: Sequence[str] | None = None,
    overwrite: bool = False,
    **options: object,
) -> pd.DataFrame:
    """Fine-tune a pre-trained model on labelled cells, as ``downstream_tasks.py`` does, without the baselines.

    Parameters
    ----------
    adata
        Raw counts and labels; not changed.
    model
        Folder of a pre-trained model, name of a shipped one, or what :func:`scdmc.load` returned, which stays as it is.
    label_key
        Column of obs with the types.
    output_dir
        Folder for the classifier, its scores, figures and ``report.html``.
    split
        ``train``, ``validation``, ``test`` or ``left_out`` for each cell; drawn without it.
    overwrite
        Replace files in ``output_dir``.
    options
        How the counts are read: fields of :class:`scdmc.reading.options.CountOptions` (``layer``, ``gene_id_column``,
        ``gene_mapping_file``, ``allow_normalized``, ``recompute_totals``, ``species``, ``ortholog_file``). Which labels
        are types: ``ignore_labels`` and ``keep_labels`` of :class:`scdmc.options.LabelOptions`. How a split is drawn:
        fields of
        :class:`scdmc.cells.options.SplitOptions` (``split_by``, ``validation_fraction``, ``test_fraction``,
        ``min_cells_per_type``, ``seed``, which is also that of the training). What the classifier reads: ``stream`` and
        ``pooling`` of :class:`scdmc.annotation.options.ClassifierOptions`. How it is trained: fields of
        :class:`scdmc.annotation.options.FineTuningSettings`, such as ``epochs`` or ``classifier_start``; others are
        chosen for the number of cells.

    Returns
    -------
    Scores on the test cells, one row.

    Raises
    ------
    ScDMCError
        If the cells cannot be tokenized, split or trained on, or the folder holds something.
    """
    output_dir = Path(output_dir)
    require_new_folder(output_dir, overwrite)
    began = time.time()
    date_of_results()  # a bad one is refused before the work
    kinds = (CountOptions, LabelOptions, SplitOptions, FineTuningSettings)
    groups = (*map(field_names, kinds), CLASSIFIER_READS)
    of_counts, of_labels, of_split, settings, reads = part_options("fine_tune", options, *groups)
    of_split = SplitOptions(**of_split)
    classifier = ClassifierOptions(**reads, settings=settings)
    model_directory = open_model(model)
    columns = [label_key] + ([of_split.split_by] if of_split.split_by else [])
    cells = tokenize(adata, model=model_directory, obs_columns=columns, **of_counts)
    labels, left_out = type_labels(cells.obs[label_key], LabelOptions(**of_labels))
    if split is None:
        split = draw_split(labels, cells.obs, of_split)
    else:
        split = _require_parts(split, adata.n_obs)[_rows(cells)]
    require_usable_split(labels, split, cells.obs)
    plan = RunPlan(f"seed_{of_split.seed}", of_split.seed, split)
    run = fine_tuned_run(model_directory, cells, labels, plan, classifier, place_model)
    name = model_directory.path.name
    facts = {
        "pre-trained model": name,
        "labels of no type, left out": left_out_text(left_out),
        "seed": of_split.seed,
        "settings": describe_settings(run.settings),
        "best epoch": run.best_epoch_text,
    }
    command = ["scdmc.fine_tune(adata,", f"{name!r},", f"label_key={label_key!r},", "...)"]
    with result_folder(output_dir) as folder:
        tables = write_fine_tuning_tables(folder, [run], [{FINE_TUNED: run.predicted}], None)
        metrics = tables.scores.loc[FINE_TUNED].to_dict()
        card = model_card("scDMC, fine-tuned for cell types", facts, metrics, command, "tabular-classification")
        save_classifier(folder, run, model_directory, card)
        keep_results(folder)
        made = Provenance((), name, of_split.seed, began)
        with one_colour_per_type(labels, label_colours_in(adata, label_key)):
            draw_fine_tuning_results(folder, [run], tables, None, facts, made)
    return tables.scores


def _require_parts(split: np.ndarray, n_cells: int) -> np.ndarray:
    """The split as text, shape (n_cells,), every word of which is a part."""
    split = np.asarray(split, dtype=str)
    if split.shape != (n_cells,):
        raise ScDMCError(f"split has shape {split.shape}; it needs one word for each of the {n_cells} cells")
    unknown = sorted(set(split) - set(PARTS))
    if unknown:
        raise ScDMCError(f"split: unknown words {', '.join(unknown[:3])}; there are {', '.join(PARTS)}")
    return split


def annotate(
    adata: "anndata.AnnData",
    model: str | Path | ScDMCPreTrainedModel,
    *,
    min_probability: float = 0.0,
    reference: "anndata.AnnData | None" = None,
    label_key: str = "cell_type",
    n_neighbors: int = N_NEIGHBORS,
    min_known_genes: float = MIN_KNOWN_GENES,
    **options: object,
) -> "anndata.AnnData":
    """Label cells, as ``annotate.py`` does.

    Parameters
    ----------
    adata
        Raw counts. It gets ``obs['scDMC_cell_type']``, ``obs['scDMC_probability']``, ``obs['scDMC_margin']`` and
        ``obsm['X_scDMC']``.
    model
        Folder of a classifier, or what :func:`scdmc.load` returned of one; with a reference any model, also the name of
        a shipped one.
    min_probability
        Less certain cells become Unknown.
    reference, label_key, n_neighbors
        Labelled cells whose nearest neighbours vote, instead of a classifier.
    min_known_genes
        Of the genes that the labelled cells had, the least share that ``adata`` needs
        (:func:`scdmc.cells.gene_coverage.require_known_genes`).
    options
        How the counts are read, also those of the reference: fields of :class:`scdmc.reading.options.CountOptions`
        (``layer``, ``gene_id_column``, ``gene_mapping_file``, ``allow_normalized``, ``recompute_totals``, ``species``,
        ``ortholog_file``). Which labels of the reference are types: ``ignore_labels`` and ``keep_labels`` of
        :class:`scdmc.options.LabelOptions`.

    Returns
    -------
    The same AnnData.

    Raises
    ------
    ScDMCError
        If the folder is no classifier, or the cells cannot be tokenized or have too few of the genes.
    """
    of_counts, of_labels = part_options("annotate", options, field_names(CountOptions), field_names(LabelOptions))
    counts = CountOptions(**of_counts)
    if of_labels and reference is None:
        raise ScDMCError(f"{next(iter(of_labels))} has no effect without reference; leave it out")
    model_directory = open_model(model)
    cells = tokenize(adata, model=model_directory, **asdict(counts))
    if reference is None:
        classifier = model_to_run(model_directory, ScDMCForCellClassification, place_model)
        annotator = classifier_annotator(classifier, model_directory.path)
    else:
        labelled = (reference, label_key, LabelOptions(**of_labels))
        annotator = _by_reference(model_directory, *labelled, n_neighbors, counts)
    _check_genes(adata, annotator, model_directory, counts, min_known_genes)
    probabilities, embeddings = annotator.annotate(cells)
    is_empty = cells.rank_lengths <= EMPTY_LENGTH
    columns = annotation_columns(annotator.names, probabilities, is_empty, min_probability)
    made = Provenance((), model_directory.path.name)
    with one_colour_per_type(annotator.names, {} if reference is None else label_colours_in(reference, label_key)):
        add_results(adata, _rows(cells), columns, {EMBEDDING_KEY: embeddings}, ForViewers(made))
    return adata


def embed(
    adata: "anndata.AnnData",
    model: str | Path | ScDMCPreTrainedModel,
    *,
    stream: str | None = None,
    pooling: str | None = None,
    layer: int | None = None,
    **count_options: object,
) -> "anndata.AnnData":
    """Embed cells, as ``embed.py`` does; no label is used.

    Parameters
    ----------
    adata
        Raw counts. It gets ``obsm['X_scDMC']``.
    model
        Model folder, name of a shipped model, or what :func:`scdmc.load` returned.
    stream, pooling, layer
        See :func:`scdmc.model.embeddings.cell_embeddings`.
    count_options
        How the counts are read; see :func:`annotate`.

    Returns
    -------
    The same AnnData.
    """
    options = count_options_of("embed", count_options)
    model_directory = open_model(model)
    cells = tokenize(adata, model=model_directory, **asdict(options))
    encoder = model_to_run(model_directory, ScDMCModel, place_model)
    embedding = cell_embeddings(encoder, cells, stream, pooling, layer=layer)
    made = Provenance((), model_directory.path.name)
    add_results(adata, _rows(cells), {}, {EMBEDDING_KEY: embedding}, ForViewers(made))
    return adata


def _by_reference(
    model_directory: ModelDirectory,
    reference: "anndata.AnnData",
    label_key: str,
    label_options: LabelOptions,
    n_neighbors: int,
    options: CountOptions,
) -> Annotator:
    if label_key not in reference.obs:
        raise ScDMCError(f"reference.obs has no column {label_key!r}; there are {sorted(reference.obs)}")
    cells = tokenize(reference, model=model_directory, obs_columns=[label_key], name="reference", **asdict(options))
    encoder = model_to_run(model_directory, ScDMCModel, place_model)
    labels, _ = type_labels(cells.obs[label_key], label_options)
    return reference_annotator(encoder, cells, labels, model_directory.vocabulary, n_neighbors=n_neighbors)


def _check_genes(
    adata: "anndata.AnnData",
    annotator: Annotator,
    model_directory: ModelDirectory,
    options: CountOptions,
    min_known_genes: float,
) -> None:
    """Say which genes of the labelled cells the data lack, and refuse data that lack too many."""
    match = tokenizer_of_model(model_directory, options).match(counts_of_adata(adata, **options.of_counts()))
    available = set(model_directory.vocabulary.tokens[match.token_ids[match.is_matched]])
    require_known_genes("adata", annotator.training_genes, available, min_known_genes)
    log_coverage("adata", 0.0, annotator.training_genes, available)


def _rows(cells: TokenizedCells) -> np.ndarray:
    return cells.obs[ROW_COLUMN].to_numpy()
