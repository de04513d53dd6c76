"""Captions that a language model learns to say.

Source: docs/text.md, "Captions".
"""

import re
from dataclasses import dataclass

from scdmc.text.ontology import Term
from scdmc.text.texts import first_sentence


@dataclass(frozen=True)
class Caption:
    """What is said of a cell.

    Attributes
    ----------
    name
        Its type, with the full stop.
    rest
        What follows: the first sentence of the definition, tissue and disease where they are known; may be ''.
    """

    name: str
    rest: str

    @property
    def text(self) -> str:
        """The whole."""
        return f"{self.name} {self.rest}".strip()


def caption_of(term: Term, tissue: str = "", disease: str = "") -> Caption:
    """Caption of a cell of a term, such as "B cell. A lymphocyte of B lineage. From blood. Healthy.".

    Parameters
    ----------
    term
        Its type.
    tissue, disease
        As the corpus has them; '' where it does not.
    """
    first = first_sentence(term.definition) if term.definition else ""
    parts = [first, f"From {tissue}." if tissue else "", f"{disease[:1].upper()}{disease[1:]}." if disease else ""]
    return Caption(f"{term.label}.", " ".join(part for part in parts if part))


def name_in(caption: str) -> str:
    """What a caption calls a cell: all before its first full stop, which is none within a word ("NK1.1-positive")."""
    return re.split(r"\.(?=\s|$)", caption, maxsplit=1)[0].strip()
