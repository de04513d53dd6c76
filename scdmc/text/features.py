"""What describes a cell before a text meets it: states of scDMC, or principal components of the training genes.

Source: docs/text.md, "Cells".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse

from scdmc.cells.expression import expression_of_streams
from scdmc.errors import ScDMCError
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory
from scdmc.text.options import POOLING, STREAM
from scdmc.text.projectors.qformer import QFormer
from scdmc.text.projectors.states import GeneStates
from scdmc.tokens.tokenized_cells import TokenizedCells

# Those that vary most; the covariance of so many takes a few megabytes and seconds.
MOST_GENES = 2_000


# A feature that does not vary among the cells stays 0.
SMALLEST_SCALE = 1e-6


@dataclass(frozen=True)
class Components:
    """Principal components of ln(1 + CP10k), of what varies within the training data sets.

    Attributes
    ----------
    genes
        Tokens of the vocabulary, shape (n_genes,).
    vectors
        Shape (n_genes, n_components), float32.
    """

    genes: np.ndarray
    vectors: np.ndarray

    def of(self, expression: scipy.sparse.csr_matrix, genes: np.ndarray) -> np.ndarray:
        """Cells in these components, not centred, shape (n_cells, n_components); absent genes count as 0.

        Parameters
        ----------
        expression
            ln(1 + CP10k), shape (n_cells, n_genes_of_cells).
        genes
            Their tokens.
        """
        place = {gene: row for row, gene in enumerate(self.genes)}
        rows = np.array([place.get(gene, -1) for gene in genes])
        vectors = np.where(rows[:, None] >= 0, self.vectors[rows], 0).astype(np.float32)
        return np.asarray(expression @ vectors)


def fitted_components(
    data_sets: Sequence[tuple[scipy.sparse.csr_matrix, np.ndarray]], n_components: int, source: str
) -> Components:
    """Components of the genes that all data sets have; each counts the same, and differences between them do not.

    Parameters
    ----------
    data_sets
        For each ln(1 + CP10k), shape (n_cells, n_genes), and the tokens of the genes.
    n_components
        At most; fewer where there are fewer genes.
    source
        For the message.

    Raises
    ------
    ScDMCError
        If they share too few genes, or more components are asked for than genes are taken.
    """
    if n_components > MOST_GENES:
        raise ScDMCError(f"{n_components} components are more than the {MOST_GENES:,} genes that they are made of")
    shared = set.intersection(*(set(genes) for _, genes in data_sets))
    if len(shared) < n_components:
        raise ScDMCError(
            f"{source}: the data sets share {len(shared)} genes, and {n_components} components need as many; leave "
            "out the data set with the fewest genes, or take --features scdmc"
        )
    genes = np.array(sorted(shared))
    matrices = [_columns(*data_set, genes) for data_set in data_sets]
    variance = sum(variances(matrix) for matrix in matrices)
    chosen = np.sort(np.argsort(-variance, kind="stable")[:MOST_GENES])
    covariance = np.zeros((len(chosen), len(chosen)))
    for matrix in matrices:
        part = matrix[:, chosen].astype(np.float64)
        mean = np.asarray(part.mean(axis=0)).ravel()
        covariance += (part.T @ part).toarray() / part.shape[0] - np.outer(mean, mean)
    wanted = [len(chosen) - n_components, len(chosen) - 1]
    vectors = scipy.linalg.eigh(covariance, subset_by_index=wanted)[1][:, ::-1]  # the largest first
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    return Components(genes[chosen], (vectors * signs).astype(np.float32))


def _columns(expression: scipy.sparse.csr_matrix, names: np.ndarray, genes: np.ndarray) -> scipy.sparse.csr_matrix:
    place = {name: column for column, name in enumerate(names)}
    return scipy.sparse.csr_matrix(expression[:, [place[gene] for gene in genes]])


def variances(matrix: scipy.sparse.csr_matrix) -> np.ndarray:
    """Of each column, shape (n_columns,)."""
    mean = np.asarray(matrix.mean(axis=0)).ravel()
    return np.asarray(matrix.multiply(matrix).mean(axis=0)).ravel() - mean**2


@dataclass(frozen=True)
class FeatureMaker:
    """Makes the features of cells.

    Attributes
    ----------
    kind
        One of :data:`scdmc.text.options.FEATURES`, or ``genes`` for a Q-Former.
    encoder, model_directory
        The model that reads the cells, on its device, and its folder.
    components
        Of ``pca`` and ``both``.
    states
        Gives states of cells that were computed before, shape (n_cells, 2 hidden_size); None computes them.
    reader
        Of ``genes``: the Q-Former, on the device of the encoder; None before it is trained.
    """

    kind: str
    encoder: ScDMCModel
    model_directory: ModelDirectory
    components: Components | None
    states: Callable[[TokenizedCells], np.ndarray] | None = None
    reader: QFormer | None = None

    def states_of(self, cells: TokenizedCells, max_tokens: int) -> GeneStates:
        """What a Q-Former reads: the states of each cell's highest-ranked genes."""
        return GeneStates(self.encoder, cells.truncated(max_tokens))

    def of(self, cells: TokenizedCells, show_progress: bool = True) -> np.ndarray:
        """Features of cells, shape (n_cells, n_features), float32, neither centred nor scaled."""
        if self.reader is not None:
            states = self.states_of(cells, self.reader.shape.max_tokens)
            return self.reader.features(states, "embed" if show_progress else None)
        parts = []
        if self.kind != "pca":
            if self.states is None:
                parts.append(cell_embeddings(self.encoder, cells, STREAM, POOLING, show_progress))
            else:
                parts.append(self.states(cells))
        if self.components is not None:
            parts.append(self.components.of(*expression_of_streams(cells, self.model_directory)))
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class Centre:
    """What is taken away from features, and what they are divided by: what data sets differ in goes.

    Attributes
    ----------
    mean, scale
        Shape (n_features,).
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, is_scaled: bool = True, weights: np.ndarray | None = None) -> "Centre":
        """Of one data set: mean and standard deviation of its cells, or the mean alone.

        Parameters
        ----------
        features
            Shape (n_cells, n_features).
        is_scaled
            False for the mean alone.
        weights
            How much each cell counts, shape (n_cells,); None for all the same.
        """
        values = features.astype(np.float64)
        mean = np.average(values, axis=0, weights=weights)
        scale = np.ones(values.shape[1])
        if is_scaled:
            scale = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
        return cls(mean, np.where(scale > SMALLEST_SCALE, scale, 1.0))

    @classmethod
    def shared(cls, centres: Sequence["Centre"]) -> "Centre":
        """Of several data sets, each of which counts the same."""
        scale = np.sqrt(np.mean([centre.scale**2 for centre in centres], axis=0))
        return cls(np.mean([centre.mean for centre in centres], axis=0), scale)

    def applied(self, features: np.ndarray) -> np.ndarray:
        """Centred and scaled features, float32."""
        return ((features - self.mean) / self.scale).astype(np.float32)
