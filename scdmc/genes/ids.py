"""From a file's gene annotation to token ids (docs/method.md, "Gene names")."""

import csv
import functools
import gzip
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.errors import ScDMCError, shown_names
from scdmc.files import read_json_object
from scdmc.genes.names import (
    ADVICE_FOR_A_MOUSE,
    MOUSE_GENOME,
    NOTHING,
    GeneNames,
    clean_names,
    require_human_symbols,
    species_of_ids,
)
from scdmc.genes.options import FETCH_ORTHOLOGS, ORTHOLOGS_NEEDED, SPECIES
from scdmc.genes.vocabulary import DEFAULT_GENE_TABLE_FILE, SPECIAL_TOKENS, Vocabulary, ensembl_id

logger = logging.getLogger(__name__)


ID_COLUMNS = ("ensembl_id", "feature_id", "gene_ids", "gene_id")


SYMBOL_COLUMNS = ("gene_symbol", "gene_symbols", "feature_name", "symbol", "gene_name", "gene_names")


# Other names of such columns, compared in lower case.
MORE_ID_COLUMNS = ("ensembl", "ensembl_ids", "ensemblid", "ensembl_gene_id", "accession", "geneid")


MORE_SYMBOL_COLUMNS = (
    "gene_short_name", "hgnc_symbol", "external_gene_name", "genesymbol", "symbols", "gene", "genes", "_index",
)  # fmt: skip


INDEX = "index"


# Where one symbol belongs to several ids, counts most probably belong to the first of these biotypes.
BIOTYPES_BY_PRIORITY = ("protein_coding", "lncRNA")


UNMATCHED = -1


# Stands for var_names among the columns, as no column can be called.
INDEX_SOURCE = object()


COLUMNS_SHOWN = 20


ADVICE_FOR_OTHERS = "only genes of human and mouse are known; map these to human genes with --gene_mapping_file"


HUMAN_PREFIX, MOUSE_PREFIX = "ENSG", "ENSMUSG"


@dataclass(frozen=True)
class GeneMatch:
    """Which token each column of a file's matrix belongs to.

    Attributes
    ----------
    token_ids
        Shape (n_genes,), int64; :data:`UNMATCHED` where a column belongs to no gene of the vocabulary.
    names
        Shape (n_genes,): the name by which each column was found, or was looked up first.
    matched_by
        Where names came from, in the order in which they were tried -> how many columns each one settled.
    spellings
        How names were written, where not plainly -> how many.
    """

    token_ids: np.ndarray
    names: np.ndarray
    matched_by: dict[str, int] = field(default_factory=dict)
    spellings: dict[str, int] = field(default_factory=dict)

    @property
    def columns_used(self) -> list[str]:
        """The places that gave a name of a gene of the vocabulary; all that were tried where none did."""
        return [place for place, number in self.matched_by.items() if number] or list(self.matched_by)

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
        If no target is in the vocabulary, as of a file of numbers.
    """
    if path is None:
        return {}
    mapping = read_json_object(path, "gene mapping")
    used = {
        name.upper(): target
        for name, target in mapping.items()
        if isinstance(target, str) and target in vocabulary.token_ids
    }
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
        raise ScDMCError(f"{path}: no such file (orthologs); {FETCH_ORTHOLOGS}")
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        if table.shape[1] == 1:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, EOFError, ValueError) as error:
        raise ScDMCError(f"{path} (orthologs) is no table: {str(error).splitlines()[0]}") from error
    table = table.apply(lambda column: pd.Series(clean_names(column), index=table.index, dtype=str).str.upper())
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
        Column of ``var`` that is asked first, or ``index``. Then, gene by gene, ``ensembl_id``, ``feature_id``,
        ``gene_ids`` / ``gene_id``, var_names that look like Ensembl ids, columns of symbols, var_names. The first name
        that is an Ensembl id, or a symbol of a gene of the vocabulary, settles a gene; an obsolete id settles it, too
        (``gene_mapping`` is for these). See :mod:`scdmc.genes.names` for how names may be written.
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
        If ``gene_id_column`` is absent, no gene of the file is in the vocabulary, the file is of another species, or
        the species lacks orthologs.
    """
    sources = _sources(var, gene_id_column, source)
    gene_mapping = gene_mapping or {}
    if species == "human":
        known = GeneNames(gene_mapping, load_symbols() if symbols is None else symbols)
    else:
        known = GeneNames({**_require_orthologs(species, orthologs), **gene_mapping}, {}, MOUSE_GENOME)
    match, is_symbol = _resolve(sources, known, vocabulary, len(var))
    if species == "human":
        match = _without_other_species(match, is_symbol, source)
    if not match.is_matched.any():
        raise _no_match(match, var, vocabulary, source, species)
    return match


def _require_orthologs(species: str, orthologs: Mapping[str, str] | None) -> Mapping[str, str]:
    if species not in SPECIES:
        raise ScDMCError(f"--species {species}: choose one of {', '.join(SPECIES)}")
    if not orthologs:
        raise ScDMCError(f"--species {species} {ORTHOLOGS_NEEDED}")
    return orthologs


def _sources(var: pd.DataFrame, gene_id_column: str | None, source: str) -> dict[str, list[str]]:
    """Where names of genes may stand -> the names, in the order in which they are asked."""
    by_lower_case = {str(column).lower(): column for column in reversed(list(var.columns))}
    ids = [*ID_COLUMNS, *(by_lower_case.get(column) for column in (*ID_COLUMNS, *MORE_ID_COLUMNS))]
    symbols = [*SYMBOL_COLUMNS, *(by_lower_case.get(column) for column in (*SYMBOL_COLUMNS, *MORE_SYMBOL_COLUMNS))]
    index = clean_names(var.index)
    index_holds_ids = sum(ensembl_id(name) is not None for name in index) > len(index) / 2
    columns = [*ids, *([INDEX_SOURCE] if index_holds_ids else []), *symbols, INDEX_SOURCE]
    if gene_id_column is not None:
        if gene_id_column not in var.columns and gene_id_column != INDEX:
            raise ScDMCError(
                f"{source}: var has no column {gene_id_column!r}; it has {_columns(var)}; 'index' stands for var_names"
            )
        columns.insert(0, gene_id_column if gene_id_column in var.columns else INDEX_SOURCE)
    found = {}
    for column in columns:
        if column is INDEX_SOURCE:
            found.setdefault("var_names", index)
        elif column in var.columns:
            # Of two columns of one name the first.
            of_column = var[column] if isinstance(var[column], pd.Series) else var[column].iloc[:, 0]
            found.setdefault(f"var[{column!r}]", clean_names(of_column))
    return found


def _columns(var: pd.DataFrame) -> str:
    names = [repr(column) for column in var.columns]
    return f"[{shown_names(names, COLUMNS_SHOWN)}]"


def _resolve(
    sources: Mapping[str, list[str]], known: GeneNames, vocabulary: Vocabulary, n_genes: int
) -> tuple[GeneMatch, np.ndarray]:
    """Ask the sources gene by gene; also True where a gene was found, or looked for, by its symbol."""
    token_of = {gene: token for gene, token in vocabulary.token_ids.items() if gene not in SPECIAL_TOKENS}
    # Lists: one by one they are quicker than arrays.
    tokens, names, is_symbol = [UNMATCHED] * n_genes, [""] * n_genes, [True] * n_genes
    matched_by, spellings, still_open = {}, Counter(), list(range(n_genes))
    for place, of_place in sources.items():
        if not still_open:
            break
        n_matched, left = 0, []
        for gene in still_open:
            name = of_place[gene]
            found = known.find(name) if name else NOTHING
            token = token_of.get(found.gene, UNMATCHED)
            # A symbol of a gene that the vocabulary lacks leaves the gene open.
            if not found.is_settled or (token == UNMATCHED and found.is_symbol):
                names[gene] = names[gene] or name
                left.append(gene)
                continue
            tokens[gene], names[gene], is_symbol[gene] = token, name, found.is_symbol
            n_matched += token != UNMATCHED
            if found.spelling and token != UNMATCHED:
                spellings[found.spelling] += 1
        matched_by[place], still_open = n_matched, left
    names = np.array(names, dtype=object)
    match = GeneMatch(np.array(tokens, dtype=np.int64), names, matched_by, dict(spellings))
    return match, np.array(is_symbol, dtype=bool) & (names != "")


def _without_other_species(match: GeneMatch, is_symbol: np.ndarray, source: str) -> GeneMatch:
    """Refuse genes of another species, and leave out those of a mixture, with a warning."""
    looked_up = np.flatnonzero(is_symbol)
    are_others = require_human_symbols(
        match.names[looked_up].tolist(), match.is_matched[looked_up].tolist(), source
    )  # fmt: skip
    others = looked_up[np.array(are_others, dtype=bool)]
    if len(others):
        logger.warning(
            "warning: %s: %d of %d genes are spelt as those of a mouse or a rat (%s) beside a human's, and are left "
            "out; %s", source, len(others), len(match.names), shown_names(match.names[others], 3), ADVICE_FOR_A_MOUSE,
        )  # fmt: skip
        token_ids = match.token_ids.copy()
        token_ids[others] = UNMATCHED
        match = replace(match, token_ids=token_ids)
    for name, number in species_of_ids(match.names[~match.is_matched]).items():
        if match.is_matched.any():
            logger.warning(
                "warning: %s: %d of %d genes are %s genes, which are left out; %s",
                source, number, len(match.names), name, ADVICE_FOR_A_MOUSE if name == "mouse" else ADVICE_FOR_OTHERS,
            )  # fmt: skip
    return match


def _no_match(match: GeneMatch, var: pd.DataFrame, vocabulary: Vocabulary, source: str, read_as: str) -> ScDMCError:
    shown = ", ".join(repr(str(name)) for name in match.names[:3])
    species = [name for name, number in species_of_ids(match.names).items() if number > len(var) / 2]
    if read_as == "mouse":
        advice = (
            "the table of orthologs has none of them: it needs a column of mouse ids or one of mouse symbols, as the "
            "genes are named here"
        )
    elif species == ["mouse"]:
        advice = f"these are mouse genes: {ADVICE_FOR_A_MOUSE}"
    elif species:
        advice = f"these are {species[0]} genes: {ADVICE_FOR_OTHERS}"
    else:
        advice = "name the column with Ensembl ids or symbols with --gene_id_column, or give a --gene_mapping_file"
    return ScDMCError(
        f"{source}: none of its {len(var):,} genes is in the vocabulary ({vocabulary.source}); "
        f"the first are {shown}, read from {' and '.join(match.columns_used)}; "
        f"var has the columns {_columns(var)}: {advice}"
    )
