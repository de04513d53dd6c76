"""Text models that come with scDMC. Each names its encoder, which comes with scDMC as well, in place of a copy.

Source: docs/text.md, "The model that comes with scDMC".
"""

from pathlib import Path

from scdmc.model.names import CONFIG_FILE
from scdmc.resources import resource_folder

TEXT_MODELS = resource_folder("text_models")


def shipped_text_models() -> list[str]:
    """Names of the shipped text models, in order."""
    return sorted(path.parent.name for path in TEXT_MODELS.glob(f"*/{CONFIG_FILE}"))


def text_model_folder(model: str | Path) -> Path:
    """The folder that is meant by a path, or by the name of a shipped text model; another path stays as it is."""
    path = Path(model)
    return TEXT_MODELS / path if not path.is_dir() and str(path) in shipped_text_models() else path
