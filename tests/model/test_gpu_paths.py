"""What a GPU will be asked to do, looked at without one."""

import inspect
import types

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.model import attention
from scdmc.model.attention import CUDA_KERNELS, PackedAttention, alibi_slopes
from scdmc.model.devices import deterministic_operations
from scdmc.model.encoder import ScDMCModel
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.layout import PackedLayout, SeenBlocks
from scdmc.training.batch_order import batch_order_of
from scdmc.training.dual_stream import ScDMCForPretraining
from scdmc.training.loading import TrainingCells, masked_batches
from scdmc.training.masking import masked_batch
from scdmc.training.settings import MaskingOptions, ObjectiveOptions, PretrainingSettings
from tests.model.test_attention import N_HEADS, by_the_book, random_qkv
from tests.training.runs import make_cells

LENGTHS = [5, 130, 17, 64]


def flash_attn_varlen_qkvpacked_func(
    qkv, cu_seqlens, max_seqlen, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
    alibi_slopes=None, deterministic=False, return_attn_probs=False,
):  # fmt: skip
    """The interface of flash-attn 2.8.3, what its kernel checks, and the formula."""
    assert qkv.dtype in (torch.float16, torch.bfloat16)
    assert qkv.ndim == 4
    assert qkv.shape[1] == 3
    assert qkv.shape[-1] <= 256
    assert qkv.stride(-1) == 1
    assert cu_seqlens.dtype == torch.int32
    assert cu_seqlens.is_contiguous()
    assert isinstance(max_seqlen, int)
    assert 0 <= dropout_p < 1
    assert alibi_slopes.dtype == torch.float32
    assert alibi_slopes.shape == (qkv.shape[2],)
    assert alibi_slopes.device == qkv.device
    calls.append(dropout_p)
    wanted.append(deterministic)
    return by_the_book(qkv, cu_seqlens.diff().tolist()).to(qkv.dtype)


calls, wanted = [], []


@pytest.fixture
def flash(monkeypatch):
    """A module flash_attn that checks its arguments; calls are listed."""
    package = types.ModuleType("flash_attn")
    package.flash_attn_varlen_qkvpacked_func = flash_attn_varlen_qkvpacked_func
    load = attention.importlib.import_module
    monkeypatch.setattr(
        attention.importlib, "import_module", lambda name: package if name == "flash_attn" else load(name)
    )
    calls.clear()
    return calls


def small_model(**changes):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6,
             "intermediate_size": 32}  # fmt: skip
    return ScDMCForMaskedLM(ScDMCConfig(**{**sizes, **changes}))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_flash_is_called_as_its_interface_says_in_training_and_without_dropout_elsewhere(flash, monkeypatch, dropout):
    monkeypatch.setattr("scdmc.model.encoder.choose_back_end", lambda name, *rest: "flash")
    module = ScDMCForPretraining(small_model(attention_probs_dropout_prob=dropout), ObjectiveOptions()).train()
    cells = make_cells(6)
    batch = masked_batch(cells, torch.arange(6).numpy(), 0, MaskingOptions())
    wanted.clear()
    with torch.autocast("cpu", torch.bfloat16):
        module(batch)["loss"].backward()
        in_training = list(flash)
        assert not any(wanted)
        wanted.clear()
        with deterministic_operations(True):
            module(batch)
        assert wanted
        assert all(wanted)
        flash.clear()
        module.eval()
        with torch.no_grad():
            module(batch)
    assert in_training[:2] == [dropout] * 2  # both layers of the encoder; the momentum encoder never drops
    assert set(flash) == {0.0}
    inspect.signature(flash_attn_varlen_qkvpacked_func).bind(None, None, 1, dropout_p=0.1, alibi_slopes=None)


def test_kernels_of_a_gpu_get_aligned_arguments_and_no_cudnn(monkeypatch):
    recorded = []

    def record(query, key, value, attn_mask, **options):
        recorded.append((query, key, value, attn_mask))
        return whole(query, key, value, attn_mask=attn_mask, **options)

    whole = F.scaled_dot_product_attention
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", record)
    monkeypatch.setattr(attention, "for_device", lambda choices, device_type: choices["cuda"])
    layout = PackedLayout.from_lengths(LENGTHS)
    attend = PackedAttention("sdpa", layout, alibi_slopes(N_HEADS), 0.0, torch.float32)
    with torch.no_grad():
        attend(random_qkv(LENGTHS))
    assert recorded
    for query, key, value, bias in recorded:
        assert {tensor.shape[-1] % 8 for tensor in (query, key, value)} == {0}
        assert {stride % 8 for stride in bias.stride()[1:3]} == {0}
    assert torch.nn.attention.SDPBackend.CUDNN_ATTENTION not in CUDA_KERNELS


@pytest.mark.parametrize("is_training", [True, False])
def test_flex_is_compiled_once_for_all_lengths(is_training):
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(flex_attention, backend=counter, dynamic=True, fullgraph=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        lengths = torch.randint(100, 400, (3,), generator=generator).tolist()
        attend = PackedAttention("flex", PackedLayout.from_lengths(lengths), alibi_slopes(N_HEADS), 0.0, torch.float32)
        query, key, value = random_qkv(lengths).permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
        with torch.set_grad_enabled(is_training):
            compiled(query, key, value, score_mod=attend.score_mod, block_mask=attend.block_mask)
    assert counter.frame_count <= 2


class HostWaits(TorchDispatchMode):
    """Counts what a GPU would be waited for: values that are asked for, and shapes that depend on them."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in str(function) for name in self.WAITS):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_step_runs_on_a_device_without_values_and_waits_for_nothing():
    # The meta device has no values: a step that asked for one, or mixed in a tensor of the host, would fail there.
    cells = make_cells(6)
    batch = masked_batch(cells, torch.arange(6).numpy(), 0, MaskingOptions()).to(torch.device("meta"))
    module = ScDMCForPretraining(small_model(), ObjectiveOptions()).to("meta").train()
    with HostWaits() as waits:
        loss = module(batch)["loss"]
        loss.backward()
        module.update_momentum_encoder(0.99)
    assert waits.found == []
    assert {parameter.grad.device.type for parameter in module.model.parameters() if parameter.requires_grad} == {
        "meta"
    }


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("back_end", ["sdpa", "flex"])
def test_what_attention_reads_of_a_layout_comes_with_the_batch_and_serves_both_encoders(back_end, monkeypatch):
    module = ScDMCForPretraining(small_model(), ObjectiveOptions()).eval()
    for encoder in (module.model, module.momentum_encoder):
        encoder.set_attention(back_end)
    data = TrainingCells(make_cells(6), np.arange(6), np.arange(6))
    order = batch_order_of(data.cells, data.training, PretrainingSettings(batch_size=6))
    alone = module(masked_batch(data.cells, np.arange(6)[order.batches(0)[0]], 0, MaskingOptions()))
    batch = next(masked_batches(data, order, MaskingOptions(), reader=(back_end, "cpu")))
    for owner, name in ((PackedLayout, "padded_runs"), (SeenBlocks, "of_lengths")):
        monkeypatch.setattr(owner, name, lambda *_: pytest.fail("made again"))
    prepared = module(batch)
    assert {name: float(value) for name, value in prepared.items()} == pytest.approx(
        {name: float(value) for name, value in alone.items()}, rel=1e-6
    )
    moved = batch.to(torch.device("meta")).streams.layout
    assert {moved.runs.tokens.device.type, moved.runs.places.device.type, moved.runs.is_token.device.type} == {"meta"}
    assert (moved.blocks is None) == (back_end == "sdpa")
    assert moved.blocks is None or moved.blocks.cell.device.type == "meta"


def test_a_model_with_dropout_may_take_flex_outside_of_training():
    model = ScDMCModel(small_model(attention_probs_dropout_prob=0.1).config)
    assert model.eval().set_attention("flex") == "flex"
    with pytest.raises(ScDMCError, match="has no attention dropout"):
        model.set_attention("flex", for_training=True)
