"""The simple methods that stand beside ours in every comparison (docs/method.md, "Evaluation rules").

``expression`` is always a CSR matrix (n_cells, n_genes) of log1p CP10k. ``labels`` and ``split`` have shape
(n_cells,); a classifier returns :class:`Predicted`, one label for each test cell, in the order of the cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import pandas as pd
import scipy.sparse
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from scdmc.annotation.probing import mean_loss
from scdmc.cells.components import fitted_components
from scdmc.cells.expression import checked_expression
from scdmc.errors import ScDMCError

REGULARISATION_GRID = (0.01, 0.1, 1.0, 10.0, 100.0)

# Where no validation cell has a type of the training cells, nothing can be chosen.
USUAL_REGULARISATION = 1.0

N_COMPONENTS = 50


@dataclass(frozen=True)
class Predicted:
    """What a method says of the test cells.

    Attributes
    ----------
    labels
        Shape (n_test,).
    confidence
        Shape (n_test,): probability that the method gives to its label, 0 to 1.
    """

    labels: np.ndarray
    confidence: np.ndarray

    @classmethod
    def of_probabilities(cls, names: np.ndarray, probabilities: np.ndarray) -> "Predicted":
        """The likeliest class of each cell: names (n_classes,), probabilities (n_test, n_classes)."""
        return cls(np.asarray(names)[probabilities.argmax(axis=1)], probabilities.max(axis=1))


def logistic_regression(
    expression: scipy.sparse.csr_matrix,
    labels: np.ndarray,
    split: np.ndarray,
    seed: int = 42,
) -> tuple[Predicted, dict[str, float]]:
    """Classify by multinomial logistic regression on all genes, unscaled.

    (Scaling each gene to a maximum of 1 gives a gene that is nearly never seen as much say as a marker; on the islets
    it loses on validation and on test.)

    C and fit are those of :func:`chosen_logistic_regression`, whose results this gives.

    Parameters
    ----------
    expression
        log1p CP10k, shape (n_cells, n_genes).
    labels, split
        Shape (n_cells,).
    seed
        Of the solver.

    Raises
    ------
    ScDMCError
        If a part is empty, the training part has one type only, or the values cannot be log1p CP10k.
    """
    return chosen_logistic_regression(checked_expression(expression), labels, split, seed)


def logistic_regression_on_components(
    components: np.ndarray, labels: np.ndarray, split: np.ndarray, seed: int = 42
) -> tuple[Predicted, dict[str, float]]:
    """Classify by multinomial logistic regression on principal components.

    All are divided by the standard deviation of the first one: C has one meaning for every file, and small components,
    which are mostly noise, stay small. As the components are those of all cells, the test cells have a part in them,
    without their labels.

    Parameters
    ----------
    components
        See :func:`principal_components`, shape (n_cells, n_components).
    labels, split, seed
        As for :func:`logistic_regression`.
    """
    return chosen_logistic_regression(components / (components[:, 0].std() or 1.0), labels, split, seed)


def principal_components(
    expression: scipy.sparse.csr_matrix, n_components: int = N_COMPONENTS, seed: int = 42
) -> np.ndarray:
    """Principal components of all cells, labelled or not; shape (n_cells, n_components), mean 0.

    There are fewer where there are not more cells and genes than that; a single gene is only centred.

    Parameters
    ----------
    expression
        log1p CP10k, shape (n_cells, n_genes).
    n_components
        How many.
    seed
        Of the solver.
    """
    expression = checked_expression(expression)
    n_components = min(n_components, min(expression.shape) - 1)
    if n_components == 0:
        dense = expression.toarray()
        return dense - dense.mean(axis=0)
    return fitted_components(expression, n_components, seed).transform(expression)


def chosen_logistic_regression(
    values: "np.ndarray | scipy.sparse.csr_matrix", labels: np.ndarray, split: np.ndarray, seed: int = 42
) -> tuple[Predicted, dict[str, float]]:
    """Multinomial logistic regression whose C is chosen by the log loss of the validation cells.

    Every validation cell has a say in the loss. Macro-F1 is decided by a handful of them where types are rare, and
    chooses nearly at random there. The values of ``REGULARISATION_GRID`` are tried from the smallest on, until the loss
    rises; those beyond would take the longest and overfit more. The model is then fitted again on train + validation.

    Parameters
    ----------
    values
        What the cells are told apart by, shape (n_cells, n_dimensions).
    labels, split
        Shape (n_cells,).
    seed
        Of the solver.

    Returns
    -------
    predicted
        Of the test cells.
    chosen
        ``C`` and its ``validation_log_loss``, in nats, over the validation cells of a type that the training cells
        have; NaN where there is none.

    Raises
    ------
    ScDMCError
        If a part is empty or the training part has one type only.
    """
    labels, split = _parts(labels, split, "train", "validation", "test")
    train, validation, test = (split == part for part in ("train", "validation", "test"))

    def loss_of(C: float) -> float:
        model = _fit_logistic_regression(values[train], labels[train], C, seed)
        return mean_loss(model.predict_proba(values[validation]), model.classes_, labels[validation])

    C, loss = chosen_regularisation(loss_of, REGULARISATION_GRID)
    C = USUAL_REGULARISATION if np.isnan(loss) else C
    fitted = train | validation
    model = _fit_logistic_regression(values[fitted], labels[fitted], C, seed)
    predicted = Predicted.of_probabilities(model.classes_, model.predict_proba(values[test]))
    return predicted, {"C": C, "validation_log_loss": loss}


def chosen_regularisation(
    loss_of: Callable[[float], float], grid: Sequence[float], start: int = 0, least_gain: float = 0.0
) -> tuple[float, float]:
    """The C of a grid with the lowest loss: up from one value until the loss rises, and down if that was no better.

    Parameters
    ----------
    loss_of
        C -> loss; NaN at the start where there is nothing to choose by.
    grid
        Values of C, ascending.
    start
        Place of the first one that is tried.
    least_gain
        A larger C must lower the loss by so much, and a smaller one may raise it by as much.

    Returns
    -------
    C, and the lowest loss.
    """
    best, lowest = grid[start], loss_of(grid[start])
    if np.isnan(lowest):
        return best, lowest
    for side, most in ((grid[start + 1 :], -least_gain), (grid[:start][::-1], least_gain)):
        for C in side:
            loss = loss_of(C)
            if loss > lowest + most:
                break
            best, lowest = C, min(loss, lowest)
        if best in side:
            break  # this side was better, so that the other is worse
    return best, lowest


def _fit_logistic_regression(
    values: "np.ndarray | scipy.sparse.csr_matrix", labels: np.ndarray, C: float, seed: int
) -> LogisticRegression:
    return LogisticRegression(C=C, max_iter=1000, random_state=seed).fit(values, labels)


def nearest_neighbours_on_pca(
    expression: scipy.sparse.csr_matrix,
    labels: np.ndarray,
    split: np.ndarray,
    n_neighbors: int = 15,
    n_components: int = N_COMPONENTS,
    seed: int = 42,
) -> Predicted:
    """Classify by k nearest neighbours on principal components of all genes, both fitted on the training part only.

    Fewer components are taken where the training part has fewer cells or genes than ``n_components`` + 1; a single gene
    is taken as it is.

    Raises
    ------
    ScDMCError
        As :func:`nearest_neighbours`, and if the values cannot be log1p CP10k.
    """
    expression = checked_expression(expression)
    labels, split = _parts(labels, split, "train", "test")
    train = expression[split == "train"]
    n_components = min(n_components, min(train.shape) - 1)
    if n_components == 0:
        return nearest_neighbours(expression.toarray(), labels, split, n_neighbors)
    pca = fitted_components(train, n_components, seed)
    return nearest_neighbours(pca.transform(expression), labels, split, n_neighbors)


def nearest_neighbours(
    embedding: np.ndarray, labels: np.ndarray, split: np.ndarray, n_neighbors: int = 15
) -> Predicted:
    """Classify by k nearest neighbours (euclidean, majority vote) on an embedding, fitted on the training part.

    Confidence is the share of the votes.

    Parameters
    ----------
    embedding
        Shape (n_cells, hidden_size).
    labels, split
        Shape (n_cells,).
    n_neighbors
        Voters for each test cell; all training cells vote where there are fewer.

    Raises
    ------
    ScDMCError
        If a part is empty or the training part has one type only.
    """
    labels, split = _parts(labels, split, "train", "test")
    embedding, train, test = np.asarray(embedding), split == "train", split == "test"
    classifier = KNeighborsClassifier(min(n_neighbors, int(train.sum())))
    classifier.fit(embedding[train], labels[train])
    return Predicted.of_probabilities(classifier.classes_, classifier.predict_proba(embedding[test]))


def majority_class(labels: np.ndarray, split: np.ndarray) -> Predicted:
    """Give every test cell the most frequent label of the training part (of equals the first by name).

    Confidence is its share of the training cells.
    """
    labels, split = _parts(labels, split, "train", "test")
    names, counts = np.unique(labels[split == "train"], return_counts=True)
    n_test = int((split == "test").sum())
    return Predicted(np.full(n_test, names[counts.argmax()]), np.full(n_test, counts.max() / counts.sum()))


def has_celltypist() -> bool:
    """True where the package celltypist is installed, which :func:`celltypist_classifier` needs."""
    return find_spec("celltypist") is not None


def celltypist_classifier(
    expression: scipy.sparse.csr_matrix, genes: np.ndarray, labels: np.ndarray, split: np.ndarray, seed: int = 42
) -> Predicted:
    """Classify by CellTypist (Dominguez Conde et al. 2022), trained as it does by itself, without majority voting.

    As it has nothing to choose on validation cells, it is fitted on train + validation.

    Parameters
    ----------
    expression
        log1p CP10k, shape (n_cells, n_genes).
    genes
        Names, shape (n_genes,).
    labels, split
        Shape (n_cells,).
    seed
        Of its solver.

    Raises
    ------
    ScDMCError
        As :func:`logistic_regression`.
    """
    import anndata
    import celltypist

    labels, split = _parts(labels, split, "train", "test")
    fitted = np.isin(split, ("train", "validation"))
    adata = anndata.AnnData(checked_expression(expression), var=pd.DataFrame(index=np.asarray(genes, dtype=str)))
    # Expression is of the genes that the file has: CellTypist's own check wants those of the whole genome.
    model = celltypist.train(adata[fitted], labels=labels[fitted], check_expression=False, random_state=seed)
    probabilities = celltypist.annotate(adata[split == "test"].copy(), model=model).probability_matrix
    return Predicted.of_probabilities(probabilities.columns.to_numpy(dtype=str), probabilities.to_numpy())


def _parts(labels: np.ndarray, split: np.ndarray, *needed: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels as text and the split, both (n_cells,), after a check that the needed parts are there."""
    labels, split = np.asarray(labels, dtype=object).astype(str), np.asarray(split)
    empty = [part for part in needed if not (split == part).any()]
    if empty:
        raise ScDMCError(f"the split has no {', '.join(empty)} cells; make another split")
    if len(np.unique(labels[split == "train"])) < 2:
        raise ScDMCError("the training part holds one type only; make another split")
    return labels, split
