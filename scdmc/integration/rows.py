"""The registry of the integration benchmark: which rows there are. A new method is one more :class:`Row` here."""

import numpy as np

from scdmc.errors import ScDMCError
from scdmc.integration.adapted_rows import adapted_rows, zero_shot
from scdmc.integration.data import IntegrationData
from scdmc.integration.methods import harmony, scanorama, scvi
from scdmc.integration.options import IntegrationOptions
from scdmc.integration.row import OURS, OWN, STANDARD, Row, RowContext
from scdmc.model.embeddings import EMBEDDING_KEY
from scdmc.model.folder import ModelDirectory
from scdmc.model.storage import saw_labels

SCDMC, SAW_LABELS = "scDMC zero-shot", "scDMC fine-tuned (saw labels)"


PCA, HARMONY, SCVI, SCANORAMA = "PCA, not integrated", "Harmony", "scVI", "Scanorama"


def _scvi(context: RowContext) -> np.ndarray:
    data, options = context.data, context.options
    return scvi(data.counts, data.expression, data.batch, context.seed, options.scvi_epochs, options.scvi_accelerator)


STANDARD_ROWS = {
    "pca": Row(
        PCA,
        "X_pca",
        lambda context: context.pca,
        "50 principal components of 2,000 variable genes.",
        STANDARD,
        has_seed=False,
    ),
    "harmony": Row(
        HARMONY,
        "X_harmony",
        lambda context: harmony(context.pca, context.data.batch, context.seed),
        "The principal components, corrected for batch (Korsunsky et al. 2019).",
    ),
    "scvi": Row(SCVI, "X_scVI", _scvi, "Latent space of a variational autoencoder of the counts (Lopez et al. 2018)."),
    "scanorama": Row(
        SCANORAMA,
        "X_scanorama",
        lambda context: scanorama(context.data.expression, context.data.batch, context.seed),
        "Variable genes, batches aligned by mutual neighbours (Hie et al. 2019).",
    ),
}


def rows_of(options: IntegrationOptions, model_directory: ModelDirectory, data: IntegrationData) -> list[Row]:
    """The rows that the options ask for, in the order of the tables: ours, standard methods, the user's own.

    Raises
    ------
    ScDMCError
        If two rows have one name.
    """
    ours = adapted_rows(options)
    if "scdmc" in options.methods:
        ours.insert(0, _row_of_model(model_directory))
    if options.harmony:
        without = {row.name: row for row in ours if row.kind == OURS and not row.is_integrated}
        ours = [row for first in ours for row in ([first, first.with_harmony()] if first.name in without else [first])]
    standard = [row for name, row in STANDARD_ROWS.items() if name in options.methods]
    rows = [*ours, *standard, *_own_rows(data)]
    names = [row.name for row in rows]
    for name in data.own:
        if names.count(name) > 1:
            raise ScDMCError(f"embedding {name!r} has the name of a method of this benchmark; give it another name")
    return rows


def _row_of_model(model_directory: ModelDirectory) -> Row:
    if saw_labels(model_directory):
        meaning = "A classifier's encoder: it was trained with labels, if of other cells, and is no fair rival."
        return Row(SAW_LABELS, EMBEDDING_KEY, zero_shot, meaning, OURS, False, saw_labels=True, errors=(ScDMCError,))
    meaning = "The pre-trained model as it is."
    return Row(SCDMC, EMBEDDING_KEY, zero_shot, meaning, OURS, has_seed=False, errors=(ScDMCError,))


def _own_rows(data: IntegrationData) -> list[Row]:
    return [
        Row(
            name,
            None if name in data.in_file else f"X_{name.removeprefix('X_')}",
            lambda context, name=name: context.data.own[name],
            "An embedding that you gave.",
            OWN,
            has_seed=False,
        )
        for name in data.own
    ]
