"""Embeddings in bfloat16 are those in float32."""

import numpy as np
import pytest
import torch

from scdmc.configuration import ScDMCConfig
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.encoder import ScDMCModel
from scdmc.options import POOLINGS
from scdmc.studies.synthetic_cells import VOCAB_SIZE, synthetic_cells

CELLS = synthetic_cells(np.array([3, 40, 44, 45, 90, 200, 201, 256]))


def new_encoder(dtype, expression_input="none"):
    torch.manual_seed(0)
    config = ScDMCConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        initializer_range=0.08, expression_input=expression_input,
    )  # fmt: skip
    return ScDMCModel(config).to(dtype)


@pytest.mark.parametrize("expression_input", ["none", "value"])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("stream", ["rank", "both"])
def test_bfloat16_agrees_to_a_cosine_of_0_999(stream, pooling, expression_input):
    exact, half = (
        cell_embeddings(new_encoder(dtype, expression_input), CELLS, stream, pooling)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert exact.dtype == half.dtype == np.float32
    cosines = (exact * half).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(half, axis=1)
    assert (cosines > 0.999).all()
    assert not np.array_equal(exact, half)
    different = exact @ exact.T / np.linalg.norm(exact, axis=1)[:, None] / np.linalg.norm(exact, axis=1)
    assert different[~np.eye(len(exact), dtype=bool)].max() < cosines.min()  # the cells themselves are further apart


def test_synthetic_cells_have_different_genes_in_both_streams():
    for cell in range(len(CELLS)):
        rank = CELLS.rank_ids[slice(*CELLS.rank_offsets[cell : cell + 2])]
        expression = CELLS.expression_ids[slice(*CELLS.expression_offsets[cell : cell + 2])]
        assert (rank[0], rank[-1]) == (expression[0], expression[-1]) == (2, 3)
        assert (np.diff(expression[1:-1]) > 0).all()
        assert sorted(rank[1:-1]) == expression[1:-1].tolist()
        assert expression[1:-1].max(initial=4) < VOCAB_SIZE
