"""What annotation by text is compared with: genes, centroids, label transfer, chance, and the set's own labels."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from scdmc.text.annotation import marker_scores, smoothed, standardised
from scdmc.text.evaluation.cells import TRAINED
from scdmc.text.evaluation.scores import Prediction
from scdmc.text.features import Centre
from scdmc.text.genes_in_text import signed_genes
from scdmc.text.model import unit

if TYPE_CHECKING:
    from scdmc.text.evaluation.rounds import Round, Trial
    from scdmc.text.training_data import TrainingData

# Of the logistic regressions, on standardised features.
PENALTY, MOST_ITERATIONS, N_FOLDS = 0.1, 300, 5


# Of both kinds of features.
FEATURES = "both"


def named_genes(of_round: "Round", seed: int) -> Callable:
    """The genes that a type's definition names, with their signs; nothing is trained."""

    def judge(trial: "Trial", ids: Sequence[str]) -> Prediction:
        candidates, _, _ = of_round.candidates(ids)
        plain = trial.cells.plain
        markers = [signed_genes(candidate.text) for candidate in candidates]
        scores = standardised(marker_scores(plain.expression[plain.has_counts], plain.genes, markers))
        return _of_counted(trial, smoothed(scores, plain.graph))

    return judge


def nearest_centroid(of_round: "Round", seed: int) -> Callable:
    """The candidate whose text is most like that of the nearest training type, by its centroid."""
    data = of_round.data(TRAINED, FEATURES)
    features, terms = _training_cells(data)
    names = np.unique(terms)
    centroids = unit(np.array([features[terms == name].mean(axis=0) for name in names]))

    def judge(trial: "Trial", ids: Sequence[str]) -> Prediction:
        _, vectors, _ = of_round.candidates(ids)
        alike = of_round.space.centred(of_round.space.of_terms[names]) @ of_round.space.centred(vectors).T
        nearest = (unit(_features_of(trial, data)) @ centroids.T).argmax(axis=1)
        return _of_counted(trial, smoothed(alike[nearest].astype(np.float64), trial.cells.plain.graph))

    return judge


def label_transfer(of_round: "Round", seed: int) -> Callable:
    """Logistic regression of the training types; a type's probability counts for candidates near to it in the ontology.

    It counts by exp(-steps) for a candidate that is so many steps away. No text is used.
    """
    data = of_round.data(TRAINED, FEATURES)
    features, terms = _training_cells(data)
    fitted = LogisticRegression(C=PENALTY, max_iter=MOST_ITERATIONS).fit(features, terms)
    names = of_round.space.terms["cl_id"].to_numpy()[fitted.classes_]
    distance = of_round.inputs.ontology.distance

    def judge(trial: "Trial", ids: Sequence[str]) -> Prediction:
        near = np.exp(-np.array([[distance(name, each) for each in ids] for name in names], dtype=float))
        scores = fitted.predict_proba(_features_of(trial, data)) @ near
        return _of_counted(trial, smoothed(scores, trial.cells.plain.graph))

    return judge


def own_labels(of_round: "Round", seed: int) -> Callable:
    """Logistic regression that is shown four fifths of the labels of the cells themselves, five times: a bound."""
    data = of_round.data(TRAINED, FEATURES)

    def judge(trial: "Trial", ids: Sequence[str]) -> Prediction:
        scored = trial.is_scored
        query = trial.cells.query(data.maker, TRAINED)
        features, truth = Centre.of(query.features[scored]).applied(query.features[scored]), trial.cells.truth[scored]
        names, number, cells = np.unique(truth.astype(str), return_inverse=True, return_counts=True)
        folds = StratifiedKFold(max(2, min(N_FOLDS, cells.min())), shuffle=True, random_state=seed)
        regression = LogisticRegression(C=PENALTY, max_iter=MOST_ITERATIONS)
        scores = np.zeros((len(scored), len(ids)))
        places = [list(ids).index(name) for name in names]
        scores[np.ix_(scored, places)] = cross_val_predict(
            regression, features, number, cv=folds, method="predict_proba"
        )
        return Prediction(scores, scores)

    return judge


def majority(of_round: "Round", seed: int) -> Callable:
    """The most frequent type of the set, which its labels tell."""

    def judge(trial: "Trial", ids: Sequence[str]) -> Prediction:
        sizes = [(trial.cells.truth == name).sum() for name in ids]
        return Prediction(np.tile(np.eye(len(ids))[int(np.argmax(sizes))], (len(trial.cells.truth), 1)))

    return judge


def chance(of_round: "Round", seed: int) -> Callable:
    """A candidate by lot for each cell."""
    draw = np.random.default_rng(seed)

    def judge(trial: "Trial", ids: Sequence[str]) -> Prediction:
        return Prediction(draw.random((len(trial.cells.truth), len(ids))))

    return judge


def _training_cells(data: "TrainingData") -> tuple[np.ndarray, np.ndarray]:
    """Features of all training cells, and their terms."""
    features = np.concatenate([each.features[each.is_training] for each in data.sets])
    return features, np.concatenate([each.terms[each.is_training] for each in data.sets])


def _features_of(trial: "Trial", data: "TrainingData") -> np.ndarray:
    """Features of the cells with counts, centred by themselves."""
    query = trial.cells.query(data.maker, TRAINED)
    features = query.features[query.has_counts]
    return Centre.of(features).applied(features)


def _of_counted(trial: "Trial", scores: np.ndarray) -> Prediction:
    """Scores of all cells; 0 for those without counts."""
    has_counts = trial.cells.plain.has_counts
    whole = np.zeros((len(has_counts), scores.shape[1]))
    whole[has_counts] = scores
    return Prediction(whole)
