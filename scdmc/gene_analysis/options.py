"""What can be chosen in gene-level analyses. Nothing heavy is imported here, so that ``--help`` is quick."""

from dataclasses import dataclass, field
from pathlib import Path

from scdmc.reading.options import CountOptions

ONE_STREAM = ("rank", "expression")

CELLS_PER_TYPE = 20

CELLS_PER_GENE = 10

# Below this false discovery rate something counts as found.
LARGEST_FDR = 0.05


@dataclass(frozen=True)
class GeneDataOptions:
    """Which cells a gene-level analysis reads, and where its model runs.

    Attributes
    ----------
    label_key
        Column of obs with the types; None puts all cells into one type.
    cell_types
        The types to look at; none named means all.
    min_cells_per_type
        Smaller types are left out.
    counts
        How an ``.h5ad`` is read.
    token_dictionary_file
        Vocabulary of a model folder that has none.
    num_gpus, attention, dtype
        See :func:`scdmc.model.devices.place_model`.
    """

    label_key: str | None = "cell_type"
    cell_types: tuple[str, ...] = ()
    min_cells_per_type: int = CELLS_PER_TYPE
    counts: CountOptions = field(default_factory=CountOptions)
    token_dictionary_file: Path | None = None
    num_gpus: int | None = None
    attention: str = "auto"
    dtype: str = "auto"


EDITS = ("remove", "raise")


RESOLUTIONS = (0.5, 1.0, 2.0, 4.0)


ASSOCIATION, ATTENTION, PERTURBATION = "scDMC association", "scDMC attention", "scDMC perturbation"


PEARSON, BOOSTING = "Pearson", "gradient boosting"


SCORE_COLUMNS = {
    ATTENTION: "attention", ASSOCIATION: "association", PERTURBATION: "perturbation", PEARSON: "pearson",
    BOOSTING: "boosting",
}  # fmt: skip


@dataclass(frozen=True)
class NetworkOptions:
    """How networks are made.

    Attributes
    ----------
    stream
        ``rank`` or ``expression``.
    min_cells
        Cells of a type that must have a gene.
    n_factors, n_targets
        The commonest factors and genes of a type that are looked at.
    max_cells
        Cells of a type, drawn with the seed.
    layers, heads
        Whose attention is averaged, from 1; all without them.
    perturbed_factors, perturbed_cells, edit
        Factors that are perturbed, cells for each, and ``remove`` or ``raise``; 0 factors for no perturbation.
    seed
        Of all that is drawn.
    """

    stream: str = "rank"
    min_cells: int = CELLS_PER_GENE
    n_factors: int = 100
    n_targets: int = 300
    max_cells: int = 500
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    perturbed_factors: int = 10
    perturbed_cells: int = 8
    edit: str = "remove"
    seed: int = 42


@dataclass(frozen=True)
class GraphOptions:
    """Which edges of the networks are drawn, counted and written as graphs.

    Attributes
    ----------
    score
        One of the values of :data:`SCORE_COLUMNS`: its strongest edges are drawn, written as GraphML and searched for
        hubs.
    n_neighbors
        Edges of a gene in the association network.
    """

    score: str = SCORE_COLUMNS[ATTENTION]
    n_neighbors: int = 5


@dataclass(frozen=True)
class ModuleOptions:
    """How modules are looked for.

    Attributes
    ----------
    stream
        Which stream the gene embeddings come from.
    min_cells
        Cells that must have a gene.
    resolutions, n_neighbors
        Of Leiden and of the neighbour graph.
    permutations
        Random gene sets of the tests.
    seed
        Of all that is drawn.
    """

    stream: str = "rank"
    min_cells: int = CELLS_PER_GENE
    resolutions: tuple[float, ...] = RESOLUTIONS
    n_neighbors: int = 15
    permutations: int = 1000
    seed: int = 42


@dataclass(frozen=True)
class AttentionOptions:
    """How attention is looked at.

    Attributes
    ----------
    stream
        ``rank`` or ``expression``.
    min_cells
        Cells of a type that must have a gene.
    attribution_cells
        Cells drawn from each type for rollout and integrated gradients.
    map_cells, map_genes
        Cells (each of another type) and genes of a cell whose attention is drawn.
    seed
        Of the cells that are drawn.
    """

    stream: str = "rank"
    min_cells: int = CELLS_PER_GENE
    attribution_cells: int = 10
    map_cells: int = 4
    map_genes: int = 25
    seed: int = 42


@dataclass(frozen=True)
class ScreenOptions:
    """How genes are perturbed.

    Attributes
    ----------
    edit
        ``remove`` or ``raise``.
    stream
        ``rank``, ``expression`` or ``both``; a classifier reads what it was trained on.
    max_cells
        Cells of each type, drawn with the seed.
    null_draws
        Matched random genes (or sets) for each tested one.
    goal
        A cell type that the cells might move towards; None for none.
    cell_types
        Whose cells are perturbed; all without it.
    seed
        Of all that is drawn.
    """

    edit: str = "remove"
    stream: str = "rank"
    max_cells: int = 10
    null_draws: int = 100
    goal: str | None = None
    cell_types: tuple[str, ...] | None = None
    seed: int = 42
