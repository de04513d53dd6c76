"""Score how well embeddings merge batches and keep types apart, beside PCA and Harmony; no label is used to embed."""

import argparse
import logging
from pathlib import Path

import numpy as np

from scdmc.baselines import harmony, pca_of_variable_genes
from scdmc.clustering import umap_coordinates
from scdmc.command_line import argument_parser, positive_float, script, seed
from scdmc.embeddings import EMBEDDING_KEY, POOLING_HELP, POOLINGS, cell_embeddings
from scdmc.figures import save_figure, score_table_figure, umap_figure
from scdmc.files import require_new_folder
from scdmc.h5ad import write_h5ad
from scdmc.integration import compare_integrations, require_types_in_batches
from scdmc.model_directory import load_model, open_model_directory
from scdmc.modeling import STREAMS, ScDMCModel
from scdmc.scores import metric_rows, write_metrics
from scdmc.splits import is_missing
from scdmc.task_data import (
    add_count_arguments,
    add_dtype_argument,
    add_model_arguments,
    annotated_data,
    count_options,
    labels_of,
    place_model,
    read_cells,
    read_expression,
)
from scdmc.tokenized_data import TokenizedCells

logger = logging.getLogger(__name__)

TASK = "integration"
SCDMC, PCA, HARMONY = "scDMC zero-shot", "PCA, not integrated", "Harmony"
OBSM_KEYS = {SCDMC: EMBEDDING_KEY, PCA: "X_pca", HARMONY: "X_harmony"}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the integration benchmark."""
    parser = argument_parser(__doc__)
    parser.add_argument("--model_path", type=Path, required=True, help="model folder")
    parser.add_argument("--tokenized_data_path", type=Path, required=True, help="tokenized parquet, or .h5ad")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("integration_output"), help="folder for scores and figures"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files in --output_dir")
    parser.add_argument("--batch_key", default="batch", help="column of obs with the batches")
    parser.add_argument("--label_key", default="cell_type", help="column of obs with the types, for the scores only")
    parser.add_argument("--resolution", type=positive_float, default=0.2, help="of Leiden, the same for every method")
    parser.add_argument("--stream", choices=STREAMS, default="both", help="which stream; both are joined")
    parser.add_argument("--pooling", choices=POOLINGS, default="cls", help=POOLING_HELP)
    parser.add_argument("--seed", type=seed, default=42, help="of PCA, Harmony, neighbours, Leiden and UMAP")
    add_model_arguments(parser)
    add_dtype_argument(parser)
    add_count_arguments(parser)
    return parser.parse_args(argv)


def cells_with_a_batch(cells: TokenizedCells, batch_key: str) -> np.ndarray:
    """True for the cells that can be integrated, shape (n_cells,); says how many others there are."""
    has_batch = ~is_missing(cells.obs[batch_key])
    if not has_batch.all():
        logger.warning("warning: %d of %d cells have no %s and are left out", (~has_batch).sum(), len(cells), batch_key)
    return has_batch


@script
def main(argv: list[str] | None = None) -> int:
    """Embed all cells by each method, score those with a type, all alike, and draw them."""
    arguments = parse_arguments(argv)
    output_dir, data_path = arguments.output_dir, arguments.tokenized_data_path
    label_key, batch_key = arguments.label_key, arguments.batch_key
    require_new_folder(output_dir, arguments.overwrite)
    model_directory = open_model_directory(arguments.model_path, arguments.token_dictionary_file)
    encoder = place_model(load_model(arguments.model_path, ScDMCModel), arguments, arguments.dtype)
    cells = read_cells(data_path, model_directory, [batch_key, label_key], count_options(arguments))
    has_batch = cells_with_a_batch(cells, batch_key)
    labels, batch = (labels_of(cells.obs[key])[has_batch] for key in (label_key, batch_key))
    is_scored = require_types_in_batches(labels, batch, label_key, batch_key)
    if not is_scored.all():
        logger.info("%d of %d cells have no %s and are not scored", (~is_scored).sum(), len(labels), label_key)
    expression, _ = read_expression(data_path, cells, model_directory, count_options(arguments))
    cells, expression = cells.select(has_batch), expression[has_batch]

    embeddings = {SCDMC: cell_embeddings(encoder, cells, arguments.stream, arguments.pooling)}
    embeddings[PCA] = pca_of_variable_genes(expression, seed=arguments.seed)
    embeddings[HARMONY] = harmony(embeddings[PCA], batch, arguments.seed)
    results = compare_integrations(embeddings, labels, batch, arguments.resolution, seed=arguments.seed)
    coordinates = {
        method: umap_coordinates(embeddings[method][is_scored], result.graph, arguments.seed)
        for method, result in results.items()
    }

    colourings = {label_key: labels[is_scored], batch_key: batch[is_scored]}
    for method, result in results.items():
        title = f"{method}: biology {result.scores['AvgBIO']:.2f}, batches {result.scores['AvgBATCH']:.2f}"
        figure = umap_figure(coordinates[method], colourings, title, arguments.seed)
        save_figure(figure, output_dir / f"umap_{OBSM_KEYS[method][2:]}")
    rows = [row for method, result in results.items() for row in metric_rows(TASK, method, result.scores)]
    table = write_metrics(output_dir / "metrics.csv", rows)
    save_figure(score_table_figure(table, "Integration: the higher the better"), output_dir / "scores")
    adata = annotated_data(data_path, cells, obsm={OBSM_KEYS[m]: e for m, e in embeddings.items()})
    write_h5ad(adata, output_dir / "integrated.h5ad")
    print(table.round(3).to_string())
    print(f"wrote {output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
