"""Which features of a file are genes of a human: the one place that decides, for every kind of input."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from scdmc.errors import ScDMCError, shown_names
from scdmc.genes.names import GENOME_PREFIX, HUMAN_GENOME, OTHER_GENOME
from scdmc.reading.matrix_readers import text_of

logger = logging.getLogger(__name__)


# Columns of var that say what a feature is: of Cell Ranger and scanpy, of single files, of scvi-tools for multiome.
TYPE_COLUMNS = ("feature_types", "feature_type", "modality")


# Words for genes and for other features, as files have them, in lower case with single blanks.
GENE_WORDS = frozenset({"gene expression", "gene", "genes", "gex", "rna", "mrna", "transcriptome", "expression"})


OTHER_WORDS = frozenset({
    "antibody capture", "antibody", "antibodies", "adt", "ab", "protein", "protein expression", "cite", "cite-seq",
    "antigen capture", "multiplexing capture", "hashtag", "hashtags", "hto", "cmo", "crispr guide capture", "crispr",
    "guide", "guides", "sgrna", "grna", "peaks", "peak", "atac", "chromatin accessibility", "custom", "vdj", "tcr",
    "bcr",
})  # fmt: skip


# A column feature_type may hold biotypes (CELLxGENE): other words, and genes all the same.
BIOTYPE = "protein_coding"


# Beside var_names, where a genome may stand before a name.
PREFIXED_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "gene_symbol", "gene_symbols")


@dataclass(frozen=True)
class Features:
    """Which features of a matrix are genes of a human.

    Attributes
    ----------
    is_gene
        Shape (n_features,).
    left_out
        What the other features are -> how many of them.
    """

    is_gene: np.ndarray
    left_out: dict[str, int] = field(default_factory=dict)


def genes_among(var: pd.DataFrame, source: str, types: pd.Series | None = None) -> Features:
    """Find the genes of a human among the features of a file (docs/method.md, "Gene names").

    Parameters
    ----------
    var
        Annotation of the features.
    source
        What ``var`` belongs to, for messages.
    types
        What each feature is, where ``var`` itself does not say it (``raw`` of a file).

    Raises
    ------
    ScDMCError
        If no feature is a gene.
    """
    is_gene, left_out = _by_type(_types_of(var) if types is None else types, len(var), source)
    of_other_genome, genomes = _by_genome(var, is_gene)
    is_gene &= ~of_other_genome
    left_out |= genomes
    if len(var) and not is_gene.any():
        raise ScDMCError(
            f"{source}: none of its {len(var):,} features is a gene: there are {_counted(left_out)}; "
            "give the file of gene expression"
        )
    if left_out:
        logger.info(
            "%s: %s features are no genes of a human and are left out, also of the totals: %s",
            source, f"{int((~is_gene).sum()):,}", _counted(left_out),
        )  # fmt: skip
    return Features(is_gene, left_out)


def _counted(numbers: dict[str, int]) -> str:
    return shown_names([f"{number:,} {what}" for what, number in numbers.items()])


def _types_of(var: pd.DataFrame) -> pd.Series | None:
    column = next((name for name in TYPE_COLUMNS if name in var.columns), None)
    return None if column is None else var[column]


def types_for_raw(raw_var: pd.DataFrame, var: pd.DataFrame) -> pd.Series | None:
    """Types of the features of ``raw`` out of ``var``, by name, where only ``var`` has them."""
    types = _types_of(var)
    if types is None or _types_of(raw_var) is not None or not var.index.is_unique:
        return None
    return types.reindex(raw_var.index)


def _by_type(types: pd.Series | None, n_features: int, source: str) -> tuple[np.ndarray, dict[str, int]]:
    """True where a feature is a gene by its type; the other types and their numbers."""
    if types is None:
        return np.ones(n_features, dtype=bool), {}
    codes, found = pd.factorize(types.to_numpy(dtype=object))
    texts = [text_of(word).strip() for word in found]
    words = [" ".join(text.lower().replace("_", " ").split()) for text in texts]
    says_gene = [word in GENE_WORDS for word in words]
    is_blank = [not word for word in words]
    is_other = [
        not blank and not gene and (word in OTHER_WORDS or any(says_gene))
        for word, gene, blank in zip(words, says_gene, is_blank, strict=True)
    ]
    unknown = [
        text for text, word, gene, other in zip(texts, words, says_gene, is_other, strict=True)
        if word and not gene and not other
    ]  # fmt: skip
    if unknown and BIOTYPE.replace("_", " ") not in words:
        logger.warning(
            "warning: %s: features of the type %s are taken as genes, since none is of the type Gene Expression",
            source, shown_names([repr(text) for text in unknown]),
        )  # fmt: skip
    numbers = np.bincount(codes[codes >= 0], minlength=len(found))
    n_blank = int((codes < 0).sum()) + int(sum(numbers[number] for number, blank in enumerate(is_blank) if blank))
    if n_blank and any(says_gene + is_other):
        logger.warning("warning: %s: %d features without a type are taken as genes", source, n_blank)
    left_out = {text: int(number) for text, number, other in zip(texts, numbers, is_other, strict=True) if other}
    # The last entry is for codes of -1: no type.
    return ~np.array([*is_other, False])[codes], left_out


def _by_genome(var: pd.DataFrame, is_gene: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """True where a feature belongs to another genome than the human one beside it; these genomes and their numbers."""
    genomes = _genomes_of(var)
    if genomes is None:
        return np.zeros(len(var), dtype=bool), {}
    is_other = np.array([OTHER_GENOME.fullmatch(genome) is not None for genome in genomes]) & is_gene
    names, numbers = np.unique(genomes[is_other].astype(str), return_counts=True)
    return is_other, {f"genes of {name}": int(number) for name, number in zip(names, numbers, strict=True)}


def _genomes_of(var: pd.DataFrame) -> np.ndarray | None:
    """The genome of each feature ('' where not known) if there are a human one and another; shape (n_features,)."""
    columns: Sequence = [var.index, *(var[name] for name in PREFIXED_COLUMNS if name in var.columns)]
    candidates = [_prefixes(names) for names in columns]
    if "genome" in var.columns:
        candidates.insert(0, np.array([text_of(genome).strip() for genome in var["genome"]], dtype=object))
    for genomes in candidates:
        kinds = set(genomes.tolist())
        if any(map(HUMAN_GENOME.fullmatch, kinds)) and any(map(OTHER_GENOME.fullmatch, kinds)):
            return genomes
    return None


def _prefixes(names: pd.Index | pd.Series) -> np.ndarray:
    found = [GENOME_PREFIX.match(name) if isinstance(name, str) and "_" in name else None for name in names]
    return np.array([match[1] if match else "" for match in found], dtype=object)
