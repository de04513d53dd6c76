"""From a file's gene annotation to token ids (design.md, section 3)."""

import csv
import functools
import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.errors import ScDMCError
from scdmc.files import read_json_object
from scdmc.vocabulary import DEFAULT_GENE_TABLE_FILE, SPECIAL_TOKENS, Vocabulary, ensembl_id

ID_COLUMNS = ("ensembl_id", "feature_id", "gene_ids", "gene_id")
SYMBOL_COLUMNS = ("gene_symbol", "gene_symbols", "feature_name", "symbol", "gene_name", "gene_names")
# Where one symbol belongs to several ids, counts most probably belong to the first of these biotypes.
BIOTYPES_BY_PRIORITY = ("protein_coding", "lncRNA")
# What a missing id becomes when a table is written as text; none of them is a gene symbol.
MISSING_NAMES = ("nan", "none", "<na>", "na")
UNMATCHED = -1


@dataclass(frozen=True)
class GeneMatch:
    """Which token each column of a file's matrix belongs to.

    Attributes
    ----------
    token_ids
        Shape (n_genes,), int64; :data:`UNMATCHED` where a column belongs to no gene of the vocabulary.
    names
        Shape (n_genes,): the name by which each column was looked up.
    columns_used
        Where the names came from, in the order in which they were tried.
    """

    token_ids: np.ndarray
    names: np.ndarray
    columns_used: list[str] = field(default_factory=list)

    @property
    def is_matched(self) -> np.ndarray:
        """Shape (n_genes,): True where a column belongs to a gene of the vocabulary."""
        return self.token_ids != UNMATCHED

    @property
    def n_duplicates(self) -> int:
        """Columns that are added to another column of the same gene."""
        matched = self.token_ids[self.is_matched]
        return len(matched) - len(np.unique(matched))


def load_gene_mapping(path: Path | None, vocabulary: Vocabulary) -> dict[str, str]:
    """Read ``--gene_mapping_file``: upper-case symbol or id -> current id; without a path, an empty mapping.

    Entries whose target is outside of the vocabulary are ignored.
    """
    if path is None:
        return {}
    mapping = read_json_object(path, "gene mapping")
    return {
        name.upper(): target
        for name, target in mapping.items()
        if isinstance(target, str) and target in vocabulary.token_ids
    }


# Cached: a folder of a hundred files reads the table once. All callers share the dictionary, and none changes it.
@functools.cache
def load_symbols(path: Path = DEFAULT_GENE_TABLE_FILE) -> dict[str, str]:
    """Upper-case gene symbol -> Ensembl id, from the gene table that ships with scDMC (GENCODE v44).

    A symbol of several ids goes to a protein-coding one if there is any, then to a lncRNA, then to the lowest id.
    """
    path = Path(path)
    if not path.is_file():
        raise ScDMCError(f"{path}: no gene table; run tokenizer/build_vocabulary.py")
    best: dict[str, tuple[int, str]] = {}
    with gzip.open(path, "rt", encoding="utf8", newline="") as file:
        for row in csv.DictReader(file):
            biotype = row["biotype"]
            priority = (
                BIOTYPES_BY_PRIORITY.index(biotype) if biotype in BIOTYPES_BY_PRIORITY else len(BIOTYPES_BY_PRIORITY)
            )
            candidate = (priority, row["id"])
            symbol = row["symbol"].upper()
            if symbol not in best or candidate < best[symbol]:
                best[symbol] = candidate
    return {symbol: gene_id for symbol, (_, gene_id) in best.items()}


def match_genes(
    var: pd.DataFrame,
    vocabulary: Vocabulary,
    gene_id_column: str | None = None,
    gene_mapping: Mapping[str, str] | None = None,
    symbols: Mapping[str, str] | None = None,
    source: str = "the data",
) -> GeneMatch:
    """Find the token of each column of a count matrix.

    Parameters
    ----------
    var
        Gene annotation, one row per column of the matrix.
    vocabulary
        The vocabulary.
    gene_id_column
        Column of ``var`` with the gene ids; without it ``ensembl_id``, ``feature_id``, ``gene_ids`` / ``gene_id``,
        var_names that look like Ensembl ids, else symbols. An empty id falls back, per gene, to the symbol.
    gene_mapping
        Upper-case symbol or id -> current id (see :func:`load_gene_mapping`), applied first.
    symbols
        Upper-case symbol -> id; without it, :func:`load_symbols`.
    source
        What ``var`` belongs to, for error messages.

    Raises
    ------
    ScDMCError
        If ``gene_id_column`` is absent, or no gene of the file is in the vocabulary.
    """
    ids, id_source = _gene_ids(var, gene_id_column, source)
    names, symbol_source = _gene_symbols(var)
    symbols = load_symbols() if symbols is None else symbols
    gene_mapping = gene_mapping or {}
    special = set(SPECIAL_TOKENS)

    token_ids = np.full(len(var), UNMATCHED, dtype=np.int64)
    used_names = np.array([gene_id or name for gene_id, name in zip(ids, names, strict=True)], dtype=object)
    for column, (gene_id, name) in enumerate(zip(ids, names, strict=True)):
        gene = _current_id(gene_id or name, gene_mapping, symbols)
        if gene not in special:
            token_ids[column] = vocabulary.token_ids.get(gene, UNMATCHED)

    match = GeneMatch(token_ids, used_names, [column for column in (id_source, symbol_source) if column])
    if not match.is_matched.any():
        shown = ", ".join(repr(str(name)) for name in used_names[:3])
        raise ScDMCError(
            f"{source}: none of its {len(var):,} genes is in the vocabulary ({vocabulary.source}); "
            f"the first are {shown}, read from {' and '.join(match.columns_used)}; "
            f"var has the columns {list(var.columns)}: "
            "name the one with Ensembl ids with --gene_id_column, or give a --gene_mapping_file"
        )
    return match


def _current_id(name: str, gene_mapping: Mapping[str, str], symbols: Mapping[str, str]) -> str:
    """The Ensembl id that a gene's id or symbol stands for today; the name itself where nothing is known of it."""
    gene_id = ensembl_id(name)
    key = gene_id or name.upper()
    if key in gene_mapping:
        return gene_mapping[key]
    return gene_id or symbols.get(key, key)


def _gene_ids(var: pd.DataFrame, gene_id_column: str | None, source: str) -> tuple[list[str], str | None]:
    """Gene ids ('' where there is none) and the name of the column they come from."""
    if gene_id_column is not None:
        if gene_id_column not in var.columns:
            raise ScDMCError(f"{source}: var has no column {gene_id_column!r}; it has {list(var.columns)}")
        return _clean(var[gene_id_column]), f"var[{gene_id_column!r}]"
    for column in ID_COLUMNS:
        if column in var.columns:
            return _clean(var[column]), f"var[{column!r}]"
    names = _clean(var.index)
    if sum(ensembl_id(name) is not None for name in names) > len(names) / 2:
        return names, "var_names"
    return [""] * len(var), None


def _gene_symbols(var: pd.DataFrame) -> tuple[list[str], str]:
    """Gene symbols and the name of the column they come from."""
    for column in SYMBOL_COLUMNS:
        if column in var.columns:
            return _clean(var[column]), f"var[{column!r}]"
    return _clean(var.index), "var_names"


def _clean(names: pd.Series | pd.Index) -> list[str]:
    """Names as stripped strings; missing ones, also those that were written as text, become ''."""
    stripped = ["" if is_missing else str(name).strip() for name, is_missing in zip(names, pd.isna(names), strict=True)]
    return ["" if name.lower() in MISSING_NAMES else name for name in stripped]
