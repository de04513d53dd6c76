"""What can be chosen when cells are made from a text. Nothing heavy is imported here, so that ``--help`` is quick."""

from dataclasses import dataclass

# Of all genes, where no number of them is asked for.
ALL_GENES = 0


# How far the flow goes beyond the text; one of these is chosen on validation cells.
GUIDANCES = (1.0, 1.25, 1.5, 2.0)


# Far beyond its text a cell is nothing that was ever seen.
MOST_GUIDANCE = 10.0


# Of a generated cell; single genes may draw more, and still fit 32 bits.
MOST_COUNTS = 10_000_000


# Where there are no validation cells.
GUIDANCE = 1.0


FACTS_FILE = "generator.json"


NO_GENERATOR = f"makes no cells, as it has no {FACTS_FILE}; text_pretrain.py --stage 3 trains a generator"


# Of the flow, from noise to a cell.
EULER_STEPS = 25


@dataclass(frozen=True)
class GeneratorOptions:
    """How the generator of cells is trained (docs/pseudo_cells.md, "Training").

    Attributes
    ----------
    panel_genes
        Genes that a generated cell has; :data:`ALL_GENES` for all.
    latent_size, width
        Of the state that stands for a cell, and of the layers.
    max_steps, dispersion_steps, flow_steps
        Of the autoencoder, of the dispersions alone, and of the flow.
    batch_size, flow_batch_size
        Cells of a step.
    learning_rate, weight_decay
        Of AdamW.
    beta, warm_up
        Weight of the divergence from the normal distribution, and the steps until it has it.
    text_noise, text_dropout
        Added to a text; share of the flow's cells without one.
    seed
        Of the draws.
    """

    panel_genes: int = 2_000
    latent_size: int = 16
    width: int = 128
    max_steps: int = 1_400
    dispersion_steps: int = 200
    flow_steps: int = 4_000
    batch_size: int = 128
    flow_batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    beta: float = 0.2
    warm_up: int = 200
    text_noise: float = 0.02
    text_dropout: float = 0.1
    seed: int = 42


@dataclass(frozen=True)
class MakingOptions:
    """How cells are made (docs/pseudo_cells.md, "Making cells").

    Attributes
    ----------
    seed
        The same gives the same cells of a text.
    guidance
        How far to go beyond the text; None for what was chosen on validation cells.
    library_size
        Total counts of each cell; None to draw them.
    dataset
        The training data set that the cells are like; None for a mixture.
    refuse_novel
        Refuse a text that is far from all training texts, in place of a warning.
    """

    seed: int = 42
    guidance: float | None = None
    library_size: int | None = None
    dataset: str | None = None
    refuse_novel: bool = False
