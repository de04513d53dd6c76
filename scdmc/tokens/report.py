"""What a tokenization tells its user: warnings, the table of unmatched genes, and one HTML page with histograms."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from scdmc.reports.figures import DOTS_PER_INCH, PALETTE, shortened, write_png
from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance
from scdmc.tokens.file_report import FileReport, add_histograms, bin_edges, rounded
from scdmc.tokens.tokenized_cells import TokenizationSettings

# A loss above it often means that genes were named in a way that could not be read.
LARGE_LOSS = 0.2


MOST_FILES_DRAWN = 40


def warnings_of(reports: Sequence[FileReport]) -> list[str]:
    """What a user should look at, one sentence each."""
    warnings = []
    for report in reports:
        if report.allow_normalized:
            warnings.append(f"{report.source_file}: holds normalised values, taken because of --allow_normalized")
        if report.cells_without_known_genes:
            warnings.append(
                f"{report.source_file}: {report.cells_without_known_genes:,} cells have counts, but not one in a gene "
                "of the vocabulary; they were written without genes"
            )
        if report.share_of_counts_lost > LARGE_LOSS:
            warnings.append(
                f"{report.source_file}: {report.share_of_counts_lost:.0%} of the counts lie in genes outside of the "
                "vocabulary; the table of unmatched genes names them"
            )
    return warnings


def unmatched_genes(reports: Sequence[FileReport], names: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Columns source_file, gene, counts: what each gene outside of the vocabulary lost, the most first in each file.

    Parameters
    ----------
    reports
        The files.
    names
        File name -> name of each unmatched column of its matrix; columns of one name are added up.
    """
    tables = [pd.DataFrame({"source_file": [], "gene": [], "counts": []})]
    for report in reports:
        of_file = names[report.source_file]
        counts = report.unmatched_counts or np.zeros(len(of_file))
        table = pd.DataFrame({"source_file": report.source_file, "gene": of_file.astype(str), "counts": counts})
        table = table.groupby(["source_file", "gene"], as_index=False)["counts"].sum()
        tables.append(table.sort_values(["counts", "gene"], ascending=[False, True], kind="stable"))
    joined = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    # Whole numbers without ".0"; integers of any size are exact as objects.
    joined["counts"] = [int(count) if count.is_integer() else rounded(count) for count in joined["counts"]]
    return joined


def write_html_report(
    path: Path,
    name: str,
    settings: TokenizationSettings,
    reports: Sequence[FileReport],
    warnings: Sequence[str],
    entries: Sequence[Mapping[str, str]],
    made: Provenance,
) -> None:
    """Write the page; the same reports give the same bytes.

    Parameters
    ----------
    path
        The HTML file.
    name
        Of the tokenized data.
    settings
        How the cells were tokenized.
    reports
        The files.
    warnings
        Sentences for the user.
    entries
        What became of each entry of the input folder: name, status, why.
    made
        From what.
    """
    with tempfile.TemporaryDirectory() as folder:
        sections = [
            *([Section("Warnings", points=list(warnings))] if warnings else []),
            Section("Cells", figures=_save_all(_cell_figures(settings, reports), Path(folder) / "cells")),
            Section("Genes", figures=_save_all(_gene_figures(reports), Path(folder) / "genes")),
            Section(
                "Files", tables=[("Each file", _table_of_files(reports)), *_entries_of_folder(entries)], folds=True
            ),
        ]
        made = replace(made, settings=settings.to_dict())
        write_report(path, f"Tokenized cells: {name}", sections, verdict_of(settings, reports, warnings), made)


def verdict_of(settings: TokenizationSettings, reports: Sequence[FileReport], warnings: Sequence[str]) -> Verdict:
    """Whether the cells came through whole: how many were written, and what of their counts and genes was lost."""
    n_in, n_out = (sum(getattr(report, name) for report in reports) for name in ("cells_in", "cells_out"))
    total = sum(report.counts_total for report in reports)
    lost = sum(report.counts_of_unmatched_genes for report in reports) / total if total else 0.0
    cut = _share_with_more(reports)
    numbers = (
        KeyNumber("Cells written", f"{n_out:,}", f"of {n_in:,} in {len(reports):,} {_files(len(reports))}"),
        KeyNumber("Counts in unknown genes", f"{lost:.1%}", f"a warning from {LARGE_LOSS:.0%} of a file on"),
        KeyNumber("Cells with more genes than fit", f"{cut:.1%}", f"{settings.model_input_size - 2:,} genes fit"),
    )
    headline = f"{n_out:,} of {n_in:,} cells were tokenized, with {1 - lost:.1%} of their counts"
    if not warnings:
        lowest = (
            f"In {cut:.0%} of the cells the lowest genes were cut, since no more fit." if cut else "No gene was cut."
        )
        return Verdict("good", headline, (lowest,), numbers)
    more = f" There are {len(warnings) - 1:,} more warnings below." if len(warnings) > 1 else ""
    return Verdict("caution", headline, (f"{warnings[0]}.{more}",), numbers)


def _files(number: int) -> str:
    return "file" if number == 1 else "files"


def _table_of_files(reports: Sequence[FileReport]) -> pd.DataFrame:
    columns = {
        "file": [report.source_file for report in reports],
        "counts from": [report.layer for report in reports],
        "cells in": [report.cells_in for report in reports],
        "cells out": [report.cells_out for report in reports],
        "dropped by filter_pass": [report.cells_not_passing_filter for report in reports],
        "empty": [report.cells_empty for report in reports],
        "without known genes": [report.cells_without_known_genes for report in reports],
        "truncated": [report.cells_truncated for report in reports],
        "genes": [report.genes for report in reports],
        "genes matched": [report.genes_matched for report in reports],
        "features that are no genes": [sum(report.features_left_out.values()) for report in reports],
        "duplicates summed": [report.duplicate_genes_summed for report in reports],
        "share of counts lost": [report.share_of_counts_lost for report in reports],
    }
    return pd.DataFrame(columns)


def _entries_of_folder(folder: Sequence[Mapping[str, str]]) -> list[tuple[str, pd.DataFrame]]:
    return [("What became of each entry of the input folder", pd.DataFrame(list(folder)))] if folder else []


def _cell_figures(settings: TokenizationSettings, reports: Sequence[FileReport]) -> dict[str, Figure]:
    """Caption -> figure."""
    most = settings.model_input_size - 2
    genes = reduce(add_histograms, [report.genes_per_cell for report in reports])
    counts = reduce(add_histograms, [report.counts_per_cell for report in reports])
    truncated = {report.source_file: report.cells_truncated / max(report.cells_out, 1) for report in reports}
    return {
        f"{_share_with_more(reports):.1%} of the cells have more genes than the {most:,} that fit (the line)": (
            histogram_figure(genes, "genes per cell", limit=most)
        ),
        f"A cell has {_mean(counts, reports):,.0f} counts on average; by its total it is normalised": (
            histogram_figure(counts, "counts per cell")
        ),
        f"{_extremes(truncated)} of a file's cells have more than {most:,} genes, and lost the lowest of them": (
            share_figure(truncated, "share of cells truncated")
        ),
    }


def _share_with_more(reports: Sequence[FileReport]) -> float:
    return sum(report.cells_truncated for report in reports) / max(sum(report.cells_out for report in reports), 1)


def _mean(histogram: Mapping[str, int], reports: Sequence[FileReport]) -> float:
    """Counts of a cell on average: all counts of the files, over the cells of the histogram."""
    return sum(report.counts_total for report in reports) / max(sum(histogram.values()), 1)


def _extremes(shares: Mapping[str, float]) -> str:
    """From the lowest to the highest share."""
    low, high = f"{min(shares.values()):.1%}", f"{max(shares.values()):.1%}"
    return low if low == high else f"{low} to {high}"


def _gene_figures(reports: Sequence[FileReport]) -> dict[str, Figure]:
    matched = {report.source_file: report.genes_matched / report.genes for report in reports}
    return {
        f"{_extremes(matched)} of a file's genes are in the vocabulary": share_figure(matched, "share of genes matched")
    }


def _save_all(figures: Mapping[str, Figure], folder: Path) -> list[tuple[str, Path]]:
    """Write PNGs for the page (no PDF beside, as figures of their own have)."""
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(len(figures))]
    for path, figure in zip(paths, figures.values(), strict=True):
        write_png(figure, path, DOTS_PER_INCH)
    return list(zip(figures, paths, strict=True))


def histogram_figure(histogram: Mapping[str, int], label: str, limit: float | None = None) -> Figure:
    """Draw a histogram with logarithmic bins.

    Parameters
    ----------
    histogram
        Lower edge of a bin -> number of cells (see :func:`scdmc.tokens.file_report.histogram_of`).
    label
        What is counted.
    limit
        Where a dashed line stands.
    """
    edges = bin_edges()
    place = {str(edge): number for number, edge in enumerate(edges)}
    bins = [place[edge] for edge in histogram]
    figure = Figure(figsize=(5.2, 2.4), layout="constrained")
    axes = figure.subplots()
    # Cells with none are drawn left of 1, where a logarithmic axis has room but no zero.
    left = np.maximum(edges.astype(float), 0.5)
    axes.bar(left[bins], list(histogram.values()), np.diff(left)[bins], align="edge", color=PALETTE[0], linewidth=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if limit is not None:
        axes.axvline(limit, color="black", linestyle="--", linewidth=0.8)
    axes.set_xlabel(f"{label} (logarithmic; cells with none left of 1)", fontsize=8)
    axes.set_ylabel("cells", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def share_figure(shares: Mapping[str, float], label: str) -> Figure:
    """Draw a share of each file as a bar, the first file on top; of many files the highest and the lowest only.

    Parameters
    ----------
    shares
        File name -> share, 0 to 1.
    label
        Of what.
    """
    ordered = sorted(shares, key=lambda name: (shares[name], name))
    drawn = list(shares)
    if len(drawn) > MOST_FILES_DRAWN:
        extremes = {*ordered[: MOST_FILES_DRAWN // 2], *ordered[-MOST_FILES_DRAWN // 2 :]}
        drawn = [name for name in shares if name in extremes]
        label = f"{label} (the {MOST_FILES_DRAWN} most extreme of {len(shares):,} files)"
    height = np.arange(len(drawn))[::-1]
    values = [shares[name] for name in drawn]
    figure = Figure(figsize=(5.2, 0.9 + 0.24 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    axes.barh(height, values, height=0.7, color=PALETTE[0])
    for y, value in zip(height, values, strict=True):
        axes.annotate(f"{value:.1%}", (value, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(height, map(shortened, drawn), fontsize=7)
    # Room for the number beside a full bar.
    axes.set_xlim(0, 1.12)
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
