"""Train, validation and test parts: drawn once, written down, read back by every method that is compared."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupShuffleSplit

from scdmc.cells.options import SplitOptions
from scdmc.errors import ScDMCError, shown_names
from scdmc.files import atomic_path
from scdmc.labels import is_missing, label_text, labels_of
from scdmc.reading.h5ad import h5ad_files, read_obs
from scdmc.reports.tables import quoting_of
from scdmc.tokens.tokenized_cells import require_obs_columns

PARTS = ("train", "validation", "test", "left_out")


SPLIT_COLUMNS = ("source_file", "cell_id", "label", "split")


# Whole groups leave few choices, and a blind draw can put all of a type into one part: the best of these is kept.
GROUP_DRAWS = 100


# Of the types that are left out, in one line of the log.
TYPES_NAMED = 20


logger = logging.getLogger(__name__)


def draw_split(labels: np.ndarray, obs: pd.DataFrame, options: SplitOptions) -> np.ndarray:
    """The split of n_cells labels and rows of obs that the options ask for, as :func:`make_split` gives it."""
    return make_split(
        labels,
        groups_of(obs, options),
        options.validation_fraction,
        options.test_fraction,
        options.min_cells_per_type,
        options.seed,
    )


def groups_of(obs: pd.DataFrame, options: SplitOptions) -> np.ndarray | None:
    """Group of each cell whose groups stay in one part, shape (n_cells,); None where cells are split one by one."""
    return labels_of(obs[options.split_by]) if options.split_by else None


def make_split(
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    min_cells_per_type: int = 10,
    seed: int = 42,
) -> np.ndarray:
    """Assign each cell to a part (docs/method.md, "Evaluation rules").

    Without ``groups`` the draw is made type by type, so that each type with at least three cells is in all three parts.
    With ``groups`` a whole group goes to one part; of many draws of groups the one is taken that leaves out the fewest
    types of a part and comes closest to the wanted share of every type. Types left out are named in the log.

    Parameters
    ----------
    labels
        Cell types, shape (n_cells,). NaN, None and words for no label (:mod:`scdmc.labels`) mean that it is not known.
    groups
        Donor or batch of each cell, shape (n_cells,).
    validation_fraction, test_fraction
        Shares of the cells that are kept (with ``groups``: of the groups), at least one.
    min_cells_per_type
        Types with fewer cells are left out.
    seed
        Of the draw.

    Returns
    -------
    np.ndarray
        "train", "validation", "test" or "left_out", shape (n_cells,).

    Raises
    ------
    ScDMCError
        If the fractions leave nothing to train on, fewer than two types remain or reach the training part, or
        there are fewer than three groups.
    """
    if not (min(validation_fraction, test_fraction) > 0 and validation_fraction + test_fraction < 1):
        raise ScDMCError(
            f"validation fraction {validation_fraction} and test fraction {test_fraction} must be above 0 and "
            "together below 1"
        )
    kept = _cells_of_frequent_types(labels, min_cells_per_type)
    kept_labels = np.asarray(labels, dtype=object)[kept].astype(str)
    fractions = (validation_fraction, test_fraction)
    if groups is None:
        parts = _split_each_type(kept_labels, *fractions, seed)
    else:
        parts = _split_whole_groups(kept_labels, _known_groups(groups, kept), *fractions, seed)
    if len(np.unique(kept_labels[parts == "train"])) < 2:
        raise ScDMCError("the training part holds fewer than two types; use other groups, fractions or another seed")
    split = np.full(len(kept), "left_out", dtype="<U10")
    split[kept] = parts
    return split


def _cells_of_frequent_types(labels: np.ndarray, min_cells_per_type: int) -> np.ndarray:
    """Mark the cells whose type is known and has enough cells, and name the other types in the log."""
    missing = is_missing(labels)
    # As text already here: 1 and "1" are one type in the file and in every score.
    cells_per_type = pd.Series(np.asarray(labels, dtype=object)[~missing].astype(str)).value_counts()
    rare = cells_per_type[cells_per_type < min_cells_per_type]
    if len(rare):
        named = shown_names([f"{name} ({count})" for name, count in sorted(rare.items())], TYPES_NAMED)
        logger.info("left out, fewer than %d cells: %s", min_cells_per_type, named)
    if missing.any():
        logger.info("left out, no label: %d cells", missing.sum())
    if len(cells_per_type) - len(rare) < 2:
        found = ", ".join(f"{name} ({count})" for name, count in cells_per_type.head(3).items()) or "no label at all"
        raise ScDMCError(
            f"fewer than two types have at least {min_cells_per_type} cells (found: {found}); "
            "give another label column or a lower minimum"
        )
    kept = ~missing
    kept[kept] = ~np.isin(np.asarray(labels, dtype=object)[kept].astype(str), list(rare.index))
    return kept


def _known_groups(groups: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return the groups of the kept cells as text, shape (n_kept,); an unknown one could be in two parts: an error."""
    groups = np.asarray(groups, dtype=object)[kept]
    n_missing = int(is_missing(groups).sum())
    if n_missing:
        raise ScDMCError(f"{n_missing} cells have no group to split by; fill in the column or leave these cells out")
    groups = groups.astype(str)
    names = np.unique(groups)
    if len(names) < 3:
        raise ScDMCError(
            f"splitting by group needs at least 3 groups, one for each part, and there are {len(names)} "
            f"({shown_names(names)}); choose another column or split by cell"
        )
    return groups


def _split_each_type(labels: np.ndarray, validation_fraction: float, test_fraction: float, seed: int) -> np.ndarray:
    """Draw the parts within each type; at least one cell each for validation and test where a type has three."""
    generator = np.random.default_rng(seed)
    parts = np.full(len(labels), "train", dtype="<U10")
    for label in np.unique(labels):
        cells = generator.permutation(np.flatnonzero(labels == label))
        n_test = max(1, round(len(cells) * test_fraction)) if len(cells) > 1 else 0
        n_validation = max(1, round(len(cells) * validation_fraction)) if len(cells) > 2 else 0
        # Rounding up twice may not leave a small type without a training cell.
        n_test = min(n_test, len(cells) - n_validation - 1)
        parts[cells[:n_test]] = "test"
        parts[cells[n_test : n_test + n_validation]] = "validation"
    return parts


def _split_whole_groups(
    labels: np.ndarray, groups: np.ndarray, validation_fraction: float, test_fraction: float, seed: int
) -> np.ndarray:
    """Draw the test groups first, then the validation groups from the others."""
    parts = np.full(len(labels), "train", dtype="<U10")
    parts[_groups_held_out(labels, groups, test_fraction, 2, seed)] = "test"
    others = np.flatnonzero(parts == "train")
    rest_fraction = validation_fraction / (1 - test_fraction)
    parts[others[_groups_held_out(labels[others], groups[others], rest_fraction, 1, seed)]] = "validation"
    return parts


def _groups_held_out(labels: np.ndarray, groups: np.ndarray, fraction: float, n_staying: int, seed: int) -> np.ndarray:
    """Find the best draw of groups and return the indices of its cells.

    A type should not be missing on either side, above all not among the cells that stay for training; of the draws that
    are equal in this, the one is best whose share of every type is closest to ``fraction``.
    """
    n_groups = len(np.unique(groups))
    # The parts still to be filled need a group each.
    n_held_out = min(max(1, round(fraction * n_groups)), n_groups - n_staying)
    _, types = np.unique(labels, return_inverse=True)
    cells_per_type = np.bincount(types)
    draws = GroupShuffleSplit(n_splits=GROUP_DRAWS, test_size=n_held_out, random_state=seed)

    def badness(held_out: np.ndarray) -> tuple[int, int, float]:
        share = np.bincount(types[held_out], minlength=len(cells_per_type)) / cells_per_type
        return int((share == 1).sum()), int((share == 0).sum()), float(np.abs(share - fraction).sum())

    return min((held_out for _, held_out in draws.split(labels, groups=groups)), key=badness)


def write_split(path: Path, obs: pd.DataFrame, labels: np.ndarray, split: np.ndarray) -> None:
    """Write a split as CSV with columns source_file, cell_id, label, split.

    Parameters
    ----------
    path
        The file.
    obs
        Columns source_file and cell_id, n_cells rows.
    labels, split
        Shape (n_cells,).

    Raises
    ------
    ScDMCError
        If ``obs`` lacks a column or names two cells alike: such a file could not be read back.
    """
    keys = _unique_cell_keys(obs)
    table = keys.to_frame(index=False).assign(label=_label_texts(labels), split=np.asarray(split))
    with atomic_path(Path(path)) as temporary:
        table = table[list(SPLIT_COLUMNS)]
        table.to_csv(temporary, index=False, lineterminator="\n", quoting=quoting_of(table))


def read_split(path: Path, obs: pd.DataFrame, labels: np.ndarray | None = None) -> np.ndarray:
    """Look up the part of each cell of ``obs`` in a file written by :func:`write_split`.

    Parameters
    ----------
    path
        The CSV file. It may hold more cells than ``obs``, in any order.
    obs
        Columns source_file and cell_id, n_cells rows.
    labels
        Shape (n_cells,): the labels that are about to be used, if they should be those that the split was made from.

    Returns
    -------
    np.ndarray
        "train", "validation", "test" or "left_out", shape (n_cells,).

    Raises
    ------
    ScDMCError
        If the file is absent, lacks a column, repeats a cell, has another word as part, lacks a cell of ``obs``, or was
        made from other labels.
    """
    table = _read_split_table(Path(path))
    keys_in_file = _cell_keys(table)
    repeated = keys_in_file[keys_in_file.duplicated()]
    if len(repeated):
        raise ScDMCError(f"{path}: {_first_cells(repeated)} repeated; keep one line for each cell")
    keys = _cell_keys(obs)
    rows = keys_in_file.get_indexer(keys)
    absent = keys[rows < 0]
    if len(absent):
        raise ScDMCError(f"{path}: {_first_cells(absent)} not in the file; make the split again from this data")
    if labels is not None:
        _require_same_labels(path, keys, table["label"].to_numpy(dtype=object)[rows], _label_texts(labels))
    return table["split"].to_numpy(dtype=str)[rows]


def cells_in_training(path: Path, obs: pd.DataFrame) -> np.ndarray:
    """True for the cells whose labels a classifier was made with: 'train' and 'validation' of its split.

    Cells that the split does not know are no cells of its training. Where the split does not know a cell's file (it was
    renamed, or the cells come from memory), the cell's name alone decides.

    Parameters
    ----------
    path
        ``split.csv`` of the classifier.
    obs
        Columns source_file and cell_id, n_cells rows.

    Returns
    -------
    Shape (n_cells,).

    Raises
    ------
    ScDMCError
        If the file is absent or no split.
    """
    table = _read_split_table(Path(path))
    used = table[table["split"].isin(("train", "validation"))]
    is_known_file = obs["source_file"].astype(str).isin(table["source_file"]).to_numpy()
    by_name = obs["cell_id"].astype(str).isin(used["cell_id"]).to_numpy()
    return np.where(is_known_file, _cell_keys(obs).isin(_cell_keys(used)), by_name)


def _require_same_labels(path: Path, keys: pd.MultiIndex, in_file: np.ndarray, labels: np.ndarray) -> None:
    """Refuse a split whose column label is not the labels at hand; all of shape (n_cells,)."""
    differing = np.flatnonzero(in_file != labels)
    if len(differing):
        first = differing[0]
        raise ScDMCError(
            f"{path}: {_first_cells(keys[differing])} have other labels in the file, the first {in_file[first]!r} "
            f"instead of {labels[first]!r}; the split was made from another column, or with other --ignore_labels or "
            "--keep_labels; make it again"
        )


def require_usable_split(labels: np.ndarray, split: np.ndarray, obs: pd.DataFrame) -> None:
    """Refuse, before any training, a split that could not be trained on, scored or written.

    Parameters
    ----------
    labels, split
        Shape (n_cells,).
    obs
        Columns source_file and cell_id, n_cells rows.

    Raises
    ------
    ScDMCError
        If two cells have one name, a cell of the three parts has no label, a part is empty, or the training part holds
        fewer than two types.
    """
    keys = _unique_cell_keys(obs)
    unlabelled = keys[is_missing(labels) & (split != "left_out")]
    if len(unlabelled):
        raise ScDMCError(
            f"{_first_cells(unlabelled)} have a part of the split but no label, or one of no type; "
            "the split was made from another column, or with other --ignore_labels or --keep_labels; make it again"
        )
    empty = [part for part in PARTS[:3] if not (split == part).any()]
    if empty:
        raise ScDMCError(f"the split has no {' and no '.join(empty)} cells among these; make another split")
    types = sorted(set(np.asarray(labels, dtype=object)[split == "train"]))
    if len(types) < 2:
        raise ScDMCError(f"the training cells have one type only, {types[0]!r}; a classifier needs two")


def _read_split_table(path: Path) -> pd.DataFrame:
    """Read the CSV as text and check its columns and words."""
    if not path.is_file():
        raise ScDMCError(f"{path}: no such file (split)")
    try:
        # A cell may be called "NA" or "007": everything stays text.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ScDMCError(f"{path} (split) is not a CSV table: {' '.join(str(error).split())}") from error
    missing = [column for column in SPLIT_COLUMNS if column not in table.columns]
    if missing:
        raise ScDMCError(f"{path}: column {', '.join(missing)} missing; a split has {', '.join(SPLIT_COLUMNS)}")
    unknown = table.loc[~table["split"].isin(PARTS), "split"].unique()
    if len(unknown):
        values = ", ".join(repr(str(word)) for word in unknown[:3])
        raise ScDMCError(f"{path}: unknown value in column split: {values}; use {', '.join(PARTS)}")
    return table


def _label_texts(labels: np.ndarray) -> np.ndarray:
    """Labels as a split file holds them, shape (n_cells,): text, '' where missing."""
    labels = np.asarray(labels, dtype=object)
    texts = ["" if absent else label_text(label) for label, absent in zip(labels, is_missing(labels), strict=True)]
    return np.array(texts, dtype=object)


def _unique_cell_keys(obs: pd.DataFrame) -> pd.MultiIndex:
    """(source_file, cell_id) of each row, after a check that no two are alike: a split knows cells by name."""
    keys = _cell_keys(obs)
    repeated = keys[keys.duplicated()]
    if len(repeated):
        raise ScDMCError(f"{_first_cells(repeated)} repeated in the data; give every cell of a file its own name")
    return keys


def _cell_keys(obs: pd.DataFrame) -> pd.MultiIndex:
    """(source_file, cell_id) of each row, as text."""
    missing = [column for column in ("source_file", "cell_id") if column not in obs.columns]
    if missing:
        raise ScDMCError(f"the table of cells has no column {', '.join(missing)}")
    return pd.MultiIndex.from_frame(obs[["source_file", "cell_id"]].astype(str))


def _first_cells(keys: pd.MultiIndex) -> str:
    """Count and first three of some cells, for a message."""
    named = ", ".join(f"{source_file}:{cell_id}" for source_file, cell_id in keys[:3])
    return f"{len(keys)} cells ({named}{', ...' if len(keys) > 3 else ''})"


def cells_of_files(data_path: Path, columns: list[str]) -> pd.DataFrame:
    """Cells of one ``.h5ad`` or of a folder of them, one file after the other.

    Returns
    -------
    n_cells rows with source_file, cell_id and the columns asked for.

    Raises
    ------
    ScDMCError
        If there is no such file, or no file has one of the columns.
    """
    tables = {path.name: read_obs(path) for path in h5ad_files(data_path)}
    require_obs_columns(tables, columns)
    parts = [
        pd.DataFrame({name: obs[name].astype(object) for name in columns if name in obs}, index=obs.index).assign(
            source_file=source_file, cell_id=obs.index.astype(str)
        )
        for source_file, obs in tables.items()
    ]
    return pd.concat(parts, ignore_index=True)
