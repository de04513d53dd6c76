"""A model of cells and texts, and its folder, which needs no other folder but that of the text encoder.

Tensors are safetensors, all else is JSON, parquet and npy without pickle; nothing in it is run when it is read.
Source: docs/text.md, "The folder of a text model".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, read_json_object, sha256_of_file, write_json
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory, open_model_directory
from scdmc.model.names import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from scdmc.model.shipped import MODELS, shipped_models
from scdmc.model.storage import load_model, save_model_directory
from scdmc.model.weights import save_tensors
from scdmc.result_folders import require_whole, unchanged
from scdmc.text.features import Centre, Components, FeatureMaker
from scdmc.text.options import FEATURES, GENE_STATES
from scdmc.text.projectors.qformer import QFormer, QFormerShape, reader_from, weights_of
from scdmc.text.shipped import shipped_text_models, text_model_folder

MODEL_TYPE, FORMAT = "scdmc_text", 1


SHARED_ENCODER_FILE = "encoder.json"


ENCODER_FOLDER, TEXT_ENCODER_FILE, CALIBRATION_FILE = "encoder", "text_encoder.json", "calibration.json"


TERMS_FILE, VECTORS_FILE = "terms.parquet", "text_vectors.npy"


# Of the names of a Q-Former's tensors.
READER_PREFIX = "qformer."


# The texts of a term whose vectors are kept, the mean of which stands for the term.
TEXTS_OF_TERM = ("label", "description")


@dataclass(frozen=True)
class TextSpace:
    """The texts that a model was trained on, and who made their vectors.

    Attributes
    ----------
    terms
        The training terms: cl_id, label, and the texts ``label`` and ``description`` as columns.
    vectors
        Of these two texts, shape (n_terms, 2, text_size), float32.
    encoder_name, encoder_sha256
        The text encoder.
    """

    terms: pd.DataFrame
    vectors: np.ndarray
    encoder_name: str
    encoder_sha256: str

    @property
    def of_terms(self) -> np.ndarray:
        """One vector for each term, the mean of its texts, of length 1; shape (n_terms, text_size)."""
        return unit(self.vectors.mean(axis=1))

    @property
    def mean(self) -> np.ndarray:
        """What all texts of cells have in common, shape (text_size,)."""
        return self.of_terms.mean(axis=0)

    def centred(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors of texts without what all have in common, of length 1; shape (n_texts, text_size)."""
        return unit(vectors - self.mean)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, float32; one that is 0 stays so."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


@dataclass(frozen=True)
class CellTextModel:
    """What projects cells onto texts.

    Attributes
    ----------
    features
        One of :data:`scdmc.text.options.FEATURES`, or ``genes``: the mean of the queries of a Q-Former.
    projector
        How the projection was found.
    projection
        Shape (n_features, text_size), float32.
    centre
        Of the training data sets.
    components
        Of the features ``pca`` and ``both``.
    texts
        The training texts.
    temperature
        By which scores become probabilities.
    none_margin
        By how much another text must be nearer than all candidates, so that a cell is none of these; may be negative.
    facts
        What else ``config.json`` says: data sets, settings, versions.
    reader
        Of the features ``genes``: the Q-Former.
    """

    features: str
    projector: str
    projection: np.ndarray
    centre: Centre
    components: Components | None
    texts: TextSpace
    temperature: float
    none_margin: float
    facts: Mapping[str, object]
    reader: QFormer | None = None

    def centre_of(self, features: np.ndarray) -> Centre:
        """What is taken away from the features of cells that belong together; those of a Q-Former keep their scale."""
        return Centre.of(features, is_scaled=self.reader is None)

    def projected(self, features: np.ndarray) -> np.ndarray:
        """Centred features (:class:`scdmc.text.features.Centre`) in the space of texts, shape (n_cells, text_size)."""
        return features @ self.projection


def save_text_model(
    folder: Path,
    model: CellTextModel,
    maker: FeatureMaker,
    calibration: Mapping[str, object],
    card: str,
    encoder_card: str | None,
) -> None:
    """Write a text model with the encoder of its cells; ``model.safetensors`` appears last.

    Parameters
    ----------
    folder
        To write; other files in it stay.
    model
        The model.
    maker
        Of its features; its encoder is copied.
    calibration
        How the temperature was found; it holds ``temperature``.
    card, encoder_card
        Texts of the model cards; None for the second names the encoder, which comes with scDMC, in place of a copy.

    Raises
    ------
    ScDMCError
        If an encoder should be named that does not come with scDMC.
    """
    folder = Path(folder)
    directory = maker.model_directory
    if encoder_card is None:
        write_json(folder / SHARED_ENCODER_FILE, _named_encoder(directory))
    else:
        whole = load_model(directory.path, ScDMCModel)  # on its device the encoder may be rounded (bfloat16)
        save_model_directory(
            folder / ENCODER_FOLDER, whole, directory.vocabulary, directory.medians, directory.settings, encoder_card
        )
    tensors = {"projection": model.projection, "centre.mean": model.centre.mean, "centre.scale": model.centre.scale}
    content = {"model_type": MODEL_TYPE, "format": FORMAT, "features": model.features, "projector": model.projector}
    if model.components is not None:
        tensors["components"] = model.components.vectors
        content["genes"] = [str(gene) for gene in model.components.genes]
    if model.reader is not None:
        tensors |= {f"{READER_PREFIX}{name}": values for name, values in weights_of(model.reader).items()}
        content["qformer"] = model.reader.shape.to_dict()
    with atomic_path(folder / TERMS_FILE) as temporary:
        model.texts.terms.to_parquet(temporary, index=False)
    with atomic_path(folder / VECTORS_FILE) as temporary, temporary.open("wb") as file:
        np.save(file, model.texts.vectors, allow_pickle=False)
    write_json(folder / TEXT_ENCODER_FILE, {"name": model.texts.encoder_name, "sha256": model.texts.encoder_sha256})
    write_json(folder / CALIBRATION_FILE, dict(calibration))
    write_json(folder / CONFIG_FILE, content | {"facts": dict(model.facts)})
    with atomic_path(folder / CARD_FILE) as temporary:
        temporary.write_text(card, encoding="utf8")
    as_tensors = {name: torch.from_numpy(np.ascontiguousarray(values, np.float32)) for name, values in tensors.items()}
    save_tensors(folder / WEIGHTS_FILE, as_tensors)


def read_text_model(folder: str | Path) -> tuple[CellTextModel, ModelDirectory]:
    """Read what :func:`save_text_model` wrote, and the folder of its encoder of cells.

    Raises
    ------
    ScDMCError
        If the folder is no text model, damaged, or of a later version.
    """
    folder = text_model_folder(folder)
    if not folder.is_dir():
        raise ScDMCError(
            f"{folder}: no such folder of a text model; text_pretrain.py makes one, and by name there are "
            f"{', '.join(shipped_text_models()) or 'none'}"
        )
    with unchanged(folder):
        return _text_model(folder)


def _text_model(folder: Path) -> tuple[CellTextModel, ModelDirectory]:
    content = read_json_object(folder / CONFIG_FILE, "configuration of a text model")
    if content.get("model_type") != MODEL_TYPE:
        kind = content.get("model_type")
        raise ScDMCError(f"{folder} is no text model (its model_type is {kind!r}); text_pretrain.py makes one")
    if content.get("format") != FORMAT:
        raise ScDMCError(f"{folder} has format {content.get('format')}, and this scDMC reads {FORMAT}; update scDMC")
    names = (CONFIG_FILE, WEIGHTS_FILE, TERMS_FILE, VECTORS_FILE, TEXT_ENCODER_FILE, CALIBRATION_FILE)
    require_whole(folder, *names)
    calibration = read_json_object(folder / CALIBRATION_FILE, "temperature")
    text_encoder = read_json_object(folder / TEXT_ENCODER_FILE, "name of a text encoder")
    try:
        tensors = {name: tensor.numpy() for name, tensor in load_file(folder / WEIGHTS_FILE).items()}
        terms = pd.read_parquet(folder / TERMS_FILE)
        vectors = np.load(folder / VECTORS_FILE, allow_pickle=False)
        components = None
        if "components" in tensors:
            components = Components(np.array(content["genes"], dtype=str), tensors["components"])
        reader = None
        if content["features"] == GENE_STATES:
            weights = {
                name.removeprefix(READER_PREFIX): each for name, each in tensors.items() if READER_PREFIX in name
            }
            reader = reader_from(QFormerShape.from_dict(content["qformer"]), weights, tensors["projection"])
        model = CellTextModel(
            content["features"],
            content["projector"],
            tensors["projection"],
            Centre(tensors["centre.mean"], tensors["centre.scale"]),
            components,
            TextSpace(terms, vectors, text_encoder["name"], text_encoder["sha256"]),
            float(calibration["temperature"]),
            float(calibration["none_margin"]),
            content["facts"],
            reader,
        )
        _require_sound(model)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ScDMCError(f"{folder} is damaged: {' '.join(str(error).split())[:200]}; train it again") from error
    if (folder / ENCODER_FOLDER).is_dir():
        return model, open_model_directory(folder / ENCODER_FOLDER)
    return model, _encoder_by_name(folder)


def _named_encoder(directory: ModelDirectory) -> dict[str, str]:
    """Name and hash of an encoder that comes with scDMC."""
    name = directory.path.name
    if name not in shipped_models() or not directory.path.samefile(MODELS / name):
        raise ScDMCError(f"{directory.path} does not come with scDMC, so that its name alone would be lost; copy it")
    return {"name": name, "sha256": sha256_of_file(directory.path / WEIGHTS_FILE)}


def _encoder_by_name(folder: Path) -> ModelDirectory:
    """The shipped encoder that a text model names."""
    require_whole(folder, SHARED_ENCODER_FILE)
    named = read_json_object(folder / SHARED_ENCODER_FILE, "name of an encoder")
    name = named.get("name")
    if name not in shipped_models():
        raise ScDMCError(f"{folder} needs the encoder {name!r}, which does not come with this scDMC; update scDMC")
    if sha256_of_file(MODELS / name / WEIGHTS_FILE) != named.get("sha256"):
        raise ScDMCError(f"{folder} was trained with another {name} than this scDMC has; train it again")
    return open_model_directory(MODELS / name)


def _require_sound(model: CellTextModel) -> None:
    n_features, text_size = model.projection.shape
    expected = {
        "text_vectors.npy": (model.texts.vectors.shape, (len(model.texts.terms), len(TEXTS_OF_TERM), text_size)),
        "centre.mean": (model.centre.mean.shape, (n_features,)),
        "centre.scale": (model.centre.scale.shape, (n_features,)),
    }
    if model.components is not None:
        n_components = model.components.vectors.shape[1]
        expected["components"] = (model.components.vectors.shape, (len(model.components.genes), n_components))
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise ValueError(f"{name} has the shape {found} in place of {wanted}")
    if (
        model.features not in (*FEATURES, GENE_STATES)
        or not 0 < model.temperature < np.inf
        or not np.isfinite(model.none_margin)
    ):
        raise ValueError(f"features {model.features!r} or temperature {model.temperature} mean nothing")
    if not all(np.isfinite(values).all() for values in (model.projection, model.centre.scale, model.texts.vectors)):
        raise ValueError("a value is not finite")


def feature_maker(model: CellTextModel, model_directory: ModelDirectory, place: object) -> FeatureMaker:
    """Makes the features that a model reads.

    Parameters
    ----------
    model, model_directory
        What :func:`read_text_model` gave.
    place
        Moves the encoder to its device.
    """
    encoder = place(load_model(model_directory.path, ScDMCModel))
    reader = None if model.reader is None else model.reader.to(encoder.device)
    return FeatureMaker(model.features, encoder, model_directory, model.components, reader=reader)
