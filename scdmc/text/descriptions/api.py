"""Descriptions in a notebook: what ``import scdmc`` offers of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.errors import ScDMCError
from scdmc.model.devices import place_model
from scdmc.options import field_names, part_options
from scdmc.reading.counts import counts_of_adata
from scdmc.reading.options import CountOptions
from scdmc.text.annotate_file import text_annotator
from scdmc.text.descriptions.describe_file import description_table, read_described_counts
from scdmc.text.descriptions.options import FACTS, DescriptionOptions, require_style
from scdmc.text.descriptions.types import types_and_options
from scdmc.text.encoders import MINILM, open_text_encoder
from scdmc.text.model import feature_maker, read_text_model
from scdmc.text.ontology import CellOntology
from scdmc.text.options import TextAnnotationOptions
from scdmc.text.shipped import text_model_folder

if TYPE_CHECKING:
    import anndata
    import pandas as pd

OF_TEXTS = ("centre", "smooth", "standardise", "max_none", "max_cells_smoothed", "seed")


def describe(
    adata: "anndata.AnnData",
    model: str | Path,
    group_key: str | None = None,
    *,
    types: str | Path | Sequence[str] | None = None,
    under: str | None = None,
    max_cells: int | None = None,
    style: str = FACTS,
    text_encoder: str | Path = MINILM,
    **options: object,
) -> "pd.DataFrame":
    """Put cells, or groups of cells, into words, as ``describe.py`` does.

    Parameters
    ----------
    adata
        Raw counts. It is not changed.
    model
        Folder of a text model (``text_pretrain.py``), or the name of a shipped one, such as ``scDMC-small-text``.
    group_key
        Column of obs whose groups are described; each cell by itself without it.
    types, under
        The types that are looked for, as :func:`scdmc.annotate_by_text` takes them; without them those that the model
        was trained on.
    max_cells
        Most cells that are described, drawn by ``seed``.
    style
        ``facts``, or ``language_model`` for the captions of a text model of stage 2.
    text_encoder
        For texts that the model was not trained on: ``minilm``, the file of its wheel, or a folder.
    options
        Fields of :class:`scdmc.text.options.TextAnnotationOptions` (``centre``, ``smooth``, ``standardise``,
        ``max_none``, ``max_cells_smoothed``, ``seed``), and of :class:`scdmc.reading.options.CountOptions`, such as
        ``layer``.

    Returns
    -------
    A row for each cell or group: its name, the text, type, cl_id, probability, genes.

    Raises
    ------
    ScDMCError
        If the folder is no text model, the cells cannot be read, or the column of groups holds none or too many.
    """
    if group_key is not None and max_cells is not None:
        raise ScDMCError("max_cells counts cells, and group_key describes groups, which are described whole")
    of_texts, of_counts = part_options("describe", options, OF_TEXTS, field_names(CountOptions))
    ontology, counts, wanted = (
        CellOntology.load(),
        CountOptions(**of_counts),
        DescriptionOptions(group_key, max_cells, style),
    )
    require_style(style, text_model_folder(model))
    opened, model_directory = read_text_model(model)
    chosen = TextAnnotationOptions(**of_texts)
    candidates, chosen = types_and_options(types, under, opened, ontology, chosen)
    maker = feature_maker(opened, model_directory, place_model)
    annotator = text_annotator(
        text_model_folder(model), opened, maker, candidates, ontology, lambda: open_text_encoder(text_encoder), chosen
    )
    found = read_described_counts(counts_of_adata(adata, **counts.of_counts()), annotator, counts, wanted.columns)
    cells, query, totals = found
    return description_table(cells, query, totals, (annotator, ontology), wanted)
