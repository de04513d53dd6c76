"""Which stream, pooling and layer make the best embedding of a cell: every choice, scored as integrations are."""

from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd

from scdmc.integration.comparison import compare_integrations
from scdmc.model.embeddings import EmbeddingChoice
from scdmc.model.encoder import ScDMCModel
from scdmc.model.poolings import columns_of_stream, pooled_states
from scdmc.options import POOLINGS, STREAMS
from scdmc.tokens.tokenized_cells import TokenizedCells


def embedding_choices(n_layers: int) -> list[EmbeddingChoice]:
    """All choices for an encoder; ``<cls>`` before the first layer is the same for each cell and left out."""
    choices = (EmbeddingChoice(*choice) for choice in product(range(n_layers + 1), STREAMS, POOLINGS))
    return [choice for choice in choices if choice.layer or choice.pooling != "cls"]


def embeddings_of_choices(
    encoder: ScDMCModel, cells: TokenizedCells, show_progress: bool = True
) -> dict[EmbeddingChoice, np.ndarray]:
    """Embed cells in every way, in one pass through the encoder.

    Parameters
    ----------
    encoder
        The encoder, on the device where the work is to be done; dropout is switched off meanwhile.
    cells
        The cells, as long as the model reads them.
    show_progress
        Whether to show a progress bar.

    Returns
    -------
    Choice -> float32 of shape (n_cells, hidden_size), or (n_cells, 2 hidden_size) for both streams.
    """
    n_layers, hidden_size = encoder.config.num_hidden_layers, encoder.config.hidden_size
    joined = pooled_states(encoder, cells, "embed" if show_progress else None)
    return {
        choice: joined[choice.layer, choice.pooling][:, columns_of_stream(choice.stream, hidden_size)]
        for choice in embedding_choices(n_layers)
    }


def score_choices(
    embeddings: Mapping[EmbeddingChoice, np.ndarray],
    labels: np.ndarray,
    batch: np.ndarray,
    resolution: float = 0.2,
    seed: int = 42,
) -> pd.DataFrame:
    """Scores of every choice by :func:`scdmc.integration.comparison.compare_integrations`: choices x metrics.

    Parameters
    ----------
    embeddings
        Choice -> shape (n_cells, n_dimensions).
    labels, batch
        Shape (n_cells,); cells without a label count nowhere.
    resolution
        Of Leiden.
    seed
        Of neighbours and Leiden.

    Raises
    ------
    ScDMCError
        As :func:`scdmc.integration.comparison.compare_integrations`.
    """
    results = compare_integrations(embeddings, labels, batch, resolution, seed=seed)
    return pd.DataFrame({choice: result.scores for choice, result in results.items()}).T


def confirmation(tables: Mapping[str, pd.DataFrame], default: EmbeddingChoice) -> list[str]:
    """Lines that name the choice which is best on the first data set, and what it and the default are on each.

    Parameters
    ----------
    tables
        Data set -> result of :func:`score_choices`.
    default
        The choice to compare with.
    """
    first = next(iter(tables))
    best = tables[first]["overall"].idxmax()
    lines = [f"best on {first}: {best}"]
    for name, table in tables.items():
        places = table["overall"].rank(ascending=False, method="min").astype(int)
        for what, choice in (("it", best), ("the default", default)):
            lines.append(
                f"{name}: {what} ({choice}) has {table.loc[choice, 'overall']:.3f}, "
                f"place {places[choice]} of {len(table)}"
            )
    return lines
