"""The Cell Ontology: types of cells, their definitions, and how they descend from each other.

The file that ships with scDMC is made by ``tokenizer/build_ontology.py``. Source: docs/text.md, "The Cell Ontology".
"""

import functools
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from scdmc.errors import ScDMCError
from scdmc.resources import resource_folder

ONTOLOGY_FILE = "cell_ontology.json.gz"


DEFAULT_ONTOLOGY_FILE = resource_folder("text_files") / ONTOLOGY_FILE


CL_ID = re.compile(r"CL:\d{7}")


# What of the unpacked file is more than any ontology of cells.
MOST_BYTES = 2**27


@dataclass(frozen=True)
class Term:
    """A type of cell.

    Attributes
    ----------
    cl_id
        ``CL:`` and seven digits.
    label
        Its name, such as "B cell".
    definition
        One or a few sentences; '' for the few terms that have none.
    synonyms
        Other names.
    parents
        Ids of the terms right above it; only "cell" has none.
    """

    cl_id: str
    label: str
    definition: str
    synonyms: tuple[str, ...]
    parents: tuple[str, ...]


class CellOntology(Mapping[str, Term]):
    """The terms of the Cell Ontology by their ids, in ascending order.

    Attributes
    ----------
    version
        Release of the Cell Ontology, such as "v2026-03-26".
    sha256
        Of the unpacked file; how it is packed does not change it.
    replaced
        Id that is no longer used -> the term that has taken its place.
    """

    def __init__(self, terms: Mapping[str, Term], replaced: Mapping[str, str], version: str, sha256: str) -> None:
        self._terms = dict(sorted(terms.items()))
        self.replaced, self.version, self.sha256 = dict(replaced), version, sha256
        self._ancestors: dict[str, dict[str, int]] = {}

    @classmethod
    def load(cls, path: Path | None = None) -> "CellOntology":
        """Read the ontology that ships with scDMC, once in a process, or one of ``build_ontology.py``.

        Raises
        ------
        ScDMCError
            If the file is absent or damaged.
        """
        return _load(Path(path or DEFAULT_ONTOLOGY_FILE))

    __eq__, __hash__ = object.__eq__, object.__hash__  # one is read once: what is made of it is kept by it

    def __getitem__(self, cl_id: str) -> Term:
        return self._terms[cl_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._terms)

    def __len__(self) -> int:
        return len(self._terms)

    def ancestors(self, cl_id: str) -> dict[str, int]:
        """Terms above a term -> steps to them, the nearest first; the term itself is at 0."""
        if cl_id not in self._ancestors:
            steps, front = {cl_id: 0}, [cl_id]
            while front:
                above = (parent for term in front for parent in self._terms[term].parents)
                front = [parent for parent in dict.fromkeys(above) if parent not in steps]
                steps |= dict.fromkeys(front, max(steps.values()) + 1)
            self._ancestors[cl_id] = steps
        return dict(self._ancestors[cl_id])

    def descendants(self, cl_id: str) -> frozenset[str]:
        """Terms below a term, and the term itself."""
        found, front = {cl_id}, [self._terms[cl_id].cl_id]
        while front:
            front = [child for term in front for child in self._children.get(term, ()) if child not in found]
            found.update(front)
        return frozenset(found)

    def relatives(self, a: str, b: str) -> bool:
        """True if two terms are equal, or one is an ancestor of the other."""
        return a in self.ancestors(b) or b in self.ancestors(a)

    def distance(self, a: str, b: str) -> int:
        """Steps from one term to the other over the nearest ancestor that they share."""
        of_a, of_b = self.ancestors(a), self.ancestors(b)
        return min(steps + of_b[shared] for shared, steps in of_a.items() if shared in of_b)

    def current(self, cl_id: str) -> str | None:
        """The term of an id, also of one that another term has replaced; None where there is none."""
        current = self.replaced.get(cl_id, cl_id)
        return current if current in self._terms else None

    @functools.cached_property
    def _children(self) -> dict[str, list[str]]:
        children: dict[str, list[str]] = {}
        for term in self._terms.values():
            for parent in term.parents:
                children.setdefault(parent, []).append(term.cl_id)
        return children


def require_term(ontology: CellOntology, cl_id: str, source: str) -> Term:
    """The term of an id that a person has given.

    Parameters
    ----------
    ontology
        Where it should be.
    cl_id
        The id, upper or lower case.
    source
        Where it was given, for the message.

    Raises
    ------
    ScDMCError
        If it is no id, or that of no term.
    """
    plain = cl_id.strip().upper()
    if not CL_ID.fullmatch(plain):
        raise ScDMCError(f"{source}: {cl_id!r} is no id of the Cell Ontology; write CL: and seven digits (CL:0000236)")
    current = ontology.current(plain)
    if current is None:
        raise ScDMCError(f"{source}: the Cell Ontology {ontology.version} has no term {plain}")
    return ontology[current]


@functools.cache
def _load(path: Path) -> CellOntology:
    if not path.is_file():
        raise ScDMCError(f"{path}: no such file (Cell Ontology); tokenizer/build_ontology.py makes it")
    try:
        with gzip.open(path, "rb") as packed:
            text = packed.read(MOST_BYTES)
        content = json.loads(text)
        terms = {
            cl_id: Term(cl_id, row["label"], row["definition"], tuple(row["synonyms"]), tuple(row["parents"]))
            for cl_id, row in content["terms"].items()
        }
        replaced, version = content["replaced"], content["version"]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScDMCError(f"{path} is no Cell Ontology of build_ontology.py, or it is damaged: {error}") from error
    missing = sorted({parent for term in terms.values() for parent in term.parents} - set(terms))
    if missing or not terms:
        raise ScDMCError(f"{path} is damaged: {missing[0] if missing else 'every term'} is missing in it")
    return CellOntology(terms, replaced, version, hashlib.sha256(text).hexdigest())
