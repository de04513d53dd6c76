"""Tables of the integration benchmark: of every protocol, over seeds, of one data set or several."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.cells.scores import SUMMARY, mean_metrics, metric_rows, wide_metrics
from scdmc.integration.comparison import USELESS_ARI
from scdmc.integration.options import PUBLISHED, SCIB
from scdmc.integration.scoring import LABEL_FREE, best_resolution
from scdmc.integration.study import Benchmark
from scdmc.reports.tables import ScoreTable, write_csv, write_metric_tables

TASK = "integration"


TITLES = {
    PUBLISHED: "Scores as published: Leiden at one resolution",
    SCIB: "Scores of scIB: every method at the resolution of its best NMI",
    LABEL_FREE: "Scores that need no label",
}


def metric_table(benchmark: Benchmark) -> pd.DataFrame:
    """All scores, one a row: protocol, task, method, metric, value; over several seeds also sd and runs."""
    parts = []
    for protocol in _protocols(benchmark):
        rows = mean_metrics(
            [
                [row for name, of in run.results.items() for row in metric_rows(TASK, name, of.scores[protocol])]
                for run in benchmark.runs
            ]
        )
        table = pd.DataFrame(rows)
        table.insert(0, "protocol", protocol)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _protocols(benchmark: Benchmark) -> list[str]:
    scores = next(iter(next(run for run in benchmark.runs if run.results).results.values())).scores
    return [protocol for protocol in (PUBLISHED, SCIB, LABEL_FREE) if protocol in scores]


def score_tables(benchmark: Benchmark, title: str = "") -> dict[str, ScoreTable]:
    """Protocol -> its scores, methods x metrics, in the order of the rows; a row that failed has none."""
    long, tables = metric_table(benchmark), {}
    n_seeds = f", mean ± sd of {len(benchmark.runs)} seeds" if len(benchmark.runs) > 1 else ""
    names = [row.name for row in benchmark.rows]
    for protocol, of_protocol in long.groupby("protocol", sort=False):
        rows = of_protocol.drop(columns="protocol")
        means = wide_metrics(rows).reindex(names)
        deviations = wide_metrics(rows, "sd").reindex(names) if "sd" in rows else None
        fair = is_fair(means, benchmark).to_numpy()
        tables[protocol] = ScoreTable(
            f"{title}{TITLES[protocol]}{n_seeds}", means, deviations, fair, benchmark.failures
        )
    return tables


def is_fair(table: pd.DataFrame, benchmark: Benchmark) -> pd.Series:
    """True for methods that saw no label and, where that is known, tell types apart; no other is called the best."""
    saw_labels = {row.name for row in benchmark.rows if row.saw_labels}
    tells_apart = table["ARI"] >= USELESS_ARI if "ARI" in table else table.notna().any(axis=1)
    return tells_apart & ~table.index.isin(saw_labels)


def best_method(table: ScoreTable) -> str | None:
    """The method with the highest overall score of those that can be the best; None without any."""
    fair = table.means[table.is_fair]
    return None if fair.empty or "overall" not in fair else fair["overall"].idxmax()


def method_table(benchmark: Benchmark) -> pd.DataFrame:
    """What each row is: method, kind, meaning, obsm, status (``done``, or ``failed: `` and why)."""
    return pd.DataFrame(
        {
            "method": row.name,
            "kind": row.kind,
            "meaning": row.meaning,
            "obsm": row.obsm_key or row.name,
            "status": f"failed: {benchmark.failures[row.name]}" if row.name in benchmark.failures else "done",
        }
        for row in benchmark.rows
    )


def curve_table(benchmark: Benchmark) -> pd.DataFrame:
    """Clusters, NMI and ARI of each method with each seed at each resolution, and which was chosen; may be empty."""
    return pd.DataFrame(
        {
            "method": name,
            "seed": run.seed,
            "resolution": resolution,
            **{"clusters": int(values["clusters"]), "NMI": values["NMI"], "ARI": values["ARI"]},
            "is_chosen": resolution == best_resolution(scores.curve),
        }
        for run in benchmark.runs
        for name, scores in run.results.items()
        for resolution, values in scores.curve.items()
    )


def write_integration_tables(folder: Path, benchmark: Benchmark, name: str) -> None:
    """Write the tables of one data set; other files in the folder stay."""
    write_csv(folder / "metrics.csv", metric_table(benchmark))
    write_csv(folder / "methods.csv", method_table(benchmark))
    curves = curve_table(benchmark)
    if len(curves):
        write_csv(folder / "resolution.csv", curves)
    write_metric_tables(folder, list(score_tables(benchmark, f"{name}: ").values()), f"integration-{name}")


def write_study_tables(folder: Path, by_data: Mapping[str, Benchmark]) -> dict[str, ScoreTable]:
    """Write what several data sets have in common: all scores in one table, and the averages side by side.

    Parameters
    ----------
    folder
        Where to.
    by_data
        Name of a data set -> what was compared on it.

    Returns
    -------
    Protocol -> averages, methods x (data set, score).
    """
    long = {name: metric_table(benchmark) for name, benchmark in by_data.items()}
    write_csv(folder / "metrics.csv", pd.concat(long, names=["dataset"]).reset_index("dataset"))
    of_methods = {name: method_table(benchmark) for name, benchmark in by_data.items()}
    write_csv(folder / "methods.csv", pd.concat(of_methods, names=["dataset"]).reset_index("dataset"))
    single = {name: score_tables(benchmark) for name, benchmark in by_data.items()}
    tables = {
        protocol: _side_by_side({name: tables[protocol] for name, tables in single.items() if protocol in tables})
        for protocol in (PUBLISHED, SCIB, LABEL_FREE)
        if any(protocol in tables for tables in single.values())
    }
    write_metric_tables(folder, list(tables.values()), "integration")
    return tables


def _side_by_side(tables: Mapping[str, ScoreTable]) -> ScoreTable:
    def columns(table: pd.DataFrame) -> list[str]:
        return [name for name in SUMMARY if name in table] or list(table)

    def joined(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        table = pd.concat({name: part[columns(part)] for name, part in parts.items()}, axis=1)
        order = dict.fromkeys(method for part in parts.values() for method in part.index)
        return table.loc[list(order)]

    means = joined({name: table.means for name, table in tables.items()})
    has_deviations = all(table.deviations is not None for table in tables.values())
    deviations = joined({name: table.deviations for name, table in tables.items()}) if has_deviations else None
    fair = np.all(
        [pd.Series(t.is_fair, t.means.index).reindex(means.index, fill_value=True) for t in tables.values()], axis=0
    )
    failures = {f"{method} on {name}": why for name, table in tables.items() for method, why in table.failures.items()}
    return ScoreTable(next(iter(tables.values())).title, means, deviations, fair, failures)


def summary_lines(table: ScoreTable) -> list[str]:
    """Biology and batches of each method apart, for an embedding that merges everything is good at batches alone."""
    lines = []
    for method, row in table.means.dropna(how="all").iterrows():
        note = "; tells no types apart" if row["ARI"] < USELESS_ARI else ""
        lines.append(
            f"{method}: biology {row['AvgBIO']:.3f}, batches {row['AvgBATCH']:.3f}, overall {row['overall']:.3f}{note}"
        )
    return lines


def printed_scores(benchmark: Benchmark) -> str:
    """The scores of every protocol as a terminal shows them, and which rows failed."""
    parts = []
    for table in score_tables(benchmark).values():
        parts += [f"{table.title}:", table.texts.to_string()]
        if "overall" in table.means:
            parts += summary_lines(table)
    return "\n".join([*parts, *(f"{name} failed: {why}" for name, why in benchmark.failures.items())])
