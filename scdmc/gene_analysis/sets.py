"""Gene sets in GMT files: name, description, then the symbols of the genes, separated by tabs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path

SMALLEST_SET, LARGEST_SET = 5, 500


def read_gene_sets(path: Path) -> dict[str, list[str]]:
    """Read a GMT file: name -> symbols, in the order of the file.

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
        lines = path.read_text(encoding="utf8").splitlines()
    except UnicodeDecodeError as error:
        raise ScDMCError(f"{path} (gene sets) is not text: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        genes = [gene.strip() for gene in rest[1:] if gene.strip()]
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


def gene_set_membership(
    sets: Mapping[str, Sequence[str]], symbols: np.ndarray, source: str
) -> tuple[list[str], scipy.sparse.csr_matrix]:
    """Which of the genes are in which set, for the sets of which 5 to 500 genes are there.

    Parameters
    ----------
    sets
        Name -> symbols, in any case.
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
    members = {name: sorted({column[g.upper()] for g in genes if g.upper() in column}) for name, genes in sets.items()}
    kept = {name: columns for name, columns in members.items() if SMALLEST_SET <= len(columns) <= LARGEST_SET}
    if not kept:
        raise ScDMCError(
            f"{source}: none of the {len(sets)} gene sets has {SMALLEST_SET} to {LARGEST_SET} genes among the "
            f"{len(symbols):,} genes seen; are they official human symbols?"
        )
    offsets = np.cumsum([0, *(len(columns) for columns in kept.values())])
    columns = np.concatenate(list(kept.values()))
    shape = (len(kept), len(symbols))
    return list(kept), scipy.sparse.csr_matrix((np.ones(len(columns), np.float32), columns, offsets), shape=shape)
