"""The corpus of cells and texts on the disk, as training reads it (docs/text.md, "The corpus")."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scdmc.errors import ScDMCError, shown_names
from scdmc.files import read_json_object
from scdmc.genes.vocabulary import require_same_vocabulary
from scdmc.result_folders import require_whole, unchanged
from scdmc.text.ontology import CellOntology
from scdmc.tokens.parquet import read_tokenized
from scdmc.tokens.tokenized_cells import TokenizedCells

if TYPE_CHECKING:
    from scdmc.model.folder import ModelDirectory
    from scdmc.text.encoders import TextEncoder

CELLS_PREFIX, CELLS_GLOB = "cells", "cells-*.parquet"


TERMS_FILE, VECTORS_FILE, LABELS_FILE, CORPUS_FILE = "terms.parquet", "text_vectors.npy", "labels.csv", "corpus.json"


# Columns of the cells beside those of all tokenized data; and those of terms.parquet.
CELL_LABEL_COLUMNS = ("cl_id", "dataset", "split", "label")
TERM_COLUMNS = ("cl_id", "label", "kind", "text", "row", "part")


# Of a cell: its part of the split, or UNSEEN where its term is held out. Of a term: TRAIN where it has training cells,
# UNSEEN where it is held out, OTHER where all of its cells lie in other parts.
TRAIN, UNSEEN, OTHER = "train", "unseen", "other"


CORPUS_FORMAT = 1


@dataclass(frozen=True)
class Corpus:
    """Cells and texts.

    Attributes
    ----------
    path
        The folder.
    cells
        With the columns :data:`CELL_LABEL_COLUMNS`, and tissue, disease and assay where they were named.
    terms
        The texts of the terms that the cells have: :data:`TERM_COLUMNS`; ``row`` is the row of the vectors.
    vectors
        Shape (n_texts, text_size), float32; None where the corpus was made without a text encoder.
    facts
        What ``corpus.json`` says: versions and hashes, terms held out.
    """

    path: Path
    cells: TokenizedCells
    terms: pd.DataFrame
    vectors: np.ndarray | None
    facts: dict

    @cached_property
    def unseen(self) -> frozenset[str]:
        """Ids of the terms held out, with all of their descendants: none of their texts may be trained on."""
        return frozenset(self.facts["unseen_terms"])

    @cached_property
    def parts_sha256(self) -> str:
        """SHA-256 of which cell is in which part, whatever the order: of another split it is another."""
        rows = self.cells.obs[["source_file", "cell_id", "split"]].astype(str).itertuples(index=False, name=None)
        return hashlib.sha256("\n".join(sorted(map("\t".join, rows))).encode("utf8")).hexdigest()

    def cells_of(self, part: str) -> np.ndarray:
        """True for the cells of a part, shape (n_cells,)."""
        return (self.cells.obs["split"] == part).to_numpy()

    def terms_of(self, *parts: str) -> pd.DataFrame:
        """The texts of the terms of some parts, such as :data:`TRAIN`."""
        return self.terms[self.terms["part"].isin(parts)]


def read_corpus(path: Path) -> Corpus:
    """Read a corpus of ``text_corpus.py``.

    Raises
    ------
    ScDMCError
        If the folder is no corpus, or not whole.
    """
    path = Path(path)
    with unchanged(path):  # cells of one run and vectors of the next would be silently wrong
        return _corpus(path)


def _corpus(path: Path) -> Corpus:
    facts = read_facts(path)
    names = [TERMS_FILE, VECTORS_FILE, CORPUS_FILE]
    require_whole(path, *names, *(file.name for file in path.glob(CELLS_GLOB)))
    terms = pd.read_parquet(path / TERMS_FILE)
    vectors = None
    if facts["text_encoder"] is not None:
        vectors = np.load(path / VECTORS_FILE, allow_pickle=False).astype(np.float32)
        if len(vectors) != len(terms):
            raise ScDMCError(f"{path / VECTORS_FILE} holds {len(vectors):,} vectors of {len(terms):,} texts; make the "
                             "corpus again with --overwrite")  # fmt: skip
    return Corpus(path, read_tokenized(path / CELLS_GLOB), terms, vectors, facts)


def read_facts(path: Path) -> dict:
    """What ``corpus.json`` says.

    Raises
    ------
    ScDMCError
        If there is none, or one of another version.
    """
    facts = read_json_object(Path(path) / CORPUS_FILE, "corpus of text_corpus.py")
    if facts.get("format") != CORPUS_FORMAT:
        raise ScDMCError(
            f"{Path(path) / CORPUS_FILE} has format {facts.get('format')}, and this scDMC reads {CORPUS_FORMAT}; make "
            "the corpus again"
        )
    return facts


def require_same_parts(facts: Mapping[str, object], corpus: Corpus, what: str) -> None:
    """Refuse to score what was trained on another split of a corpus, which may have seen its test cells.

    Parameters
    ----------
    facts
        Of the training; ``parts`` is :attr:`Corpus.parts_sha256` of its corpus.
    corpus
        Whose test cells are scored.
    what
        Was trained.

    Raises
    ------
    ScDMCError
        If the cells had other parts, or nothing is known of them.
    """
    if facts.get("parts") != corpus.parts_sha256:
        raise ScDMCError(
            f"{what} was trained on another split than that of {corpus.path}, or does not say on which, and may have "
            "seen its test cells; name its own --corpus_dir, or train it again"
        )


def require_fitting_corpus(
    facts: dict,
    source: Path,
    model_directory: "ModelDirectory",
    ontology: CellOntology,
    encoder: "TextEncoder | None" = None,
) -> None:
    """Refuse a corpus that was made with another vocabulary, medians, ontology or text encoder than is used now.

    Parameters
    ----------
    facts
        Of :func:`read_facts`.
    source
        The corpus, for the message.
    model_directory
        The model that will read the cells.
    ontology
        Whose terms are meant.
    encoder
        That encodes further texts; None where the vectors of the corpus are all that is needed.

    Raises
    ------
    ScDMCError
        Naming the two that disagree.
    """
    model = str(model_directory.path)
    require_same_vocabulary(model_directory.vocabulary.sha256, facts["vocabulary"], model, str(source))
    made_with = facts["text_encoder"] or {}
    pairs = [
        ("gene medians", facts["gene_medians"], model_directory.medians.sha256, model),
        ("Cell Ontology", facts["ontology"]["sha256"], ontology.sha256, f"this scDMC ({ontology.version})"),
    ]
    if encoder is not None and made_with:
        pairs.append(("text encoder", made_with["sha256"], encoder.sha256, f"the one named now ({encoder.name})"))
    for what, of_corpus, of_other, other in pairs:
        if of_corpus != of_other:
            raise ScDMCError(
                f"{source} was made with another {what} ({of_corpus[:12]}) than {other} ({of_other[:12]}); make the "
                "corpus again with text_corpus.py"
            )


def require_terms(terms: Sequence[str], fewest: int, source: str) -> None:
    """Refuse fewer terms to learn from than a task needs."""
    if len(terms) < fewest:
        raise ScDMCError(
            f"{source}: {len(terms)} terms have training cells ({shown_names(terms) or 'none'}), and at least {fewest} "
            "are needed; add data sets, or lower --min_cells_per_type"
        )
