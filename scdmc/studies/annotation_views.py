"""How right the labels are that a reference gives: within data sets, across them, and beside controls.

Source: docs/method.md, "Views of a cell and their weights".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score

from scdmc.annotation.calibration import expected_calibration_error
from scdmc.annotation.cross_validation import with_fewer_labels
from scdmc.cells.data import tokenizer_of_model
from scdmc.cells.shared_genes import CellCounts, GeneKeys, read_cell_counts
from scdmc.cells.splits import make_split
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path
from scdmc.labels import is_missing, labels_of
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory
from scdmc.reading.counts import open_counts
from scdmc.reading.options import CountOptions
from scdmc.tokens.tokenized_cells import TokenizedCells, expression_of_cells
from scdmc.tokens.tokenizer import Tokenizer
from scdmc.views.classifier import ViewClassifier, fit_view_classifier
from scdmc.views.features import FeatureMaker
from scdmc.views.fine_tuned import FineTuner
from scdmc.views.held_out import VECTORS, untrained_vectors
from scdmc.views.new_cells import components_of
from scdmc.views.options import FINE_TUNED_VIEW, VIEWS
from scdmc.views.regression import Features
from scdmc.views.shift import CARRIES_ACROSS, MOST_SEPARABLE, separability

# What names a run; the rows of one run are written together.
RUN_COLUMNS = ["task", "reference", "new", "label_fraction", "seed"]


# Types of sorted blood cells, and of the cells of Kang et al. 2018, that are one: the start of a name -> coarse type.
COARSE_TYPES = {
    "CD14+ Mono": "monocyte",
    "FCGR3A+ Mono": "monocyte",
    "CD19+ B": "B cell",
    "B cell": "B cell",
    "CD56+ NK": "NK cell",
    "NK cell": "NK cell",
    "CD4": "T cell",
    "CD8": "T cell",
}


@dataclass(frozen=True)
class LabelledFile:
    """Cells of a file with a label, and its annotation."""

    counts: CellCounts
    labels: np.ndarray

    def select(self, cells: np.ndarray) -> "LabelledFile":
        """The chosen cells."""
        return LabelledFile(self.counts.select(cells), self.labels[cells])


def read_labelled(path: Path, tokenizer: Tokenizer, label_key: str, is_coarse: bool = False) -> LabelledFile:
    """Read the cells of a file that have a label.

    Parameters
    ----------
    path
        The file.
    tokenizer
        Finds the genes.
    label_key
        Column of obs.
    is_coarse
        Translate the labels by :data:`COARSE_TYPES`, and leave out what it does not name.

    Raises
    ------
    ScDMCError
        If there is no such column.
    """
    with open_counts(path) as opened:
        if label_key not in opened.obs:
            raise ScDMCError(f"{path}: obs has no column {label_key!r}")
        counts = read_cell_counts(opened, GeneKeys.of(opened, tokenizer))
    labels = labels_of(counts.obs[label_key])
    if is_coarse:
        labels = np.array([_coarse(label) for label in labels], dtype=object)
    return LabelledFile(counts, labels).select(np.flatnonzero(~is_missing(labels)))


def _coarse(label: str | None) -> str | None:
    found = [coarse for start, coarse in COARSE_TYPES.items() if label is not None and label.startswith(start)]
    return found[0] if found else None


@dataclass(frozen=True)
class Describer:
    """Describes cells by every view and, unless that is left out, by untrained vectors."""

    encoder: ScDMCModel
    tokenizer: Tokenizer
    seed: int = 42
    views: tuple[str, ...] = VIEWS
    has_vectors: bool = True

    @classmethod
    def of(
        cls, model_directory: ModelDirectory, encoder: ScDMCModel, seed: int = 42, views: tuple[str, ...] = VIEWS
    ) -> "Describer":
        """By a model."""
        return cls(encoder, tokenizer_of_model(model_directory, CountOptions()), seed, views)

    def features(self, *parts: CellCounts) -> list[dict[str, Features | TokenizedCells]]:
        """Features of each part, of the genes that all of them have; components and vectors are those of all cells."""
        genes = parts[0].keys
        for part in parts[1:]:
            genes = np.intersect1d(genes, part.keys)
        parts = [part.of_genes(genes) for part in parts]
        components = components_of([part.expression() for part in parts], self.seed)
        maker = FeatureMaker(genes, self.tokenizer, self.encoder, components)
        features = [dict(maker.of_cells(part, self.views, f"encode {part.name}").features) for part in parts]
        if not self.has_vectors:
            return features
        n_tokens = len(self.tokenizer.vocabulary)
        tokens = [part.tokenized(self.tokenizer) for part in parts]
        values = [expression_of_cells(each, np.arange(len(each)), n_tokens) for each in tokens]
        vectors = untrained_vectors(values, self.seed)
        return [each | {VECTORS: control} for each, control in zip(features, vectors, strict=True)]


def within_rows(
    file: LabelledFile,
    features: Mapping[str, Features | TokenizedCells],
    fraction: float,
    seed: int,
    fine_tuner: FineTuner | None = None,
) -> pd.DataFrame:
    """Scores on the test cells of one split, fitted on (a share of) its train and validation cells."""
    split = make_split(file.labels, seed=seed)
    if fraction < 1:
        split = with_fewer_labels(file.labels, split, fraction, seed)
    taught, tested = (np.flatnonzero(np.isin(split, parts)) for parts in (("train", "validation"), ("test",)))
    cells = (_of(features, taught), file.labels[taught], _of(features, tested), file.labels[tested])
    rows = _rows(*cells, VIEWS, seed, fine_tuner)
    return _named(rows, "within", file.counts.name, file.counts.name, fraction, seed)


def views_read_across(reference: Mapping[str, Features], new: Mapping[str, Features], seed: int) -> list[str]:
    """What ``scdmc annotate`` reads of new cells, View -> features: genes alone where the two files lie apart."""
    apart = separability(reference["components"], new["components"], seed) >= MOST_SEPARABLE
    return [CARRIES_ACROSS] if apart else list(VIEWS)


def across_rows(
    names: tuple[str, str],
    reference: Mapping[str, Features | TokenizedCells],
    reference_labels: np.ndarray,
    new: Mapping[str, Features | TokenizedCells],
    new_labels: np.ndarray,
    seed: int,
    fine_tuner: FineTuner | None = None,
) -> pd.DataFrame:
    """Scores on the cells of one file or batch, fitted on those of others.

    Parameters
    ----------
    names
        Of the reference and of the new cells.
    reference, new
        View -> features.
    reference_labels, new_labels
        Types. Cells of types that the reference lacks are scored, too: they are always wrong.
    seed
        Of folds.
    fine_tuner
        Makes the fine-tuned view, if it is among them.
    """
    product = views_read_across(reference, new, seed)
    rows = _rows(reference, reference_labels, new, new_labels, product, seed, fine_tuner)
    return _named(rows, "across", *names, 1.0, seed)


def _of(features: Mapping[str, Features | TokenizedCells], cells: np.ndarray) -> dict[str, Features | TokenizedCells]:
    return {
        view: each.select(cells) if isinstance(each, TokenizedCells) else each[cells] for view, each in features.items()
    }


def _named(rows: pd.DataFrame, *values: object) -> pd.DataFrame:
    for place, (name, value) in enumerate(zip(RUN_COLUMNS, values, strict=True)):
        rows.insert(place, name, value)
    return rows


METHODS = {
    "G: logistic regression on genes": ("genes",),
    "P: on principal components": ("components",),
    "E: poolings of scDMC": ("scdmc",),
    "L: untrained vectors": (VECTORS,),
    "G+P": ("genes", "components"),
    "G+E": ("genes", "scdmc"),
    "P+E": ("components", "scdmc"),
    "G+P+L": ("genes", "components", VECTORS),
    "G+P+E": ("genes", "components", "scdmc"),
}


# Only where a fine-tuned view is asked for.
METHODS_WITH_FINE_TUNED = {
    "F: scDMC fine-tuned": (FINE_TUNED_VIEW,),
    "G+P+F": ("genes", "components", FINE_TUNED_VIEW),
    "G+P+E+F": ("genes", "components", "scdmc", FINE_TUNED_VIEW),
}


PRODUCT = "scdmc annotate"


def _rows(
    taught: Mapping[str, Features | TokenizedCells],
    labels: np.ndarray,
    new: Mapping[str, Features | TokenizedCells],
    truth: np.ndarray,
    product: Sequence[str],
    seed: int,
    fine_tuner: FineTuner | None,
) -> pd.DataFrame:
    """One row per method."""
    fine_tuner = None if fine_tuner is None else replace(fine_tuner, seed=seed)
    classifier, held_out = fit_view_classifier(taught, labels, seed=seed, fine_tuner=fine_tuner)
    of_views = classifier.of_views(new)
    rows = []
    methods = METHODS | (METHODS_WITH_FINE_TUNED if FINE_TUNED_VIEW in taught else {})
    for method, views in {**methods, PRODUCT: tuple(product)}.items():
        scores = _scores(classifier, of_views, views, truth)
        rows.append({"method": method, **scores})
    table = pd.DataFrame(rows)
    aurocs = list(held_out.unseen_auroc.values())
    table["unseen_auroc"] = np.where(table["method"] == PRODUCT, np.mean(aurocs) if aurocs else np.nan, np.nan)
    return table


def _scores(
    classifier: ViewClassifier, of_views: Mapping[str, np.ndarray], views: tuple[str, ...], truth: np.ndarray
) -> dict[str, object]:
    consensus = classifier.consensus_of(views)
    probabilities = consensus.probabilities(of_views)
    predicted = classifier.names[probabilities.argmax(axis=1)].astype(str)
    confidence, is_known = probabilities.max(axis=1), np.isin(truth.astype(str), classifier.names.astype(str))
    return {
        "accuracy": accuracy_score(truth.astype(str), predicted),
        "macro_f1": f1_score(truth.astype(str), predicted, average="macro", zero_division=0),
        "calibration_error": expected_calibration_error(
            confidence[is_known], predicted[is_known] == truth[is_known].astype(str)
        ),
        "weights": " ".join(f"{view}={weight:.2f}" for view, weight in consensus.weights.items()),
    }


def read_rows(path: Path) -> pd.DataFrame:
    """Rows of the runs so far; empty where there is no such file."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=[*RUN_COLUMNS, "method"])


def is_done(rows: pd.DataFrame, *run: object, with_fine_tuned: bool = False) -> bool:
    """True where a run is among the rows, with the fine-tuned view if that is asked for."""
    found = np.isin(rows["method"], list(METHODS_WITH_FINE_TUNED)) if with_fine_tuned else np.ones(len(rows), bool)
    for name, value in zip(RUN_COLUMNS, run, strict=True):
        found &= (rows[name] == value).to_numpy()
    return bool(found.any())


def add_rows(path: Path, rows: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    """Add the rows of a run to the file, in the place of older ones of this run, and return all.

    The file is replaced as a whole.
    """
    older = rows.merge(more[RUN_COLUMNS].drop_duplicates(), how="left", indicator=True)["_merge"] == "both"
    others = rows[~older.to_numpy(dtype=bool)]
    together = pd.concat([others, more], ignore_index=True) if len(others) else more
    with atomic_path(path) as temporary:
        together.to_csv(temporary, index=False)
    return together


def summary(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means and standard deviations over seeds and left-out batches, a line for each task, data set and method."""
    share = rows["label_fraction"].map("{:.0%} of the labels".format)
    lines = rows["task"] + " " + rows["reference"] + ", " + share + ", " + rows["method"]
    scores = rows[["accuracy", "macro_f1", "calibration_error", "unseen_auroc"]].groupby(lines, sort=False)
    return scores.mean(), scores.std()
