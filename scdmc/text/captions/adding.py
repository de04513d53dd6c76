"""A text model that is there learns to say captions, and stays as it is otherwise.

Source: docs/text.md, "Captions".
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from scdmc.errors import ScDMCError
from scdmc.files import write_json
from scdmc.model.encoder import ScDMCModel
from scdmc.model.storage import load_model
from scdmc.result_folders import extended_folder, keep_results
from scdmc.text.captions.captioner import Captioner, save_captioner
from scdmc.text.captions.options import LANGUAGE_MODEL_FOLDER, CaptionOptions
from scdmc.text.captions.training import trained_captioner
from scdmc.text.corpus import Corpus
from scdmc.text.model import read_text_model
from scdmc.text.ontology import CellOntology
from scdmc.text.options import TextTrainingOptions
from scdmc.text.training_data import data_sets_to_train_on, training_data


def add_captions(
    folder: Path,
    corpus: Corpus,
    encoder: ScDMCModel,
    ontology: CellOntology,
    options: CaptionOptions,
    arguments: Mapping[str, object],
) -> Captioner:
    """Train captions on what the Q-Former of a text model finds, and write them into its folder.

    Parameters
    ----------
    folder
        Of the text model.
    corpus
        Cells.
    encoder
        That reads them; it must be the one of the text model.
    ontology
        Names and definitions.
    options
        Which language model, and how.
    arguments
        Flags of the run, which are written beside the language model.

    Raises
    ------
    ScDMCError
        If the text model has no Q-Former, or another encoder, or knows terms that the corpus holds out.
    """
    model, directory = read_text_model(folder)
    if model.reader is None:
        raise ScDMCError(f"{folder} has no Q-Former, which captions need; train --stage 1 with --projector qformer")
    if not is_same_encoder(encoder, load_model(directory.path, ScDMCModel)):
        raise ScDMCError(f"--model is not the encoder of cells that {folder} holds; name that one")
    seen = sorted(corpus.unseen & set(model.texts.terms["cl_id"]))
    if seen:
        raise ScDMCError(f"{folder} was trained on {seen[0]}, which {corpus.path} holds out; take its own corpus")
    settings = TextTrainingOptions(projector="qformer", max_tokens=model.reader.shape.max_tokens)
    names = data_sets_to_train_on(corpus)
    data = training_data(corpus, names, encoder, directory, model.texts, settings)
    reader = model.reader.to(encoder.device)
    captioner = trained_captioner(data.sets, corpus, model.texts, reader, ontology, options)
    with extended_folder(folder, lambda name: name.startswith(f"{LANGUAGE_MODEL_FOLDER}/")) as hidden:
        save_captioner(hidden, captioner)
        write_json(hidden / LANGUAGE_MODEL_FOLDER / "arguments.json", arguments)
        keep_results(hidden)
    return captioner


def is_same_encoder(placed: ScDMCModel, of_folder: ScDMCModel) -> bool:
    """Whether an encoder on its device, where its weights may be rounded (bfloat16), is that of a folder."""
    own, given = of_folder.state_dict(), placed.state_dict()
    return own.keys() == given.keys() and all(
        torch.equal(own[name].to(weight.dtype), weight.cpu()) for name, weight in given.items()
    )
