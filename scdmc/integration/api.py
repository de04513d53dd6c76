"""The integration benchmark in a notebook, on an AnnData in memory."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from scdmc.cells.expression import log1p_cp10k, raw_counts
from scdmc.cells.from_adata import tokenize
from scdmc.cells.results import add_results
from scdmc.cells.scores import wide_metrics
from scdmc.files import require_new_folder
from scdmc.integration.options import IntegrationOptions
from scdmc.integration.results import draw_integration_results, write_integration_tables, write_page
from scdmc.integration.study import OBSM_KEYS, integration_data, mean_rows, run_benchmark, usable_cells
from scdmc.model.devices import place_model
from scdmc.model.encoder import ScDMCPreTrainedModel
from scdmc.model.loaded import open_model
from scdmc.reading.counts import counts_of_adata
from scdmc.reading.options import with_count_options
from scdmc.result_folders import keep_results, result_folder
from scdmc.tokens.tokenized_cells import ROW_COLUMN

if TYPE_CHECKING:
    import anndata


def integration_benchmark(
    adata: "anndata.AnnData",
    model: str | Path | ScDMCPreTrainedModel,
    *,
    batch_key: str = "batch",
    label_key: str = "cell_type",
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    **options: object,
) -> pd.DataFrame:
    """Compare embeddings of several batches, as ``integration.py`` does; labels serve for the scores only.

    Parameters
    ----------
    adata
        Raw counts, batches and labels. It gets the embeddings of the first seed: ``obsm['X_scDMC']``,
        ``obsm['X_pca']``, ``obsm['X_harmony']``, ...
    model
        Model folder, name of a shipped model, or what :func:`scdmc.load` returned, which stays as it is.
    batch_key, label_key
        Columns of obs.
    output_dir
        Folder for tables, figures and ``report.html``; nothing is written without it.
    overwrite
        Replace files in ``output_dir``.
    options
        How the counts are read: fields of :class:`scdmc.reading.options.CountOptions` (``layer``, ``gene_id_column``,
        ``gene_mapping_file``, ``allow_normalized``, ``recompute_totals``, ``species``, ``ortholog_file``). What is
        compared: fields of :class:`scdmc.integration.options.IntegrationOptions`, such as ``methods``, ``adaptation``
        (``AdaptationSettings(minutes=3)``, say), ``stream``, ``pooling``, ``resolution``, ``seeds``, ``full_scores``.

    Returns
    -------
    Scores, methods x metrics.

    Raises
    ------
    ScDMCError
        If a column is missing, the cells cannot be tokenized or scored, or a method's package is not installed.
    """
    keys = (batch_key, label_key)
    chosen, of_counts = with_count_options("integration_benchmark", options, IntegrationOptions)
    if output_dir is not None:
        require_new_folder(Path(output_dir), overwrite)
    model_directory = open_model(model)
    cells = tokenize(adata, model=model_directory, obs_columns=list(dict.fromkeys(keys)), **asdict(of_counts))
    usable = usable_cells(cells, model_directory, *keys)
    rows = cells.obs[ROW_COLUMN].to_numpy()
    counts = counts_of_adata(adata, **of_counts.of_counts())
    raw = raw_counts(counts)[rows] if "scvi" in chosen.methods else None
    data = integration_data("adata", cells, usable, keys, log1p_cp10k(counts)[rows], raw)
    runs = run_benchmark(data, model_directory, place_model, chosen)
    add_results(adata, rows[usable], {}, {OBSM_KEYS[m]: values for m, values in runs[0].embeddings.items()})
    if output_dir is not None:
        with result_folder(output_dir) as folder:
            write_integration_tables(folder, runs)
            keep_results(folder)
            write_page(folder, [draw_integration_results(folder, data, runs, keys)])
    return wide_metrics(pd.DataFrame(mean_rows(runs)))
