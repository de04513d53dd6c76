"""Names of genes as files write them: with a genome, an id and a symbol in one, in R's spelling, of another species."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from scdmc.errors import ScDMCError, shown_names
from scdmc.genes.options import FETCH_ORTHOLOGS
from scdmc.genes.vocabulary import ensembl_id

# What a missing name becomes when a table is written as text; none of them is a gene symbol.
MISSING_NAMES = frozenset(("nan", "none", "<na>", "na"))


# In names of one line each: space around one, or a quote at its end.
UNCLEAN = re.compile(r"""[^\S\n](\n|$)|(^|\n)[^\S\n]|['"](\n|$)""")


# Genomes as Cell Ranger and others name them, before the names of the features or in a column of their own.
HUMAN_GENOME = re.compile(r"(grch\d+|hg\d+|human|homo_sapiens|hsapiens)([._-].*)?", re.IGNORECASE)


MOUSE_GENOME = re.compile(r"(grcm\d+|mm\d+|mouse|mus_musculus|mmusculus)([._-].*)?", re.IGNORECASE)


OTHER_GENOME = re.compile(
    rf"{MOUSE_GENOME.pattern}|(rn\d+|mratbn.*|rat|danrer\d+|grcz\d+|dm\d+|bdgp\d+|saccer\d+|ce\d+|mmul.*)([._-].*)?",
    re.IGNORECASE,
)


# "GRCh38_ENSG...", "mm10___Actb": the genome, underscores, the name.
GENOME_PREFIX = re.compile(r"([^_]+)_+(.+)")


# How names are written otherwise than plainly, for the log and the report.
WITH_GENOME, IN_ONE, OF_R = "a genome before the name", "id and symbol in one", "R's spelling (HLA.A)"


# Ensembl ids of other animals that are often met.
SPECIES_OF_PREFIX = {
    "ENSMUSG": "mouse", "ENSRNOG": "rat", "ENSDARG": "zebrafish", "ENSMMUG": "rhesus macaque", "ENSMFAG": "macaque",
    "ENSSSCG": "pig", "ENSBTAG": "cow", "ENSGALG": "chicken", "ENSCAFG": "dog", "ENSPTRG": "chimpanzee",
    "ENSXETG": "frog", "ENSOCUG": "rabbit", "FBGN": "fly", "WBGENE": "worm",
}  # fmt: skip


# "Actb", "Gm1234", "mt-Nd1", "1700001C02Rik"; C1orf112 is a human's.
LIKE_A_MOUSE = re.compile(r"(mt-)?[A-Z][a-z0-9]*[a-z][a-z0-9.-]*|[0-9]{7}[A-Z][0-9]{2}[Rr][Ii][Kk]|G[Mm][0-9]{4,5}")


LIKE_A_HUMAN = re.compile(r"C[0-9XY]+orf.*")


# Fewer names say nothing about a species.
FEWEST_NAMES = 20


# Of the names, spelt like those of another species: above the first share the file is of this species; below it, and
# above the second, it is a mixture.
SHARE_OF_A_SPECIES, SHARE_OF_A_MIXTURE = 0.5, 0.1


# Lower-case names are those of a fish or a frog, unless so many of them are known human symbols.
SHARE_KNOWN_OF_A_HUMAN = 0.8


def clean_names(names: pd.Series | pd.Index) -> list[str]:
    """Names as stripped strings; missing ones, also those that were written as text, become ''."""
    values = names.to_list()
    if all(isinstance(name, str) for name in values) and _are_clean("\n".join(values), len(values)):
        return ["" if name.lower() in MISSING_NAMES else name for name in values]
    return ["" if is_missing else _clean(name) for name, is_missing in zip(values, pd.isna(names), strict=True)]


def _are_clean(lines: str, n_names: int) -> bool:
    """One look at all names, of which nearly always none has to be cleaned: every file is matched."""
    return lines.count("\n") == max(n_names - 1, 0) and not UNCLEAN.search(lines)


def _clean(name: object) -> str:
    text = name.decode("utf8", "replace") if isinstance(name, bytes) else str(name)
    text = text.strip()
    if text[-1:] in ("'", '"'):
        if len(text) > 2 and text[0] == "b" and text[1] == text[-1]:
            text = text[1:]
        if len(text) > 1 and text[0] == text[-1]:
            text = text[1:-1].strip()
    return "" if text.lower() in MISSING_NAMES else text


class Found(NamedTuple):
    """What is known of a name.

    Attributes
    ----------
    gene
        The Ensembl id that it stands for today; None where nothing is known.
    is_settled
        True if no other name of the same feature need be asked.
    spelling
        How it is written, '' for plainly.
    is_symbol
        True if the gene was found by a symbol.
    """

    gene: str | None = None
    is_settled: bool = False
    spelling: str = ""
    is_symbol: bool = False


NOTHING = Found()


class GeneNames:
    """Looks up names of genes, however they are written (docs/method.md, "Gene names").

    Parameters
    ----------
    gene_mapping
        Upper-case symbol or id -> current id, asked first.
    symbols
        Upper-case symbol -> id.
    own_genome
        The genome that may stand before a name; a name with another one belongs to no gene.
    """

    def __init__(
        self, gene_mapping: Mapping[str, str], symbols: Mapping[str, str], own_genome: re.Pattern = HUMAN_GENOME
    ) -> None:
        self._mapping, self._symbols, self._own_genome = gene_mapping, symbols, own_genome

    def find(self, name: str) -> Found:
        """What is known of a name that is not empty."""
        plain = self._plain(name)
        if plain.is_settled:
            return plain
        return next((found for found in self._otherwise(name) if found.is_settled), NOTHING)

    def _plain(self, name: str) -> Found:
        gene_id = ensembl_id(name)
        key = gene_id or name.upper()
        if key in self._mapping:
            return Found(self._mapping[key], is_settled=True)
        if gene_id:
            return Found(gene_id, is_settled=True)
        return Found(self._symbols[key], is_settled=True, is_symbol=True) if key in self._symbols else NOTHING

    def _otherwise(self, name: str) -> Iterator[Found]:
        """What the name may mean, the surest reading first."""
        prefixed = GENOME_PREFIX.fullmatch(name)
        if prefixed and self._own_genome.fullmatch(prefixed[1]):
            yield _spelt(self.find(prefixed[2]), WITH_GENOME)
        elif prefixed and (HUMAN_GENOME.fullmatch(prefixed[1]) or OTHER_GENOME.fullmatch(prefixed[1])):
            yield Found(is_settled=True, spelling=WITH_GENOME)
        yield self._one_of([part for part in re.split(r"[|;,:\s_]+", name) if ensembl_id(part)])
        if "|" in name:
            yield self._one_of([part.strip() for part in name.split("|") if part.strip()])
        yield self._of_r(name)

    def _one_of(self, parts: Sequence[str]) -> Found:
        """The only gene that the parts of a name mean; several contradict each other."""
        found = [found for found in map(self._plain, parts) if found.is_settled]
        if len({one.gene for one in found}) != 1:
            return NOTHING
        return _spelt(found[0], IN_ONE)

    def _of_r(self, name: str) -> Found:
        """A symbol in which R has put dots for what it does not allow, or an X before a digit."""
        if "." not in name and not re.match(r"[Xx][0-9]", name):
            return NOTHING
        key = name.upper().replace("_", ".")
        keys = [key, key[1:]] if re.match(r"X[0-9]", key) else [key]
        found = (self._plain(self._symbol_of_dotted.get(one, one)) for one in keys)
        return next((_spelt(one, OF_R) for one in found if one.is_settled), NOTHING)

    @functools.cached_property
    def _symbol_of_dotted(self) -> dict[str, str]:
        """Symbol in R's spelling -> symbol; a spelling that several symbols share stands for none."""
        symbols = [symbol for symbol in self._symbols if not symbol.isalnum()]
        # All at once: this is done for every file, and one by one would take as long as the rest of its genes.
        dotted = re.sub(r"[^A-Z0-9.\n]", ".", "\n".join(symbols)).split("\n") if symbols else []
        numbers = Counter(dotted)
        return {one: symbol for one, symbol in zip(dotted, symbols, strict=True) if numbers[one] == 1}


def _spelt(found: Found, spelling: str) -> Found:
    return Found(found.gene, found.is_settled, spelling, found.is_symbol) if found.is_settled else found


def species_of_ids(names: Iterable[str]) -> dict[str, int]:
    """Other species -> how many of the names are Ensembl ids (or those of fly and worm) of it."""
    numbers: dict[str, int] = {}
    for name in names:
        prefix = re.match(r"(?:[^_]+_+)?(ENS[A-Z]*G|FBGN|WBGENE)[0-9]", str(name).upper())
        species = SPECIES_OF_PREFIX.get(prefix[1]) if prefix else None
        if species is not None:
            numbers[species] = numbers.get(species, 0) + 1
    return numbers


def is_like_a_mouse(name: str) -> bool:
    """True for a symbol that is spelt as those of mouse and rat are (Actb)."""
    return LIKE_A_MOUSE.fullmatch(name) is not None and LIKE_A_HUMAN.fullmatch(name) is None


def require_human_symbols(symbols: Sequence[str], is_known: Sequence[bool], source: str) -> list[bool]:
    """Judge by the spelling of its symbols whether a file is of a human.

    Parameters
    ----------
    symbols
        Shape (n_symbols,): the names that were looked up as symbols.
    is_known
        Shape (n_symbols,): True where one is that of a human gene, whatever its case.
    source
        The file, for the message.

    Returns
    -------
    True for the symbols that are another species' in a mixture; shape (n_symbols,).

    Raises
    ------
    ScDMCError
        If the file is of another species.
    """
    others = [is_like_a_mouse(symbol) for symbol in symbols]
    if len(symbols) < FEWEST_NAMES or not any(is_known):
        return [False] * len(symbols)
    shown = shown_names([symbol for symbol, other in zip(symbols, others, strict=True) if other], 3)
    if sum(others) > SHARE_OF_A_SPECIES * len(symbols):
        raise ScDMCError(
            f"{source}: {sum(others):,} of {len(symbols):,} gene symbols are spelt as those of a mouse or a rat "
            f"({shown}), and this is read as a human's; {ADVICE_FOR_A_MOUSE}; if they are a human's, write them in "
            "capitals"
        )
    is_lower = [symbol == symbol.lower() and symbol != symbol.upper() for symbol in symbols]
    n_known = sum(known for known, lower in zip(is_known, is_lower, strict=True) if lower)
    if sum(is_lower) > SHARE_OF_A_SPECIES * len(symbols) and n_known < SHARE_KNOWN_OF_A_HUMAN * sum(is_lower):
        shown = shown_names([symbol for symbol, lower in zip(symbols, is_lower, strict=True) if lower], 3)
        raise ScDMCError(
            f"{source}: most gene symbols are in lower case ({shown}), as those of a zebrafish or a frog, and only "
            f"{n_known:,} of {sum(is_lower):,} are a human's; map them to human genes with --gene_mapping_file"
        )
    is_mixture = sum(others) >= max(FEWEST_NAMES, SHARE_OF_A_MIXTURE * len(symbols))
    return others if is_mixture else [False] * len(symbols)


ADVICE_FOR_A_MOUSE = (
    f"for cells of a mouse give --species mouse and a table of orthologs, --ortholog_file; {FETCH_ORTHOLOGS}"
)
