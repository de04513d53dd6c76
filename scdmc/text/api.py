"""Cells and texts in a notebook: what ``import scdmc`` offers of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cells.data import tokenizer_of_model
from scdmc.cells.results import add_results
from scdmc.cells.viewers import ForViewers
from scdmc.model.devices import place_model
from scdmc.options import field_names, part_options
from scdmc.reading.counts import counts_of_adata
from scdmc.reading.options import CountOptions
from scdmc.reports.provenance import Provenance
from scdmc.text.annotate_file import CELLS_KEY, FACTS_KEY, annotation_columns, annotation_facts, text_annotator
from scdmc.text.annotation import annotate_cells
from scdmc.text.candidates import read_candidates
from scdmc.text.encoders import MINILM, open_text_encoder
from scdmc.text.model import feature_maker, read_text_model
from scdmc.text.ontology import CellOntology
from scdmc.text.options import TextAnnotationOptions
from scdmc.text.query import query_of_counts
from scdmc.text.shipped import text_model_folder
from scdmc.tokens.tokenized_cells import ROW_COLUMN

if TYPE_CHECKING:
    import anndata


def annotate_by_text(
    adata: "anndata.AnnData",
    model: str | Path,
    types: str | Path | Sequence[str] | None = None,
    *,
    under: str | None = None,
    smooth: bool = True,
    max_none: float = 0.5,
    text_encoder: str | Path = MINILM,
    **options: object,
) -> "anndata.AnnData":
    """Label cells by words, as ``annotate_text.py`` does.

    Parameters
    ----------
    adata
        Raw counts. It gets ``obs['scDMC_text_type']``, ``obs['scDMC_text_cl_id']``, ``obs['scDMC_text_probability']``,
        ``obs['scDMC_none_of_these']``, ``obs['scDMC_second_type']``, ``obsm['X_scDMC_text']`` and
        ``uns['scDMC_text']``.
    model
        Folder of a text model (``text_pretrain.py``), or the name of a shipped one, such as ``scDMC-small-text``.
    types
        The candidates: a list of texts and ids, or ``"a; b; c"``, or a file with one a line.
    under
        Id of a term of the Cell Ontology, whose descendants are the candidates, in place of ``types``.
    smooth
        Whether cells share scores with their neighbours, where there are at least 50 cells.
    max_none
        Cells whose score of "none of these" is larger become Unknown.
    text_encoder
        For texts that the model was not trained on: ``minilm``, the file of its wheel, or a folder.
    options
        Fields of :class:`scdmc.text.options.TextAnnotationOptions` (``centre``, ``max_cells_smoothed``,
        ``standardise``, ``marker_weight``, ``seed``), and of :class:`scdmc.reading.options.CountOptions`, such as
        ``layer``.

    Returns
    -------
    The same AnnData. The labels of cells depend on the other cells that it holds.

    Raises
    ------
    ScDMCError
        If the folder is no text model, the candidates contradict each other, or the cells cannot be read.
    """
    of_texts, of_counts = part_options("annotate_by_text", options, OF_TEXTS, field_names(CountOptions))
    chosen = TextAnnotationOptions(smooth="auto" if smooth else "off", max_none=max_none, **of_texts)
    ontology, counts = CellOntology.load(), CountOptions(**of_counts)
    candidates = read_candidates(types, under, ontology)
    opened, model_directory = read_text_model(model)
    maker = feature_maker(opened, model_directory, place_model)
    annotator = text_annotator(
        text_model_folder(model), opened, maker, candidates, ontology, lambda: open_text_encoder(text_encoder), chosen
    )
    tokenizer = tokenizer_of_model(model_directory, counts)
    cells, query = query_of_counts(counts_of_adata(adata, **counts.of_counts()), tokenizer, model_directory, maker)
    result = annotate_cells(opened, query, annotator.candidates, annotator.vectors, annotator.others, annotator.options)
    viewers = ForViewers(Provenance((), Path(model).name, chosen.seed))
    rows = cells.obs[ROW_COLUMN].to_numpy()
    add_results(adata, rows, annotation_columns(result), {CELLS_KEY: result.cells}, viewers)
    adata.uns[FACTS_KEY] = annotation_facts(annotator, result)
    return adata


OF_TEXTS = ("centre", "max_cells_smoothed", "standardise", "marker_weight", "seed")
