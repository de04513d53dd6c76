"""What can be evaluated, and how. Nothing heavy is imported here, so that ``--help`` is quick."""

from dataclasses import dataclass

from scdmc.text.options import TextTrainingOptions

TASKS = ("annotation", "description", "generation")


# Types of a labelled set with fewer cells are neither candidates nor scored.
FEWEST_CELLS_OF_TYPE = 5


# A pair of types that is held out is annotated together, which takes 50 cells.
FEWEST_CELLS_HELD_OUT = 25


@dataclass(frozen=True)
class EvaluationOptions:
    """How much is computed (docs/text.md, "Evaluation").

    Attributes
    ----------
    seeds
        Of the trainings and of what is drawn.
    held_out_folds
        Pairs of types of each data set that no training sees, one after the other.
    max_steps, n_components
        Of each training.
    """

    seeds: tuple[int, ...] = (42, 43, 44)
    held_out_folds: int = 8
    max_steps: int = TextTrainingOptions.max_steps
    n_components: int = TextTrainingOptions.n_components
