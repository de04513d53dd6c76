"""What the page of an integration says first: who is best, and where the language model stands beside its baselines."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from scdmc.integration.options import PUBLISHED, SCIB
from scdmc.integration.row import OURS
from scdmc.integration.study import Benchmark
from scdmc.integration.tables import best_method, score_tables
from scdmc.reports.page import KeyNumber, Verdict
from scdmc.reports.tables import ScoreTable

SCORES = {"overall": "Overall score", "AvgBIO": "Types kept apart (AvgBIO)", "AvgBATCH": "Batches mixed (AvgBATCH)"}


def verdict_of(benchmarks: Mapping[str, Benchmark]) -> Verdict:
    """The verdict on one data set, or on several: those of the first give the numbers.

    Parameters
    ----------
    benchmarks
        Name of a data set -> what was compared on it.
    """
    found = {name: _scored(benchmark) for name, benchmark in benchmarks.items()}
    scored = {name: table for name, table in found.items() if table is not None}
    failures = [f"{row} failed on {name}." for name, of in benchmarks.items() for row in of.failures]
    if not scored:
        headline = "Without labels nothing says which method is best; compare mixing and neighbours kept"
        return Verdict("caution", headline, ("Noise mixes best, and no integration keeps every neighbour.", *failures))
    first = next(iter(scored))
    ours = {row.name for row in benchmarks[first].rows if row.kind == OURS and not row.saw_labels}
    headlines = {name: _headline(table, ours) for name, table in scored.items()}
    levels = {level for level, _ in headlines.values()}
    reasons = [f"{name}: {text}." if len(scored) > 1 else f"{text}." for name, (_, text) in headlines.items()]
    if len(scored) == 1:
        headline, reasons = reasons[0].removesuffix("."), []
    else:
        n_good = sum(level == "good" for level, _ in headlines.values())
        headline = f"A row of scDMC is best, or level with the best, on {n_good} of {len(scored)} data sets"
        if not n_good:
            headline = f"On none of {len(scored)} data sets is a row of scDMC best, or level with the best"
    level = "good" if levels == {"good"} and not failures else "caution"
    where = f" on {first}" if len(benchmarks) > 1 else ""
    return Verdict(level, headline, (*reasons, *failures), _numbers(scored[first], ours, where))


def _scored(benchmark: Benchmark) -> ScoreTable | None:
    """Scores by the labels: those of scIB, or else as published."""
    tables = score_tables(benchmark)
    return tables.get(SCIB) or tables.get(PUBLISHED)


def _headline(table: ScoreTable, ours: set[str]) -> tuple[str, str]:
    """Level and finding of one data set."""
    best = best_method(table)
    if best is None:
        return "bad", "No method tells the types apart"
    overall = table.means["overall"]
    place = table.means.columns.get_loc("overall")
    level_with_best = set(table.means.index[table.is_best[:, place]]) - {best}
    text = f"{best} has the best overall score ({overall[best]:.3f})"
    if best in ours:
        return "good", text
    if ours & level_with_best:
        name = max(ours & level_with_best, key=overall.get)
        return "good", f"{text}; {name} ({overall[name]:.3f}) is within one standard deviation"
    known = overall[[name for name in overall.index if name in ours]].dropna()
    if known.empty:
        return "caution", f"{text}; no row of scDMC was scored"
    return "caution", f"{text}; the best row of scDMC, {known.idxmax()}, has {known.max():.3f}"


def _numbers(table: ScoreTable, ours: set[str], where: str) -> tuple[KeyNumber, ...]:
    """Scores of our best row, each beside that of the best other row."""
    means, texts = table.means, table.texts
    is_ours = np.array([name in ours for name in means.index])
    rows = {"ours": means["overall"][is_ours].dropna(), "other": means["overall"][~is_ours].dropna()}
    if any(scores.empty for scores in rows.values()):
        return ()
    name, other = (pd.Series(scores).idxmax() for scores in rows.values())
    return tuple(
        KeyNumber(f"{shown} of {name}{where}", texts.loc[name, score], f"{texts.loc[other, score]} for {other}")
        for score, shown in SCORES.items()
        if score in means
    )
