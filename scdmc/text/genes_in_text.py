"""Genes that a text names, and whether it says that the cell has them or lacks them.

Source: docs/text.md, "Genes in a text".
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from scdmc.files import read_json_object
from scdmc.genes.ids import load_gene_table, load_symbols
from scdmc.resources import resource_folder

DEFAULT_GENE_ALIAS_FILE = resource_folder("text_files") / "gene_aliases.json"


SHORTEST_SYMBOL = 3


# Upper-case words that are a symbol, and nearly always mean something else in a text.
NO_GENES = frozenset({
    "ACE", "ACS", "BCR", "CAMP", "CAT", "CELL", "EBP", "GALT", "GPI", "IMPACT", "LARGE", "MAX", "MICE", "MIP", "MSN",
    "NOT", "PGC", "REST", "SET", "STH", "UBC", "WAS",
})  # fmt: skip


# A hyphen is a minus at the end of a word, and between markers the last of which has a sign, too: "CD3-CD56+" has one,
# "CD11-CD18" and "LHX6-LHX8" have none. The longer minus of typesetters is always one.
HYPHEN, LONG_MINUS, AT_END = r"[-\u2010\u2011]", r"[\u2212\u207b]", r"(?=[\s,;.)/]|$)"
MARKER = r"[A-Z][A-Za-z0-9]*"
SIGNED = rf"(?:{MARKER}[-+\u2010\u2011])*{MARKER}(?:[+\u207a]|{LONG_MINUS}|{HYPHEN}{AT_END})"
MINUS = rf"(?:{HYPHEN}(?:{AT_END}|(?={SIGNED}))|{LONG_MINUS})"


# Behind a name: which chain of the protein, then whether the cell has it. "lo" and the like may be glued to the name.
CHAIN = r"(?:[- ]?(?:alpha|beta|gamma|delta|epsilon)(?: chain)?)*"


ENDS = r"(?=(?:lo|low|dim|neg|hi|high|bright|pos|int)\b|[^A-Za-z0-9]|$)"


IS_ABSENT = re.compile(rf"{CHAIN}(?:[- ]?(?:negative|low|lo|dim|neg)\b|{MINUS})")


IS_PRESENT = re.compile(rf"{CHAIN}(?:[- ]?(?:positive|high|hi|bright|pos)\b|\+|⁺)")


# "insulin-like growth factor" and "insulin receptor" are other genes.
OF_ANOTHER = re.compile(r"-like|[- ]receptor|[- ]resist")


# What a clause says that a cell lacks, up to where it says what it has.
LACKS = re.compile(
    r"\b(?:(?:immuno)?negative for|lacks?|lacking|(?:does|do) not express|not expressing|absence of)\b"
    r"(?P<clause>.*?)(?:(?<!\be\.g)(?<!\bi\.e)[.;](?=\s|$)|\bbut\b|\bwith the phenotype\b|"
    r"\b(?:and|that|which) (?:is|are|being|has|have|expresses|express)\b|$)",
    re.DOTALL,
)


@dataclass(frozen=True)
class GeneMention:
    """A gene, or the genes of one protein complex, that a text names.

    Attributes
    ----------
    name
        As the text writes it: "CD3", "insulin".
    genes
        Ensembl ids.
    sign
        1 if the cell has it, -1 if the text says that it lacks it.
    """

    name: str
    genes: tuple[str, ...]
    sign: int


def gene_mentions(text: str) -> list[GeneMention]:
    """The genes that a text names, in its order, once for each time.

    A name is the symbol of a protein-coding gene in capitals, of at least three characters, or stands in the shipped
    table (CD20, insulin). The sign is -1 before "-negative", "-low", "-dim" and the like, and in a clause that begins
    with "negative for", "lacks" or "does not express".
    """
    lacking = [match.span("clause") for match in LACKS.finditer(text)]
    mentions = []
    for match, genes in _named(text):
        rest = text[match.end() :]
        if IS_ABSENT.match(rest):
            sign = -1
        elif IS_PRESENT.match(rest):
            sign = 1
        else:
            sign = -1 if any(start <= match.start() < end for start, end in lacking) else 1
        mentions.append(GeneMention(match.group(), genes, sign))
    return mentions


def signed_genes(text: str) -> dict[str, int]:
    """Ensembl id -> 1 or -1 for the genes that a text names; one that it says both of is left out."""
    signs: dict[str, set[int]] = {}
    for mention in gene_mentions(text):
        for gene in mention.genes:
            signs.setdefault(gene, set()).add(mention.sign)
    return {gene: sign for gene, (sign, *more) in ((gene, sorted(of)) for gene, of in signs.items()) if not more}


def _named(text: str) -> Iterator[tuple[re.Match, tuple[str, ...]]]:
    """The names in a text, and their genes."""
    aliases, pattern, symbols = _names()
    for match in pattern.finditer(text):
        genes = aliases.get(match.group().casefold()) or symbols.get(match.group())
        if genes and not OF_ANOTHER.match(text, match.end()):
            yield match, genes


@functools.cache
def _names() -> tuple[dict[str, tuple[str, ...]], re.Pattern, dict[str, tuple[str, ...]]]:
    """Alias -> ids, the pattern of a name, and symbol -> ids."""
    id_of_symbol = load_symbols()
    table = read_json_object(DEFAULT_GENE_ALIAS_FILE, "names of genes in texts")
    aliases = {alias.casefold(): tuple(id_of_symbol[symbol] for symbol in of) for alias, of in table.items()}
    symbols = {
        row["symbol"]: (row["id"],)
        for row in load_gene_table()
        if row["biotype"] == "protein_coding" and len(row["symbol"]) >= SHORTEST_SYMBOL
        and row["symbol"] not in NO_GENES and id_of_symbol[row["symbol"].upper()] == row["id"]
    }  # fmt: skip
    phrases = "|".join(re.escape(alias) for alias in sorted(table, key=len, reverse=True))
    # Of HLA-DRA or NKX2-1 no part is a symbol; INS-IGF2 are two genes in one.
    with_hyphen = "|".join(symbol for symbol in symbols if "-" in symbol and symbol.partition("-")[0] not in symbols)
    symbol = rf"{with_hyphen}|[A-Z][A-Z0-9]{{2,}}(?:orf[0-9]+)?"
    # An alias is known in any case, a symbol in capitals only: "cat" and "CAT" are not the same.
    return aliases, re.compile(rf"(?<![A-Za-z0-9])(?:(?i:{phrases})|{symbol}){ENDS}"), symbols
