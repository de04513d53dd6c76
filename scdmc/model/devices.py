"""Which device the work runs on."""

import functools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from scdmc.errors import ScDMCError
from scdmc.model.encoder import ScDMCPreTrainedModel

logger = logging.getLogger(__name__)

# Where cuBLAS reads, when it starts, in how much memory it may compute; with one of two sizes its sums have one order.
CUBLAS_WORKSPACE, CUBLAS_WORKSPACE_SIZE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"


# Of a processor, as Linux names them.
BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")


def place_model(
    model: ScDMCPreTrainedModel, num_gpus: int | None = None, attention: str = "auto", dtype: str = "auto"
) -> ScDMCPreTrainedModel:
    """Move a model to its device, with its attention back end and precision.

    Parameters
    ----------
    model
        Any model; changed in place.
    num_gpus
        See :func:`choose_device`.
    attention, dtype
        One of :data:`scdmc.options.BACK_ENDS`, one of :data:`scdmc.options.DTYPE_CHOICES`.

    Raises
    ------
    ScDMCError
        If there is no such device, or the back end cannot run on it.
    """
    device = choose_device(num_gpus)
    dtype = computing_dtype(dtype, device)
    model.to(device, dtype)
    model.set_attention(attention, dtype)
    return model


def place_model_for_training(
    model: ScDMCPreTrainedModel, num_gpus: int | None = None, attention: str = "auto", dtype: str = "auto"
) -> ScDMCPreTrainedModel:
    """Move a model to the device where it is trained: as :func:`place_model`, but its weights stay float32.

    ``dtype`` is what it will compute in (:func:`autocast`), which decides whether an attention back end can run.
    """
    device = choose_device(num_gpus)
    model.to(device)
    model.set_attention(attention, computing_dtype(dtype, device), for_training=True)
    return model


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """A context in which a model with float32 weights computes in ``dtype``; for float32 it changes nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=computing_dtype(dtype, device) == torch.bfloat16)


def computing_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """What a model computes in: ``auto`` is bfloat16 on a GPU that has it, else float32.

    Float32 on such a GPU is said once: it is slower and takes more memory.
    """
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if dtype == "auto":
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if has_bfloat16 and dtype == "float32":
        say_that_float32_is_slow()
    return getattr(torch, dtype)


def pretraining_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """As :func:`computing_dtype`, but ``auto`` is bfloat16 on a CPU with instructions for it, too.

    There the losses agree with those in float32. Other work keeps to float32 on a CPU: its results should not depend on
    which machine they come from.
    """
    if dtype == "auto" and device.type == "cpu" and cpu_has_bfloat16():
        return torch.bfloat16
    return computing_dtype(dtype, device)


@functools.cache
def cpu_has_bfloat16(description: Path = Path("/proc/cpuinfo")) -> bool:
    """True where the processor multiplies in bfloat16; without such instructions it is many times slower than float32.

    Parameters
    ----------
    description
        What Linux says of the processor; other systems say nothing there.
    """
    if not description.is_file():
        return False
    lines = description.read_text(encoding="utf8").splitlines()
    words = {word for line in lines if line.startswith("flags") for word in line.split()}
    return not words.isdisjoint(BFLOAT16_INSTRUCTIONS)


@functools.cache
def say_that_float32_is_slow() -> None:
    """A warning, once a process."""
    logger.warning("warning: float32 on a GPU that has bfloat16; --dtype bfloat16 is faster and takes less memory")


def choose_device(num_gpus: int | None = None) -> torch.device:
    """The GPU where there is one, else the CPU.

    Parameters
    ----------
    num_gpus
        GPUs that the user asked for; 0 forces the CPU.

    Raises
    ------
    ScDMCError
        If more GPUs are asked for than there are, or several without a process for each, or if torch cannot use those
        that are there, as with a driver that is older than its CUDA: such a run would take the CPU without a word.
    """
    available = torch.cuda.device_count()
    if available and num_gpus != 0:
        _require_usable_gpus(available)
    n_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if num_gpus is not None and num_gpus > available:
        raise ScDMCError(f"--num_gpus {num_gpus}: this machine has {available}; pass at most that, or 0 for the CPU")
    if num_gpus is not None and num_gpus > n_processes:
        raise ScDMCError(f"--num_gpus {num_gpus}: start the script with torchrun --nproc_per_node={num_gpus}")
    if available and num_gpus != 0 and n_processes > available:
        raise ScDMCError(f"torchrun started {n_processes} processes, but this machine has {available} GPUs")
    return torch.device("cuda" if available and num_gpus != 0 else "cpu")


def _require_usable_gpus(available: int) -> None:
    # The driver counts the devices even where torch cannot start its CUDA on them.
    if torch.cuda.is_available():
        return
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
    else:
        reason = "torch.cuda.is_available() is False"
    raise ScDMCError(
        f"this machine has {available} GPUs that torch {torch.__version__} cannot use: {reason}; install a torch for "
        "the CUDA of this driver, or pass --num_gpus 0 for the CPU"
    )


@contextmanager
def deterministic_operations(is_wanted: bool) -> Iterator[None]:
    """Have torch compute meanwhile with operations only that give the same bits each time, if that is wanted.

    It is of use on a GPU, where sums are added up in whatever order they come; a CPU gives the same bits anyway. An
    operation of which torch has no such version raises torch's own error, which names it.
    """
    if not is_wanted:
        yield
        return
    os.environ.setdefault(CUBLAS_WORKSPACE, CUBLAS_WORKSPACE_SIZE)
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing is read before it is written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


@contextmanager
def threads_of_torch(meanwhile: int | None = None) -> Iterator[None]:
    """Keep torch's number of threads: the number that it had comes back at the end.

    Another number gives other last digits. Numba's first parallel loop sets it for all OpenMP code of the process, so
    that a second embedding in one process would differ from the first.

    Parameters
    ----------
    meanwhile
        Threads until then; None for as many as before.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(meanwhile or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
