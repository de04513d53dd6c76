"""The settings of a pre-training run."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scdmc.training.dual_stream import ObjectiveOptions
from scdmc.training.masking import MaskingOptions
from scdmc.training.objectives import TEMPERATURE

if TYPE_CHECKING:
    pass

# Held-out cells get the masks of an epoch that training never reaches, so every evaluation asks the same questions.
EVALUATION_EPOCH = 2**31


# These may differ between an interrupted run and the one that resumes it.
FREE_SETTINGS = {"log_every", "evaluate_every", "save_every", "keep_checkpoints", "num_workers", "max_minutes", "fsdp"}


@dataclass(frozen=True)
class PretrainingSettings:
    """Settings of a run; the defaults are the paper's.

    Attributes
    ----------
    batch_size
        Cells of an optimizer step, over all processes and accumulation steps.
    tokens_per_batch
        Most tokens of an optimizer step, both streams together, instead of ``batch_size``: memory then does not depend
        on how long the cells are that meet in a batch.
    learning_rate, weight_decay, warmup_fraction, epochs
        AdamW with a cosine schedule after a linear warm-up; no decay on biases and LayerNorm.
    max_steps
        Stop after this many optimizer steps, whatever ``epochs`` says; the schedule ends there.
    schedule_minutes
        Train for this long, whatever ``epochs`` and ``max_steps`` say; the schedule follows the clock and ends there.
        Interruptions do not count.
    max_minutes
        Save a checkpoint and stop after this long (a queue's limit); a resumed run goes on with the same schedule.
    seed
        Of masks, order of the cells, and dropout.
    mask_probability, streams, expression_order, view_dropout
        See :class:`scdmc.training.masking.MaskingOptions`.
    mlm_weight, alpha, temperature, queue_size, published_objective
        See :class:`scdmc.training.dual_stream.ObjectiveOptions`. The published objective also leaves the masked genes
        of the expression stream visible and freezes the momentum encoder.
    momentum
        m of the momentum encoder, per optimizer step; 1 freezes it.
    max_gradient_norm
        Gradients are scaled down to this norm.
    gradient_accumulation_steps
        Parts in which a batch is computed; the loss is the mean over the parts.
    bf16, gradient_checkpointing, torch_compile
        Compute in bfloat16; compute states again instead of keeping them; compile the layers.
    fsdp
        Spread weights, gradients and optimizer state over the processes, for models that fit no single GPU.
    num_workers
        Processes that prepare batches; 0 prepares them in between steps.
    log_every, evaluate_every, save_every
        Optimizer steps between log lines, evaluations on held-out cells, and checkpoints.
    keep_checkpoints
        Older checkpoints are deleted.
    """

    batch_size: int = 24
    tokens_per_batch: int | None = None
    learning_rate: float = 5e-5
    weight_decay: float = 1e-3
    warmup_fraction: float = 0.05
    epochs: int = 3
    max_steps: int | None = None
    schedule_minutes: float | None = None
    max_minutes: float | None = None
    seed: int = 42
    mask_probability: float = 0.15
    streams: str = "both"
    expression_order: str = "token_id"
    view_dropout: float = 0.0
    mlm_weight: float = 1.0
    alpha: float = 1.0
    temperature: float = TEMPERATURE
    queue_size: int = 0
    published_objective: bool = False
    momentum: float = 0.995
    max_gradient_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    bf16: bool = False
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    fsdp: bool = False
    num_workers: int = 0
    log_every: int = 10
    evaluate_every: int = 200
    save_every: int = 200
    keep_checkpoints: int = 2

    @property
    def masking(self) -> MaskingOptions:
        """How cells become batches."""
        return MaskingOptions(
            self.seed,
            self.mask_probability,
            self.streams,
            self.expression_order,
            mask_expression_input=not self.published_objective,
            view_dropout=self.view_dropout,
        )

    @property
    def evaluation_masking(self) -> MaskingOptions:
        """How held-out cells become batches: whole, so that runs with other views are judged alike."""
        return replace(self.masking, view_dropout=0.0)

    @property
    def objective(self) -> ObjectiveOptions:
        """What the loss is made of."""
        names = ObjectiveOptions.__dataclass_fields__
        return ObjectiveOptions(**{name: getattr(self, name) for name in names})
