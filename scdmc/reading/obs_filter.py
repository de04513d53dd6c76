"""Leaving cells out by a column of obs: ``--leave_out COLUMN=VALUE[,VALUE...]``.

What is evaluated later must be out of everything that is learnt from the corpus: the medians, the tokens, the training.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from scdmc.errors import ScDMCError

if TYPE_CHECKING:
    import pandas as pd


def parse_leave_out(rules: Sequence[str], flag: str = "--leave_out") -> dict[str, list[str]]:
    """Read rules ``COLUMN=VALUE[,VALUE...]`` as column -> values; rules of one column add up.

    ``flag`` is what the user wrote them after, for the error message; so it is in the functions below.

    Raises
    ------
    ScDMCError
        If a rule has no column or no value.
    """
    values_of: dict[str, list[str]] = {}
    for rule in rules:
        column, _, text = rule.partition("=")
        values = [value.strip() for value in text.split(",")]
        if not column.strip() or not all(values):
            raise ScDMCError(f"{flag} {rule}: write COLUMN=VALUE[,VALUE...], such as dataset=pbmc_a,pbmc_b")
        kept = values_of.setdefault(column.strip(), [])
        kept += [value for value in values if value not in kept]
    return values_of


def require_known_values(
    rules: Mapping[str, Sequence[str]], obs: "Mapping[str, pd.DataFrame]", flag: str = "--leave_out"
) -> None:
    """Refuse a rule that leaves nothing out: a misspelt name would let evaluated cells into the training.

    Parameters
    ----------
    rules
        See :func:`parse_leave_out`.
    obs
        Name of each file -> its obs. One file with the column, or the value, is enough.

    Raises
    ------
    ScDMCError
        If no file has the column, or none has a cell of the value.
    """
    for column, values in rules.items():
        tables = [table for table in obs.values() if column in table]
        if not tables:
            there = sorted({str(name) for table in obs.values() for name in table})
            raise ScDMCError(f"{flag}: obs has no column {column!r} in {', '.join(list(obs)[:3])}; it has {there}")
        there = sorted(set().union(*(_texts(table[column]).unique() for table in tables)) - {""})
        unknown = [value for value in values if value not in there]
        if unknown:
            raise ScDMCError(
                f"{flag}: no cell has {column} {', '.join(map(repr, unknown))}; "
                f"there {'are' if len(there) > 1 else 'is'} {', '.join(there[:20])}{', ...' if len(there) > 20 else ''}"
            )


def keep_cells(obs: "pd.DataFrame", rules: Mapping[str, Sequence[str]]) -> np.ndarray:
    """True for the cells that no rule leaves out, shape (n_cells,); numbers are compared as text.

    A column that this file lacks leaves nothing out: :func:`require_known_values` sees all files.
    """
    keep = np.ones(len(obs), dtype=bool)
    for column, values in rules.items():
        if column in obs:
            keep &= ~_texts(obs[column]).isin(values).to_numpy(dtype=bool)
    return keep


def _texts(column: "pd.Series") -> "pd.Series":
    """A column as text, '' where a value is missing; no rule names ''."""
    return column.astype(object).map(str).where(column.notna(), "")
