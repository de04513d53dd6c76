"""Maps of the cells by each method that was compared: drawn by the figures, and the first one kept in the AnnData."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scdmc.cells.clustering import umap_coordinates
from scdmc.cells.results import write_annotated
from scdmc.cells.viewers import MAP_KEY, ForViewers
from scdmc.integration.data import IntegrationData
from scdmc.integration.study import Benchmark


def cell_maps(data: IntegrationData, benchmark: Benchmark) -> dict[str, np.ndarray]:
    """UMAP of the shown cells by each method that did not fail, of the first seed.

    Parameters
    ----------
    data
        The cells.
    benchmark
        What was compared.

    Returns
    -------
    Method -> shape (n_shown, 2).
    """
    run = benchmark.runs[0]
    return {
        row.name: umap_coordinates(run.embeddings[row.name][data.shown], run.results[row.name].graph, run.seed)
        for row in benchmark.rows
        if row.name in run.results
    }


def write_integrated(
    folder: Path,
    path: Path,
    data: IntegrationData,
    benchmark: Benchmark,
    maps: Mapping[str, np.ndarray],
    viewers: ForViewers,
) -> None:
    """Write ``integrated.h5ad``: the cells with the embeddings of the first seed and the first method's map.

    Parameters
    ----------
    folder, path
        Where to, and where the cells came from.
    data, benchmark
        See :func:`cell_maps`.
    maps
        From :func:`cell_maps`.
    viewers
        What is said of the results.
    """
    new = {key: matrix for key, matrix in benchmark.embeddings.items() if key not in data.in_file}
    new |= map_for_viewers(data, maps)
    write_annotated(folder / "integrated.h5ad", path, data.cells, obsm=new, viewers=viewers)


def map_for_viewers(data: IntegrationData, maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The map of the first method as ``obsm`` of all cells, NaN for those that are not shown; shape (n_cells, 2)."""
    for drawn in maps.values():
        place = np.full((len(data.shown), 2), np.nan, dtype=np.float32)
        place[data.shown] = drawn
        return {MAP_KEY: place}
    return {}
