"""Gene modules of a model: clusters of gene embeddings, their activity, and whether known gene sets confirm them."""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.cli.arguments import add_gene_arguments, gene_data_options
from scdmc.cli.parser import argument_parser, fill_in, positive_float, positive_int, script
from scdmc.files import atomic_path, remove, require_new_folder
from scdmc.gene_analysis.data import open_gene_data
from scdmc.gene_analysis.figures import bar_panels_figure, heat_map_figure, histograms_figure, remove_figures
from scdmc.gene_analysis.module_detection import RESOLUTIONS
from scdmc.gene_analysis.modules import ModuleOptions, ModuleResults, analyse_modules
from scdmc.gene_analysis.options import CELLS_PER_GENE, LARGEST_FDR
from scdmc.gene_analysis.sets import read_gene_sets
from scdmc.options import STREAMS
from scdmc.reports.figures import save_figure, umap_figure
from scdmc.reports.page import Section, write_report

OPTIONAL_OUTPUTS = ("enrichment", "consistency", "tests")  # need gene sets
MOST_BARS = 20
PERMUTATIONS = 1000


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of gene modules."""
    parser = argument_parser(__doc__)
    add_gene_arguments(parser, STREAMS)
    parser.add_argument("--gene_sets", type=Path, help="GMT file of gene sets, to test the modules against")
    parser.add_argument("--min_cells", type=positive_int, default=CELLS_PER_GENE, help="cells that must have a gene")
    parser.add_argument(
        "--resolutions", type=positive_float, nargs="+", default=list(RESOLUTIONS),
        help="of Leiden; all are written, the one with the best silhouette is looked at closer",
    )  # fmt: skip
    parser.add_argument("--n_neighbors", type=positive_int, default=15, help="of the neighbour graph of genes")
    parser.add_argument(
        "--permutations", type=positive_int, help=f"random gene sets of the tests; {PERMUTATIONS:,} without it"
    )
    arguments = parser.parse_args(argv)
    fill_in(arguments, {"permutations": PERMUTATIONS}, arguments.gene_sets is not None, "without --gene_sets")
    return arguments


def draw(results: ModuleResults, output_dir: Path, seed: int) -> list[tuple[str, Path]]:
    """Save all figures; returns captions and PNG files."""
    figures = []
    modules = np.array([str(number + 1) for number in results.found.modules], dtype=object)
    title = f"UMAP of {len(modules):,} genes, {results.found.n_modules} modules"
    figure = umap_figure(results.found.coordinates, {"Leiden modules": modules}, title, seed)
    figures.append(("Genes by module (1 is the largest: M1)", save_figure(figure, output_dir / "umap")))
    scaled = results.activity.sub(results.activity.mean(axis=1), axis=0)
    scaled = scaled.div(results.activity.std(axis=1, ddof=0).replace(0, 1), axis=0)
    figure = heat_map_figure(
        scaled, "Where the modules are active", "module score, z over the cell types", "cell type", "module", True
    )
    caption = "Mean scanpy.tl.score_genes of real expression (log1p CP10k), standardised over the types for each module"
    figures.append((caption, save_figure(figure, output_dir / "activity")))
    if results.tests is None:
        return figures
    z = {name: rows["z"].dropna().to_numpy() for name, rows in results.consistency.groupby("method", sort=False)}
    figure = histograms_figure(
        z, "Do the genes of a known set lie together?", "standard deviations above matched random gene sets",
        "gene sets", "random",
    )  # fmt: skip
    figures.append(
        (
            "Mean cosine within each gene set, against matched random sets",
            save_figure(figure, output_dir / "consistency"),
        )
    )
    best = results.modules.dropna(subset=["best_set"]).head(MOST_BARS)
    if len(best):
        bars = pd.Series(-np.log10(best["best_fdr"].to_numpy()), best["module"] + ": " + best["best_set"])
        figure = bar_panels_figure({"": bars}, "Most enriched gene set of each module", "-log10 FDR", 1)
        figures.append((f"Enriched at an FDR below {LARGEST_FDR}", save_figure(figure, output_dir / "enrichment")))
    return figures


@script
def main(argv: list[str] | None = None) -> int:
    """Find modules, score, test, draw."""
    arguments = parse_arguments(argv)
    output_dir = arguments.output_dir
    require_new_folder(output_dir, arguments.overwrite)
    gene_sets = read_gene_sets(arguments.gene_sets) if arguments.gene_sets else None
    data = open_gene_data(arguments.model_path, arguments.data_path, gene_data_options(arguments))
    options = ModuleOptions(
        arguments.stream, arguments.min_cells, tuple(arguments.resolutions), arguments.n_neighbors,
        arguments.permutations, arguments.seed,
    )  # fmt: skip
    results = analyse_modules(data, gene_sets, options, str(arguments.gene_sets))

    remove_figures(output_dir, OPTIONAL_OUTPUTS)  # those of an earlier run would belong to other modules
    for name in OPTIONAL_OUTPUTS:
        remove(output_dir / f"{name}.csv")
    figures = draw(results, output_dir, arguments.seed)
    tables = {name: getattr(results, name) for name in ("genes", "modules", *OPTIONAL_OUTPUTS)}
    tables["activity"] = results.activity.rename_axis("module").reset_index()
    for name, table in tables.items():
        if table is not None:
            with atomic_path(output_dir / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False)
    shown = [("Modules", results.modules)]
    if results.tests is not None:
        shown.append(("Permutation tests: random gene sets of equal expression and degree", results.tests))
        shown.append(("Enriched gene sets, the first 30", results.enrichment.head(30).drop(columns="genes")))
    about = (
        f"{len(results.genes):,} genes seen in at least {options.min_cells} of {len(data.cells):,} cells; the mean "
        f"last-layer state of each ({options.stream} stream), centred; Leiden at resolution "
        f"{results.found.resolution:g}."
    )
    sections = [Section("Verdict", results.verdict), Section("Modules", about, shown)]
    write_report(output_dir / "report.html", "Gene modules", [*sections, Section("Figures", "", [], figures)])
    print(results.verdict)
    print(f"{results.found.n_modules} modules of {len(results.genes):,} genes; wrote {output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
