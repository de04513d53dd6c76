"""What can be chosen in the split of cells. Nothing heavy is imported here, so that ``--help`` is quick."""

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
