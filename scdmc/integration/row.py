"""A row of the integration benchmark: a name, a way to embed cells, and a sentence that says what it is."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np

from scdmc.errors import ScDMCError
from scdmc.integration.data import IntegrationData
from scdmc.integration.methods import harmony, pca_of_variable_genes
from scdmc.integration.options import IntegrationOptions
from scdmc.model.encoder import ScDMCModel, ScDMCPreTrainedModel
from scdmc.model.folder import ModelDirectory
from scdmc.model.loaded import model_to_run

Place = Callable[[ScDMCPreTrainedModel], ScDMCPreTrainedModel]


OURS, STANDARD, CONTROL, OWN = "scDMC", "standard", "control", "your own"


# What a foreign package raises on cells that it cannot work with; LinAlgError is a ValueError. A bug in a method of
# ours is no such error, and shows its traceback.
FOREIGN_ERRORS = (ScDMCError, RuntimeError, ValueError, IndexError, ZeroDivisionError, MemoryError)


@dataclass
class RowContext:
    """What rows embed, with one seed; what several rows need is computed once.

    Attributes
    ----------
    data
        The cells.
    model_directory, place
        The model of the rows of scDMC, and what puts a model onto its device.
    options
        What was asked for.
    seed
        Of everything that is drawn.
    for_all_seeds
        What no seed changes; give the same dictionary to the context of the next seed.
    """

    data: IntegrationData
    model_directory: ModelDirectory
    place: Place
    options: IntegrationOptions
    seed: int
    for_all_seeds: dict[Hashable, object] = field(default_factory=dict)
    _of_seed: dict[Hashable, object] = field(default_factory=dict)

    def once(self, key: Hashable, compute: Callable[[], object], has_seed: bool = True) -> object:
        """The result of ``compute``, which runs the first time only; an error of the first time comes again.

        Parameters
        ----------
        key
            What the result is kept under.
        compute
            Computes it.
        has_seed
            False for what is the same for every seed.
        """
        kept = self._of_seed if has_seed else self.for_all_seeds
        if key not in kept:
            try:
                kept[key] = compute()
            except FOREIGN_ERRORS as error:
                kept[key] = error
        if isinstance(kept[key], Exception):
            raise kept[key]
        return kept[key]

    @property
    def pca(self) -> np.ndarray:
        """Principal components of the variable genes, not integrated, shape (n_cells, n_components).

        The solver converges to the same ones from every start, so that one seed does.
        """
        return self.once("pca", lambda: pca_of_variable_genes(self.data.expression, seed=self.seed), has_seed=False)

    def encoder(self) -> ScDMCModel:
        """The pre-trained encoder, placed."""
        return model_to_run(self.model_directory, ScDMCModel, self.place)


@dataclass(frozen=True)
class Row:
    """One method of the benchmark.

    Attributes
    ----------
    name
        As tables and figures show it.
    obsm_key
        Where results keep its embedding; None for an embedding that the user's file holds already.
    embed
        Gives the embedding of all cells of a context, shape (n_cells, n_dimensions).
    meaning
        A sentence for the page that says what it is.
    kind
        :data:`OURS`, :data:`STANDARD`, :data:`CONTROL` (what a row of ours is without scDMC) or :data:`OWN`.
    has_seed
        False if every seed gives the same embedding.
    saw_labels
        True if labels had a part in it: it is never called the best.
    is_integrated
        True if Harmony was its last step, so that it gets no second one.
    errors
        Exceptions that make it a row that failed, in place of an end to everything.
    """

    name: str
    obsm_key: str | None
    embed: Callable[[RowContext], np.ndarray]
    meaning: str
    kind: str = STANDARD
    has_seed: bool = True
    saw_labels: bool = False
    is_integrated: bool = False
    errors: tuple[type[Exception], ...] = FOREIGN_ERRORS

    def embedding(self, context: RowContext) -> np.ndarray:
        """The embedding of the cells of a context, computed once a seed, or once for all seeds; (n_cells, n_dims)."""
        return context.once(("row", self.name), lambda: self.embed(context), self.has_seed)

    def with_harmony(self) -> "Row":
        """The row whose embedding is this one's after Harmony."""
        return Row(
            f"{self.name} + Harmony",
            f"{self.obsm_key}_harmony",
            lambda context: harmony(self.embedding(context), context.data.batch, context.seed),
            f"{self.name}, corrected for batch by Harmony.",
            self.kind,
            saw_labels=self.saw_labels,
            is_integrated=True,
        )
