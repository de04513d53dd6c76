"""Gene regulatory networks of every cell type: association, attention and in-silico perturbation, beside baselines."""

import argparse
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from scdmc.cli.arguments import add_gene_arguments, gene_data_options
from scdmc.cli.parser import argument_parser, fill_in, non_negative_int, positive_int, script
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, require_new_folder
from scdmc.gene_analysis.data import GeneData, open_gene_data
from scdmc.gene_analysis.edits import EDITS
from scdmc.gene_analysis.figures import bar_panels_figure, grouped_dots_figure, lines_figure, remove_figures
from scdmc.gene_analysis.network_evaluation import RANDOM, TOP_SHARES
from scdmc.gene_analysis.network_output import (
    directed_graph,
    hubs,
    nearest_genes,
    network_figure,
    topology,
    write_graphml,
    write_tables,
)
from scdmc.gene_analysis.networks import (
    ALL_PAIRS,
    PERTURBATION,
    SCORE_COLUMNS,
    NetworkOptions,
    embed_for_network,
    mean_agreement,
    network_verdict,
    regulons_by_token,
    require_layers_and_heads,
    require_masked_gene_head,
    require_networks,
    type_network,
)
from scdmc.gene_analysis.options import CELLS_PER_GENE
from scdmc.gene_analysis.states import GeneEmbeddings
from scdmc.public_data.regulons import load_regulons
from scdmc.reports.figures import save_figure
from scdmc.reports.page import Section, write_report

logger = logging.getLogger(__name__)

GRAPH_SHARE = 0.01
MOST_TYPES = 4
TOP_HUBS = 10
OPTIONAL_FIGURES = ("auprc_all", "odds_all", "auprc_perturbed", "odds_perturbed")  # need enough known pairs
PERTURBATION_DEFAULTS = {"perturbed_cells": 8, "perturbation": "remove"}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of gene regulatory networks."""
    parser = argument_parser(__doc__)
    add_gene_arguments(parser)
    parser.add_argument("--regulons", type=Path, required=True, help="CSV with tf and target (fetch_regulons.py)")
    parser.add_argument("--min_cells", type=positive_int, default=CELLS_PER_GENE, help="cells of a type with the gene")
    parser.add_argument("--n_factors", type=positive_int, default=100, help="commonest factors of a type")
    parser.add_argument("--n_targets", type=positive_int, default=300, help="commonest genes of a type, as targets")
    parser.add_argument("--max_cells", type=positive_int, default=500, help="cells of a type, drawn with the seed")
    parser.add_argument("--layers", type=positive_int, nargs="+", help="whose attention is averaged, from 1; or all")
    parser.add_argument("--heads", type=positive_int, nargs="+", help="whose attention is averaged, from 1; or all")
    parser.add_argument("--perturbed_factors", type=non_negative_int, default=10, help="of each type; 0 for none")
    parser.add_argument("--perturbed_cells", type=positive_int, help="cells in which each is perturbed; 8 without it")
    parser.add_argument("--perturbation", choices=EDITS, help="what is done to a factor; remove without it")
    parser.add_argument(
        "--graph_score", choices=tuple(SCORE_COLUMNS.values()), default="attention",
        help="whose strongest edges are drawn, written as GraphML and searched for hubs",
    )  # fmt: skip
    parser.add_argument("--neighbors", type=positive_int, default=5, help="edges of a gene in the association network")
    arguments = parser.parse_args(argv)
    fill_in(arguments, PERTURBATION_DEFAULTS, arguments.perturbed_factors > 0, "with --perturbed_factors 0")
    if arguments.graph_score == SCORE_COLUMNS[PERTURBATION] and not arguments.perturbed_factors:
        raise ScDMCError("--graph_score perturbation needs factors that are perturbed; raise --perturbed_factors")
    return arguments


@dataclass
class Collected:
    """What the types leave behind while their edges stream to the disk."""

    factors: list[pd.DataFrame] = field(default_factory=list)
    evaluation: list[dict[str, object]] = field(default_factory=list)
    strongest: dict[str, pd.DataFrame] = field(default_factory=dict)
    hubs: list[pd.DataFrame] = field(default_factory=list)
    topology: list[dict[str, object]] = field(default_factory=list)


def file_names(cell_types: Sequence[str]) -> dict[str, str]:
    """Each cell type as part of a file name: letters of any script stay, and types that would share a name get numbers.

    Some file systems do not tell upper case from lower case, so neither do the names.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for cell_type in cell_types:
        stem = name = re.sub(r"[^\w+-]+", "_", cell_type)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names[cell_type] = name
    return names


def strongest_first(edges: pd.DataFrame, score: str) -> pd.DataFrame:
    """Edges that have the score, by strength: columns tf, target, score, is_known.

    An effect of perturbation is as strong in either direction, as in the evaluation.
    """
    edges = edges.dropna(subset=[score]).rename(columns={score: "score"})
    if score == SCORE_COLUMNS[PERTURBATION]:
        edges = edges.assign(score=edges["score"].abs())
    return edges.sort_values("score", ascending=False, kind="stable")[["tf", "target", "score", "is_known"]]


def network_options(arguments: argparse.Namespace) -> NetworkOptions:
    """The options that the flags stand for."""
    return NetworkOptions(
        arguments.stream, arguments.min_cells, arguments.n_factors, arguments.n_targets, arguments.max_cells,
        tuple(arguments.layers) if arguments.layers else None, tuple(arguments.heads) if arguments.heads else None,
        arguments.perturbed_factors, arguments.perturbed_cells, arguments.perturbation, arguments.seed,
    )  # fmt: skip


def edges_of_types(
    data: GeneData, embedded: GeneEmbeddings, arguments: argparse.Namespace, collected: Collected, graphs: Path
) -> Iterator[pd.DataFrame]:
    """Yield the edges of one type after the other, and collect the rest."""
    options = network_options(arguments)
    regulons = regulons_by_token(load_regulons(arguments.regulons), data, str(arguments.regulons))
    graph_files = file_names(data.types)
    for name in data.types:
        network = type_network(data, name, embedded, regulons, options)
        if network is None:
            continue
        collected.factors.append(network.factors)
        collected.evaluation += network.evaluation
        if len(network.edges):
            yield network.edges
        edges = strongest_first(network.edges, arguments.graph_score)
        if edges.empty:
            logger.warning("warning: %s has no graph: no pair has a score of %s", name, arguments.graph_score)
            continue
        for share in TOP_SHARES:
            graph = directed_graph(edges.head(max(1, round(share * len(edges)))))
            collected.topology.append({"cell_type": name, "top": share, **topology(graph)})
        strongest = edges.head(max(1, round(GRAPH_SHARE * len(edges))))
        collected.strongest[name] = strongest
        collected.hubs.append(hubs(strongest).assign(cell_type=name))
        write_graphml(graphs / f"{graph_files[name]}.graphml", directed_graph(strongest))
    require_networks(len(collected.factors), options)
    if not collected.strongest:
        raise ScDMCError(
            f"no cell type has a pair with a score of {arguments.graph_score}; take more --n_targets or "
            "--perturbed_cells, or another --graph_score"
        )


def draw(collected: Collected, evaluation: pd.DataFrame, output_dir: Path, score: str) -> list[tuple[str, Path]]:
    """Save all figures; returns captions and PNG files."""
    figures = []
    types = list(collected.strongest)[:MOST_TYPES]
    figure = network_figure(
        {name: collected.strongest[name] for name in types},
        f"Strongest edges by {score} (orange: factor; red: known pair)",
    )  # fmt: skip
    caption = f"The 30 strongest edges by {score} of {len(types)} cell types; factors in orange, known pairs in red"
    figures.append((caption, save_figure(figure, output_dir / "networks")))
    panels = {
        table["cell_type"].iloc[0]: pd.Series(table["targets"].head(TOP_HUBS).to_numpy(), table["tf"].head(TOP_HUBS))
        for table in collected.hubs[:9]
    }
    figure = bar_panels_figure(panels, f"Hubs among the top {GRAPH_SHARE:.0%} of the edges by {score}", "targets")
    figures.append(
        (
            f"Factors with most targets among the top {GRAPH_SHARE:.0%} of the edges",
            save_figure(figure, output_dir / "hubs"),
        )
    )
    for pairs, rows in evaluation.groupby("pairs", sort=False):
        stem = "all" if pairs == ALL_PAIRS else "perturbed"
        wide = rows.pivot(index="cell_type", columns="method", values="auprc_ratio")[rows["method"].unique()]
        random = float(wide[RANDOM].mean())
        figure = grouped_dots_figure(
            wide, f"Agreement with known regulons, {pairs}", "AUPRC ratio", random, "random, mean over types"
        )
        figures.append((f"AUPRC ratio by cell type, {pairs}", save_figure(figure, output_dir / f"auprc_{stem}")))
        means = mean_agreement(rows).set_index("method")
        odds = {
            method: pd.Series(
                [means.loc[method, f"odds_ratio_top_{100 * top:g}%"] for top in TOP_SHARES],
                [100 * top for top in TOP_SHARES],
            )
            for method in means.index
        }
        title = f"Known pairs among the strongest, {pairs}"
        figure = lines_figure(odds, title, "strongest pairs (%)", "odds ratio, mean over types")
        figures.append((f"Odds ratio of known pairs, {pairs}", save_figure(figure, output_dir / f"odds_{stem}")))
    return figures


@script
def main(argv: list[str] | None = None) -> int:
    """Score, stream the edges, judge, draw."""
    arguments = parse_arguments(argv)
    output_dir = arguments.output_dir
    require_new_folder(output_dir, arguments.overwrite)
    load_regulons(arguments.regulons)
    data = open_gene_data(arguments.model_path, arguments.data_path, gene_data_options(arguments))
    require_layers_and_heads(data, network_options(arguments))
    require_masked_gene_head(data, network_options(arguments))
    embedded, collected = embed_for_network(data, network_options(arguments)), Collected()
    with atomic_path(output_dir / "graphs") as graphs:
        graphs.mkdir()
        n_edges = write_tables(output_dir / "edges.csv", edges_of_types(data, embedded, arguments, collected, graphs))
    associations = (
        table for name in data.types for table in nearest_genes(embedded.of_type(name), arguments.neighbors)
    )
    write_tables(output_dir / "association_edges.csv", associations)

    evaluation = pd.DataFrame(collected.evaluation, columns=None if collected.evaluation else ["pairs", "method"])
    verdict = network_verdict(evaluation)
    tables = {
        "evaluation": evaluation,
        "factors": pd.concat(collected.factors, ignore_index=True),
        "hubs": pd.concat(collected.hubs, ignore_index=True),
        "topology": pd.DataFrame(collected.topology),
    }
    for name, table in tables.items():
        with atomic_path(output_dir / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
    remove_figures(output_dir, OPTIONAL_FIGURES)  # those of an earlier run would show other networks
    figures = draw(collected, evaluation, output_dir, arguments.graph_score)
    about = (
        "Association is the cosine of gene embeddings and has no direction. Attention: what the target reads of the "
        "factor, against what ranks alone explain. Perturbation: change of the target's predicted probability. "
        "Baselines: Pearson correlation of expression, gradient boosting in the style of GRNBoost2 (not the program "
        "itself), and random scores. AUPRC ratio: average precision of the known pairs over their share; the higher, "
        f"the better they are ranked. Known pairs: {arguments.regulons.name}; regulon databases have licences of their "
        "own."
    )
    shown = [("Mean over the types; compare with random", mean_agreement(evaluation))] if len(evaluation) else []
    sections = [Section("Verdict", verdict), Section("Agreement with known regulons", about, shown)]
    topology_table = tables["topology"].groupby("top").mean(numeric_only=True).reset_index()
    shown = [("Networks of the strongest pairs, mean over the types", topology_table)]
    shown.append(("Strongest hubs", tables["hubs"].groupby("cell_type").head(3)))
    sections += [Section("Topology and hubs", "", shown), Section("Figures", "", [], figures)]
    write_report(output_dir / "report.html", "Gene regulatory networks", sections)
    print(verdict)
    print(f"{n_edges:,} scored pairs; wrote {output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
