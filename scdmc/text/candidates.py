"""The types that cells may get: texts of a user, terms of the Cell Ontology, or all terms below one.

Source: docs/text.md, "Candidates".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scdmc.errors import ScDMCError, shown_names
from scdmc.text.labels import match_labels
from scdmc.text.model import TEXTS_OF_TERM, TextSpace, unit
from scdmc.text.ontology import CL_ID, CellOntology, Term, require_term
from scdmc.text.options import NO_COUNTS, UNKNOWN
from scdmc.text.texts import description_of

if TYPE_CHECKING:
    from scdmc.text.encoders import TextEncoder

FEWEST_CANDIDATES = 2


# What cells without a type are called; a candidate of that name could not be told from them.
RESERVED = frozenset({UNKNOWN.casefold(), NO_COUNTS.casefold()})


# Files of candidates are lists for people.
MOST_TYPES_BYTES = 2**24


@dataclass(frozen=True)
class Candidate:
    """A type that a cell may get.

    Attributes
    ----------
    label
        What the cell is then called.
    texts
        What is encoded: a user's text as it is; of a term its label and its description.
    cl_id
        The term; None for a text that is no name of one.
    """

    label: str
    texts: tuple[str, ...]
    cl_id: str | None

    @property
    def text(self) -> str:
        """The longest of its texts, in which genes are looked for."""
        return max(self.texts, key=len)


def read_candidates(
    types: str | Path | Sequence[str] | None, under: str | None, ontology: CellOntology
) -> list[Candidate]:
    """Candidates as a user gives them.

    Parameters
    ----------
    types
        A file with one text or id a line (a line may be a name, a tab, and the text that it stands for), or the texts
        themselves, parted by semicolons, or a list of them.
    under
        Id of a term, whose descendants and itself are the candidates, in place of ``types``.
    ontology
        Where ids and names are looked up.

    Raises
    ------
    ScDMCError
        If both or neither are given, there are fewer than two candidates, one is empty, or two are the same.
    """
    if (types is None) == (under is None):
        raise ScDMCError("give the candidates either with --types or with --under, and not with both")
    if under is not None:
        top = require_term(ontology, under, "--under")
        candidates = [candidate_of_term(ontology[cl_id]) for cl_id in sorted(ontology.descendants(top.cl_id))]
    else:
        candidates = _candidates(_lines(types), ontology)
    reserved = [each.label for each in candidates if each.label.casefold() in RESERVED]
    if reserved:
        raise ScDMCError(
            f"{_source(under)}: {reserved[0]!r} is what cells without a type are called; name it otherwise"
        )
    if len(candidates) < FEWEST_CANDIDATES:
        raise ScDMCError(
            f"{_source(under)}: {len(candidates)} candidate, and at least {FEWEST_CANDIDATES} are needed: without a "
            f"second every cell gets the first{_not_a_file(types)}"
        )
    for what, words in (("name", [each.label for each in candidates]), ("text", [each.text for each in candidates])):
        plain = [word.casefold() for word in words]
        twice = [word for place, word in enumerate(words) if plain.index(word.casefold()) != place]
        if twice:
            raise ScDMCError(f"{_source(under)}: two candidates have the same {what}: {shown_names(twice)}")
    return candidates


def _not_a_file(types: str | Path | Sequence[str] | None) -> str:
    """What to say where a file may have been meant: without a suffix its name reads like a text."""
    is_text = isinstance(types, str | Path) and not _is_file(Path(types))
    return f"; {str(types)[:100]!r} is no file, and was read as texts that are parted by semicolons" if is_text else ""


def _source(under: str | None) -> str:
    return "--types" if under is None else f"--under {under}"


def _lines(types: str | Path | Sequence[str]) -> list[str]:
    if not isinstance(types, str | Path):
        return [str(text) for text in types]
    path = Path(types)
    if ";" in str(types) or not _is_file(path):
        if ";" not in str(types) and path.suffix:
            raise ScDMCError(f"--types {types}: no such file; texts are parted by semicolons")
        return str(types).split(";")
    return lines_of_file(path, "--types")


def lines_of_file(path: Path, flag: str) -> list[str]:
    """The lines of a file of texts; empty ones and those whose first sign is # are passed over.

    Raises
    ------
    ScDMCError
        If it is too large, or no UTF-8; ``flag`` is named.
    """
    if path.stat().st_size > MOST_TYPES_BYTES:
        raise ScDMCError(f"{flag} {path} has more than {MOST_TYPES_BYTES:,} bytes; it should be a list of texts")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except ValueError as error:
        raise ScDMCError(f"{flag} {path} is no UTF-8 text: {error}") from error
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text longer than any name of a file
        return False


def _candidates(lines: Sequence[str], ontology: CellOntology) -> list[Candidate]:
    """A candidate for each line; their names are looked up together, as one may tell the tissue of another."""
    parted = [tuple(part.strip() for part in line.partition("\t")) for line in lines]
    for line, (name, tab, text) in zip(lines, parted, strict=True):
        if not name or (tab and not text):
            raise ScDMCError(f"--types: a candidate is empty ({line!r})")
    matches = match_labels([name for name, _, _ in parted], ontology)
    return [
        candidate_of_term(require_term(ontology, name, "--types"))
        if CL_ID.fullmatch(name.upper()) and not text
        else Candidate(name, (text or name,), match.cl_id)
        for (name, _, text), match in zip(parted, matches, strict=True)
    ]


def candidate_of_term(term: Term) -> Candidate:
    """A term, for which its label and its description stand."""
    return Candidate(term.label, tuple(dict.fromkeys((term.label, description_of(term)))), term.cl_id)


def candidate_vectors(
    candidates: Sequence[Candidate], space: TextSpace, open_encoder: "Callable[[], TextEncoder]"
) -> np.ndarray:
    """A vector for each candidate, the mean of its texts, of length 1.

    Texts that the model was trained on have their vectors in its folder; the text encoder is opened only where there
    are others.

    Parameters
    ----------
    candidates
        The candidates.
    space
        Of the model.
    open_encoder
        Opens the text encoder.

    Returns
    -------
    Shape (n_candidates, text_size), float32.

    Raises
    ------
    ScDMCError
        If the text encoder is another one than that of the model.
    """
    known = {
        text: vector
        for kind, vectors in zip(TEXTS_OF_TERM, space.vectors.swapaxes(0, 1), strict=True)
        for text, vector in zip(space.terms[kind], vectors, strict=True)
    }
    missing = list(dict.fromkeys(text for each in candidates for text in each.texts if text not in known))
    if missing:
        encoder = open_encoder()
        require_same_encoder(encoder, space)
        known |= dict(zip(missing, encoder.encode(missing), strict=True))
    return unit(np.array([np.mean([known[text] for text in each.texts], axis=0) for each in candidates]))


def require_same_encoder(encoder: "TextEncoder", space: TextSpace) -> None:
    """Refuse a text encoder that is not the one that a model was trained with."""
    if encoder.sha256 != space.encoder_sha256:
        raise ScDMCError(
            f"the model was trained with the text encoder {space.encoder_name} ({space.encoder_sha256[:12]}), and "
            f"{encoder.folder} is another one ({encoder.sha256[:12]}); name the right one with --text_encoder"
        )


@dataclass(frozen=True)
class OtherTerms:
    """What training terms say of cells beside the candidates.

    Attributes
    ----------
    away
        Rows of the terms that are no relatives of any candidate: a cell nearer to them is none of these.
    below
        Rows of the terms below a candidate: a cell near to them is one of these, whatever the candidate's own text.
    """

    away: np.ndarray
    below: np.ndarray


def other_terms(
    candidates: Sequence[Candidate], vectors: np.ndarray, space: TextSpace, ontology: CellOntology
) -> OtherTerms:
    """The training terms by their relation to the candidates.

    A candidate that is no term counts as the training term whose text is nearest to its own.

    Parameters
    ----------
    candidates, vectors
        The candidates, and what :func:`candidate_vectors` gave.
    space
        Of the model.
    ontology
        Which terms are related.
    """
    ids = space.terms["cl_id"].tolist()
    nearest = (space.centred(vectors) @ space.centred(space.of_terms).T).argmax(axis=1)
    own = {each.cl_id or ids[place] for each, place in zip(candidates, nearest, strict=True)}
    own = [cl_id for cl_id in own if cl_id in ontology]
    is_below = [bool(set(own) & set(ontology.ancestors(cl_id))) if cl_id in ontology else False for cl_id in ids]
    related = [any(ontology.relatives(cl_id, each) for each in own) if cl_id in ontology else False for cl_id in ids]
    return OtherTerms(np.flatnonzero(~np.array(related, dtype=bool)), np.flatnonzero(np.array(is_below, dtype=bool)))
