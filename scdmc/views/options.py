"""What can be chosen where a reference labels new cells. Nothing heavy is imported here: ``--help`` is quick."""

from dataclasses import dataclass, field

from scdmc.cells.options import MIN_KNOWN_GENES
from scdmc.options import LabelOptions

VIEWS = ("genes", "components", "scdmc")


# Takes long, and is a view only where it is asked for.
FINE_TUNED_VIEW = "finetuned"


VIEW_CHOICES = (*VIEWS, FINE_TUNED_VIEW)


MODEL_VIEWS = ("scdmc", FINE_TUNED_VIEW)  # those of the language model


MEANING_OF_VIEWS = {
    "genes": "logistic regression on the genes that both files have",
    "components": "logistic regression on principal components of all cells, labelled or not",
    "scdmc": "probe of all frozen poolings of scDMC",
    FINE_TUNED_VIEW: "scDMC fine-tuned on the labelled cells, once for each fold and once for all: long",
}


AUTO = "auto"


# Whose views a reference is read by unless another model is named.
SHIPPED_MODEL = "scDMC-small"


METHODS = ("views", "neighbours")


@dataclass(frozen=True)
class ViewOptions:
    """How a reference labels new cells.

    Attributes
    ----------
    views
        Some of :data:`VIEW_CHOICES`.
    label_key
        Column of the reference's obs with the types.
    batch_key
        Column of the reference's obs with its batches: whole batches are folds. None for folds of cells.
    min_probability
        Less certain cells are Unknown; None for cells that are less familiar than the reference recommends.
    seed
        Of folds, components and UMAP.
    label_options
        Which labels of the reference are types.
    min_known_genes
        Of the genes that a classifier's folder knows, the least share that a file needs.
    """

    views: tuple[str, ...] = VIEWS
    label_key: str = "cell_type"
    batch_key: str | None = None
    min_probability: float | None = None
    seed: int = 42
    label_options: LabelOptions = field(default_factory=LabelOptions)
    min_known_genes: float = MIN_KNOWN_GENES
