"""How large a page with a map of many cells is, and how long a browser takes for a frame of it."""

import shutil
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scdmc.errors import ScDMCError
from scdmc.reports.cell_map import MappedCells, interactive_map
from scdmc.reports.page import Section, Verdict, write_report
from scdmc.reports.provenance import Provenance

N_TYPES = 25


# Moves and zooms the map, and keeps how long each frame took.
FRAMES = """async (frames) => {
  const canvas = document.querySelector(".map canvas");
  const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
  const next = () => new Promise((resolve) => requestAnimationFrame(resolve));
  const spans = [];
  for (let frame = 0; frame < frames; frame++) {
    press(frame % 20 < 10 ? ["+", "ArrowLeft", "ArrowUp"][frame % 3] : ["-", "ArrowRight", "ArrowDown"][frame % 3]);
    const before = performance.now();
    await next(); // the map is drawn in this frame
    await next();
    spans.push((performance.now() - before) / 2);
  }
  const box = canvas.getBoundingClientRect();
  const hover = [];
  for (let step = 0; step < frames; step++) {
    const place = { clientX: box.left + (box.width * step) / frames, clientY: box.top + box.height / 2, bubbles: true };
    const before = performance.now();
    canvas.dispatchEvent(new PointerEvent("pointermove", place));
    hover.push(performance.now() - before);
  }
  return { frame: spans, hover };
}"""


@dataclass(frozen=True)
class PageSpeed:
    """What was measured of a page.

    Attributes
    ----------
    megabytes
        Of the file.
    load
        Seconds until the map is drawn.
    frame, hover
        Milliseconds of each frame while the map moves, and of each look for the cell below the pointer.
    """

    megabytes: float
    load: float
    frame: np.ndarray
    hover: np.ndarray


def write_map_page(folder: Path, n_cells: int, seed: int = 0) -> Path:
    """A page with random cells of 25 types, two values, two more columns and names as long as barcodes."""
    rng = np.random.default_rng(seed)
    types = np.array([f"a type of cells, {number}" for number in range(N_TYPES)], dtype=object)
    codes = rng.integers(0, N_TYPES, n_cells)
    places = 5 * rng.normal(size=(N_TYPES, 2))[codes] + 0.6 * rng.normal(size=(n_cells, 2))
    letters = rng.choice(np.frombuffer(b"ACGT", dtype="S1"), (n_cells, 16))
    cells = MappedCells(
        places,
        types[codes],
        types[codes],
        types[(codes + 1) % N_TYPES],
        {"probability": rng.random(n_cells), "distance": rng.random(n_cells)},
        columns={
            "batch": np.array(list("abcd"), dtype=object)[rng.integers(0, 4, n_cells)],
            "counts": rng.lognormal(8, 1, n_cells),
        },
        wrong=rng.random(n_cells) < 0.01,
        ids=letters.view("S16").ravel().astype(str) + np.array("-1"),
    )
    picture = folder / "map.png"
    picture.write_bytes(_white_png())
    section = Section("Map", maps=[interactive_map(cells, "Random cells", picture)])
    write_report(
        folder / "report.html", "Speed of a page", [section], Verdict("good", "Random cells", ()), Provenance()
    )
    return folder / "report.html"


def _white_png() -> bytes:
    """A picture of one pixel."""
    parts = {b"IHDR": struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), b"IDAT": zlib.compress(b"\0\xff"), b"IEND": b""}
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def browser_path() -> str:
    """Where Chromium is.

    Raises
    ------
    ScDMCError
        If it, or the package that drives it, is not installed.
    """
    try:
        import playwright  # noqa: F401
    except ImportError:
        raise ScDMCError("the package playwright is not installed; `pip install playwright` brings it") from None
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise ScDMCError("Chromium is not installed; `apt install chromium` brings it")
    return path


def measure_page(path: Path, frames: int) -> PageSpeed:
    """Open a page in Chromium without a window, move its map, and hover over it.

    Parameters
    ----------
    path
        The page.
    frames
        How many frames, and places of the pointer.
    """
    executable = browser_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.goto(path.absolute().as_uri())
        page.wait_for_function("document.querySelector('.map .legend').children.length > 0")
        load = page.evaluate("performance.now()") / 1000
        found = page.evaluate(FRAMES, frames)
        browser.close()
    return PageSpeed(path.stat().st_size / 1e6, load, np.array(found["frame"]), np.array(found["hover"]))
