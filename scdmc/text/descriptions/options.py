"""What of a file is described. Nothing heavy is imported here, so that ``--help`` is quick."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DescriptionOptions:
    """What is described (docs/text.md, "Descriptions").

    Attributes
    ----------
    group_key
        Column of obs whose groups of cells are described; None for each cell by itself.
    max_cells
        Most cells that are described, drawn by the seed; None for all. Groups are always described whole.
    """

    group_key: str | None = None
    max_cells: int | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of obs that are needed."""
        return () if self.group_key is None else (self.group_key,)
