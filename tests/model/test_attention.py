"""Attention back ends: equal to each other, in values and in gradients, however the cells lie."""

import importlib.util
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from scdmc.errors import ScDMCError
from scdmc.model import attention
from scdmc.model import layout as layouts
from scdmc.model.attention import PackedAttention, alibi_slopes, choose_back_end
from scdmc.model.layout import PackedLayout, SeenBlocks

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
N_HEADS, HEAD_DIM = 6, 16
LAYOUTS = {
    "one token": [1],
    "one cell": [17],
    "lengths from 1": [1, 2, 3, 4, 5],
    "runs of equal lengths": [7, 7, 7, 3, 3, 7, 12, 12],
    "more tokens than a block": [150, 1, 90],
}
CPU, GPU = torch.device("cpu"), torch.device("cuda")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
needs_flash = pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("flash_attn") is None,
    reason="needs a CUDA GPU and the package flash-attn",
)


def random_qkv(lengths, dtype=torch.float32, device=CPU):
    generator = torch.Generator().manual_seed(sum(lengths))
    return torch.randn(sum(lengths), 3, N_HEADS, HEAD_DIM, generator=generator).to(device, dtype)


def attend(back_end, qkv, lengths, dropout=0.0):
    layout = PackedLayout.from_lengths(lengths, qkv.device)
    slopes = alibi_slopes(N_HEADS).to(qkv.device)
    return PackedAttention(back_end, layout, slopes, dropout, qkv.dtype)(qkv)


def by_the_book(qkv, lengths):
    """Each cell on its own, from the formula, in float64."""
    states, slopes = [], alibi_slopes(N_HEADS).double()
    for cell in qkv.cpu().double().split(lengths):
        query, key, value = cell.permute(1, 2, 0, 3)  # 3 x (n_heads, length, head_dim)
        positions = torch.arange(len(cell))
        distance = (positions[:, None] - positions).abs()
        scores = query @ key.mT / HEAD_DIM**0.5 - slopes[:, None, None] * distance
        states.append((scores.softmax(dim=-1) @ value).transpose(0, 1))
    return torch.cat(states)


def value_and_gradient(function, qkv, *arguments):
    qkv = qkv.clone().requires_grad_()
    states = function(qkv, *arguments)
    weight = torch.linspace(-1, 1, states.numel(), dtype=torch.float64).view_as(states).to(states)
    (gradient,) = torch.autograd.grad((states * weight).sum(), qkv)
    return states.detach(), gradient


@pytest.mark.parametrize("lengths", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("back_end", ["sdpa", "eager"])
def test_values_and_gradients_are_those_of_the_formula(back_end, lengths):
    qkv = random_qkv(lengths)
    expected, expected_gradient = value_and_gradient(by_the_book, qkv, lengths)
    states, gradient = value_and_gradient(lambda qkv: attend(back_end, qkv, lengths), qkv)
    assert states.shape == (sum(lengths), N_HEADS, HEAD_DIM)
    torch.testing.assert_close(states.double(), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(gradient, expected_gradient.float(), atol=5e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    "lengths", [*LAYOUTS.values(), [60, 30, 31, 33, 30, 33, 90, 88, 89]], ids=[*LAYOUTS, "similar"]
)
def test_sdpa_without_gradient_gives_what_the_formula_gives(lengths):
    qkv = 2 * random_qkv(lengths)
    torch.testing.assert_close(attend("sdpa", qkv, lengths).double(), by_the_book(qkv, lengths), atol=1e-5, rtol=0)


@pytest.mark.parametrize("lengths", [*LAYOUTS.values(), [60, 30, 31, 33, 30, 33, 90, 88, 89]])
def test_padded_sdpa_as_a_gpu_trains_with_it_changes_nothing(monkeypatch, lengths):
    tables = (layouts, "LARGEST_PADDING"), (attention, "FURTHER_COMPONENTS"), (attention, "BIAS_ALIGNMENT")
    for module, table in tables:
        monkeypatch.setattr(module, table, {"cpu": getattr(module, table)["cuda"]})
    layout = PackedLayout.from_lengths(lengths)
    padded = PackedAttention("sdpa", layout, alibi_slopes(N_HEADS), 0.0, torch.float32)._sdpa_of_similar_runs
    qkv = random_qkv(lengths)
    expected, expected_gradient = value_and_gradient(by_the_book, qkv, lengths)
    states, gradient = value_and_gradient(padded, qkv)
    torch.testing.assert_close(states.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient, expected_gradient.float(), atol=1e-5, rtol=0)


def test_padded_sdpa_with_dropout_drops_weights_and_keeps_their_sum():
    # With V the identity, states are the weights themselves.
    lengths, head_dim, share = [60, 58, 64] * 20, 64, 0.25
    qkv = torch.zeros(sum(lengths), 3, N_HEADS, head_dim)
    qkv[:, 2] = torch.cat([torch.eye(head_dim)[:length] for length in lengths])[:, None]
    layout = PackedLayout.from_lengths(lengths)
    attend = PackedAttention("sdpa", layout, alibi_slopes(N_HEADS), share, torch.float32)._sdpa_of_similar_runs
    torch.manual_seed(0)
    weights = attend(qkv)
    inside = torch.cat([torch.arange(head_dim).expand(length, -1) < length for length in lengths])[:, None]
    inside = inside.expand_as(weights)
    assert (weights[inside] == 0).float().mean() == pytest.approx(share, abs=0.003)
    assert weights.sum(dim=-1).mean() == pytest.approx(1.0, abs=0.01)
    assert not weights[~inside].any()


@needs_gpu
@pytest.mark.parametrize("lengths", [*LAYOUTS.values(), [60, 30, 31, 33, 30, 33, 90, 88, 89]])
def test_sdpa_on_a_gpu_gives_values_and_gradients_of_the_formula(lengths):
    qkv = random_qkv(lengths)
    expected, expected_gradient = value_and_gradient(by_the_book, qkv, lengths)
    states, gradient = value_and_gradient(lambda qkv: attend("sdpa", qkv, lengths), qkv.to(GPU))
    torch.testing.assert_close(states.cpu().double(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(gradient.cpu(), expected_gradient.float(), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("lengths", LAYOUTS.values(), ids=LAYOUTS)
def test_flex_gives_the_values_of_the_formula(lengths):
    qkv = random_qkv(lengths)
    torch.testing.assert_close(attend("flex", qkv, lengths).double(), by_the_book(qkv, lengths), atol=2e-6, rtol=0)


# Ends of cells that fall on, before and behind those of blocks are drawn often.
LENGTHS = st.lists(st.sampled_from([1, 2, 127, 128, 129, 256]) | st.integers(1, 700), min_size=1, max_size=8)


@torch.no_grad()
@settings(max_examples=30, deadline=None, derandomize=True)
@given(lengths=LENGTHS)
def test_the_block_mask_of_the_lengths_is_that_of_all_pairs_of_tokens(lengths):
    cell = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))

    def same_cell(batch, head, query, key):
        return cell[query] == cell[key]

    mask = SeenBlocks.of_lengths(lengths).block_mask()
    expected = create_block_mask(same_cell, None, None, len(cell), len(cell), device="cpu")
    for kind in ("kv", "full_kv", "q", "full_q"):
        counts, indices = (getattr(mask, f"{kind}_{name}")[0, 0] for name in ("num_blocks", "indices"))
        others, other_indices = (getattr(expected, f"{kind}_{name}")[0, 0] for name in ("num_blocks", "indices"))
        assert counts.tolist() == others.tolist(), kind
        for row, other, count in zip(indices, other_indices, counts, strict=True):
            assert row[:count].tolist() == other[:count].tolist(), kind


def test_the_block_mask_of_a_large_batch_is_small():
    mask = SeenBlocks.of_lengths([2048] * 192).block_mask()
    tensors = [getattr(mask, name) for name in ("kv_indices", "full_kv_indices", "kv_num_blocks", "full_kv_num_blocks")]
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) < 2**20
    assert int(mask.full_kv_num_blocks.sum()) == 192 * 16 * 16
    assert int(mask.kv_num_blocks.sum()) == 0


def test_computed_blocks_are_little_more_than_the_pairs_of_tokens_of_a_cell():
    lengths = np.random.default_rng(0).integers(300, 2048, 200).tolist()
    blocks = SeenBlocks.of_lengths(lengths)
    computed = 128**2 * int(blocks.partial_counts.sum() + blocks.full_counts.sum())
    assert computed <= 1.3 * sum(length**2 for length in lengths) + 2 * 128 * sum(lengths)


@pytest.mark.parametrize("back_end", ["sdpa", "eager", "flex"])
def test_bfloat16_is_close_to_float32(back_end):
    lengths = [30, 30, 5, 64]
    qkv = random_qkv(lengths)
    states = attend(back_end, qkv.bfloat16(), lengths)
    assert states.dtype == torch.bfloat16
    torch.testing.assert_close(states.double(), by_the_book(qkv, lengths), atol=0.04, rtol=0)


def test_eager_keeps_the_weights_of_every_cell():
    lengths = [4, 4, 2]
    layout = PackedLayout.from_lengths(lengths)
    eager = PackedAttention("eager", layout, alibi_slopes(N_HEADS), 0.0, torch.float32)
    eager(random_qkv(lengths))
    assert [tuple(weights.shape) for weights in eager.weights] == [(N_HEADS, length, length) for length in lengths]


def test_attention_without_content_falls_off_with_the_distance():
    eager = PackedAttention("eager", PackedLayout.from_lengths([5]), alibi_slopes(N_HEADS), 0.0, torch.float32)
    eager(torch.zeros(5, 3, N_HEADS, HEAD_DIM))
    ratios = eager.weights[0][:, 0, 1:] / eager.weights[0][:, 0, :-1]
    expected = torch.exp(-alibi_slopes(N_HEADS))[:, None].expand(-1, 4)
    torch.testing.assert_close(ratios, expected)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("back_end", ["sdpa", "eager"])
def test_dropout_changes_the_states_but_not_their_mean(back_end):
    qkv = random_qkv([40])
    torch.manual_seed(0)
    draws = torch.stack([attend(back_end, qkv, [40], dropout=0.3) for _ in range(300)])
    assert draws.std(dim=0).mean() > 0.05
    assert (draws.mean(dim=0) - by_the_book(qkv, [40]).float()).abs().mean() < 0.03


def test_layout_of_lengths():
    layout = PackedLayout.from_lengths([3, 3, 1, 3])
    assert layout.cu_seqlens.dtype == torch.int32
    assert layout.cu_seqlens.tolist() == [0, 3, 6, 7, 10]
    assert layout.max_length == 3
    assert layout.equal_runs() == [(0, 2, 3), (6, 1, 1), (7, 1, 3)]
    similar = PackedLayout.from_lengths([100, 95, 105, 90, 5, 5, 6])
    assert similar.similar_runs() == [(0, [100, 95, 105]), (300, [90]), (390, [5, 5]), (400, [6])]


# ---- the choice


@pytest.mark.parametrize("has_flash", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_auto_takes_sdpa_on_a_cpu_whatever_is_installed(monkeypatch, dropout, dtype, has_flash):
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: object() if has_flash else None)
    assert choose_back_end("auto", CPU, dropout, dtype) == "sdpa"


@pytest.fixture
def gpu(monkeypatch):
    """A function that pretends a GPU of a capability, and a package flash_attn that holds what it is given."""

    def pretend(package, capability=(9, 0)):
        def load(name):
            if isinstance(package, Exception):
                raise package
            return package

        monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: package)
        monkeypatch.setattr(attention.importlib, "import_module", load)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        attention.flash_import_error.cache_clear()

    yield pretend
    attention.flash_import_error.cache_clear()


FLASH_2 = types.SimpleNamespace(flash_attn_varlen_qkvpacked_func=None)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("package", "expected"), [(FLASH_2, "flash"), (None, "sdpa")])
def test_auto_on_a_gpu(gpu, package, dropout, expected):
    gpu(package)
    assert choose_back_end("auto", GPU, dropout, torch.bfloat16) == expected
    assert choose_back_end("auto", GPU, dropout, torch.float32) == "sdpa"  # flash computes in 16 bits only


@pytest.mark.parametrize(
    ("package", "capability", "head_dim", "lack"),
    [
        (types.SimpleNamespace(cute=None), (9, 0), 64, "this flash_attn has no flash_attn_varlen_qkvpacked_func"),
        (ImportError("undefined symbol: x\nmore"), (9, 0), 64, r"cannot import flash_attn \(undefined symbol: x\)"),
        (FLASH_2, (7, 5), 64, "Ampere generation or later"),
        (FLASH_2, (9, 0), 264, "heads of at most 256, not 264"),
    ],
)
def test_what_cannot_run_on_a_gpu_is_not_chosen_and_said_once(gpu, caplog, package, capability, head_dim, lack):
    gpu(package, capability)
    for _ in range(2):
        assert choose_back_end("auto", GPU, 0.0, torch.bfloat16, head_dim) == "sdpa"
        with pytest.raises(ScDMCError, match=lack):
            choose_back_end("flash", GPU, 0.0, torch.bfloat16, head_dim)
    assert len(caplog.messages) == (package is not FLASH_2)


def test_flex_on_a_gpu_needs_wide_heads_and_triton(gpu):
    gpu(None)
    with pytest.raises(ScDMCError, match="needs heads of 16 and more on a GPU, not 8"):
        choose_back_end("flex", GPU, 0.0, head_dim=8)
    with pytest.raises(ScDMCError, match="needs the package triton"):
        choose_back_end("flex", GPU, 0.0, head_dim=16)
    assert choose_back_end("flex", CPU, 0.0, head_dim=8) == "flex"


@pytest.mark.parametrize("name", ["sdpa", "eager", "flex"])
def test_a_named_back_end_is_taken(name):
    assert choose_back_end(name, CPU, 0.0) == name


@pytest.mark.parametrize(
    ("name", "device", "dropout", "message"),
    [
        ("xformers", CPU, 0.0, "there are auto, flash, flex, sdpa, eager"),
        ("flash", CPU, 0.0, "needs a GPU and the package flash-attn"),
        ("flex", CPU, 0.1, "has no attention dropout"),
        ("flex", GPU, 0.1, "has no attention dropout"),
    ],
)
def test_what_cannot_run_is_refused(name, device, dropout, message):
    with pytest.raises(ScDMCError, match=message):
        choose_back_end(name, device, dropout)


def test_flash_is_refused_where_the_package_is_missing(monkeypatch):
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ScDMCError, match="needs a GPU and the package flash-attn"):
        choose_back_end("flash", GPU, 0.0)


# ---- on a GPU


@needs_gpu
@pytest.mark.parametrize("lengths", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("back_end", ["flex", "sdpa"])
def test_values_and_gradients_on_a_gpu_are_those_of_the_formula(back_end, lengths):
    qkv = random_qkv(lengths, device=GPU)
    expected, expected_gradient = value_and_gradient(by_the_book, qkv.cpu(), lengths)
    states, gradient = value_and_gradient(lambda qkv: attend(back_end, qkv, lengths), qkv)
    torch.testing.assert_close(states.cpu().double(), expected, atol=5e-3, rtol=0)  # TF32 inside of the kernels
    torch.testing.assert_close(gradient.cpu(), expected_gradient.float(), atol=2e-2, rtol=0)


@needs_flash
@pytest.mark.parametrize("lengths", LAYOUTS.values(), ids=LAYOUTS)
def test_flash_gives_the_values_and_gradients_of_the_formula(lengths):
    qkv = random_qkv(lengths, torch.bfloat16, GPU)
    expected, expected_gradient = value_and_gradient(by_the_book, qkv.cpu().float(), lengths)
    states, gradient = value_and_gradient(lambda qkv: attend("flash", qkv, lengths), qkv)
    torch.testing.assert_close(states.cpu().double(), expected, atol=0.04, rtol=0)
    torch.testing.assert_close(gradient.cpu().float(), expected_gradient.float(), atol=0.1, rtol=0.05)
