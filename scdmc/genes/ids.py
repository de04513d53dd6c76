"""From a file's gene annotation to token ids (docs/method.md, "Gene names")."""

import csv
import functools
import gzip
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.errors import ScDMCError
from scdmc.files import read_json_object
from scdmc.genes.options import SPECIES
from scdmc.genes.vocabulary import DEFAULT_GENE_TABLE_FILE, SPECIAL_TOKENS, Vocabulary, ensembl_id

logger = logging.getLogger(__name__)


ID_COLUMNS = ("ensembl_id", "feature_id", "gene_ids", "gene_id")


SYMBOL_COLUMNS = ("gene_symbol", "gene_symbols", "feature_name", "symbol", "gene_name", "gene_names")


# Where one symbol belongs to several ids, counts most probably belong to the first of these biotypes.
BIOTYPES_BY_PRIORITY = ("protein_coding", "lncRNA")


# What a missing id becomes when a table is written as text; none of them is a gene symbol.
MISSING_NAMES = ("nan", "none", "<na>", "na")


UNMATCHED = -1


HUMAN_PREFIX, MOUSE_PREFIX = "ENSG", "ENSMUSG"


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

    Entries whose target is outside of the vocabulary are ignored, and counted in the log.

    Raises
    ------
    ScDMCError
        If a target is no text, or no target is in the vocabulary.
    """
    if path is None:
        return {}
    mapping = read_json_object(path, "gene mapping")
    other = [name for name, target in mapping.items() if not isinstance(target, str)]
    if other:
        raise ScDMCError(
            f"{path}: {other[0]!r} leads to a {type(mapping[other[0]]).__name__}, not to text; "
            "a gene mapping goes from symbol or id to the id of the vocabulary"
        )
    used = {name.upper(): target for name, target in mapping.items() if target in vocabulary.token_ids}
    if not used:
        raise ScDMCError(f"{path}: none of its {len(mapping):,} targets is in the vocabulary ({vocabulary.source})")
    if len(used) < len(mapping):
        logger.info("%s: %s of %s entries lead to genes of the vocabulary", path, f"{len(used):,}", f"{len(mapping):,}")
    return used


def load_gene_table(path: Path = DEFAULT_GENE_TABLE_FILE) -> list[dict[str, str]]:
    """Rows of the gene table that ships with scDMC (GENCODE v44), with ``id``, ``symbol`` and ``biotype``.

    Raises
    ------
    ScDMCError
        If there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise ScDMCError(f"{path}: no gene table; run tokenizer/build_vocabulary.py")
    with gzip.open(path, "rt", encoding="utf8", newline="") as file:
        return list(csv.DictReader(file))


# Cached: a folder of a hundred files reads the table once. All callers share the dictionary, and none changes it.
@functools.cache
def load_symbols(path: Path = DEFAULT_GENE_TABLE_FILE) -> dict[str, str]:
    """Upper-case gene symbol -> Ensembl id, from :func:`load_gene_table`.

    A symbol of several ids goes to a protein-coding one if there is any, then to a lncRNA, then to the lowest id.
    """
    best: dict[str, tuple[int, str]] = {}
    for row in load_gene_table(path):
        biotype = row["biotype"]
        priority = BIOTYPES_BY_PRIORITY.index(biotype) if biotype in BIOTYPES_BY_PRIORITY else len(BIOTYPES_BY_PRIORITY)
        candidate = (priority, row["id"])
        symbol = row["symbol"].upper()
        if symbol not in best or candidate < best[symbol]:
            best[symbol] = candidate
    return {symbol: gene_id for symbol, (_, gene_id) in best.items()}


def load_orthologs(path: Path, vocabulary: Vocabulary) -> dict[str, str]:
    """Read ``--ortholog_file``: upper-case mouse id and mouse symbol -> human Ensembl id, one to one.

    A mouse gene with several human genes, and a human gene with several mouse genes, are left out and counted in the
    log; so are pairs whose human gene the vocabulary does not have. Give it to :func:`match_genes`.

    Parameters
    ----------
    path
        TSV or CSV with a header, perhaps gzipped. The column of human ids is the one that holds ENSG..., that of mouse
        ids the one that holds ENSMUSG..., that of mouse symbols one whose name has "mouse" and "symbol" or "name" in
        it (or, where no name has "mouse" in it, ``symbol`` or ``Gene name``, as in exports of Ensembl BioMart). Mouse
        ids or mouse symbols may lack.
    vocabulary
        The vocabulary.

    Raises
    ------
    ScDMCError
        If the file is absent, no such table, or no pair is left.
    """
    table = _ortholog_table(Path(path))
    pairs = table[(table["mouse"] != "") & (table["human"] != "")].drop_duplicates()
    genes = pairs[["mouse", "human"]].drop_duplicates()
    is_single = ~genes["mouse"].duplicated(keep=False) & ~genes["human"].duplicated(keep=False)
    is_known = genes["human"].isin(list(vocabulary.token_ids))
    kept = genes[is_single & is_known]
    logger.info(
        "%s: %d pairs of one mouse and one human gene; left out: %d not one to one, %d outside of the vocabulary",
        path, len(kept), (~is_single).sum(), (is_single & ~is_known).sum(),
    )  # fmt: skip
    if kept.empty:
        raise ScDMCError(f"{path} (orthologs): no pair of one mouse and one human gene of the vocabulary is in it")
    orthologs = dict(zip(kept["mouse"], kept["human"], strict=True))
    by_symbol = pairs[pairs["mouse"].isin(orthologs) & (pairs["symbol"] != "")].drop_duplicates(["mouse", "symbol"])
    by_symbol = by_symbol[~by_symbol["symbol"].duplicated(keep=False)]
    return dict(zip(by_symbol["symbol"], by_symbol["human"], strict=True)) | orthologs


def _ortholog_table(path: Path) -> pd.DataFrame:
    """Columns ``mouse`` (id, or symbol where there are no ids), ``symbol`` and ``human``; upper-case text."""
    if not path.is_file():
        raise ScDMCError(f"{path}: no such file (orthologs)")
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        if table.shape[1] == 1:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, EOFError, ValueError) as error:
        raise ScDMCError(f"{path} (orthologs) is no table: {str(error).splitlines()[0]}") from error
    table = table.apply(lambda column: pd.Series(_clean(column), index=table.index, dtype=str).str.upper())
    human, mouse = _column_of_ids(table, HUMAN_PREFIX), _column_of_ids(table, MOUSE_PREFIX)
    symbol = _column_of_mouse_symbols([column for column in table if column not in (human, mouse)], list(table))
    if human is None or (mouse is None and symbol is None):
        raise ScDMCError(
            f"{path} (orthologs) has the columns {list(table)}; it should have one of human ids (ENSG...) and one of "
            "mouse ids (ENSMUSG...) or of mouse symbols (mouse_symbol)"
        )
    ids = [ensembl_id(name) or "" for name in table[human]]
    mouse_ids = table[symbol] if mouse is None else [ensembl_id(name) or "" for name in table[mouse]]
    symbols = "" if symbol is None else table[symbol]
    return pd.DataFrame({"mouse": mouse_ids, "symbol": symbols, "human": ids}, index=table.index)


def _column_of_ids(table: pd.DataFrame, prefix: str) -> str | None:
    """The first column that holds an id of this species."""
    return next((column for column in table if any(_has_prefix(name, prefix) for name in table[column])), None)


def _column_of_mouse_symbols(candidates: list[str], header: list[str]) -> str | None:
    """The column of mouse symbols by its name; a plain "Gene name" is a mouse's only where no other column says so."""
    names = {column: column.lower().replace("_", " ") for column in header}
    says_mouse = any("mouse" in name for name in names.values())
    for column in candidates:
        name = names[column]
        if says_mouse and "mouse" in name and (name == "mouse" or "symbol" in name or "name" in name):
            return column
        if not says_mouse and name in ("symbol", "gene symbol", "gene name"):
            return column
    return None


def _has_prefix(name: str, prefix: str) -> bool:
    gene_id = ensembl_id(name)
    return gene_id is not None and gene_id.startswith(prefix)


def match_genes(
    var: pd.DataFrame,
    vocabulary: Vocabulary,
    gene_id_column: str | None = None,
    gene_mapping: Mapping[str, str] | None = None,
    symbols: Mapping[str, str] | None = None,
    source: str = "the data",
    species: str = "human",
    orthologs: Mapping[str, str] | None = None,
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
        var_names that look like Ensembl ids, else symbols. An empty id falls back, per gene, to the symbol; an obsolete
        one does not (``gene_mapping`` is for these).
    gene_mapping
        Upper-case symbol or id -> current id (see :func:`load_gene_mapping`), applied first.
    symbols
        Upper-case symbol -> id; without it, :func:`load_symbols`.
    source
        What ``var`` belongs to, for error messages.
    species
        ``human`` or ``mouse``. Genes of a mouse are found through ``orthologs`` and ``gene_mapping`` alone: a symbol
        that both species have need not be the same gene.
    orthologs
        Upper-case mouse id or symbol -> human id (see :func:`load_orthologs`).

    Raises
    ------
    ScDMCError
        If ``gene_id_column`` is absent, no gene of the file is in the vocabulary, or the species lacks orthologs.
    """
    ids, id_source = _gene_ids(var, gene_id_column, source)
    names, symbol_source = _gene_symbols(var)
    gene_mapping = gene_mapping or {}
    if species == "human":
        symbols = load_symbols() if symbols is None else symbols
    else:
        symbols, gene_mapping = {}, {**_require_orthologs(species, orthologs), **gene_mapping}
    used_names = np.array([gene_id or name for gene_id, name in zip(ids, names, strict=True)], dtype=object)
    tokens = [_token(name, vocabulary, gene_mapping, symbols) for name in used_names]
    token_ids = np.array(tokens, dtype=np.int64)
    columns_used = [column for column in (id_source, symbol_source) if column]
    match = GeneMatch(token_ids, used_names, columns_used)
    is_mouse = species == "human" and _warn_of_mouse_genes(used_names, source, match)
    if not match.is_matched.any():
        raise _no_match(match, var, vocabulary, source, is_mouse)
    return match


def _require_orthologs(species: str, orthologs: Mapping[str, str] | None) -> Mapping[str, str]:
    if species not in SPECIES:
        raise ScDMCError(f"--species {species}: choose one of {', '.join(SPECIES)}")
    if not orthologs:
        raise ScDMCError(
            f"--species {species} needs a table of orthologs: name one with --ortholog_file "
            "(columns of mouse ids or symbols and of human Ensembl ids, such as Ensembl BioMart exports)"
        )
    return orthologs


def _token(name: str, vocabulary: Vocabulary, gene_mapping: Mapping[str, str], symbols: Mapping[str, str]) -> int:
    gene = _current_id(name, gene_mapping, symbols)
    return UNMATCHED if gene in SPECIAL_TOKENS else vocabulary.token_ids.get(gene, UNMATCHED)


def _warn_of_mouse_genes(names: np.ndarray, source: str, match: GeneMatch) -> bool:
    """Warn of mouse genes among those of a human; True if these are most of all genes."""
    n_mouse = sum(_has_prefix(name, MOUSE_PREFIX) for name in names)
    if n_mouse and match.is_matched.any():
        logger.warning(
            "warning: %s: %d of %d genes are mouse genes (%s...), which are left out; for cells of a mouse pass "
            "--species mouse with --ortholog_file", source, n_mouse, len(names), MOUSE_PREFIX,
        )  # fmt: skip
    return n_mouse > len(names) / 2


def _no_match(match: GeneMatch, var: pd.DataFrame, vocabulary: Vocabulary, source: str, is_mouse: bool) -> ScDMCError:
    shown = ", ".join(repr(str(name)) for name in match.names[:3])
    advice = (
        "these are mouse genes: pass --species mouse with a table of orthologs (--ortholog_file)"
        if is_mouse
        else "name the one with Ensembl ids with --gene_id_column, or give a --gene_mapping_file"
    )
    return ScDMCError(
        f"{source}: none of its {len(var):,} genes is in the vocabulary ({vocabulary.source}); "
        f"the first are {shown}, read from {' and '.join(match.columns_used)}; "
        f"var has the columns {list(var.columns)}: {advice}"
    )


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
