"""Tables of scores for people: Markdown for a page, LaTeX for a paper; the best of each column is bold."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.files import atomic_path

LATEX_ESCAPES = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$"}


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
    lines = ["| method | " + " | ".join(map(str, texts.columns)) + " |", "|---|" + "---:|" * texts.shape[1]]
    for method, row, bold in zip(texts.index, texts.to_numpy(), is_bold, strict=True):
        cells = [f"**{cell}**" if best else cell for cell, best in zip(row, bold, strict=True)]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
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
    """Write each table as ``NAME.csv``, without its index."""
    for name, table in tables.items():
        with atomic_path(output_dir / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
