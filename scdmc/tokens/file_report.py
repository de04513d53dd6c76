"""What became of the cells and genes of one file: numbers that are added up block by block and shard by shard."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import scipy.sparse

from scdmc.genes.ids import GeneMatch
from scdmc.reading.counts import Counts
from scdmc.tokens.streams import CellStreams, has_counts

EXAMPLES_IN_REPORT = 10


BINS_PER_DECADE = 20


DECADES = 10


# Sums over cells, and lists of them of which the first few are kept.
SUMS = (
    "cells_in",
    "cells_out",
    "cells_not_passing_filter",
    "cells_empty",
    "cells_without_known_genes",
    "cells_truncated",
    "counts_total",
    "counts_of_unmatched_genes",
)


def bin_edges() -> np.ndarray:
    """Lower edges of the histograms' bins, int64: 0, then whole numbers, twenty a decade, up to 10^10."""
    steps = np.arange(DECADES * BINS_PER_DECADE + 1) / BINS_PER_DECADE
    return np.concatenate([[0], np.unique(np.round(10.0**steps).astype(np.int64))])


def histogram_of(values: np.ndarray) -> dict[str, int]:
    """Count values of at least 0 in the bins of :func:`bin_edges`: lower edge -> how many, for the bins with any."""
    edges = bin_edges()
    counts = np.bincount(np.searchsorted(edges, values, side="right") - 1, minlength=len(edges))
    return {str(edges[bin_]): int(counts[bin_]) for bin_ in np.flatnonzero(counts)}


def add_histograms(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    """Add up two histograms, in the order of their bins."""
    edges = sorted({*first, *second}, key=int)
    return {edge: first.get(edge, 0) + second.get(edge, 0) for edge in edges}


@dataclass
class FileReport:
    """What happened to the cells and genes of one file, as counts.

    Attributes
    ----------
    genes_per_cell, counts_per_cell
        Histograms (see :func:`histogram_of`) over the cells that were written: genes of the vocabulary with counts,
        before truncation, and total counts.
    genes_matched_by, gene_spellings
        See :class:`scdmc.genes.ids.GeneMatch`.
    features_left_out
        What features are that are no genes of a human -> how many; they count neither as genes nor in the totals.
    unmatched_counts
        Sum over the written cells for each column of no gene of the vocabulary, in the order of the file; empty before
        the first cell.
    """

    source_file: str
    layer: str
    allow_normalized: bool
    genes: int
    genes_matched: int
    genes_unmatched_examples: list[str]
    gene_columns_used: list[str]
    genes_matched_by: dict[str, int]
    gene_spellings: dict[str, int]
    duplicate_genes_summed: int
    features_left_out: dict[str, int] = field(default_factory=dict)
    recompute_totals: bool = False
    cells_in: int = 0
    cells_out: int = 0
    cells_not_passing_filter: int = 0
    cells_empty: int = 0
    cells_empty_examples: list[str] = field(default_factory=list)
    cells_without_known_genes: int = 0
    cells_truncated: int = 0
    counts_total: float = 0.0
    counts_of_unmatched_genes: float = 0.0
    genes_per_cell: dict[str, int] = field(default_factory=dict)
    counts_per_cell: dict[str, int] = field(default_factory=dict)
    unmatched_counts: list[float] = field(default_factory=list)

    def add(self, other: "FileReport") -> None:
        """Add what happened to other cells of the same file, which come after these."""
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.cells_empty_examples = [*self.cells_empty_examples, *other.cells_empty_examples][:EXAMPLES_IN_REPORT]
        self.genes_per_cell = add_histograms(self.genes_per_cell, other.genes_per_cell)
        self.counts_per_cell = add_histograms(self.counts_per_cell, other.counts_per_cell)
        self._add_unmatched(np.array(other.unmatched_counts))

    def add_counts(self, counts: scipy.sparse.csr_matrix, match: GeneMatch) -> None:
        """Add the counts of a block of cells, shape (n_cells, n_genes)."""
        of_gene = np.ones(counts.shape[0]) @ counts
        of_unmatched = of_gene[~match.is_matched]
        self.counts_total += float(of_gene.sum())
        self.counts_of_unmatched_genes += float(of_unmatched.sum())
        self._add_unmatched(of_unmatched)

    def add_streams(self, streams: CellStreams, n_counts: np.ndarray) -> None:
        """Add cells that were tokenized; ``n_counts`` of shape (n_cells,) are their totals."""
        is_filled = has_counts(n_counts)
        self.cells_out += len(n_counts)
        self.cells_truncated += streams.n_truncated
        self.cells_without_known_genes += int((is_filled & (streams.n_genes == 0)).sum())
        self.genes_per_cell = add_histograms(self.genes_per_cell, histogram_of(streams.n_genes))
        self.counts_per_cell = add_histograms(self.counts_per_cell, histogram_of(np.where(is_filled, n_counts, 0)))

    def add_empty_cells(self, cell_ids: np.ndarray) -> None:
        """Add cells without counts."""
        room = EXAMPLES_IN_REPORT - len(self.cells_empty_examples)
        self.cells_empty += len(cell_ids)
        self.cells_empty_examples += [str(cell) for cell in cell_ids[:room]]

    def _add_unmatched(self, counts: np.ndarray) -> None:
        if len(counts):
            self.unmatched_counts = (np.array(self.unmatched_counts or np.zeros(len(counts))) + counts).tolist()

    def to_dict(self) -> dict:
        """What the JSON report says of the file: all but the counts of each unmatched gene."""
        content = asdict(self)
        del content["unmatched_counts"]
        return {name: rounded(value) if isinstance(value, float) else value for name, value in content.items()}

    @property
    def share_of_counts_lost(self) -> float:
        """Share of the counts that lie in genes outside of the vocabulary."""
        return self.counts_of_unmatched_genes / self.counts_total if self.counts_total else 0.0

    def summary(self) -> str:
        """One line for the log."""
        return (
            f"{self.source_file}: {self.cells_in:,} cells in, {self.cells_out:,} out "
            f"({self.cells_not_passing_filter:,} dropped by filter_pass, {self.cells_empty:,} empty, "
            f"{self.cells_truncated:,} truncated); {self.genes_summary()}"
        )

    def genes_summary(self) -> str:
        """Where the counts come from and what became of the genes, for the log."""
        return (
            f"counts from {self.layer}; "
            f"{self.genes_matched:,} of {self.genes:,} genes matched by {self._places_of_names()}{self._spellings()}, "
            f"{self.share_of_counts_lost:.1%} of the counts lie in unmatched genes"
        )

    def _spellings(self) -> str:
        """How names that are not written plainly are written, in brackets."""
        spelt = ", ".join(f"{number:,} with {spelling}" for spelling, number in self.gene_spellings.items())
        return f" (not written plainly: {spelt})" if spelt else ""

    def _places_of_names(self) -> str:
        """Where names of genes came from, with numbers where there are several places."""
        if len(self.gene_columns_used) < 2:
            return " and ".join(self.gene_columns_used)
        return " and ".join(f"{place} ({self.genes_matched_by[place]:,})" for place in self.gene_columns_used)


def rounded(total: float) -> float:
    """A sum as it is written: whole ones in full, others to ten digits, which no order of adding changes."""
    return total if total.is_integer() else float(f"{total:.10g}")


def new_report(counts: Counts, match: GeneMatch) -> FileReport:
    """Report of a file of which no cell has been read yet."""
    unmatched = match.names[~match.is_matched]
    return FileReport(
        source_file=counts.name,
        layer=counts.layer,
        allow_normalized=counts.is_normalized,
        genes=len(match.token_ids),
        genes_matched=int(match.is_matched.sum()),
        genes_unmatched_examples=[str(name) for name in unmatched[:EXAMPLES_IN_REPORT]],
        gene_columns_used=match.columns_used,
        genes_matched_by=match.matched_by,
        gene_spellings=match.spellings,
        duplicate_genes_summed=match.n_duplicates,
        features_left_out=dict(counts.left_out),
        recompute_totals=counts.recompute_totals,
    )
