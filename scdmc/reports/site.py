"""Several pages as one site: an index with the verdict of each, and copies of the pages; the folder can be moved."""

import importlib.resources
import itertools
import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2
from markupsafe import Markup

from scdmc.errors import ScDMCError
from scdmc.file_names import file_names_of
from scdmc.files import atomic_path
from scdmc.reports.page import LEVELS
from scdmc.reports.provenance import command_text, date_text
from scdmc.version import __version__

logger = logging.getLogger(__name__)

PAGE_NAME, PAGE_ENDING = "report.html", ".report.html"
PAGES_FOLDER = "pages"
SUMMARY = re.compile(r'<script type="application/json" id="summary">(.*?)</script>', re.DOTALL)
FIELDS = {"title": str, "level": str, "headline": str, "numbers": list, "date": str}


@dataclass(frozen=True)
class FoundPage:
    """A page, and what it says of itself.

    Attributes
    ----------
    path
        The file.
    place
        Where it was found, for the reader: folders from the one that was named; no two pages have the same.
    summary
        Title, level, headline, numbers, date (:func:`scdmc.reports.page.write_report`).
    """

    path: Path
    place: str
    summary: dict[str, object]


def find_pages(paths: Sequence[Path], site: Path) -> list[FoundPage]:
    """The pages of some folders and what lies below them, in the order of the folders and of their names.

    Parameters
    ----------
    paths
        Folders of results, or pages.
    site
        What is below it is left out.

    Raises
    ------
    ScDMCError
        If a path has no page.
    """
    found: dict[Path, FoundPage] = {}
    for path in paths:
        pages = [path] if path.is_file() else _pages_below(path, site)
        root = path.absolute().parent
        of_path = [FoundPage(page, _place(page, root), summary) for page in pages if (summary := summary_of(page))]
        if not of_path:
            raise ScDMCError(
                f"{path} has no page of scDMC ({PAGE_NAME} or NAME{PAGE_ENDING}, of this version); name the folder "
                "that a script wrote"
            )
        found |= {each.path.resolve(): each for each in of_path if each.path.resolve() not in found}
    return _told_apart(list(found.values()))


def _told_apart(pages: Sequence[FoundPage]) -> list[FoundPage]:
    """Pages of folders of one name, such as ``a/out`` and ``b/out``, get the folder above to their place, or a number.

    The place names the copy, too: of two pages with one place the second would replace the first.
    """
    often = Counter(page.place for page in pages)
    wanted = [_place(page.path, _root(page).parent) if often[page.place] > 1 else page.place for page in pages]
    taken: set[str] = set()
    for number, place in enumerate(wanted):
        free = (place if count == 1 else f"{place} ({count})" for count in itertools.count(1))
        wanted[number] = next(name for name in free if name not in taken)
        taken.add(wanted[number])
    return [replace(page, place=place) for page, place in zip(pages, wanted, strict=True)]


def _root(page: FoundPage) -> Path:
    """The folder from which the place of a page counts."""
    folder = page.path.absolute().parent
    depth = len(Path(page.place).parts) - (page.path.name != PAGE_NAME)
    return folder.parents[depth - 1] if depth else folder


def _pages_below(folder: Path, site: Path) -> list[Path]:
    pages = []
    for page in sorted(folder.rglob("*.html")):
        is_hidden = any(part.startswith(".") for part in page.relative_to(folder).parts)
        is_page = page.name == PAGE_NAME or page.name.endswith(PAGE_ENDING)
        if is_page and page.is_file() and not is_hidden and site.resolve() not in page.resolve().parents:
            pages.append(page)
    return pages


def _place(page: Path, root: Path) -> str:
    place = page.absolute().relative_to(root)
    return place.parent.as_posix() if place.name == PAGE_NAME else place.as_posix().removesuffix(PAGE_ENDING)


def summary_of(page: Path) -> dict[str, object] | None:
    """What a page says of itself; None, with a warning, for a page that is not of this version of scDMC."""
    match = SUMMARY.search(page.read_text(encoding="utf8", errors="replace"))
    try:
        summary = json.loads(match[1]) if match else None
    except ValueError:
        summary = None
    if not isinstance(summary, dict) or not all(isinstance(summary.get(name), kind) for name, kind in FIELDS.items()):
        logger.warning("warning: %s is left out: it says nothing of itself, as pages of this version do", page)
        return None
    is_number = {"name", "value", "beside"}.issubset
    numbers = [number for number in summary["numbers"] if isinstance(number, dict) and is_number(number)]
    level = summary["level"] if summary["level"] in LEVELS else LEVELS[1]
    return {**summary, "numbers": numbers, "level": level}


def write_site(folder: Path, pages: Sequence[FoundPage]) -> None:
    """Write ``index.html``, and the pages beside it.

    Parameters
    ----------
    folder
        Where to; it is there.
    pages
        From :func:`find_pages`.
    """
    names = file_names_of([page.place for page in pages])
    (folder / PAGES_FOLDER).mkdir()
    for page in pages:
        shutil.copyfile(page.path, folder / PAGES_FOLDER / f"{names[page.place]}.html")
    files = importlib.resources.files("scdmc.reports")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(files.joinpath("index.html").read_text(encoding="utf8").strip()).render(
        pages=[
            {**page.summary, "place": page.place, "link": f"{PAGES_FOLDER}/{names[page.place]}.html"} for page in pages
        ],
        n_of={level: sum(page.summary["level"] == level for page in pages) for level in LEVELS},
        facts={"command": command_text(), "scDMC": __version__, "date": date_text()},
        css=Markup(files.joinpath("page.css").read_text(encoding="utf8").strip()),
        script=Markup(files.joinpath("tables.js").read_text(encoding="utf8").strip()),
    )
    with atomic_path(folder / "index.html") as temporary:
        temporary.write_text(text, encoding="utf8", errors="replace")
