"""Genes as people write them: official symbols of Ensembl ids, and tokens of symbols or ids.

Source: docs/method.md, "Gene names".
"""

import functools
from collections.abc import Iterable

import numpy as np

from scdmc.errors import ScDMCError
from scdmc.genes.ids import load_gene_table, load_symbols
from scdmc.genes.names import GeneNames
from scdmc.genes.vocabulary import Vocabulary

SHOWN = 5


@functools.cache
def _symbol_of_id() -> dict[str, str]:
    """Ensembl id -> official symbol; where several ids share one, only the id that the symbol stands for has it."""
    id_of_symbol = load_symbols()
    return {row["id"]: row["symbol"] for row in load_gene_table() if id_of_symbol[row["symbol"].upper()] == row["id"]}


def gene_symbols(gene_ids: Iterable[str]) -> np.ndarray:
    """Official symbols of the shipped gene table, shape (n_genes,); the id itself where it has none of its own."""
    symbols = _symbol_of_id()
    return np.array([symbols.get(gene_id, gene_id) for gene_id in gene_ids], dtype=object)


def tokens_of_genes(names: Iterable[str], vocabulary: Vocabulary, source: str) -> np.ndarray:
    """Token of each gene, given as a symbol or an Ensembl id in any case, shape (n_names,).

    Parameters
    ----------
    names
        The genes.
    vocabulary
        Of the model.
    source
        Where the names come from, for the message.

    Raises
    ------
    ScDMCError
        With the first names that are no gene of the vocabulary.
    """
    names = list(names)
    tokens = [_token_of_gene(name, vocabulary) for name in names]
    unknown = [name for name, token in zip(names, tokens, strict=True) if token is None]
    if unknown:
        raise ScDMCError(
            f"{source}: {len(unknown)} of {len(names)} genes are not in the model's vocabulary, "
            f"such as {', '.join(unknown[:SHOWN])}; write official symbols (CD4) or Ensembl ids"
        )
    return np.array(tokens, dtype=np.int64)


def _token_of_gene(name: str, vocabulary: Vocabulary) -> int | None:
    return vocabulary.token_ids.get(gene_of_name(name))


def gene_of_name(name: str) -> str | None:
    """The Ensembl id that a symbol or id means, however people write it; None where nothing is known of it."""
    return _names().find(name.strip()).gene if name.strip() else None


def official_symbol(name: str) -> str:
    """The official symbol of a gene that is written as a symbol or an Ensembl id; the name where none is known."""
    gene = gene_of_name(name)
    return name if gene is None else _symbol_of_id().get(gene, gene)


@functools.cache
def _names() -> GeneNames:
    return GeneNames({}, load_symbols())
