"""How far the flow goes beyond a text is chosen on validation cells, never on test cells.

Source: docs/pseudo_cells.md, "Guidance".
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from scdmc.text.pseudo_cells.baselines import expression_of, made_expression
from scdmc.text.pseudo_cells.generator import CellGenerator, text_of_term
from scdmc.text.pseudo_cells.options import GUIDANCES
from scdmc.text.pseudo_cells.scores import fold_changes, two_sample_auc
from scdmc.text.pseudo_cells.training_data import GeneratorData

# Of a type; and of all types together.
FEWEST_OF_TYPE, FEWEST_CELLS = 5, 50


# A slope of fold changes so near to 1 is as good as 1.
SLOPE_TOLERANCE = 0.1


COLUMNS = ("guidance", "AUC", "LFC slope to training cells'", "loss")


def with_best_guidance(generator: CellGenerator, data: GeneratorData, seed: int) -> tuple[CellGenerator, pd.DataFrame]:
    """The generator with the guidance whose cells are most like the validation cells.

    That is the one with the smallest sum of AUC - 0.5 and of how far the slope of fold changes lies beyond 0.9 to 1.1
    times that of the training cells: few validation cells have fold changes by chance, which no other cells share.
    Without enough validation cells it stays :data:`scdmc.text.pseudo_cells.options.GUIDANCE`.

    Parameters
    ----------
    generator
        As trained.
    data
        With validation cells.
    seed
        Of the cells that are made.

    Returns
    -------
    The generator, and the columns :data:`COLUMNS`, a row for each guidance that was tried.
    """
    groups = _validation_groups(data)
    if sum(len(cells) for cells in groups.values()) < FEWEST_CELLS:
        return generator, pd.DataFrame(columns=list(COLUMNS))
    real = {key: _expression(data, cells) for key, cells in groups.items()}
    best = _slope(real, {key: _expression(data, _training_cells(data, *key)) for key in groups})
    rows = []
    for guidance in GUIDANCES:
        made = {
            (term, number): made_expression(
                generator.made(text_of_term(data.space, term), len(cells), data.space, seed, guidance, number)
            )
            for (term, number), cells in real.items()
        }
        auc = two_sample_auc(np.concatenate(list(real.values())), np.concatenate(list(made.values())), seed)
        rows.append((guidance, auc, _slope(real, made) / best))
    table = pd.DataFrame(rows, columns=list(COLUMNS[:3]))
    beyond = ((table[COLUMNS[2]].fillna(1.0) - 1).abs() - SLOPE_TOLERANCE).clip(lower=0)
    table["loss"] = (table["AUC"] - 0.5).clip(lower=0) + beyond
    return replace(generator, guidance=float(table["guidance"].iloc[table["loss"].argmin()])), table


def _validation_groups(data: GeneratorData) -> dict[tuple[int, int], np.ndarray]:
    """Term and data set -> validation cells of both, where there are enough of them, and training cells as well."""
    groups = {}
    for term, data_set in sorted(set(zip(data.terms.tolist(), data.data_sets.tolist(), strict=True))):
        own = (data.terms == term) & (data.data_sets == data_set)
        cells = np.flatnonzero(own & ~data.is_training)
        if len(cells) >= FEWEST_OF_TYPE and len(_training_cells(data, term, data_set)):
            groups[term, data_set] = cells
    return groups


def _training_cells(data: GeneratorData, term: int, data_set: int) -> np.ndarray:
    return np.flatnonzero((data.terms == term) & (data.data_sets == data_set) & data.is_training)


def _expression(data: GeneratorData, cells: np.ndarray) -> np.ndarray:
    return expression_of(data.counts[cells].toarray(), data.totals[cells].astype(np.float32))


def _slope(real: dict[tuple[int, int], np.ndarray], made: dict[tuple[int, int], np.ndarray]) -> float:
    """Slope of fold changes, the mean over the data sets that have one; both are (term, data set) -> expression."""
    slopes = []
    for number in sorted({data_set for _, data_set in real}):
        means = [
            {
                str(term): np.expm1(cells.astype(np.float64)).mean(axis=0)
                for (term, own), cells in each.items()
                if own == number
            }
            for each in (real, made)
        ]
        slopes.append(fold_changes(*means)[0])
    known = [slope for slope in slopes if np.isfinite(slope)]
    return float(np.mean(known)) if known else float("nan")
