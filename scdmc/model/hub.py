"""Models on the Hugging Face hub: a folder is fetched by its name ``user/name``, or sent there."""

import functools
import logging
import re
from pathlib import Path

from scdmc.errors import ScDMCError
from scdmc.model.names import (
    CALIBRATION_FILE,
    CARD_FIGURE,
    CARD_FILE,
    CONFIG_FILE,
    GENE_MEDIANS_FILE,
    INDEX_FILE,
    MODELING_FILE,
    TOKEN_IDS_FILE,
    TOKENIZATION_FILE,
    TRAINING_GENES_FILE,
    WEIGHTS_FILE,
)

logger = logging.getLogger(__name__)


# As the hub has it: no "--" or "..", and no "-" or "." at an end of either word.
HUB_NAME = re.compile(r"(?=.{3,96}$)(?!.*(--|\.\.))\w([\w.-]*\w)?/\w([\w.-]*\w)?", flags=re.ASCII)


# What is fetched. No pickle and no code is among it.
FETCHED = (
    CONFIG_FILE, TOKEN_IDS_FILE, GENE_MEDIANS_FILE, TOKENIZATION_FILE, CARD_FILE, CALIBRATION_FILE,
    TRAINING_GENES_FILE, WEIGHTS_FILE, "model-*.safetensors", INDEX_FILE,
)  # fmt: skip


# What is sent. The arguments of a training stay here, since they name folders of this machine.
SENT = (*FETCHED, MODELING_FILE, CARD_FIGURE)


def is_hub_name(model: str | Path) -> bool:
    """True for what looks like ``user/name`` and cannot be a path: nothing here is called ``user``."""
    text = str(model)
    return HUB_NAME.fullmatch(text) is not None and not Path(text).parent.exists()


@functools.cache
def fetch_model(name: str) -> Path:
    """Fetch a model from the hub into its cache; what is in the cache already is not fetched again.

    Without network, the copy in the cache is taken. The environment variable ``HF_HUB_OFFLINE=1`` asks for that.

    Parameters
    ----------
    name
        ``user/name``.

    Returns
    -------
    The folder in the cache.

    Raises
    ------
    ScDMCError
        If the hub has no such model, or cannot be reached and the cache has none, or the model is none of scDMC.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import FileMetadataError, HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(FETCHED)))
    except RepositoryNotFoundError as error:
        raise ScDMCError(
            f"{name}: no such folder here, and no such model on {constants.ENDPOINT}; check the name, "
            "or log in with `hf auth login` if the model is private"
        ) from error
    except (LocalEntryNotFoundError, FileMetadataError, HTTPError) as error:
        raise ScDMCError(
            f"{name}: no such folder here, and {constants.ENDPOINT} cannot be reached; check the path, "
            "or try again with a connection"
        ) from error
    if not (folder / CONFIG_FILE).is_file() or not any(folder.glob("model*.safetensors")):
        raise ScDMCError(
            f"{name}: the model on {constants.ENDPOINT} lacks {CONFIG_FILE} or weights as safetensors; "
            "pickled weights are not fetched"
        )
    logger.info("%s: fetched from %s, now in %s", name, constants.ENDPOINT, folder)
    return folder


def require_hub_name(name: str) -> None:
    """Refuse what is no name on the hub.

    Raises
    ------
    ScDMCError
        If the name is not of the form ``user/name``.
    """
    if not HUB_NAME.fullmatch(name):
        raise ScDMCError(f"{name!r} is no name on the Hugging Face hub; write it as user/name")


def push_model(folder: Path, name: str, is_private: bool = False) -> str:
    """Send a model folder to the hub; the repository is made if there is none.

    Only the files of :data:`SENT` go.

    Parameters
    ----------
    folder
        A model folder with weights as safetensors.
    name
        ``user/name``.
    is_private
        Whether a new repository is private.

    Returns
    -------
    The address of the model.

    Raises
    ------
    ScDMCError
        If the name is none, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError

    require_hub_name(name)
    if not any(Path(folder).glob("model*.safetensors")):
        raise ScDMCError(f"{folder} has no weights as safetensors; write such a folder with export_model.py")
    api = HfApi()
    try:
        address = api.create_repo(name, private=is_private or None, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=list(SENT), commit_message="A model of scDMC"
        )
    except HfHubHTTPError as error:
        reason = str(error).partition("\n")[0]
        raise ScDMCError(
            f"{constants.ENDPOINT} refused {name} ({reason}); log in with `hf auth login`, with the right to write"
        ) from error
    except LocalTokenNotFoundError as error:
        raise ScDMCError(f"{name}: log in with `hf auth login` before you send a model") from error
    except HTTPError as error:
        raise ScDMCError(f"{constants.ENDPOINT} cannot be reached, so {name} was not sent; try again") from error
    return str(address)
