"""Labelled cells that judge a model while it is pre-trained."""

from pathlib import Path

import numpy as np

from scdmc.annotation.probing import probe_scores
from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import require_same_vocabulary
from scdmc.labels import type_labels
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.encoder import ScDMCModel
from scdmc.tokens.parquet import parquet_files, read_settings, read_tokenized
from scdmc.tokens.tokenized_cells import TokenizationSettings, TokenizedCells


class FrozenProbe:
    """A linear probe of the frozen encoder: how well it tells apart the types of labelled cells.

    The labels are never trained on. Nothing is drawn but the splits of the probe, which have a seed of their own, so
    that a run with a probe trains the same weights as one without.

    Parameters
    ----------
    cells
        Labelled cells, as long as the model reads them.
    labels
        Shape (n_cells,).
    seed
        Of the splits.
    """

    def __init__(self, cells: TokenizedCells, labels: np.ndarray, seed: int) -> None:
        self.cells = cells
        self.labels = labels
        self.seed = seed

    def __call__(self, encoder: ScDMCModel) -> dict[str, float]:
        """Mean scores over the splits of the probe (:func:`scdmc.annotation.probing.probe_scores`)."""
        embedding = cell_embeddings(encoder, self.cells, "both", "weighted", show_progress=False)
        return probe_scores(embedding, self.labels, seed=self.seed)


def read_frozen_probe(path: Path, label_key: str, settings: TokenizationSettings, seed: int) -> FrozenProbe:
    """The cells of tokenized parquet that have a label.

    Parameters
    ----------
    path
        Tokenized parquet with the column ``label_key``.
    label_key
        Column of obs with the types.
    settings
        How the cells that are trained on were tokenized; those of the probe must be, too.
    seed
        Of the splits.

    Raises
    ------
    ScDMCError
        If the cells were tokenized otherwise, or have no two types.
    """
    found = read_settings(parquet_files(path))
    if found is None:
        raise ScDMCError(f"{path} does not say how it was tokenized; tokenize it with scDMC")
    require_same_vocabulary(settings.vocabulary_sha256, found.vocabulary_sha256, "the training data", str(path))
    if found.gene_medians_sha256 != settings.gene_medians_sha256:
        raise ScDMCError(
            f"{path} was tokenized with other gene medians than the training data; tokenize it with theirs"
        )
    context = min(settings.model_input_size, found.model_input_size)
    cells = read_tokenized(path, [label_key], context)
    labels = type_labels(cells.obs[label_key])[0]
    has_label = np.array([label is not None for label in labels])
    if len(set(labels[has_label])) < 2:
        raise ScDMCError(f"{path}: obs[{label_key!r}] holds no two types; a probe has nothing to tell apart")
    return FrozenProbe(cells.select(has_label), labels[has_label], seed)
