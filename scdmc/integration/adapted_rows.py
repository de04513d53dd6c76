"""Rows of scDMC that is adapted to the cells, without their labels, and their controls without scDMC.

Source: docs/method.md, "Adaptation without labels".
"""

from collections.abc import Callable

import numpy as np

from scdmc.errors import ScDMCError
from scdmc.integration.adaptation import adapted_encoder, mutual_neighbours
from scdmc.integration.contrastive_head import contrastive_head
from scdmc.integration.joining import joined
from scdmc.integration.methods import harmony
from scdmc.integration.options import IntegrationOptions
from scdmc.integration.row import CONTROL, OURS, Row, RowContext
from scdmc.model.embeddings import EMBEDDING_KEY, cell_embeddings
from scdmc.model.encoder import ScDMCModel

ADAPTED = "scDMC adapted"


HEAD_CONTROL = "head without scDMC (control)"


Embed = Callable[[RowContext], np.ndarray]


def adapted_rows(options: IntegrationOptions) -> list[Row]:
    """The rows that ``options.head``, ``options.joined`` and ``options.adaptation`` ask for, none without them."""
    rows, encoders = [], [("scDMC", EMBEDDING_KEY, zero_shot)]
    if options.adaptation is not None:
        key, meaning = (
            f"{EMBEDDING_KEY}_adapted",
            "The model after more pre-training on these cells; no label was read.",
        )
        rows.append(Row(ADAPTED, key, adapted, meaning, OURS, errors=(ScDMCError,)))
        encoders.append((ADAPTED, key, adapted))
    for name, key, embed in encoders if options.joined else ():
        meaning = f"{name} joined with the principal components, then Harmony; its control is Harmony."
        rows.append(
            Row(f"{name} + PCs, Harmony", f"{key}_joined", _joined_with_pca(embed), meaning, OURS, is_integrated=True)
        )
    for name, key, embed in encoders if options.head is not None else ():
        meaning = (
            f"{name}, principal components and a linear layer on both that draws mutual neighbours of two batches "
            "together, joined, then Harmony; no label was read."
        )
        rows.append(Row(f"{name} head", f"{key}_head", _with_head(embed), meaning, OURS, is_integrated=True))
    if options.head is not None:
        meaning = "The same layer on principal components alone: what scDMC adds is the difference."
        rows.append(Row(HEAD_CONTROL, "X_pca_head", _with_head(None), meaning, CONTROL, is_integrated=True))
    return rows


def _embedding(context: RowContext, encoder: ScDMCModel) -> np.ndarray:
    options = context.options
    return cell_embeddings(encoder, context.data.cells, options.stream, options.pooling, layer=options.layer)


def zero_shot(context: RowContext) -> np.ndarray:
    """Embedding by the model as it is, shape (n_cells, n_dimensions)."""
    return context.once("zero-shot", lambda: _embedding(context, context.encoder()), has_seed=False)


def adapted(context: RowContext) -> np.ndarray:
    """Embedding by the adapted encoder, shape (n_cells, n_dimensions); trained once a seed."""
    data, options = context.data, context.options

    def embed() -> np.ndarray:
        encoder = adapted_encoder(
            context.model_directory,
            data.cells,
            data.batch,
            options.adaptation,
            context.seed,
            context.place,
            context.pca,
        )
        return _embedding(context, encoder)

    return context.once("adapted", embed)


def _joined_with_pca(embed: Embed) -> Embed:
    def joined_with_pca(context: RowContext) -> np.ndarray:
        return harmony(joined([context.pca, embed(context)]), context.data.batch, context.seed)

    return joined_with_pca


def _with_head(embed: Embed | None) -> Embed:
    """Components, the embedding if there is one, and the head on them, joined, then Harmony."""

    def with_head(context: RowContext) -> np.ndarray:
        batch, settings, seed = context.data.batch, context.options.head, context.seed
        features = context.pca if embed is None else joined([context.pca, embed(context)])
        integrated = context.once("harmony", lambda: harmony(context.pca, batch, seed))
        pairs = context.once(
            ("pairs", settings.neighbors),
            lambda: mutual_neighbours(integrated, batch, settings.neighbors, centre_batches=False),
        )
        return harmony(joined([features, contrastive_head(features, pairs, batch, settings, seed)]), batch, seed)

    return with_head
