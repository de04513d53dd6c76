"""Which device the work runs on."""

import torch

from scdmc.errors import ScDMCError


def choose_device(num_gpus: int | None = None) -> torch.device:
    """The GPU where there is one, else the CPU.

    Parameters
    ----------
    num_gpus
        GPUs that the user asked for; 0 forces the CPU.

    Raises
    ------
    ScDMCError
        If more GPUs are asked for than there are.
    """
    available = torch.cuda.device_count()
    if num_gpus is not None and num_gpus > available:
        raise ScDMCError(f"--num_gpus {num_gpus}: this machine has {available}; pass at most that, or 0 for the CPU")
    return torch.device("cuda" if available and num_gpus != 0 else "cpu")
