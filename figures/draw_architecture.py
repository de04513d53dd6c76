"""Draw ``scDMC.png``, the architecture on the first screen of the README."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cli.parser import argument_parser, script
from scdmc.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXAMPLES = ("{prog}", "{prog} --output_file architecture.pdf")

# Okabe and Ito's palette, distinguishable with every common colour blindness.
INK, GREY, PANEL = "#000000", "#4D4D4D", "#F4F4F4"
RANK, EXPRESSION = "#0072B2", "#D55E00"
MASKED_GENES, CONTRAST = "#CC79A7", "#009E73"

WIDTH, HEIGHT, DPI = 16.0, 7.2, 200  # inches, which are the units of all coordinates below
HEADLINE, TITLE, DETAIL = 22, 17, 15.5  # points; a README shows the figure at a third of its size
LINE = 2.6

# A toy cell in canonical order, by ascending Ensembl id: gene and value.
CELL = (("PPY", 0.6), ("GCG", 2.2), ("TTR", 3.1), ("SST", 1.4), ("INS", 4.8))
TASKS = ("annotation", "clustering", "integration", "gene modules", "regulatory\nnetworks", "attention\nanalysis")

# The heights of the two rows: rank stream and encoder, expression stream and momentum encoder.
UPPER, LOWER = 4.95, 2.05


@script
def main(argv: list[str] | None = None) -> int:
    """Write the figure."""
    arguments = parse_arguments(argv)

    import matplotlib as mpl

    with mpl.rc_context({"font.family": "DejaVu Sans"}), atomic_path(arguments.output_file) as temporary:
        # Without matplotlib's version in the file the same drawing gives the same bytes.
        draw().savefig(temporary, dpi=DPI, metadata={"Software": None})
    logging.info("%s", arguments.output_file)
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argument_parser("Draw the architecture of scDMC.", EXAMPLES)
    default = Path(__file__).parent.parent / "scDMC.png"
    parser.add_argument("--output_file", type=Path, default=default, help="the figure")
    return parser.parse_args(argv)


def draw() -> "Figure":
    """Draw the three stages, from the counts on the left to the tasks on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")
    panel(axes, 0.15, 6.3, "1  Tokenize")
    panel(axes, 7.15, 5.65, "2  Pre-train")
    panel(axes, 13.35, 2.5, "3  Use")
    draw_cell(axes)
    by_expression = sorted(CELL, key=lambda gene: gene[1], reverse=True)
    draw_stream(axes, UPPER, by_expression, "TTR", RANK, "Rank stream", "sorted by expression")
    draw_stream(axes, LOWER, CELL, "SST", EXPRESSION, "Expression stream", "fixed order, with values")
    draw_values(axes)
    draw_encoders(axes)
    draw_objectives(axes)
    draw_tasks(axes)
    return figure


def draw_cell(axes: "Axes") -> None:
    """Draw the counts of one cell and their way into both streams."""
    middle, step = (UPPER + LOWER) / 2, 0.44
    for row, (gene, value) in enumerate(reversed(CELL)):
        y = middle + (row - 2) * step
        write(axes, 0.38, y, gene, DETAIL, ha="left")
        rectangle(axes, (0.95, y - 0.13), (0.22 * value, 0.26), color=GREY, linewidth=0)
    write(axes, 1.15, middle + 1.45, "Counts of\none cell", TITLE, weight="bold")
    arrow(axes, (2.0, middle + 0.6), (2.6, UPPER - 0.3), RANK)
    arrow(axes, (2.0, middle - 0.6), (2.6, LOWER + 0.3), EXPRESSION)


def draw_stream(axes: "Axes", y: float, genes: list | tuple, masked: str, color: str, title: str, detail: str) -> None:
    """Draw one sequence of tokens with its masked gene."""
    x, size = 2.75, 0.58
    write(axes, x, y + 0.98, title, TITLE, ha="left", weight="bold", color=color)
    write(axes, x, y + 0.6, detail, DETAIL, ha="left", color=GREY)
    for index, token in enumerate(["cls", *(gene for gene, _ in genes)]):
        face, ink, text = (color, "white", "?") if token == masked else ("white", INK, token)
        left = x + index * size
        rectangle(axes, (left, y - size / 2), (size, size), facecolor=face, edgecolor=color, linewidth=LINE)
        write(axes, left + size / 2, y, text, DETAIL - 1.5, color=ink, weight="bold" if text == "?" else "normal")


def draw_values(axes: "Axes") -> None:
    """Write the values below the expression stream and explain the masked genes."""
    for index, (_, value) in enumerate(CELL, start=1):
        write(axes, 2.75 + (index + 0.5) * 0.58, LOWER - 0.5, f"{value:.1f}", DETAIL - 0.5, color=EXPRESSION)
    write(axes, 3.3, 0.65, "?   masked: 15% of the genes, in both streams", DETAIL, color=GREY)


def draw_encoders(axes: "Axes") -> None:
    """Draw the encoder, its momentum copy and what feeds them: each sees both streams."""
    left, width, height = 7.45, 2.15, 1.7
    box(axes, (left, UPPER - height / 2), (width, height), INK, "ALiBi BERT\nencoder", "trained")
    box(axes, (left, LOWER - height / 2), (width, height), INK, "Momentum\nencoder", "no gradient", linestyle="--")
    start, end = 6.33, left - 0.08
    arrow(axes, (start, UPPER + 0.1), (end, UPPER + 0.3), RANK)
    arrow(axes, (start, UPPER - 0.1), (end, LOWER + 0.3), RANK)
    arrow(axes, (start, LOWER + 0.1), (end, UPPER - 0.3), EXPRESSION)
    arrow(axes, (start, LOWER - 0.1), (end, LOWER - 0.3), EXPRESSION)
    x = left + 0.6
    arrow(axes, (x, UPPER - height / 2 - 0.08), (x, LOWER + height / 2 + 0.08), INK, linestyle="--")
    write(axes, x + 0.2, (UPPER + LOWER) / 2, "EMA\nm = 0.995", DETAIL, ha="left", color=GREY)


def draw_objectives(axes: "Axes") -> None:
    """Draw the two self-supervised tasks."""
    left, width, height = 10.4, 2.25, 1.7
    box(axes, (left, UPPER - height / 2), (width, height), MASKED_GENES, "Masked genes", "predicted in\nboth streams")
    detail = "cls of one\nstream with cls\nof the other"
    box(axes, (left, LOWER - height / 2), (width, height), CONTRAST, "Contrast", detail)
    start, end = 9.68, left - 0.08
    arrow(axes, (start, UPPER), (end, UPPER), MASKED_GENES)
    arrow(axes, (start, UPPER - 0.6), (end, LOWER + 0.5), CONTRAST)
    arrow(axes, (start, LOWER), (end, LOWER), CONTRAST)
    write(axes, 10.25, (UPPER + LOWER) / 2, "queries", DETAIL, ha="left", color=GREY)
    write(axes, (start + end) / 2, LOWER - 0.25, "keys", DETAIL, color=GREY)
    write(axes, 9.98, 0.65, "loss = rank MLM + expression MLM + contrast", DETAIL, color=GREY)


def draw_tasks(axes: "Axes") -> None:
    """List what the trained encoder serves."""
    left, width, height, step = 13.47, 2.26, 0.78, 0.96
    arrow(axes, (12.82, (UPPER + LOWER) / 2), (13.33, (UPPER + LOWER) / 2), INK)
    for row, task in enumerate(TASKS):
        top = 6.15 - row * step
        box(axes, (left, top - height), (width, height), INK, task, "")


def panel(axes: "Axes", left: float, width: float, title: str) -> None:
    """Draw the background and the title of a stage."""
    rounded(axes, (left, 0.2), (width, HEIGHT - 0.4), 0.2, facecolor=PANEL, linewidth=0)
    write(axes, left + 0.25, HEIGHT - 0.62, title, HEADLINE, ha="left", weight="bold")


def box(axes: "Axes", corner: tuple, size: tuple, color: str, title: str, detail: str, linestyle: str = "-") -> None:
    """Draw a rounded box with a bold title above a few words."""
    rounded(axes, corner, size, 0.15, facecolor="white", edgecolor=color, linewidth=LINE, linestyle=linestyle)
    x, middle = corner[0] + size[0] / 2, corner[1] + size[1] / 2
    # Title and detail share the middle in proportion to their numbers of lines.
    line = 0.29
    n_title, n_detail = (len(text.splitlines()) for text in (title, detail))
    write(axes, x, middle + n_detail * line / 2, title, TITLE, weight="bold", linespacing=1.15)
    write(axes, x, middle - n_title * line / 2, detail, DETAIL, color=GREY, linespacing=1.15)


def rectangle(axes: "Axes", corner: tuple, size: tuple, **options: object) -> None:
    """Draw a rectangle."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle(corner, *size, **options))


def rounded(axes: "Axes", corner: tuple, size: tuple, radius: float, **options: object) -> None:
    """Draw a rectangle with round corners."""
    from matplotlib.patches import FancyBboxPatch

    style = f"round,pad=0,rounding_size={radius}"
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, **options))


def write(axes: "Axes", x: float, y: float, text: str, size: float, **options: str) -> None:
    """Write text, centred unless told otherwise."""
    axes.text(x, y, text, fontsize=size, **({"ha": "center", "va": "center", "color": INK} | options))


def arrow(axes: "Axes", start: tuple, end: tuple, color: str, linestyle: str = "-") -> None:
    """Draw a straight arrow."""
    from matplotlib.patches import FancyArrowPatch

    head = {"arrowstyle": "-|>", "mutation_scale": 24, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, **head, linewidth=LINE, color=color, linestyle=linestyle))


if __name__ == "__main__":
    raise SystemExit(main())
