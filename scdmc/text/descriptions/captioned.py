"""What a language model says of cells, beside what is computed of them: it may say what is not so.

Source: docs/text.md, "Descriptions".
"""

from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.text.captions.cells import caption_cells
from scdmc.text.descriptions.facts import Described, genes_of_groups, sized_groups, specific_genes
from scdmc.text.descriptions.options import COLUMNS_OF_GROUPS, LANGUAGE_MODEL
from scdmc.text.features import FeatureMaker
from scdmc.text.options import NO_COUNTS
from scdmc.tokens.tokenized_cells import TokenizedCells


def captions_of(
    described: Described,
    cells: TokenizedCells,
    rows: np.ndarray,
    maker: FeatureMaker,
    folders: tuple[Path, Path | None],
) -> pd.DataFrame:
    """Captions of some cells, checked against the ontology and against annotation by words.

    Parameters
    ----------
    described
        All cells.
    cells
        The same, tokenized.
    rows
        Of the cells that are described, shape (n_described,).
    maker
        Of the features of the text model.
    folders
        The text model, and the language model where the text model does not hold it.

    Returns
    -------
    Row of the cell as index; columns text, type, cl_id, probability, checked, by_words, distance. ``probability`` is
    that of the caption's term by the contrast, NaN where it was not looked for; ``distance`` are steps in the ontology
    from the caption's term to the type by words.
    """
    annotation, ontology = described.annotation, described.ontology
    has_counts = annotation.best >= 0
    counted = rows[has_counts[rows]]
    places = (np.cumsum(has_counts) - 1)[counted]  # among the cells with counts
    captions = caption_cells(folders[0], maker, cells.select(has_counts), ontology, folders[1], places)
    ids = np.array([each.cl_id or "" for each in annotation.candidates], dtype=object)
    place = {cl_id: column for column, cl_id in enumerate(ids) if cl_id}
    table = captions.rename(columns={"name": "type"}).set_index(pd.Index(counted))
    table["probability"] = [
        float(annotation.probabilities[row, place[cl_id]]) if cl_id in place else np.nan
        for row, cl_id in zip(counted, table["cl_id"], strict=True)
    ]
    table["by_words"] = annotation.labels[counted]
    nearest = ids[annotation.best[counted]]
    table["distance"] = [
        ontology.distance(one, other) if one and other in ontology else np.nan
        for one, other in zip(table["cl_id"], nearest, strict=True)
    ]
    table = table.reindex(rows)
    is_empty = table["text"].isna()
    table.loc[is_empty, ["text", "type", "by_words"]] = ["No counts in the genes of the model.", NO_COUNTS, NO_COUNTS]
    table[["cl_id", "checked"]] = table[["cl_id", "checked"]].fillna("")
    return table


def captioned_cells(described: Described, names: np.ndarray, captions: pd.DataFrame) -> pd.DataFrame:
    """A row for each cell that has a caption, with the genes that stand out in it.

    Parameters
    ----------
    described
        All cells.
    names
        Of all cells.
    captions
        Of :func:`captions_of`.

    Returns
    -------
    Columns cell_id, text, type, cl_id, probability, checked, by_words, distance, genes, style.
    """
    genes = specific_genes(described.query.expression, described.query.genes)
    table = captions[["text", "type", "cl_id", "probability", "checked", "by_words", "distance"]].copy()
    table.insert(0, "cell_id", np.asarray(names, dtype=object)[captions.index])
    table["genes"] = [", ".join(genes[row]) for row in captions.index]
    table["style"] = LANGUAGE_MODEL
    return table.reset_index(drop=True)


def captioned_groups(
    described: Described, groups: np.ndarray, group_column: str, captions: pd.DataFrame
) -> pd.DataFrame:
    """A row for each group, the largest first: the caption that most of its cells got.

    Parameters
    ----------
    described
        All cells.
    groups
        Shape (n_cells,); '' for a cell of no group.
    group_column
        What the column of the groups is called.
    captions
        Of :func:`captions_of`, of all cells.

    Returns
    -------
    Columns ``group_column``, cells, text, type, cl_id, share, probability, checked, by_words, distance, genes, style;
    ``share`` is that of the caption among the cells of the group, ``probability`` the mean over the cells that have it.
    """
    query = described.query
    is_in = (groups != "") & (described.annotation.best >= 0)
    genes = genes_of_groups(query.expression[is_in], query.genes, groups[is_in])
    rows = []
    for name, n_cells in sized_groups(groups).items():
        of_group = captions.loc[np.flatnonzero(groups == name)]
        counts = of_group["text"].value_counts()
        text = min(counts.index[counts == counts.max()])
        own = of_group[of_group["text"] == text]
        first = own.iloc[0]
        by_words = own["by_words"].value_counts()
        rows.append(
            (str(name), int(n_cells), text, first["type"], first["cl_id"], len(own) / n_cells,
             own["probability"].mean(), first["checked"], min(by_words.index[by_words == by_words.max()]),
             own["distance"].mean(), ", ".join(genes.get(str(name), [])), LANGUAGE_MODEL)
        )  # fmt: skip
    return pd.DataFrame(rows, columns=[group_column, *COLUMNS_OF_GROUPS])
