"""What a function is given as ``model``: a folder, a name, or a model that is loaded already."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from scdmc.errors import ScDMCError
from scdmc.model.encoder import ScDMCModel, ScDMCPreTrainedModel
from scdmc.model.folder import ModelDirectory, open_model_directory
from scdmc.model.storage import load, load_model


def open_model(
    model: str | Path | ScDMCPreTrainedModel | ModelDirectory, token_dictionary_file: str | Path | None = None
) -> ModelDirectory:
    """What a model folder says beside its weights, whichever way the model is given.

    Parameters
    ----------
    model
        A model folder, the name of a shipped model, what :func:`scdmc.model.storage.load` returned (its weights are
        not read again), or an opened folder, which comes back as it is.
    token_dictionary_file
        Vocabulary of a published folder that brings none.

    Raises
    ------
    ScDMCError
        If there is no such folder, or a loaded model does not know where it came from.
    """
    if isinstance(model, ModelDirectory):
        return model
    if not isinstance(model, ScDMCPreTrainedModel):
        return open_model_directory(model, token_dictionary_file)
    opened = getattr(model, "model_directory", None)
    if opened is None:
        raise ScDMCError(
            f"this {type(model).__name__} does not know the vocabulary that it was trained with; load it with "
            "scdmc.load(folder), or give the folder itself"
        )
    return replace(opened, loaded=model)


def model_to_run(
    model_directory: ModelDirectory,
    model_class: type[ScDMCPreTrainedModel] | None,
    place: Callable[[ScDMCPreTrainedModel], object],
) -> ScDMCPreTrainedModel:
    """A model for inference, in evaluation mode.

    Parameters
    ----------
    model_directory
        See :func:`open_model`.
    model_class
        What is needed of it: ``ScDMCModel`` is the encoder, with or without a head. None for all that the folder holds.
    place
        Moves a model that is read from the folder to its device. A loaded one stays where it is.

    Raises
    ------
    ScDMCError
        If weights are missing, or the loaded model is of another kind.
    """
    loaded = model_directory.loaded
    if loaded is None:
        path = model_directory.path
        model = load(path) if model_class is None else load_model(path, model_class)
        place(model)
    elif model_class is None or isinstance(loaded, model_class):
        model = loaded
    elif model_class is ScDMCModel:
        model = loaded.bert
    else:
        raise ScDMCError(
            f"{model_directory.path} was loaded as {type(loaded).__name__}, and {model_class.__name__} is needed"
        )
    return model.eval()
