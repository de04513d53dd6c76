"""Which types are looked for where cells are described."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scdmc.text.candidates import Candidate, read_candidates
from scdmc.text.model import CellTextModel
from scdmc.text.ontology import CellOntology
from scdmc.text.options import TextAnnotationOptions


def types_and_options(
    types: str | Path | Sequence[str] | None,
    under: str | None,
    model: CellTextModel,
    ontology: CellOntology,
    options: TextAnnotationOptions,
) -> tuple[list[Candidate], TextAnnotationOptions]:
    """The types of a user, or those that a model was trained on.

    Most of a model's types are absent from most files. Standardised, a type that no cell is would look as likely as
    the others: so the scores of a model's own types are not standardised, unless the user wants that.

    Parameters
    ----------
    types, under
        See :func:`scdmc.text.candidates.read_candidates`; None and None for the types of the model.
    model, ontology
        The model, and where its types are looked up.
    options
        How cells get their types.
    """
    if types is not None or under is not None:
        return read_candidates(types, under, ontology), options
    known = [cl_id for cl_id in model.texts.terms["cl_id"] if cl_id in ontology]
    standardise = "off" if options.standardise == "auto" else options.standardise
    return read_candidates(known, None, ontology), replace(options, standardise=standardise)
