"""Networks as edge lists, GraphML, numbers and pictures; edges are streamed, no gene x gene matrix is ever whole."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scdmc.files import atomic_path
from scdmc.gene_analysis.states import GeneEmbeddings, centred_units
from scdmc.reports.figures import PALETTE, shortened
from scdmc.reports.tables import without_formulas

BLOCK_GENES = 1_000


DRAWN_EDGES = 30


def nearest_genes(embedded: GeneEmbeddings, n_neighbors: int) -> Iterator[pd.DataFrame]:
    """Yield the undirected association network of one cell type, block by block.

    Parameters
    ----------
    embedded
        The genes of one type.
    n_neighbors
        Edges for each gene: those to the genes of the highest cosine.

    Yields
    ------
    Columns cell_type, gene_a, gene_b, cosine; an edge that both ends ask for comes once.
    """
    if len(embedded.means) < 2:
        return
    units = centred_units(embedded.means)
    symbols = embedded.table["symbol"].to_numpy(dtype=object)
    n_neighbors = min(n_neighbors, len(units) - 1)
    nearest = np.empty((len(units), n_neighbors), dtype=np.int64)
    for start in range(0, len(units), BLOCK_GENES):
        cosine = units[start : start + BLOCK_GENES] @ units.T  # (genes of the block, n_genes)
        rows = np.arange(len(cosine))
        cosine[rows, start + rows] = -np.inf
        nearest[start + rows] = np.argpartition(-cosine, n_neighbors - 1, axis=1)[:, :n_neighbors]
    a, b = np.repeat(np.arange(len(units)), n_neighbors), nearest.ravel()
    edges = np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1), axis=0)
    for block in np.array_split(edges, max(1, len(edges) // 100_000)):
        yield pd.DataFrame(
            {
                "cell_type": embedded.table["cell_type"].iloc[0],
                "gene_a": symbols[block[:, 0]],
                "gene_b": symbols[block[:, 1]],
                "cosine": np.einsum("ij,ij->i", units[block[:, 0]], units[block[:, 1]]),
            }
        )


def write_tables(path: Path, tables: Iterator[pd.DataFrame]) -> int:
    """Write tables of the same columns as one CSV, one after the other; returns the number of rows."""
    n_rows = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf8", newline="") as file:
        for table in tables:
            without_formulas(table).to_csv(file, index=False, header=n_rows == 0, float_format="%.5g")
            n_rows += len(table)
    return n_rows


def directed_graph(edges: pd.DataFrame) -> networkx.DiGraph:
    """A graph of edges with the columns tf, target, score and is_known."""
    graph = networkx.DiGraph()
    for edge in edges.itertuples(index=False):
        graph.add_edge(edge.tf, edge.target, score=float(edge.score), is_known=bool(edge.is_known))
    for node in graph:
        graph.nodes[node]["is_factor"] = graph.out_degree(node) > 0
    return graph


def write_graphml(path: Path, graph: networkx.DiGraph) -> None:
    """Write a graph for Cytoscape, Gephi and the like."""
    with atomic_path(path) as temporary:
        networkx.write_graphml(graph, temporary)


def topology(graph: networkx.DiGraph) -> dict[str, float]:
    """Numbers that describe a network: its size, how it hangs together, and its largest hub."""
    undirected = graph.to_undirected()
    components = sorted(map(len, networkx.connected_components(undirected)), reverse=True)
    return {
        "edges": graph.number_of_edges(),
        "genes": graph.number_of_nodes(),
        "factors": sum(degree > 0 for _, degree in graph.out_degree()),
        "components": len(components),
        "largest_component": components[0] / graph.number_of_nodes(),
        "clustering": networkx.average_clustering(undirected),
        "largest_out_degree": max(degree for _, degree in graph.out_degree()),
        "known_share": float(np.mean([known for *_, known in graph.edges(data="is_known")])),
    }


def hubs(edges: pd.DataFrame) -> pd.DataFrame:
    """Factors by the number of their targets among the edges: columns tf, targets, known, mean_score."""
    table = edges.groupby("tf").agg(targets=("target", "size"), known=("is_known", "sum"), mean_score=("score", "mean"))
    return table.sort_values(["targets", "mean_score"], ascending=False, kind="stable").reset_index()


def network_figure(edges_of: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Draw the strongest edges of several networks, a panel each.

    Parameters
    ----------
    edges_of
        Title of the panel -> edges as in :func:`directed_graph`, the strongest first.
    title
        Of the figure.
    """
    n_columns = min(2, len(edges_of))
    n_rows = -(-len(edges_of) // n_columns)
    figure = Figure(figsize=(3.6 * n_columns, 3.9 * n_rows + 0.5), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes, (name, edges) in zip(panels, edges_of.items(), strict=False):
        _draw_network(axes, directed_graph(edges.head(DRAWN_EDGES)))
        axes.set_title(shortened(name), fontsize=8)
    for axes in panels[len(edges_of) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=9)
    return figure


def _draw_network(axes: Axes, graph: networkx.DiGraph) -> None:
    """Factors in a column on the left, the others on the right: names never overlap, whatever the edges."""
    factors = sorted(
        (node for node in graph if graph.out_degree(node)), key=lambda node: (-graph.out_degree(node), node)
    )
    height = {node: 1 - (place + 0.5) / len(factors) for place, node in enumerate(factors)}
    others = [node for node in graph if node not in height]
    # Near their factors, so that few edges cross.
    others.sort(key=lambda node: (-np.mean([height[factor] for factor in graph.predecessors(node)]), node))
    places = {node: (0.0, height[node]) for node in factors}
    places |= {node: (1.0, 1 - (place + 0.5) / len(others)) for place, node in enumerate(others)}
    colours = [PALETTE[1] if node in height else "#bbbbbb" for node in graph]
    networkx.draw_networkx_nodes(graph, places, ax=axes, node_color=colours, node_size=14, linewidths=0)
    for among_factors in (False, True):
        edges = [edge for edge in graph.edges if (edge[1] in height) == among_factors]
        ink = [PALETTE[2] if graph.edges[edge]["is_known"] else "#999999" for edge in edges]
        bend = f"arc3,rad={0.4 if among_factors else 0}"
        networkx.draw_networkx_edges(
            graph, places, edges, ax=axes, edge_color=ink, width=0.8, arrowsize=5, node_size=14, connectionstyle=bend
        )
    for node, (x, y) in places.items():
        axes.text(
            x + (0.04 if x else -0.04), y, shortened(node), fontsize=5.5, ha="left" if x else "right", va="center"
        )
    axes.set(xlim=(-0.45, 1.45), ylim=(-0.02, 1.02))
    axes.axis("off")
