"""What can be chosen when cells meet texts. Nothing heavy is imported here, so that ``--help`` is quick."""

from dataclasses import dataclass

# What describes a cell: states of scDMC, principal components of the training genes, or both side by side.
FEATURES = ("scdmc", "pca", "both")


# What a Q-Former reads in place of these: the states of a cell's genes.
GENE_STATES = "genes"


# In closed form, by a contrast, the sum of both, or learned queries that read the genes of a cell.
PROJECTORS = ("ridge", "linear", "combined", "qformer")


@dataclass(frozen=True)
class QFormerSize:
    """Sizes of a Q-Former.

    Attributes
    ----------
    hidden_size, n_layers, n_heads, intermediate_size
        Of its layers.
    n_queries
        Learned queries.
    """

    hidden_size: int
    n_layers: int
    n_heads: int
    intermediate_size: int
    n_queries: int


QFORMER_SIZES = {
    "cpu": QFormerSize(64, 2, 4, 128, 16),
    "medium": QFormerSize(128, 4, 4, 256, 32),
    "published": QFormerSize(768, 12, 12, 3072, 32),
}


SMOOTHING = ("auto", "on", "off")


CENTRES = ("file", "training")


# The states of this pooling describe a cell best for texts, whatever a model's config.json says.
STREAM, POOLING = "both", "weighted"


# Fewer cells have no mean that would be worth taking away, and no graph.
FEWEST_CELLS_TOGETHER = 50


# Scores of more candidates are not standardised one by one: with hundreds, most of which no cell is, that hurts.
MOST_STANDARDISED = 50


MOST_CELLS_SMOOTHED = 50_000


NO_COUNTS, UNKNOWN = "no counts", "Unknown"


@dataclass(frozen=True)
class TextTrainingOptions:
    """How cells are projected onto texts (docs/text.md, "Training").

    Attributes
    ----------
    features
        One of :data:`FEATURES`.
    projector
        ``ridge``: in closed form, each term with the same weight; ``linear``: by a contrast within data sets;
        ``combined``: the sum of the two, made equally large; ``qformer``: queries that read the genes, by the contrast.
    max_steps, batch_size, learning_rate, weight_decay
        Of the contrast: AdamW with one cycle of the rate.
    ridge_penalty
        Of the closed form.
    n_components
        Of ``pca`` and ``both``.
    size
        Of ``qformer``: one of :data:`QFORMER_SIZES`.
    max_tokens
        Of ``qformer``: tokens of a cell that are read, those of its highest-ranked genes.
    patience
        Of ``qformer``: checks without a better macro-F1 on validation cells after which the training ends.
    qformer_from
        Of ``qformer``: folder of a BERT, whose layers it starts from and whose sizes it has; None for random ones.
    seed
        Of the draws.
    """

    features: str = "both"
    projector: str = "combined"
    max_steps: int = 900
    batch_size: int = 48
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    ridge_penalty: float = 100.0
    n_components: int = 50
    size: str = "cpu"
    max_tokens: int = 256
    patience: int = 5
    qformer_from: str | None = None
    seed: int = 42


@dataclass(frozen=True)
class TextAnnotationOptions:
    """How cells get one of several texts (docs/text.md, "Annotation by text").

    Attributes
    ----------
    centre
        ``file``: the mean of the file's own cells is taken away; ``training``: that of the training data sets, so that
        a cell's result does not depend on the other cells (with ``smooth`` off).
    smooth
        ``on``, ``off``, or ``auto``: where there are enough cells and not too many.
    max_none
        Cells whose score of "none of these" is larger are Unknown.
    max_cells_smoothed
        With ``auto``, more cells are not smoothed.
    standardise
        ``on``, ``off``, or ``auto``: whether the scores of each candidate get mean 0 and deviation 1 over the cells of
        the file; auto: of 2 to 50 candidates. A candidate that no cell is then looks as likely as the others.
    marker_weight
        How much genes count that a candidate's definition names, beside the score of its text.
    seed
        Of the components that find neighbours.
    """

    centre: str = "file"
    smooth: str = "auto"
    max_none: float = 0.5
    max_cells_smoothed: int = MOST_CELLS_SMOOTHED
    standardise: str = "auto"
    marker_weight: float = 0.0
    seed: int = 42
