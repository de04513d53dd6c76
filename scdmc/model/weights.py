"""Files of weights: safetensors, the published .bin, and tables split into several files."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path

WEIGHTS_FILE = "model.safetensors"


PUBLISHED_WEIGHTS_FILE = "pytorch_model.bin"


SPLIT_WEIGHTS_FILE = "model-{:05d}.safetensors"


# A table that is larger than a file is cut into blocks of rows, named after it.
ROWS_SUFFIX = ".rows."


def weights_file(path: Path) -> Path:
    """The file of weights in a model folder.

    Raises
    ------
    ScDMCError
        If there is none.
    """
    for name in (WEIGHTS_FILE, SPLIT_WEIGHTS_FILE.format(1), PUBLISHED_WEIGHTS_FILE):
        if (path / name).is_file():
            return path / name
    raise ScDMCError(f"{path} holds no weights ({WEIGHTS_FILE} or {PUBLISHED_WEIGHTS_FILE}); is it a model folder?")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a model folder; no format can run code (``.bin`` is read with ``weights_only=True``).

    Weights that :func:`write_split_weights` cut into several files are joined.
    """
    path = Path(path)
    file = weights_file(path)
    try:
        if file.name == SPLIT_WEIGHTS_FILE.format(1):
            return _read_split_weights(path)
        weights = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, weights_only=True, map_location="cpu")
        )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ScDMCError(f"{file} is damaged or no file of weights ({reason})") from error
    if not isinstance(weights, Mapping):
        raise ScDMCError(f"{file} holds a {type(weights).__name__}, not tensors by name")
    return weights


def write_split_weights(path: Path, weights: Mapping[str, torch.Tensor], max_bytes: int) -> list[Path]:
    """Write weights as float16 in files of at most ``max_bytes``; tables are cut between rows where they must be.

    Parameters
    ----------
    path
        The folder.
    weights
        Name -> tensor.
    max_bytes
        Largest file.

    Returns
    -------
    The files.
    """
    room = max_bytes - 65_536  # for names and shapes
    pieces: list[tuple[str, torch.Tensor]] = []
    for name, tensor in sorted(weights.items()):
        half = tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        row_bytes = max(1, half[:1].numel() * half.element_size()) if half.ndim else half.element_size()
        blocks = half.split(max(1, room // row_bytes)) if half.ndim else (half,)
        pieces += [
            (name if len(blocks) == 1 else f"{name}{ROWS_SUFFIX}{i:05d}", block) for i, block in enumerate(blocks)
        ]
    files: list[dict[str, torch.Tensor]] = [{}]
    used = 0
    for name, tensor in pieces:
        n_bytes = tensor.numel() * tensor.element_size()
        if used + n_bytes > room and files[-1]:
            files.append({})
            used = 0
        files[-1][name] = tensor.contiguous()
        used += n_bytes
    paths = [path / SPLIT_WEIGHTS_FILE.format(number) for number in range(1, len(files) + 1)]
    for file, content in zip(paths, files, strict=True):
        save_tensors(file, content, files=str(len(files)))
    return paths


def save_tensors(file: Path, tensors: Mapping[str, torch.Tensor], **more: str) -> None:
    """Write safetensors; transformers reads the format from the metadata."""
    with atomic_path(file) as temporary:
        temporary.touch()
        rights = temporary.stat().st_mode  # those that the user's umask gives, and safetensors would not
        save_file(dict(tensors), temporary, metadata={"format": "pt", **more})
        temporary.chmod(rights)


def _read_split_weights(path: Path) -> dict[str, torch.Tensor]:
    """Join the files and blocks of rows that :func:`write_split_weights` wrote."""
    with safe_open(path / SPLIT_WEIGHTS_FILE.format(1), framework="pt") as first:
        n_files = int(first.metadata()["files"])
    pieces: dict[str, torch.Tensor] = {}
    for number in range(1, n_files + 1):
        pieces |= load_file(path / SPLIT_WEIGHTS_FILE.format(number))
    joined: dict[str, list[torch.Tensor]] = {}
    for name in sorted(pieces):
        joined.setdefault(name.partition(ROWS_SUFFIX)[0], []).append(pieces[name])
    return {name: torch.cat(blocks) if len(blocks) > 1 else blocks[0] for name, blocks in joined.items()}
