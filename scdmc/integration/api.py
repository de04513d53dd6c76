"""The integration benchmark in a notebook, on an AnnData in memory."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from scdmc.cells.expression import log1p_cp10k, raw_counts
from scdmc.cells.from_adata import tokenize
from scdmc.cells.own_embeddings import own_embeddings_of
from scdmc.cells.results import add_results
from scdmc.cells.viewers import ForViewers
from scdmc.dates import date_of_results
from scdmc.files import require_new_folder
from scdmc.integration.data import integration_data, usable_cells
from scdmc.integration.maps import cell_maps
from scdmc.integration.options import IntegrationOptions
from scdmc.integration.results import draw_integration_results, write_page
from scdmc.integration.study import run_benchmark
from scdmc.integration.tables import score_tables, write_integration_tables
from scdmc.model.devices import place_model
from scdmc.model.encoder import ScDMCPreTrainedModel
from scdmc.model.loaded import open_model
from scdmc.reading.counts import counts_of_adata
from scdmc.reading.label_colours import label_colours_in
from scdmc.reading.options import with_count_options
from scdmc.reports.colours import one_colour_per_type
from scdmc.reports.provenance import Provenance
from scdmc.result_folders import keep_results, result_folder
from scdmc.tokens.tokenized_cells import ROW_COLUMN

if TYPE_CHECKING:
    import anndata


def integration_benchmark(
    adata: "anndata.AnnData",
    model: str | Path | ScDMCPreTrainedModel,
    *,
    batch_key: str = "batch",
    label_key: str | None = "cell_type",
    embeddings: Sequence[str] = (),
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
        Columns of obs. With None for ``label_key`` there are only the scores that need no label.
    embeddings
        Keys of ``obsm``, such as ``["X_scGPT"]``: embeddings of yours that are scored beside ours.
    output_dir
        Folder for tables, figures and ``report.html``; nothing is written without it.
    overwrite
        Replace files in ``output_dir``.
    options
        How the counts are read: fields of :class:`scdmc.reading.options.CountOptions` (``layer``, ``gene_id_column``,
        ``gene_mapping_file``, ``allow_normalized``, ``recompute_totals``, ``species``, ``ortholog_file``). What is
        compared: fields of :class:`scdmc.integration.options.IntegrationOptions`, such as ``methods``, ``adaptation``
        (``AdaptationSettings(minutes=3)``, say), ``head`` (``HeadSettings()``), ``joined``, ``harmony``,
        ``stream``, ``pooling``, ``protocols``, ``resolution``, ``seeds``.

    Returns
    -------
    Mean scores, methods x (protocol, metric): ``table["scib"]["overall"]``. A method that failed has NaN.

    Raises
    ------
    ScDMCError
        If a column is missing, the cells cannot be tokenized or scored, or a method's package is not installed.
    """
    began, keys = time.time(), (batch_key, label_key)
    chosen, of_counts = with_count_options("integration_benchmark", options, IntegrationOptions)
    if output_dir is not None:
        require_new_folder(Path(output_dir), overwrite)
        date_of_results()  # a bad one is refused before the work
    model_directory = open_model(model)
    columns = [key for key in dict.fromkeys(keys) if key]
    cells = tokenize(adata, model=model_directory, obs_columns=columns, **asdict(of_counts))
    usable = usable_cells(cells, model_directory, *keys)
    rows = cells.obs[ROW_COLUMN].to_numpy()
    counts = counts_of_adata(adata, **of_counts.of_counts())
    raw = raw_counts(counts)[rows] if "scvi" in chosen.methods else None
    data = integration_data("adata", cells, usable, keys, log1p_cp10k(counts)[rows], raw)
    names = cells.obs["cell_id"].to_numpy(dtype=str)[usable]
    own = own_embeddings_of(adata, embeddings, rows[usable], names)
    data = replace(data, own=own, in_file=frozenset(own))
    benchmark = run_benchmark(data, model_directory, place_model, chosen)
    new = {key: matrix for key, matrix in benchmark.embeddings.items() if key not in data.in_file}
    made = Provenance((), model_directory.path.name, chosen.seeds[0], began)
    viewers = ForViewers(made)
    add_results(adata, rows[usable], {}, new, viewers)
    if output_dir is not None:
        with result_folder(output_dir) as folder:
            write_integration_tables(folder, benchmark, data.name)
            keep_results(folder)
            with one_colour_per_type(data.labels, label_colours_in(adata, label_key)):
                section = draw_integration_results(folder, data, benchmark, cell_maps(data, benchmark))
            write_page(folder, [section], {data.name: benchmark}, made)
    return pd.concat({protocol: table.means for protocol, table in score_tables(benchmark).items()}, axis=1)
