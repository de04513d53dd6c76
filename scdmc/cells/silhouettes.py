"""Silhouettes of types, and of batches within each type, of one embedding: one pass over all pairs of cells for all.

They are those of scikit-learn, scib and scib-metrics, each of which goes over all pairs anew.

Source: docs/method.md, "Scores of integration".
"""

from dataclasses import dataclass

import numpy as np

BLOCK = 512  # Cells whose distances to all others are in memory at once.


@dataclass(frozen=True)
class Silhouettes:
    """Silhouettes of cells with a type, each between -1 and 1.

    Attributes
    ----------
    types
        By type, euclidean, nearest other type, shape (n_cells,).
    batches
        Type -> by batch among the cells of the type, euclidean, nearest other batch, shape (n_cells_of_type,); types
        of one batch, or with each cell in another batch, have none.
    """

    types: np.ndarray
    batches: dict[str, np.ndarray]


def silhouettes(embedding: np.ndarray, labels: np.ndarray, batch: np.ndarray) -> Silhouettes:
    """All silhouettes that scores of integration need of euclidean distances.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    labels, batch
        Shape (n_cells,), as text, none missing; at least two types.
    """
    types, of_type = np.unique(labels, return_inverse=True)
    batches, of_batch = np.unique(batch, return_inverse=True)
    groups, of_group = np.unique(of_type * len(batches) + of_batch, return_inverse=True)
    sums, sizes = _sums_of_distances(embedding, of_group), np.bincount(of_group)
    first_of_type = np.searchsorted(groups, np.arange(len(types)) * len(batches))
    by_type = _from_sums(np.add.reduceat(sums, first_of_type, axis=1), np.bincount(of_type), of_type)
    by_batch = {}
    for number, (start, end) in enumerate(zip(first_of_type, [*first_of_type[1:], len(groups)], strict=True)):
        chosen = of_type == number
        if 1 < end - start < chosen.sum():
            by_batch[str(types[number])] = _from_sums(
                sums[chosen, start:end], sizes[start:end], of_group[chosen] - start
            )
    return Silhouettes(by_type, by_batch)


def cosine_silhouettes_of_batches(embedding: np.ndarray, labels: np.ndarray, batch: np.ndarray) -> list[np.ndarray]:
    """Silhouettes by batch among the cells of each type: cosine distance, and the mean of all other batches.

    A mean of cosine distances is the distance to a mean of directions, so that no pair of cells is looked at.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions); a cell whose values are all 0 is at distance 1 from all others.
    labels, batch
        Shape (n_cells,), none missing.

    Returns
    -------
    One array for each type that has cells in several batches, and not each in another.
    """
    points = np.asarray(embedding, dtype=np.float64)
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    directions = np.divide(points, lengths, out=np.zeros_like(points), where=lengths > 0)
    found = []
    for name in np.unique(labels):
        chosen = labels == name
        batches, codes, sizes = np.unique(batch[chosen], return_inverse=True, return_counts=True)
        if not 1 < len(batches) < len(codes):
            continue
        of_type = directions[chosen]
        sums = np.stack([of_type[codes == code].sum(axis=0) for code in range(len(batches))])
        own, all_sizes = sizes[codes], len(codes)
        near = np.einsum("ij,ij->i", of_type, sums[codes])  # the cell with itself included
        far = of_type @ sums.sum(axis=0) - near
        itself = np.einsum("ij,ij->i", of_type, of_type)
        inner = np.divide(own - 1 - (near - itself), own - 1, out=np.zeros(all_sizes), where=own > 1)
        outer = 1 - far / (all_sizes - own)
        found.append(_silhouette(inner, outer, own))
    return found


def _sums_of_distances(embedding: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sum of the distances of each cell to the cells of each group, shape (n_cells, n_groups)."""
    order = np.argsort(codes, kind="stable")
    points = np.asarray(embedding, dtype=np.float64)[order]
    points -= points.mean(axis=0)  # Distances stay, and fewer digits are lost.
    squares = np.einsum("ij,ij->i", points, points)
    starts = np.searchsorted(codes[order], np.arange(codes.max() + 1))
    sums = np.zeros((len(points), len(starts)))
    for first in range(0, len(points), BLOCK):
        last = min(first + BLOCK, len(points))
        # Of the cells from the first on: every pair of cells is looked at once.
        distances = points[first:last] @ points[first:].T
        distances *= -2
        distances += squares[first:last, None]
        distances += squares[first:]
        np.maximum(distances, 0, out=distances)
        np.fill_diagonal(distances, 0)
        np.sqrt(distances, out=distances)
        _add_by_group(sums[first:last], distances, starts - first)
        _add_by_group(sums[last:], distances[:, last - first :].T, starts - first)
    unsorted = np.empty_like(sums)
    unsorted[order] = sums
    return unsorted


def _add_by_group(sums: np.ndarray, distances: np.ndarray, starts: np.ndarray) -> None:
    """Add distances, whose columns are sorted by group, to the sums of the groups, (n_rows, n_groups)."""
    first = max(np.searchsorted(starts, 0, side="right") - 1, 0)  # the group of the first column
    last = np.searchsorted(starts, distances.shape[1])
    if distances.size:
        sums[:, first:last] += np.add.reduceat(distances, np.maximum(starts[first:last], 0), axis=1)


def _from_sums(sums: np.ndarray, sizes: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Silhouettes from sums of distances, (n_cells, n_groups), the sizes of the groups and the group of each cell."""
    rows, own = np.arange(len(codes)), sizes[codes]
    inner = sums[rows, codes] / np.maximum(own - 1, 1)
    means = sums / sizes
    means[rows, codes] = np.inf
    return _silhouette(inner, means.min(axis=1), own)


def _silhouette(inner: np.ndarray, outer: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(outer - inner) / the larger; 0 for a cell that is alone in its group, or where both are 0."""
    larger = np.maximum(inner, outer)
    defined = (own > 1) & (larger > 0)
    return np.divide(outer - inner, larger, out=np.zeros(len(own)), where=defined)
