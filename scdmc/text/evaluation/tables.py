"""Tables that all tasks of an evaluation show: methods by scores, and scores of single types."""

from collections.abc import Sequence

import pandas as pd

from scdmc.reports.tables import score_texts
from scdmc.text.evaluation.rows import type_table
from scdmc.text.evaluation.scores import OF_TYPES
from scdmc.text.ontology import CellOntology


def score_table(metrics: pd.DataFrame, columns: Sequence[str], methods: Sequence[str]) -> pd.DataFrame:
    """Means with deviations as text, methods x columns.

    Parameters
    ----------
    metrics
        Of :func:`scdmc.text.evaluation.rows.metric_table`, of one value for each method and column. The columns of
        the table come in the order in which they are met here.
    columns
        Names of the columns of ``metrics`` that tell the columns of the table.
    methods
        The order of the methods. Others come behind them, by name.
    """
    places = {method: place for place, method in enumerate(methods)}
    heads = metrics[list(columns)].drop_duplicates()
    wide = [metrics.pivot(index="method", columns=list(columns), values=name) for name in ("mean", "sd")]
    order = sorted(wide[0].index, key=lambda name: (places.get(name, len(places)), name))
    heads = pd.MultiIndex.from_frame(heads) if len(columns) > 1 else pd.Index(heads[columns[0]])
    return score_texts(*(table.loc[order, heads] for table in wide))


def tables_of_types(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Scores of the types of each data set, the commonest first, each under the name of its data set.

    Parameters
    ----------
    rows
        Of one method and mode, with the columns of :data:`scdmc.text.evaluation.rows.COLUMNS`.
    """
    ontology, tables = CellOntology.load(), []
    for name, of_set in type_table(rows, OF_TYPES).groupby("data_set", sort=False):
        wide = of_set.pivot(index="type", columns="metric", values="mean")
        wide = wide.reindex(columns=[metric for metric in OF_TYPES if metric in wide])
        wide.insert(0, "type", [ontology[each].label for each in wide.index])
        tables.append((str(name), wide.sort_values("cells", ascending=False).reset_index(drop=True)))
    return tables
