"""Where the checkpoints of a run lie. Nothing heavy is imported here: a wrong ``--resume`` is refused at once."""

from pathlib import Path

from scdmc.errors import ScDMCError

TENSORS_FILE, STATE_FILE = "state.safetensors", "state.json"
CHECKPOINTS_FOLDER = "checkpoints"
# Of the folder of checkpoints: what a model folder holds beside its weights.
DESCRIPTION_FOLDER = "model"


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """Checkpoints of a run, damaged ones too, oldest first."""
    return sorted(path for path in (Path(output_dir) / CHECKPOINTS_FOLDER).glob("step-*") if path.is_dir())


def checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return [path for path in checkpoint_folders(output_dir) if (path / STATE_FILE).exists()]


def find_checkpoint(output_dir: Path, name: str) -> Path:
    """The checkpoint that ``--resume`` or ``--checkpoint`` means: ``last`` or a folder.

    Raises
    ------
    ScDMCError
        If there is none.
    """
    if name != "last":
        if not (Path(name) / STATE_FILE).is_file():
            raise ScDMCError(f"{name} is no checkpoint; name a folder checkpoints/step-..., or say last")
        return Path(name)
    found = checkpoints(output_dir)
    if not found:
        raise ScDMCError(f"{output_dir} holds no complete checkpoint to resume from")
    return found[-1]
