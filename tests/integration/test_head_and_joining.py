"""Adapting without training the encoder: blocks of equal say, and a head that draws batches together."""

from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.integration.adaptation import mutual_neighbours
from scdmc.integration.adapted_rows import HEAD_CONTROL, adapted_rows
from scdmc.integration.contrastive_head import contrastive_head
from scdmc.integration.joining import joined, scaled_block
from scdmc.integration.options import AdaptationSettings, HeadSettings, IntegrationOptions
from scdmc.integration.row import CONTROL, RowContext

pytestmark = pytest.mark.usefixtures("one_thread")
HEAD_ROWS = {"scDMC head", HEAD_CONTROL}
SETTINGS = HeadSettings(dimensions=8, steps=60, batch_size=64, neighbors=5)


@pytest.fixture(scope="module")
def two_batches():
    """120 cells of three types in two batches, which a shift tells apart: features, batch, type."""
    generator = np.random.default_rng(0)
    kind, batch = np.arange(120) % 3, np.repeat(["a", "b"], 60)
    features = generator.normal(size=(3, 12))[kind] * 3 + generator.normal(size=(120, 12)) * 0.5
    return features + (batch == "b")[:, None] * generator.normal(size=12) * 2, batch, kind


@pytest.fixture(scope="module")
def pairs(two_batches):
    features, batch, _ = two_batches
    return mutual_neighbours(features, batch, SETTINGS.neighbors)


def context(features, batch, options, seed=1):
    """A context whose components and embedding of scDMC are given; there are no labels in it at all."""
    made = RowContext(SimpleNamespace(batch=batch), None, None, options, seed)
    made.for_all_seeds |= {"pca": features, "zero-shot": features[:, ::2]}
    return made


def embed(name, features, batch, seed=1):
    options = IntegrationOptions(methods=("pca",), protocols=("published",), head=SETTINGS, joined=True)
    rows = {row.name: row for row in adapted_rows(options)}
    return rows[name].embedding(context(features, batch, options, seed))


def similarities(embedding):
    directions = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    return directions @ directions.T


def mixing(embedding, batch, kind):
    """Distance between the means of two batches, in units of that between types; 0 for batches that are mixed."""
    means = {
        (b, k): embedding[(batch == b) & (kind == k)].mean(axis=0) for b in np.unique(batch) for k in np.unique(kind)
    }
    within = np.mean([np.linalg.norm(means["a", k] - means["b", k]) for k in range(3)])
    between = np.mean([np.linalg.norm(means["a", k] - means["a", (k + 1) % 3]) for k in range(3)])
    return within / between


def test_blocks_have_the_same_say_whatever_their_size_and_place(two_batches):
    features, _, _ = two_batches
    block = scaled_block(features)
    assert (block**2).sum(axis=1).mean() == pytest.approx(1)
    np.testing.assert_allclose(block.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled_block(1e6 * features - 3), block, atol=1e-9)
    side_by_side = joined([features, 100 * features[:, :4]])
    assert side_by_side.shape == (120, 16)
    assert (side_by_side[:, 12:] ** 2).sum(axis=1).mean() == pytest.approx(1)
    order = np.random.default_rng(1).permutation(120)
    np.testing.assert_allclose(joined([features[order], features[order]]), joined([features, features])[order])
    assert not scaled_block(np.ones((4, 3))).any()


def test_the_head_mixes_batches_and_keeps_types(two_batches, pairs):
    features, batch, kind = two_batches
    embedding = contrastive_head(features, pairs, batch, SETTINGS, 1)
    assert embedding.shape == (120, 8)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)
    assert mixing(embedding, batch, kind) < 0.3 * mixing(features, batch, kind)


def test_the_head_repeats_for_a_seed_and_does_not_hang_on_the_order_of_cells(two_batches, pairs):
    features, batch, _ = two_batches
    first = contrastive_head(features, pairs, batch, SETTINGS, 1)
    np.testing.assert_array_equal(first, contrastive_head(features, pairs, batch, SETTINGS, 1))
    other = contrastive_head(features, pairs, batch, SETTINGS, 2)
    assert not np.allclose(first, other)
    order = np.random.default_rng(3).permutation(120)
    turned = contrastive_head(features[order], pairs[order][:, order], batch[order], SETTINGS, 1)
    expected = similarities(first)[np.ix_(order, order)]
    # Other cells are drawn, as with another seed: what is near stays near.
    assert np.corrcoef(similarities(turned).ravel(), expected.ravel())[0, 1] > 0.9


def test_a_batch_of_one_cell_and_one_without_partners_are_embedded(two_batches):
    features, batch, _ = two_batches
    batch = np.append(batch[:-1], "alone")
    pairs = mutual_neighbours(features, batch, 5, centre_batches=False)
    assert np.isfinite(contrastive_head(features, pairs, batch, SETTINGS, 1)).all()
    none = scipy.sparse.csr_array((120, 120), dtype=bool)
    assert np.isfinite(contrastive_head(features, none, batch, SETTINGS, 1)).all()


@pytest.mark.parametrize("name", ["scDMC head", "scDMC + PCs, Harmony", HEAD_CONTROL])
def test_rows_embed_without_labels_and_repeat_for_a_seed(two_batches, name):
    features, batch, kind = two_batches
    embedding = embed(name, features, batch)
    widths = {"scDMC head": 12 + 6 + 8, "scDMC + PCs, Harmony": 12 + 6, HEAD_CONTROL: 12 + 8}
    assert embedding.shape == (120, widths[name])
    np.testing.assert_array_equal(embedding, embed(name, features, batch))
    assert mixing(embedding, batch, kind) < mixing(features, batch, kind)


def test_one_batch_is_refused_in_words(two_batches):
    with pytest.raises(ScDMCError, match="Harmony needs at least two batches"):
        embed("scDMC head", two_batches[0], np.repeat("a", 120))


def test_each_way_to_adapt_has_its_rows_and_the_head_its_control():
    def names(**options):
        return [row.name for row in adapted_rows(IntegrationOptions(protocols=("published",), **options))]

    assert names() == []
    assert names(head=HeadSettings()) == ["scDMC head", HEAD_CONTROL]
    assert names(joined=True) == ["scDMC + PCs, Harmony"]
    every = names(head=HeadSettings(), joined=True, adaptation=AdaptationSettings(steps=1))
    assert every == ["scDMC adapted", "scDMC + PCs, Harmony", "scDMC adapted + PCs, Harmony",
                     "scDMC head", "scDMC adapted head", HEAD_CONTROL]  # fmt: skip
    rows = adapted_rows(IntegrationOptions(protocols=("published",), head=HeadSettings()))
    assert [row.kind == CONTROL for row in rows] == [False, True]
    assert all(row.is_integrated for row in rows)


def test_the_command_adds_the_rows_and_needs_no_label(load_script, tmp_path, model_path, adata):
    few = adata[::3].copy()
    del few.obs["cell_type"]
    few.write_h5ad(tmp_path / "few.h5ad")
    words = ["--model", str(model_path), "--data_path", str(tmp_path / "few.h5ad"), "--methods", "pca", "--adapt"]
    words += ["--seeds", "1", "--output_dir", str(tmp_path / "out")]
    assert load_script("downstream_tasks/integration.py").main(words) == 0
    assert set(pd.read_csv(tmp_path / "out" / "metrics.csv")["method"]) == {"PCA, not integrated", *HEAD_ROWS}
    made = anndata.read_h5ad(tmp_path / "out" / "integrated.h5ad").obsm
    assert set(made) == {"X_pca", "X_scDMC_head", "X_pca_head", "X_umap"}
    assert np.isfinite(made["X_scDMC_head"]).all()
