"""Cells packed for the map that a page lets move: a few bytes for each, whatever their number."""

import base64
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from scdmc.labels import is_missing
from scdmc.reports.colours import UNKNOWN_GREY
from scdmc.reports.figures import group_colours
from scdmc.reports.page import InteractiveMap, json_for_html

MOST_CELLS = 100_000


LONGEST_NAME_TO_HOVER = 120  # letters


MOST_LETTERS_OF_IDS = 2_200_000  # of all cells together


MOST_COLOURINGS, MOST_GROUPS_OF_COLUMN = 8, 200


MOST_POSITIONS = 65_535  # of a coordinate, 16 bits


NO_VALUE = 255  # level of a cell without a number; the script knows it, too


RAMP = tuple(to_hex(colormaps["viridis"](place)) for place in np.linspace(0, 1, 9))


@dataclass(frozen=True)
class MappedCells:
    """Cells on a map.

    Attributes
    ----------
    coordinates
        Shape (n_cells, 2); cells whose are not finite are left out.
    labels
        Group of each cell, shape (n_cells,); None for no group.
    best, second
        The likeliest and the second likeliest group, of the same shape; None where that is not known of any cell.
    values
        Name -> a number from 0 to 1 of each cell, shape (n_cells,).
    unknown
        What a cell without label is called.
    label_name
        What the labels are.
    columns
        Name -> groups or numbers of each cell, such as its batch or its counts; shape (n_cells,).
    wrong
        True for cells to mark by a ring, shape (n_cells,); None for none.
    ids
        Names of the cells, shape (n_cells,); None for none. Long ones, which would make a page of many megabytes, are
        left out, and the number of the row names the cell.
    """

    coordinates: np.ndarray
    labels: np.ndarray
    best: np.ndarray | None = None
    second: np.ndarray | None = None
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    unknown: str = "Unknown"
    label_name: str = "label"
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    wrong: np.ndarray | None = None
    ids: np.ndarray | None = None


def columns_to_map(obs: pd.DataFrame, but: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Columns of obs that a map can be coloured by: at most eight, groups first, without names of cells and constants.

    Parameters
    ----------
    obs
        Annotation of the cells.
    but
        Columns that are left out.
    """
    groups, numbers = {}, {}
    for name, column in obs.items():
        if name in but or str(name).startswith("_") or column.nunique() < 2:
            continue
        if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
            numbers[str(name)] = column.to_numpy(dtype=float, na_value=np.nan)
        elif column.nunique() <= MOST_GROUPS_OF_COLUMN and column.nunique() < column.count():
            groups[str(name)] = column.to_numpy(dtype=object)
    return dict(list((groups | numbers).items())[:MOST_COLOURINGS])


def interactive_map(cells: MappedCells, caption: str, figure: Path, seed: int = 42) -> InteractiveMap:
    """Pack cells for a page: 16 bits a coordinate, 8 or 16 a name, 8 a value; of more than 100,000 cells a sample.

    Colours are those of :func:`scdmc.reports.figures.umap_figure`.

    Parameters
    ----------
    cells
        The cells.
    caption
        The finding.
    figure
        The same map as PNG.
    seed
        Of the sample.
    """
    coordinates = np.asarray(cells.coordinates, dtype=float)
    rows = np.flatnonzero(np.isfinite(coordinates).all(axis=1))
    if len(rows) > MOST_CELLS:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MOST_CELLS])
    others = [cells.best, cells.second] if cells.best is not None else []
    names, codes = _coded([cells.labels, *others])
    kind = "<u2" if len(names) > 255 else "u1"
    best, second = (_packed(code[rows], kind) for code in codes[1:]) if others else (None, None)
    are_numbers = {name: pd.api.types.is_numeric_dtype(column) for name, column in cells.columns.items()}
    groups = [_group(cells.label_name, names, codes[0], rows, cells.unknown)]
    groups += [
        _group(name, *_of_one(column), rows, cells.unknown)
        for name, column in cells.columns.items()
        if not are_numbers[name]
    ]
    values = [_value(name, value[rows], (0.0, 1.0)) for name, value in cells.values.items()]
    values += [
        _value(name, np.asarray(cells.columns[name])[rows]) for name, is_number in are_numbers.items() if is_number
    ]
    ids, start, end = _short_ids(cells.ids, rows)
    content = {
        **dict(zip("xy", (_packed(place, "<u2") for place in _positions(coordinates[rows])), strict=True)),
        "best": best,
        "second": second,
        "groups": groups,
        "values": values,
        "wrong": None if cells.wrong is None else _packed(np.asarray(cells.wrong)[rows], "u1"),
        "ids": ids,
        "idStart": start,
        "idEnd": end,
        "rows": (rows + 1).tolist() if len(rows) < len(coordinates) else None,
        "ramp": RAMP,
    }
    return InteractiveMap(caption, Path(figure), json_for_html(content))


def _of_one(column: np.ndarray) -> tuple[list[str], np.ndarray]:
    names, (codes,) = _coded([column])
    return names, codes


def _group(name: str, names: list[str], codes: np.ndarray, rows: np.ndarray, unknown: str) -> dict[str, object]:
    """A column of groups: its names, colours and cells of each, and the code of every cell that is shown."""
    kind = "<u2" if len(names) > 255 else "u1"
    counts = np.bincount(codes, minlength=len(names) + 1)
    colours = group_colours(np.array([*names, None], dtype=object)[codes])
    return {
        "name": name[:LONGEST_NAME_TO_HOVER],
        "wide": kind == "<u2",
        "codes": _packed(codes[rows], kind),
        "names": [each[:LONGEST_NAME_TO_HOVER] for each in (*names, unknown)],
        "colours": [*(colours.get(each, UNKNOWN_GREY) for each in names), UNKNOWN_GREY],
        "counts": counts.tolist(),
        "order": [int(code) for code in np.argsort(-counts, kind="stable") if counts[code]],
        "unknown": len(names),
    }


def _value(name: str, values: np.ndarray, ends: tuple[float, float] | None = None) -> dict[str, object]:
    """A column of numbers, as levels between its ends; without ends those of the finite numbers."""
    finite = values[np.isfinite(values)]
    low, high = ends or ((float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0))
    levels = _levels(values, low, high)
    return {
        "name": name[:LONGEST_NAME_TO_HOVER],
        "cells": _packed(levels, "u1"),
        "low": low,
        "high": high,
        "isShare": ends is not None,
    }


def _short_ids(ids: np.ndarray | None, rows: np.ndarray) -> tuple[str | None, str, str]:
    """Names of the cells, a line each, without the beginning and the end that all share; these two."""
    if ids is None or not len(rows):
        return None, "", ""
    names = [" ".join(str(name).split()) for name in np.asarray(ids, dtype=object)[rows]]
    start = _common_start(names)
    rest = [name[len(start) :] for name in names]
    end = _common_start([name[::-1] for name in rest])[::-1]
    text = "\n".join(name[: len(name) - len(end)] for name in rest)
    return (text if len(text) <= MOST_LETTERS_OF_IDS else None), start, end


def _common_start(texts: list[str]) -> str:
    """What all of several texts begin with; nothing of a single one."""
    if len(texts) < 2:
        return ""
    first, last = min(texts), max(texts)
    pairs = zip(first, last, strict=False)
    return first[: next((place for place, (one, other) in enumerate(pairs) if one != other), len(first))]


def _coded(columns: list[np.ndarray]) -> tuple[list[str], list[np.ndarray]]:
    """Names of all groups of some columns in order, and the columns as numbers of names; no group is one more."""
    codes, names = pd.factorize(np.concatenate([np.asarray(column, dtype=object) for column in columns]), sort=True)
    is_name = ~is_missing(names)
    new_code = np.append(np.where(is_name, np.cumsum(is_name) - 1, is_name.sum()), is_name.sum())  # the last: of -1
    return [str(name) for name in names[is_name]], np.split(new_code[codes], len(columns))


def _positions(coordinates: np.ndarray) -> np.ndarray:
    """Coordinates as whole numbers of one scale for both axes, the middle in the middle; shape (2, n_cells)."""
    if not len(coordinates):
        return np.zeros((2, 0))
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    span = max(float((high - low).max()), np.finfo(float).tiny)
    return np.rint(MOST_POSITIONS * (0.5 + (coordinates - (low + high) / 2) / span)).clip(0, MOST_POSITIONS).T


def _levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers between two ends as 0 to 254; what is no number is :data:`NO_VALUE`."""
    values = np.asarray(values, dtype=float)
    shares = (values - low) / max(high - low, np.finfo(float).tiny)
    return np.where(np.isfinite(values), np.rint((NO_VALUE - 1) * np.nan_to_num(shares).clip(0, 1)), NO_VALUE)


def _packed(numbers: np.ndarray, kind: str) -> str:
    """Whole numbers as base64."""
    return base64.b64encode(np.asarray(numbers).astype(kind).tobytes()).decode("ascii")
