"""Splits of several runs: other seeds, the folds of a cross-validation, a type that is held out on purpose."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from scdmc.annotation.options import RunOptions
from scdmc.cells.options import SplitOptions
from scdmc.cells.splits import draw_split, groups_of, make_split, read_split, require_usable_split
from scdmc.errors import ScDMCError, shown_names
from scdmc.labels import is_missing


@dataclass(frozen=True)
class RunPlan:
    """One training and its cells.

    Attributes
    ----------
    name
        Of the run, and of its folder where there are several.
    seed
        Of the training, and of the split where none was given.
    split
        Shape (n_cells,), see :func:`scdmc.cells.splits.make_split`.
    """

    name: str
    seed: int
    split: np.ndarray


def plan_runs(options: RunOptions, obs: pd.DataFrame, labels: np.ndarray) -> list[RunPlan]:
    """The runs that the options ask for, each checked before anything is trained.

    Every seed draws a split of its own by the same rule, or a cross-validation of its own; with ``--split_file`` all
    seeds share that split.

    Parameters
    ----------
    options
        How many runs, and on which cells.
    obs
        n_cells rows with ``source_file``, ``cell_id`` and the column ``split_by`` where the split needs it.
    labels
        Shape (n_cells,).

    Raises
    ------
    ScDMCError
        If two flags contradict each other, or a split cannot be drawn or used.
    """
    if options.split_file and options.cross_validate:
        raise ScDMCError("--cross_validate draws splits of its own; leave out --split_file")
    plans = []
    for seed in range(options.split.seed, options.split.seed + options.seeds):
        split_options = replace(options.split, seed=seed)
        if options.split_file:
            splits = [read_split(options.split_file, obs, labels)]
        elif options.cross_validate:
            splits = _folds_of(options.cross_validate, split_options, obs, labels)
        else:
            splits = [draw_split(labels, obs, split_options)]
        for number, split in enumerate(splits, start=1):
            name = f"seed_{seed}" + (f"_fold_{number}" if options.cross_validate else "")
            require_usable_split(labels, split, obs)
            if options.label_fraction < 1:
                split = with_fewer_labels(labels, split, options.label_fraction, seed)
            if options.hold_out_type is not None:
                split = hold_out(labels, split, options.hold_out_type)
                require_usable_split(labels, split, obs)
            plans.append(RunPlan(name, seed, split))
    return plans


def _folds_of(n_folds: int, options: SplitOptions, obs: pd.DataFrame, labels: np.ndarray) -> list[np.ndarray]:
    return cross_validation_splits(
        labels, groups_of(obs, options), n_folds, options.validation_fraction, options.min_cells_per_type, options.seed
    )


def cross_validation_splits(
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    n_folds: int = 5,
    validation_fraction: float = 0.1,
    min_cells_per_type: int = 10,
    seed: int = 42,
) -> list[np.ndarray]:
    """Splits in which each cell that is kept is a test cell once.

    Parameters
    ----------
    labels
        Cell types, shape (n_cells,).
    groups
        Donor or batch of each cell, shape (n_cells,): whole groups are test cells together.
    n_folds
        Number of splits.
    validation_fraction
        Share of the kept cells that are validation cells, about; drawn from those that are not test cells.
    min_cells_per_type
        Types with fewer cells are left out.
    seed
        Of the draw.

    Returns
    -------
    ``n_folds`` arrays of shape (n_cells,), as :func:`scdmc.cells.splits.make_split` gives.

    Raises
    ------
    ScDMCError
        If a type has fewer cells than there are folds, or there are too few groups.
    """
    kept = np.flatnonzero(make_split(labels, min_cells_per_type=min_cells_per_type, seed=seed) != "left_out")
    types = np.asarray(labels, dtype=object)[kept].astype(str)
    _require_enough(types, None if groups is None else np.asarray(groups, dtype=object)[kept], n_folds)
    grouped = None if groups is None else np.asarray(groups, dtype=object)[kept].astype(str)
    splits = []
    for rest, test in _stratified(types, grouped, n_folds, seed):
        # One part of a division of the rest into parts of about the wanted size.
        n_parts = max(2, round((1 - 1 / n_folds) / validation_fraction))
        rest_groups = None if grouped is None else grouped[rest]
        n_parts = n_parts if rest_groups is None else min(n_parts, len(np.unique(rest_groups)))
        _, validation = next(iter(_stratified(types[rest], rest_groups, n_parts, seed)))
        split = np.full(len(labels), "left_out", dtype="<U10")
        split[kept[rest]] = "train"
        split[kept[rest[validation]]] = "validation"
        split[kept[test]] = "test"
        splits.append(split)
    return splits


def _stratified(
    types: np.ndarray, groups: np.ndarray | None, n_parts: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rest, part) for each of ``n_parts`` parts with about the same share of every type."""
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(n_parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A type with fewer cells or groups than parts is in some of them only: that is all one can do.
        warnings.simplefilter("ignore", UserWarning)
        return list(splitter.split(np.zeros(len(types)), types, groups))


def _require_enough(types: np.ndarray, groups: np.ndarray | None, n_folds: int) -> None:
    """Refuse folds that would lack a type, or groups."""
    names, cells = np.unique(types, return_counts=True)
    if cells.min() < n_folds:
        raise ScDMCError(
            f"--cross_validate {n_folds}: {str(names[cells.argmin()])!r} has {cells.min()} cells only; "
            "use fewer folds or a higher --min_cells_per_type"
        )
    if groups is None:
        return
    if is_missing(groups).any():
        raise ScDMCError(f"{is_missing(groups).sum()} cells have no group to split by; fill in the column")
    n_groups = len(np.unique(groups.astype(str)))
    if n_groups < max(n_folds, 3):
        raise ScDMCError(
            f"--cross_validate {n_folds} by groups needs {max(n_folds, 3)} groups at least, and there are {n_groups}"
        )


def with_fewer_labels(labels: np.ndarray, split: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """The split with a share of the training and validation cells of each type, at least one of each; test cells stay.

    Fewer labels are a part of more labels: with the same seed, a smaller fraction is among the cells of a larger one.
    """
    generator = np.random.default_rng(seed)
    fewer = split.copy()
    for part in ("train", "validation"):
        for label in sorted(set(labels[split == part])):
            cells = generator.permutation(np.flatnonzero((split == part) & (labels == label)))
            fewer[cells[max(1, round(fraction * len(cells))) :]] = "left_out"
    return fewer


def hold_out(labels: np.ndarray, split: np.ndarray, held_out_type: str) -> np.ndarray:
    """The split without training and validation cells of one type; its test cells stay, as cells of an unseen type.

    Raises
    ------
    ScDMCError
        If no test cell is of that type.
    """
    is_held_out = np.asarray(labels, dtype=object) == held_out_type
    if not (is_held_out & (split == "test")).any():
        there = shown_names(sorted(set(np.asarray(labels, dtype=object)[split == "test"])))
        raise ScDMCError(f"--hold_out_type {held_out_type}: no test cell is of that type; there are {there}")
    return np.where(is_held_out & np.isin(split, ("train", "validation")), "left_out", split)
