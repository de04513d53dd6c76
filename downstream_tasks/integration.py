"""Score how well embeddings merge batches and keep types apart, beside PCA and Harmony; no label is used to embed."""

import argparse
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.baselines import harmony, pca_of_variable_genes
from scdmc.clustering import leiden_clusters, neighbour_graph, umap_coordinates
from scdmc.command_line import argument_parser, non_negative_int, script
from scdmc.devices import choose_device
from scdmc.embeddings import EMBEDDING_KEY, POOLINGS, cell_embeddings
from scdmc.errors import ScDMCError
from scdmc.figures import save_figure, score_table_figure, umap_figure
from scdmc.files import require_new
from scdmc.model_directory import load_model, open_model_directory
from scdmc.modeling import STREAMS, ScDMCModel
from scdmc.scores import integration_scores, metric_rows, write_metrics
from scdmc.task_data import (
    add_count_arguments,
    annotated_data,
    count_options,
    labels_of,
    read_cells,
    read_expression,
    write_annotated_data,
)

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
    parser.add_argument("--resolution", type=float, default=0.2, help="of Leiden, the same for every method")
    parser.add_argument("--stream", choices=STREAMS, default="both", help="which stream; both are joined")
    parser.add_argument("--pooling", choices=POOLINGS, default="cls", help="state of <cls>, or mean state of the genes")
    parser.add_argument(
        "--seed", type=non_negative_int, default=42, help="of PCA, Harmony, neighbours, Leiden and UMAP"
    )
    parser.add_argument("--num_gpus", type=non_negative_int, help="0 forces the CPU")
    add_count_arguments(parser)
    return parser.parse_args(argv)


def require_batches_and_types(labels: np.ndarray, batch: np.ndarray, arguments: argparse.Namespace) -> np.ndarray:
    """True for the cells that can be scored: those with a batch and a type."""
    is_scored = ~pd.isna(labels) & ~pd.isna(batch)
    if not is_scored.all():
        logger.warning(
            "warning: %d of %d cells have no %s or no %s and are left out",
            (~is_scored).sum(), len(labels), arguments.batch_key, arguments.label_key,
        )  # fmt: skip
    for key, column in ((arguments.batch_key, batch), (arguments.label_key, labels)):
        values = sorted(set(column[is_scored]))
        if len(values) < 2:
            raise ScDMCError(f"obs[{key!r}] has one value only, {values}; integration needs two batches and two types")
    return is_scored


@script
def main(argv: list[str] | None = None) -> int:
    """Embed by each method, score all alike, draw."""
    arguments = parse_arguments(argv)
    device = choose_device(arguments.num_gpus)
    output_dir = arguments.output_dir
    require_new(output_dir, arguments.overwrite)
    model_directory = open_model_directory(arguments.model_path)
    columns = [arguments.batch_key, arguments.label_key]
    cells = read_cells(arguments.tokenized_data_path, model_directory, columns, count_options(arguments))
    labels, batch = (labels_of(cells.obs[key]) for key in (arguments.label_key, arguments.batch_key))
    is_scored = require_batches_and_types(labels, batch, arguments)
    expression, _ = read_expression(arguments.tokenized_data_path, cells, model_directory, count_options(arguments))
    cells, labels, batch, expression = (
        cells.select(is_scored),
        labels[is_scored],
        batch[is_scored],
        expression[is_scored],
    )

    encoder = load_model(arguments.model_path, ScDMCModel).to(device)
    embeddings = {SCDMC: cell_embeddings(encoder, cells, arguments.stream, arguments.pooling)}
    embeddings[PCA] = pca_of_variable_genes(expression, seed=arguments.seed)
    embeddings[HARMONY] = harmony(embeddings[PCA], batch, arguments.seed)

    rows = []
    for method, embedding in embeddings.items():
        graph = neighbour_graph(embedding, seed=arguments.seed)
        clusters = leiden_clusters(graph, arguments.resolution, arguments.seed)
        scores = integration_scores(embedding, labels, batch, clusters, graph)
        rows += metric_rows(TASK, method, scores)
        if scores["ARI"] < 0.05:
            logger.warning(
                "warning: %s hardly tells types apart (ARI %.2f); a high batch score means nothing then",
                method,
                scores["ARI"],
            )
        coordinates = umap_coordinates(embedding, graph, arguments.seed)
        title = f"{method}: biology {scores['AvgBIO']:.2f}, batches {scores['AvgBATCH']:.2f}"
        colourings = {arguments.label_key: labels, arguments.batch_key: batch}
        save_figure(
            umap_figure(coordinates, colourings, title, arguments.seed), output_dir / f"umap_{OBSM_KEYS[method][2:]}"
        )
    table = write_metrics(output_dir / "metrics.csv", rows)
    save_figure(score_table_figure(table, "Integration: the higher the better"), output_dir / "scores")
    adata = annotated_data(arguments.tokenized_data_path, cells, obsm={OBSM_KEYS[m]: e for m, e in embeddings.items()})
    write_annotated_data(adata, output_dir / "integrated.h5ad")
    print(table.round(3).to_string())
    print(f"wrote {output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
