"""Gene embeddings: means and standard errors by hand, official symbols, clear errors."""

import anndata
import numpy as np
import pytest
import torch

import scdmc
from scdmc.errors import ScDMCError
from scdmc.gene_analysis.states import centred_units, embed_genes
from scdmc.genes.symbols import gene_symbols, tokens_of_genes
from scdmc.genes.vocabulary import EOS_TOKEN_ID, load_vocabulary
from scdmc.model.packing import packed_streams
from tests.gene_analysis.gene_models import cells_of_genes

CD4, INS = "ENSG00000010610", "ENSG00000254647"


CELLS = cells_of_genes([[10, 11, 12], [12, 10], [11, 10, 13], [10, 13], [13, 10, 11, 12]])
LABELS = np.array(["a", "a", "a", "b", "b"])


@pytest.mark.parametrize("stream", ["rank", "expression", "both"])
def test_means_and_errors_are_those_of_the_single_states(encoder, stream):
    found = embed_genes(encoder, CELLS, LABELS, load_vocabulary(), stream, min_cells=2)
    assert list(zip(found.table["cell_type"], found.table["token"], found.table["cells"], strict=True)) == [
        ("a", 10, 3), ("a", 11, 2), ("a", 12, 2), ("b", 10, 2), ("b", 13, 2)
    ]  # fmt: skip
    for row, (name, token) in enumerate(zip(found.table["cell_type"], found.table["token"], strict=True)):
        states = []
        for cell in np.flatnonzero(name == LABELS):
            joined = []
            for single in ("rank", "expression") if stream == "both" else (stream,):
                packed = packed_streams(CELLS, np.array([cell]), single)
                with torch.inference_mode():
                    joined.append(encoder.encode(packed)[packed.input_ids == token])
            joined = torch.cat(joined, dim=1)
            states += [joined[0].numpy()] if len(joined) else []
        np.testing.assert_allclose(found.means[row], np.mean(states, axis=0), atol=1e-5)
        error = np.std(states, axis=0, ddof=1) / np.sqrt(len(states))
        np.testing.assert_allclose(found.standard_errors[row], error, atol=1e-4)
    assert found.of_type("b").table["token"].tolist() == [10, 13]
    assert found.to_frame().shape == (5, 5 + 2 * found.means.shape[1])


def test_an_adata_gives_rows_for_each_type_with_official_symbols(model_path, islets_path):
    adata = anndata.read_h5ad(islets_path)
    found = scdmc.gene_embeddings(adata, model_path, "cell_type", min_cells=5, min_cells_per_type=20)
    assert "mast" not in set(found.table["cell_type"])
    assert {"beta", "alpha"} <= set(found.table["cell_type"])
    assert found.table.query("cell_type == 'beta' and symbol == 'INS'")["gene_id"].tolist() == [INS]
    assert found.table["token"].min() > EOS_TOKEN_ID
    assert found.table["cells"].min() >= 5
    assert np.isfinite(found.standard_errors).all()
    everything = scdmc.gene_embeddings(adata, model_path)
    assert set(everything.table["cell_type"]) == {"all cells"}


def test_symbols_are_official_and_taken_in_any_case():
    vocabulary = load_vocabulary()
    assert gene_symbols([CD4, INS, "ENSG99"]).tolist() == ["CD4", "INS", "ENSG99"]
    assert vocabulary.tokens[tokens_of_genes(["cd4", f"{INS}.3"], vocabulary, "x")].tolist() == [CD4, INS]
    with pytest.raises(ScDMCError, match="--genes: 1 of 2 genes are not in the model's vocabulary, such as CDD4"):
        tokens_of_genes(["CD4", "CDD4"], vocabulary, "--genes")


def test_too_few_cells_are_refused(encoder, model_path, islets_path):
    with pytest.raises(ScDMCError, match="no gene is seen in 4 cells of one type"):
        embed_genes(encoder, CELLS, LABELS, load_vocabulary(), "rank", min_cells=4)
    with pytest.raises(ScDMCError, match="at least 2 cells"):
        embed_genes(encoder, CELLS, LABELS, load_vocabulary(), "rank", min_cells=1)
    adata = anndata.read_h5ad(islets_path)
    with pytest.raises(ScDMCError, match="no cell type has 900 cells"):
        scdmc.gene_embeddings(adata, model_path, "cell_type", min_cells_per_type=900)


def test_centred_units_have_cosines_around_zero():
    units = centred_units(np.array([[5.0, 1], [5, -1], [6, 0], [4, 0]]))
    np.testing.assert_allclose(units @ units.T, [[1, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, -1], [0, 0, -1, 1]], atol=1e-6)
