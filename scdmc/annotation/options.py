"""What can be chosen in annotation. Nothing heavy is imported here, so that ``--help`` is quick."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scdmc.cells.options import MIN_KNOWN_GENES, SplitOptions

TRAINED_PARTS = ("full", "classifier", "top_layers", "lora")


CLASS_WEIGHTS = ("none", "balanced")


SAMPLERS = ("shuffle", "balanced")


EMBEDDING_OPTIMIZERS = ("sgd", "adamw")


CLASSIFIER_STARTS = ("probe", "random")


EMBEDDING_RATE = 1000.0


# By where the classifier starts. A probe is right from the first step on: a high rate moves the encoder away from it,
# and dropping a state whose mean is far from 0 throws its logits off.
START_FACTORS = {"probe": 0.3, "random": 1.0}


CLASSIFIER_DROPOUTS = {"probe": 0.0, "random": 0.1}


@dataclass(frozen=True)
class FineTuningSettings:
    """Settings of fine-tuning; :func:`scdmc.annotation.fine_tuning.adapted_settings` chooses them by number of cells.

    Attributes
    ----------
    epochs
        Passes over the training cells, at most.
    patience
        Stop after this many epochs that were not better (:func:`scdmc.annotation.fine_tuning.goodness`).
    batch_size, learning_rate, weight_decay
        AdamW; ``learning_rate`` is the peak: the rate rises to it linearly over the first tenth of the steps, at most
        one epoch, and then falls linearly to 0 at the end of the last epoch (see
        :func:`scdmc.annotation.fine_tuning.share_of_peak`).
    max_gradient_norm
        Gradients are scaled down to this norm.
    embedding_optimizer, embedding_rate
        ``sgd``: the word embeddings follow their gradient with momentum 0.9, by ``embedding_rate`` times their mean
        square at the peak, so that a gene moves as far as the cells give reason to. ``adamw`` moves a gene of three
        cells as far as one of all cells, and with few cells learns them by heart.
    train
        ``full``: all weights; ``classifier``: the head only, on states that the encoder computes once, without dropout
        (in each epoch only where ``gene_dropout`` takes other genes away); ``top_layers``: the head and the last
        ``train_layers`` layers; ``lora``: the head and low-rank additions to the matrices of all layers (Hu et al.
        2021).
    train_layers, lora_rank
        See ``train``.
    classifier_start
        ``probe``: the classifier starts as a logistic regression on the states of the training cells, as
        :func:`scdmc.annotation.probing.linear_probe` fits it, before the encoder moves (linear probing, then
        fine-tuning; Kumar et al. 2022); it is a row of epoch 0 in the history, and stays where no epoch is better.
        ``random``: small random weights.
    class_weights
        ``balanced``: the loss of a cell is weighted by n_cells / (n_classes * cells of its type).
    sampler
        ``balanced``: an epoch draws cells with replacement, each type equally often.
    gene_dropout
        Share of the genes that each training cell loses, other ones in each epoch, the same in both streams.
    seed
        Of the order of the cells, the genes that are lost, dropout and low-rank weights.
    dtype
        What the encoder computes in: ``bfloat16`` by autocast. The weights, the classifier's logits and the loss stay
        float32.
    """

    epochs: int = 12
    patience: int = 4
    batch_size: int = 16
    learning_rate: float = 1.5e-4
    weight_decay: float = 1e-2
    max_gradient_norm: float = 1.0
    embedding_optimizer: str = "sgd"
    embedding_rate: float = EMBEDDING_RATE * START_FACTORS["probe"]
    train: str = "full"
    train_layers: int = 2
    lora_rank: int = 8
    classifier_start: str = "probe"
    class_weights: str = "none"
    sampler: str = "shuffle"
    gene_dropout: float = 0.0
    seed: int = 42
    dtype: str = "auto"


@dataclass(frozen=True)
class ClassifierOptions:
    """What is built and how it is trained.

    Attributes
    ----------
    stream, pooling
        What the classifier reads (:class:`scdmc.model.heads.ScDMCForCellClassification`); None for what the
        ``config.json`` of the model says.
    dropout
        Before the classifier; without it 0 where that starts from a probe, whose logits would be far off if a state
        with a mean far from 0 were dropped, and 0.1 where it starts from random weights.
    is_pretrained
        False for random weights instead of the pre-trained ones.
    settings
        Fields of :class:`scdmc.annotation.options.FineTuningSettings`; what is None or absent is chosen for the
        number of cells (:func:`scdmc.annotation.fine_tuning.adapted_settings`). Without pre-training
        ``classifier_start`` is ``random`` unless it is given.
    """

    stream: str | None = None
    pooling: str | None = None
    dropout: float | None = None
    is_pretrained: bool = True
    settings: Mapping[str, object] = field(default_factory=dict)


VOTE_RESOLUTION = 5.0  # Many small clusters: a rare type should not be outvoted by a large neighbour.


OUTPUT_SUFFIXES = (".h5ad", ".csv")


@dataclass(frozen=True)
class RunOptions:
    """How many trainings there are, and on which cells.

    Attributes
    ----------
    split
        How a split is drawn; its seed is that of the first run.
    seeds
        So many runs, with the seeds from that of ``split`` on.
    split_file
        ``split.csv`` that all runs share, instead of drawn splits.
    cross_validate
        Number of folds, each of which is the test part once; None for one split a seed.
    label_fraction
        Share of the training and validation cells that are used.
    hold_out_type
        Type that is not trained on.
    """

    split: SplitOptions = field(default_factory=SplitOptions)
    seeds: int = 1
    split_file: Path | None = None
    cross_validate: int | None = None
    label_fraction: float = 1.0
    hold_out_type: str | None = None


@dataclass(frozen=True)
class AnnotationOptions:
    """How probabilities become labels.

    Attributes
    ----------
    min_probability
        Less certain cells are Unknown.
    majority_vote
        Add the most frequent label of each Leiden cluster of the embeddings. This needs all embeddings in memory.
    vote_resolution, seed
        Of the clusters.
    min_known_genes
        Of the genes that the labelled cells had, the least share that a file needs
        (:func:`scdmc.cells.gene_coverage.require_known_genes`).
    """

    min_probability: float = 0.0
    majority_vote: bool = False
    vote_resolution: float = VOTE_RESOLUTION
    seed: int = 42
    min_known_genes: float = MIN_KNOWN_GENES


UNKNOWN = "Unknown"


N_NEIGHBORS = 15

# What tables and figures call a fine-tuned model.
FINE_TUNED = "scDMC fine-tuned"

# What they call the same model without pre-training, and the strongest of the simple methods.
FROM_SCRATCH, LOGISTIC_REGRESSION = "scDMC without pre-training", "logistic regression"

ON_COMPONENTS = "logistic regression on principal components"
