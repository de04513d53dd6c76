"""Parity: tokenizer, model and losses give the numbers of tests/data/golden/, which plain numpy made."""

import json
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from safetensors.torch import load_file

from scdmc.genes.vocabulary import EOS_TOKEN_ID, MASK_TOKEN_ID
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import open_model_directory
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.layout import PackedLayout
from scdmc.model.packing import PackedCells
from scdmc.model.storage import load, load_model
from scdmc.reading.counts import counts_of_adata
from scdmc.tokens.tokenizer import Tokenizer, tokenize_counts
from scdmc.training.dual_stream import ScDMCForPretraining
from scdmc.training.masking import PretrainingBatch
from scdmc.training.settings import ObjectiveOptions
from tests.conftest import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
FOLDER = ROOT / "tests" / "data" / "golden"
BACK_ENDS = ("sdpa", "eager", "flex")
LOSSES = ("mlm_rank_loss", "mlm_expression_loss", "contrastive_loss", "total_loss")
KEY_SCALE = 0.5  # the momentum encoder of the vectors is the encoder with each weight so many times as large


@pytest.fixture(scope="module")
def expected():
    return load_file(FOLDER / "expected.safetensors")


@pytest.fixture(scope="module")
def model():
    return load_model(FOLDER, ScDMCForMaskedLM)


def packed(expected, name):
    layout = PackedLayout.from_lengths(expected["lengths"].tolist())
    return PackedCells(expected[name], layout)


def padded(expected, name):
    """Ids (n_cells, longest) and their mask."""
    cells = expected[name].split(expected["lengths"].tolist())
    ids = torch.nn.utils.rnn.pad_sequence(cells, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(cell) for cell in cells], batch_first=True)
    return ids, mask


def require_close(found, expected, tolerance):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def test_the_script_writes_the_same_bytes_again(tmp_path):
    subprocess.run([sys.executable, FOLDER / "make_golden.py", tmp_path], check=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in FOLDER.iterdir() if path.is_file()} - {"README.md", "make_golden.py"}
    different = [name for name in names if (tmp_path / name).read_bytes() != (FOLDER / name).read_bytes()]
    assert not different


def test_counts_become_both_streams_with_their_values(expected):
    content, directory = json.loads((FOLDER / "counts.json").read_text()), open_model_directory(FOLDER)
    adata = anndata.AnnData(scipy.sparse.csr_matrix(np.array(content["counts"], dtype=np.float32)))
    adata.var = pd.DataFrame(
        {"ensembl_id": content["genes"]}, index=[f"column_{number}" for number in range(adata.n_vars)]
    )
    tokenizer = Tokenizer(directory.vocabulary, directory.medians, directory.context)
    cells = tokenize_counts(counts_of_adata(adata), tokenizer)
    assert np.diff(cells.rank_offsets).tolist() == expected["lengths"].tolist()
    assert cells.rank_ids.tolist() == expected["ids_rank"].tolist()
    assert cells.expression_ids.tolist() == expected["ids_expression"].tolist()
    np.testing.assert_allclose(cells.expression_values, expected["expression_values"], rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("stream", ["rank", "expression"])
def test_padded_cells_have_the_states_of_every_layer(model, expected, back_end, stream):
    assert model.set_attention(back_end) == back_end
    ids, mask = padded(expected, f"ids_{stream}")
    output = model(ids, mask, output_hidden_states=True)
    states = torch.stack([state[mask.bool()] for state in output.hidden_states])
    require_close(states, expected[f"states_{stream}"], 1e-5)
    if stream == "rank":
        require_close(output.logits[mask.bool()], expected["logits_rank"], 3e-5)


@torch.no_grad()
@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("stream", ["rank", "expression"])
def test_packed_cells_have_the_states_of_every_layer(model, expected, back_end, stream):
    model.set_attention(back_end)
    cells = packed(expected, f"ids_{stream}")
    require_close(torch.stack(list(model.bert.states_by_layer(cells))), expected[f"states_{stream}"], 1e-5)
    last = expected[f"states_{stream}"][-1]
    require_close(model.bert.encode(cells), last, 1e-5)
    require_close(model.bert.encode_cls(cells), last[cells.cls_positions], 1e-5)
    if stream == "rank":
        require_close(model.cls(model.bert.encode(cells)), expected["logits_rank"], 3e-5)


def test_the_folder_is_opened_as_what_its_weights_are_and_all_of_them_are_used(expected):
    model, stored = load(FOLDER), load_file(FOLDER / "model.safetensors")
    assert type(model) is ScDMCForMaskedLM
    found = dict(model.named_parameters())
    assert set(found) == set(stored)
    assert all(torch.equal(found[name], stored[name]) for name in stored)
    encoder = load_model(FOLDER, ScDMCModel)
    require_close(encoder.encode(packed(expected, "ids_rank")), expected["states_rank"][-1], 1e-5)


@pytest.fixture(scope="module")
def batch(expected):
    """The three cells, masked as in the vectors, as pre-training packs them."""
    ids = torch.cat([expected["ids_rank"], expected["ids_expression"]])
    masked = torch.cat([expected["masked_rank"], expected["masked_expression"]])
    positions = torch.nonzero(masked == MASK_TOKEN_ID).squeeze(1)
    assert (ids[positions] > EOS_TOKEN_ID).all()
    values = torch.cat([torch.zeros(len(expected["ids_rank"])), expected["expression_values"]])
    lengths = expected["lengths"].tolist()
    return PretrainingBatch(
        PackedCells(masked, PackedLayout.from_lengths(lengths * 2)), positions, ids[positions], values[positions],
        int((expected["masked_rank"] == MASK_TOKEN_ID).sum()), torch.arange(3), torch.arange(3), (3,),
    )  # fmt: skip


def pretraining_model(**options):
    module = ScDMCForPretraining(load_model(FOLDER, ScDMCForMaskedLM), ObjectiveOptions(**options)).eval()
    with torch.no_grad():
        for parameter in module.momentum_encoder.parameters():
            parameter.mul_(KEY_SCALE)
    return module


def test_every_part_of_the_loss_of_a_batch_is_met(expected, batch):
    found = pretraining_model()(batch)
    for name in LOSSES:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-5), name
    assert found["loss"].item() == pytest.approx(expected["total_loss"].item(), rel=1e-5)


def test_the_published_divisors_are_met(expected, batch):
    found = pretraining_model(published_objective=True)(batch)
    assert found["loss"].item() == pytest.approx(expected["published_total_loss"].item(), rel=1e-5)
