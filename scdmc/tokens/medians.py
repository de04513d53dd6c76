"""Median non-zero expression of each gene over a corpus (docs/method.md, "Gene medians")."""

import hashlib
import logging
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.files import read_json_object, write_json
from scdmc.genes.vocabulary import TOKEN_FILES, Vocabulary, ensembl_id
from scdmc.tokens.options import EXACT_LIMIT
from scdmc.tokens.pickled_numbers import is_pickle, read_pickled_numbers
from scdmc.tokens.streams import normalised_values, sum_duplicate_genes

logger = logging.getLogger(__name__)


DEFAULT_GENE_MEDIAN_FILE = TOKEN_FILES / "gene_medians_blood.json"


DEFAULT_NAME = "default"


@dataclass(frozen=True)
class GeneMedians:
    """Median non-zero CP10k (counts / n * 10,000) of genes.

    Attributes
    ----------
    medians
        Ensembl id -> median; a gene that is not in it counts as 1.
    source
        Where they come from, for messages.
    """

    medians: Mapping[str, float]
    source: str

    @cached_property
    def sha256(self) -> str:
        """Hash of the medians in the order of the ids; the layout of the file does not change it."""
        lines = (f"{gene} {float(median)!r}" for gene, median in sorted(self.medians.items()))
        return hashlib.sha256("\n".join(lines).encode("utf8")).hexdigest()

    def by_token(self, vocabulary: Vocabulary) -> np.ndarray:
        """Median of each token, shape (vocab_size,), float64, 1 where unknown."""
        return np.array([self.medians.get(token, 1.0) for token in vocabulary.tokens], dtype=np.float64)

    def n_known_genes(self, vocabulary: Vocabulary) -> int:
        """How many of the medians belong to a gene of the vocabulary."""
        return sum(gene in vocabulary.token_ids for gene in self.medians)

    def require_known_genes(self, vocabulary: Vocabulary) -> None:
        """Refuse medians none of which belongs to a gene of the vocabulary: every median would silently be 1.

        No medians at all are fine.

        Raises
        ------
        ScDMCError
            If there are medians, and no gene of theirs is in the vocabulary.
        """
        if self.medians and not self.n_known_genes(vocabulary):
            shown = ", ".join(map(repr, list(self.medians)[:3]))
            raise ScDMCError(
                f"{self.source}: none of its {len(self.medians):,} genes is in the vocabulary ({vocabulary.source}); "
                f"the first are {shown}; gene medians go by Ensembl id"
            )

    def log_known_genes(self, vocabulary: Vocabulary) -> None:
        """Say in the log how many genes the medians are for."""
        if not self.medians:
            logger.info("gene medians: %s", self.source)
            return
        logger.info(
            "gene medians: %s of the %s in %s belong to genes of the vocabulary; other genes have 1",
            f"{self.n_known_genes(vocabulary):,}", f"{len(self.medians):,}", self.source,
        )  # fmt: skip

    def rounded(self, n_digits: int) -> "GeneMedians":
        """The medians with this many significant digits."""
        rounded = {gene: float(f"{median:.{n_digits}g}") for gene, median in self.medians.items()}
        return GeneMedians(rounded, self.source)

    def save(self, path: Path) -> None:
        """Write the medians as a JSON object id -> number, ascending ids."""
        write_json(path, dict(sorted(self.medians.items())))


def load_gene_medians(path: Path | str | None) -> GeneMedians:
    """Read gene medians; without a path, every median is 1. Versions and case of Ensembl ids do not matter.

    Parameters
    ----------
    path
        JSON id -> number, a pickled dictionary of the same (``.pkl``; nothing in it is run), or the word ``default``
        for those that ship with scDMC (tokenizer/token_files/README.md says what they were computed on).

    Raises
    ------
    ScDMCError
        If the file holds no positive numbers by id.
    """
    if path is None:
        return GeneMedians({}, source="none (every median is 1)")
    path = DEFAULT_GENE_MEDIAN_FILE if str(path) == DEFAULT_NAME else Path(path)
    read = read_pickled_numbers if is_pickle(path) else read_json_object
    return checked_medians(read(path, "gene medians"), str(path))


def checked_medians(medians: Mapping[str, float], source: str) -> GeneMedians:
    """Gene medians by Ensembl id, of any version and case.

    Parameters
    ----------
    medians
        Id -> median.
    source
        Where they come from, for messages.

    Raises
    ------
    ScDMCError
        If one is no positive number, or goes by no text.
    """
    other_keys = [gene for gene in medians if not isinstance(gene, str)]
    if other_keys:
        raise ScDMCError(f"{source}: medians go by Ensembl id, which is text, but there is {other_keys[0]!r}")
    wrong = {gene: value for gene, value in medians.items() if not _is_positive_number(value)}
    if wrong:
        raise ScDMCError(f"{source}: a gene's median is a positive number, but {dict(list(wrong.items())[:3])}")
    return GeneMedians(_by_current_id(medians), source)


def _by_current_id(medians: Mapping[str, float]) -> dict[str, float]:
    """Medians by upper-case Ensembl id without version; of several names of one id, the shortest counts."""
    current: dict[str, float] = {}
    for name in sorted(medians, key=lambda name: (len(name), name)):
        current.setdefault(ensembl_id(name) or name, float(medians[name]))
    return current


def _is_positive_number(value: object) -> bool:
    # Within these bounds nothing that is divided by a median or multiplied with one overflows.
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and 1e-30 <= value <= 1e30


class MedianAccumulator:
    """Collects the non-zero CP10k of every gene in one pass over a corpus, in bounded memory.

    As long as they fit into ``exact_limit`` entries the values themselves are kept (float32) and the medians are
    exact. Above that each gene has a histogram on a logarithmic scale of ``RELATIVE_WIDTH`` per bin, and a median is
    off by at most half a bin, 0.5%. Neither the order of the cells nor how they are cut into blocks, or into
    accumulators that are merged, changes a bit of the result.
    """

    RELATIVE_WIDTH = 0.01
    SMALLEST, LARGEST = 1e-4, 1e4

    def __init__(self, vocab_size: int, exact_limit: int = EXACT_LIMIT) -> None:
        self.vocab_size = vocab_size
        self.exact_limit = exact_limit
        self.n_bins = math.ceil(math.log(self.LARGEST / self.SMALLEST) / math.log1p(self.RELATIVE_WIDTH)) + 1
        self.n_cells = 0
        self.n_entries = 0
        self.entries: list[np.ndarray] = []
        self.histogram: np.ndarray | None = None

    @property
    def is_exact(self) -> bool:
        """True as long as the values themselves are kept."""
        return self.histogram is None

    def add(self, tokens: np.ndarray, values: np.ndarray, n_cells: int) -> None:
        """Add the entries of a block of cells.

        Parameters
        ----------
        tokens, values
            Shape (n_entries,): token ids and CP10k, above 0.
        n_cells
            Cells in the block.
        """
        self.n_cells += n_cells
        self.n_entries += len(values)
        self._add_entries(_packed(tokens, values))

    def merge(self, other: "MedianAccumulator") -> None:
        """Add all that another accumulator has seen; it is of no use afterwards.

        Raises
        ------
        ScDMCError
            If the two were made for different vocabularies or limits.
        """
        if (self.vocab_size, self.exact_limit) != (other.vocab_size, other.exact_limit):
            raise ScDMCError("only medians collected with one vocabulary and one --exact_limit can be merged")
        self.n_cells += other.n_cells
        self.n_entries += other.n_entries
        if not other.is_exact:
            self._turn_to_histogram()
            self.histogram += other.histogram
        while other.entries:
            self._add_entries(other.entries.pop())

    def _add_entries(self, entries: np.ndarray) -> None:
        if not self.is_exact:
            self._count(entries)
            return
        self.entries.append(entries)
        if self.n_entries > self.exact_limit:
            self._turn_to_histogram()

    def _turn_to_histogram(self) -> None:
        if self.is_exact:
            self.histogram = np.zeros((self.vocab_size, self.n_bins), dtype=np.uint32)
        while self.entries:
            self._count(self.entries.pop())

    def _count(self, entries: np.ndarray) -> None:
        tokens, values = _unpacked(entries)
        values = np.clip(values.astype(np.float64), self.SMALLEST, self.LARGEST)
        bins = np.log(values / self.SMALLEST) / math.log1p(self.RELATIVE_WIDTH)
        bins = np.minimum(bins.astype(np.int64), self.n_bins - 1)
        # Sorted first: adding one by one all over a table of hundreds of megabytes takes five times as long.
        places, n_values = np.unique(tokens.astype(np.int64) * self.n_bins + bins, return_counts=True)
        self.histogram.reshape(-1)[places] += n_values.astype(np.uint32)

    def medians(self) -> dict[int, float]:
        """Token id -> median of the genes that were seen."""
        return self._exact_medians() if self.is_exact else self._histogram_medians()

    def _exact_medians(self) -> dict[int, float]:
        if not self.entries:
            return {}
        # Sorted in place and kept so: the values are twice in memory at most.
        self.entries = [np.concatenate(self.entries)]
        self.entries[0].sort()
        tokens, values = _unpacked(self.entries[0])
        genes = np.flatnonzero(np.bincount(tokens))
        starts, stops = np.searchsorted(tokens, genes), np.searchsorted(tokens, genes, side="right")
        low, high = values[(starts + stops - 1) // 2], values[(starts + stops) // 2]
        medians = (low.astype(np.float64) + high) / 2
        return dict(zip(genes.tolist(), medians.tolist(), strict=True))

    def _histogram_medians(self) -> dict[int, float]:
        medians = {}
        for gene in np.flatnonzero(self.histogram.any(axis=1)):
            cumulative = np.cumsum(self.histogram[gene], dtype=np.int64)
            size = cumulative[-1]
            # The two values in the middle, one and the same where their number is odd; they may lie far apart.
            bins = np.searchsorted(cumulative, [(size + 1) // 2, size // 2 + 1])
            middle = self.SMALLEST * np.exp((bins + 0.5) * math.log1p(self.RELATIVE_WIDTH))
            medians[int(gene)] = float(middle.mean())
        return medians


def _packed(tokens: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Entries as uint64 that sort by token, then by value: the bits of positive floats order as the floats do.

    The value has the precision of float32 before and after the turn to a histogram: when that comes must not matter.
    """
    with np.errstate(over="ignore"):
        bits = values.astype(np.float32).view(np.uint32)
    return tokens.astype(np.uint64) << np.uint64(32) | bits


def _unpacked(entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and values of :func:`_packed`, as views."""
    halves = entries.view(np.uint32).reshape(-1, 2)
    value, token = (0, 1) if np.little_endian else (1, 0)
    return halves[:, token], halves[:, value].view(np.float32)


def add_block(
    accumulator: MedianAccumulator,
    counts: scipy.sparse.csr_matrix,
    token_ids: np.ndarray,
    n_counts: np.ndarray,
) -> None:
    """Add a block of raw counts (CSR, shape (n_cells, n_genes)) with the token of each column and the cells' totals."""
    counts, token_ids = sum_duplicate_genes(counts, token_ids)
    no_medians = np.ones(accumulator.vocab_size)
    values, tokens, _ = normalised_values(counts, token_ids, n_counts, no_medians)
    accumulator.add(tokens, values, counts.shape[0])


def medians_by_gene(accumulator: MedianAccumulator, vocabulary: Vocabulary, source: str) -> GeneMedians:
    """Medians of the genes that were seen, by Ensembl id."""
    return GeneMedians({str(vocabulary.tokens[token]): value for token, value in accumulator.medians().items()}, source)
