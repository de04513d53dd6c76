"""From counts to the features that each view of a cell reads.

Source: docs/method.md, "Views of a cell and their weights".
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse

from scdmc.annotation.baselines import N_COMPONENTS
from scdmc.cells.components import fitted_components
from scdmc.cells.shared_genes import CellCounts
from scdmc.model.embeddings import embedding_choice
from scdmc.model.encoder import ScDMCModel
from scdmc.model.poolings import columns_of_stream, pooled_states
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.tokens.tokenizer import Tokenizer
from scdmc.views.options import FINE_TUNED_VIEW
from scdmc.views.regression import Features

# Principal components of more cells would not differ.
CELLS_OF_COMPONENTS = 10_000


# Of a deep encoder every layer would be too much; neighbours say nearly the same.
MOST_LAYERS = 4


@dataclass(frozen=True)
class Components:
    """Principal components: ``expression @ loadings - centre``.

    Attributes
    ----------
    loadings
        Shape (n_genes, n_components), float32.
    centre
        Shape (n_components,), float32.
    """

    loadings: np.ndarray
    centre: np.ndarray

    @classmethod
    def of(cls, expression: scipy.sparse.csr_matrix, seed: int = 42) -> "Components":
        """Of ln(1 + CP10k), shape (n_cells, n_genes), two cells at least."""
        if expression.shape[0] > CELLS_OF_COMPONENTS:
            rows = np.random.default_rng(seed).choice(expression.shape[0], CELLS_OF_COMPONENTS, replace=False)
            expression = expression[np.sort(rows)]
        n_components = max(1, min(N_COMPONENTS, min(expression.shape) - 1))
        pca = fitted_components(expression, n_components, seed)
        loadings = pca.components_.T.astype(np.float32)
        return cls(loadings, (pca.mean_ @ loadings).astype(np.float32))

    def of_cells(self, expression: scipy.sparse.csr_matrix) -> np.ndarray:
        """Components of cells, shape (n_cells, n_components), float32."""
        return np.asarray(expression @ self.loadings - self.centre, dtype=np.float32)


@dataclass(frozen=True)
class FeatureMaker:
    """What turns the counts of a cell into the features of every view.

    Attributes
    ----------
    genes
        What the genes are known by, shape (n_genes,): those that the labelled cells and the first new cells shared.
    tokenizer
        Of the model.
    encoder
        On its device.
    components
        Of the cells that were there.
    """

    genes: np.ndarray
    tokenizer: Tokenizer
    encoder: ScDMCModel
    components: Components

    def of_cells(self, cells: CellCounts, views: Sequence[str], what: str | None) -> "ViewsOfCells":
        """Features of the cells.

        Parameters
        ----------
        cells
            Their counts, of any genes.
        views
            Which are wanted.
        what
            Name of the encoder's work, for the progress bar; None for none.
        """
        cells = cells.of_genes(self.genes)
        expression = cells.expression()
        features: dict[str, Features | TokenizedCells] = {}
        components = self.components.of_cells(expression)
        if "genes" in views:
            features["genes"] = expression
        if "components" in views:
            features["components"] = components
        tokens = cells.tokenized(self.tokenizer)
        config = self.encoder.config
        choice, layers = embedding_choice(config), layers_used(config.num_hidden_layers)
        poolings = pooled_states(self.encoder, tokens, what, sorted({*layers, choice.layer}))
        if "scdmc" in views:
            features["scdmc"] = np.concatenate(
                [poolings[each] for each in poolings if each[0] in layers and each != (0, "cls")], axis=1
            )
        if FINE_TUNED_VIEW in views:
            features[FINE_TUNED_VIEW] = tokens
        embedding = poolings[choice.layer, choice.pooling][:, columns_of_stream(choice.stream, config.hidden_size)]
        return ViewsOfCells(features, expression, components, embedding)


@dataclass(frozen=True)
class ViewsOfCells:
    """Descriptions of cells.

    Attributes
    ----------
    features
        View -> shape (n_cells, n_features); of the fine-tuned view the tokens of the cells.
    expression
        ln(1 + CP10k) of the shared genes, CSR of shape (n_cells, n_genes).
    components
        Shape (n_cells, n_components).
    embedding
        What ``config.json`` of the model says (:func:`scdmc.model.embeddings.embedding_choice`), shape
        (n_cells, hidden_size), or (n_cells, 2 hidden_size) for both streams.
    """

    features: Mapping[str, Features | TokenizedCells]
    expression: scipy.sparse.csr_matrix
    components: np.ndarray
    embedding: np.ndarray

    def without(self, views: Collection[str]) -> "ViewsOfCells":
        """The same without the features of some views."""
        return replace(self, features={view: each for view, each in self.features.items() if view not in views})


def layers_used(n_layers: int) -> list[int]:
    """Layers whose states are pooled, ascending; the first and the last are among them."""
    return sorted(set(np.linspace(0, n_layers, min(n_layers + 1, MOST_LAYERS)).round().astype(int).tolist()))
