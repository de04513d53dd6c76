"""The page of generated cells: what was asked, what is nearest to it, how far that is, genes and counts.

Source: docs/pseudo_cells.md, "The page".
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scdmc.cells.shared_genes import log1p_cp10k_of
from scdmc.genes.symbols import gene_symbols
from scdmc.reports.figures import PALETTE, PANEL_INCHES, save_figure, shortened
from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance
from scdmc.text.model import TextSpace
from scdmc.text.pseudo_cells.generator import CellGenerator
from scdmc.text.pseudo_cells.library import QUANTILES
from scdmc.text.pseudo_cells.making import WARNING, MadeOfText

N_TOP_GENES = 10


# Of the texts, so many get a figure of their counts and a table of their genes.
MOST_SHOWN = 8


N_BINS = 30


def write_page(
    path: Path, made: Sequence[MadeOfText], generator: CellGenerator, space: TextSpace, of: Provenance
) -> None:
    """Write the page.

    Parameters
    ----------
    path
        The HTML file.
    made
        Of :func:`scdmc.text.pseudo_cells.making.made_of_texts`.
    generator, space
        What made them.
    of
        From what.
    """
    n_cells = sum(each.cells.counts.shape[0] for each in made)
    few = list(made)[:MOST_SHOWN]
    more = f" The first {MOST_SHOWN} of {len(made)} texts are shown." if len(made) > MOST_SHOWN else ""
    with tempfile.TemporaryDirectory() as folder:
        figures = [_figure_of_counts(each, generator, space, Path(folder) / str(n)) for n, each in enumerate(few)]
        sections = [
            Section(
                "Texts", _words_of_texts(made), tables=[("What was asked, and what is nearest", _texts(made, space))]
            ),
            Section(
                "Genes",
                "Mean ln(1 + CP10k) of the generated cells, of the training cells of the nearest term, and of all "
                f"training terms. Genes are those that stand out most among the generated cells.{more}",
                tables=[(each.candidate.label, top_genes(each, generator)) for each in few],
            ),
            Section(
                "Counts",
                f"Total counts of a cell: generated, and in the training cells of the nearest term.{more}",
                figures=figures,
            ),
        ]
        title = f"{n_cells:,} cells made of {len(made)} text{'s' * (len(made) != 1)}"
        write_report(path, title, sections, _verdict(made, generator, space), of)


def top_genes(each: MadeOfText, generator: CellGenerator) -> pd.DataFrame:
    """The genes that stand out among the cells of a text, against the mean of the training terms."""
    cells = each.cells
    mean = np.asarray(log1p_cp10k_of(cells.counts.astype(np.float32), cells.totals).mean(axis=0)).ravel()
    known = generator.terms.cells.sum(axis=1) > 0
    of_all = generator.terms.expression[known].mean(axis=0)
    best = np.argsort(-(mean - of_all), kind="stable")[:N_TOP_GENES]
    return pd.DataFrame(
        {
            "gene": gene_symbols(generator.genes[best]),
            "generated": mean[best],
            "nearest": generator.terms.expression[cells.place.nearest[0]][best],
            "all": of_all[best],
        }
    )


def _texts(made: Sequence[MadeOfText], space: TextSpace) -> pd.DataFrame:
    rows = []
    for each in made:
        place = each.cells.place
        nearest = [
            f"{space.terms['label'].iloc[row]} ({cosine:.2f})"
            for row, cosine in zip(place.nearest, place.similarities, strict=True)
        ]
        novel = "yes: a guess" if place.is_novel else "no"
        row = (each.candidate.label, each.candidate.cl_id or "", each.cells.counts.shape[0], novel, "; ".join(nearest))
        rows.append(row)
    return pd.DataFrame(rows, columns=["text", "cl_id", "cells", "novel", "nearest terms (similarity)"])


def _words_of_texts(made: Sequence[MadeOfText]) -> str:
    threshold = made[0].cells.place.threshold
    return (
        f"{WARNING} A text is novel where its similarity to the nearest training term is below {threshold:.2f}. "
        "Between related terms the model interpolates; it "
        "knows nothing of strangers."
    )


def _verdict(made: Sequence[MadeOfText], generator: CellGenerator, space: TextSpace) -> Verdict:
    novel = [each for each in made if each.cells.place.is_novel]
    farthest = min(made, key=lambda each: each.cells.place.similarity)
    nearest = space.terms["label"].iloc[farthest.cells.place.nearest[0]]
    counts = np.concatenate([each.cells.totals for each in made])
    numbers = (
        KeyNumber(
            "Least similarity to a training term",
            f"{farthest.cells.place.similarity:.2f}",
            f"{shortened(nearest)}; novel below {farthest.cells.place.threshold:.2f}",
        ),
        KeyNumber(
            "Counts of a cell, median", f"{np.median(counts):,.0f}", f"in {len(generator.genes):,} genes and all others"
        ),
    )
    if not novel:
        return Verdict("good", "Cells of types that the training data have", (WARNING,), numbers)
    level = "bad" if len(novel) == len(made) else "caution"
    headline = f"{len(novel)} of {len(made)} texts are far from all training terms: their cells are a guess"
    return Verdict(level, headline, (WARNING,), numbers)


def _figure_of_counts(each: MadeOfText, generator: CellGenerator, space: TextSpace, stem: Path) -> tuple[str, Path]:
    """Histograms of the counts of the generated cells and of the training cells of the nearest term."""
    row = each.cells.place.nearest[0]
    trained = np.interp(np.linspace(0, 1, 1001), QUANTILES, generator.terms.library[row])
    totals = each.cells.totals
    edges = np.geomspace(min(totals.min(), trained.min()), max(totals.max(), trained.max()) + 1, N_BINS + 1)
    figure = Figure(figsize=(PANEL_INCHES * 1.3, 2.4), layout="constrained")
    axes = figure.subplots()
    for values, colour, name in ((trained, PALETTE[8], "training cells"), (totals, PALETTE[0], "generated cells")):
        heights, _ = np.histogram(values, edges)
        axes.stairs(heights / len(values), edges, color=colour, fill=name == "training cells", alpha=0.6, label=name,
                    linewidth=1.5)  # fmt: skip
    axes.set_xscale("log")
    ticks = [step * 10**power for power in range(7) for step in (1, 2, 5)]
    ticks = [tick for tick in ticks if edges[0] <= tick <= edges[-1]]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("total counts of a cell", fontsize=8)
    axes.set_ylabel("share of cells", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the legend
    axes.legend(fontsize=7, frameon=False, ncols=2, loc="upper center")
    caption = (
        f"{shortened(each.candidate.label)}: {np.median(totals):,.0f} counts in the median; training cells of "
        f"{shortened(space.terms['label'].iloc[row])}: {np.median(trained):,.0f}"
    )
    axes.set_title(shortened(each.candidate.label), fontsize=9)
    return caption, save_figure(figure, stem)
