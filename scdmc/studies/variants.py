"""The variants of the study of pre-training, as flags. Nothing heavy is imported here, so that ``--help`` is quick."""

from dataclasses import dataclass
from itertools import pairwise

from scdmc.errors import ScDMCError

TINY = "tiny"


# The published objective, with sizes, a rate and a start of the genes that a small budget can train.
SIZED = (
    "--gene_start coexpression --initializer_range 0.06 "
    "--hidden_size 64 --num_hidden_layers 2 --num_attention_heads 4 --intermediate_size 128 "
    "--batch_size 16 --learning_rate 1e-3 --max_length 512 --bf16 --held_out_fraction 0.03 --max_held_out_cells 256 "
    "--log_every 50 --evaluate_every 1000 --save_every 1000 --keep_checkpoints 1"
)


TINY_SIZES = (
    "--hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2 --intermediate_size 16 --max_length 64 "
    "--batch_size 4"
)


NO_TRAINING = "--max_steps 1 --learning_rate 1e-12"


RANDOM_START = "--gene_start random"


HARDER = "--view_dropout 0.5 --expression_order random --expression_input value --momentum 0.99"


RECIPE = f"{HARDER} --learning_rate 3e-4 --alpha 0.1"


# What scDMC-tissues has, with a short context, so that a grid of sizes and cells takes an hour and a half.
SCALED = f"{HARDER} --learning_rate 7e-4 --alpha 0.1 --max_length 256 --dtype float32"


@dataclass(frozen=True)
class Variant:
    """One row of the study.

    Attributes
    ----------
    question
        What it tests, one plain sentence.
    flags
        Flags of ``scDMC_pretrain.py`` that differ from :data:`SIZED`.
    is_trained
        False if it keeps its first weights, whatever the budget.
    has_medians
        False if its data are tokenized without gene medians.
    """

    question: str
    flags: str = ""
    is_trained: bool = True
    has_medians: bool = True

    @property
    def stream(self) -> str:
        """Which streams it has: ``rank``, ``expression`` or ``both``."""
        words = self.flags.split()
        return words[words.index("--stream") + 1] if "--stream" in words else "both"


VARIANTS = {
    "sized": Variant(
        "The published objective, with genes that start from co-expression, and what a small budget needs."
    ),
    "random_start": Variant("Do genes that start from co-expression help?", RANDOM_START),
    "published": Variant(
        "The published start, rate, batch and initial weights, at the same sizes.",
        f"{RANDOM_START} --learning_rate 5e-5 --batch_size 24 --initializer_range 0.02",
    ),
    "rank_only": Variant("Is the rank stream enough?", "--stream rank"),
    "expression_only": Variant("Is the expression stream enough?", "--stream expression"),
    "mlm_only": Variant("What does the contrast add to the masked genes?", "--alpha 0"),
    "contrast_only": Variant("What do the masked genes add to the contrast?", "--mlm_weight 0"),
    "light_contrast": Variant("Is a tenth of the contrast better?", "--alpha 0.1"),
    "frozen_momentum": Variant("Must the momentum encoder move?", "--momentum 1"),
    "faster_momentum": Variant("Should the momentum encoder follow faster in a short run?", "--momentum 0.99"),
    "random_order": Variant(
        "Does the expression stream learn more if the order of its genes tells nothing?", "--expression_order random"
    ),
    "value_input": Variant("Does it help to read the values?", "--expression_input value"),
    "view_dropout": Variant("Is the contrast of two views that lack half their genes better?", "--view_dropout 0.5"),
    "queue": Variant("Do past keys as more negatives help?", "--queue_size 1024"),
    "batch_8": Variant("More steps of fewer cells?", "--batch_size 8"),
    "batch_64": Variant("Fewer steps of more cells?", "--batch_size 64"),
    "rate_3e-4": Variant("A lower learning rate?", "--learning_rate 3e-4"),
    "rate_3e-3": Variant("A higher learning rate?", "--learning_rate 3e-3"),
    "context_256": Variant("A shorter context?", "--max_length 256"),
    "context_1024": Variant("A longer context?", "--max_length 1024"),
    "no_medians": Variant("Are gene medians needed?", has_medians=False),
    "harder": Variant("Random order, values, views that lack half their genes and a faster momentum encoder?", HARDER),
    "recipe": Variant("The same with a lower rate and a tenth of the contrast: what scDMC-small has.", RECIPE),
    "untrained": Variant("No pre-training at all.", RANDOM_START, is_trained=False),
    "coexpression_only": Variant("Co-expression at the start and no pre-training.", is_trained=False),
    "scaled": Variant("What does longer training give? Run it with several budgets.", SCALED),
    "scaled_hidden_32": Variant(
        "And a smaller model?", f"{SCALED} --hidden_size 32 --intermediate_size 64 --learning_rate 1e-3"
    ),
    "scaled_hidden_128": Variant(
        "And a larger one?", f"{SCALED} --hidden_size 128 --intermediate_size 256 --learning_rate 5e-4"
    ),
    "scaled_2000_cells": Variant("And 2,000 training cells?", f"{SCALED} --max_training_cells 2000"),
    "scaled_6500_cells": Variant("And 6,500 training cells?", f"{SCALED} --max_training_cells 6500"),
    "scaled_untrained": Variant("The start of the scaled variants: no pre-training.", SCALED, is_trained=False),
    "tissues_mask_30": Variant(
        "scDMC-tissues with a short context: should 30% of the genes be masked?", f"{SCALED} --mask_probability 0.3"
    ),
    "tissues_mask_50": Variant("And half of them?", f"{SCALED} --mask_probability 0.5"),
    "tissues_rate_2e-4": Variant("And a lower learning rate?", f"{SCALED} --learning_rate 2e-4"),
    "tissues_rate_2e-3": Variant("And a higher one?", f"{SCALED} --learning_rate 2e-3"),
}
# The grid of the scaling study.
SCALING = tuple(name for name in VARIANTS if name.startswith("scaled"))
# Those of the whole study, which run when none is named; not the short runs of the recipe of scDMC-tissues.
WHOLE_STUDY = tuple(name for name, variant in VARIANTS.items() if not variant.flags.startswith(SCALED))


def training_flags(name: str, budget: str, seed: int) -> list[str]:
    """Flags of ``scDMC_pretrain.py`` for a variant, but for its data and output.

    Parameters
    ----------
    name
        One of :data:`VARIANTS`.
    budget
        Cells to be seen, which trains the same model on every machine of a kind, or ``tiny``: two steps of a model
        that learns nothing, to see that all works.
    seed
        Of weights, masks, order and dropout.
    """
    variant = VARIANTS[name]
    sizes = TINY_SIZES if budget == TINY else ""
    flags = f"{SIZED} {variant.flags} {sizes} --seed {seed}".split()
    if not variant.is_trained:
        return [*flags, *NO_TRAINING.split()]
    n_steps = 2 if budget == TINY else round(int(budget) / int(last_value(flags, "--batch_size")))
    if n_steps == 0:
        raise ScDMCError(f"--budget {budget} cells is less than half a batch of {name}; it is counted in cells")
    return [*flags, "--max_steps", str(n_steps)]


def last_value(flags: list[str], name: str) -> str:
    """The value of a flag that may be given several times: the last one counts."""
    return next(value for flag, value in reversed(list(pairwise(flags))) if flag == name)
