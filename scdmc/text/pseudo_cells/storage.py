"""The generator in the folder of a text model: ``generator.safetensors`` and ``generator.json``.

Source: docs/pseudo_cells.md, "Files".
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from scdmc.errors import ScDMCError
from scdmc.files import read_json_object, write_json
from scdmc.model.weights import save_tensors
from scdmc.result_folders import require_whole
from scdmc.text.model import TextSpace
from scdmc.text.pseudo_cells.generator import CellGenerator, TermFacts
from scdmc.text.pseudo_cells.library import QUANTILES, LibraryModel
from scdmc.text.pseudo_cells.network import CellDecoder, Flow
from scdmc.text.pseudo_cells.options import FACTS_FILE, NO_GENERATOR

FORMAT = 2


WEIGHTS_FILE, HISTORY_FILE = "generator.safetensors", "generator_history.csv"


# All files of a generator, beside those of the text model.
FILES = (WEIGHTS_FILE, FACTS_FILE, HISTORY_FILE)


def save_generator(folder: Path, generator: CellGenerator, history: pd.DataFrame, facts: Mapping[str, object]) -> None:
    """Write a generator; the weights in half precision, to which training has rounded them.

    Parameters
    ----------
    folder
        Of the text model.
    generator, history
        What :func:`scdmc.text.pseudo_cells.training.train_generator` gave.
    facts
        What else ``generator.json`` says.
    """
    tensors = {f"decoder.{name}": weight.half() for name, weight in generator.decoder.state_dict().items()}
    tensors |= {f"flow.{name}": weight.half() for name, weight in generator.flow.state_dict().items()}
    arrays = {
        "state_mean": generator.state_mean.astype(np.float32),
        "state_scale": generator.state_scale.astype(np.float32),
        "library.quantiles": generator.library.quantiles.astype(np.float64),
        "terms.cells": generator.terms.cells.astype(np.int64),
        "terms.library": generator.terms.library.astype(np.float64),
        "terms.expression": generator.terms.expression.astype(np.float32),
    }
    tensors |= {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}
    history.to_csv(folder / HISTORY_FILE, index=False)
    content = {
        "format": FORMAT,
        "genes": [str(gene) for gene in generator.genes],
        "data_sets": list(generator.data_sets),
        "guidance": generator.guidance,
    }
    write_json(folder / FACTS_FILE, content | {"facts": dict(facts)})
    save_tensors(folder / WEIGHTS_FILE, tensors)


def read_generator(folder: Path, space: TextSpace) -> tuple[CellGenerator, dict]:
    """Read the generator of a text model, and what else is said of it.

    Parameters
    ----------
    folder
        Of the text model.
    space
        Its training texts.

    Raises
    ------
    ScDMCError
        If the model has no generator, or it is damaged, or of a later version.
    """
    folder = Path(folder)
    if not (folder / FACTS_FILE).is_file():
        raise ScDMCError(f"{folder} {NO_GENERATOR}")
    require_whole(folder, *FILES)
    content = read_json_object(folder / FACTS_FILE, "generator of cells")
    if content.get("format") != FORMAT:
        raise ScDMCError(
            f"{folder / FACTS_FILE} has format {content.get('format')}, and this scDMC reads {FORMAT}; train the "
            "generator again, or update scDMC"
        )
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
        generator = _generator(content, tensors)
        _require_sound(generator, space)
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, SafetensorError) as error:
        raise ScDMCError(
            f"{folder / WEIGHTS_FILE} is damaged: {' '.join(str(error).split())[:200]}; train the generator again"
        ) from error
    return generator, content["facts"]


def _generator(content: Mapping, tensors: Mapping[str, torch.Tensor]) -> CellGenerator:
    decoder_weights, flow_weights = (
        {name.removeprefix(part): weight.float() for name, weight in tensors.items() if name.startswith(part)}
        for part in ("decoder.", "flow.")
    )
    width, condition_size = decoder_weights["condition.weight"].shape
    latent_size = len(tensors["state_mean"]) - 1
    n_data_sets, n_outputs = decoder_weights["log_dispersion"].shape
    decoder = CellDecoder(n_outputs, (width, latent_size, condition_size), n_data_sets)
    decoder.load_state_dict(decoder_weights)
    flow = Flow(latent_size + 1, condition_size, len(flow_weights["nothing"]))
    flow.load_state_dict(flow_weights)
    return CellGenerator(
        decoder.eval(),
        flow.eval(),
        np.array(content["genes"], dtype=str),
        tuple(content["data_sets"]),
        tensors["state_mean"].numpy(),
        tensors["state_scale"].numpy(),
        LibraryModel(tensors["library.quantiles"].numpy()),
        TermFacts(
            tensors["terms.cells"].numpy(), tensors["terms.library"].numpy(), tensors["terms.expression"].numpy()
        ),
        float(content["guidance"]),
    )


def _require_sound(generator: CellGenerator, space: TextSpace) -> None:
    n_terms, n_data_sets = len(space.terms), len(generator.data_sets)
    condition_size = space.vectors.shape[-1] + n_data_sets
    expected = {
        "genes": (generator.genes.shape, (generator.decoder.genes.out_features - 1,)),
        "dispersions": (generator.decoder.log_dispersion.shape, (n_data_sets, len(generator.genes) + 1)),
        "conditions": (generator.decoder.condition.in_features, condition_size),
        "library.quantiles": (generator.library.quantiles.shape, (n_data_sets, len(QUANTILES))),
        "terms.cells": (generator.terms.cells.shape, (n_terms, n_data_sets)),
        "terms.expression": (generator.terms.expression.shape, (n_terms, len(generator.genes))),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise ValueError(f"{name} has the shape {found} in place of {wanted}")
    weights = [*generator.decoder.parameters(), *generator.flow.parameters()]
    if not all(bool(torch.isfinite(weight).all()) for weight in weights) or not 0 < generator.guidance < np.inf:
        raise ValueError("a value is not finite")
