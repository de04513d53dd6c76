"""Texts of terms and of cells, as they are read by a text encoder (docs/text.md, "Texts of a term")."""

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


def label_text_of(term: Term) -> str:
    """The label of a term."""
    return term.label


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


def first_sentence(text: str) -> str:
    """The first sentence of a definition, with its full stop; a stop within "e.g." or "(i.e." ends none."""
    match = re.match(r".*?(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bet al)[.](?=\s+[A-Z]|\s*$)", text, re.DOTALL)
    return (match.group() if match else text).strip()


def origin_of_cell(tissue: str = "", disease: str = "", assay: str = "") -> str:
    """Where a cell is from, in words, "From blood; lupus."; '' where nothing is known.

    A disease that is none ("normal", "healthy") is not named.
    """
    known = [disease.strip() if disease.strip().casefold() not in ("", "normal", "healthy", "none", "control") else ""]
    known.append(assay.strip() and f"measured by {assay.strip()}")
    known = "; ".join(part for part in known if part)
    if tissue.strip():
        return f"From {tissue.strip()}{'; ' + known if known else ''}."
    return f"{known[0].upper()}{known[1:]}." if known else ""


def caption_of_cell(term: Term, origin: str = "") -> str:
    """What is said of a cell: label, the first sentence of the definition, and where it is from. No gene is named.

    Parameters
    ----------
    term
        Its type.
    origin
        Of :func:`origin_of_cell`.
    """
    definition = first_sentence(term.definition)
    return " ".join(part for part in (f"{term.label}.", definition, origin) if part)
