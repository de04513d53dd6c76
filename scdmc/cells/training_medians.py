"""Which cells of a file count for the gene medians: those that train the model."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.cells.splits import read_split
from scdmc.reading.counts import Counts, open_counts, passes_filter
from scdmc.reading.obs_filter import keep_cells, require_known_values


def training_rows(counts: Counts, split_file: Path | None, rules: Mapping[str, Sequence[str]]) -> np.ndarray:
    """True for the cells that count: those that are tokenized, not left out and, given a split, train the model.

    Returns
    -------
    Shape (n_cells,).
    """
    is_taken = passes_filter(counts) & keep_cells(counts.obs, rules)
    if split_file is None:
        return is_taken
    cells = pd.DataFrame({"source_file": counts.name, "cell_id": counts.obs.index.astype(str)})
    return is_taken & (read_split(split_file, cells) == "train")


def require_rules_that_apply(
    files: Sequence[Path], rules: Mapping[str, Sequence[str]], layer: str | None, allow_normalized: bool
) -> None:
    """Look at the obs of every file before the long pass."""
    obs = {}
    for path in files if rules else ():
        with open_counts(path, layer, allow_normalized) as counts:
            obs[path.name] = counts.obs
    require_known_values(rules, obs)


class TakenCells:
    """Chooses the cells and counts those taken by each column of the rules, for the provenance."""

    def __init__(self, split_file: Path | None, rules: Mapping[str, Sequence[str]]) -> None:
        self.split_file = split_file
        self.rules = rules
        self.numbers = {column: Counter() for column in rules}

    def __call__(self, counts: Counts) -> np.ndarray:
        """True for the cells taken, shape (n_cells,)."""
        is_taken = training_rows(counts, self.split_file, self.rules)
        for column in set(self.rules) & set(counts.obs):
            self.numbers[column].update(counts.obs[column][is_taken].astype(str))
        return is_taken

    def provenance(self) -> dict[str, object]:
        """The rules, and how many cells were taken by each value of their columns."""
        numbers = {column: dict(sorted(of_column.items())) for column, of_column in self.numbers.items()}
        return {"left_out": self.rules, "cells_taken": numbers}
