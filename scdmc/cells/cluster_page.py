"""The page of a clustering: what the clusters are, how large, how stable, and where they lie."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.cells.cluster_markers import cluster_sizes
from scdmc.cells.cluster_results import ORACLE, Clustering
from scdmc.reports.cell_map import MappedCells, interactive_map
from scdmc.reports.figures import save_figure, umap_figure
from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance

NAMING_GENES, LEAST_SHARE, GENES_SHOWN = 3, 0.5, 10


STABLE, LEAST_STABILITY = 0.8, 0.5


LEVEL_ARI = 0.05  # clusters whose agreement differs by less are level


def cluster_names(sizes: pd.DataFrame, markers: pd.DataFrame) -> dict[str, str]:
    """Cluster -> what it is called: its number, the label of most of its labelled cells, its first marker genes.

    Parameters
    ----------
    sizes
        From :func:`scdmc.cells.cluster_markers.cluster_sizes`. A label that less than half of the labelled cells have
        gives no name.
    markers
        From :func:`scdmc.cells.cluster_markers.marker_genes`; may be empty.
    """
    names = {}
    for row in sizes.to_dict("records"):
        cluster = row["cluster"]
        share = row.get("share_of_label", 0)
        label = [str(row["most_frequent_label"])] if share >= LEAST_SHARE else []
        of_cluster = markers[markers["cluster"] == cluster] if len(markers) else markers
        genes = ", ".join(of_cluster["symbol"].head(NAMING_GENES)) if len(of_cluster) else ""
        said = [*label, f"({genes})" if label and genes else genes]
        names[cluster] = " ".join([f"{cluster}:", *filter(None, said)]) if any(said) else cluster
    return names


def write_cluster_page(
    output_dir: Path,
    clusterings: Mapping[str, Clustering],
    labelled: tuple[str | None, np.ndarray | None],
    markers: pd.DataFrame,
    scores: pd.DataFrame,
    made: Provenance,
    cell_ids: np.ndarray | None = None,
) -> None:
    """Draw a map for each method and write ``report.html``.

    Parameters
    ----------
    output_dir
        Where to.
    clusterings
        Method -> its clusters; the first is that of the page.
    labelled
        What the labels are called, and the labels, shape (n_cells,); None for none.
    markers
        Marker genes of the clusters of the first method; may be empty.
    scores
        Methods x scores by the labels; may be empty.
    made
        From what; its seed is that of the order in which the cells are drawn.
    cell_ids
        Names of the cells, shape (n_cells,).
    """
    label_key, labels = labelled
    method, first = next(iter(clusterings.items()))
    sizes = cluster_sizes(first.clusters, labels)
    names = cluster_names(sizes, markers)
    figures, maps = [], []
    for name, clustering in clusterings.items():
        shown = np.array([names[c] for c in first.clusters]) if name == method else clustering.clusters
        colourings = {f"{len(set(clustering.clusters))} Leiden clusters": shown}
        if label_key:
            colourings[label_key] = labels
        stability = f"stability {clustering.stability.ari:.2f}"
        title = f"{name}: {len(set(clustering.clusters))} clusters of {len(clustering.clusters):,} cells, {stability}"
        figure = umap_figure(clustering.coordinates, colourings, title, made.seed)
        file = save_figure(figure, output_dir / clustering.file_stem)
        figures.append((title, file))
        if name == method:
            columns = {} if label_key is None else {label_key: np.asarray(labels, dtype=object)}
            mapped = MappedCells(clustering.coordinates, shown, label_name="cluster", columns=columns, ids=cell_ids)
            maps.append(interactive_map(mapped, title, file, made.seed))
    table = sizes.assign(stability=sizes["cluster"].map(first.stability.of_cluster))
    table.insert(1, "name", [names[cluster].partition(": ")[2] or "–" for cluster in table["cluster"]])
    sections = [
        Section("Clusters", _text(method, first), [("The largest first", table)], figures[1:], maps=maps),
        Section("Resolution", RESOLUTION_TEXT, _resolution_tables(clusterings)),
    ]
    if len(scores):
        text = f"The labels ({label_key}) score the clusters; they had no part in making them."
        sections.append(
            Section("Agreement with the labels", text, [("Higher is better", scores.reset_index(names="method"))])
        )
    if len(markers):
        sections.append(Section("Marker genes", MARKER_TEXT, [("Of each cluster", _genes(markers, names))]))
    title = f"Clusters of {len(first.clusters):,} cells"
    write_report(output_dir / "report.html", title, sections, verdict_of(method, first, scores, label_key), made)


def verdict_of(method: str, clustering: Clustering, scores: pd.DataFrame, label_key: str | None) -> Verdict:
    """How many clusters, how stable, and how well they agree with the labels.

    Parameters
    ----------
    method, clustering
        Of the page.
    scores
        Methods x scores by the labels; may be empty.
    label_key
        What the labels are called; None for none.
    """
    n_clusters, stability = len(set(clustering.clusters)), clustering.stability
    weak = [name for name in sorted(set(clustering.clusters)) if stability.of_cluster[name] < LEAST_STABILITY]
    is_good = stability.ari >= STABLE and not weak
    headline = f"{n_clusters} clusters; {'all are' if not weak else f'{n_clusters - len(weak)} of them are'} stable"
    numbers = [
        KeyNumber("Clusters", f"{n_clusters}", f"at resolution {clustering.resolution:g} of Leiden"),
        KeyNumber("Stability", f"{stability.ari:.2f}", f"1 is the same clusters each time; above {STABLE} is good"),
    ]
    reasons = [
        f"When a fifth of the cells is left out, the clusters of {method} agree with these by an adjusted Rand index "
        f"of {stability.ari:.2f}."
    ]
    if "ARI" in scores and method in scores.index:
        # What chose its resolution by the labels (--oracle) is no rival.
        others = scores["ARI"].drop([method, *(name for name in scores.index if name.startswith(ORACLE))]).dropna()
        beside = f"{others.max():.2f} for {others.idxmax()}" if len(others) else "0 is chance, 1 is the same groups"
        numbers.append(KeyNumber(f"Agreement with {label_key} (ARI)", f"{scores['ARI'][method]:.2f}", beside))
        if len(others):
            is_above = scores["ARI"][method] > others.max()
            is_good = is_good and scores["ARI"][method] >= others.max() - LEVEL_ARI
            reasons.append(f"They agree {'better' if is_above else 'no better'} with the labels than those of "
                           f"{others.idxmax()}.")  # fmt: skip
    level = "good" if is_good else "bad" if stability.ari < LEAST_STABILITY else "caution"
    return Verdict(level, headline, tuple(reasons), tuple(numbers))


RESOLUTION_TEXT = (
    "Stability: a fifth of the cells is left out, the rest is clustered with another seed, five times; the mean "
    "adjusted Rand index with the clusters of all cells. Without --resolution the finest resolution with a stability "
    "of 0.9 is taken, or the most stable one where none has that."
)
MARKER_TEXT = (
    "Genes that are higher in a cluster than in all other cells (Wilcoxon). The same cells made the clusters and are "
    "tested, so that the order of the genes counts, and no p-value."
)


def _text(method: str, clustering: Clustering) -> str:
    sizes = cluster_sizes(clustering.clusters)
    stability = clustering.stability
    weak = [name for name in sizes["cluster"] if stability.of_cluster[name] < LEAST_STABILITY]
    sentences = [
        f"{len(clustering.clusters):,} cells in {len(sizes)} clusters of {method}, at resolution "
        f"{clustering.resolution:g}; the stability is {stability.ari:.2f}.",
        "Cluster 0 is the largest.",
    ]
    if weak:
        what = "cluster dissolves" if len(weak) == 1 else "clusters dissolve"
        sentences.append(
            f"{len(weak)} {what} when a fifth of the cells is left out (stability below 0.5): {', '.join(weak)}. Do "
            "not build on such a cluster."
        )
    return " ".join(sentences)


def _resolution_tables(clusterings: Mapping[str, Clustering]) -> list[tuple[str, pd.DataFrame]]:
    rows = [
        {"method": name, "resolution": c.resolution, "clusters": len(set(c.clusters)), "stability": c.stability.ari}
        for name, c in clusterings.items()
    ]
    tables = [("Of each method", pd.DataFrame(rows))]
    tables += [
        (f"{name}: every resolution that was tried", c.resolutions)
        for name, c in clusterings.items()
        if c.resolutions is not None
    ]
    return tables


def _genes(markers: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Cluster -> its first marker genes, in one row."""
    rows = [
        {"cluster": names[cluster], "genes": ", ".join(part["symbol"].head(GENES_SHOWN))}
        for cluster, part in markers.groupby("cluster", sort=False)
    ]
    return pd.DataFrame(rows)
