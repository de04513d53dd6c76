"""What the integration benchmark shows: figures, and one page with them and the tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.cells.scores import SUMMARY
from scdmc.file_names import file_name_of
from scdmc.integration.data import IntegrationData
from scdmc.integration.options import PUBLISHED, SCIB
from scdmc.integration.row import OURS
from scdmc.integration.scoring import BATCH_SCORES, BIO_SCORES, LABEL_FREE
from scdmc.integration.study import Benchmark
from scdmc.integration.tables import best_method, curve_table, method_table, score_tables, summary_lines
from scdmc.integration.verdict import verdict_of
from scdmc.reports.cell_map import MappedCells, interactive_map
from scdmc.reports.figures import save_figure, umap_figure, umap_grid_figure
from scdmc.reports.page import Bold, InteractiveMap, Section, write_report
from scdmc.reports.provenance import Provenance
from scdmc.reports.score_figures import curves_figure, score_blocks_figure
from scdmc.reports.tables import ScoreTable, best_is_bold

BIO, BATCHES, AVERAGES = "Biology is kept", "Batches mix", "Averages"


BLOCKS = {
    PUBLISHED: {BIO: ("NMI", "ARI", "ASW_label"), BATCHES: ("ASW_batch", "graph_connectivity"), AVERAGES: SUMMARY},
    SCIB: {BIO: BIO_SCORES, BATCHES: BATCH_SCORES, AVERAGES: SUMMARY},
    LABEL_FREE: {BIO: ("neighbours_kept",), BATCHES: ("batch_entropy",)},
}


FILES = {PUBLISHED: "scores", SCIB: "scores_scib", LABEL_FREE: "scores_label_free"}


HOW_TO_READ = (
    "published: the paper's scores, all methods clustered at one resolution. scib: the scores of scIB, each method at "
    "the resolution whose clusters fit the labels best (its NMI), no score rescaled by what the others reach. Two "
    "methods that change places between the two protocols are not told apart by these cells.\n\n"
    "neighbours_kept: of a cell's 15 nearest cells of its own batch before integration (principal components), how "
    "many are so after it. batch_entropy: how mixed the batches are among a cell's 50 nearest cells. These two need no "
    "label. Noise mixes best, and no integration keeps every neighbour: read them together."
)


OF_ALL = "All data sets"


COLUMNS_IN_SIGHT = 10


def draw_integration_results(
    folder: Path, data: IntegrationData, benchmark: Benchmark, maps: Mapping[str, np.ndarray]
) -> Section:
    """Draw the figures of one data set; maps of cells are those of the first seed.

    Parameters
    ----------
    folder
        Where to; other files in it stay.
    data
        The cells.
    benchmark
        What was compared.
    maps
        From :func:`scdmc.integration.maps.cell_maps`.

    Returns
    -------
    The data set's section of the page.
    """
    tables = score_tables(benchmark)
    figures = [
        (table.title, _draw_scores(folder, protocol, table, f"{data.name}: {_finding(table)}"))
        for protocol, table in tables.items()
    ]
    curves = curve_table(benchmark)
    if len(curves):
        figures.append(("NMI at every resolution; the points are the highest", _draw_curves(folder, curves, data.name)))
    shown = " and ".join(key for key in reversed(data.keys) if key)
    grid, moving = _draw_maps(folder, data, benchmark, maps)
    figures.append((f"Cells by {shown}, seed {benchmark.runs[0].seed}", grid))
    pages = [(f"{table.title}. {best_is_bold(table)}", page_table(table)) for table in tables.values()]
    pages.append(("What each row is", method_table(benchmark)))
    failed = [f"{name} failed: {why}" for name, why in benchmark.failures.items()]
    return Section(data.name, _text(data, benchmark, tables), pages, figures, failed, moving, folds=True)


def page_table(table: ScoreTable) -> pd.DataFrame:
    """Scores as the page shows them: with their standard deviations, the best bold, methods as the first column.

    Of many columns the averages are the first.
    """
    texts = table.texts.astype(object)
    for row, column in np.argwhere(table.is_best):
        texts.iat[row, column] = Bold(texts.iat[row, column])
    texts.columns = [": ".join(name) if isinstance(name, tuple) else name for name in texts.columns]
    if texts.shape[1] > COLUMNS_IN_SIGHT:  # the last ones are out of sight on many screens
        texts = texts[sorted(texts, key=lambda name: name not in SUMMARY)]
    return texts.reset_index(names="method")


def write_page(
    folder: Path, sections: Sequence[Section], benchmarks: Mapping[str, Benchmark], made: Provenance
) -> None:
    """Write ``report.html``.

    Parameters
    ----------
    folder
        Where to.
    sections
        From :func:`draw_study` and :func:`draw_integration_results`.
    benchmarks
        Name of a data set -> what was compared on it.
    made
        From what.
    """
    names = list(benchmarks)
    title = f"Batch integration of {', '.join(names[:-1])} and {names[-1]}" if names[1:] else (
        f"Batch integration of {names[0]}"
    )  # fmt: skip
    how = Section("How to read the scores", HOW_TO_READ)
    write_report(folder / "report.html", title, [*sections, how], verdict_of(benchmarks), made)


def draw_study(folder: Path, tables: Mapping[str, ScoreTable]) -> Section:
    """Draw the averages of several data sets; returns their section of the page."""
    figures, pages = [], []
    for protocol, table in tables.items():
        figures.append((table.title, _draw_scores(folder, protocol, table, _finding_of_all(table))))
        pages.append((f"{table.title}. {best_is_bold(table)}", page_table(table)))
    text = "AvgBIO: types are kept apart. AvgBATCH: batches mix. overall: 0.6 times the first, 0.4 times the second."
    return Section(OF_ALL, text, pages, figures, folds=True)


def _draw_scores(folder: Path, protocol: str, table: ScoreTable, title: str) -> Path:
    columns = table.means.columns
    if columns.nlevels > 1:
        names = columns.get_level_values(0).unique()
        blocks = {name: [column for column in columns if column[0] == name] for name in names}
    else:
        blocks = BLOCKS[protocol]
    averages = [column for column in columns if (column[-1] if isinstance(column, tuple) else column) in SUMMARY]
    figure = score_blocks_figure(table.means, blocks, averages, title, table.is_best, table.deviations is not None)
    return save_figure(figure, folder / FILES[protocol])


def _draw_curves(folder: Path, curves: pd.DataFrame, name: str) -> Path:
    by_method = curves.groupby("method", sort=False)
    means = {method: part.groupby("resolution")["NMI"].mean() for method, part in by_method}
    chosen = {method: curve.idxmax() for method, curve in means.items()}
    labels = ("resolution of Leiden", "NMI with the labels, mean of the seeds")
    highest = {method: curve.max() for method, curve in means.items()}
    best = max(highest, key=highest.get)
    title = f"{name}: {best} has the highest NMI, {highest[best]:.2f}"
    return save_figure(curves_figure(means, chosen, title, labels), folder / "resolution")


def _draw_maps(
    folder: Path, data: IntegrationData, benchmark: Benchmark, maps: Mapping[str, np.ndarray]
) -> tuple[Path, list[InteractiveMap]]:
    """One figure for each method and one with all; returns the latter, and our first row as a map that moves."""
    batch_key, label_key = data.keys
    run, shown = benchmark.runs[0], data.shown
    colourings = {label_key: data.labels[shown]} if data.has_labels else {}
    colourings[batch_key] = data.batch[shown]
    moving = []
    for row in benchmark.rows:
        if row.name not in maps:
            continue
        result = run.results[row.name]
        figure = umap_figure(maps[row.name], colourings, _title(row.name, result.scores), run.seed)
        file = save_figure(figure, folder / f"umap_{file_name_of((row.obsm_key or row.name).removeprefix('X_'))}")
        if row.kind == OURS and not moving:
            names = list(colourings)
            mapped = MappedCells(maps[row.name], colourings[names[0]], label_name=names[0],
                                 columns={name: colourings[name] for name in names[1:]},
                                 ids=data.cells.obs["cell_id"].to_numpy()[shown])  # fmt: skip
            moving = [interactive_map(mapped, _title(row.name, result.scores), file, run.seed)]
    best = _best_rows(benchmark)
    finding = f"{data.name}: {best} keeps types apart and mixes batches best" if best else f"{data.name} by each method"
    figure = umap_grid_figure(maps, colourings, f"{finding} ({shown.sum():,} cells)", run.seed)
    return save_figure(figure, folder / "umap_grid"), moving


def _title(name: str, scores: Mapping[str, Mapping[str, float]]) -> str:
    of = scores.get(PUBLISHED) or scores.get(SCIB)
    if of:
        return f"{name}: biology {of['AvgBIO']:.2f}, batches {of['AvgBATCH']:.2f}"
    return f"{name}: {scores[LABEL_FREE]['neighbours_kept']:.0%} of the neighbours kept"


def _finding(table: ScoreTable) -> str:
    """Who is best, in a title."""
    if "overall" not in table.means:
        keeps, mixes = (table.means[name].dropna() for name in ("neighbours_kept", "batch_entropy"))
        if keeps.empty or mixes.empty:
            return "nothing could be scored"
        return f"{keeps.idxmax()} keeps most neighbours, {mixes.idxmax()} mixes batches most"
    best = best_method(table)
    if best is None:
        return f"no method tells the types apart ({table.title})"
    return f"{best} is best, overall {table.means.loc[best, 'overall']:.2f}"


def _finding_of_all(table: ScoreTable) -> str:
    """Who is best on how many data sets, in a title; of scores without labels, what they are."""
    if "overall" not in table.means.columns.get_level_values(-1):
        return "Neighbours kept and batches mixed, on every data set"
    overall = table.means.xs("overall", axis=1, level=-1)[table.is_fair].dropna(axis=1, how="all")
    if overall.empty:
        return "no method tells the types apart on any data set"
    wins = overall.idxmax().value_counts()
    return f"{wins.index[0]} is best on {wins.iloc[0]} of {overall.shape[1]} data sets"


def _best_rows(benchmark: Benchmark) -> str:
    """The best method by the scores of the page's verdict; "" without labels."""
    tables = score_tables(benchmark)
    table = tables.get(SCIB) or tables.get(PUBLISHED)
    return (best_method(table) if table is not None else None) or ""


def _text(data: IntegrationData, benchmark: Benchmark, tables: Mapping[str, ScoreTable]) -> str:
    batch_key, label_key = data.keys
    n_cells, n_batches = len(data.labels), len(np.unique(data.batch.astype(str)))
    paragraphs = [f"{n_cells:,} cells of {n_batches} batches ({batch_key})."]
    if not data.has_labels:
        return f"{paragraphs[0]} There is no label, so nothing says whether types are kept apart: see the maps, too."
    paragraphs[0] += (
        f" {int(data.is_scored.sum()):,} have a {label_key} and are scored. Labels serve for the scores only."
    )
    for protocol, table in tables.items():
        if protocol == LABEL_FREE:
            continue
        best = best_method(table)
        found = (
            "no method tells the types apart"
            if best is None
            else f"the best overall score has {best} ({table.means.loc[best, 'overall']:.3f}){_equals(table, best)}"
        )
        paragraphs.append(f"{protocol}: {found}. {'; '.join(summary_lines(table))}.")
    if any(row.saw_labels for row in benchmark.rows):
        paragraphs.append("A row that saw labels is no fair rival: it was trained with labels, if of other cells.")
    return "\n\n".join(paragraphs)


def _equals(table: ScoreTable, best: str) -> str:
    """Who is within one standard deviation of the best overall score."""
    place = table.means.columns.get_loc("overall")
    others = [name for name, bold in zip(table.means.index, table.is_best[:, place], strict=True) if bold]
    others.remove(best)
    return f", and within one standard deviation {' and '.join(others)}" if others else ""
