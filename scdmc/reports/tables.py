"""Tables for people: Markdown for a page, LaTeX for a paper (the best of a column is bold), CSV for a spreadsheet."""

import csv
import re
from collections.abc import Mapping
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


def write_metric_tables(
    folder: Path, means: pd.DataFrame, deviations: pd.DataFrame | None = None, is_fair: np.ndarray | None = None
) -> None:
    """Write ``metrics.md`` and ``metrics.tex``.

    Parameters
    ----------
    folder
        Where to.
    means
        Methods x metrics, higher is better; NaN is a dash.
    deviations
        Standard deviations of the same, if there were several runs.
    is_fair
        Shape (n_methods,): False for methods that cannot be the best, whatever they score.
    """
    texts = score_texts(means, deviations)
    is_best = best_of_columns(means, is_fair)
    for name, content in (("metrics.md", markdown(texts, is_best)), ("metrics.tex", latex(texts, is_best))):
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


def best_of_columns(means: pd.DataFrame, is_fair: np.ndarray | None = None) -> np.ndarray:
    """True for the highest scores of each column, equal as printed being equal; shape (n_methods, n_metrics).

    Methods for which ``is_fair``, shape (n_methods,), is False are passed over.
    """
    values = means.to_numpy(dtype=float).round(3)
    if is_fair is not None:
        values[~np.asarray(is_fair)] = np.nan
    highest = np.where(np.isnan(values), -np.inf, values).max(axis=0)
    return values == highest


def markdown(texts: pd.DataFrame, is_bold: np.ndarray) -> str:
    """A Markdown table, methods x metrics."""

    def escaped(text: object) -> str:
        return "".join(MARKDOWN_ESCAPES.get(character, character) for character in str(text))

    lines = ["| method | " + " | ".join(map(escaped, texts.columns)) + " |", "|---|" + "---:|" * texts.shape[1]]
    for method, row, bold in zip(texts.index, texts.to_numpy(), is_bold, strict=True):
        cells = [f"**{cell}**" if best else cell for cell, best in zip(row, bold, strict=True)]
        lines.append(f"| {escaped(method)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def latex(texts: pd.DataFrame, is_bold: np.ndarray) -> str:
    """A LaTeX table (package booktabs), methods x metrics."""

    def escaped(text: object) -> str:
        return "".join(LATEX_ESCAPES.get(character, character) for character in str(text)).replace("–", "--")

    lines = [r"\begin{tabular}{l" + "r" * texts.shape[1] + "}", r"\toprule"]
    lines += ["method & " + " & ".join(map(escaped, texts.columns)) + r" \\", r"\midrule"]
    for method, row, bold in zip(texts.index, texts.to_numpy(), is_bold, strict=True):
        cells = [
            rf"\textbf{{{escaped(cell)}}}" if best else escaped(cell) for cell, best in zip(row, bold, strict=True)
        ]
        lines.append(f"{escaped(method)} & " + " & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


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
