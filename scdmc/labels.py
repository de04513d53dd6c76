"""What counts as a label: one text per label whatever the type of the column, and the words for no label."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from scdmc.errors import ScDMCError, shown_names
from scdmc.options import LabelOptions

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


# What people and programs write where they have no label; compared without case and outer blanks.
NO_LABEL_WORDS = frozenset({
    "", "nan", "na", "n/a", "#n/a", "<na>", "n.a.", "none", "null", "nil", "nat", "-", "--", "?", ".", "missing",
    "unknown", "unassigned", "not assigned", "unlabeled", "unlabelled", "unannotated", "not annotated", "unclassified",
    "undefined", "undetermined", "unidentified", "not available", "not applicable", "no label",
})  # fmt: skip


# What is written of cells that are no type: they hold two cells, none, or what did not fit. Compared in lower case,
# with a blank for "_" and "-", and without "cells" at the end.
NOT_A_TYPE_WORDS = frozenset({
    "other", "others", "misc", "miscellaneous", "rest", "ambiguous", "uncertain", "unsure", "unresolved", "unclear",
    "mixed", "ambient", "ambient rna", "background", "empty droplet", "empty droplets", "empty", "lowquality", "low qc",
    "poor quality", "bad quality", "failed qc", "dead", "dying", "damaged", "artifact", "artifacts", "artefact",
    "artefacts", "contamination", "contaminant", "contaminants", "junk", "garbage", "outlier", "outliers", "excluded",
    "removed", "to remove", "filtered", "no call",
})  # fmt: skip


# A label with one of these in it ("T/B doublet") is no type either.
NOT_A_TYPE = re.compile(r"\b(doublets?|multiplets?|low quality|debris)\b")


# A whole number that was once a float and then text; "1.5" beside it shows that ".0" means something.
WHOLE_NUMBER = re.compile(r"([+-]?[0-9]+)(\.0*)?")


TRUTH_WORDS = {"true": "True", "false": "False"}


# Floats hold every whole number up to here.
LARGEST_WHOLE = 2**53


def is_missing(labels: np.ndarray) -> np.ndarray:
    """True where a label is NaN, None, or one of :data:`NO_LABEL_WORDS`; shape (n_cells,)."""
    import pandas as pd  # only now: tokenized cells are read without it

    labels = np.asarray(labels, dtype=object)
    missing = np.asarray(pd.isna(labels), dtype=bool)
    missing[~missing] = [isinstance(label, str) and is_no_label(label) for label in labels[~missing]]
    return missing


def is_no_label(text: str) -> bool:
    """True for a word that says that there is no label."""
    return text.strip().casefold() in NO_LABEL_WORDS


def is_no_type(text: str) -> bool:
    """True for a label of cells that are no type, such as doublets (docs/data.md, "Labels")."""
    plain = re.sub(r"[\s_-]+", " ", text.casefold()).strip()
    word = re.sub(r" cells?$", "", plain)
    is_unknown = word != plain and is_no_label(word)  # "unknown cells"
    return is_unknown or bool({plain, word} & NOT_A_TYPE_WORDS) or NOT_A_TYPE.search(plain) is not None


def type_labels(column: "pd.Series", options: LabelOptions | None = None) -> tuple[np.ndarray, dict[str, int]]:
    """The types of a column of obs, as all that trains on labels, votes by them or scores against them reads it.

    Labels of no type, such as doublets, are left out as if there were no label. They are named and counted in the log.

    Parameters
    ----------
    column
        Labels of n_cells cells.
    options
        Which labels are types; by default those that :func:`is_no_type` does not take for none.

    Returns
    -------
    types
        As :func:`labels_of`, None also where a label is no type; shape (n_cells,).
    left_out
        Label of no type -> its cells, the most frequent first.

    Raises
    ------
    ScDMCError
        If a label is both ignored and kept, one that is ignored is not in the column, or one that is kept is a word for
        no label.
    """
    options = options or LabelOptions()
    labels = labels_of(column)
    numbers = Counter(label for label in labels if label is not None)
    _require_meant(column.name, numbers, options)
    left_out = {
        label: number
        for label, number in numbers.most_common()
        if label in options.ignore_labels or (is_no_type(label) and label not in options.keep_labels)
    }
    if left_out:
        labels[[label in left_out for label in labels]] = None
        logger.warning(
            "warning: obs[%r]: %s cells have a label of no type, %s, and count nowhere, neither in training nor in "
            'scores; docs/data.md, "Labels", says how to keep one that is a type',
            column.name, f"{sum(left_out.values()):,}", left_out_text(left_out),
        )  # fmt: skip
    return labels, left_out


def left_out_text(left_out: Mapping[str, int]) -> str:
    """Labels of no type and their cells, on one line; 'none' where there are none."""
    return shown_names([f"{label!r} ({number:,})" for label, number in left_out.items()]) or "none"


def _require_meant(column: object, numbers: Mapping[str, int], options: LabelOptions) -> None:
    """Refuse words of the options that cannot be meant."""
    both = [label for label in options.ignore_labels if label in options.keep_labels]
    if both:
        raise ScDMCError(f"--ignore_labels and --keep_labels both name {both[0]!r}; give it to one of them")
    absent = [label for label in options.ignore_labels if label not in numbers and not is_no_label(label)]
    if absent:
        there = shown_names(sorted(numbers))
        raise ScDMCError(f"--ignore_labels {absent[0]!r}: obs[{column!r}] has no such label; it has {there}")
    words = [label for label in options.keep_labels if is_no_label(label)]
    if words:
        raise ScDMCError(
            f"--keep_labels {words[0]!r}: this word says that there is no label; rename it in obs[{column!r}] if it is "
            "a type"
        )


def label_text(value: object) -> str:
    """The text of a label, the same for 7, 7.0 and "7", and for True of any kind."""
    if isinstance(value, bytes):
        return value.decode("utf8", "replace")
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, float | np.floating) and abs(value) <= LARGEST_WHOLE and value == int(value):
        return str(int(value))
    return str(value)


def labels_of(column: "pd.Series") -> np.ndarray:
    """A column of obs as text, shape (n_cells,); None where there is no label.

    Numbers have one text over all types and files (docs/data.md, "Labels"). Words for no label are named and counted in
    the log, and so are labels that differ in case or blanks only.
    """
    import pandas as pd

    values = column.to_numpy(dtype=object)
    if column.dtype.kind == "f":
        values = np.array(list(column.to_numpy()), dtype=object)  # a float32 keeps its short text, 0.1
    missing = np.asarray(pd.isna(values), dtype=bool)
    texts = np.full(len(values), None, dtype=object)
    texts[~missing] = [label_text(value) for value in values[~missing]]
    numbers = Counter(texts[~missing].tolist())
    words = {text: number for text, number in numbers.items() if is_no_label(text)}
    written = {value for value in values[~missing] if isinstance(value, str)} - set(words)
    same = {**dict.fromkeys(words), **_one_text(written)}
    if same:
        texts[:] = [same.get(text, text) for text in texts]
    _warn(column.name, words, {text: numbers[text] for text in numbers if text not in words})
    return texts


def _one_text(written: set[str]) -> dict[str, str]:
    """Text that is a number or a truth value -> as that is written, where all labels that are text are of the kind."""
    whole = {text: WHOLE_NUMBER.fullmatch(text.strip()) for text in written}
    if all(whole.values()):
        return {text: match[1] for text, match in whole.items() if match[2]}
    if all(text.strip().casefold() in TRUTH_WORDS for text in written):
        return {text: TRUTH_WORDS[text.strip().casefold()] for text in written}
    return {}


def _warn(column: object, words: Mapping[str, int], numbers: Mapping[str, int]) -> None:
    """Say which words mean no label, and which labels look like one."""
    meaningful = {text: number for text, number in words.items() if text}
    if meaningful:
        named = shown_names([f"{text!r} ({number:,})" for text, number in meaningful.items()])
        logger.warning(
            "warning: obs[%r]: %s cells hold a word for no label, %s, and count as unlabelled",
            column, f"{sum(meaningful.values()):,}", named,
        )  # fmt: skip
    alike = defaultdict(list)
    for text in sorted(numbers):
        alike["".join(text.split()).casefold()].append(text)
    groups = [group for group in alike.values() if len(group) > 1]
    if groups:
        named = shown_names(
            [" and ".join(f"{text!r} ({numbers[text]:,})" for text in group) for group in groups]
        )  # fmt: skip
        logger.warning(
            "warning: obs[%r]: labels that differ in case or blanks only are taken as different: %s; "
            "write them alike if they are one", column, named,
        )  # fmt: skip
