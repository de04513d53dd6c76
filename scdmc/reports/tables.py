"""Tables for people: Markdown for a page, LaTeX for a paper (the best of a column is bold), CSV for a spreadsheet."""

import csv
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.files import atomic_path

LATEX_ESCAPES = {
    "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "$": r"\$", "{": r"\{", "}": r"\}",
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\n": " ",
}  # fmt: skip


MARKDOWN_ESCAPES = {"|": r"\|", "<": "&lt;", "&": "&amp;", "\n": " ", "\r": " "}


# What makes a spreadsheet compute a cell in place of showing it.
FORMULA = re.compile(r"[=+\-@\t\r]")


@dataclass(frozen=True)
class ScoreTable:
    """Scores of methods by one protocol.

    Attributes
    ----------
    title
        What they are, one line.
    means
        Methods x metrics, higher is better; NaN is a dash. Columns may have two levels: data set and metric.
    deviations
        Standard deviations of the same; None for one run.
    is_fair
        Shape (n_methods,): False for methods that cannot be the best, whatever they score.
    failures
        Method -> why it failed.
    """

    title: str
    means: pd.DataFrame
    deviations: pd.DataFrame | None
    is_fair: np.ndarray
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def texts(self) -> pd.DataFrame:
        """Scores as text (:func:`score_texts`); a method without any score that failed says so."""
        texts = score_texts(self.means, self.deviations)
        texts.loc[texts.index.isin(list(self.failures)) & self.means.isna().all(axis=1).to_numpy()] = "failed"
        return texts

    @property
    def notes(self) -> list[str]:
        """Which methods failed, and why: a line each."""
        return [f"{name} failed: {why}" for name, why in self.failures.items()]

    @property
    def is_best(self) -> np.ndarray:
        """True for the best of each column (:func:`best_of_columns`), shape (n_methods, n_metrics)."""
        return best_of_columns(self.means, self.is_fair, self.deviations)


def best_is_bold(table: ScoreTable) -> str:
    """What bold means in a table: without several seeds there is no standard deviation to be within."""
    within = "" if table.deviations is None else ", and all within one standard deviation of it"
    return f"Bold: the best of each score{within}."


def write_metric_tables(folder: Path, tables: Sequence[ScoreTable], label: str) -> None:
    """Write ``metrics.md`` and ``metrics.tex``, one table after the other.

    Parameters
    ----------
    folder
        Where to.
    tables
        At least one.
    label
        Of the tables in LaTeX, before a number.
    """
    parts, papers = [], [LATEX_HINT]
    for number, table in enumerate(tables, 1):
        notes = "".join(f"- {_for_markdown(note)}\n" for note in table.notes)
        parts.append(
            f"{_for_markdown(table.title)}\n\n{markdown(table.texts, table.is_best)}" + (f"\n{notes}" if notes else "")
        )
        caption = " ".join([f"{table.title}.", best_is_bold(table), *(f"{note}." for note in table.notes)])
        papers.append(latex_table(latex(table.texts, table.is_best), caption, f"tab:{label}-{number}"))
    for name, content in (("metrics.md", "\n".join(parts)), ("metrics.tex", "\n".join(papers))):
        with atomic_path(Path(folder) / name) as temporary:
            temporary.write_text(content, encoding="utf8")


def score_texts(means: pd.DataFrame, deviations: pd.DataFrame | None = None) -> pd.DataFrame:
    """Scores as text, methods x metrics: three decimals, with the standard deviation where there is one."""

    def text(mean: float, deviation: float) -> str:
        if np.isnan(mean):
            return "–"
        return f"{mean:.3f}" if np.isnan(deviation) else f"{mean:.3f} ± {deviation:.3f}"

    if deviations is None:
        deviations = pd.DataFrame(np.nan, means.index, means.columns)
    pairs = zip(means.to_numpy(dtype=float), deviations.to_numpy(dtype=float), strict=True)
    rows = [[text(*pair) for pair in zip(*row, strict=True)] for row in pairs]
    return pd.DataFrame(rows, means.index, means.columns)


def best_of_columns(
    means: pd.DataFrame, is_fair: np.ndarray | None = None, deviations: pd.DataFrame | None = None
) -> np.ndarray:
    """True for the highest score of each column and all within one standard deviation of it.

    Parameters
    ----------
    means
        Methods x metrics, higher is better. Scores that are equal as printed are equal.
    is_fair
        Shape (n_methods,): False for methods that are passed over.
    deviations
        Standard deviations of the same; the one that counts is that of the highest score. Without it there is none.

    Returns
    -------
    Shape (n_methods, n_metrics), bool.
    """
    values = means.to_numpy(dtype=float).round(3)
    if is_fair is not None:
        values[~np.asarray(is_fair)] = np.nan
    highest = np.where(np.isnan(values), -np.inf, values).max(axis=0)
    spread = np.zeros(values.shape[1])
    if deviations is not None and len(values):
        of_highest = np.where(np.isnan(values), -np.inf, values).argmax(axis=0)
        spread = np.nan_to_num(deviations.to_numpy(dtype=float)[of_highest, np.arange(values.shape[1])])
    return values >= highest - spread


def markdown(texts: pd.DataFrame, is_bold: np.ndarray, of_rows: str = "method") -> str:
    """A Markdown table, methods x metrics, or of other rows."""
    escaped = _for_markdown
    names = [": ".join(name) if isinstance(name, tuple) else name for name in texts.columns]
    lines = [f"| {of_rows} | " + " | ".join(map(escaped, names)) + " |", "|---|" + "---:|" * texts.shape[1]]
    for method, row, bold in zip(texts.index, texts.to_numpy(), is_bold, strict=True):
        cells = [f"**{cell}**" if best else cell for cell, best in zip(row, bold, strict=True)]
        lines.append(f"| {escaped(method)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _for_markdown(text: object) -> str:
    return "".join(MARKDOWN_ESCAPES.get(character, character) for character in str(text))


LATEX_HINT = "% Needs \\usepackage{booktabs,graphicx}. Take \\resizebox and its braces out of a narrow table.\n"


def latex_table(tabular: str, caption: str, label: str) -> str:
    """A table of a paper around what :func:`latex` gives, as wide as the text, with caption and label."""
    return (
        "\\begin{table}[t]\n\\centering\n"
        f"\\caption{{{_for_latex(caption)}}}\n\\label{{{re.sub('[^A-Za-z0-9:-]+', '-', label)}}}\n"
        f"\\resizebox{{\\linewidth}}{{!}}{{%\n{tabular}}}\n\\end{{table}}\n"
    )


def _for_latex(text: object) -> str:
    return "".join(LATEX_ESCAPES.get(character, character) for character in str(text)).replace("–", "--")


def latex(texts: pd.DataFrame, is_bold: np.ndarray) -> str:
    """A LaTeX table (package booktabs), methods x metrics; of two levels of columns the upper one spans the lower."""
    escaped = _for_latex
    lines = [r"\begin{tabular}{l" + "r" * texts.shape[1] + "}", r"\toprule"]
    names = texts.columns
    if names.nlevels > 1:
        lines += _spanning_heads(names)
        names = names.get_level_values(1)
    lines += ["method & " + " & ".join(map(escaped, names)) + r" \\", r"\midrule"]
    for method, row, bold in zip(texts.index, texts.to_numpy(), is_bold, strict=True):
        cells = [
            rf"\textbf{{{escaped(cell)}}}" if best else escaped(cell) for cell, best in zip(row, bold, strict=True)
        ]
        lines.append(f"{escaped(method)} & " + " & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _spanning_heads(names: pd.MultiIndex) -> list[str]:
    """Lines of LaTeX above the names of columns: the upper level, with a rule below each of its names."""
    heads, rules, first = [], [], 2
    for name, group in itertools.groupby(names.get_level_values(0)):
        n_columns = len(list(group))
        heads.append(rf"\multicolumn{{{n_columns}}}{{c}}{{{_for_latex(name)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + n_columns - 1}}}")
        first += n_columns
    return [" & " + " & ".join(heads) + r" \\", " ".join(rules)]


def write_csv_files(output_dir: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write each table as ``NAME.csv``, without its index (:func:`write_csv`)."""
    for name, table in tables.items():
        write_csv(output_dir / f"{name}.csv", table)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table that people open, whole or not at all, without its index (:func:`without_formulas`).

    What this project reads back by its text (``split.csv``, regulons) is no such table, and is written as it is.
    """
    with atomic_path(Path(path)) as temporary:
        without_formulas(table).to_csv(temporary, index=False, quoting=quoting_of(table))


def quoting_of(table: pd.DataFrame) -> int:
    """How ``to_csv`` must quote a table so that its text comes back: a return within a text is not quoted otherwise."""
    texts = (column for _, column in table.items() if not pd.api.types.is_numeric_dtype(column.dtype))
    has_return = any("\r" in text for column in texts for text in column.unique() if isinstance(text, str))
    return csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL


def without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """A table in which no text begins like a formula, of a spreadsheet: ``=``, ``+``, ``-``, ``@``, tab, return.

    Such text gets an apostrophe before it, in cells, names of columns and the index. Numbers stay, also those that are
    text (``-1.5``), as do missing values.
    """
    table = table.copy(deep=False)
    table.columns = [_as_shown(name) for name in table.columns]
    table.index = _guarded(table.index)
    for place in range(table.shape[1]):
        column = table.iloc[:, place]
        if not pd.api.types.is_numeric_dtype(column.dtype):
            table.isetitem(place, _guarded(column))
    return table


def _guarded(values: "pd.Series | pd.Index") -> "pd.Series | pd.Index":
    changed = {text: shown for text in values.unique() if (shown := _as_shown(text)) is not text}
    return values.astype(object).map(lambda value: changed.get(value, value)) if changed else values


def _as_shown(value: object) -> object:
    if not isinstance(value, str) or not FORMULA.match(value) or _is_number(value):
        return value
    return "'" + value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return FORMULA.match(text)[0] in "+-"
