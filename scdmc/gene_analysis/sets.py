"""Gene sets in GMT files: name, description, then the genes (symbols or Ensembl ids), separated by tabs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse

from scdmc.errors import ScDMCError, shown_names
from scdmc.files import atomic_path
from scdmc.genes.symbols import gene_of_name, official_symbol
from scdmc.genes.vocabulary import Vocabulary

SMALLEST_SET, LARGEST_SET = 5, 500


WEIGHT = re.compile(r",[-+]?[0-9.]+([eE][-+]?[0-9]+)?$")


def read_gene_sets(path: Path) -> dict[str, list[str]]:
    """Read a GMT file: name -> genes as they are written, in the order of the file.

    A number after a comma, the weight of a gene in sets of Enrichr, is left out.

    Raises
    ------
    ScDMCError
        If the file is absent, empty, or a line is no gene set.
    """
    path = Path(path)
    if not path.is_file():
        raise ScDMCError(f"{path}: no such file (gene sets)")
    sets: dict[str, list[str]] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ScDMCError(f"{path} (gene sets) is not text: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        genes = [WEIGHT.sub("", gene.strip()) for gene in rest[1:] if gene.strip()]
        if not name or not genes:
            raise ScDMCError(f"{path}, line {number}: a GMT line is name, description and genes, separated by tabs")
        if name in sets:
            raise ScDMCError(f"{path}, line {number}: the gene set {name!r} is there twice")
        sets[name] = genes
    if not sets:
        raise ScDMCError(f"{path} holds no gene sets")
    return sets


def write_gene_sets(path: Path, sets: Mapping[str, Sequence[str]], description: str) -> None:
    """Write a GMT file; the same sets give the same bytes."""
    lines = ["\t".join([name, description, *genes]) for name, genes in sets.items()]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf8")


def require_known_sets(sets: Mapping[str, Sequence[str]], vocabulary: Vocabulary, source: str) -> None:
    """Refuse, before the work, gene sets of which none has enough genes in the vocabulary.

    Raises
    ------
    ScDMCError
        If there is none.
    """
    numbers = [sum(gene_of_name(gene) in vocabulary.token_ids for gene in set(genes)) for genes in sets.values()]
    if max(numbers, default=0) < SMALLEST_SET:
        genes = [gene for of_set in sets.values() for gene in of_set]
        raise ScDMCError(
            f"{source}: none of the {len(sets)} gene sets has {SMALLEST_SET} genes of the model's vocabulary; the "
            f"first are {shown_names(genes, 3)}; write official human symbols or Ensembl ids"
        )


def _members(genes: Sequence[str], column: Mapping[str, int]) -> list[int]:
    """Columns of the genes of a set, ascending; a gene may be written as a symbol or as an id."""
    plain = {gene: column.get(gene.upper()) for gene in genes}
    official = (column.get(official_symbol(gene).upper()) if at is None else at for gene, at in plain.items())
    return sorted({at for at in official if at is not None})


def gene_set_membership(
    sets: Mapping[str, Sequence[str]], symbols: np.ndarray, source: str
) -> tuple[list[str], scipy.sparse.csr_matrix]:
    """Which of the genes are in which set, for the sets of which 5 to 500 genes are there.

    Parameters
    ----------
    sets
        Name -> symbols or Ensembl ids, in any case.
    symbols
        The genes that are looked at, shape (n_genes,).
    source
        Of the sets, for the message.

    Returns
    -------
    Names of the kept sets, and 0 or 1 in a CSR matrix of shape (n_kept, n_genes), float32.

    Raises
    ------
    ScDMCError
        If no set is left.
    """
    column = {symbol.upper(): index for index, symbol in enumerate(symbols)}
    members = {name: _members(genes, column) for name, genes in sets.items()}
    kept = {name: columns for name, columns in members.items() if SMALLEST_SET <= len(columns) <= LARGEST_SET}
    if not kept:
        raise ScDMCError(
            f"{source}: none of the {len(sets)} gene sets has {SMALLEST_SET} to {LARGEST_SET} genes among the "
            f"{len(symbols):,} genes seen; are they official human symbols or Ensembl ids?"
        )
    offsets = np.cumsum([0, *(len(columns) for columns in kept.values())])
    columns = np.concatenate(list(kept.values()))
    shape = (len(kept), len(symbols))
    return list(kept), scipy.sparse.csr_matrix((np.ones(len(columns), np.float32), columns, offsets), shape=shape)
