"""What the integration benchmark leaves: tables, figures, and one page that shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.cells.clustering import umap_coordinates
from scdmc.cells.scores import SUMMARY, wide_metrics, write_metrics
from scdmc.integration.comparison import USELESS_ARI
from scdmc.integration.study import OBSM_KEYS, SAW_LABELS, IntegrationData, IntegrationRun, mean_rows
from scdmc.reports.figures import save_figure, score_table_figure, umap_figure, umap_grid_figure
from scdmc.reports.page import Section, write_report
from scdmc.reports.tables import best_of_columns, write_csv, write_metric_tables


def write_integration_tables(folder: Path, runs: Sequence[IntegrationRun]) -> None:
    """Write the tables of one data set, of which there is at least one run; other files in the folder stay."""
    rows = mean_rows(list(runs))
    table = write_metrics(folder / "metrics.csv", rows)
    write_metric_tables(folder, table, _deviations(rows, runs), is_fair(table))


def _deviations(rows: list[dict[str, object]], runs: Sequence[IntegrationRun]) -> pd.DataFrame | None:
    return wide_metrics(pd.DataFrame(rows), "sd") if len(runs) > 1 else None


def draw_integration_results(
    folder: Path, data: IntegrationData, runs: Sequence[IntegrationRun], keys: tuple[str, str]
) -> Section:
    """Draw the figures of one data set; maps of cells are those of the first run.

    Parameters
    ----------
    folder
        Where to; other files in it stay.
    data
        The cells.
    runs
        At least one.
    keys
        Columns of batch and label, for captions.

    Returns
    -------
    The data set's section of the page.
    """
    rows = mean_rows(list(runs))
    table, deviations = wide_metrics(pd.DataFrame(rows)), _deviations(rows, runs)
    caption = f"Integration of {data.name}: the higher the better"
    scores = save_figure(score_table_figure(table, caption, best_of_columns(table, is_fair(table))), folder / "scores")
    grid = _draw_maps(folder, data, runs[0], keys)
    tables = [("Scores" + (f", mean of {len(runs)} runs" if len(runs) > 1 else ""), table.reset_index(names="method"))]
    if deviations is not None:
        tables.append((f"Standard deviation over the {len(runs)} runs", deviations.reset_index(names="method")))
    figures = [("Scores, the higher the better", scores), (f"Cells by {keys[1]} and {keys[0]}", grid)]
    return Section(data.name, _text(data, table, keys), tables, figures)


def write_page(folder: Path, sections: Sequence[Section]) -> None:
    """Write ``report.html``."""
    names = " and ".join(section.title for section in sections)
    write_report(folder / "report.html", f"Batch integration of {names}", sections)


@dataclass(frozen=True)
class StudyTables:
    """Averages of several data sets side by side: methods x (data set and score)."""

    means: pd.DataFrame
    is_fair: np.ndarray


def write_study_tables(folder: Path, by_data: dict[str, list[IntegrationRun]]) -> StudyTables:
    """Write what several data sets have in common: all rows in one table, and the averages side by side.

    Parameters
    ----------
    folder
        Where to.
    by_data
        Name of a data set -> its runs.
    """
    rows = {name: pd.DataFrame(mean_rows(runs)) for name, runs in by_data.items()}
    write_csv(folder / "metrics.csv", pd.concat(rows, names=["dataset"]).reset_index("dataset"))
    table = _side_by_side(rows, "value")
    deviations = _side_by_side(rows, "sd") if all("sd" in of_data for of_data in rows.values()) else None
    fair = np.all([is_fair(wide_metrics(of_data)).loc[table.index] for of_data in rows.values()], axis=0)
    write_metric_tables(folder, table, deviations, fair)
    return StudyTables(table, fair)


def draw_study(folder: Path, study: StudyTables) -> Section:
    """Draw the averages of several data sets; returns their section of the page."""
    table, caption = study.means, "Integration: the higher the better"
    best = best_of_columns(table, study.is_fair)
    figure = save_figure(score_table_figure(table, caption, best), folder / "scores")
    text = "AvgBIO: types are kept apart. AvgBATCH: batches mix. overall: 0.6 times the first, 0.4 times the second."
    tables = [("Averages of each data set", table.reset_index(names="method"))]
    return Section("All data sets", text, tables, [("Averages of each data set", figure)])


def _side_by_side(rows: dict[str, pd.DataFrame], values: str) -> pd.DataFrame:
    parts = [wide_metrics(of_data, values)[list(SUMMARY)].add_prefix(f"{name}: ") for name, of_data in rows.items()]
    return pd.concat(parts, axis=1)


def _draw_maps(folder: Path, data: IntegrationData, run: IntegrationRun, keys: tuple[str, str]) -> Path:
    """One figure for each method and one with all; returns the latter."""
    batch_key, label_key = keys
    colourings = {label_key: data.labels[data.is_scored], batch_key: data.batch[data.is_scored]}
    rows = {}
    for method, result in run.results.items():
        coordinates = umap_coordinates(run.embeddings[method][data.is_scored], result.graph, run.seed)
        title = f"{method}: biology {result.scores['AvgBIO']:.2f}, batches {result.scores['AvgBATCH']:.2f}"
        figure = umap_figure(coordinates, colourings, title, run.seed)
        save_figure(figure, folder / f"umap_{OBSM_KEYS[method][2:]}")
        rows[method] = coordinates
    figure = umap_grid_figure(rows, colourings, f"UMAP of {data.is_scored.sum():,} cells of {data.name}", run.seed)
    return save_figure(figure, folder / "umap_grid")


def is_fair(table: pd.DataFrame) -> pd.Series:
    """True for methods that saw no label and tell types apart, by method; no other is called the best of anything."""
    return (table["ARI"] >= USELESS_ARI) & (table.index != SAW_LABELS)


def best_method(table: pd.DataFrame) -> str | None:
    """The method with the highest overall score among those that saw no label and tell types apart; None without any.

    Parameters
    ----------
    table
        Methods x metrics.
    """
    fair = table[is_fair(table)]
    return None if fair.empty else fair["overall"].idxmax()


def summary_lines(table: pd.DataFrame) -> list[str]:
    """Biology and batches of each method apart, for an embedding that merges everything is good at batches alone."""
    lines = []
    for method, row in table.iterrows():
        note = "; tells no types apart" if row["ARI"] < USELESS_ARI else ""
        lines.append(
            f"{method}: biology {row['AvgBIO']:.3f}, batches {row['AvgBATCH']:.3f}, overall {row['overall']:.3f}{note}"
        )
    return lines


def _text(data: IntegrationData, table: pd.DataFrame, keys: tuple[str, str]) -> str:
    batch_key, label_key = keys
    n_scored, n_cells = int(data.is_scored.sum()), len(data.labels)
    n_batches = len(np.unique(data.batch.astype(str)))
    sentences = [
        f"{n_cells:,} cells of {n_batches} batches ({batch_key}); {n_scored:,} have a {label_key} and are scored.",
        "Labels serve for the scores only.",
    ]
    best = best_method(table)
    if best is None:
        sentences.append("No method tells the types apart.")
    else:
        sentences.append(f"The best overall score has {best} ({table.loc[best, 'overall']:.3f}).")
    if SAW_LABELS in table.index:
        sentences.append(f"{SAW_LABELS} is no fair rival: it was trained with labels, if of other cells.")
    return " ".join(sentences) + "\n\n" + "; ".join(summary_lines(table)) + "."
