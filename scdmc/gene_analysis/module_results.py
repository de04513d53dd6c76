"""What the search for gene modules leaves: tables, figures, and one page that shows them."""

from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.gene_analysis.figures import bar_panels_figure, heat_map_figure, histograms_figure
from scdmc.gene_analysis.modules import METHOD, ModuleResults
from scdmc.gene_analysis.options import LARGEST_FDR, ModuleOptions
from scdmc.gene_analysis.verdicts import module_verdict
from scdmc.reports.figures import save_figure, shortened, umap_figure
from scdmc.reports.page import Figures, Section, write_report
from scdmc.reports.provenance import Provenance
from scdmc.reports.tables import write_csv_files
from scdmc.result_folders import keep_results

OPTIONAL_OUTPUTS = ("enrichment", "consistency", "tests")  # need gene sets


MOST_BARS = 20


CLEARLY_ACTIVE = 1.5  # standard deviations over the types


# Of n numbers none lies more than sqrt(n - 1) standard deviations above their mean: of three types never one that far.
FEWEST_TYPES = 4


def write_module_results(
    output_dir: Path, results: ModuleResults, options: ModuleOptions, n_cells: int, made: Provenance
) -> None:
    """Write the tables, the figures and ``report.html``.

    Parameters
    ----------
    output_dir
        Where to.
    results
        From :func:`scdmc.gene_analysis.modules.analyse_modules`.
    options
        How they were found.
    n_cells
        Cells that were read.
    made
        From what.
    """
    tables = {name: getattr(results, name) for name in ("genes", "modules", *OPTIONAL_OUTPUTS)}
    tables["activity"] = results.activity.rename_axis("module").reset_index()
    write_csv_files(output_dir, {name: table for name, table in tables.items() if table is not None})
    keep_results(output_dir)
    figures = draw(results, output_dir, options.seed)
    shown = [("Modules", results.modules)]
    if results.tests is not None:
        shown.append(("Permutation tests: random gene sets of equal expression and degree", results.tests))
        shown.append(("Enriched gene sets, the first 30", results.enrichment.head(30).drop(columns="genes")))
    about = (
        f"{len(results.genes):,} genes seen in at least {options.min_cells} of {n_cells:,} cells; the mean "
        f"last-layer state of each ({options.stream} stream), centred; Leiden at resolution "
        f"{results.found.resolution:g}."
    )
    sections = [
        Section("Figures", figures=figures),
        Section("In words", results.verdict),
        Section("Modules", about, shown),
    ]
    title = f"{results.found.n_modules} modules of {len(results.genes):,} genes"
    write_report(output_dir / "report.html", title, sections, module_verdict(results), made)


def draw(results: ModuleResults, output_dir: Path, seed: int) -> Figures:
    """Save all figures; returns captions and PNG files."""
    figures = []
    modules = np.array([str(number + 1) for number in results.found.modules], dtype=object)
    title = f"UMAP of {len(modules):,} genes, {results.found.n_modules} modules"
    figure = umap_figure(results.found.coordinates, {"Leiden modules": modules}, title, seed)
    largest = int(np.unique(results.found.modules, return_counts=True)[1].max())
    caption = f"The largest of {results.found.n_modules} modules, 1, has {largest:,} of {len(modules):,} genes"
    figures.append((caption, save_figure(figure, output_dir / "umap")))
    if results.activity.notna().any(axis=None):
        figures.append(_activity_figure(results, output_dir))
    if results.tests is None:
        return figures
    z = {name: rows["z"].dropna().to_numpy() for name, rows in results.consistency.groupby("method", sort=False)}
    ours = z[METHOD]
    title = f"The genes of {(ours > 0).sum():,} of {len(ours):,} known sets lie closer together than random genes"
    figure = histograms_figure(z, title, "standard deviations above matched random gene sets", "gene sets", "random")
    caption = "Mean cosine within each gene set, against matched random sets"
    figures.append((caption, save_figure(figure, output_dir / "consistency"), f"{title}. {caption}"))
    best = results.modules.dropna(subset=["best_set"]).head(MOST_BARS)
    if len(best):
        bars = pd.Series(-np.log10(best["best_fdr"].to_numpy()), best["module"] + ": " + best["best_set"])
        top = best.loc[best["best_fdr"].idxmin()]
        title = f"{shortened(top['best_set'])} is enriched most, in {top['module']}"
        figure = bar_panels_figure({"": bars}, title, "-log10 FDR", 1)
        caption = f"Most enriched gene set of each module, at an FDR below {LARGEST_FDR}"
        figures.append((caption, save_figure(figure, output_dir / "enrichment"), f"{title}. {caption}"))
    return figures


def _activity_figure(results: ModuleResults, output_dir: Path) -> tuple[str, Path, str]:
    """Caption, file and alternative text of the heat map of modules by cell types."""
    scaled = results.activity.sub(results.activity.mean(axis=1), axis=0)
    scaled = scaled.div(results.activity.std(axis=1, ddof=0).replace(0, 1), axis=0)
    title = activity_title(scaled)
    figure = heat_map_figure(scaled, title, "module score, z over types", "cell type", "module", True)
    caption = (
        f"Mean scanpy.tl.score_genes of real expression (log1p CP10k), standardised over the types for each module; "
        f"active: {CLEARLY_ACTIVE:g} standard deviations or more"
    )
    return caption, save_figure(figure, output_dir / "activity"), f"{title}. {caption}"


def activity_title(scaled: pd.DataFrame) -> str:
    """The finding of the heat map: how many modules stand out in a type, where there are enough types to tell.

    Parameters
    ----------
    scaled
        Standardised over the types, shape (n_modules, n_types).
    """
    if scaled.shape[1] < FEWEST_TYPES:
        return f"{len(scaled):,} modules in {scaled.shape[1]} types, too few to say in which one a module stands out"
    active = int((scaled.max(axis=1) >= CLEARLY_ACTIVE).sum())
    return f"{active:,} of {len(scaled):,} modules are active in some type more than in most"
