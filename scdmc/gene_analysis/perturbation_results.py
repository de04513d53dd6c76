"""What in-silico perturbation leaves: a table, figures, and one page that shows them."""

from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.gene_analysis.figures import heat_map_figure
from scdmc.gene_analysis.options import LARGEST_FDR, ScreenOptions
from scdmc.gene_analysis.perturbation import STATISTICS, rows_needed
from scdmc.gene_analysis.verdicts import screen_verdict
from scdmc.reports.figures import save_figure
from scdmc.reports.page import Figures, Section, write_report
from scdmc.reports.provenance import Provenance
from scdmc.reports.tables import write_csv_files
from scdmc.result_folders import keep_results

MOST_ROWS = 40


LABELS = {
    "shift": "shift of the cells' state",
    "own_probability": "change of the probability of their own type",
    "towards_goal": "way towards the goal",
    "goal_probability": "change of the probability of the goal",
}


UNITS = {
    "shift": "1 - cosine",
    "own_probability": "change of probability",
    "towards_goal": "share of the way",
    "goal_probability": "change of probability",
}


def write_screen_results(output_dir: Path, table: pd.DataFrame, options: ScreenOptions, made: Provenance) -> str:
    """Write the table, the figures and ``report.html``; returns the verdict.

    Parameters
    ----------
    output_dir
        Where to.
    table
        From :func:`scdmc.gene_analysis.perturbation.screen_genes`.
    options
        How genes were perturbed.
    made
        From what.
    """
    write_csv_files(output_dir, {"perturbations": table})
    keep_results(output_dir)
    figures = draw(table, output_dir)
    text = verdict(table, options)
    about = (
        f"At most {options.max_cells} cells of a type for each gene; {options.null_draws} random genes (or sets) of "
        f"similar frequency and rank, each in cells of the same type that have it. The smallest p possible is "
        f"{1 / (1 + options.null_draws):.3g}; of {len(table)} rows {rows_needed(len(table), options.null_draws)} must "
        f"have it before one has an FDR below {LARGEST_FDR}."
    )
    sections = [
        Section("Figures", figures=figures),
        Section("In words", text),
        Section("Perturbations", about, [("By type and gene", table)]),
    ]
    genes, types = table["perturbed"].nunique(), table["cell_type"].nunique()
    title = (
        f"{genes} {'gene or set' if genes == 1 else 'genes and sets'} {options.edit}d in silico in {types} cell types"
    )
    write_report(output_dir / "report.html", title, sections, screen_verdict(table, options, LABELS), made)
    return text


def verdict(table: pd.DataFrame, options: ScreenOptions) -> str:
    """What the screen says, in plain words."""
    texts, null_draws = [], options.null_draws
    needed = rows_needed(len(table), null_draws)
    if needed > len(table):
        texts.append(f"With {null_draws} random genes no FDR can be below {LARGEST_FDR}: raise --null_draws.")
    elif needed > 1:
        texts.append(
            f"With {null_draws} random genes nothing has an FDR below {LARGEST_FDR} unless {needed} rows of the table "
            "lie beyond all of these: raise --null_draws to find single hits."
        )
    for name in STATISTICS:
        if f"{name}_fdr" in table:
            hits = table[table[f"{name}_fdr"] < LARGEST_FDR].sort_values(f"{name}_p", kind="stable")
            shown = "; ".join(f"{row.perturbed} in {row.cell_type}" for row in hits.head(5).itertuples())
            n_hits = f"{len(hits)} of {len(table)} beyond matched random genes (FDR below {LARGEST_FDR})"
            texts.append(f"{LABELS[name].capitalize()}: {n_hits}{': ' + shown if shown else ''}.")
    return f"Genes were {options.edit}d in silico. " + " ".join(texts)


def readable(wide: pd.DataFrame, unit: str) -> tuple[pd.DataFrame, str]:
    """Numbers that are all small in a power of ten that two decimals can show, and the unit that says so."""
    largest = np.nanmax(np.abs(wide.to_numpy(dtype=float)), initial=0.0)
    if largest == 0 or largest >= 0.1:
        return wide, unit
    power = int(np.floor(np.log10(largest)))
    return wide / 10.0**power, f"{unit}, times 1e{power}"


def draw(table: pd.DataFrame, output_dir: Path) -> Figures:
    """Save a heat map of each statistic; returns captions and PNG files."""
    figures = []
    for name in STATISTICS:
        if name in table:
            wide = table.pivot(index="perturbed", columns="cell_type", values=name)
            wide = wide.loc[wide.abs().max(axis=1).sort_values(ascending=False, kind="stable").index].head(MOST_ROWS)
            fdr = table.pivot(index="perturbed", columns="cell_type", values=f"{name}_fdr").loc[wide.index]
            strongest = wide.abs().stack().dropna()
            of, in_type = strongest.idxmax() if len(strongest) else ("nothing", "any type")
            title = f"{LABELS[name].capitalize()}: most for {of} in {in_type}"
            wide, unit = readable(wide, UNITS[name])
            figure = heat_map_figure(
                wide,
                f"{title} (* FDR below {LARGEST_FDR})",
                unit,
                "cell type",
                "perturbed",
                name != "shift",
                ".2f",
                fdr < LARGEST_FDR,
            )
            caption = f"Every gene in every cell type ({unit}; blank: no cell has the gene)"
            figures.append((caption, save_figure(figure, output_dir / name), f"{title}. {caption}"))
    return figures
