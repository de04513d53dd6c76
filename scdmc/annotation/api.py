"""Annotation in a notebook: what ``import scdmc`` offers beside tokens, on an AnnData in memory."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scdmc.annotation.annotators import Annotator, classifier_annotator, reference_annotator
from scdmc.annotation.cross_validation import RunPlan
from scdmc.annotation.options import FINE_TUNED, N_NEIGHBORS, ClassifierOptions
from scdmc.annotation.prediction import EMPTY_LENGTH, annotation_columns
from scdmc.annotation.results import write_fine_tuning_results
from scdmc.annotation.runs import describe_settings, fine_tuned_run, save_classifier
from scdmc.cells.data import tokenizer_of_model
from scdmc.cells.from_adata import tokenize
from scdmc.cells.gene_coverage import log_coverage
from scdmc.cells.results import add_results
from scdmc.cells.splits import PARTS, make_split, require_usable_split
from scdmc.errors import ScDMCError
from scdmc.files import require_new_folder
from scdmc.labels import labels_of
from scdmc.model.devices import place_model
from scdmc.model.embeddings import EMBEDDING_KEY, cell_embeddings
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import open_model_directory
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.model.shipped import model_folder
from scdmc.model.storage import load_model, model_card
from scdmc.reading.counts import counts_of_adata
from scdmc.reading.options import CountOptions
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizedCells

if TYPE_CHECKING:
    import anndata

logger = logging.getLogger(__name__)


def fine_tune(
    adata: "anndata.AnnData",
    model: str | Path,
    *,
    label_key: str,
    output_dir: str | Path,
    split: Sequence[str] | None = None,
    split_by: str | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    min_cells_per_type: int = 10,
    stream: str = "both",
    pooling: str = "cls",
    seed: int = 42,
    overwrite: bool = False,
    layer: str | None = None,
    **settings: object,
) -> pd.DataFrame:
    """Fine-tune a pre-trained model on labelled cells, as ``downstream_tasks.py`` does, without the baselines.

    Parameters
    ----------
    adata
        Raw counts and labels; not changed.
    model
        Folder of a pre-trained model, or the name of a shipped one.
    label_key
        Column of obs with the types.
    output_dir
        Folder for the classifier, its scores, figures and ``report.html``.
    split
        ``train``, ``validation``, ``test`` or ``left_out`` for each cell; drawn without it.
    split_by, validation_fraction, test_fraction, min_cells_per_type
        How it is drawn (:func:`scdmc.cells.splits.make_split`); ``split_by`` is a column of obs.
    stream, pooling
        What the classifier reads: ``rank``, ``expression`` or ``both``; ``cls``, ``mean`` or ``weighted``.
    seed
        Of the split and of the training.
    overwrite
        Replace files in ``output_dir``.
    layer
        Where the raw counts are (:func:`scdmc.reading.counts.counts_of_adata`).
    settings
        Fields of :class:`scdmc.annotation.options.FineTuningSettings`, such as ``epochs`` or ``classifier_start``;
        others are chosen for the number of cells.

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
    model_directory = open_model_directory(model)
    columns = [label_key] + ([split_by] if split_by else [])
    cells = tokenize(adata, model_path=model, obs_columns=columns, layer=layer)
    labels = labels_of(cells.obs[label_key])
    if split is None:
        groups = cells.obs[split_by].to_numpy(dtype=object) if split_by else None
        split = make_split(labels, groups, validation_fraction, test_fraction, min_cells_per_type, seed)
    else:
        split = _require_parts(split, adata.n_obs)[_rows(cells)]
    require_usable_split(labels, split, cells.obs)
    options = ClassifierOptions(stream, pooling, settings=settings)
    run = fine_tuned_run(model_directory, cells, labels, RunPlan(f"seed_{seed}", seed, split), options, place_model)
    facts = {
        "pre-trained model": Path(model).name,
        "seed": seed,
        "settings": describe_settings(run.settings),
        "best epoch": run.best_epoch_text,
    }
    table = write_fine_tuning_results(output_dir, [run], [{FINE_TUNED: run.predicted}], None, facts)
    command = ["scdmc.fine_tune(adata,", f"{Path(model).name!r},", f"label_key={label_key!r},", "...)"]
    card = model_card("scDMC, fine-tuned for cell types", facts, table.loc[FINE_TUNED].to_dict(), command)
    save_classifier(output_dir, run, model_directory, card)
    return table


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
    model: str | Path,
    *,
    min_probability: float = 0.0,
    reference: "anndata.AnnData | None" = None,
    label_key: str = "cell_type",
    n_neighbors: int = N_NEIGHBORS,
    layer: str | None = None,
) -> "anndata.AnnData":
    """Label cells, as ``annotate.py`` does.

    Parameters
    ----------
    adata
        Raw counts. It gets ``obs['scDMC_cell_type']``, ``obs['scDMC_probability']``, ``obs['scDMC_margin']`` and
        ``obsm['X_scDMC']``.
    model
        Folder of a classifier; with a reference, of any model, or the name of a shipped one.
    min_probability
        Less certain cells become Unknown.
    reference, label_key, n_neighbors
        Labelled cells whose nearest neighbours vote, instead of a classifier.
    layer
        Where the raw counts are.

    Returns
    -------
    The same AnnData.

    Raises
    ------
    ScDMCError
        If the folder is no classifier, or the cells cannot be tokenized.
    """
    cells = tokenize(adata, model_path=model, layer=layer)
    if reference is None:
        classifier = place_model(load_model(model, ScDMCForCellClassification))
        annotator = classifier_annotator(classifier, model_folder(model))
    else:
        annotator = _by_reference(model, reference, label_key, n_neighbors, layer)
    _log_genes(adata, annotator, model, layer)
    probabilities, embeddings = annotator.annotate(cells)
    is_empty = cells.rank_lengths <= EMPTY_LENGTH
    columns = annotation_columns(annotator.names, probabilities, is_empty, min_probability)
    add_results(adata, _rows(cells), columns, {EMBEDDING_KEY: embeddings})
    return adata


def embed(
    adata: "anndata.AnnData",
    model: str | Path,
    *,
    stream: str = "both",
    pooling: str = "cls",
    layer: str | None = None,
) -> "anndata.AnnData":
    """Embed cells, as ``embed.py`` does; no label is used.

    Parameters
    ----------
    adata
        Raw counts. It gets ``obsm['X_scDMC']``.
    model
        Model folder, or the name of a shipped model.
    stream, pooling
        See :func:`scdmc.model.embeddings.cell_embeddings`.
    layer
        Where the raw counts are.

    Returns
    -------
    The same AnnData.
    """
    cells = tokenize(adata, model_path=model, layer=layer)
    encoder = place_model(load_model(model, ScDMCModel))
    add_results(adata, _rows(cells), {}, {EMBEDDING_KEY: cell_embeddings(encoder, cells, stream, pooling)})
    return adata


def _by_reference(
    model: str | Path, reference: "anndata.AnnData", label_key: str, n_neighbors: int, layer: str | None
) -> Annotator:
    if label_key not in reference.obs:
        raise ScDMCError(f"reference.obs has no column {label_key!r}; there are {sorted(reference.obs)}")
    cells = tokenize(reference, model_path=model, obs_columns=[label_key], layer=layer, name="reference")
    encoder = place_model(load_model(model, ScDMCModel))
    vocabulary = open_model_directory(model).vocabulary
    return reference_annotator(encoder, cells, labels_of(cells.obs[label_key]), vocabulary, n_neighbors=n_neighbors)


def _log_genes(adata: "anndata.AnnData", annotator: Annotator, model: str | Path, layer: str | None) -> None:
    """Say which genes of the training cells the data lack."""
    model_directory = open_model_directory(model)
    match = tokenizer_of_model(model_directory, CountOptions()).match(counts_of_adata(adata, layer))
    available = set(model_directory.vocabulary.tokens[match.token_ids[match.is_matched]])
    log_coverage("adata", 0.0, annotator.training_genes, available)


def _rows(cells: TokenizedCells) -> np.ndarray:
    return cells.obs[ROW_COLUMN].to_numpy()
