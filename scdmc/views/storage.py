"""A classifier of views as a folder: the encoder's model folder, and what the reference taught beside it.

Tensors are safetensors, all else is JSON; nothing in it is run when it is read.
"""

import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from scdmc.errors import ScDMCError
from scdmc.files import read_json_object, write_json
from scdmc.model.encoder import ScDMCPreTrainedModel
from scdmc.model.folder import ModelDirectory
from scdmc.model.names import FINE_TUNED_FILE, VIEW_TENSORS_FILE, VIEWS_FILE
from scdmc.model.storage import save_model_directory
from scdmc.model.weights import save_tensors
from scdmc.result_folders import require_whole
from scdmc.tokens.tokenizer import Tokenizer
from scdmc.views.classifier import Consensus, ViewClassifier, key_of, views_of_familiarity
from scdmc.views.familiarity import Familiarity, TypeDistances
from scdmc.views.features import Components, FeatureMaker
from scdmc.views.fine_tuned import FineTunedView, description_of, read_fine_tuned_view, tensors_of
from scdmc.views.new_cells import FittedReference, ReferenceDistances
from scdmc.views.options import FINE_TUNED_VIEW
from scdmc.views.regression import LinearView

logger = logging.getLogger(__name__)

# Of folders, and of those with a fine-tuned view, which earlier versions would pass over.
FORMAT, FORMAT_WITH_FINE_TUNED = 1, 2


def is_view_classifier(folder: Path) -> bool:
    """True for a folder that :func:`save_fitted_reference` wrote."""
    return (Path(folder) / VIEWS_FILE).is_file()


def save_fitted_reference(
    folder: Path, fitted: FittedReference, model: ScDMCPreTrainedModel, model_directory: ModelDirectory, card: str
) -> None:
    """Write what a reference taught, with the model that it reads cells by.

    Parameters
    ----------
    folder
        To write; other files in it stay.
    fitted
        See :class:`scdmc.views.new_cells.FittedReference`.
    model, model_directory
        The model whose encoder was used.
    card
        Text of the model card.
    """
    classifier, maker = fitted.classifier, fitted.maker
    tensors = {
        "components.loadings": maker.components.loadings,
        "components.centre": maker.components.centre,
        "distances.cells": fitted.distances.cells.astype(np.float32),
        "distances.usual": fitted.distances.usual.astype(np.float32),
    }
    for key, each in classifier.familiarity.items():
        tensors[f"familiarity.{key}"] = each.usual
    if classifier.distances is not None:
        tensors["types.means"], tensors["types.whitening"] = classifier.distances.means, classifier.distances.whitening
    linear = {name: view for name, view in classifier.views.items() if isinstance(view, LinearView)}
    for name, view in linear.items():
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = view.weight, view.bias
    directory = model_directory
    save_model_directory(folder, model, directory.vocabulary, directory.medians, directory.settings, card)
    save_tensors(
        folder / VIEW_TENSORS_FILE,
        {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in tensors.items()},
    )
    content = {
        "scdmc_views": FORMAT,
        "types": [str(name) for name in classifier.names],
        "familiarity": {
            key: {"strengths": each.strengths.tolist(), "min_familiarity": each.threshold, "nearest": each.nearest}
            for key, each in classifier.familiarity.items()
        },
        "C": {name: view.C for name, view in linear.items()},
        "consensus": {key: asdict(each) for key, each in classifier.consensus.items()},
        "genes": [str(gene) for gene in maker.genes],
    }
    if FINE_TUNED_VIEW in classifier.views:
        fine_tuned = classifier.views[FINE_TUNED_VIEW]
        save_tensors(folder / FINE_TUNED_FILE, tensors_of(fine_tuned))
        content |= {"scdmc_views": FORMAT_WITH_FINE_TUNED, FINE_TUNED_VIEW: description_of(fine_tuned)}
    write_json(folder / VIEWS_FILE, content)


def read_fitted_reference(folder: Path, encoder: ScDMCPreTrainedModel, tokenizer: Tokenizer) -> FittedReference:
    """Read what :func:`save_fitted_reference` wrote.

    Parameters
    ----------
    folder
        The folder.
    encoder
        Of its model folder, on its device.
    tokenizer
        Of its model folder.

    Raises
    ------
    ScDMCError
        If the folder is damaged, or of a later version.
    """
    folder = Path(folder)
    require_whole(folder, VIEWS_FILE, VIEW_TENSORS_FILE, FINE_TUNED_FILE)
    content = read_json_object(folder / VIEWS_FILE, "classifier of views")
    if content.get("scdmc_views") not in (FORMAT, FORMAT_WITH_FINE_TUNED):
        latest = FORMAT_WITH_FINE_TUNED
        raise ScDMCError(f"{folder / VIEWS_FILE} is not of this version of scDMC ({latest}); update scDMC")
    try:
        tensors = {name: tensor.numpy() for name, tensor in load_file(folder / VIEW_TENSORS_FILE).items()}
        familiarity = {
            key: Familiarity(
                np.array(each["strengths"], dtype=float),
                tensors[f"familiarity.{key}"],
                float(each["min_familiarity"]),
                float(each["nearest"]),
            )
            for key, each in content["familiarity"].items()
        }
        distances_of_types = None
        if "components" in content["C"]:
            distances_of_types = TypeDistances(tensors["types.means"], tensors["types.whitening"])
        views: dict[str, LinearView | FineTunedView] = {
            name: LinearView(tensors[f"{name}.weight"], tensors[f"{name}.bias"], float(C))
            for name, C in content["C"].items()
        }
        if content["scdmc_views"] == FORMAT_WITH_FINE_TUNED:
            description, names = content[FINE_TUNED_VIEW], [str(name) for name in content["types"]]
            views[FINE_TUNED_VIEW] = read_fine_tuned_view(folder, description, names, encoder)
        classifier = ViewClassifier(
            np.array(content["types"], dtype=object),
            views,
            {key: Consensus(dict(each["weights"]), float(each["temperature"]))
             for key, each in content["consensus"].items()},
            familiarity,
            distances_of_types,
        )  # fmt: skip
        components = Components(tensors["components.loadings"], tensors["components.centre"])
        distances = ReferenceDistances(tensors["distances.cells"], tensors["distances.usual"].astype(np.float64))
        genes = np.array(content["genes"], dtype=str)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ScDMCError(f"{folder} is damaged ({error}); copy it again, or label with --reference") from error
    _require_fitting(folder, classifier, genes, components)
    return FittedReference(FeatureMaker(genes, tokenizer, encoder, components), classifier, distances)


def _require_fitting(folder: Path, classifier: ViewClassifier, genes: np.ndarray, components: Components) -> None:
    """Refuse tensors whose shapes are not those of the types and genes."""
    widths = {"genes": len(genes), "components": components.loadings.shape[1]}
    shapes = {name: view.weight.shape for name, view in classifier.views.items() if isinstance(view, LinearView)}
    wanted = {name: (len(classifier.names), widths.get(name, shape[-1])) for name, shape in shapes.items()}
    is_sound = shapes == wanted and components.loadings.shape[0] == len(genes)
    n_components = widths["components"]
    if classifier.distances is not None:
        is_sound &= classifier.distances.means.shape == (len(classifier.names), n_components)
        is_sound &= classifier.distances.whitening.shape == (n_components, n_components)
    is_sound &= all(each.strengths.shape == (3,) for each in classifier.familiarity.values())
    of_keys = {key: key.split("+") for key in classifier.consensus}
    is_sound &= set(classifier.familiarity) == {key_of(views_of_familiarity(views)) for views in of_keys.values()}
    is_sound &= {view for views in of_keys.values() for view in views} == set(classifier.views)
    if not is_sound or key_of(list(classifier.views)) not in classifier.consensus:
        raise ScDMCError(f"{folder} is damaged: {VIEW_TENSORS_FILE} does not fit {VIEWS_FILE}; copy it again")
