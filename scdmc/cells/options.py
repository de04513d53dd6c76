"""What can be chosen to tokenize, split and cluster cells. Nothing heavy is imported here: ``--help`` is quick."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scdmc.errors import ScDMCError


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


# Counted in each labelled cell, a panel of 60 genes has 1 to 6% of its genes, one of 300 genes 4 to 21%, and 1,000 to
# 2,500 variable genes have 30% (blood and islets).
MIN_KNOWN_GENES = 0.3


# A map holds all embeddings in memory, and takes about two minutes for so many cells on two cores.
MOST_CELLS_OF_MAP = 100_000


RESOLUTIONS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0)


@dataclass(frozen=True)
class OwnEmbeddings:
    """Embeddings that the user brings (:mod:`scdmc.cells.own_embeddings`).

    Attributes
    ----------
    obsm
        Keys of ``obsm`` of the data.
    files
        Name -> ``.npy`` (rows in the order of the data), ``.csv`` or ``.h5ad`` (joined by cell id).
    """

    obsm: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "obsm", (self.obsm,) if isinstance(self.obsm, str) else tuple(self.obsm))
        names = [*self.obsm, *self.files]
        for name in names:
            if not name or "/" in name or name != name.strip():
                raise ScDMCError(f"embedding {name!r}: a name is not empty, and has no / and no blank at its ends")
            if names.count(name) > 1:
                raise ScDMCError(f"embedding {name!r} is given twice; give each a name of its own")

    def __bool__(self) -> bool:
        return bool(self.obsm or self.files)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all, those of the data first."""
        return (*self.obsm, *self.files)


@dataclass(frozen=True)
class ClusterOptions:
    """How embeddings are clustered; see :mod:`scdmc.cells.clustering`.

    Attributes
    ----------
    resolution
        Of Leiden; None chooses one of :data:`RESOLUTIONS` by stability.
    n_neighbors
        Of the neighbour graph.
    has_oracle
        Also score the resolution that fits the labels best.
    seed
        Of neighbours, Leiden and UMAP.
    """

    resolution: float | None = None
    n_neighbors: int = 15
    has_oracle: bool = False
    seed: int = 42


@dataclass(frozen=True, kw_only=True)
class TokenizeOptions:
    """How an AnnData is tokenized (:func:`scdmc.cells.from_adata.tokenize`).

    Attributes
    ----------
    gene_median_file
        Gene medians, JSON id -> number, or ``"default"`` for those that ship with scDMC.
    medians
        The same as a mapping; without either every median is 1.
    token_dictionary_file
        Vocabulary, JSON token -> id; without it that of scDMC, or of the model.
    gene_mapping_file
        JSON symbol or id -> current id, applied first.
    gene_id_column
        Column of ``var`` with the gene ids; looked for without it.
    species, ortholog_file
        ``"mouse"`` with a table of human and mouse genes; one-to-one pairs are mapped.
    layer, allow_normalized, recompute_totals
        Where the raw counts are (see :func:`scdmc.reading.counts.open_counts`).
    model_input_size
        Most tokens of a stream, ``<cls>`` and ``<eos>`` included; 2048 without it, or the context of the model.
    drop_empty_cells
        Leave out cells without counts.
    name
        What the cells' ``source_file`` says.
    """

    gene_median_file: str | Path | None = None
    medians: Mapping[str, float] | None = None
    token_dictionary_file: str | Path | None = None
    gene_mapping_file: str | Path | None = None
    gene_id_column: str | None = None
    species: str = "human"
    ortholog_file: str | Path | None = None
    layer: str | None = None
    allow_normalized: bool = False
    recompute_totals: bool = False
    model_input_size: int | None = None
    drop_empty_cells: bool = False
    name: str = "adata"
