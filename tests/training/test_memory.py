"""The memory that a step takes, computed before it is tried."""

import re

import numpy as np
import pytest
import torch

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.training.dual_stream import ScDMCForPretraining
from scdmc.training.masking import masked_batch
from scdmc.training.memory import BYTES_OF_HEAD, BYTES_OF_LAYER, GIB, predicted_memory, require_memory
from scdmc.training.settings import MaskingOptions, ObjectiveOptions
from tests.conftest import ROOT
from tests.training.runs import random_cells

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_A_CARD = 80e9 * 0.9  # torch and the kernels take some of it


@pytest.fixture(scope="module")
def published():
    """The paper's model, without memory for its weights."""
    with torch.device("meta"):
        return ScDMCForPretraining(ScDMCForMaskedLM(ScDMCConfig()), ObjectiveOptions())


@pytest.mark.parametrize(
    ("n_cells", "gradient_checkpointing", "gibibytes"),
    [(24, False, 25.1), (48, False, 48.5), (72, False, 72.2), (96, False, 95.9), (96, True, 20.6)],
)
def test_the_published_model_takes_what_its_tensors_were_counted_to_take(
    published, n_cells, gradient_checkpointing, gibibytes
):
    # Counted on fake tensors of CUDA with the kernels of flash-attn 2.8.3, full cells.
    predicted = predicted_memory(published, ScDMCConfig(), 2 * 2048 * n_cells, gradient_checkpointing)
    assert predicted / GIB == pytest.approx(gibibytes, rel=0.1)


def number(command, flag, otherwise):
    found = re.search(rf"--{flag}[ =](\d+)", command)
    return int(found[1]) if found else otherwise


def commands_of_training():
    """Each command of the guide that trains the paper's model, whatever it runs on."""
    for page in PAGES:
        for line in page.read_text(encoding="utf8").replace("\\\n", " ").splitlines():
            trains = re.search(r"(scDMC_pretrain|pretrain_step)\.py .*--batch_size", line)
            if trains and number(line, "hidden_size", 512) == 512 and number(line, "num_hidden_layers", 12) == 12:
                yield line


def test_what_the_guide_trains_on_a_gpu_fits_a_card_of_80_gb(published):
    commands = list(commands_of_training())
    assert len(commands) >= 5  # one GPU, one node, four nodes, the container, beside the usual recipe
    for command in commands:
        cells = number(command, "batch_size", 0) / number(command, "gradient_accumulation_steps", 1)
        cells /= number(command, "nproc_per_node", 1) * number(command, "nnodes", 1)
        predicted = predicted_memory(published, ScDMCConfig(), int(cells) * 2 * 2048, "checkpointing" in command)
        assert predicted < OF_A_CARD, command


def test_weights_that_are_spread_take_less(published):
    whole, spread = (predicted_memory(published, ScDMCConfig(), 0, False, n_shards) for n_shards in (1, 8))
    assert spread == pytest.approx(whole / 8)


def test_a_step_saves_no_more_than_is_predicted():
    config = ScDMCConfig(
        vocab_size=300, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=256, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    module = ScDMCForPretraining(ScDMCForMaskedLM(config), ObjectiveOptions())
    cells = random_cells(16, 300, 200)
    batch = masked_batch(cells, np.arange(16), 0, MaskingOptions())
    n_tokens = sum(batch.streams.layout.lengths)
    saved = {}

    def keep(tensor):
        # What attention itself keeps depends on the kernel; flash-attn keeps its output alone, which is of this shape.
        if len(tensor) == n_tokens:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        module(batch)
    n_bytes = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    predicted = n_tokens * 64 * (3 * BYTES_OF_LAYER + BYTES_OF_HEAD)
    assert 0.7 * predicted < n_bytes < predicted


def test_a_run_that_cannot_fit_is_refused_with_the_remedies():
    require_memory(70 * GIB, 78 * GIB, 80 * GIB)
    with pytest.raises(ScDMCError, match=r"at least 95\.9 GiB, and 78\.0 of 80\.0 GiB are free.*--gradient_checkp"):
        require_memory(95.9 * GIB, 78 * GIB, 80 * GIB)
