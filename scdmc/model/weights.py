"""Files of weights: safetensors, one or several with an index, the published .bin, and tables that were cut by row."""

import pickle
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, read_json_object
from scdmc.model.names import CONFIG_FILE, INDEX_FILE, PUBLISHED_WEIGHTS_FILE, WEIGHTS_FILE, WEIGHTS_NAME
from scdmc.result_folders import require_whole

# Folders that were exported before there was an index: a table larger than a file is cut into blocks of rows.
CUT_WEIGHTS_FILE = "model-{:05d}.safetensors"
ROWS_SUFFIX = ".rows."


# What the names and shapes of a file may take beside its tensors.
HEADER_BYTES = 65_536


MAX_FILES = 10_000


def weights_file(path: Path) -> Path:
    """The file of weights in a model folder.

    Raises
    ------
    ScDMCError
        If there is none.
    """
    require_whole(path)
    for name in (WEIGHTS_FILE, INDEX_FILE, CUT_WEIGHTS_FILE.format(1), PUBLISHED_WEIGHTS_FILE):
        if (path / name).is_file():
            return path / name
    raise ScDMCError(f"{path} holds no weights ({WEIGHTS_FILE} or {PUBLISHED_WEIGHTS_FILE}); is it a model folder?")


def weight_names(path: Path) -> set[str]:
    """Names of the tensors of a model folder; the tensors themselves are not read.

    Raises
    ------
    ScDMCError
        If there are no weights, or a file is damaged.
    """
    return set(weight_shapes(path))


def weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of a model folder; the tensors themselves are not read.

    Raises
    ------
    ScDMCError
        If there are no weights, or a file is damaged.
    """
    file = weights_file(Path(path))
    shapes: dict[str, tuple[int, ...]] = {}
    with _refusing_damage(file):
        if file.name == PUBLISHED_WEIGHTS_FILE:
            return {name: tuple(tensor.shape) for name, tensor in _unpickled(file, "meta").items()}
        for part in _files_of(file):
            with safe_open(part, framework="pt") as tensors:
                for piece in tensors.keys():  # noqa: SIM118  (no mapping)
                    name, _, row = piece.partition(ROWS_SUFFIX)
                    shape = tuple(tensors.get_slice(piece).get_shape())
                    n_rows = shapes[name][0] if row and name in shapes else 0
                    shapes[name] = (n_rows + shape[0], *shape[1:]) if row else shape
    return shapes


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a model folder; no format can run code (``.bin`` is read with ``weights_only=True``).

    Raises
    ------
    ScDMCError
        If there are no weights, or a file is damaged, or not the one that was written with the rest of the folder.
    """
    file = weights_file(Path(path))
    weights: dict[str, torch.Tensor] = {}
    with _refusing_damage(file):
        parts = [file] if file.name == PUBLISHED_WEIGHTS_FILE else _files_of(file)
    require_whole(file.parent, *dict.fromkeys([file.name, *(part.name for part in parts)]))
    with _refusing_damage(file):
        if file.name == PUBLISHED_WEIGHTS_FILE:
            return _unpickled(file, "cpu")
        for part in parts:
            weights |= load_file(part)
        return _join_rows(weights) if file.name == CUT_WEIGHTS_FILE.format(1) else weights


def _unpickled(file: Path, device: str) -> dict[str, torch.Tensor]:
    """Tensors of a ``.bin`` file; on the device "meta" they have shapes only, and nothing else is read."""
    weights = torch.load(file, weights_only=True, map_location=device)
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in weights.items()
    ):
        raise ScDMCError(f"{file} holds a {type(weights).__name__}, not tensors by name")
    return dict(weights)


def save_weights(folder: Path, model: PreTrainedModel, max_bytes: int) -> list[Path]:
    """Write a model's weights as ``save_pretrained`` does, in place of those that the folder holds.

    Several files come with an index (:data:`INDEX_FILE`), which ``AutoModel`` reads too.

    Parameters
    ----------
    folder
        The folder; it is there already.
    model
        The model, in the type of number that is to be stored.
    max_bytes
        Largest file; a single tensor that is larger has a larger file of its own.

    Returns
    -------
    The files of tensors.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".weights-") as temporary:
        written = Path(temporary)
        model.save_pretrained(written, max_shard_size=max(1, max_bytes - HEADER_BYTES))
        rights = (written / CONFIG_FILE).stat().st_mode  # those that the user's umask gives
        for path in folder.iterdir():
            if WEIGHTS_NAME.fullmatch(path.name):
                path.unlink()
        # The index last: a folder with an index is a complete one.
        files = sorted((path for path in written.iterdir() if WEIGHTS_NAME.fullmatch(path.name)), key=_index_last)
        for path in files:
            path.chmod(rights)
            path.replace(folder / path.name)
    return [folder / path.name for path in files if path.suffix == ".safetensors"]


def _index_last(path: Path) -> tuple[bool, str]:
    return path.name == INDEX_FILE, path.name


@contextmanager
def _refusing_damage(file: Path) -> Iterator[None]:
    """Say that a file is damaged where reading it fails."""
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ScDMCError(f"{file} is damaged or no file of weights ({reason})") from error


def _files_of(file: Path) -> list[Path]:
    """The files of tensors that :func:`weights_file` stands for."""
    if file.name == INDEX_FILE:
        places = read_json_object(file, "index of weights").get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise ScDMCError(f"{file} has no weight_map from names to files; export the model again")
        return [_regular(file.parent / Path(name).name) for name in sorted(set(places.values()))]
    if file.name != CUT_WEIGHTS_FILE.format(1):
        return [file]
    with safe_open(file, framework="pt") as first:
        n_files = int((first.metadata() or {}).get("files", 1))
    if not 1 <= n_files <= MAX_FILES:
        raise ScDMCError(f"{file} says that it is one of {n_files} files; export the model again")
    return [_regular(file.parent / CUT_WEIGHTS_FILE.format(number)) for number in range(1, n_files + 1)]


def _regular(file: Path) -> Path:
    """The file, if it is one: opening a pipe would wait for ever."""
    if not file.is_file():
        raise FileNotFoundError(f"{file.name} is no file; export the model again")
    return file


def _join_rows(pieces: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Join blocks of rows: ``name.rows.00000`` and so on are one tensor."""
    joined: dict[str, list[torch.Tensor]] = {}
    for name in sorted(pieces):
        joined.setdefault(name.partition(ROWS_SUFFIX)[0], []).append(pieces[name])
    return {name: torch.cat(blocks) if len(blocks) > 1 else blocks[0] for name, blocks in joined.items()}


def save_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write safetensors; transformers reads the format from the metadata."""
    with atomic_path(file) as temporary:
        temporary.touch()
        rights = temporary.stat().st_mode  # those that the user's umask gives, and safetensors would not
        save_file(dict(tensors), temporary, metadata={"format": "pt"})
        temporary.chmod(rights)
