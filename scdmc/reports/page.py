"""One HTML page that carries its tables and figures in itself: mailed, archived and read without a network.

The page reads without JavaScript, on paper and on a phone. Scripts of ours let its tables sort and its maps move.
"""

import base64
import importlib.resources
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path
from scdmc.reports.provenance import Provenance, date_text, facts_of, table_of_inputs

LEVELS = ("good", "caution", "bad")


# What ends a script or a line of one within HTML; JSON may hold each as a number.
NOT_IN_HTML = {character: f"\\u{ord(character):04x}" for character in "<>&'"}


# A table of more columns of numbers than fit on a sheet of paper is turned, if it then has fewer.
COLUMNS_OF_PAPER = 8


# Figures of 200 dots per inch and text of 7 to 9 points; no narrower than a phone shows.
DOTS_PER_PIXEL, SMALLEST_WIDTH = 1.6, 320


# A wider figure would have letters of less than 9 pixels on a phone of 400: there it scrolls sideways, and says so.
WIDEST_THAT_SHRINKS = 500


# Higher by its width, a figure takes a sheet of paper alone.
TALL = 1.3


class Bold(str):
    """Text of a table's cell that the page shows bold."""


@dataclass(frozen=True)
class KeyNumber:
    """A number that matters, with what it must be compared to.

    Attributes
    ----------
    name, value, beside
        What it is, the number as text, and its baseline as text.
    """

    name: str
    value: str
    beside: str


@dataclass(frozen=True)
class Verdict:
    """What stands on top of a page.

    Attributes
    ----------
    level
        One of :data:`LEVELS`, the colour.
    headline
        The finding in a few words.
    reasons
        Why, one sentence each.
    numbers
        Those that matter.
    """

    level: str
    headline: str
    reasons: tuple[str, ...]
    numbers: tuple[KeyNumber, ...] = ()


@dataclass(frozen=True)
class InteractiveMap:
    """Points that the page lets move, from :func:`scdmc.reports.cell_map.interactive_map`.

    Attributes
    ----------
    caption
        The finding; also what a screen reader says.
    figure
        The same map as PNG, for readers without JavaScript and for paper.
    points
        JSON that may stand within HTML.
    """

    caption: str
    figure: Path
    points: str


@dataclass
class Section:
    """A part of a report: a heading, text, points, maps, then figures and tables.

    Attributes
    ----------
    title
        The heading.
    text
        Plain text; a blank line starts a new paragraph.
    tables
        (caption, table) pairs. An index that is not the plain row number becomes the first columns.
    figures
        (caption, PNG file) pairs. The caption is also what a screen reader says, unless a third text is given for it.
    points
        Items of a list below the text.
    maps
        Maps that move.
    folds
        True if, on a narrow screen, each row of a table with many columns becomes a block of named values; other
        tables scroll sideways.
    """

    title: str
    text: str = ""
    tables: list[tuple[str, pd.DataFrame]] = field(default_factory=list)
    figures: list[tuple[str, Path] | tuple[str, Path, str]] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    maps: list[InteractiveMap] = field(default_factory=list)
    folds: bool = False


def write_report(
    path: Path, title: str, sections: Sequence[Section], lead: Verdict, made: Provenance, reload: int | None = None
) -> None:
    """Write a self-contained HTML page; all text is escaped.

    The verdict with its numbers stands on top, then contents, then the sections, and how the page was made as the last.
    ``<script type="application/json" id="summary">`` says the same as the verdict for an index of several pages: title,
    level, headline, numbers (name, value, beside), date.

    Parameters
    ----------
    path
        The HTML file.
    title
        Of the page: what was done, with what.
    sections
        In the order of the page.
    lead
        The finding, and up to three numbers with their baselines.
    made
        From what the page was made.
    reload
        Seconds after which a page of work that goes on loads itself anew, unless the reader takes a mark away; None for
        a page that is final.

    Raises
    ------
    ScDMCError
        If a figure's file is absent or no PNG.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    scripts = ["tables.js", *["cell_map.js"] * any(section.maps for section in sections)]
    scripts += ["reload.js"] * (reload is not None)
    page = environment.from_string(_own_file("page.html")).render(
        title=title,
        lead=lead,
        reload=reload,
        summary=Markup(_summary(title, lead)),
        sections=[_section_for_page(section) for section in (*sections, _section_of(made))],
        css=Markup(_own_file("page.css")),
        scripts=[Markup(_own_file(name)) for name in scripts],
    )
    with atomic_path(Path(path)) as temporary:
        # Names of files may hold half characters, which no file can.
        temporary.write_text(page, encoding="utf8", errors="replace")


def json_for_html(content: object) -> str:
    """JSON that may stand within HTML."""
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    for character, escape in NOT_IN_HTML.items():
        text = text.replace(character, escape)
    return text


def _summary(title: str, lead: Verdict) -> str:
    """What an index of several pages shows of this one."""
    return json_for_html(
        {
            "title": title,
            "level": lead.level,
            "headline": lead.headline,
            "numbers": [asdict(number) for number in lead.numbers],
            "date": date_text(),
        }
    )


def _section_of(made: Provenance) -> Section:
    """The last section: how the page was made."""
    facts = facts_of(made)
    tables = [("Run and settings", pd.DataFrame({"": list(facts), "value": list(facts.values())}))]
    inputs = table_of_inputs(made)
    if len(inputs):
        tables.append(("Inputs", inputs))
    return Section("How it was made", tables=tables)


def _own_file(name: str) -> str:
    """Text of a file beside this module."""
    return importlib.resources.files("scdmc.reports").joinpath(name).read_text(encoding="utf8").strip()


def _section_for_page(section: Section) -> dict:
    """Gather what the template shows of a section."""
    return {
        "title": section.title,
        "paragraphs": [" ".join(block.split()) for block in section.text.split("\n\n") if block.strip()],
        "tables": [_table_for_page(caption, table) for caption, table in section.tables],
        "figures": [_figure_for_page(*figure) for figure in section.figures],
        "points": section.points,
        "maps": [
            {**_figure_for_page(part.caption, part.figure), "points": Markup(part.points)} for part in section.maps
        ],
        "folds": section.folds,
    }


def _figure_for_page(caption: str, file: Path, alt: str = "") -> dict:
    """Gather what the template shows of a figure; its width, in pixels of the page, makes its text as large as ours."""
    content = _png_of(Path(file))
    has_size = content[12:16] == b"IHDR"
    dots, rows = (int.from_bytes(content[at : at + 4], "big") if has_size else 1 for at in (16, 20))
    width = max(round(dots / DOTS_PER_PIXEL), SMALLEST_WIDTH)
    kinds = [
        name for name, is_kind in (("scrolls", width > WIDEST_THAT_SHRINKS), ("tall", rows > TALL * dots)) if is_kind
    ]
    data = base64.b64encode(content).decode("ascii")
    return {"caption": caption, "data": data, "alt": alt or caption, "width": width, "kinds": kinds}


def _table_for_page(caption: str, table: pd.DataFrame) -> dict:
    """Gather names, alignment and text of a table's cells."""
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index(names=[name or "" for name in table.index.names])
    columns = [
        {
            "name": " ".join(map(str, name)).strip() if isinstance(name, tuple) else name,
            "is_number": _is_number(column),
        }
        for name, column in table.items()
    ]
    formats = [_format_of(column) for _, column in table.items()]
    rows = [
        [
            {"text": _as_text(value, form), "is_bold": isinstance(value, Bold)}
            for value, form in zip(row, formats, strict=True)
        ]
        for row in table.itertuples(index=False, name=None)
    ]
    is_turned = len(rows) < len(columns) > COLUMNS_OF_PAPER and all(column["is_number"] for column in columns[1:])
    if is_turned:
        columns, rows = _transposed(columns, rows)
    return {"caption": caption, "columns": columns, "rows": rows, "is_turned": is_turned}


def _transposed(columns: list[dict], rows: list[list[dict]]) -> tuple[list[dict], list[list[dict]]]:
    """Scores down and methods across: a wide table of few rows then fits on screen and paper."""
    first = [{"name": "score", "is_number": False}]
    turned = [
        [{"text": column["name"], "is_bold": False}, *(row[place] for row in rows)]
        for place, column in enumerate(columns)
    ]
    return first + [{"name": row[0]["text"], "is_number": True} for row in rows], turned[1:]


# Scores as text (:func:`scdmc.reports.tables.score_texts`).
SCORE_TEXT = re.compile(r"-?[\d,.]+( ± [\d,.]+)?|–|failed")


def _is_number(column: pd.Series) -> bool:
    """True for a column of numbers, or of scores as text."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return not pd.api.types.is_bool_dtype(column.dtype)
    texts = column.tolist()
    return any("." in str(text) for text in texts) and all(
        isinstance(text, str) and SCORE_TEXT.fullmatch(text) for text in texts
    )


def _format_of(column: pd.Series) -> str:
    """One format for the floats of a column: whole, with three decimals, or with powers of ten for tiny ones."""
    values = [abs(value) for value in column if isinstance(value, float) and np.isfinite(value)]
    if all(value.is_integer() for value in values) and any(value > 1 for value in values):
        return ",.0f"
    if any(0 < value < 0.001 for value in values):
        return ".2e"
    return ",.1f" if any(value >= 1000 for value in values) else ",.3f"


def _as_text(value: object, form: str) -> str:
    """Write a cell: floats in the format of their column, thousands apart, a dash for nothing."""
    if pd.isna(value):
        return "–"
    if isinstance(value, float):
        return "0" if value == 0 and form == ".2e" else format(value, form)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _png_of(path: Path) -> bytes:
    """The bytes of a PNG file."""
    if not path.is_file():
        raise ScDMCError(f"{path}: no such file (figure of the report)")
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG"):
        raise ScDMCError(f"{path} (figure of the report) is not a PNG; give the PNG that save_figure returns")
    return content


Figures = list[tuple[str, Path] | tuple[str, Path, str]]  # captions, PNG files, and what a screen reader says
