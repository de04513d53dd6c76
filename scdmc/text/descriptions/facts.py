"""What can be said of cells and of groups of cells: every clause is computed, none is made up.

Source: docs/text.md, "Descriptions".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.cells.cluster_markers import marker_genes
from scdmc.genes.symbols import gene_symbols
from scdmc.text.annotation import Query, TextAnnotation
from scdmc.text.candidates import Candidate
from scdmc.text.descriptions.options import FACTS
from scdmc.text.ontology import CellOntology
from scdmc.text.options import NO_COUNTS, UNKNOWN
from scdmc.text.texts import first_sentence

TYPES_TOLD, GENES_TOLD = 3, 10


UNSURE = "Unsure; the nearest types are"


# What cells are called that have no type.
WITHOUT_TYPE = {UNKNOWN: "none of the types that were looked for", NO_COUNTS: "no counts"}


# Rarer, a type is not worth a word; and a gene of fewer cells is no mark of any.
LEAST_SHARE, FEWEST_CELLS_WITH_GENE = 0.01, 3


# A gene is told if it stands so many standard deviations above the mean of the file's cells.
LEAST_DEVIATION = 1.0


# A group most of whose cells are of other types is not defined by its first.
PURE = 0.5


# A type that is less likely is told as a guess, without its definition.
SURE = 0.5


# Of the test by which genes set a group apart.
LARGEST_P = 0.05


@dataclass(frozen=True)
class Described:
    """Cells, and all that is said of them.

    Attributes
    ----------
    annotation
        Their types by words.
    query
        Their expression, ln(1 + CP10k).
    totals
        Counts of each cell, shape (n_cells,); None where the data keep none.
    n_genes
        Genes with counts, shape (n_cells,).
    ontology
        Where definitions are looked up.
    """

    annotation: TextAnnotation
    query: Query
    totals: np.ndarray | None
    n_genes: np.ndarray
    ontology: CellOntology


def specific_genes(
    expression: scipy.sparse.csr_matrix, genes: np.ndarray, n_genes: int = GENES_TOLD
) -> list[list[str]]:
    """Genes of each cell that are much higher than in the other cells of the file.

    Parameters
    ----------
    expression
        ln(1 + CP10k), shape (n_cells, n_genes).
    genes
        Ensembl ids, shape (n_genes,); '' for what is no known gene.
    n_genes
        Most of a cell.

    Returns
    -------
    Of each cell the symbols, the one that stands out most first. A cell has counts of each of them.
    """
    expression = scipy.sparse.csr_matrix(expression)
    n_cells = max(1, expression.shape[0])
    with_gene = np.bincount(expression.indices, expression.data > 0, minlength=expression.shape[1])
    mean = np.asarray(expression.mean(axis=0)).ravel()
    variance = np.asarray(expression.power(2).sum(axis=0)).ravel() / n_cells - mean**2
    is_told = (genes != "") & (with_gene >= FEWEST_CELLS_WITH_GENE) & (variance > 0)
    scale = np.sqrt(np.where(is_told, variance, 1.0))
    deviation = np.where(
        is_told[expression.indices] & (expression.data > 0),
        (expression.data - mean[expression.indices]) / scale[expression.indices],
        -np.inf,
    )
    symbols = gene_symbols(genes)
    told = []
    for start, stop in zip(expression.indptr[:-1], expression.indptr[1:], strict=True):
        first = np.argsort(-deviation[start:stop], kind="stable")
        first = first[deviation[start:stop][first] >= LEAST_DEVIATION]
        named = dict.fromkeys(symbols[expression.indices[start:stop][first]])  # two ids may share a symbol
        told.append(list(named)[:n_genes])
    return told


def genes_of_groups(
    expression: scipy.sparse.csr_matrix, genes: np.ndarray, groups: np.ndarray, n_genes: int = GENES_TOLD
) -> dict[str, list[str]]:
    """Genes that are higher in a group than in all other cells, by scanpy's Wilcoxon test.

    Parameters
    ----------
    expression, genes
        See :func:`specific_genes`.
    groups
        Shape (n_cells,).
    n_genes
        Most of a group.

    Returns
    -------
    Group -> symbols; none for a group of one cell, or where there is one group only.
    """
    first = np.unique(genes, return_index=True)[1]
    known = np.sort(first[genes[first] != ""])
    table = marker_genes(scipy.sparse.csr_matrix(expression)[:, known], genes[known], groups, n_genes)
    if len(table):
        table = table[(table["p_adjusted"] < LARGEST_P) & (table["log2_fold_change"] > 0)]
    return {str(name): of_group["symbol"].tolist() for name, of_group in table.groupby("cluster", observed=True)}


def described_cells(described: Described, names: Sequence[str], chosen: Sequence[int]) -> pd.DataFrame:
    """A text for each cell.

    Parameters
    ----------
    described
        The cells.
    names
        Of the cells.
    chosen
        Rows of the cells that are described.

    Returns
    -------
    Columns cell_id, text, type, cl_id, probability, genes, style.
    """
    annotation, query = described.annotation, described.query
    genes = specific_genes(query.expression, query.genes)
    rows = []
    for cell in chosen:
        label, text = str(annotation.labels[cell]), "No counts in the genes of the model."
        cl_id, probability = "", np.nan
        if annotation.best[cell] >= 0:
            probability = float(annotation.probabilities[cell, annotation.best[cell]])
            cl_id = "" if label == UNKNOWN else annotation.candidates[annotation.best[cell]].cl_id or ""
            parts = [
                _types_of_cell(described, cell),
                _genes_in_words("Higher than in other cells of the file", genes[cell]),
            ]
            parts.append(_size_in_words(described, np.array([cell])))
            text = " ".join(part for part in parts if part)
        rows.append((str(names[cell]), text, label, cl_id, probability, ", ".join(genes[cell]), FACTS))
    return pd.DataFrame(rows, columns=["cell_id", "text", "type", "cl_id", "probability", "genes", "style"])


def described_groups(described: Described, groups: np.ndarray, group_column: str) -> pd.DataFrame:
    """A text for each group of cells, the largest first.

    Parameters
    ----------
    described
        The cells.
    groups
        Shape (n_cells,); '' for a cell of no group.
    group_column
        What the column of the groups is called.

    Returns
    -------
    Columns ``group_column``, cells, text, type, cl_id, share, probability, genes, style. ``share`` is that of the type
    among the group's cells, ``probability`` the mean over the cells that have it.
    """
    annotation, query = described.annotation, described.query
    is_in = (groups != "") & (annotation.best >= 0)
    genes = genes_of_groups(query.expression[is_in], query.genes, groups[is_in])
    rows = []
    for name, n_cells in sized_groups(groups).items():
        cells = np.flatnonzero(groups == name)
        types = _types_of_group(annotation, cells)
        first = types.iloc[0]
        told = genes.get(str(name), [])
        parts = [f"{n_cells:,} cells.", group_in_words(types, described.ontology), _size_in_words(described, cells)]
        parts.insert(2, _genes_in_words("Higher than in the other groups", told))
        text = " ".join(part for part in parts if part)
        rows.append(
            (str(name), int(n_cells), text, first["type"], first["cl_id"], first["share"], first["probability"],
             ", ".join(told), FACTS)
        )  # fmt: skip
    columns = [group_column, "cells", "text", "type", "cl_id", "share", "probability", "genes", "style"]
    return pd.DataFrame(rows, columns=columns)


def sized_groups(groups: np.ndarray) -> pd.Series:
    """Cells of each group, the largest first; '' is no group."""
    sizes = pd.Series(groups[groups != ""]).value_counts()
    return sizes.sort_index().sort_values(ascending=False, kind="stable")


def _types_of_cell(described: Described, cell: int) -> str:
    """Its type with its definition, and the next ones."""
    annotation = described.annotation
    order = np.argsort(-annotation.scores[cell], kind="stable")[:TYPES_TOLD]
    likely = annotation.probabilities[cell]
    named = [_type_in_words(annotation.candidates[place], likely[place]) for place in order]
    others = ", ".join(name for name, place in zip(named[1:], order[1:], strict=True) if likely[place] >= LEAST_SHARE)
    if annotation.labels[cell] == UNKNOWN:
        return f"None of the {len(annotation.candidates)} types that were looked for. The nearest: {', '.join(named)}."
    is_sure = likely[order[0]] >= SURE
    definition = _definition(annotation.candidates[order[0]].cl_id, described.ontology) if is_sure else ""
    text = f"{named[0]}.{definition}" if is_sure else f"{UNSURE} {named[0]}."
    return f"{text} Next: {others}." if others else text


def _types_of_group(annotation: TextAnnotation, cells: np.ndarray) -> pd.DataFrame:
    """The labels of some cells, the most frequent first: type, cl_id, share, probability."""
    counts = pd.Series(annotation.labels[cells].astype(str)).value_counts()
    counts = counts.sort_index().sort_values(ascending=False, kind="stable")
    ids = {each.label: each.cl_id or "" for each in annotation.candidates}
    rows = []
    for label, n_cells in counts.items():
        own = cells[annotation.labels[cells] == label]
        likely = annotation.probabilities[own, annotation.best[own]] if label in ids else np.array([np.nan])
        rows.append((label, ids.get(label, ""), n_cells / len(cells), float(likely.mean())))
    return pd.DataFrame(rows, columns=["type", "cl_id", "share", "probability"])


def group_in_words(types: pd.DataFrame, ontology: CellOntology) -> str:
    """The types of a group, the commonest first, and the definition of the first where most of its cells have it.

    Parameters
    ----------
    types
        type, cl_id, share, and mean probability of each, which cells without a type have not.
    ontology
        Where definitions are looked up.
    """
    words, named, unnamed = [], [], []
    for label, cl_id, share, probability in types.head(TYPES_TOLD).itertuples(index=False):
        if share < LEAST_SHARE:
            continue
        is_type = label not in (UNKNOWN, NO_COUNTS)
        what = _in_words(label, cl_id, f"mean probability {probability:.2f}") if is_type else WITHOUT_TYPE[label]
        words.append(f"{share:.0%} {what}")
        (named if is_type else unnamed).append(words[-1])
    first = types.iloc[0]
    if first["probability"] < SURE:
        rest = f" Beside these: {'; '.join(unnamed)}." if unnamed else ""
        return f"{UNSURE} {'; '.join(named)}.{rest}"
    definition = _definition(first["cl_id"], ontology) if first["share"] >= PURE else ""
    return f"{'; '.join(words)}.{definition}"


def _type_in_words(candidate: Candidate, probability: float) -> str:
    return _in_words(candidate.label, candidate.cl_id, f"probability {probability:.2f}")


def _in_words(label: str, cl_id: str | None, certainty: str) -> str:
    return f"{label} ({cl_id}, {certainty})" if cl_id else f"{label} ({certainty})"


def _definition(cl_id: str | None, ontology: CellOntology) -> str:
    """The first sentence of a term's definition, with a space before it; '' without one."""
    definition = ontology[cl_id].definition if cl_id and cl_id in ontology else ""
    return f" {first_sentence(definition)}" if definition else ""


def _genes_in_words(what: str, genes: Sequence[str]) -> str:
    return f"{what}: {', '.join(genes)}." if len(genes) else ""


def _size_in_words(described: Described, cells: np.ndarray) -> str:
    """Counts and genes of a cell, or their medians over several."""
    genes = f"{np.median(described.n_genes[cells]):,.0f} genes"
    if described.totals is None:
        genes = f"{genes} in the streams"
    else:
        genes = f"{np.median(described.totals[cells]):,.0f} counts, {genes}"
    return f"Medians: {genes}." if len(cells) > 1 else f"{genes}."
