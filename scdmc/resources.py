"""Files that come with scDMC: vocabulary, gene table, medians, shipped models and scripts.

The repository holds each file once, outside of ``scdmc/``. In a wheel the same files lie inside the package
(``package-dir`` in ``pyproject.toml`` puts them there).
"""

import importlib.resources
from pathlib import Path

# Place inside an installed package -> place in a checkout.
PLACES = {
    "token_files": "tokenizer/token_files",
    "text_files": "tokenizer/text_files",
    "models": "models",
    "text_models": "text_models",
    "scripts": ".",
}


def resource_folder(name: str) -> Path:
    """Where a folder of :data:`PLACES` lies: in the installed package, or in the checkout around it.

    An editable install and a checkout on ``PYTHONPATH`` count as a checkout.

    Raises
    ------
    KeyError
        If there is no such folder in :data:`PLACES`.
    """
    package = Path(str(importlib.resources.files("scdmc")))
    installed = package / name
    return installed if installed.is_dir() else package.parent / PLACES[name]
