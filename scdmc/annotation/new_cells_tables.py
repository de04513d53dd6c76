"""What the page of new cells says of each type: its cells, how sure they are, and whether its markers rise in them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from scdmc.annotation.annotated_cells import AnnotatedCells
from scdmc.annotation.options import UNKNOWN
from scdmc.cells.group_expression import group_expression, log2_fold_change, marker_columns
from scdmc.labels import is_missing

MARKERS_OF_TYPE = 10


# A cell of the reference is far when it lies farther than this share of the reference.
FAR = 0.95


RARE = 10  # cells


LOW_PROBABILITY, LOW_F1 = 0.6, 0.5


FEWEST_RISING, SMALLEST_RISE = 0.7, 0.25  # share of the markers; log2 fold change, on average


FEWEST_CELLS_FOR_MARKERS = 3


# A second type is close where it has at least this share of the probability of the label.
CLOSE = 0.5


CELLS_AT_ONCE = 20_000


# Reference cells that markers are sought in: at most so many of a type, and together about so many.
MOST_OF_TYPE, MOST_FOR_MARKERS, FEWEST_OF_TYPE = 500, 30_000, 20


@dataclass(frozen=True)
class TypeEvidence:
    """What is computed once for the whole page, from the annotated cells.

    Attributes
    ----------
    cells
        The annotated cells.
    seed
        Of the reference cells that markers are sought in.
    """

    cells: AnnotatedCells
    seed: int = 42

    @cached_property
    def labels(self) -> np.ndarray:
        """Label of each new cell, None where it has none; shape (n_new,)."""
        labels = np.array([str(label) for label in self.cells.labels], dtype=object)
        return np.where(is_missing(labels), None, labels)

    @cached_property
    def names(self) -> list[str]:
        """Types of the reference."""
        return [str(name) for name in self.cells.names]

    @cached_property
    def codes(self) -> np.ndarray:
        """Number of each new cell's label among the types, -1 for Unknown; shape (n_new,)."""
        return pd.Index(self.names).get_indexer(pd.Index(self.labels))

    @cached_property
    def reference_codes(self) -> np.ndarray:
        """Number of each reference cell's type, -1 for none; shape (n_reference,)."""
        return pd.Index(self.names).get_indexer(pd.Index([str(label) for label in self.cells.reference_labels]))

    @cached_property
    def _likeliest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Likeliest type, second type beside the label (-1: none), and the probability of the label and of the second.

        For a cell without label, its likeliest type stands in the place of the label.
        """
        parts = []
        for start in range(0, len(self.codes), CELLS_AT_ONCE):
            at = slice(start, start + CELLS_AT_ONCE)
            given = np.nan_to_num(np.asarray(self.cells.probabilities[at], dtype=float))
            rows, best = np.arange(len(given)), given.argmax(axis=1)
            label = np.where(self.codes[at] >= 0, self.codes[at], best)
            probability = given[rows, label]
            given[rows, label] = -1.0
            second = given.argmax(axis=1)
            of_second = given[rows, second]
            best = np.where(probability + of_second > 0, best, -1)
            parts.append((best, np.where(of_second > 0, second, -1), probability, np.maximum(of_second, 0.0)))
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    @property
    def best(self) -> np.ndarray:
        """Number of the likeliest type of each new cell, -1 for none; shape (n_new,)."""
        return self._likeliest[0]

    @property
    def second(self) -> np.ndarray:
        """Number of the likeliest other type of each new cell, -1 for none; shape (n_new,)."""
        return self._likeliest[1]

    @property
    def probability(self) -> np.ndarray:
        """Of the label, or of the likeliest type of a cell without; shape (n_new,)."""
        return self._likeliest[2]

    @property
    def probability_of_second(self) -> np.ndarray:
        """Of the likeliest other type; shape (n_new,)."""
        return self._likeliest[3]

    @cached_property
    def markers(self) -> pd.DataFrame:
        """Markers of every type in the reference, and how they change in the new cells of that label.

        Columns type, rank, column, gene, log2_fold_change (reference), new_log2_fold_change (NaN where the new cells
        cannot tell: fewer than three with the label, or none with another).
        """
        reference = self.cells.reference
        chosen = _some_of_each(self.reference_codes, len(self.names), self.seed)
        groups = group_expression(reference.expression[chosen], self.reference_codes[chosen], len(self.names))
        table = marker_columns(groups, MARKERS_OF_TYPE)
        columns, place = np.unique(table["column"].to_numpy(dtype=int), return_inverse=True)
        new = group_expression(self.cells.new.expression[:, columns], self.codes, len(self.names))
        rest = new.of_rest()
        change = log2_fold_change(new.mean, rest.mean)
        cannot_tell = (new.n_cells < FEWEST_CELLS_FOR_MARKERS) | (rest.n_cells == 0)
        change[cannot_tell] = np.nan
        group = table["group"].to_numpy(dtype=int)
        table["type"] = np.array(self.names, dtype=object)[group]
        table["gene"] = [str(gene) for gene in np.asarray(reference.genes)[table["column"].to_numpy(dtype=int)]]
        table["new_log2_fold_change"] = change[group, place]
        return table[["type", "rank", "column", "gene", "log2_fold_change", "new_log2_fold_change"]]

    @cached_property
    def types(self) -> pd.DataFrame:
        """One row per type that new cells have, the largest first; index: the type.

        Columns cells, share, probability (median), reference_share, distance (median), f1 (held out), markers (number),
        rising (share of the markers), rise (mean log2 fold change), doubts (tuple of sentences' parts).
        """
        table = pd.DataFrame({"label": self.labels, "probability": self.probability, "distance": self.cells.distance})
        grouped = table.dropna(subset="label").groupby("label")
        types = pd.DataFrame({
            "cells": grouped.size(), "share": grouped.size() / max(len(table), 1),
            "probability": grouped["probability"].median(),
        })  # fmt: skip
        in_reference = np.bincount(self.reference_codes[self.reference_codes >= 0], minlength=len(self.names))
        share = pd.Series(in_reference / max(in_reference.sum(), 1), self.names)
        types["reference_share"] = share.reindex(types.index, fill_value=0.0)
        types["distance"] = grouped["distance"].median()
        types["f1"] = self.cells.held_out.types["f1"].reindex(types.index) if len(self.cells.held_out.types) else np.nan
        markers = self.markers.dropna(subset="new_log2_fold_change").groupby("type")["new_log2_fold_change"]
        types["markers"] = markers.size().reindex(types.index, fill_value=0).astype(int)
        types["rising"] = markers.agg(lambda change: (change > 0).mean()).astype(float).reindex(types.index)
        types["rise"] = markers.mean().reindex(types.index)
        types = types.sort_values(["cells"], ascending=False, kind="stable")
        types["doubts"] = [_doubts(row) for row in types.itertuples()]
        types.index.name = "type"
        return types

    @cached_property
    def close_pairs(self) -> pd.DataFrame:
        """Pairs of types between which new cells stand, the most frequent first.

        Columns label, second, cells (whose second type has at least half the probability of the label), share (of the
        label's cells), reference_cells (of the second type that were taken for the label where they were held out).
        """
        is_close = (self.codes >= 0) & (self.second >= 0) & (self.probability_of_second >= CLOSE * self.probability)
        pairs = pd.DataFrame({"label": self.codes[is_close], "second": self.second[is_close]})
        counts = pairs.groupby(["label", "second"]).size().rename("cells").reset_index()
        names = np.array(self.names, dtype=object)
        sizes = np.bincount(self.codes[self.codes >= 0], minlength=len(names))
        counts["share"] = counts["cells"] / sizes[counts["label"]]
        given = pd.Index(self.names).get_indexer(pd.Index([str(label) for label in self.cells.held_out.labels]))
        confused = np.zeros(len(counts), dtype=int)
        if len(given) == len(self.reference_codes):
            mistakes = pd.Series(list(zip(given, self.reference_codes, strict=True))).value_counts()
            confused = [int(mistakes.get(pair, 0)) for pair in zip(counts["label"], counts["second"], strict=True)]
        counts["reference_cells"] = confused
        counts["label"], counts["second"] = names[counts["label"]], names[counts["second"]]
        return counts.sort_values("cells", ascending=False, kind="stable", ignore_index=True)

    @property
    def doubtful(self) -> pd.DataFrame:
        """Rows of :attr:`types` with doubts."""
        return self.types[self.types["doubts"].map(len) > 0]


def _some_of_each(codes: np.ndarray, n_types: int, seed: int) -> np.ndarray:
    """Cells of every type, a bounded number of each, in their order."""
    most = int(np.clip(MOST_FOR_MARKERS // max(n_types, 1), FEWEST_OF_TYPE, MOST_OF_TYPE))
    shuffled = np.random.default_rng(seed).permutation(np.flatnonzero(codes >= 0))
    place = pd.Series(codes[shuffled]).groupby(codes[shuffled]).cumcount().to_numpy()
    return np.sort(shuffled[place < most])


def _doubts(of_type: tuple) -> tuple[str, ...]:
    """Why the label of a type is doubtful, each reason a few words; none if it is not."""
    found = []
    if of_type.probability < LOW_PROBABILITY:
        found.append(f"half of its cells have a probability below {of_type.probability:.0%}")
    if of_type.distance > FAR:
        found.append("most of its cells lie far from the reference")
    if of_type.markers and (of_type.rising < FEWEST_RISING or of_type.rise < SMALLEST_RISE):
        found.append(f"only {of_type.rising:.0%} of its markers rise" if of_type.rising < FEWEST_RISING
                     else "its markers rise hardly")  # fmt: skip
    if of_type.f1 < LOW_F1:
        found.append(f"held-out reference cells of this type were hardly told apart (F1 {of_type.f1:.2f})")
    if of_type.cells < RARE:
        found.append(f"rare: {cells_text(of_type.cells)}")
    return tuple(found)


def cells_text(number: int) -> str:
    """A number of cells in words."""
    return "1 cell" if number == 1 else f"{number:,} cells"


def is_only_rare(doubts: tuple[str, ...]) -> bool:
    """True if the one doubt about a type is that it has few cells."""
    return len(doubts) == 1 and doubts[0].startswith("rare: ")


def labels_shown(evidence: TypeEvidence) -> np.ndarray:
    """Labels as text, Unknown included, shape (n_new,)."""
    return np.where(np.equal(evidence.labels, None), UNKNOWN, evidence.labels)
