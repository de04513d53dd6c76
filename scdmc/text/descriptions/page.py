"""The page of descriptions: the texts, by group or by cell, and how sure they are."""

from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.reports.figures import shortened
from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance
from scdmc.text.annotation_page import SURE
from scdmc.text.descriptions.facts import PURE
from scdmc.text.descriptions.facts import SURE as SURE_TYPE
from scdmc.text.descriptions.options import FACTS, LANGUAGE_MODEL, DescriptionOptions
from scdmc.text.options import NO_COUNTS, UNKNOWN

# Texts of more cells make a page that nobody reads; the table has them all.
MOST_SHOWN = 200


# Columns whose content stands in the texts already, which need the room.
IN_TEXT = {FACTS: ("type", "cl_id", "share", "genes"), LANGUAGE_MODEL: ("type", "cl_id")}


TEXT_OF_STYLE = {
    FACTS: (
        "Every clause was computed: the types by the model, from words; the definition from the Cell Ontology; the "
        "genes from this file. No sentence was made up by a language model."
    ),
    LANGUAGE_MODEL: (
        "A language model said these captions, and it may say what is not so. checked tells whether the name is a term "
        "of the Cell Ontology, probability what the contrast of cells and texts gives that term, by_words the type "
        "that the contrast prefers, and distance how many steps of the ontology lie between the two."
    ),
}


def write_description_page(
    path: Path, table: pd.DataFrame, wanted: DescriptionOptions, n_types: int, made: Provenance
) -> None:
    """Write the page.

    Parameters
    ----------
    path
        The HTML file.
    table
        Of :func:`scdmc.text.descriptions.describe_file.description_table`.
    wanted
        What was described, and in which style.
    n_types
        How many types were looked for.
    made
        From what.
    """
    group_column = wanted.group_column
    shown = table.head(MOST_SHOWN).drop(columns=[*IN_TEXT[wanted.style], "style"], errors="ignore")
    what = "cells" if group_column is None else "groups"
    caption = f"The first {len(shown):,} of {len(table):,} {what}" if len(shown) < len(table) else f"All {what}"
    section = Section("In words", TEXT_OF_STYLE[wanted.style], [(caption, shown)], folds=True)
    write_report(path, f"{len(table):,} {what} in words", [section], verdict_of(table, group_column, n_types), made)


def verdict_of(table: pd.DataFrame, group_column: str | None, n_types: int) -> Verdict:
    """How sure the types are, and how many cells or groups have none."""
    is_none = table["type"].isin((UNKNOWN, NO_COUNTS))
    what = "cells" if group_column is None else "groups"
    probability = table.loc[~is_none, "probability"]
    middle = float(probability.median()) if len(probability) else np.nan
    numbers = [
        KeyNumber("Probability of the type, median", f"{middle:.2f}", f"chance {1 / n_types:.2f}"),
        KeyNumber("Without a type", f"{is_none.mean():.0%}", f"{int(is_none.sum()):,} of {len(table):,} {what}"),
    ]
    reasons = ["The types were found by words, without labels of this file: check the genes of each."]
    unsure = probability.index[probability < SURE_TYPE]
    numbers.append(KeyNumber("Unsure", f"{len(unsure):,}", f"{what} whose type has a probability below {SURE_TYPE}"))
    is_weak = not middle >= SURE / n_types or is_none.mean() > PURE or len(unsure) > len(table) / 2
    if group_column is not None:
        mixed = table.loc[table["share"] < PURE, group_column]
        numbers.append(KeyNumber("Mixed groups", f"{len(mixed):,}", "no type has half of the cells"))
        if len(mixed):
            reasons.append(f"No type has half of the cells in {', '.join(shortened(str(name)) for name in mixed[:5])}.")
            is_weak = is_weak or len(mixed) > len(table) / 2
    first = table.loc[~is_none, "type"].value_counts()
    headline = f"{len(table):,} {what} described"
    if len(first):
        headline += f"; most often {shortened(first.index[0])}"
    return Verdict("caution" if is_weak else "good", headline, tuple(reasons), tuple(numbers))
