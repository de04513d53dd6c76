"""Texts of terms, as they are read by a text encoder (docs/text.md, "Texts of a term")."""

import re
from dataclasses import dataclass

from scdmc.text.ontology import Term

LABEL, DESCRIPTION, SYNONYM = "label", "description", "synonym"


@dataclass(frozen=True)
class TermText:
    """A text of a term.

    Attributes
    ----------
    cl_id
        The term.
    kind
        "label", "description" (label and definition) or "synonym".
    text
        The words.
    """

    cl_id: str
    kind: str
    text: str


def description_of(term: Term) -> str:
    """Label and definition of a term, "B cell. A lymphocyte of ..."; the label alone where there is no definition."""
    return f"{term.label}. {term.definition}" if term.definition else term.label


def texts_of_term(term: Term) -> list[TermText]:
    """All texts of a term: label, label with definition, and each synonym once."""
    texts = [TermText(term.cl_id, LABEL, term.label), TermText(term.cl_id, DESCRIPTION, description_of(term))]
    known = {term.label.casefold()}
    for synonym in term.synonyms:
        if synonym.casefold() not in known:
            known.add(synonym.casefold())
            texts.append(TermText(term.cl_id, SYNONYM, synonym))
    return texts


# What ends with a full stop within a sentence.
ABBREVIATIONS = ("e.g.", "i.e.", "approx.", "cf.", "sp.", "spp.", "vs.", "resp.")


def first_sentence(text: str) -> str:
    """The first sentence of a definition, with its full stop.

    A full stop ends it if white space and a capital follow, unless it is that of an abbreviation or of an initial.
    """
    for found in re.finditer(r"\.\s+(?=[A-Z])", text):
        word = text[: found.start() + 1].rsplit(maxsplit=1)[-1].lstrip("(")
        if word.lower() not in ABBREVIATIONS and not re.fullmatch(r"[A-Z]\.", word):
            return text[: found.start() + 1]
    text = text.strip()
    return text if text.endswith(".") else f"{text}."
