"""What can be chosen in pre-training. Nothing heavy is imported here, so that ``--help`` is quick."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from scdmc.errors import ScDMCError

# Held-out cells get the masks of an epoch that training never reaches, so every evaluation asks the same questions.
EVALUATION_EPOCH = 2**31


# These may differ between an interrupted run and the one that resumes it.
FREE_SETTINGS = {
    "log_every", "evaluate_every", "save_every", "keep_checkpoints", "probe_every", "num_workers", "max_minutes",
    "fsdp", "report_to",
}  # fmt: skip


MASK_PROBABILITY = 0.15


EXPRESSION_ORDERS = ("token_id", "random")


TRACKERS = ("tensorboard", "wandb", "none")


TEMPERATURE = 0.07


MAX_HELD_OUT_CELLS = 1000


@dataclass(frozen=True)
class MaskingOptions:
    """How cells become training batches.

    Attributes
    ----------
    seed
        Decides, with epoch and row of a cell, which of its genes are masked and how they are shuffled.
    mask_probability
        Share of the genes that become ``<mask>``, drawn independently in both streams; special tokens never do.
    streams
        ``both``, or one of them, for ablations.
    expression_order
        ``token_id`` (published), or ``random``: a fresh permutation per cell and epoch.
    mask_expression_input
        False for the published objective, which labels genes of the expression stream but leaves them visible.
    view_dropout
        Share of its genes that each stream of a cell lacks, drawn independently before masking, so that the two views
        of a cell share only a part of their genes; 0 is the published method, which shows all of them twice.
    """

    seed: int = 42
    mask_probability: float = MASK_PROBABILITY
    streams: str = "both"
    expression_order: str = "token_id"
    mask_expression_input: bool = True
    view_dropout: float = 0.0


@dataclass(frozen=True)
class ObjectiveOptions:
    """What the loss of a batch is made of.

    Attributes
    ----------
    mlm_weight, alpha
        Weights of the masked genes and of the contrast; 1 and 1 are the published method. Without weight on them the
        masked genes are not even judged in training.
    temperature
        Of the contrast.
    queue_size
        Past keys of each stream that serve as more negatives; 0 is the published method.
    published_objective
        Divide the MLM losses by all tokens, as the released code does, instead of averaging over masked genes.
    """

    mlm_weight: float = 1.0
    alpha: float = 1.0
    temperature: float = TEMPERATURE
    queue_size: int = 0
    published_objective: bool = False


@dataclass(frozen=True)
class CellChoice:
    """Which cells are trained on and which are held out.

    Attributes
    ----------
    split_file
        ``split.csv``: its 'train' cells are trained on, its 'validation' cells held out.
    leave_out
        Rules ``COLUMN=VALUE[,VALUE...]``: cells that are neither trained on nor held out.
    hold_out
        Rules of the same kind: the cells that are held out, such as those of a whole data set.
    held_out_fraction, seed
        Without ``split_file`` and ``hold_out``, this share of the cells is drawn, but no more than
        ``max_held_out_cells``.
    max_held_out_cells
        Of more held-out cells, so many are drawn: every evaluation reads them all. What ``split_file`` or ``hold_out``
        hold out beyond them is not trained on either.
    max_training_cells
        Of more training cells, so many are drawn; None for all. A larger number holds the cells of a smaller one.
    """

    split_file: Path | None = None
    leave_out: Sequence[str] = ()
    hold_out: Sequence[str] = ()
    held_out_fraction: float = 0.05
    max_held_out_cells: int = MAX_HELD_OUT_CELLS
    max_training_cells: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if self.split_file is not None and self.hold_out:
            raise ScDMCError("--split_file and --hold_out both say which cells are held out: give one of them")


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
        See :class:`scdmc.training.settings.MaskingOptions`.
    mlm_weight, alpha, temperature, queue_size, published_objective
        See :class:`scdmc.training.settings.ObjectiveOptions`. The published objective also leaves the masked genes
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
    probe_every
        Optimizer steps between judgements by a probe, if there is one.
    report_to
        One of :data:`TRACKERS`: who is told the numbers of the history.
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
    probe_every: int = 1000
    report_to: str = "tensorboard"

    def require_usable(self) -> None:
        """Refuse settings that contradict each other.

        Raises
        ------
        ScDMCError
            If a batch cannot be shared out to the accumulation steps, or the tracker is not installed.
        """
        parts = self.gradient_accumulation_steps
        if self.tokens_per_batch is None and self.batch_size % parts:
            raise ScDMCError(f"--batch_size {self.batch_size} is no multiple of --gradient_accumulation_steps {parts}")
        if self.report_to == "wandb" and find_spec("wandb") is None:
            raise ScDMCError("--report_to wandb needs wandb, which is not installed: pip install wandb")

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
