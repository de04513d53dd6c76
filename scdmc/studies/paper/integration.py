"""Clustering and integration of the paper's data sets: our rows beside all baselines, one embedding for both tasks."""

import logging
from dataclasses import replace

import numpy as np

from scdmc.cells.options import OwnEmbeddings
from scdmc.errors import ScDMCError
from scdmc.integration.data import read_integration_data
from scdmc.integration.options import METHODS, PACKAGES, PUBLISHED, HeadSettings, IntegrationOptions, require_packages
from scdmc.integration.row import Place, RowContext
from scdmc.integration.rows import SCDMC
from scdmc.integration.scoring import score_embedding
from scdmc.integration.study import require_runnable
from scdmc.model.folder import ModelDirectory
from scdmc.studies.paper.data import PaperFile
from scdmc.studies.paper.options import (
    DEFAULT,
    INTEGRATION,
    PUBLISHED_SETTING,
    PUBLISHED_STATES,
    PaperOptions,
)
from scdmc.studies.paper.rows import PaperRows

logger = logging.getLogger(__name__)


KEYS = ("batch", "cell_type")


# The registry's names of our rows -> their names in the paper's tables.
OURS = {SCDMC: PUBLISHED_SETTING, "scDMC head": DEFAULT}


TINY_HEAD, TINY_EPOCHS = HeadSettings(steps=5, batch_size=32), 1


def integration_options(options: PaperOptions) -> IntegrationOptions:
    """All methods whose packages are installed, those of the others named in the log."""
    installed = []
    for method in METHODS:
        try:
            require_packages([method])
        except ScDMCError:
            logger.warning("warning: no row of %s: pip install %s", method, PACKAGES[method][1])
            continue
        installed.append(method)
    return IntegrationOptions(
        methods=tuple(installed),
        head=(TINY_HEAD if options.tiny else HeadSettings()),
        protocols=(PUBLISHED,),
        seeds=options.seeds,
        scvi_epochs=TINY_EPOCHS if options.tiny else None,
    )


def add_integration_rows(
    file: PaperFile, model_directory: ModelDirectory, place: Place, options: PaperOptions, rows: PaperRows
) -> None:
    """Compute what is missing of the rows of a data set, one method and seed after the other.

    A method that fails, as packages of others may, does not take the others with it.

    Parameters
    ----------
    file
        The data set.
    model_directory, place
        The pre-trained model, and what puts it onto its device.
    options
        What is run.
    rows
        Get the scores.

    Raises
    ------
    ScDMCError
        If the cells cannot be integrated or scored, or the model saw labels.
    """
    chosen = integration_options(options)
    has_counts = "scvi" in chosen.methods
    data = read_integration_data(file.path, file.name, model_directory, KEYS, file.counts, has_counts, OwnEmbeddings())
    methods, for_all_seeds, for_published = require_runnable(data, model_directory, chosen), {}, {}
    for seed in options.seeds:
        by_default = RowContext(data, model_directory, place, chosen, seed, for_all_seeds)
        # What is kept for all seeds has names that say nothing of streams: two settings must not share it.
        as_published = replace(chosen, **PUBLISHED_STATES)
        published = RowContext(data, model_directory, place, as_published, seed, for_published)
        for row in methods:
            context = published if row.name == SCDMC else by_default
            name = OURS.get(row.name, row.name)
            if rows.is_done(file.name, name, seed):
                continue
            logger.info("%s: %s, seed %d", file.name, name, seed)
            try:
                embedding = np.asarray(row.embedding(context), dtype=np.float32)
            except row.errors as error:
                why = (str(error).splitlines() or [type(error).__name__])[0]
                rows.add_failure(file.name, name, seed, why)
                logger.warning("warning: %s failed on %s: %s", name, file.name, why)
                continue
            scores = score_embedding(row, embedding, context).scores[PUBLISHED]
            rows.add(file.name, name, seed, INTEGRATION, {name: scores})
