"""The texts that cells are made of: words of a user, or terms of the Cell Ontology.

Source: docs/pseudo_cells.md, "Texts".
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from scdmc.errors import ScDMCError, shown_names
from scdmc.text.candidates import Candidate, candidate_of_term, lines_of_file
from scdmc.text.labels import match_labels
from scdmc.text.ontology import CL_ID, CellOntology, require_term


def lines_of_texts(path: Path) -> list[str]:
    """The lines of a file of texts; empty ones and those that begin with # are passed over.

    Raises
    ------
    ScDMCError
        If it is too large, no UTF-8, or holds no text.
    """
    texts = [line.strip() for line in lines_of_file(Path(path), "--text_file")]
    if not texts:
        raise ScDMCError(f"--text_file {path} holds no text")
    return texts


def asked_texts(texts: Sequence[str], ontology: CellOntology) -> list[Candidate]:
    """The texts with their terms: an id stands for the label and the description of its term, words for themselves.

    Words that are the name of a term get its id, and stay as they are.

    Raises
    ------
    ScDMCError
        If a text is empty, an id is that of no term, or two texts are the same.
    """
    texts = [text.strip() for text in texts]
    if not all(texts):
        raise ScDMCError("a text is empty: cells need a text, such as B cell, or an id, CL:0000236")
    times = Counter(text.casefold() for text in texts)
    twice = sorted({text for text in texts if times[text.casefold()] > 1})
    if twice:
        raise ScDMCError(f"two texts are the same: {shown_names(twice)}")
    matches = match_labels(texts, ontology)
    return [
        candidate_of_term(require_term(ontology, text, "--text"))
        if CL_ID.fullmatch(text.upper())
        else Candidate(text, (text,), match.cl_id)
        for text, match in zip(texts, matches, strict=True)
    ]
