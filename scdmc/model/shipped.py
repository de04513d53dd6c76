"""Pre-trained models that come with the repository, named as their folders under ``models/`` are."""

from pathlib import Path

from scdmc.errors import ScDMCError
from scdmc.resources import resource_folder

MODELS = resource_folder("models")


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
