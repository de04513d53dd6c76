"""What every gene-level analysis leaves: tables as CSV, and one page with the verdict on top and the figures below."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from scdmc.files import atomic_path
from scdmc.reports.page import Section, write_report

Figures = list[tuple[str, Path]]  # captions and PNG files


def write_csv_files(output_dir: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write each table as ``NAME.csv``, without its index."""
    for name, table in tables.items():
        with atomic_path(output_dir / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)


def write_gene_page(
    output_dir: Path, title: str, verdict: str, sections: Sequence[Section], figures: Sequence[tuple[str, Path]]
) -> None:
    """Write ``report.html``.

    Parameters
    ----------
    output_dir
        Where to.
    title, verdict
        What was done, and what was found, in plain words.
    sections
        Tables and what they mean.
    figures
        Captions and PNG files.
    """
    parts = [Section("Verdict", verdict), *sections, Section("Figures", "", [], list(figures))]
    write_report(output_dir / "report.html", title, parts)
