"""Pre-trained models that come with the repository, named as their folders under ``models/`` are."""

import argparse
from pathlib import Path

from scdmc.errors import ScDMCError

MODELS = Path(__file__).resolve().parent.parent / "models"


def shipped_models() -> list[str]:
    """Names of the shipped models, in order; none where scDMC was installed without its repository."""
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def model_folder(model: str | Path) -> Path:
    """The folder that is meant by a path or by the name of a shipped model.

    Parameters
    ----------
    model
        A folder, which is taken as it is; where there is none, the name of a shipped model.

    Raises
    ------
    ScDMCError
        If it is neither.
    """
    path = Path(model)
    if path.is_dir():
        return path
    shipped = shipped_models()
    if str(path) in shipped:
        return MODELS / path
    known = f"by name there are {', '.join(shipped)}" if shipped else "no model is shipped beside this scDMC"
    raise ScDMCError(f"{model}: no such model folder; {known}")


def add_model_path_argument(
    parser: argparse._ActionsContainer,
    flag: str = "--model_path",
    meaning: str = "model folder",
    is_required: bool = True,
) -> None:
    """The flag that names a model, which may as well be written ``--model``.

    The value stays as it was given; all that opens a model folder asks :func:`model_folder` what it means.
    """
    text = f"{meaning}, or the name of a model under models/, such as scDMC-small"
    parser.add_argument(flag, "--model", type=Path, required=is_required, help=text)
