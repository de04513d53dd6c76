"""Annotation in a notebook: ``scdmc.annotate`` by a reference's views, its neighbours, or a classifier's folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.annotation import api as annotation_api
from scdmc.annotation.options import N_NEIGHBORS
from scdmc.cells.data import tokenizer_of_model
from scdmc.cells.options import MIN_KNOWN_GENES
from scdmc.cells.results import add_results
from scdmc.cells.shared_genes import GeneKeys, read_cell_counts
from scdmc.cells.viewers import ForViewers
from scdmc.errors import ScDMCError
from scdmc.model.devices import place_model
from scdmc.model.encoder import ScDMCModel, ScDMCPreTrainedModel
from scdmc.model.folder import ModelDirectory
from scdmc.model.loaded import model_to_run, open_model
from scdmc.options import LabelOptions, field_names, part_options
from scdmc.reading.counts import counts_of_adata
from scdmc.reading.label_colours import label_colours_in
from scdmc.reading.options import CountOptions
from scdmc.reports.colours import one_colour_per_type
from scdmc.reports.provenance import Provenance
from scdmc.views.fine_tuned import FineTuner
from scdmc.views.new_cells import label_by_fitted, label_new_cells
from scdmc.views.options import AUTO, METHODS, SHIPPED_MODEL, ViewOptions
from scdmc.views.pair import read_pair, require_views
from scdmc.views.results import result_columns, result_matrices
from scdmc.views.storage import is_view_classifier, read_fitted_reference

if TYPE_CHECKING:
    import anndata


def annotate(
    adata: "anndata.AnnData",
    model: str | Path | ScDMCPreTrainedModel | None = None,
    *,
    reference: "anndata.AnnData | None" = None,
    label_key: str = "cell_type",
    method: str | None = None,
    min_probability: float | str = 0.0,
    n_neighbors: int = N_NEIGHBORS,
    min_known_genes: float | None = None,
    **options: object,
) -> "anndata.AnnData":
    """Label cells, as ``annotate.py`` does.

    Parameters
    ----------
    adata
        Raw counts. It gets ``obs['scDMC_cell_type']``, ``obs['scDMC_probability']``, ``obs['scDMC_margin']`` and
        ``obsm['X_scDMC']``; by views also ``obs['scDMC_second_label']``, ``obs['scDMC_familiarity']``,
        ``obs['scDMC_distance']``, a column ``scDMC_view_...`` for each view, and ``obsm['X_umap']``.
    model
        Folder of a classifier, or what :func:`scdmc.load` returned of one; with a reference any model, also the name of
        a shipped one, and ``scDMC-small`` without it.
    reference, label_key
        Labelled cells, and the column of their obs with the types.
    method
        With a reference: ``views`` (:mod:`scdmc.views`; the default) or ``neighbours``, whose votes need no training.
    min_probability
        Less certain cells become Unknown; by views ``"auto"`` means cells that are less familiar than the reference
        recommends.
    n_neighbors
        Voters, by ``neighbours``.
    min_known_genes
        Of the genes that the labelled cells had, the least share that ``adata`` needs; 0.3 without it. Views of a
        reference are fitted on the genes that both have.
    options
        By views: ``views``, ``batch_key`` and ``seed`` of :class:`scdmc.views.options.ViewOptions`. How the counts are
        read, also those of the reference: fields of :class:`scdmc.reading.options.CountOptions` (``layer``,
        ``gene_id_column``, ``gene_mapping_file``, ``allow_normalized``, ``recompute_totals``, ``species``,
        ``ortholog_file``). Which labels of the reference are types: ``ignore_labels`` and ``keep_labels`` of
        :class:`scdmc.options.LabelOptions`.

    Returns
    -------
    The same AnnData.

    Raises
    ------
    ScDMCError
        If the folder is no classifier, the cells cannot be read, or the reference shares too few genes.
    """
    groups = (VIEW_OPTIONS, field_names(CountOptions), field_names(LabelOptions))
    of_views, of_counts, of_labels = part_options("annotate", options, *groups)
    if method is not None and (reference is None or method not in METHODS):
        raise ScDMCError(f"annotate: method={method!r} is for a reference, and one of {', '.join(METHODS)}")
    if reference is None and model is None:
        raise ScDMCError("annotate: give a labelled reference, or the folder of a classifier as model")
    opened = open_model(SHIPPED_MODEL if model is None else model)
    threshold = None if min_probability == AUTO else min_probability
    counts = CountOptions(**of_counts)
    if method != "neighbours" and (reference is not None or is_view_classifier(opened.path)):
        _require_effect(reference, of_labels, min_known_genes)
        of_views["label_options"] = LabelOptions(**of_labels)
        if min_known_genes is not None:
            of_views["min_known_genes"] = min_known_genes
        chosen = ViewOptions(label_key=label_key, min_probability=threshold, **of_views)
        return _by_views(adata, opened, reference, chosen, counts)
    if of_views or threshold is None:
        given = ", ".join([*of_views, *(["min_probability='auto'"] if threshold is None else [])])
        raise ScDMCError(f"annotate: {given} has no effect without views; leave it out")
    return annotation_api.annotate(
        adata,
        opened if model is None or isinstance(model, str | Path) else model,
        min_probability=threshold,
        reference=reference,
        label_key=label_key,
        n_neighbors=n_neighbors,
        min_known_genes=MIN_KNOWN_GENES if min_known_genes is None else min_known_genes,
        **of_counts,
        **of_labels,
    )


VIEW_OPTIONS = ("views", "batch_key", "seed")


def _require_effect(
    reference: "anndata.AnnData | None", of_labels: Mapping[str, object], min_known_genes: float | None
) -> None:
    """Refuse options by views that would do nothing."""
    if of_labels and reference is None:
        raise ScDMCError(f"{next(iter(of_labels))} has no effect without reference; leave it out")
    if min_known_genes is not None and reference is not None:
        raise ScDMCError("min_known_genes has no effect by views of a reference, which fit on the shared genes")


def _by_views(
    adata: "anndata.AnnData",
    model_directory: ModelDirectory,
    reference: "anndata.AnnData | None",
    options: ViewOptions,
    count_options: CountOptions,
) -> "anndata.AnnData":
    require_views(options.views)
    tokenizer = tokenizer_of_model(model_directory, count_options)
    new = counts_of_adata(adata, **count_options.of_counts())
    encoder = model_to_run(model_directory, ScDMCModel, place_model)
    if reference is None:
        fitted = read_fitted_reference(model_directory.path, encoder, tokenizer)
        of_new = read_cell_counts(new, GeneKeys.of(new, tokenizer))
        cells = label_by_fitted(fitted, of_new, options)
    else:
        of_reference = counts_of_adata(reference, name="reference", **count_options.of_counts())
        of_new, *labelled_cells = read_pair(new, of_reference, tokenizer, options)
        fine_tuner = FineTuner(model_directory, encoder, options.seed)
        cells, _ = label_new_cells(of_new, *labelled_cells, fine_tuner, tokenizer, options)
    viewers = ForViewers(Provenance((), model_directory.path.name, options.seed))
    with one_colour_per_type(cells.names, {} if reference is None else label_colours_in(reference, options.label_key)):
        add_results(adata, of_new.rows, result_columns(cells), result_matrices(cells), viewers)
    return adata
