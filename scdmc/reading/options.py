"""What can be chosen when counts are read. Nothing heavy is imported here, so that ``--help`` is quick."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CountOptions:
    """How an ``.h5ad`` is read; parquet needs none of it.

    Attributes
    ----------
    layer, allow_normalized, recompute_totals
        See :func:`scdmc.reading.counts.open_counts`.
    gene_id_column, gene_mapping_file
        See :func:`scdmc.genes.ids.match_genes`.
    """

    layer: str | None = None
    allow_normalized: bool = False
    gene_id_column: str | None = None
    gene_mapping_file: Path | None = None
    recompute_totals: bool = False

    def of_counts(self) -> dict[str, object]:
        """What :func:`scdmc.reading.counts.open_counts` is told, as keywords."""
        return {
            "layer": self.layer,
            "allow_normalized": self.allow_normalized,
            "recompute_totals": self.recompute_totals,
        }


BLOCK_SIZE = 1024


def is_h5ad(data_path: Path) -> bool:
    """True if a data argument names an ``.h5ad`` rather than tokenized parquet."""
    return Path(data_path).suffix == ".h5ad"
