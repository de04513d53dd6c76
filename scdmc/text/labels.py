"""From labels of cells, as people write them, to terms of the Cell Ontology.

Source: docs/text.md, "From labels to terms".
"""

import functools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scdmc.errors import ScDMCError, shown_names
from scdmc.files import read_json_object
from scdmc.resources import resource_folder
from scdmc.text.ontology import CellOntology, require_term

DEFAULT_ALIAS_FILE = resource_folder("text_files") / "label_aliases.json"


# How a label was found, the first hit wins; UNMAPPED: not at all.
USER, ID, ALIAS, LABEL, SYNONYM, UNMAPPED = "user", "id", "alias", "label", "synonym", "unmapped"


N_SUGGESTIONS = 3


# A name that holds the tissue ("hepatic stellate cell") is suggested, too, behind one that is as near without it.
WITH_TISSUE = 0.9


# Shorter synonyms are abbreviations, which mean other cells in other places (PD: Parkinson's disease, and a neuron of
# crabs). Those that are safe are aliases.
SHORTEST_SYNONYM = 4


# Terms of one species or brain atlas: their synonyms are numbers of clusters and names of genes.
OF_OTHERS = re.compile(r"\((Mmus|Primate|sensu .*)\)|, mouse$")


GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "φ": "phi"}


DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-"))


SPELLINGS = {
    "haematopoietic": "hematopoietic", "hemopoietic": "hematopoietic", "neg": "negative", "leucocyte": "leukocyte",
    "oesophagus": "esophagus", "centre": "center",
}  # fmt: skip


@dataclass(frozen=True)
class LabelMatch:
    """What a label means.

    Attributes
    ----------
    label
        As it is written.
    cl_id
        The term; None where none is known, or the user's table says that it is no type.
    how
        "user" (the user's table), "id", "alias" (the shipped table), "label", "synonym", or "unmapped".
    suggestions
        Ids of the terms whose names are nearest, for a label that is unmapped.
    """

    label: str
    cl_id: str | None
    how: str
    suggestions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Aliases:
    """The shipped table of labels.

    Attributes
    ----------
    tissues
        Tissue -> how words begin that name it.
    of_tissue
        Tissue, '' for any -> plain label -> id.
    telling
        Tissue -> plain labels that are a type of cell nowhere else. They count where no tissue is known, and the other
        labels of their tissue count beside them: "ductal" beside "alpha" is of the pancreas, alone it may be any duct.
    words
        Abbreviation -> what it stands for, for suggestions only.
    """

    tissues: Mapping[str, tuple[str, ...]]
    of_tissue: Mapping[str, Mapping[str, str]]
    telling: Mapping[str, frozenset[str]]
    words: Mapping[str, str]

    def tissue(self, text: str) -> str | None:
        """The tissue of the table that a text names; '' for an empty text, None for another tissue."""
        plain = text.casefold().strip()
        named = (
            name for name, words in self.tissues.items() if any(re.search(rf"\b{word}", plain) for word in words)
        )  # fmt: skip
        return next(named, None) if plain else ""

    def told_by(self, labels: Iterable[str]) -> frozenset[str]:
        """The tissues that labels of a file tell of, where none is named."""
        plain = {plain_label(label) for label in labels}
        return frozenset(name for name, telling in self.telling.items() if telling & plain)

    def only(self, plain: str, told: frozenset[str]) -> str | None:
        """What a label means where no tissue is known: what all tissues that have it say, if one of them is told."""
        ids = {name: table[plain] for name, table in self.of_tissue.items() if name and plain in table}
        is_sure = len(set(ids.values())) == 1 and bool(told & set(ids))
        return next(iter(ids.values())) if is_sure else None


def plain_label(label: str) -> str:
    """A label without what does not matter: case, ``_``, plural, accents, "+", "-positive"; Greek letters by name."""
    text = unicodedata.normalize("NFKC", label).translate(DASHES).casefold()
    for letter, name in GREEK.items():
        text = text.replace(letter, f" {name} ")
    text = "".join(
        character for character in unicodedata.normalize("NFD", text) if not unicodedata.combining(character)
    )
    text = re.sub(r"(?<=[a-z0-9])-(?=$|[\s/,;)])", " negative ", text)  # of a marker: CD25-
    text = re.sub(r"\+|(?<=\w)[-_ ]?pos(itive)?\b", " ", text)
    words = re.findall(r"[^\W_]+|[/&]", text)
    return " ".join(SPELLINGS.get(word, word) for word in map(_singular, words))


def _singular(word: str) -> str:
    is_plural = len(word) > 2 and word[-1] == "s" and word[-2:] not in ("ss", "us", "is", "as", "os") and word.isalpha()
    return word[:-1] if is_plural else word


def match_labels(
    labels: Iterable[str], ontology: CellOntology, tissue: str = "", table: Mapping[str, str | None] | None = None
) -> list[LabelMatch]:
    """Find the term that each label means; no label is guessed.

    The first hit wins: the user's table, an id, an alias of the tissue, a label of the ontology, an alias of any
    tissue, a synonym. An alias comes before a synonym, as "DC2" is an old name of plasmacytoid dendritic cells. Without
    a tissue the labels may tell it to each other ("ductal" beside "alpha"), so give those of a file together.

    Parameters
    ----------
    labels
        As they stand in obs.
    ontology
        Whose terms are meant.
    tissue
        Where the cells are from, in words; '' where that is not known.
    table
        The user's own: label -> id, or None for a label that is no type.

    Returns
    -------
    One match for each label, in the order of the labels.

    Raises
    ------
    ScDMCError
        If an id of the table is no term.
    """
    table = {label: cl_id and require_term(ontology, cl_id, f"label {label!r}").cl_id
             for label, cl_id in (table or {}).items()}  # fmt: skip
    labels, aliases = list(labels), load_aliases()
    names, place = _names(ontology), aliases.tissue(tissue)
    told = aliases.told_by(labels) if place == "" else frozenset()
    matches = []
    for label in labels:
        cl_id, how = (table[label], USER) if label in table else _find(label, ontology, names, place, told)
        nearest = names.nearest(label, tissue) if how == UNMAPPED else ()
        matches.append(LabelMatch(label, cl_id, how, nearest))
    return matches


def _find(
    label: str, ontology: CellOntology, names: "_Names", place: str | None, told: frozenset[str]
) -> tuple[str | None, str]:
    aliases, plain = load_aliases(), plain_label(label)
    identifier = re.fullmatch(r"\s*CL[:_](\d{7})\s*", label, re.IGNORECASE)
    if identifier:
        current = ontology.current(f"CL:{identifier[1]}")
        return (current, ID) if current else (None, UNMAPPED)
    readings = (
        (aliases.of_tissue.get(place, {}).get(plain) if place else None, ALIAS),
        (names.exact.get(label) or names.labels.get(plain), LABEL),
        (aliases.of_tissue[""].get(plain), ALIAS),
        (names.synonyms.get(plain), SYNONYM),
        (aliases.only(plain, told), ALIAS),
    )
    return next(((cl_id, how) for cl_id, how in readings if cl_id), (None, UNMAPPED))


def unmapped(matches: Iterable[LabelMatch]) -> list[LabelMatch]:
    """The labels of which nothing is known."""
    return [match for match in matches if match.how == UNMAPPED]


def require_mapped(
    matches: Sequence[LabelMatch], cells: Mapping[str, int], ontology: CellOntology, source: str
) -> None:
    """Refuse labels that are no term.

    Parameters
    ----------
    matches
        What :func:`match_labels` gave.
    cells
        Label -> its cells.
    ontology
        For the names of the suggestions.
    source
        File and column, for the message.

    Raises
    ------
    ScDMCError
        With the labels, their cells and the terms whose names are nearest, the most frequent first.
    """
    missing = sorted(unmapped(matches), key=lambda match: -cells[match.label])
    if missing:
        shown = [f"{match.label!r} ({cells[match.label]:,} cells; nearest {suggestion_text(match, ontology)})"
                 for match in missing]  # fmt: skip
        raise ScDMCError(
            f"{source}: {len(missing)} of {len(matches)} labels are no known name of a term of the Cell Ontology: "
            f"{shown_names(shown)}; give their ids with --cell_type_table, or leave these cells out with "
            "--allow_unmapped, whose labels.csv lists them all"
        )


def suggestion_text(match: LabelMatch, ontology: CellOntology) -> str:
    """The suggestions of a label for people: names and ids."""
    return ", ".join(f"{ontology[cl_id].label} {cl_id}" for cl_id in match.suggestions)


def read_label_table(path: Path, ontology: CellOntology) -> dict[str, str | None]:
    """Read a user's table: a TSV with the columns label and cl_id; an empty id says that the label is no type.

    Raises
    ------
    ScDMCError
        If the file is absent, no such table, names a label twice, or an id that is no term.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise ScDMCError(f"--cell_type_table {path}: no such file")
    try:
        rows = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=3)
    except (ValueError, UnicodeDecodeError) as error:
        raise ScDMCError(f"--cell_type_table {path} is no TSV: {str(error).splitlines()[0]}") from error
    lacking = [name for name in ("label", "cl_id") if name not in rows]
    if lacking:
        raise ScDMCError(
            f"--cell_type_table {path} lacks the column {lacking[0]!r}; it has {list(rows)}; columns are parted by tabs"
        )
    twice = rows["label"][rows["label"].duplicated()].tolist()
    if twice:
        raise ScDMCError(f"--cell_type_table {path}: {twice[0]!r} stands there twice; keep one of the rows")
    table = {}
    for number, (label, cl_id) in enumerate(zip(rows["label"], rows["cl_id"], strict=True), start=2):
        source = f"--cell_type_table {path}, line {number}"
        table[label] = require_term(ontology, cl_id, source).cl_id if cl_id.strip() else None
    return table


@functools.cache
def load_aliases() -> Aliases:
    """The table of labels that ships with scDMC, each of them also with "cell" behind it."""
    content = read_json_object(DEFAULT_ALIAS_FILE, "labels of cell types")
    of_tissue = {}
    for tissue, table in content["aliases"].items():
        plain = {plain_label(label): cl_id for label, cl_id in table.items()}
        of_tissue[tissue] = {f"{label} cell": cl_id for label, cl_id in plain.items()} | plain
    tissues = {name: tuple(words) for name, words in content["tissues"].items()}
    telling = {name: frozenset(of_tissue[name]) & {f"{label}{end}" for label in labels for end in ("", " cell")}
               for name, labels in content["telling"].items()}  # fmt: skip
    return Aliases(tissues, of_tissue, telling, content["words"])


class _Names:
    """All names of an ontology, looked up by their plain form or by what they look like."""

    def __init__(self, ontology: CellOntology) -> None:
        self.exact = {term.label: term.cl_id for term in ontology.values()}
        self.labels = _unique((plain_label(term.label), term.cl_id) for term in ontology.values())
        common = [term for term in ontology.values() if not OF_OTHERS.search(term.label)]
        synonyms = _unique((plain_label(synonym), term.cl_id) for term in common for synonym in term.synonyms)
        self.synonyms = {plain: cl_id for plain, cl_id in synonyms.items() if len(plain) >= SHORTEST_SYNONYM}
        labels = {plain_label(term.label): term.cl_id for term in common}
        self._terms = list({**self.synonyms, **labels}.items())

    @functools.cached_property
    def _pieces(self) -> tuple[dict[str, list[int]], list[int]]:
        """Piece of three characters -> the names that hold it; and how many pieces each name has."""
        of_names = [_pieces(plain) for plain, _ in self._terms]
        holders = defaultdict(list)
        for number, pieces in enumerate(of_names):
            for piece in pieces:
                holders[piece].append(number)
        return holders, [len(pieces) for pieces in of_names]

    def nearest(self, label: str, tissue: str) -> tuple[str, ...]:
        """The terms whose names share most pieces with a label, or a part of it, its abbreviations written out."""
        words, scores = load_aliases().words, {}
        parts = [part.split() for part in re.split("[/&]", plain_label(label))]
        texts = [re.sub(r"\bcell cell\b", "cell", " ".join(words.get(word, word) for word in part)) for part in parts]
        for text in texts:
            for cl_id, score in self._scores(text).items():
                scores[cl_id] = max(scores.get(cl_id, 0), score)
        for cl_id, score in self._scores(plain_label(f"{tissue} {' '.join(texts)}")).items() if tissue else ():
            scores[cl_id] = max(scores.get(cl_id, 0), WITH_TISSUE * score)
        return tuple(sorted(scores, key=lambda cl_id: (-scores[cl_id], cl_id))[:N_SUGGESTIONS])

    def _scores(self, text: str) -> dict[str, float]:
        """Id -> the share of pieces that its nearest name and a text have in common, twice over the sum of both."""
        holders, sizes = self._pieces
        own, shared = _pieces(text), defaultdict(int)
        for piece in own:
            for number in holders.get(piece, ()):
                shared[number] += 1
        scores: dict[str, float] = {}
        for number, common in shared.items():
            cl_id = self._terms[number][1]
            scores[cl_id] = max(scores.get(cl_id, 0), 2 * common / (len(own) + sizes[number]))
        return scores


def _unique(names: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Name -> its term; what two terms are called is the name of none."""
    owners = defaultdict(set)
    for plain, cl_id in names:
        owners[plain].add(cl_id)
    return {plain: cl_ids.pop() for plain, cl_ids in owners.items() if len(cl_ids) == 1}


def _pieces(text: str) -> set[str]:
    padded = f" {text} "
    return {padded[start : start + 3] for start in range(len(padded) - 2)}


@functools.lru_cache(maxsize=4)
def _names(ontology: CellOntology) -> _Names:
    return _Names(ontology)
