"""In-silico knock-out or over-expression of genes: shift of cell states and types, against matched random genes."""

import argparse
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.cli.arguments import add_gene_arguments, gene_data_options
from scdmc.cli.parser import argument_parser, fill_in, positive_int, script
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, require_new_folder
from scdmc.gene_analysis.data import GeneData, open_gene_data
from scdmc.gene_analysis.edits import EDITS
from scdmc.gene_analysis.figures import heat_map_figure, remove_figures
from scdmc.gene_analysis.options import LARGEST_FDR
from scdmc.gene_analysis.perturbation import STATISTICS, ScreenOptions, rows_needed, screen_genes
from scdmc.gene_analysis.sets import read_gene_sets
from scdmc.genes.symbols import tokens_of_genes
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.options import STREAMS
from scdmc.reports.figures import save_figure
from scdmc.reports.page import Section, write_report

logger = logging.getLogger(__name__)

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


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of in-silico perturbation."""
    parser = argument_parser(__doc__)
    add_gene_arguments(parser, ("rank", *(name for name in STREAMS if name != "rank")))
    parser.set_defaults(stream=None)  # a classifier brings its own
    parser.add_argument("--genes", nargs="+", default=[], metavar="GENE", help="symbols or Ensembl ids, one by one")
    parser.add_argument("--gene_sets", type=Path, help="GMT file: the genes of each set are perturbed together")
    parser.add_argument("--perturbation", choices=EDITS, default="remove", help="knock-out, or over-expression")
    parser.add_argument("--goal", metavar="TYPE", help="cell type that the cells might move towards")
    parser.add_argument("--max_cells", type=positive_int, default=10, help="cells of each type, drawn with the seed")
    parser.add_argument("--null_draws", type=positive_int, default=100, help="matched random genes for each gene")
    return parser.parse_args(argv)


def tokens_to_perturb(arguments: argparse.Namespace, data: GeneData) -> dict[str, np.ndarray]:
    """Name -> tokens, of --genes and --gene_sets; genes of a set that the vocabulary lacks are left out.

    Raises
    ------
    ScDMCError
        If a name stands for a gene and for a set, or nothing is left.
    """
    vocabulary = data.model_directory.vocabulary
    tokens = tokens_of_genes(arguments.genes, vocabulary, "--genes")
    chosen = {str(symbol): tokens[[place]] for place, symbol in enumerate(data.symbols(tokens))}
    for name, genes in (read_gene_sets(arguments.gene_sets) if arguments.gene_sets else {}).items():
        if name in chosen:
            raise ScDMCError(f"{name} is one of --genes and a set of {arguments.gene_sets}; rename the set")
        known = []
        for gene in genes:
            try:
                known += tokens_of_genes([gene], vocabulary, name).tolist()
            except ScDMCError:
                continue
        if len(known) < len(genes):
            unknown = len(genes) - len(known)
            logger.info("%s: %d of %d genes are not in the model's vocabulary", name, unknown, len(genes))
        if known:
            chosen[name] = np.array(known)
    if not chosen:
        raise ScDMCError("nothing to perturb: name --genes, or --gene_sets with genes of the vocabulary")
    return chosen


def verdict(table: pd.DataFrame, edit: str, null_draws: int) -> str:
    """What the screen says, in plain words."""
    texts = []
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
    return f"Genes were {edit}d in silico. " + " ".join(texts)


def readable(wide: pd.DataFrame, unit: str) -> tuple[pd.DataFrame, str]:
    """Numbers that are all small in a power of ten that two decimals can show, and the unit that says so."""
    largest = np.nanmax(np.abs(wide.to_numpy(dtype=float)), initial=0.0)
    if largest == 0 or largest >= 0.1:
        return wide, unit
    power = int(np.floor(np.log10(largest)))
    return wide / 10.0**power, f"{unit}, times 1e{power}"


def draw(table: pd.DataFrame, output_dir: Path) -> list[tuple[str, Path]]:
    """Save a heat map of each statistic; returns captions and PNG files."""
    figures = []
    for name in STATISTICS:
        if name in table:
            wide = table.pivot(index="perturbed", columns="cell_type", values=name)
            wide = wide.loc[wide.abs().max(axis=1).sort_values(ascending=False, kind="stable").index].head(MOST_ROWS)
            fdr = table.pivot(index="perturbed", columns="cell_type", values=f"{name}_fdr").loc[wide.index]
            title = f"{LABELS[name].capitalize()} (* FDR below {LARGEST_FDR})"
            wide, unit = readable(wide, UNITS[name])
            figure = heat_map_figure(
                wide, title, unit, "cell type", "perturbed", name != "shift", ".2f", fdr < LARGEST_FDR
            )
            caption = f"{title}, {unit}; blank: no cell has the gene"
            figures.append((caption, save_figure(figure, output_dir / name)))
    return figures


@script
def main(argv: list[str] | None = None) -> int:
    """Perturb, compare with chance, draw."""
    arguments = parse_arguments(argv)
    output_dir = arguments.output_dir
    require_new_folder(output_dir, arguments.overwrite)
    data = open_gene_data(arguments.model_path, arguments.data_path, gene_data_options(arguments, all_types=True))
    is_classifier = isinstance(data.model, ScDMCForCellClassification)
    fill_in(arguments, {"stream": "rank"}, not is_classifier, "with a classifier, which reads what it was trained on")
    chosen = tokens_to_perturb(arguments, data)
    options = ScreenOptions(
        arguments.perturbation, arguments.stream, arguments.max_cells, arguments.null_draws, arguments.goal,
        tuple(arguments.cell_types) if arguments.cell_types else None, arguments.seed,
    )  # fmt: skip
    table = screen_genes(data, chosen, options)

    with atomic_path(output_dir / "perturbations.csv") as temporary:
        table.to_csv(temporary, index=False)
    remove_figures(output_dir, STATISTICS)  # those of an earlier run, with a goal say, would show other cells
    figures = draw(table, output_dir)
    text = verdict(table, arguments.perturbation, options.null_draws)
    about = (
        f"At most {options.max_cells} cells of a type for each gene; {options.null_draws} random genes (or sets) of "
        f"similar frequency and rank, each in cells of the same type that have it. The smallest p possible is "
        f"{1 / (1 + options.null_draws):.3g}; of {len(table)} rows {rows_needed(len(table), options.null_draws)} must "
        f"have it before one has an FDR below {LARGEST_FDR}."
    )
    sections = [Section("Verdict", text), Section("Perturbations", about, [("By type and gene", table)])]
    write_report(output_dir / "report.html", "In-silico perturbation", [*sections, Section("Figures", "", [], figures)])
    print(text)
    print(f"wrote {output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
