"""Sections of the check of a GPU that compare numbers: attention, a training step, masks and memory."""

import gc
import importlib.util
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch
from torch.nn import functional as F

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.model.attention import PackedAttention, alibi_slopes, choose_back_end
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.layout import PackedLayout, SeenBlocks
from scdmc.options import BACK_ENDS
from scdmc.studies.gpu_check_rows import CASE, CheckSize, Row, judged
from scdmc.studies.synthetic_cells import synthetic_cells
from scdmc.training.dual_stream import ScDMCForPretraining
from scdmc.training.masking import PretrainingBatch, masked_batch
from scdmc.training.memory import GIB, predicted_memory
from scdmc.training.objectives import masked_gene_loss
from scdmc.training.run_log import peak_memory
from scdmc.training.settings import MaskingOptions, ObjectiveOptions

# Largest relative error (norm of the difference over norm of the truth) of attention, and of a step's gradient.
OF_ATTENTION = {torch.float32: 1e-3, torch.bfloat16: 1e-2}
OF_GRADIENT = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
# Kernels that are known by their names in a profile.
KERNELS = ("flash", "fmha", "cutlass", "cudnn", "triton")
DROPOUT, DROPOUT_TOLERANCE = 0.1, 0.003


def device_of(size: CheckSize) -> torch.device:
    """Where a check computes."""
    return torch.device(size.device_type)


def dtypes_of(size: CheckSize) -> list[torch.dtype]:
    """In which types attention is compared."""
    return [getattr(torch, name) for name in size.dtypes]


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def small_config(size: CheckSize, **changes: object) -> ScDMCConfig:
    """The configuration of the models of a check."""
    sizes = {
        "vocab_size": size.vocab_size, "max_position_embeddings": size.length, "num_hidden_layers": size.layers,
        "hidden_size": size.hidden_size, "intermediate_size": size.intermediate_size,
        "num_attention_heads": size.heads, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    return ScDMCConfig(**{**sizes, **changes})


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Seconds of a piece of work, the fastest of some repeats after one that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def product_flops(size: CheckSize) -> float:
    """FLOP/s of a large product of matrices in bfloat16: what this device reaches at most."""
    device, side = device_of(size), 64 if size.is_tiny else 8192
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: left @ right, device)


def measure_facts(size: CheckSize) -> Iterator[Row]:
    """What the machine is, what attention it would choose, and what it reaches at most."""
    device = device_of(size)
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name()}, capability {torch.cuda.get_device_capability()}"
    packages = {package: importlib.util.find_spec(package) is not None for package in ("triton", "flash_attn")}
    yield {CASE: "device", "is": name}
    yield {
        CASE: "torch",
        "is": f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
    }
    yield {CASE: "driver", "is": _driver()}
    yield {
        CASE: "packages",
        "is": ", ".join(f"{name} {'is there' if there else 'no'}" for name, there in packages.items()),
    }
    yield {CASE: "compiler", "is": str(shutil.which("gcc") or shutil.which("cc"))}
    for dtype, dropout in product(dtypes_of(size), (0.0, DROPOUT)):
        chosen = choose_back_end("auto", device, dropout, dtype)
        yield {CASE: f"attention auto, {_name(dtype)}, dropout {dropout}", "is": chosen}
    yield {CASE: "product in bfloat16, TFLOP/s", "is": product_flops(size) / 1e12}
    source = torch.empty((1 if size.is_tiny else 1024) * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    yield {
        CASE: "copy, GB/s read and written",
        "is": 2e-9 * len(source) / seconds_of(lambda: target.copy_(source), device),
    }


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "none"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- attention


def by_formula(qkv: torch.Tensor, lengths: tuple[int, ...], weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """States and gradient of the weighted sum of attention, cell by cell from the formula, in float64."""
    states, gradients = [], []
    slopes = alibi_slopes(qkv.shape[2]).double().to(qkv.device)
    for cell, weight in zip(qkv.split(lengths), weights.split(lengths), strict=True):
        leaf = cell.double().requires_grad_()
        query, key, value = leaf.permute(1, 2, 0, 3)  # 3 x (n_heads, length, head_dim)
        positions = torch.arange(len(cell), device=qkv.device)
        distance = (positions[:, None] - positions).abs()
        scores = query @ key.mT / qkv.shape[-1] ** 0.5 - slopes[:, None, None] * distance
        own = (scores.softmax(dim=-1) @ value).transpose(0, 1)
        (gradient,) = torch.autograd.grad((own * weight).sum(), leaf)
        states.append(own.detach())
        gradients.append(gradient)
    return torch.cat(states), torch.cat(gradients)


def relative_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Norm of the difference over the norm of the truth."""
    truth = truth.double()
    return float((found.double() - truth).norm() / truth.norm().clamp(min=1e-30))


def attention_of(
    back_end: str,
    lengths: tuple[int, ...],
    n_heads: int,
    dtype: torch.dtype,
    device: torch.device,
    dropout: float = 0.0,
) -> PackedAttention:
    """Attention of a layout that was prepared on the host, as in training."""
    layout = PackedLayout.from_lengths(list(lengths)).prepared(back_end, device.type)
    layout = layout.moved(lambda tensor: tensor.to(device))
    return PackedAttention(back_end, layout, alibi_slopes(n_heads).to(device), dropout, dtype)


def measure_parity(size: CheckSize) -> Iterator[Row]:
    """Each back end beside the formula; dropout; which kernels ran; compilations over many lengths.

    What compiles comes last: a deadline then costs least.
    """
    device = device_of(size)
    order = [back_end for back_end in ("sdpa", "eager", "flash", "flex") if back_end in BACK_ENDS]
    yield from _dropouts(size)
    yield _kernels(size)
    for back_end, head_dim, dtype in product(order, size.head_dims, dtypes_of(size)):
        try:
            choose_back_end(back_end, device, 0.0, dtype, head_dim)
        except ScDMCError as error:
            yield {CASE: f"{back_end}, {_name(dtype)}, heads of {head_dim}", "cannot run": str(error)}
            continue
        for lengths in size.layouts:
            if back_end == "eager" and len(lengths) > 8:
                continue  # its scores would not fit
            yield _compared(back_end, lengths, head_dim, dtype, size)
            free_memory(device)
    yield _compilations(size)


def _compared(back_end: str, lengths: tuple[int, ...], head_dim: int, dtype: torch.dtype, size: CheckSize) -> Row:
    device, n_heads = device_of(size), size.n_heads
    generator = torch.Generator(device).manual_seed(sum(lengths))
    # Numbers that bfloat16 holds exactly, so that both types are judged by one truth.
    qkv = torch.randn(sum(lengths), 3, n_heads, head_dim, generator=generator, device=device).bfloat16().to(dtype)
    weights = torch.randn(sum(lengths), n_heads, head_dim, generator=generator, device=device).bfloat16().to(dtype)
    truth, true_gradient = by_formula(qkv, lengths, weights)
    attend = attention_of(back_end, lengths, n_heads, dtype, device)
    with torch.no_grad():
        without_gradient = relative_error(attend(qkv), truth)
        first = attend.layout.first_tokens
        of_first = relative_error(attend.of_first_tokens(qkv[first, 0], qkv[:, 1:]), truth[first])
    row = {CASE: f"{back_end}, {_name(dtype)}, heads of {head_dim}, {len(lengths)} cells of up to {max(lengths)}",
           "no_grad": without_gradient, "first tokens": of_first}  # fmt: skip
    met = {"values_without_gradient": without_gradient, "first_tokens": of_first}
    if device.type == "cuda" or back_end != "flex":  # on a CPU flex has no way back
        leaf = qkv.clone().requires_grad_()
        states = attend(leaf)
        (gradient,) = torch.autograd.grad((states * weights).sum(), leaf)
        row |= {"values": relative_error(states.detach(), truth), "gradient": relative_error(gradient, true_gradient)}
        met |= {"values": row["values"], "gradient": row["gradient"]}
    return judged(row, **{name: error <= OF_ATTENTION[dtype] for name, error in met.items()})


def _dropouts(size: CheckSize) -> Iterator[Row]:
    """The share of weights that are dropped: with V the identity, states are the weights themselves."""
    device, length, n_cells = device_of(size), 64, 4 if size.is_tiny else 64
    for back_end, dtype in product(("sdpa", "flash"), dtypes_of(size)):
        try:
            choose_back_end(back_end, device, DROPOUT, dtype, length)
        except ScDMCError:
            continue
        qkv = torch.zeros(n_cells * length, 3, size.n_heads, length, device=device, dtype=dtype)
        identity = torch.eye(length, device=device, dtype=dtype)
        qkv[:, 2] = identity.repeat(n_cells, 1)[:, None]
        attend = attention_of(back_end, (length,) * n_cells, size.n_heads, dtype, device, DROPOUT)
        torch.manual_seed(0)
        weights = attend(qkv)
        dropped, mean = float((weights == 0).float().mean()), float(weights.float().sum(dim=-1).mean())
        tolerance = 0.02 if size.is_tiny else DROPOUT_TOLERANCE  # by chance, of fewer weights
        row = {CASE: f"dropout {DROPOUT}, {back_end}, {_name(dtype)}", "dropped": dropped, "mean sum": mean}
        yield judged(
            row, share_of_dropped=abs(dropped - DROPOUT) <= tolerance, mean_of_the_sums=abs(mean - 1) <= 5 * tolerance
        )


def _kernels(size: CheckSize) -> Row:
    """The kernels that scaled_dot_product_attention ran, in training and in inference."""
    device, lengths = device_of(size), size.layouts[-1][:4]
    dtype, head_dim = torch.bfloat16, size.head_dims[0]
    attend = attention_of("sdpa", lengths, size.n_heads, dtype, device)
    qkv = torch.randn(sum(lengths), 3, size.n_heads, head_dim, device=device, dtype=dtype, requires_grad=True)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        attend(qkv).sum().backward()
        with torch.no_grad():
            attend(qkv)
        wait(device)
    names = {event.key for event in profile.key_averages()}
    found = [kernel for kernel in KERNELS if any(kernel in name.lower() for name in names)]
    return judged(
        {CASE: "kernels of sdpa", "is": ", ".join(found) or "none of the known"}, no_cudnn="cudnn" not in found
    )


def _compilations(size: CheckSize) -> Row:
    """How often flex is compiled for batches of twelve different lengths."""
    from torch._dynamo.testing import CompileCounterWithBackend
    from torch.nn.attention.flex_attention import flex_attention

    device, dtype = device_of(size), torch.bfloat16
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager" if size.is_tiny else "inductor")
    compiled = torch.compile(flex_attention, backend=counter, dynamic=True, fullgraph=True)
    start, generator = time.perf_counter(), np.random.default_rng(0)
    for _ in range(4 if size.is_tiny else 12):
        lengths = tuple(int(length) for length in generator.integers(100, 400, 3))
        attend = attention_of("flex", lengths, size.n_heads, dtype, device)
        qkv = torch.randn(sum(lengths), 3, size.n_heads, size.head_dims[0], device=device, dtype=dtype)
        query, key, value = qkv.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
        compiled(query, key, value, score_mod=attend.score_mod, block_mask=attend.block_mask)
    wait(device)
    row = {CASE: "graphs of flex over lengths", "is": counter.frame_count, "seconds": time.perf_counter() - start}
    return judged(row, no_recompilation=counter.frame_count <= 2)


# ---- a step


def module_of(config: ScDMCConfig, device: torch.device, attention: str = "auto", dtype: torch.dtype | None = None,
              checkpointing: bool = False) -> ScDMCForPretraining:  # fmt: skip
    """A pre-training module with weights of one seed."""
    torch.manual_seed(0)
    module = ScDMCForPretraining(ScDMCForMaskedLM(config), ObjectiveOptions()).to(device).train()
    module.model.set_attention(attention, dtype, for_training=True)
    module.momentum_encoder.set_attention(attention, dtype)
    module.model.bert.recompute_layers = checkpointing
    return module


def full_batch(
    size: CheckSize, n_cells: int, module: ScDMCForPretraining, shortest: int | None = None
) -> PretrainingBatch:
    """A masked batch of full cells, or of lengths from the shortest on, where the module is."""
    lengths = np.linspace(shortest or size.length, size.length, n_cells).astype(int)
    batch = masked_batch(synthetic_cells(lengths, vocab_size=size.vocab_size), np.arange(n_cells), 0, MaskingOptions())
    device = module.model.device
    return batch.prepared(module.model.attention_back_end, device.type).to(device)


def measure_step(size: CheckSize) -> Iterator[Row]:
    """Loss, gradients and momentum of a step beside those of the CPU in float32, with the same weights and batch."""
    config = small_config(size, num_hidden_layers=2, hidden_dropout_prob=0.0)
    truth = _losses_and_gradients(config, size, torch.device("cpu"), torch.float32)
    for dtype in OF_GRADIENT:
        found = _losses_and_gradients(config, size, device_of(size), dtype)
        errors = {name: relative_error(found[1][name], truth[1][name]) for name in truth[1]}
        worst = max(errors, key=errors.get)
        gradient, momentum = (
            relative_error(
                *(torch.cat([part[kind][name].flatten() for name in truth[kind]]) for part in (found, truth))
            )
            for kind in (1, 2)
        )
        row = {CASE: f"{_name(dtype)} beside the CPU", "loss": found[0], "loss of the CPU": truth[0],
               "gradient": gradient, "worst parameter": f"{worst} {errors[worst]:.2g}",
               "momentum encoder after 3 steps": momentum}  # fmt: skip
        yield judged(
            row, loss=abs(found[0] / truth[0] - 1) <= OF_GRADIENT[dtype] / 5,
            gradient=gradient <= OF_GRADIENT[dtype], momentum=momentum <= 1e-3,
        )  # fmt: skip
    yield _chunked_loss(size)
    yield _states_of_cls(size)


def _losses_and_gradients(
    config: ScDMCConfig, size: CheckSize, device: torch.device, dtype: torch.dtype
) -> tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Loss and gradients of the first step, and the momentum encoder after three."""
    module = module_of(config, device, "auto", dtype)
    batch = full_batch(size, 4, module, size.length // 8 + 3)
    optimizer = torch.optim.AdamW(module.model.parameters(), lr=1e-4)
    first = None
    for _ in range(3):
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = module(batch)["loss"]
        loss.backward()
        if first is None:
            named = module.model.named_parameters()
            first = float(loss), {name: weight.grad.cpu().clone() for name, weight in named if weight.grad is not None}
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        module.update_momentum_encoder(0.9)
    return *first, {name: weight.cpu() for name, weight in module.momentum_encoder.state_dict().items()}


def _chunked_loss(size: CheckSize) -> Row:
    device, hidden = device_of(size), size.hidden_size
    states, weight = (torch.randn(n, hidden, device=device) / hidden**0.5 for n in (64 if size.is_tiny else 4000, 500))
    bias, labels = torch.randn(500, device=device), torch.randint(0, 500, (len(states),), device=device)
    weights = torch.full((len(states),), 1 / len(states), device=device)
    found = float(masked_gene_loss(states, weight, bias, labels, weights, chunk_size=48).loss)
    plain = float(F.cross_entropy(states @ weight.T + bias, labels))
    return judged({CASE: "loss in chunks", "loss": found, "plain": plain}, same_loss=abs(found / plain - 1) < 1e-4)


@torch.no_grad()
def _states_of_cls(size: CheckSize) -> Row:
    module = module_of(small_config(size, num_hidden_layers=2), device_of(size)).eval()
    batch = full_batch(size, 4, module, size.length // 8 + 3)
    whole = module.model.bert.encode(batch.streams)[batch.streams.cls_positions]
    error = relative_error(module.model.bert.encode_cls(batch.streams), whole)
    return judged({CASE: "<cls> alone beside all tokens", "error": error}, same_states=error <= 1e-3)


# ---- memory


def free_memory(device: torch.device) -> None:
    """Give back what nobody uses, and forget the peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def measure_memory(size: CheckSize) -> Iterator[Row]:
    """The block mask of a large batch, and the peak of a step beside what is predicted of it."""
    device, lengths = device_of(size), [size.length] * size.blocks
    start = time.perf_counter()
    blocks = SeenBlocks.of_lengths(lengths)
    seconds = time.perf_counter() - start
    n_bytes = sum(getattr(blocks, name).numel() * 4 for name in blocks.__dataclass_fields__)
    row = {CASE: f"block mask of {sum(lengths):,} tokens", "ms": 1e3 * seconds, "MB": n_bytes / 1e6}
    yield judged(row, less_than_a_second=seconds < 1, less_than_50_MB=n_bytes < 50e6)
    cases = [(n_cells, False) for n_cells in size.batches] + [(size.many_cells, True)]
    for n_cells, checkpointing in cases:
        yield _memory_of_step(size, n_cells, checkpointing)
        free_memory(device)


def _memory_of_step(size: CheckSize, n_cells: int, checkpointing: bool) -> Row:
    device, config, dtype = device_of(size), small_config(size), torch.bfloat16
    module = module_of(config, device, linear_back_end(device), dtype, checkpointing)
    predicted = predicted_memory(module, config, 2 * size.length * n_cells, checkpointing)
    row = {CASE: f"step of {n_cells} full cells{', checkpointing' if checkpointing else ''}",
           "attention": module.model.attention_back_end, "predicted GiB": predicted / GIB}  # fmt: skip
    batch = full_batch(size, n_cells, module)
    optimizer = torch.optim.AdamW(module.model.parameters(), lr=1e-4, fused=True)
    try:
        for _ in range(2):
            with torch.autocast(device.type, dtype):
                loss = module(batch)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait(device)
    except torch.OutOfMemoryError:
        return judged(row, fits=False)
    row["allocated GiB"] = peak_memory(device) / GIB
    if device.type != "cuda":  # there the peak is that of the whole process
        return row
    row["reserved GiB"] = torch.cuda.max_memory_reserved() / GIB
    share = row["allocated GiB"] / row["predicted GiB"]
    return judged(
        row | {"of the prediction": share}, at_most_as_predicted=share <= 1.15, no_less_than_half=share >= 0.5
    )


def linear_back_end(device: torch.device) -> str:
    """The back end whose memory grows with the tokens alone: flash where it can run, else flex; sdpa on a CPU."""
    if device.type != "cuda":
        return "sdpa"
    return "flash" if choose_back_end("auto", device, 0.0, torch.bfloat16) == "flash" else "flex"


MEASURED = {"facts": measure_facts, "parity": measure_parity, "step": measure_step, "memory": measure_memory}
