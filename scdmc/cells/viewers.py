"""What viewers look for in an AnnData: a map, colours of labels, and what made it.

scanpy, cellxgene and Vitessce draw ``obsm['X_umap']``, colour a column by ``uns['COLUMN_colors']``, and take
categories for labels. Nothing of the user's is replaced: a map that is there stays, and ours gets another name.
"""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd

from scdmc.cells.clustering import umap_coordinates
from scdmc.cells.options import MOST_CELLS_OF_MAP
from scdmc.reports.colours import UNKNOWN_GREY
from scdmc.reports.figures import group_colours
from scdmc.reports.provenance import Provenance, command_text
from scdmc.version import __version__

if TYPE_CHECKING:
    import anndata

logger = logging.getLogger(__name__)

MAP_KEY, SECOND_MAP_KEY, MADE_KEY = "X_umap", "X_umap_scDMC", "scdmc"
AGAIN = re.compile(r" --overwrite\b")  # says nothing of the result
FEWEST_CELLS_LAID_OUT = 16  # the neighbours of fewer cannot be laid out


@dataclass(frozen=True)
class ForViewers:
    """What an AnnData gets beside the results.

    Attributes
    ----------
    made
        What made the results: model, seed, version and command stand in ``uns['scdmc']``.
    has_map
        True for ``obsm['X_umap']``, False for none, None for a map of at most 100,000 cells.
    columns
        Columns of the user's obs that get colours, where they have none.
    """

    made: Provenance = field(default_factory=Provenance)
    has_map: bool | None = False
    columns: tuple[str, ...] = ()

    def facts(self, map_key: str | None) -> dict[str, str]:
        """The texts of ``uns['scdmc']``; ``map`` is which key of obsm is ours."""
        return {
            "model": self.made.model,
            "version": __version__,
            "command": AGAIN.sub("", command_text()),
            "seed": "" if self.made.seed is None else str(self.made.seed),
            "map": map_key or "",
        }


def map_of_cells(embedding: np.ndarray, is_drawn: np.ndarray, seed: int) -> np.ndarray:
    """UMAP of some cells, NaN for the others; of very few cells their first two components.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    is_drawn
        Shape (n_cells,).
    seed
        Of the layout.

    Returns
    -------
    np.ndarray
        Shape (n_cells, 2), float32.
    """
    place = np.full((len(embedding), 2), np.nan, dtype=np.float32)
    drawn = embedding[is_drawn]
    if len(drawn) >= FEWEST_CELLS_LAID_OUT:
        place[is_drawn] = umap_coordinates(drawn, seed=seed)
    else:
        width = min(2, embedding.shape[1])
        place[is_drawn] = 0.0
        place[is_drawn, :width] = drawn[:, :width]
    return place


def wants_map(has_map: bool | None, n_cells: int) -> bool:
    """Whether a map is made of so many cells; the log says where it is left out for their number."""
    if has_map is not None:
        return has_map
    if n_cells > MOST_CELLS_OF_MAP:
        logger.info(
            "no UMAP of %d cells, more than %d: --umap yes makes one, with all embeddings in memory",
            n_cells,
            MOST_CELLS_OF_MAP,
        )
    return n_cells <= MOST_CELLS_OF_MAP


def key_of_map(file: h5py.File) -> str:
    """Where our map goes: ``X_umap``, unless the file has one that is not ours."""
    made = file.get(f"uns/{MADE_KEY}")
    of_earlier = made["map"].asstr()[()] if isinstance(made, h5py.Group) and "map" in made else ""
    return _free_key("X_umap" in file.get("obsm", ()), of_earlier)


def _free_key(has_map: bool, of_earlier: str) -> str:
    if not has_map or of_earlier == MAP_KEY:
        return MAP_KEY
    logger.info("obsm[%r] stays as it is; the new map is obsm[%r]", MAP_KEY, SECOND_MAP_KEY)
    return SECOND_MAP_KEY


def add_for_viewers(file: h5py.File, viewers: ForViewers, ours: Iterable[str], map_key: str | None) -> None:
    """Add colours and ``uns['scdmc']`` to an open ``.h5ad``.

    Parameters
    ----------
    file
        With the results.
    viewers
        What is said of them.
    ours
        Columns of obs that are results.
    map_key
        Of our map; None for none.
    """
    import anndata

    uns = file.require_group("uns")
    uns.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    for column in _coloured(ours, viewers.columns, uns):
        labels = file["obs"].get(column)
        if isinstance(labels, h5py.Group) and "categories" in labels:
            _replace(uns, f"{column}_colors", category_colours(anndata.io.read_elem(labels)))
    _replace(uns, MADE_KEY, viewers.facts(map_key))


def add_to_adata(
    adata: "anndata.AnnData", viewers: ForViewers, ours: Iterable[str], map_key: str | None = None
) -> None:
    """Add colours and ``uns['scdmc']`` to an AnnData in memory, as :func:`add_for_viewers` to a file."""
    for column in _coloured(ours, viewers.columns, adata.uns):
        if column in adata.obs and isinstance(adata.obs[column].dtype, pd.CategoricalDtype):
            adata.uns[f"{column}_colors"] = category_colours(adata.obs[column].array)
    adata.uns[MADE_KEY] = viewers.facts(map_key)


def key_of_map_in(adata: "anndata.AnnData") -> str:
    """Where our map goes in an AnnData in memory (:func:`key_of_map`)."""
    made = adata.uns.get(MADE_KEY, {})
    return _free_key(MAP_KEY in adata.obsm, made.get("map", "") if isinstance(made, dict) else "")


def category_colours(labels: pd.Categorical) -> np.ndarray:
    """The colour of each category, as the figures draw it, in hexadecimal digits; shape (n_categories,)."""
    drawn = group_colours(np.asarray(labels, dtype=object))
    return np.array([drawn.get(str(name), UNKNOWN_GREY) for name in labels.categories], dtype=object)


def _coloured(ours: Iterable[str], of_user: Iterable[str], uns: object) -> list[str]:
    """The columns that get colours: results, and the user's that have none; a slash would lead into a group."""
    wanted = [*ours, *(name for name in of_user if f"{name}_colors" not in uns)]
    return [name for name in dict.fromkeys(wanted) if "/" not in name]


def _replace(group: h5py.Group, name: str, value: object) -> None:
    import anndata

    if name in group:
        del group[name]
    anndata.io.write_elem(group, name, value)
