"""What can be chosen when counts are read. Nothing heavy is imported here, so that ``--help`` is quick."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scdmc.options import field_names, part_options
from scdmc.reading.magic import PARQUET_MAGIC, file_start

Chosen = TypeVar("Chosen")


@dataclass(frozen=True)
class CountOptions:
    """How an ``.h5ad`` is read; parquet needs none of it.

    Attributes
    ----------
    layer, allow_normalized, recompute_totals
        See :func:`scdmc.reading.counts.open_counts`.
    gene_id_column, gene_mapping_file
        See :func:`scdmc.genes.ids.match_genes`.
    species, ortholog_file
        ``"mouse"`` with a table of human and mouse genes (:func:`scdmc.genes.ids.load_orthologs`).
    """

    layer: str | None = None
    allow_normalized: bool = False
    gene_id_column: str | None = None
    gene_mapping_file: str | Path | None = None
    recompute_totals: bool = False
    species: str = "human"
    ortholog_file: str | Path | None = None

    def of_counts(self) -> dict[str, object]:
        """What :func:`scdmc.reading.counts.open_counts` is told, as keywords."""
        return {
            "layer": self.layer,
            "allow_normalized": self.allow_normalized,
            "recompute_totals": self.recompute_totals,
        }


def count_options_of(function: str, options: Mapping[str, object]) -> CountOptions:
    """The options of counts that a function was given as keywords.

    Raises
    ------
    TypeError
        If a keyword is no field of :class:`CountOptions`.
    """
    (named,) = part_options(function, options, field_names(CountOptions))
    return CountOptions(**named)


def with_count_options(function: str, options: Mapping[str, object], kind: type[Chosen]) -> tuple[Chosen, CountOptions]:
    """What an analysis does, a dataclass of options, and how it reads counts, from the keywords of its function.

    Raises
    ------
    TypeError
        If a keyword is a field of neither.
    """
    of_analysis, of_counts = part_options(function, options, field_names(kind), field_names(CountOptions))
    return kind(**of_analysis), CountOptions(**of_counts)


BLOCK_SIZE = 1024


# Of what holds raw counts, where nothing is there yet to look at.
COUNT_SUFFIXES = (".h5ad", ".loom", ".h5", ".zarr")


def is_counts(data_path: Path) -> bool:
    """True if a data argument names raw counts in any kind of input rather than tokenized parquet, by its content."""
    data_path = Path(data_path)
    if data_path.is_dir():
        from scdmc.reading.kinds import kind_of

        return kind_of(data_path).name is not None
    if not data_path.is_file():
        return data_path.suffix.lower() in COUNT_SUFFIXES
    return data_path.suffix.lower() != ".parquet" and not file_start(data_path).startswith(PARQUET_MAGIC)


def is_h5ad(data_path: Path) -> bool:
    """True if a data argument names an ``.h5ad``, whatever its suffix, to a copy of which results can be added."""
    from scdmc.reading.kinds import H5AD, kind_of

    return Path(data_path).is_file() and kind_of(Path(data_path)).name == H5AD


CENSUS_OBS_COLUMNS = ("cell_type", "tissue", "donor_id", "assay", "dataset_id")
