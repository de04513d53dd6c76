"""What can be chosen in integration. Nothing heavy is imported here, so that ``--help`` is quick."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from scdmc.errors import ScDMCError
from scdmc.training.settings import PretrainingSettings

NEVER = 10**9


@dataclass(frozen=True)
class AdaptationSettings:
    """How long and how fast pre-training goes on; the rest is :class:`scdmc.training.settings.PretrainingSettings`.

    Attributes
    ----------
    minutes
        Train this long; the schedule follows the clock.
    steps
        Train so many optimizer steps instead, which gives the same model on every machine of a kind.
    learning_rate
        Peak of the schedule.
    batch_size
        Cells of an optimizer step: each is contrasted with the others.
    batch_balanced
        Each step holds every batch of the data in its share, so that telling batches apart does not help the contrast;
        otherwise cells of similar lengths meet, which often are cells of one batch.
    queue_size
        Past keys of each stream that serve as more negatives; 0 for none.
    mutual_neighbors
        Cells of two batches that are among so many nearest neighbours of each other
        (:func:`scdmc.integration.adaptation.mutual_neighbours`) are positives of each other, and meet in the same
        steps; 0 for none.
    view_dropout, mlm_weight, momentum
        As in pre-training. A short adaptation wants a lower momentum: with 0.995 the keys are 200 steps old.
    dtype
        One of :data:`scdmc.options.DTYPE_CHOICES`.
    """

    minutes: float = 3.0
    steps: int | None = None
    learning_rate: float = 5e-5
    batch_size: int = 24
    batch_balanced: bool = False
    queue_size: int = 0
    mutual_neighbors: int = 0
    view_dropout: float = 0.0
    mlm_weight: float = 1.0
    momentum: float = 0.995
    dtype: str = "auto"

    def for_seed(self, seed: int, bf16: bool) -> PretrainingSettings:
        """Settings of the run, in bfloat16 or not: it is evaluated and saved at its end only."""
        return PretrainingSettings(
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            max_steps=self.steps,
            schedule_minutes=None if self.steps else self.minutes,
            seed=seed,
            queue_size=self.queue_size,
            view_dropout=self.view_dropout,
            mlm_weight=self.mlm_weight,
            momentum=self.momentum,
            bf16=bf16,
            evaluate_every=NEVER,
            save_every=NEVER,
            keep_checkpoints=1,
        )


@dataclass(frozen=True)
class HeadSettings:
    """A linear layer on frozen embeddings (:func:`scdmc.integration.contrastive_head.contrastive_head`).

    The values were chosen on one data set of blood, and hold for any number of cells.

    Attributes
    ----------
    dimensions
        Of the layer's output.
    steps, batch_size, learning_rate
        Of AdamW; the rate falls to 0 in a straight line.
    temperature
        Cosines are divided by it.
    dropout
        Share of the features that a cell lacks in each step.
    neighbors
        Cells of two batches are partners if each is among so many nearest of the other, after Harmony.
    """

    dimensions: int = 64
    steps: int = 300
    batch_size: int = 256
    learning_rate: float = 2e-3
    temperature: float = 0.2
    dropout: float = 0.2
    neighbors: int = 15


# Ways to adapt to the cells: docs/method.md, "Adaptation without labels".
HEAD, JOINED, ENCODER = ADAPTATIONS = ("head", "joined", "encoder")


DEFAULT_ADAPTATION = HEAD


METHODS = ("scdmc", "pca", "harmony", "scvi", "scanorama")


DEFAULT_METHODS = ("scdmc", "pca", "harmony")


# How embeddings are scored by labels: docs/method.md, "Scores of integration".
PUBLISHED, SCIB = PROTOCOLS = ("published", "scib")


DEFAULT_SEEDS = 3


@dataclass(frozen=True)
class IntegrationOptions:
    """What is compared, and how.

    Attributes
    ----------
    methods
        Some of ``METHODS``.
    adaptation
        With it pre-training goes on with the cells (``encoder``), and a row of the adapted model is added; ``head`` and
        ``joined`` then come for the adapted model, too.
    head
        With it a row is added of principal components, scDMC and a contrastive head on both, joined, then Harmony; and
        its control without scDMC.
    joined
        Add rows of scDMC joined with principal components, then Harmony. Their control is Harmony.
    harmony
        Add, for every row of scDMC, the same after Harmony. Harmony was a better second step than moving the batches
        to one mean in every pair that was measured.
    stream, pooling, layer
        See :func:`scdmc.model.embeddings.cell_embeddings`.
    protocols
        Some of :data:`PROTOCOLS`.
    resolution
        Of Leiden in the protocol ``published``, the same for every method.
    seeds
        One run for each: of adaptation, PCA, Harmony, scVI, Scanorama, neighbours and Leiden.
    scvi_epochs
        None for scVI's own choice.
    scvi_accelerator
        Where scVI trains: ``auto``, ``cpu`` or ``gpu``.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    adaptation: AdaptationSettings | None = None
    head: HeadSettings | None = None
    joined: bool = False
    harmony: bool = False
    stream: str | None = None
    pooling: str | None = None
    layer: int | None = None
    protocols: tuple[str, ...] = PROTOCOLS
    resolution: float = 0.2
    seeds: tuple[int, ...] = (42, 43, 44)
    scvi_epochs: int | None = None
    scvi_accelerator: str = "auto"

    def __post_init__(self) -> None:
        # Lists are as good.
        for name in ("methods", "seeds", "protocols"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for field, known in (("methods", METHODS), ("protocols", PROTOCOLS)):
            unknown = [name for name in getattr(self, field) if name not in known]
            if unknown:
                raise ScDMCError(f"{field}: {', '.join(map(repr, unknown))} unknown; there are {', '.join(known)}")
        if not self.methods and not self.adapts:
            raise ScDMCError(f"methods: name at least one of {', '.join(METHODS)}")
        for field, known in (("protocols", PROTOCOLS), ("seeds", ("42",))):
            if not getattr(self, field):
                raise ScDMCError(f"{field}: name at least one, such as {known[0]}")
        require_packages(self.methods)
        asked = {"--harmony": self.harmony, "--adapt head": self.head is not None, "--adapt joined": self.joined}
        needs_harmony = [flag for flag, is_asked in asked.items() if is_asked]
        if needs_harmony and find_spec(PACKAGES["harmony"][0]) is None:
            flag = needs_harmony[0]
            raise ScDMCError(f"{flag}: harmonypy not installed; pip install harmonypy, or leave {flag} out")
        if SCIB in self.protocols and find_spec("scib_metrics") is None:
            raise ScDMCError(
                "--protocols: scib-metrics not installed; pip install scib-metrics (or pip install "
                "'scdmc[integration]'), or take the paper's scores alone: --protocols published"
            )

    @property
    def adapts(self) -> bool:
        """Whether any row is adapted to the cells, which a model that saw labels must not be."""
        return self.adaptation is not None or self.head is not None or self.joined


# Method -> the package that is imported, what pip calls it, and the extra of scDMC that brings it.
PACKAGES = {
    "harmony": ("harmonypy", "harmonypy", "harmony"),
    "scvi": ("scvi", "scvi-tools", "integration"),
    "scanorama": ("scanorama", "scanorama", "integration"),
}


def require_packages(methods: Sequence[str]) -> None:
    """Refuse methods whose package is not installed, and say how to install it.

    Raises
    ------
    ScDMCError
        Naming the command.
    """
    missing = [name for name in methods if name in PACKAGES and find_spec(PACKAGES[name][0]) is None]
    if missing:
        packages, extras = ([PACKAGES[name][place] for name in missing] for place in (1, 2))
        others = " ".join(name for name in methods if name not in missing) or DEFAULT_METHODS[0]
        raise ScDMCError(
            f"--methods: {', '.join(packages)} not installed; pip install {' '.join(packages)} "
            f"(or pip install 'scdmc[{','.join(dict.fromkeys(extras))}]'), or leave the method out: --methods {others}"
        )
