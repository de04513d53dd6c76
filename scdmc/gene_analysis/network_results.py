"""What gene regulatory networks leave: edges, graphs, tables, figures, and one page that shows them."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.errors import ScDMCError
from scdmc.file_names import file_names_of
from scdmc.files import atomic_path
from scdmc.gene_analysis.data import GeneData
from scdmc.gene_analysis.figures import bar_panels_figure, grouped_dots_figure, lines_figure
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
    embed_for_network,
    mean_agreement,
    network_verdict,
    require_networks,
    type_network,
)
from scdmc.gene_analysis.options import PERTURBATION, SCORE_COLUMNS, GraphOptions, NetworkOptions
from scdmc.gene_analysis.states import GeneEmbeddings
from scdmc.gene_analysis.verdicts import network_numbers
from scdmc.reports.figures import save_figure, shortened
from scdmc.reports.page import Figures, Section, write_report
from scdmc.reports.provenance import Provenance
from scdmc.reports.tables import write_csv_files
from scdmc.result_folders import keep_results

logger = logging.getLogger(__name__)


GRAPH_SHARE = 0.01


MOST_TYPES = 4


TOP_HUBS = 10


@dataclass
class Collected:
    """What the types leave behind while their edges stream to the disk."""

    factors: list[pd.DataFrame] = field(default_factory=list)
    evaluation: list[dict[str, object]] = field(default_factory=list)
    strongest: dict[str, pd.DataFrame] = field(default_factory=dict)
    hubs: list[pd.DataFrame] = field(default_factory=list)
    topology: list[dict[str, object]] = field(default_factory=list)
    n_edges: int = 0


def strongest_first(edges: pd.DataFrame, score: str) -> pd.DataFrame:
    """Edges that have the score, by strength: columns tf, target, score, is_known.

    An effect of perturbation is as strong in either direction, as in the evaluation.
    """
    edges = edges.dropna(subset=[score]).rename(columns={score: "score"})
    if score == SCORE_COLUMNS[PERTURBATION]:
        edges = edges.assign(score=edges["score"].abs())
    return edges.sort_values("score", ascending=False, kind="stable")[["tf", "target", "score", "is_known"]]


def score_networks(
    output_dir: Path, data: GeneData, regulons: dict[int, set[int]], options: NetworkOptions, graph: GraphOptions
) -> Collected:
    """Score the networks of all types; edges and graphs stream to the disk, the rest is returned.

    Parameters
    ----------
    output_dir
        Where ``edges.csv``, ``association_edges.csv`` and ``graphs/`` are written.
    data
        Model and cells.
    regulons
        From :func:`scdmc.gene_analysis.networks.regulons_by_token`.
    options, graph
        How networks are made, and which of their edges are drawn.

    Raises
    ------
    ScDMCError
        If no type has a network, or none has a pair with the score that is drawn.
    """
    embedded, collected = embed_for_network(data, options), Collected()
    with atomic_path(output_dir / "graphs") as graphs:
        graphs.mkdir()
        edges = _edges_of_types(data, embedded, regulons, options, collected, graphs, graph.score)
        collected.n_edges = write_tables(output_dir / "edges.csv", edges)
    associations = (table for name in data.types for table in nearest_genes(embedded.of_type(name), graph.n_neighbors))
    write_tables(output_dir / "association_edges.csv", associations)
    return collected


def _edges_of_types(
    data: GeneData, embedded: GeneEmbeddings, regulons: dict[int, set[int]], options: NetworkOptions,
    collected: Collected, graphs: Path, score: str,
) -> Iterator[pd.DataFrame]:  # fmt: skip
    """Yield the edges of one type after the other, and collect the rest."""
    graph_files = file_names_of(data.types)
    for name in data.types:
        network = type_network(data, name, embedded, regulons, options)
        if network is None:
            continue
        collected.factors.append(network.factors)
        collected.evaluation += network.evaluation
        if len(network.edges):
            yield network.edges
        edges = strongest_first(network.edges, score)
        if edges.empty:
            logger.warning("warning: %s has no graph: no pair has a score of %s", name, score)
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
            f"no cell type has a pair with a score of {score}; take more --n_targets or --perturbed_cells, or another "
            "--graph_score"
        )


def write_network_results(
    output_dir: Path, collected: Collected, graph: GraphOptions, source: str, made: Provenance
) -> str:
    """Write the tables, the figures and ``report.html``; returns the verdict.

    Parameters
    ----------
    output_dir
        Where to.
    collected
        From :func:`score_networks`.
    graph
        Which edges are drawn.
    source
        What the regulons are called.
    made
        From what.
    """
    evaluation = pd.DataFrame(collected.evaluation, columns=None if collected.evaluation else ["pairs", "method"])
    verdict = network_verdict(evaluation)
    tables = {
        "evaluation": evaluation,
        "factors": pd.concat(collected.factors, ignore_index=True),
        "hubs": pd.concat(collected.hubs, ignore_index=True),
        "topology": pd.DataFrame(collected.topology),
    }
    write_csv_files(output_dir, tables)
    keep_results(output_dir)
    figures = draw(collected, evaluation, output_dir, graph.score)
    about = (
        "Association is the cosine of gene embeddings and has no direction. Attention: what the target reads of the "
        "factor, against what ranks alone explain. Perturbation: change of the target's predicted probability. "
        "Baselines: Pearson correlation of expression, gradient boosting in the style of GRNBoost2 (not the program "
        "itself), and random scores. AUPRC ratio: average precision of the known pairs over their share; the higher, "
        f"the better they are ranked. Known pairs: {source}; regulon databases have licences of their own."
    )
    agreement = [("Mean over the types; compare with random", mean_agreement(evaluation))] if len(evaluation) else []
    sizes = tables["topology"].groupby("top").mean(numeric_only=True).reset_index()
    largest = tables["hubs"].groupby("cell_type").head(3)
    shown = [("Networks of the strongest pairs, mean over the types", sizes), ("Strongest hubs", largest)]
    sections = [
        Section("Figures", figures=figures),
        Section("In words", verdict),
        Section("Agreement with known regulons", about, agreement),
        Section("Topology and hubs", "", shown),
    ]
    title = f"Gene regulatory networks of {len(collected.strongest)} cell types"
    write_report(output_dir / "report.html", title, sections, network_numbers(evaluation), made)
    return verdict


def draw(collected: Collected, evaluation: pd.DataFrame, output_dir: Path, score: str) -> Figures:
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
    largest = max(panels, key=lambda name: panels[name].max())
    title = f"{panels[largest].idxmax()} has most targets: {panels[largest].max():,} in {shortened(largest)}"
    figure = bar_panels_figure(panels, title, "targets")
    caption = f"Factors with most targets among the top {GRAPH_SHARE:.0%} of the edges by {score}"
    figures.append((caption, save_figure(figure, output_dir / "hubs"), f"{title}. {caption}"))
    for pairs, rows in evaluation.groupby("pairs", sort=False):
        stem = "all" if pairs == ALL_PAIRS else "perturbed"
        wide = rows.pivot(index="cell_type", columns="method", values="auprc_ratio")[rows["method"].unique()]
        random = float(wide[RANDOM].mean())
        best = wide.mean().idxmax()
        title = f"{best} ranks known pairs best: AUPRC ratio {wide[best].mean():.2f}, {pairs}"
        figure = grouped_dots_figure(wide, title, "AUPRC ratio", random, "random, mean over types")
        caption = f"Agreement with known regulons: AUPRC ratio by cell type, {pairs}"
        figures.append((caption, save_figure(figure, output_dir / f"auprc_{stem}"), f"{title}. {caption}"))
        means = mean_agreement(rows).set_index("method")
        odds = {
            method: pd.Series(
                [means.loc[method, f"odds_ratio_top_{100 * top:g}%"] for top in TOP_SHARES],
                [100 * top for top in TOP_SHARES],
            )
            for method in means.index
        }
        first = {method: values.iloc[0] for method, values in odds.items() if np.isfinite(values.iloc[0])}
        title = f"Known pairs among the strongest, {pairs}"
        if first:
            top = max(first, key=first.get)
            title = (
                f"Of the strongest {TOP_SHARES[0]:.1%} most known pairs has {top}: odds ratio {first[top]:.1f}, {pairs}"
            )
        figure = lines_figure(odds, title, "strongest pairs (%)", "odds ratio, mean over types")
        caption = f"Odds ratio of known pairs, {pairs}"
        figures.append((caption, save_figure(figure, output_dir / f"odds_{stem}"), f"{title}. {caption}"))
    return figures
