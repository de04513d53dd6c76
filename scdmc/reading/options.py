"""What can be chosen when counts are read. Nothing heavy is imported here, so that ``--help`` is quick."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CountOptions:
    """How an ``.h5ad`` is read; parquet needs none of it.

    Attributes
    ----------
    layer, allow_normalized
        See :func:`scdmc.reading.counts.open_counts`.
    gene_id_column, gene_mapping_file
        See :func:`scdmc.genes.ids.match_genes`.
    """

    layer: str | None = None
    allow_normalized: bool = False
    gene_id_column: str | None = None
    gene_mapping_file: Path | None = None


BLOCK_SIZE = 1024


def is_h5ad(data_path: Path) -> bool:
    """True if a data argument names an ``.h5ad`` rather than tokenized parquet."""
    return Path(data_path).suffix == ".h5ad"


CENSUS_OBS_COLUMNS = ("cell_type", "tissue", "donor_id", "assay", "dataset_id")
