"""Whether the genes of a set lie together: against random sets of equal expression and popularity.

A permutation swaps genes within strata of equal expression and equal degree (how many sets a gene is in), so that sets
keep their sizes, their overlaps and the expression of their genes.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse
from scipy.stats import false_discovery_control, hypergeom, rankdata

from scdmc.gene_analysis.options import LARGEST_FDR

EXPRESSION_BINS, DEGREE_BINS = 10, 4


@dataclass(frozen=True)
class PermutationTest:
    """A number, and what it is for random gene sets.

    Attributes
    ----------
    observed, null_mean, null_sd
        The number, and its mean and standard deviation over permutations.
    p
        Share of the permutations in which it is as large, the real sets counted among them.
    """

    observed: float
    null_mean: float
    null_sd: float
    p: float

    @classmethod
    def of_draws(cls, observed: float, draws: np.ndarray) -> "PermutationTest":
        """From the numbers of the permutations, shape (n_permutations,)."""
        p = (1 + (draws >= observed - 1e-12).sum()) / (1 + len(draws))
        return cls(float(observed), float(draws.mean()), float(draws.std()), float(p))

    @property
    def z(self) -> float:
        """Distance from the random sets in their standard deviations; NaN where these do not vary."""
        return (self.observed - self.null_mean) / self.null_sd if self.null_sd > 0 else float("nan")


def matching_strata(expression: np.ndarray, degree: np.ndarray) -> np.ndarray:
    """Stratum of each gene: ten bins of expression times five of degree (0, then quartiles); shape (n_genes,)."""
    by_degree = np.zeros(len(degree), dtype=np.int64)
    is_member = degree > 0
    by_degree[is_member] = 1 + _quantile_bin(degree[is_member], DEGREE_BINS)
    return _quantile_bin(expression, EXPRESSION_BINS) * (DEGREE_BINS + 1) + by_degree


def _quantile_bin(values: np.ndarray, n_bins: int) -> np.ndarray:
    """Bin of each value, 0 to n_bins - 1, about equally filled; equal values share a bin."""
    if not len(values):
        return np.empty(0, dtype=np.int64)
    return np.minimum((rankdata(values) - 0.5) / len(values) * n_bins, n_bins - 1).astype(np.int64)


def permutation_within(strata: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A permutation of the genes that keeps each in its stratum, shape (n_genes,)."""
    permutation = np.empty(len(strata), dtype=np.int64)
    permutation[np.argsort(strata, kind="stable")] = np.lexsort((generator.random(len(strata)), strata))
    return permutation


def mean_cosines(units: np.ndarray, membership: scipy.sparse.csr_matrix) -> np.ndarray:
    """Mean cosine between the genes of each set, shape (n_sets,).

    Parameters
    ----------
    units
        Unit vectors of the genes, shape (n_genes, hidden_size).
    membership
        0 or 1, shape (n_sets, n_genes); two genes or more in each set.
    """
    size = np.asarray(membership.sum(axis=1)).ravel()
    sums = membership @ units
    return ((sums**2).sum(axis=1) - membership @ (units**2).sum(axis=1)) / (size * (size - 1))


def consistency(
    units: np.ndarray,
    membership: scipy.sparse.csr_matrix,
    names: list[str],
    strata: np.ndarray,
    n_permutations: int = 1000,
    seed: int = 42,
) -> tuple[PermutationTest, pd.DataFrame]:
    """Mean cosine within gene sets, against matched random sets.

    Parameters
    ----------
    units, membership
        See :func:`mean_cosines`.
    names
        Of the sets, n_sets.
    strata
        Shape (n_genes,), from :func:`matching_strata`.
    n_permutations, seed
        Of the random sets.

    Returns
    -------
    test
        Of the mean over the sets.
    table
        A row for each set: gene_set, genes, mean_cosine, null_mean, z, p, fdr (Benjamini and Hochberg).
    """
    observed = mean_cosines(units, membership)
    generator = np.random.default_rng(seed)
    draws = np.empty((n_permutations, len(observed)), dtype=np.float32)
    for draw in draws:
        draw[:] = mean_cosines(units[permutation_within(strata, generator)], membership)
    p = (1 + (draws >= observed - 1e-7).sum(axis=0)) / (1 + n_permutations)
    null_mean, null_sd = draws.mean(axis=0), draws.std(axis=0)
    table = pd.DataFrame(
        {
            "gene_set": names,
            "genes": np.asarray(membership.sum(axis=1)).ravel().astype(int),
            "mean_cosine": observed,
            "null_mean": null_mean,
            "z": (observed - null_mean) / np.where(null_sd > 0, null_sd, np.nan),
            "p": p,
            "fdr": false_discovery_control(p),
        }
    )
    return PermutationTest.of_draws(observed.mean(), draws.mean(axis=1)), table


def enriched_sets(membership: scipy.sparse.csr_matrix, modules: np.ndarray) -> int:
    """How many gene sets are enriched in some module (hypergeometric test, FDR below 0.05 over all pairs).

    Parameters
    ----------
    membership
        Shape (n_sets, n_genes).
    modules
        Module of each gene, 0, 1, ..., shape (n_genes,).
    """
    n_genes = len(modules)
    one_hot = scipy.sparse.csr_matrix((np.ones(n_genes, np.float32), (np.arange(n_genes), modules)))
    overlap = (membership @ one_hot).toarray()
    set_sizes = np.asarray(membership.sum(axis=1))
    module_sizes = np.bincount(modules)[None, :]
    p = np.ones(overlap.shape)
    # What is not above expectation cannot be enriched, and the test is slow.
    is_above = (overlap > 1) & (overlap > set_sizes * module_sizes / n_genes)
    sizes = (np.broadcast_to(values, overlap.shape)[is_above] for values in (set_sizes, module_sizes))
    cases, place = np.unique(np.stack([overlap[is_above], *sizes]), axis=1, return_inverse=True)
    p[is_above] = hypergeom.sf(cases[0] - 1, n_genes, cases[1], cases[2])[place.ravel()]
    return int((false_discovery_control(p.ravel()).reshape(p.shape) < LARGEST_FDR).any(axis=1).sum())


def enrichment_test(
    membership: scipy.sparse.csr_matrix,
    modules: np.ndarray,
    strata: np.ndarray,
    n_permutations: int = 1000,
    seed: int = 42,
) -> PermutationTest:
    """Number of enriched gene sets (:func:`enriched_sets`), against modules of matched random genes."""
    generator = np.random.default_rng(seed)
    draws = [enriched_sets(membership, modules[permutation_within(strata, generator)]) for _ in range(n_permutations)]
    return PermutationTest.of_draws(enriched_sets(membership, modules), np.array(draws))
