"""Thirty colours that can be told apart, and one for each type of a run."""

import anndata
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from scdmc.reading.label_colours import label_colours, label_colours_in
from scdmc.reports.colours import GROUP_COLOURS, UNKNOWN_GREY, colours_of, ink_on, one_colour_per_type
from scdmc.reports.figures import umap_figure
from tests.conftest import ROOT

# sRGB, linear, to cone responses, and these to lightness and two axes of colour (Ottosson 2020).
TO_CONES = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                     [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
TO_OKLAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                     [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
# What people without red or without green cones see (Machado et al. 2009).
WITHOUT_RED = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                        [-0.003882, -0.048116, 1.051998]])  # fmt: skip
WITHOUT_GREEN = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                          [-0.011820, 0.042940, 0.968881]])  # fmt: skip


def linear(colours):
    parts = np.array([to_rgb(colour) for colour in colours])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return float(linear([colour])[0] @ [0.2126, 0.7152, 0.0722])


def nearest(light):
    places = np.cbrt(np.clip(light, 0, 1) @ TO_CONES.T) @ TO_OKLAB.T
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    return distances[~np.eye(len(places), dtype=bool)].min()


def test_every_colour_has_a_contrast_of_three_to_white_and_to_the_dark_ground_of_a_page():
    dark = "#16181b"
    assert f"--ground: {dark}" in (ROOT / "scdmc/reports/page.css").read_text()
    assert len(set(GROUP_COLOURS)) == 30
    for colour in GROUP_COLOURS:
        assert 1.05 / (luminance(colour) + 0.05) >= 3
        assert (luminance(colour) + 0.05) / (luminance(dark) + 0.05) >= 3


def test_any_two_colours_are_apart_for_usual_eyes_and_half_as_far_for_colour_blind_ones():
    light = linear(GROUP_COLOURS)
    assert nearest(light) >= 0.08
    assert nearest(light @ WITHOUT_RED.T) >= 0.04
    assert nearest(light @ WITHOUT_GREEN.T) >= 0.04
    assert nearest(light[:8]) >= 0.1
    assert min(nearest(light[:8] @ eyes.T) for eyes in (WITHOUT_RED, WITHOUT_GREEN)) >= 0.08


def colours_in(figure):
    return {
        handle.get_label(): to_hex(handle.get_color())
        for axes in figure.axes
        for handle in axes.get_legend().legend_handles
    }


def test_a_type_has_one_colour_in_all_figures_of_a_run_also_where_others_are_absent():
    points = np.random.default_rng(0).normal(size=(6, 2))
    labels = np.array(["a", "b", "c"] * 2, dtype=object)
    with one_colour_per_type([*labels, None], {"c": "black", "b": "no colour", "x": "red"}):
        of_all = colours_in(umap_figure(points, {"type": labels}, "t"))
        of_some = colours_in(umap_figure(points[:2], {"type": np.array(["b", "new"])}, "t"))
        of_clusters = colours_in(umap_figure(points[:2], {"cluster": np.array(["0", "1"])}, "t"))
    assert of_clusters == {"0": GROUP_COLOURS[0], "1": GROUP_COLOURS[1]}
    assert of_all == {"a": GROUP_COLOURS[0], "b": GROUP_COLOURS[1], "c": "#000000"}
    assert of_some == {"b": GROUP_COLOURS[1], "new": GROUP_COLOURS[2]}
    assert colours_of(["b"]) == {"b": GROUP_COLOURS[0]}  # the run is over


def test_unassigned_cells_are_grey_below_the_others():
    labels = np.array(["unassigned", "a", "Unknown", "a"], dtype=object)
    figure = umap_figure(np.arange(8.0).reshape(4, 2), {"type": labels}, "t")
    assert colours_in(figure) == {"a": GROUP_COLOURS[0], "unknown": UNKNOWN_GREY}
    drawn = [to_hex(colour) for colour in figure.axes[0].collections[0].get_facecolors()]
    assert drawn == [UNKNOWN_GREY] * 2 + [GROUP_COLOURS[0]] * 2


def test_colours_are_read_as_scanpy_writes_them_and_only_if_there_is_one_for_each_type(tmp_path):
    obs = pd.DataFrame({"type": pd.Categorical(["b", "a"]), "text": ["x", "y"]}, index=["0", "1"])
    adata = anndata.AnnData(np.ones((2, 1), np.float32), obs)
    adata.uns["type_colors"] = np.array(["#ff0000", "#00ff00"], dtype=object)
    adata.uns["text_colors"] = np.array(["#ff0000"], dtype=object)
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert label_colours_in(adata, "type") == {"a": "#ff0000", "b": "#00ff00"}
    assert label_colours_in(adata, "text") == label_colours_in(adata, None) == {}
    assert label_colours(tmp_path / "a.h5ad", "type") == {"a": "#ff0000", "b": "#00ff00"}
    adata.uns["type_colors"] = np.array(["#ff0000"], dtype=object)
    adata.write_h5ad(tmp_path / "b.h5ad")
    assert label_colours_in(adata, "type") == {}
    assert label_colours(tmp_path / "b.h5ad", "type") == {}
    assert label_colours(tmp_path / "a.h5ad", "text") == label_colours(tmp_path / "a.h5ad", None) == {}
    assert label_colours(tmp_path / "a.parquet", "type") == {}


def test_text_on_any_colour_of_the_maps_is_black_or_white_with_a_contrast_of_4_5():
    def luminance(colour):
        return sum(part * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
                   for part, c in zip((0.2126, 0.7152, 0.0722), to_rgb(colour), strict=True))  # fmt: skip

    for name in ("viridis", "Blues", "Greens", "RdBu_r"):
        for place in np.linspace(0, 1, 101):
            ground = colormaps[name](place)
            bright, dark = sorted((luminance(ground), luminance(ink_on(ground))), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 4.5
