"""What the user means by a model: a folder, one that comes with scDMC, or one on the Hugging Face hub."""

from pathlib import Path

from scdmc.errors import ScDMCError
from scdmc.model.hub import fetch_model, is_hub_name
from scdmc.model.names import CONFIG_FILE
from scdmc.resources import resource_folder

MODELS = resource_folder("models")


def shipped_models() -> list[str]:
    """Names of the shipped models, in order."""
    return sorted(path.parent.name for path in MODELS.glob(f"*/{CONFIG_FILE}"))


def model_folder(model: str | Path) -> Path:
    """The folder that is meant by a path, by the name of a shipped model, or by a name on the Hugging Face hub.

    Parameters
    ----------
    model
        A folder, which is taken as it is; where there is none, the name of a shipped model; else ``user/name``, with
        one slash and no folder ``user`` here, which is fetched from the hub.

    Raises
    ------
    ScDMCError
        If it is none of these.
    """
    path = Path(model)
    if path.is_dir():
        return path
    shipped = shipped_models()
    if str(path) in shipped:
        return MODELS / path
    if is_hub_name(path) and path.parts[0] not in shipped:
        return fetch_model(str(path))
    known = f"by name there are {', '.join(shipped)}" if shipped else "no model is shipped beside this scDMC"
    raise ScDMCError(f"{model}: no such model folder; {known}")
