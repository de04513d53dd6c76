"""How much of the cell types frozen states hold when few cells have a label: the judge of pre-training.

Each split keeps a fifth of the cells for the test and shows a share of the labels of the others. All methods are asked
on the same splits, by the fit that ``scdmc annotate`` makes of a view: the regularisation of each is chosen by the log
loss of folds of the labels that are shown.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedShuffleSplit

from scdmc.labels import is_missing
from scdmc.model.embeddings import inference_batches
from scdmc.model.encoder import ScDMCModel
from scdmc.model.packing import pool
from scdmc.options import POOLINGS
from scdmc.tokens.tokenized_cells import TokenizedCells, expression_of_cells
from scdmc.views.regression import (
    CELLS_OF_FOLDS,
    CompactFeatures,
    LinearView,
    Standardisation,
    fit_view,
    fold_of_cells,
    fold_view,
    sample_of_cells,
)

# Types with fewer cells count nowhere: one of them would hang on a single test cell.
MINIMUM_CELLS = 10
TEST_FRACTION = 0.2


@torch.inference_mode()
def frozen_states(encoder: ScDMCModel, cells: TokenizedCells) -> dict[str, np.ndarray]:
    """States of cells after every layer, pooled in every way, in one pass.

    Parameters
    ----------
    encoder
        The encoder, on its device; it is put into evaluation mode.
    cells
        The cells, as long as they are to be read.

    Returns
    -------
    ``LAYER POOLING``, such as ``2 cls`` -> both streams joined, shape (n_cells, 2 hidden_size), float32. Layer 0 is the
    embedding of the genes; its ``<cls>`` is the same for each cell and left out.
    """
    encoder.eval()
    width, n_layers = 2 * encoder.config.hidden_size, encoder.config.num_hidden_layers
    names = [f"{layer} {pooling}" for layer in range(n_layers + 1) for pooling in POOLINGS]
    states = {name: np.empty((len(cells), width), dtype=np.float32) for name in names}
    for chosen, batch in inference_batches(cells, "both", "weighted", None):
        batch = batch.to(encoder.device)
        for layer, encoded in enumerate(encoder.states_by_layer(batch)):
            for pooling in POOLINGS:
                pooled = torch.cat(pool(encoded.float(), batch, pooling).chunk(2), dim=-1)
                states[f"{layer} {pooling}"][chosen] = pooled.cpu().numpy()
    del states["0 cls"]
    return states


def judged_embeddings(states: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is judged of :func:`frozen_states`: the poolings of the last layer, these joined, all layers joined."""
    last = max(int(name.split()[0]) for name in states)
    embeddings = {pooling: states[f"{last} {pooling}"] for pooling in POOLINGS}
    embeddings["all poolings"] = np.concatenate(list(embeddings.values()), axis=1)
    embeddings["all poolings, genes too"] = np.concatenate([embeddings["all poolings"], states["0 weighted"]], axis=1)
    embeddings["all layers"] = np.concatenate(list(states.values()), axis=1)
    return embeddings


def mean_gene_vectors(vectors: np.ndarray, cells: TokenizedCells) -> np.ndarray:
    """Mean of the vectors of each cell's genes, weighted by their values, without any encoder.

    Parameters
    ----------
    vectors
        Shape (vocab_size, n_dimensions).
    cells
        The cells.

    Returns
    -------
    Shape (n_cells, n_dimensions), float32; zeros for a cell without genes.
    """
    values = expression_of_cells(cells, np.arange(len(cells)), len(vectors))
    totals = np.asarray(values.sum(axis=1)).reshape(-1, 1)
    return (values @ vectors / np.maximum(totals, 1e-6)).astype(np.float32)


def few_label_splits(
    labels: np.ndarray, fraction: float, n_splits: int, seed: int = 42
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Yield the cells (rows) of each split whose labels are shown, and its test cells.

    Parameters
    ----------
    labels
        Shape (n_cells,); cells without one, or of types with fewer than 10 cells, are in no part.
    fraction
        Share of the labels of the cells that are no test, drawn among all types alike; at least two of each type.
    n_splits, seed
        How many splits, and the seed of the first.
    """
    labels = np.asarray(labels, dtype=object)
    known = np.flatnonzero(~is_missing(labels))
    _, number, sizes = np.unique(labels[known].astype(str), return_inverse=True, return_counts=True)
    known, number = known[sizes[number] >= MINIMUM_CELLS], number[sizes[number] >= MINIMUM_CELLS]
    splitter = StratifiedShuffleSplit(n_splits, test_size=TEST_FRACTION, random_state=seed)
    for split, (shown, test) in enumerate(splitter.split(known, number)):
        generator = np.random.default_rng([seed, split])
        with_label = []
        for name in np.unique(number):
            members = generator.permutation(shown[number[shown] == name])
            with_label.append(members[: max(2, round(fraction * len(members)))])
        yield known[np.concatenate(with_label)], known[test]


def fitted_probe(embedding: np.ndarray, types: np.ndarray, has_one_spread: bool, seed: int = 42) -> LinearView:
    """A logistic regression as ``scdmc annotate`` fits it to a view.

    Parameters
    ----------
    embedding
        Of the labelled cells, shape (n_cells, n_dimensions).
    types
        Index of the type of each, shape (n_cells,).
    has_one_spread
        For principal components, which keep their relative spread; all else is standardised.
    seed
        Of the folds.
    """
    standard = Standardisation.of(embedding, has_one_spread)
    scaled, n_types = standard.apply(embedding), int(types.max()) + 1
    chosen = sample_of_cells(types, CELLS_OF_FOLDS, seed)
    axes, folds = CompactFeatures(scaled[chosen]), fold_of_cells(types[chosen], seed=seed)
    C = fold_view(axes.own, axes.variance, types[chosen], folds).C
    axes = CompactFeatures(scaled)
    return standard.undo(axes.turned_back(fit_view(axes.own, axes.variance, types, n_types, C)))


def few_label_scores(
    embedding: np.ndarray,
    labels: np.ndarray,
    fractions: Sequence[float],
    n_splits: int = 3,
    seed: int = 42,
    has_one_spread: bool = False,
) -> pd.DataFrame:
    """Macro-F1 of linear probes on the test cells.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    labels, n_splits, seed
        See :func:`few_label_splits`.
    fractions
        Shares of the labels that are shown.
    has_one_spread
        See :func:`fitted_probe`.

    Returns
    -------
    Columns ``fraction``, ``split``, ``macro_f1``.
    """
    labels = np.asarray(labels).astype(str)
    rows = []
    for fraction in fractions:
        for split, (shown, test) in enumerate(few_label_splits(labels, fraction, n_splits, seed)):
            names, types = np.unique(labels[shown], return_inverse=True)
            probe = fitted_probe(embedding[shown], types, has_one_spread, seed)
            told = names[probe.probabilities(embedding[test]).argmax(axis=1)]
            score = f1_score(labels[test], told, average="macro", zero_division=0)
            rows.append({"fraction": fraction, "split": split, "macro_f1": float(score)})
    return pd.DataFrame(rows)
