"""Cells packed for the map that a page lets move: a few bytes for each, whatever their number."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
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


MOST_POSITIONS = 65_535  # of a coordinate, 16 bits


RAMP = tuple(to_hex(colormaps["viridis"](place)) for place in np.linspace(0, 1, 9))


@dataclass(frozen=True)
class MappedCells:
    """Cells on a map.

    Attributes
    ----------
    coordinates
        Shape (n_cells, 2); cells whose are not finite are left out.
    labels, best, second
        Group of each cell, the likeliest and the second likeliest group, shape (n_cells,); None for no group.
    values
        Name -> a number from 0 to 1 of each cell, shape (n_cells,).
    unknown
        What a cell without label is called.
    """

    coordinates: np.ndarray
    labels: np.ndarray
    best: np.ndarray
    second: np.ndarray
    values: Mapping[str, np.ndarray]
    unknown: str = "Unknown"


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
    names, codes = _coded([cells.labels, cells.best, cells.second])
    kind = "<u2" if len(names) > 255 else "u1"
    label, best, second = (_packed(code[rows], kind) for code in codes)
    counts = np.bincount(codes[0], minlength=len(names) + 1)
    colours = group_colours(cells.labels)
    content = {
        **dict(zip("xy", (_packed(place, "<u2") for place in _positions(coordinates[rows])), strict=True)),
        "wide": kind == "<u2",
        "label": label,
        "best": best,
        "second": second,
        "values": [
            {"name": name, "cells": _packed(_levels(value[rows]), "u1")} for name, value in cells.values.items()
        ],
        "names": [name[:LONGEST_NAME_TO_HOVER] for name in (*names, cells.unknown)],
        "colours": [*(colours.get(name, UNKNOWN_GREY) for name in names), UNKNOWN_GREY],
        "counts": counts.tolist(),
        "order": [int(code) for code in np.argsort(-counts, kind="stable") if counts[code]],
        "unknown": len(names),
        "rows": (rows + 1).tolist() if len(rows) < len(coordinates) else None,
        "ramp": RAMP,
    }
    return InteractiveMap(caption, Path(figure), json_for_html(content), tuple(cells.values))


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


def _levels(values: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 1 as 0 to 255; what is no number is 0."""
    return np.rint(255 * np.nan_to_num(np.asarray(values, dtype=float)).clip(0, 1))


def _packed(numbers: np.ndarray, kind: str) -> str:
    """Whole numbers as base64."""
    return base64.b64encode(np.asarray(numbers).astype(kind).tobytes()).decode("ascii")
