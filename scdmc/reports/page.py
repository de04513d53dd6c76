"""One HTML page that carries its tables and figures in itself: mailed, archived and read without a network."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import pandas as pd

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
figure { margin: 1.5rem 0; }
figcaption { font-size: 0.9rem; color: #444; margin-bottom: 0.4rem; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; }
th, td { padding: 0.25rem 0.7rem; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid #444; }
tbody tr { border-bottom: 1px solid #ddd; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .wide { overflow: visible; }
}
</style>
</head>
<body>
<h1>{{ title }}</h1>
<nav aria-label="Contents"><ol>
{% for section in sections %}
<li><a href="#section-{{ loop.index }}">{{ section.title }}</a></li>
{% endfor %}
</ol></nav>
{% for section in sections %}
<section id="section-{{ loop.index }}">
<h2>{{ section.title }}</h2>
{% for paragraph in section.paragraphs %}
<p>{{ paragraph }}</p>
{% endfor %}
{% for table in section.tables %}
<figure>
<figcaption>{{ table.caption }}</figcaption>
<div class="wide"><table>
<thead><tr>
{% for column in table.columns %}
<th scope="col"{% if column.is_number %} class="number"{% endif %}>{{ column.name }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>
{% for cell in row %}
<td{% if table.columns[loop.index0].is_number %} class="number"{% endif %}>{{ cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table></div>
</figure>
{% endfor %}
{% for figure in section.figures %}
<figure>
<figcaption>{{ figure.caption }}</figcaption>
<img src="data:image/png;base64,{{ figure.data }}" alt="{{ figure.caption }}">
</figure>
{% endfor %}
</section>
{% endfor %}
</body>
</html>
"""


@dataclass
class Section:
    """A part of a report: a heading, text, then tables, then figures.

    Attributes
    ----------
    title
        The heading.
    text
        Plain text; a blank line starts a new paragraph.
    tables
        (caption, table) pairs. An index that is not the plain row number becomes the first columns.
    figures
        (caption, PNG file) pairs. The caption is also what a screen reader says.
    """

    title: str
    text: str = ""
    tables: list[tuple[str, pd.DataFrame]] = field(default_factory=list)
    figures: list[tuple[str, Path]] = field(default_factory=list)


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write a self-contained HTML page: contents, then the sections; all text is escaped.

    Parameters
    ----------
    path
        The HTML file.
    title
        Of the page.
    sections
        In the order of the page.

    Raises
    ------
    ScDMCError
        If a figure's file is absent or no PNG.
    """
    template = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined).from_string(PAGE)
    page = template.render(title=title, sections=[_section_for_page(section) for section in sections])
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(page, encoding="utf8")


def _section_for_page(section: Section) -> dict:
    """Gather what the template shows of a section."""
    return {
        "title": section.title,
        "paragraphs": [" ".join(block.split()) for block in section.text.split("\n\n") if block.strip()],
        "tables": [_table_for_page(caption, table) for caption, table in section.tables],
        "figures": [{"caption": caption, "data": _png_as_base64(Path(file))} for caption, file in section.figures],
    }


def _table_for_page(caption: str, table: pd.DataFrame) -> dict:
    """Gather names, alignment and text of a table's cells."""
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index(names=[name or "" for name in table.index.names])
    columns = [
        {
            "name": " ".join(map(str, name)).strip() if isinstance(name, tuple) else name,
            "is_number": pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype),
        }
        for name, dtype in zip(table.columns, table.dtypes, strict=True)
    ]
    rows = [[_as_text(value) for value in row] for row in table.itertuples(index=False, name=None)]
    return {"caption": caption, "columns": columns, "rows": rows}


def _as_text(value: object) -> str:
    """Write a cell: three decimals (significant digits below a thousandth), thousands apart, a dash for nothing."""
    if pd.isna(value):
        return "–"
    if isinstance(value, float):
        return f"{value:,.3g}" if 0 < abs(value) < 0.001 else f"{value:,.3f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _png_as_base64(path: Path) -> str:
    """Encode the bytes of a PNG file as text."""
    if not path.is_file():
        raise ScDMCError(f"{path}: no such file (figure of the report)")
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG"):
        raise ScDMCError(f"{path} (figure of the report) is not a PNG; give the PNG that save_figure returns")
    return base64.b64encode(content).decode("ascii")


Figures = list[tuple[str, Path]]  # captions and PNG files


def write_verdict_page(
    output_dir: Path, title: str, verdict: str, sections: Sequence[Section], figures: Sequence[tuple[str, Path]]
) -> None:
    """Write ``report.html``.

    Parameters
    ----------
    output_dir
        Where to.
    title, verdict
        What was done, and what was found, in plain words.
    sections
        Tables and what they mean.
    figures
        Captions and PNG files.
    """
    parts = [Section("Verdict", verdict), *sections, Section("Figures", "", [], list(figures))]
    write_report(output_dir / "report.html", title, parts)
