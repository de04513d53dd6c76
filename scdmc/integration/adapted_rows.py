"""Rows of scDMC that was adapted to the cells, without their labels."""

import numpy as np

from scdmc.errors import ScDMCError
from scdmc.integration.adaptation import adapted_encoder
from scdmc.integration.options import IntegrationOptions
from scdmc.integration.row import OURS, Row, RowContext
from scdmc.model.embeddings import EMBEDDING_KEY, cell_embeddings

ADAPTED = "scDMC adapted"


def adapted_rows(options: IntegrationOptions) -> list[Row]:
    """The rows that ``options.adaptation`` asks for, none without it."""
    if options.adaptation is None:
        return []
    return [
        Row(
            ADAPTED,
            f"{EMBEDDING_KEY}_adapted",
            adapted,
            "The model after more pre-training on these cells; no label was read.",
            OURS,
            errors=(ScDMCError,),
        )
    ]


def adapted(context: RowContext) -> np.ndarray:
    """Embedding by the adapted encoder, shape (n_cells, n_dimensions); trained once a seed."""
    data, options = context.data, context.options
    encoder = context.once(
        "adapted encoder",
        lambda: adapted_encoder(
            context.model_directory,
            data.cells,
            data.batch,
            options.adaptation,
            context.seed,
            context.place,
            context.pca,
        ),
    )
    return cell_embeddings(encoder, data.cells, options.stream, options.pooling)
