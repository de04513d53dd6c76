"""Which device the work runs on."""

import argparse
from typing import TYPE_CHECKING

import torch

from scdmc.errors import ScDMCError
from scdmc.model.encoder import ScDMCPreTrainedModel

if TYPE_CHECKING:
    pass
import os


def place_model(
    model: ScDMCPreTrainedModel, arguments: argparse.Namespace, dtype: str = "float32"
) -> ScDMCPreTrainedModel:
    """Move a model to the device, with the attention, that the flags of :func:`add_model_arguments` ask for."""
    model.to(choose_device(arguments.num_gpus), getattr(torch, dtype))
    model.set_attention(arguments.attention, getattr(torch, dtype))
    return model


def choose_device(num_gpus: int | None = None) -> torch.device:
    """The GPU where there is one, else the CPU.

    Parameters
    ----------
    num_gpus
        GPUs that the user asked for; 0 forces the CPU.

    Raises
    ------
    ScDMCError
        If more GPUs are asked for than there are, or several without a process for each.
    """
    available = torch.cuda.device_count()
    n_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if num_gpus is not None and num_gpus > available:
        raise ScDMCError(f"--num_gpus {num_gpus}: this machine has {available}; pass at most that, or 0 for the CPU")
    if num_gpus is not None and num_gpus > n_processes:
        raise ScDMCError(f"--num_gpus {num_gpus}: start the script with torchrun --nproc_per_node={num_gpus}")
    if available and num_gpus != 0 and n_processes > available:
        raise ScDMCError(f"torchrun started {n_processes} processes, but this machine has {available} GPUs")
    return torch.device("cuda" if available and num_gpus != 0 else "cpu")
