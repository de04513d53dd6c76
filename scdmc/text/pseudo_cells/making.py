"""From texts to an AnnData of cells that nobody has measured, with all that says so.

Source: docs/pseudo_cells.md, "What is written".
"""

import functools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.cells.viewers import ForViewers, add_to_adata
from scdmc.errors import ScDMCError, shown_names
from scdmc.genes.symbols import gene_symbols
from scdmc.reports.provenance import Provenance
from scdmc.text.candidates import Candidate, candidate_vectors
from scdmc.text.model import TextSpace
from scdmc.text.pseudo_cells.generator import CellGenerator, CellText, GeneratedCells
from scdmc.text.pseudo_cells.options import MOST_COUNTS, MOST_GUIDANCE, MakingOptions

if TYPE_CHECKING:
    from scdmc.text.encoders import TextEncoder

logger = logging.getLogger(__name__)


FACTS_KEY = "scDMC_generated"


WARNING = "These cells were made by a model from a text. They are no measurement."


@dataclass(frozen=True)
class MadeOfText:
    """Cells of one text."""

    candidate: Candidate
    cells: GeneratedCells


def made_of_texts(
    generator: CellGenerator,
    space: TextSpace,
    candidates: Sequence[Candidate],
    n_cells: int,
    open_encoder: "Callable[[], TextEncoder]",
    options: MakingOptions,
) -> list[MadeOfText]:
    """Make cells of each text.

    Parameters
    ----------
    generator, space
        The generator, and the texts that it was trained on.
    candidates
        Of :func:`scdmc.text.pseudo_cells.asked.asked_texts`.
    n_cells
        Of each text.
    open_encoder
        Opens the text encoder, if a text needs it.
    options
        How.

    Raises
    ------
    ScDMCError
        If there is no such data set, guidance or library size are out of bounds, or a text is novel and that is to be
        refused.
    """
    _require_sane(options)
    data_set, opened = _data_set(generator, options.dataset), functools.cache(open_encoder)
    # Each alone: texts beside it change the last digits of a vector.
    vectors = [candidate_vectors([candidate], space, opened)[0] for candidate in candidates]
    made = [
        MadeOfText(
            candidate,
            generator.made(
                CellText(candidate.texts, vector),
                n_cells,
                space,
                options.seed,
                options.guidance,
                data_set,
                options.library_size,
            ),
        )
        for candidate, vector in zip(candidates, vectors, strict=True)
    ]
    _speak_of_novel(made, space, options)
    return made


def _require_sane(options: MakingOptions) -> None:
    if options.guidance is not None and not 0 < options.guidance <= MOST_GUIDANCE:
        raise ScDMCError(f"--guidance {options.guidance:g}: it should be above 0 and at most {MOST_GUIDANCE:g}")
    if options.library_size is not None and not 1 <= options.library_size <= MOST_COUNTS:
        raise ScDMCError(f"--library_size {options.library_size}: a cell has 1 to {MOST_COUNTS:,} counts")


def _data_set(generator: CellGenerator, name: str | None) -> int | None:
    if name is None:
        return None
    if name not in generator.data_sets:
        raise ScDMCError(f"--dataset {name}: the generator was trained on {shown_names(generator.data_sets)}")
    return generator.data_sets.index(name)


def _speak_of_novel(made: Sequence[MadeOfText], space: TextSpace, options: MakingOptions) -> None:
    for each in made:
        place = each.cells.place
        if place.is_novel:
            nearest = space.terms["label"].iloc[place.nearest[0]]
            text = (
                f"{each.candidate.label!r} is far from all texts that the generator was trained on (the nearest is "
                f"{nearest!r}, similarity {place.similarity:.2f}, and {place.threshold:.2f} is usual): its cells "
            )
            if options.refuse_novel:
                raise ScDMCError(f"{text}would be a guess; train on data with such cells, or leave out --refuse_novel")
            logger.warning("warning: %sare a guess", text)


def adata_of(
    made: Sequence[MadeOfText], generator: CellGenerator, space: TextSpace, options: MakingOptions, of: Provenance
) -> anndata.AnnData:
    """The cells of all texts: counts, what each cell was asked to be, and how they were made.

    Parameters
    ----------
    made
        Of :func:`made_of_texts`.
    generator, space, options
        How they were made.
    of
        Model, seed and command.
    """
    counts = scipy.sparse.csr_matrix(scipy.sparse.vstack([each.cells.counts for each in made]))
    obs = pd.concat([_obs_of(each, space, generator) for each in made], ignore_index=True)
    obs.index = pd.Index([f"pseudo_cell_{number}" for number in range(1, len(obs) + 1)])
    for column in ("text", "cl_id", "nearest_term", "dataset"):
        obs[column] = pd.Categorical(obs[column])
    symbols = gene_symbols(generator.genes)
    var = pd.DataFrame({"gene_symbol": symbols.astype(object)}, index=pd.Index(generator.genes.astype(object)))
    adata = anndata.AnnData(counts, obs=obs, var=var)
    adata.uns[FACTS_KEY] = facts_of(made, generator, space, options)
    add_to_adata(adata, ForViewers(of), ["text"])
    return adata


def _obs_of(each: MadeOfText, space: TextSpace, generator: CellGenerator) -> pd.DataFrame:
    cells, place = each.cells, each.cells.place
    in_panel = np.asarray(cells.counts.sum(axis=1), dtype=np.int64).ravel()
    return pd.DataFrame(
        {
            "text": each.candidate.label,
            "cl_id": each.candidate.cl_id or "",
            "text_similarity": place.similarity,
            "novelty": place.is_novel,
            "nearest_term": space.terms["label"].iloc[place.nearest[0]],
            "dataset": np.array(generator.data_sets, dtype=object)[cells.data_sets],
            "n_counts": in_panel + cells.other,
            "other_counts": cells.other,
        }
    )


def facts_of(
    made: Sequence[MadeOfText], generator: CellGenerator, space: TextSpace, options: MakingOptions
) -> dict[str, object]:
    """What ``uns['scDMC_generated']`` says."""
    terms = space.terms
    nearest = {
        each.candidate.label: [
            {
                "cl_id": str(terms["cl_id"].iloc[row]),
                "label": str(terms["label"].iloc[row]),
                "similarity": round(cos, 4),
            }
            for row, cos in zip(each.cells.place.nearest, each.cells.place.similarities, strict=True)
        ]
        for each in made
    }
    return {
        "warning": WARNING,
        "texts": np.array([each.candidate.label for each in made], dtype=object),
        "cl_ids": np.array([each.candidate.cl_id or "" for each in made], dtype=object),
        "nearest_terms": json.dumps(nearest, sort_keys=True),
        "novel_texts": np.array([each.candidate.label for each in made if each.cells.place.is_novel], dtype=object),
        "novelty_threshold": str(round(made[0].cells.place.threshold, 4)),
        "seed": str(options.seed),
        "guidance": str(generator.guidance if options.guidance is None else options.guidance),
        "library_size": "drawn" if options.library_size is None else str(options.library_size),
        "dataset": options.dataset or "as the nearest term has",
        "training_data_sets": np.array(generator.data_sets, dtype=object),
        "text_encoder": f"{space.encoder_name} {space.encoder_sha256}",
        "other_counts": "obs['n_counts'] is the sum of the genes here and of obs['other_counts'], those of all others",
    }
