"""Scores of captions: the name, how far it is from the type of the cell, and how near the words are.

Source: docs/text.md, "Captions: scores".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scdmc.cells.scores import per_class_scores
from scdmc.text.captions.cells import ids_of_names
from scdmc.text.captions.texts import name_in
from scdmc.text.evaluation.rows import Score
from scdmc.text.evaluation.scores import TAKEN_FOR
from scdmc.text.evaluation.text_scores import bleu, rouge_l
from scdmc.text.ontology import CellOntology
from scdmc.text.pseudo_cells.scores import mmd

# What a name that is no term counts as, beside ids.
NO_TERM = "no term"


@dataclass(frozen=True)
class Said:
    """What a method says of cells.

    Attributes
    ----------
    names
        What it calls each cell.
    texts
        The captions; None for a method that gives names alone.
    """

    names: list[str]
    texts: list[str] | None = None

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Said":
        """Captions, with the names in them."""
        return cls([name_in(text) for text in texts], list(texts))


def caption_scores(
    said: Said,
    truth: np.ndarray,
    true_texts: Sequence[str],
    ontology: CellOntology,
    encode: Callable[[Sequence[str]], np.ndarray] | None,
) -> list[Score]:
    """Scores of what is said of cells.

    Parameters
    ----------
    said
        What is said.
    truth
        Ids of the cells' terms, shape (n_cells,).
    true_texts
        Their captions.
    ontology
        Names, and how far terms lie apart.
    encode
        Texts -> vectors, shape (n_texts, text_size); None where no text encoder is at hand.

    Returns
    -------
    name_accuracy; equal_or_ancestor, the share of cells whose name is their type or an ancestor of it; valid_names, the
    share of names that are terms; ontology_distance, the mean steps from the type of a cell to its name, of the valid
    ones; of captions bleu, rouge_l, and text_mmd (of 1,000 cells, drawn) where there is a text encoder and more than
    one cell; of each type precision, recall, F1 and cells, and what its cells were taken for.
    """
    ids = np.array([cl_id or NO_TERM for cl_id in ids_of_names(said.names, ontology)], dtype=object)
    truth, is_term = truth.astype(object), ids != NO_TERM
    pairs = pd.Series(list(zip(truth, ids, strict=True)))
    known = [pair for pair in set(pairs) if pair[1] != NO_TERM]
    above = {pair: pair[1] in ontology.ancestors(pair[0]) for pair in known}
    steps = {pair: ontology.distance(*pair) for pair in known}
    scores = [
        Score("name_accuracy", np.mean(ids == truth)),
        Score("equal_or_ancestor", np.mean([above.get(pair, False) for pair in pairs])),
        Score("valid_names", is_term.mean()),
        Score("ontology_distance", pairs[is_term].map(steps).mean() if is_term.any() else np.nan),
    ]
    if said.texts is not None:
        scores.append(Score("bleu", bleu(said.texts, true_texts)))
        scores.append(Score("rouge_l", _mean_of_pairs(said.texts, true_texts)))
        if encode is not None and len(truth) > 1:
            # The distance takes the first cells only where there are many, and a file may be in the order of its types.
            order = np.random.default_rng(0).permutation(len(truth))
            scores.append(Score("text_mmd", mmd(*(encode(texts)[order] for texts in (said.texts, true_texts)))))
    table = per_class_scores(truth, ids).set_index("class")
    scores += [Score(metric, value, name) for name, row in table.iterrows() for metric, value in row.items()]
    return scores + [Score(f"{TAKEN_FOR}{name}", cells, true) for (true, name), cells in pairs.value_counts().items()]


def _mean_of_pairs(said: Sequence[str], true: Sequence[str]) -> float:
    """Mean of ROUGE-L; few of the pairs of texts differ from all others."""
    pairs = pd.Series(list(zip(said, true, strict=True)))
    return float(pairs.map({pair: rouge_l(*pair) for pair in set(pairs)}).mean())
