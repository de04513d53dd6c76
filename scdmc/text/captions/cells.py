"""Captions of cells, each checked against the Cell Ontology: what a language model says may be no type at all.

Source: docs/text.md, "Captions".
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.errors import ScDMCError
from scdmc.text.captions.captioner import centred_outputs, open_captioner
from scdmc.text.captions.texts import name_in
from scdmc.text.features import FeatureMaker
from scdmc.text.ontology import CellOntology
from scdmc.tokens.tokenized_cells import TokenizedCells

IS_TERM, IS_NO_TERM = "name is a CL term", "name is not a CL term"


def caption_cells(
    folder: Path,
    maker: FeatureMaker,
    cells: TokenizedCells,
    ontology: CellOntology,
    language_model: Path | None = None,
    rows: np.ndarray | None = None,
) -> pd.DataFrame:
    """Say in words what cells are. A caption depends on the other cells, whose mean is taken away, if there are 50.

    Parameters
    ----------
    folder
        Of a text model of stages 1 and 2.
    maker
        Of its features (:func:`scdmc.text.model.feature_maker`).
    cells
        The cells, as the model reads them; those without counts should be left out.
    ontology
        Against which names are checked.
    language_model
        Folder of the language model, where the text model does not hold it.
    rows
        Which cells get a caption; None for all.

    Returns
    -------
    One row a caption: ``text``, ``name``, ``cl_id`` ('' for a name that is none), and ``checked``.

    Raises
    ------
    ScDMCError
        If the model has no Q-Former or no captions, or the language model is another one.
    """
    captioner = open_captioner(folder, language_model)
    if maker.reader is None:
        raise ScDMCError(f"{folder} has no Q-Former, from which captions start")
    states = maker.states_of(cells, maker.reader.shape.max_tokens)
    texts = captioner.captions(centred_outputs(maker.reader, states, captioner.mean, rows), "say captions")
    names = [name_in(text) for text in texts]
    ids = ids_of_names(names, ontology)
    checked = [IS_TERM if cl_id else IS_NO_TERM for cl_id in ids]
    return pd.DataFrame({"text": texts, "name": names, "cl_id": ids, "checked": checked})


def ids_of_names(names: Sequence[str], ontology: CellOntology) -> list[str]:
    """Ids of the terms that are called so, whatever the case of the letters; '' for a name that is none."""
    id_of = {term.label.casefold(): cl_id for cl_id, term in ontology.items()}
    return [id_of.get(name.casefold(), "") for name in names]
