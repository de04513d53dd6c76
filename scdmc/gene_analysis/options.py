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
    dtype: str = "float32"
