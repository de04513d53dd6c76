"""What attention analysis leaves: tables, figures, and one page that shows them."""

from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.gene_analysis.attention_analysis import ATTRIBUTION_SCORES, AttentionResults
from scdmc.gene_analysis.figures import (
    bar_panels_figure,
    grouped_dots_figure,
    head_of_each,
    heat_map_figure,
)
from scdmc.gene_analysis.verdicts import attention_verdict
from scdmc.reports.figures import save_figure
from scdmc.reports.page import Figures, Section, write_report
from scdmc.reports.provenance import Provenance
from scdmc.reports.tables import write_csv_files
from scdmc.result_folders import keep_results

TOP_GENES = 10


MOST_TYPES = 9


SMALLEST_SHARE = 0.1


# Column -> the finding of the head with the highest number, and what the numbers are.
HEAD_MAPS = {
    "marker_auroc": ("points at markers most", "AUROC at equal expression (random: 0.5)"),
    "entropy": ("reads most widely", "entropy (1: evenly, 0: one token)"),
    "to_specials": ("reads <cls> and <eos> most", "share of the genes' attention"),
}


def write_attention_results(output_dir: Path, results: AttentionResults, made: Provenance) -> None:
    """Write the tables, the figures and ``report.html``.

    Parameters
    ----------
    output_dir
        Where to.
    results
        From :func:`scdmc.gene_analysis.attention_analysis.analyse_attention`.
    made
        From what; cells were drawn with its seed.
    """
    tables = {
        "genes": results.genes,
        "heads": results.heads,
        "marker_recovery": results.recovery,
        "attributions": results.attributions.table,
    }
    write_csv_files(output_dir, {name: table.drop(columns="token", errors="ignore") for name, table in tables.items()})
    keep_results(output_dir)
    figures = draw(results, output_dir, made.seed)
    about = (
        f"Integrated gradients add up to the shift of <cls> within {results.attributions.incompleteness:.1%} "
        f"(mean over cells). Markers: scanpy's t-test against all other cells, FDR below 0.05, at least twice as high."
    )
    recovery = [("Mean over the types", results.mean_recovery), ("By type", results.recovery)]
    sections = [
        Section("Figures", figures=figures),
        Section("In words", results.verdict),
        Section("Marker recovery", about, recovery),
        Section("Heads", "", [("Every layer and head", results.heads)]),
    ]
    types = results.genes["cell_type"].nunique()
    title = f"Attention to genes in {types} cell types"
    write_report(output_dir / "report.html", title, sections, attention_verdict(results), made)


def draw(results: AttentionResults, output_dir: Path, seed: int) -> Figures:
    """Save all figures; returns captions and PNG files."""
    figures, stream_of = [], results.genes
    sizes = stream_of.groupby("cell_type")["cells"].max()
    types = sizes.nlargest(MOST_TYPES).index.tolist()
    frequent = stream_of[stream_of["cells"] >= SMALLEST_SHARE * stream_of["cell_type"].map(sizes)]
    named = frequent.assign(symbol=frequent["symbol"] + np.where(frequent["is_marker"], " *", ""))
    figure = bar_panels_figure(
        head_of_each(named, "cell_type", types, "received", "symbol", TOP_GENES),
        "Genes that get most attention (* marker of the type)", "attention received (1: an even share)", origin=1.0,
    )  # fmt: skip
    caption = (
        f"Of genes in at least {SMALLEST_SHARE:.0%} as many cells as the commonest gene; mean over layers and heads"
    )
    figures.append((caption, save_figure(figure, output_dir / "top_genes")))
    if len(results.recovery):
        wide = results.recovery.pivot(index="cell_type", columns="method", values="auroc_at_equal_expression")
        wide = wide[results.recovery["method"].unique()]
        figure = grouped_dots_figure(
            wide, "Do scores find markers among genes of equal expression?", "AUROC at equal expression", 0.5, "random"
        )
        figures.append(("Marker recovery by cell type", save_figure(figure, output_dir / "marker_recovery")))
    for column, (what, label) in HEAD_MAPS.items():
        table, values = results.heads.pivot(index="layer", columns="head", values=column), results.heads[column]
        title = "not measured"
        if values.notna().any():
            head = results.heads.loc[values.idxmax()]
            title = f"Head {head['head']:.0f} of layer {head['layer']:.0f} {what} ({head[column]:.2f})"
        figure = heat_map_figure(table, title, label, "head", "layer", numbers=".2f")
        caption = f"Heads of each layer: {label}"
        figures.append((caption, save_figure(figure, output_dir / f"heads_{column}"), f"{title}. {caption}"))
    for number, cell in enumerate(results.maps, start=1):
        title = f"Attention in one cell (drawn with seed {seed})\n{cell.title}"
        figure = heat_map_figure(
            100 * cell.weights, title, "share of the reader's attention (%)", "gene that is read", "gene that reads"
        )
        caption = f"{cell.title}: last layer, mean over heads; the cell was drawn with seed {seed}"
        figures.append((caption, save_figure(figure, output_dir / f"cell_{number}")))
    figures.append(draw_attributions(results.attributions.table, types[:4], output_dir))
    return figures


def draw_attributions(table: pd.DataFrame, types: list[str], output_dir: Path) -> tuple[str, Path]:
    """Rollout and integrated gradients side by side."""
    panels = {}
    for name in types:
        of_type = table[table["cell_type"] == name]
        rows = of_type[of_type["cells"] >= 0.5 * of_type["cells"].max()]
        for column, method in ATTRIBUTION_SCORES.items():
            top = rows.nlargest(TOP_GENES, column)
            panels[f"{name}\n{method}"] = pd.Series(top[column].to_numpy(), index=top["symbol"])
    title = "What <cls> rests on, by two methods"
    label = "rollout: 1 is an even share; gradients: shift of <cls> towards its type"
    figure = bar_panels_figure(panels, title, label, 2)
    return f"{title} ({label})", save_figure(figure, output_dir / "attribution")
