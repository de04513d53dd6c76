"""What counts as a label: one text per label whatever the type of the column, and the words for no label."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from scdmc.errors import shown_names

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


# What people and programs write where they have no label; compared without case and outer blanks.
NO_LABEL_WORDS = frozenset({
    "", "nan", "na", "n/a", "#n/a", "<na>", "n.a.", "none", "null", "nil", "nat", "-", "--", "?", ".", "missing",
    "unknown", "unassigned", "not assigned", "unlabeled", "unlabelled", "unannotated", "not annotated", "unclassified",
    "undefined", "undetermined", "unidentified", "not available", "not applicable", "no label",
})  # fmt: skip


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
