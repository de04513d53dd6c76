"""Checkpoints of a training run: complete or absent, and without pickle."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, remove
from scdmc.model.weights import save_tensors
from scdmc.training.checkpoint_files import STATE_FILE, TENSORS_FILE, checkpoints
from scdmc.training.distributed import gather_equal, spread_like, whole
from scdmc.training.loading import TrainingCells
from scdmc.training.settings import FREE_SETTINGS, PretrainingSettings


def write_checkpoint(
    output_dir: Path, step: int, tensors: Mapping[str, torch.Tensor], state: Mapping, keep: int
) -> Path:
    """Write a checkpoint and delete all but the newest.

    Parameters
    ----------
    output_dir
        Folder of the run.
    step
        Optimizer steps done.
    tensors
        Name -> tensor.
    state
        The rest, as JSON.
    keep
        How many checkpoints stay.

    Raises
    ------
    ScDMCError
        If the disk is full; earlier checkpoints stay as they were.
    """
    path = output_dir / "checkpoints" / f"step-{step:08d}"
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    free = shutil.disk_usage(path.parent).free
    if free < n_bytes:
        raise _disk_full(path, f"{n_bytes / 2**20:,.0f} MiB needed, {free / 2**20:,.0f} MiB free")
    try:
        with atomic_path(path) as temporary:
            temporary.mkdir()
            whole_tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
            save_tensors(temporary / TENSORS_FILE, whole_tensors)
            (temporary / STATE_FILE).write_text(json.dumps(state))
    except (OSError, SafetensorError) as error:
        raise _disk_full(path, str(error)) from error
    for old in checkpoints(output_dir)[:-keep]:
        remove(old)
    return path


def _disk_full(path: Path, why: str) -> ScDMCError:
    return ScDMCError(
        f"{path} could not be written ({why}); the checkpoints before it are complete, "
        "so make room and go on with --resume"
    )


def _remove_leftovers(folder: Path) -> None:
    """Delete what a killed run had not finished writing."""
    for leftover in folder.glob(".step-*.partial"):
        remove(leftover)


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors (in main memory, wherever they were made) and state of a checkpoint.

    Raises
    ------
    ScDMCError
        If the folder is no checkpoint.
    """
    if not (path / STATE_FILE).is_file():
        raise ScDMCError(f"{path} is no checkpoint")
    state = json.loads((path / STATE_FILE).read_text())
    return load_file(path / TENSORS_FILE), state


def with_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names with ``prefix.`` before them."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names start with ``prefix.``, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """State of an optimizer, ``index.name`` -> tensor."""
    states = optimizer.state_dict()["state"]
    return {f"{index}.{name}": whole(tensor) for index, state in states.items() for name, tensor in state.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` took."""
    content = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        index, key = name.split(".")
        parameter = parameters[int(index)]
        same_shape = tensor.shape == parameter.shape  # the number of steps is no tensor to be spread
        content["state"].setdefault(int(index), {})[key] = spread_like(tensor, parameter) if same_shape else tensor
    optimizer.load_state_dict(content)


def random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """State of every process's generators, ``process.device`` -> bytes: each process drops other states."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state()
    return {
        f"{process}.{name}": state.cpu()
        for name, own in states.items()
        for process, state in enumerate(gather_equal(own.to(device)))
    }


def restore_random_states(states: Mapping[str, torch.Tensor], device: torch.device, new_seed: int) -> None:
    """Put back what :func:`random_states` took of one process; a process without states starts from a new seed."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"].cpu())
    else:
        torch.manual_seed(new_seed)
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu())


def run_identity(settings: PretrainingSettings, config: ScDMCConfig, data: TrainingCells) -> dict[str, object]:
    """What makes a run what it is: settings, sizes of the model, the training cells."""
    sizes = {name: getattr(config, name) for name in ScDMCConfig.__annotations__ if "classifier" not in name}
    cells = data.cells
    parts = (cells.rows[data.training], cells.rank_lengths, cells.rank_ids[:100_000])
    content = (*parts, cells.expression_values[:100_000], data.held_out)
    digest = hashlib.sha256(b"".join(part.tobytes() for part in content)).hexdigest()
    return {**asdict(settings), **sizes, "n_training_cells": len(data.training), "training_cells": digest}


def require_same_run(found: Mapping[str, object], expected: Mapping[str, object], checkpoint: Path) -> None:
    """Refuse to resume a run of which anything but :data:`FREE_SETTINGS` has changed.

    Parameters
    ----------
    found, expected
        What :func:`run_identity` said of the interrupted run, and what it says now.
    checkpoint
        Where the interrupted run left off, for the message.

    Raises
    ------
    ScDMCError
        Naming the first change.
    """
    changed = [name for name in expected if name not in FREE_SETTINGS and found.get(name) != expected[name]]
    if changed:
        name = changed[0]
        raise ScDMCError(
            f"{checkpoint} was made with {name} {found.get(name)}, not {expected[name]}; a resumed run keeps it"
        )
