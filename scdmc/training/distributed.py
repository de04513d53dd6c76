"""What several processes of one run tell each other; with one process, nothing happens.

A model may be sharded: of each tensor every process then holds a part (a DTensor), and the functions at the end of this
module turn whole tensors into parts and back. They leave other tensors as they are. Torch's sharding is imported where
it is used: it costs 45 MB.
"""

from collections.abc import Iterable, Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import distributed, nn
from torch.nn import functional as F

from scdmc.errors import ScDMCError


def accelerator_on(device: torch.device) -> Accelerator:
    """What has the processes of a launch find each other; of several GPUs each process takes its own.

    Parameters
    ----------
    device
        Of the kind that is asked for.

    Raises
    ------
    ScDMCError
        If accelerate chooses another kind.
    """
    accelerator = Accelerator(
        cpu=device.type == "cpu", kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)]
    )
    if accelerator.device.type != device.type:
        raise ScDMCError(
            f"accelerate chose {accelerator.device} where {device.type} was asked for; pass --num_gpus 0 for the CPU, "
            "and see that no variable ACCELERATE_... of the environment says otherwise"
        )
    return accelerator


def n_processes() -> int:
    """Processes of the run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_number() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if n_processes() > 1 else 0


def global_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum over the processes, without gradient."""
    if n_processes() == 1:
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total


def gather_equal(values: torch.Tensor) -> list[torch.Tensor]:
    """The tensors of all processes, equal in shape and type, by number of the process."""
    if n_processes() == 1:
        return [values]
    gathered = [torch.empty_like(values) for _ in range(n_processes())]
    distributed.all_gather(gathered, values)
    return gathered


def gather_rows(rows: torch.Tensor, rows_by_process: tuple[int, ...]) -> torch.Tensor:
    """Rows of all processes in the order of the joined batch; this process's own rows keep their gradient.

    Process p of n holds the rows p, p + n, p + 2 n, ... (see :func:`scdmc.training.masking.masked_batch`).

    Parameters
    ----------
    rows
        Shape (n_rows, ...).
    rows_by_process
        How many rows each process has, so that nobody has to ask.

    Returns
    -------
    Shape (sum(rows_by_process), ...), the same on every process.
    """
    if n_processes() == 1:
        return rows
    padded = F.pad(rows, (*(0, 0) * (rows.ndim - 1), 0, max(rows_by_process) - len(rows)))
    parts = gather_equal(padded.detach())
    parts[process_number()] = padded
    # Row r of process p is row r n + p of the batch; who has one row less comes last in the last round.
    return torch.stack(parts, dim=1).flatten(0, 1)[: sum(rows_by_process)]


def shard(module: nn.Module, parts: Iterable[nn.Module], device: torch.device, other_forward: str) -> None:
    """Spread weights, gradients and optimizer state over the processes (fully sharded data parallel).

    Parameters
    ----------
    module
        The whole model, in main memory, changed in place: layer by layer it goes to the device, of which a part stays.
    parts
        Its layers: the weights of one of them at a time are gathered for computing.
    device
        Where the processes compute.
    other_forward
        Name of a method of ``module`` that computes with its weights, beside ``forward``.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (n_processes(),))
    for part in parts:
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(module, other_forward)


def _is_sharded(tensor: torch.Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor of which each process holds a part; all processes must ask."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


def gathered(tensors: Mapping[str, torch.Tensor], is_kept: bool) -> dict[str, torch.Tensor]:
    """Whole tensors, of which each process holds a part; all processes must ask.

    They are put together one by one, and go to the main memory of the processes that keep them: no device ever holds
    more than one. Tensors that are whole already stay where they are.
    """
    kept = {}
    for name, tensor in tensors.items():
        together = whole(tensor)
        if is_kept:
            kept[name] = together.cpu() if _is_sharded(tensor) else together
    return kept


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process holds; what is done to it is done to the tensor."""
    return tensor.to_local() if _is_sharded(tensor) else tensor


def spread_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A tensor that every process has, in parts like those of ``other``."""
    if not _is_sharded(other):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    parts = distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
    return parts.clone()  # a part that is a view would keep the whole alive
