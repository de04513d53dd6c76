"""What of a file is described. Nothing heavy is imported here, so that ``--help`` is quick."""

from dataclasses import dataclass
from pathlib import Path

from scdmc.errors import ScDMCError
from scdmc.text.captions.options import require_captioner

FACTS, LANGUAGE_MODEL = "facts", "language_model"


STYLES = (FACTS, LANGUAGE_MODEL)


# Columns of a table of groups behind that of the groups themselves, whatever the style.
COLUMNS_OF_GROUPS = (
    "cells", "text", "type", "cl_id", "share", "probability", "checked", "by_words", "distance", "genes", "style",
)  # fmt: skip


@dataclass(frozen=True)
class DescriptionOptions:
    """What is described (docs/text.md, "Descriptions").

    Attributes
    ----------
    group_key
        Column of obs whose groups of cells are described; None for each cell by itself.
    max_cells
        Most cells that are described, drawn by the seed; None for all. Groups are always described whole.
    style
        ``facts``: every clause is computed; ``language_model``: captions, which are checked.
    language_model
        Folder of the language model, where the text model does not hold it.
    """

    group_key: str | None = None
    max_cells: int | None = None
    style: str = FACTS
    language_model: Path | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of obs that are needed."""
        return () if self.group_key is None else (self.group_key,)

    @property
    def group_column(self) -> str | None:
        """What the column of the groups is called in the results: as in the file, or ``group`` if that is taken."""
        return "group" if self.group_key in COLUMNS_OF_GROUPS else self.group_key


def require_style(style: str, text_model: Path) -> None:
    """Refuse a style that there is not, and captions by a text model that has not learned them."""
    if style not in STYLES:
        raise ScDMCError(f"style {style!r} is unknown; there are {' and '.join(STYLES)}")
    if style == LANGUAGE_MODEL:
        require_captioner(text_model)
