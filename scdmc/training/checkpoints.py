"""Checkpoints of a training run: complete or absent, and without pickle."""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, known_sha256, read_json_object, remove, sha256_of_file
from scdmc.model.folder import read_config
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.storage import load_weights
from scdmc.model.weights import save_tensors
from scdmc.training.checkpoint_files import (
    DESCRIPTION_FOLDER,
    STATE_FILE,
    TENSORS_FILE,
    checkpoint_folders,
    checkpoints,
    find_checkpoint,
)
from scdmc.training.distributed import gather_equal, spread_like

logger = logging.getLogger(__name__)

# What state.json must say, and of which type.
STATE_TYPES = {"step": int, "trained_seconds": (int, float), "run": dict, "history": list}
# Hashes in state.json: of the tensors' file, and of all else that state.json says.
TENSORS_HASH, STATE_HASH = "tensors_sha256", "state_sha256"


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
            hashed = {**state, TENSORS_HASH: sha256_of_file(temporary / TENSORS_FILE)}
            (temporary / STATE_FILE).write_text(json.dumps({**hashed, STATE_HASH: _hash_of_state(hashed)}))
    except (OSError, SafetensorError) as error:
        raise _disk_full(path, str(error)) from error
    # Later ones belong to a run that was given up for an earlier checkpoint: they must not outlive what is newer.
    given_up = [later for later in checkpoint_folders(output_dir) if later.name > path.name]
    complete = [found for found in checkpoints(output_dir) if found not in given_up]
    for old in [*given_up, *complete[:-keep]]:
        remove(old)
    return path


def _hash_of_state(state: Mapping) -> str:
    content = json.dumps({name: value for name, value in state.items() if name != STATE_HASH}, sort_keys=True)
    return hashlib.sha256(content.encode("utf8")).hexdigest()


def _disk_full(path: Path, why: str) -> ScDMCError:
    return ScDMCError(
        f"{path} could not be written ({why}); the checkpoints before it are complete, "
        "so make room and go on with --resume"
    )


def _remove_leftovers(folder: Path) -> None:
    """Delete what a killed run had not finished writing."""
    for leftover in folder.glob(".step-*.partial"):
        remove(leftover)


def checkpoint_to_resume(output_dir: Path, name: str) -> Path:
    """The checkpoint that ``--resume`` means; a damaged last one gives way to the one before it, with a warning.

    Parameters
    ----------
    output_dir
        Folder of the run.
    name
        ``last``, or the folder of a checkpoint.

    Raises
    ------
    ScDMCError
        If there is none, the one that was named is damaged, or all are.
    """
    if name != "last":
        _read_state(find_checkpoint(output_dir, name))
        return Path(name)
    damaged: list[str] = []
    for path in reversed(checkpoint_folders(output_dir)):
        try:
            _read_state(path)
        except ScDMCError as error:
            damaged.append(str(error))
        else:
            for message in damaged:
                logger.warning("warning: %s; the run goes on from %s", message, path.name)
            return path
    if damaged:
        raise ScDMCError(f"no checkpoint of {output_dir} can be used: {damaged[0]}; start anew with --overwrite")
    return find_checkpoint(output_dir, name)


def model_of_checkpoint(output_dir: Path, name: str) -> tuple[ScDMCForMaskedLM, Path]:
    """The model as a checkpoint of a run has it, also while the run goes on, and the folder that describes it.

    Parameters
    ----------
    output_dir
        Folder of the run.
    name
        See :func:`checkpoint_to_resume`.

    Raises
    ------
    ScDMCError
        If there is no such checkpoint, or the run does not say what it trains.
    """
    checkpoint = checkpoint_to_resume(output_dir, name)
    description = checkpoint.parent / DESCRIPTION_FOLDER
    if not description.is_dir():
        raise ScDMCError(f"{description} is missing: the run is of an earlier version; wait for its model folder")
    model = ScDMCForMaskedLM(read_config(description))
    load_weights(model, without_prefix("module.model", read_checkpoint(checkpoint)[0]), str(checkpoint))
    return model, description


def _read_state(path: Path) -> dict:
    """What ``state.json`` says, after a look at both files.

    Raises
    ------
    ScDMCError
        If one is damaged or absent.
    """
    try:
        state = read_json_object(path / STATE_FILE, "state of a checkpoint")
        wrong = [name for name, kind in STATE_TYPES.items() if not isinstance(state.get(name), kind)]
        if wrong:
            raise ScDMCError(f"{path / STATE_FILE} lacks {', '.join(wrong)}")
        if state.get(STATE_HASH, _hash_of_state(state)) != _hash_of_state(state):
            raise ScDMCError(f"{path / STATE_FILE} is not as it was written")
        # Looks at the header and at the size of the file; a checkpoint of version 0.1 has no hash.
        with safe_open(path / TENSORS_FILE, framework="pt"):
            pass
        if TENSORS_HASH in state and known_sha256(path / TENSORS_FILE) != state[TENSORS_HASH]:
            raise ScDMCError(f"{path / TENSORS_FILE} is not as it was written")
    except ScDMCError as error:
        raise ScDMCError(f"{path} is damaged ({error})") from error
    except (OSError, SafetensorError) as error:
        raise ScDMCError(f"{path} is damaged ({TENSORS_FILE}: {error})") from error
    return state


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors (in main memory, wherever they were made) and state of a checkpoint.

    Raises
    ------
    ScDMCError
        If the folder is no checkpoint, or a damaged one.
    """
    state = _read_state(path)
    return load_file(path / TENSORS_FILE), state


def with_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names with ``prefix.`` before them."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names start with ``prefix.``, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """State of an optimizer, ``index.name`` -> tensor, or the part of it that this process holds."""
    states = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, state in states.items() for name, tensor in state.items()}


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
