"""Pages in a real browser: they move, sort and answer, ask nobody outside for anything, and can be used by all.

Needs the package playwright and Chromium; the check of accessibility needs axe-core too (`npm install axe-core` in the
root of the repository, or AXE_CORE with the path of axe.min.js).
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from scdmc.annotation.embedding_page import EmbeddedFile, write_embedding_page
from scdmc.annotation.new_cells_page import write_new_cells_page
from scdmc.cells.cluster_page import write_cluster_page
from scdmc.cells.cluster_results import Clustering
from scdmc.cells.cluster_stability import Stability
from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance
from scdmc.reports.site import find_pages, write_site
from scdmc.studies.page_speed import write_map_page
from scdmc.training.results import draw_loss_curves
from scdmc.training.run_page import write_run_page
from scdmc.training.run_state import RUNNING
from tests.annotation.test_new_cells_page import labelled_cells
from tests.conftest import ROOT
from tests.reports.gene_pages import attention_page, modules_page, networks_page
from tests.reports.task_pages import (
    demo_page,
    fine_tuning_page,
    integration_page,
    labels_page,
    learning_curve_page,
    perturbation_page,
    tokens_page,
)
from tests.undrawn import save_no_figure

pytestmark = pytest.mark.slow

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

WIDTHS, SCHEMES = (1300, 400), ("light", "dark")
SERIOUS = ("serious", "critical")
# Of a page of a task, and of its figures in base64; those of millions of colours have 0.5 letters a pixel.
MOST_BYTES, MOST_LETTERS_OF_PIXEL = 2_000_000, 0.25


def plain_page(folder):
    """A verdict with numbers, wide tables with bold text, no map."""
    table = pd.DataFrame({
        "method": [f"method {number}" for number in range(15)],
        "score": [f"0.{number * 37 % 1000:03} ± 0.010" for number in range(1, 16)],
        "cells": np.arange(15) * 1001,
        **{f"a rather long name of column {number}": 0.5 for number in range(8)},
    })  # fmt: skip
    wide = pd.DataFrame({"method": ["ours", "theirs"], **{f"score {number}": [0.5, 0.6] for number in range(12)}})
    numbers = tuple(KeyNumber(name, "0.9", "0.8 for PCA") for name in ("One", "Two", "Three"))
    sections = [
        Section("Scores", "Text.", [("All scores", table)], points=["a point"]),
        Section("Folded", tables=[("All scores", table)], folds=True),
        Section("Turned", tables=[("Few methods", wide)]),
    ]
    lead = Verdict("caution", "Look twice", ("A reason.",), numbers)
    write_report(folder / "report.html", "Plain", sections, lead, Provenance((ROOT / "LICENSE",), "a model", 1))
    return folder / "report.html"


def cluster_page(folder):
    """Three clusters, one of them weak."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(["0", "1", "2"], [60, 40, 20])
    points = rng.normal(size=(120, 2)) + 6 * np.repeat(np.eye(3)[:, :2], [60, 40, 20], axis=0)
    stability = Stability(0.9, {"0": 1.0, "1": 0.9, "2": 0.3})
    clustering = Clustering(points, None, 1.0, clusters, points, stability, None, "umap")
    labels = np.where(clusters == "0", "alpha", "beta").astype(object)
    scores = pd.DataFrame({"ARI": [0.7], "NMI": [0.6]}, index=["scDMC zero-shot"])
    names = np.array([f"cell-{number}" for number in range(120)])
    made = Provenance(seed=0)
    write_cluster_page(
        folder, {"scDMC zero-shot": clustering}, ("cell_type", labels), pd.DataFrame(), scores, made, names
    )
    return folder / "report.html"


def new_cells_page(folder):
    """Labels of new cells."""
    write_new_cells_page(folder, labelled_cells(ROOT / "tests" / "data" / "islets_300.h5ad"), Provenance())
    return folder / "report.html"


def embedding_page(folder):
    """Embedded cells of two types, two of which have no place."""
    rng = np.random.default_rng(0)
    place = np.concatenate([rng.normal(size=(80, 2)), np.full((2, 2), np.nan)])
    obs = pd.DataFrame({"cell_type": pd.Categorical(np.where(np.arange(82) % 2, "alpha", "beta"))})
    coverage = {"share of counts lost": 0.03, "genes": 3000, "genes matched": 2800}
    write_embedding_page(folder / "report.html", EmbeddedFile(82, 80, 64, coverage, obs, place), Provenance(seed=0))
    return folder / "report.html"


def run_page(folder):
    """A pre-training run that goes on."""
    losses = {"mlm_rank_loss": 5.0, "mlm_expression_loss": 5.1, "contrastive_loss": 2.0}
    history = [
        {"step": 10 * number, **{f"eval_{name}": value - number for name, value in {"loss": 12.1, **losses}.items()}}
        for number in range(3)
    ]
    draw_loss_curves(history, {}, folder)
    write_run_page(folder, history, {}, (100, RUNNING), Provenance(model="a new model", seed=0))
    return folder / "report.html"


def site_index(folder):
    """The index of two runs."""
    for write in (plain_page, run_page):
        (folder / write.__name__).mkdir()
        write(folder / write.__name__)
    (folder / "site").mkdir()
    write_site(folder / "site", find_pages([folder], folder / "site"))
    return folder / "site" / "index.html"


# Every kind of page: what writes one into a folder and gives its path. Add the page of a new task here.
PAGES = {
    "plain": plain_page,
    "clusters": cluster_page,
    "new cells": new_cells_page,
    "embedding": embedding_page,
    "run": run_page,
    "site": site_index,
    "integration": integration_page,
    "fine-tuning": fine_tuning_page,
    "perturbation": perturbation_page,
    "tokens": tokens_page,
    "modules": modules_page,
    "networks": networks_page,
    "attention": attention_page,
    "learning curve": learning_curve_page,
    "labels": labels_page,
    "demo": demo_page,
    "many cells": lambda folder: write_map_page(folder, 20_000),
}


def without_pdf(save_drawn):
    """``Figure.savefig`` that draws no PDF, which no page shows: half of the time."""

    def save(figure, file, **more):
        (save_no_figure if isinstance(file, Path) and file.suffix == ".pdf" else save_drawn)(figure, file, **more)

    return save


@pytest.fixture(scope="module")
def page_path(tmp_path_factory, request):
    """A function that gives the path of a page of some kind, written once."""
    written = {}

    def path(kind):
        if kind not in written:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Figure, "savefig", without_pdf(Figure.savefig))
                written[kind] = PAGES[kind](tmp_path_factory.mktemp("page"))
        return written[kind]

    return path


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, page_path):
    """A function that opens a page of some kind, and what it complains of: errors, and requests to others."""
    contexts = []

    def open_page(kind, width=1300, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page, complaints = context.new_page(), []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        outside = lambda request: not request.url.startswith(("file:", "data:", "blob:"))  # noqa: E731
        page.on("request", lambda request: complaints.append(request.url) if outside(request) else None)
        page.goto(page_path(kind).as_uri())
        return page, complaints

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("kind", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_fits_its_screen_is_light_and_complains_of_nothing(opened, page_path, kind, width):
    page, complaints = opened(kind, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page_path(kind).stat().st_size < MOST_BYTES
    letters = page.evaluate(
        "[...document.images].map((of) => of.src.length / Math.max(of.naturalWidth * of.naturalHeight, 1e4))"
    )
    assert max(letters, default=0) < MOST_LETTERS_OF_PIXEL
    assert page.locator("h2").last.inner_text() == "How it was made"
    assert complaints == []


def test_a_click_sorts_a_column_by_its_means_and_a_second_turns_it_round(opened):
    page, complaints = opened("plain")
    table = page.locator("table").first
    column = table.locator("tbody td:nth-child(2)")
    table.get_by_role("button", name="score").click()
    falling = [float(text.split(" ± ")[0]) for text in column.all_inner_texts()]
    assert falling == sorted(falling, reverse=True)
    table.get_by_role("button", name="score").click()
    assert [float(text.split(" ± ")[0]) for text in column.all_inner_texts()] == falling[::-1]
    page.get_by_placeholder("Filter rows").first.fill("method 14")
    assert table.locator("tbody tr:visible").count() == 1
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").first.click()
    saved = Path(download.value.path()).read_text(encoding="utf8").splitlines()
    assert [line.split(",")[0] for line in saved] == ['"method"', '"method 14"']
    assert complaints == []


def test_a_turned_table_whose_columns_hold_different_scores_offers_no_sort(opened):
    page, complaints = opened("plain")
    assert page.locator(".turned thead").inner_text().split() == ["score", "ours", "theirs"]
    assert page.locator(".turned thead button").count() == 0
    assert page.locator("table").first.locator("thead button").count() > 0
    assert complaints == []


def test_on_a_phone_a_wide_figure_scrolls_and_says_so_and_a_narrow_one_fits(opened):
    page, complaints = opened("attention", 400)
    pictures = page.evaluate(
        "[...document.querySelectorAll('.picture')].map((box) => [box.classList.contains('scrolls'), "
        "box.scrollWidth > box.clientWidth, box.tabIndex === 0, "
        "getComputedStyle(box.parentElement.querySelector('figcaption'), '::after').content])"
    )
    assert {tuple(picture) for picture in pictures} == {
        (True, True, True, '" (swipe to see all of it)"'), (False, False, False, "none")
    }  # fmt: skip
    assert complaints == []


@pytest.mark.parametrize("kind", ["clusters", "new cells", "embedding", "labels", "many cells"])
def test_a_map_tells_of_the_cell_below_the_pointer_and_of_the_one_that_was_searched(opened, kind):
    page, complaints = opened(kind)
    canvas, tip = page.locator(".map canvas"), page.locator(".map .tip")
    canvas.scroll_into_view_if_needed()
    canvas.focus()
    page.keyboard.press("Enter")  # the cell in the middle
    assert "of the file" in tip.inner_text()
    cell = tip.inner_text().splitlines()[0]
    page.keyboard.press("0")
    page.get_by_label("Find a type or cell").fill(cell)
    assert tip.inner_text().splitlines()[0] == cell
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)  # where the search has put it
    assert cell in tip.inner_text() or "of the file" in tip.inner_text()
    assert complaints == []


def test_a_lasso_says_what_is_within_it_and_every_column_colours(opened):
    page, complaints = opened("clusters")
    canvas = page.locator(".map canvas")
    canvas.scroll_into_view_if_needed()
    page.get_by_role("button", name="Lasso").click()
    box = canvas.bounding_box()
    corners = [(2, 2), (box["width"] - 2, 2), (box["width"] - 2, box["height"] - 2), (2, box["height"] - 2), (2, 3)]
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    for left, top in corners[1:]:
        page.mouse.move(box["x"] + left, box["y"] + top, steps=3)
    page.mouse.up()
    assert page.locator(".map .count").inner_text() == "120 cells chosen"
    assert page.locator(".map .chosen li").all_inner_texts() == [
        "0: alpha: 60 (50%)", "1: beta: 40 (33%)", "2: beta: 20 (17%)"
    ]  # fmt: skip
    page.get_by_label("Colour").select_option(label="cell_type")
    page.get_by_role("button", name="beta").click()
    assert page.locator(".map .count").inner_text() == "60 cells chosen"
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Choose none").click()
    assert page.locator(".map .chosen li").count() == 0
    assert complaints == []


def test_the_page_of_a_run_loads_itself_anew_unless_the_mark_is_taken_away(opened):
    page, complaints = opened("run")
    page.clock.install()
    page.reload()
    page.evaluate("window.isOld = true")
    page.get_by_label("Load this page anew every 30 s").uncheck()
    page.clock.run_for(60_000)
    assert page.evaluate("window.isOld") is True
    page.get_by_label("Load this page anew every 30 s").check()
    with page.expect_navigation():
        page.clock.run_for(31_000)
    assert page.evaluate("window.isOld") is None
    assert complaints == []


def axe_source():
    """The script of axe-core, or None."""
    places = [Path(os.environ.get("AXE_CORE", "")), ROOT / "node_modules" / "axe-core" / "axe.min.js"]
    return next((place for place in places if place.is_file()), None)


@pytest.mark.skipif(axe_source() is None, reason="axe-core is not installed (npm install axe-core)")
@pytest.mark.parametrize("kind", [kind for kind in PAGES if kind != "many cells"])  # a map as that of the clusters
@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_serious_hindrance_to_anybody(opened, kind, scheme):
    page, _ = opened(kind, 1300 if scheme == "light" else 400, scheme)
    # The page itself forbids scripts from elsewhere; this one is put in by the browser.
    page.evaluate(axe_source().read_text(encoding="utf8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    serious = [
        (item["id"], item["help"], [node["html"][:120] for node in item["nodes"][:3]])
        for item in found
        if item["impact"] in SERIOUS
    ]
    assert not serious, json.dumps(serious, indent=1)
