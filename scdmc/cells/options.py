"""What can be chosen in splits and clusters of cells. Nothing heavy is imported here, so that ``--help`` is quick."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SplitOptions:
    """How train, validation and test cells are drawn; see :func:`scdmc.cells.splits.make_split`.

    Attributes
    ----------
    split_by
        Column of obs whose groups stay in one part; None splits cell by cell.
    validation_fraction, test_fraction
        Shares of the cells.
    min_cells_per_type
        Types with fewer cells are left out.
    seed
        Of the draw.
    """

    split_by: str | None = None
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    min_cells_per_type: int = 10
    seed: int = 42


RESOLUTIONS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0)


@dataclass(frozen=True)
class ClusterOptions:
    """How embeddings are clustered; see :mod:`scdmc.cells.clustering`.

    Attributes
    ----------
    resolution
        Of Leiden; None chooses one of :data:`RESOLUTIONS` by the silhouette.
    n_neighbors
        Of the neighbour graph.
    has_oracle
        Also score the resolution that fits the labels best.
    seed
        Of neighbours, Leiden and UMAP.
    """

    resolution: float | None = 1.0
    n_neighbors: int = 15
    has_oracle: bool = False
    seed: int = 42
