"""How like real cells generated ones are: scores that a mean or independent genes cannot win.

Every score compares generated cells with real cells that the generator has not seen. Source: docs/pseudo_cells.md,
"Scores".
"""

import numpy as np
import scipy.sparse
import scipy.spatial.distance
from scipy.stats import wasserstein_distance

N_COMPONENTS = 30


NEIGHBOURS = (3, 5, 10, 25)


N_DIRECTIONS = 50  # of the sliced distance


N_DIFFERENTIAL = 50  # genes of the fold changes of a type


N_MARKERS = 10


N_CORRELATED = 100  # genes whose correlations are compared


MOST_CELLS = 1_000  # of which distances between all pairs are computed


N_TREES, SMALLEST_LEAF = 100, 2  # of the forest


PSEUDO_COUNT = 0.1  # of CP10k, in fold changes


class Space:
    """Principal components of reference cells, in which neighbours and distances are looked for.

    Parameters
    ----------
    expression
        ln(1 + CP10k) of the reference cells, which neither train the generator nor are scored; (n_cells, n_genes).
    types
        Their types, shape (n_cells,).
    seed
        Of the components.
    """

    def __init__(self, expression: np.ndarray, types: np.ndarray, seed: int = 0) -> None:
        from sklearn.decomposition import PCA

        n_components = min(N_COMPONENTS, expression.shape[0] - 1, expression.shape[1])
        self._components = PCA(n_components, svd_solver="randomized", random_state=seed).fit(expression)
        self.types = np.asarray(types)
        self.reference = self.of(expression)

    def of(self, expression: np.ndarray) -> np.ndarray:
        """Cells in the components, shape (n_cells, n_components)."""
        return self._components.transform(expression)


def neighbour_accuracies(space: Space, cells: np.ndarray, types: np.ndarray) -> dict[int, float]:
    """Share of cells whose type most of their nearest reference cells have, by the number of neighbours.

    Parameters
    ----------
    space
        Of the reference cells.
    cells
        In its components.
    types
        What the cells should be, shape (n_cells,).
    """
    from sklearn.neighbors import KNeighborsClassifier

    found = {}
    for k in NEIGHBOURS:
        if k <= len(space.reference):
            model = KNeighborsClassifier(k).fit(space.reference, space.types)
            found[k] = float((model.predict(cells) == types).mean())
    return found


def mmd(one: np.ndarray, other: np.ndarray) -> float:
    """Squared maximum mean discrepancy, unbiased: about 0 for cells of one kind, and below it as often as above.

    RBF kernel, whose width is the median distance of all pairs.

    Parameters
    ----------
    one, other
        Cells, shapes (n, n_components) and (m, n_components), at least two each.
    """
    one, other = one[:MOST_CELLS], other[:MOST_CELLS]
    both = np.concatenate([one, other])
    distances = scipy.spatial.distance.cdist(both, both, "sqeuclidean")
    middle = np.median(distances[np.triu_indices(len(both), 1)])
    kernel = np.exp(-distances / max(middle, 1e-12))
    n, m = len(one), len(other)
    within = (kernel[:n, :n].sum() - n) / (n * (n - 1)) + (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within - 2 * kernel[:n, n:].mean())


def sliced_wasserstein(one: np.ndarray, other: np.ndarray, seed: int = 0) -> float:
    """Mean Wasserstein distance along random directions."""
    directions = np.random.default_rng(seed).standard_normal((N_DIRECTIONS, one.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return float(np.mean([wasserstein_distance(one @ each, other @ each) for each in directions]))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's r of two lists of numbers; NaN where one of them does not vary."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def fold_changes(relative: dict[str, np.ndarray], generated: dict[str, np.ndarray]) -> tuple[float, float, float]:
    """How fold changes of the generated types agree with those of the real ones: slope, r, and shared top markers.

    Parameters
    ----------
    relative, generated
        Type -> mean CP10k of the genes of its real, or generated, cells, shape (n_genes,).

    Returns
    -------
    The slope of the generated on the real log2 fold changes of each type against the mean of the other types, over the
    50 genes that differ most in the real cells; their r; the share of the 10 top genes that both have. All are means
    over the types.
    """
    slopes, agreements, shared = [], [], []
    types = sorted(set(relative) & set(generated))
    for name in types if len(types) > 1 else ():
        real, made = (_log_fold(means, name, types) for means in (relative, generated))
        genes = np.argsort(-np.abs(real), kind="stable")[:N_DIFFERENTIAL]
        slopes.append(float(real[genes] @ made[genes] / max(real[genes] @ real[genes], 1e-12)))
        agreements.append(correlation(real[genes], made[genes]))
        tops = [set(np.argsort(-each, kind="stable")[:N_MARKERS]) for each in (real, made)]
        shared.append(len(tops[0] & tops[1]) / N_MARKERS)
    if not slopes:
        return (float("nan"),) * 3
    return float(np.mean(slopes)), float(np.mean(agreements)), float(np.mean(shared))


def _log_fold(means: dict[str, np.ndarray], name: str, types: list[str]) -> np.ndarray:
    rest = np.mean([means[other] for other in types if other != name], axis=0)
    return np.log2((means[name] + PSEUDO_COUNT) / (rest + PSEUDO_COUNT))


def gene_correlations(real: np.ndarray, real_types: np.ndarray, generated: np.ndarray, types: np.ndarray) -> float:
    """Agreement (r) of the gene-gene correlations within types: what independent genes cannot have.

    Over the 100 genes with the highest mean expression of the real cells; the mean of each type is taken away first.

    Parameters
    ----------
    real, generated
        ln(1 + CP10k), shape (n_cells, n_genes).
    real_types, types
        Their types.
    """
    genes = np.argsort(-real.mean(axis=0), kind="stable")[:N_CORRELATED]
    upper = np.triu_indices(len(genes), 1)
    tables = []
    for expression, own in ((real, real_types), (generated, types)):
        values = expression[:, genes].astype(np.float64)
        for name in np.unique(own):
            values[own == name] -= values[own == name].mean(axis=0)
        scale = np.maximum(values.std(axis=0), 1e-12)
        tables.append(((values / scale).T @ (values / scale) / len(values))[upper])
    return correlation(*tables)


def two_sample_auc(real: np.ndarray, generated: np.ndarray, seed: int = 0) -> float:
    """How well a random forest tells generated from real cells, by 3-fold cross-validation: 0.5 is not at all.

    Parameters
    ----------
    real, generated
        ln(1 + CP10k), shape (n_cells, n_genes).
    seed
        Of the folds and the trees.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    expression = np.concatenate([real, generated]).astype(np.float32)
    is_generated = np.repeat([0, 1], [len(real), len(generated)])
    forest = RandomForestClassifier(N_TREES, random_state=seed, n_jobs=1, min_samples_leaf=SMALLEST_LEAF)
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    found = cross_val_predict(forest, expression, is_generated, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(is_generated, found))


def distance_to_nearest(cells: np.ndarray, training: np.ndarray) -> float:
    """Median distance of cells to their nearest training cell: 0 for copies; both in components."""
    from sklearn.neighbors import NearestNeighbors

    return float(np.median(NearestNeighbors(n_neighbors=1).fit(training).kneighbors(cells)[0]))
