"""The tasks of the paper, their data sets and their scores. Nothing heavy is imported here: ``--help`` is quick."""

from dataclasses import dataclass

from scdmc.public_data.paper.options import BMMC, IMMUNE, MS, MYELOID, PBMC10K, ZHENG68K

ANNOTATION, CLUSTERING, INTEGRATION = "annotation", "clustering", "integration"


DATASETS = {
    ANNOTATION: (ZHENG68K, MS, MYELOID),
    CLUSTERING: (PBMC10K, BMMC, IMMUNE),
    INTEGRATION: (PBMC10K, BMMC, IMMUNE),
}


# As the functions that compute them call them; one embedding gives the scores of the two last tasks.
METRICS = {
    ANNOTATION: ("accuracy", "macro_f1", "macro_precision", "macro_recall"),
    CLUSTERING: ("ARI", "NMI", "ASW_label", "AvgBIO"),
    INTEGRATION: ("ASW_batch", "graph_connectivity", "AvgBATCH", "AvgBIO", "overall"),
}


# Our rows, in all tasks, by which settings stand behind them.
PUBLISHED_SETTING, DEFAULT = "scDMC, published setting", "scDMC, default"


# What the paper says of the optimizer of pre-training; of fine-tuning it names no other values. The head is new, and
# everything learns by AdamW.
PUBLISHED_FINE_TUNING = {
    "classifier_start": "random",
    "embedding_optimizer": "adamw",
    "learning_rate": 5e-5,
    "weight_decay": 1e-3,
    "batch_size": 24,
    "epochs": 3,
}


# What the paper reads of a cell, whatever the config.json of a model says; of the last layer.
PUBLISHED_STATES = {"stream": "both", "pooling": "cls"}


TINY_FINE_TUNING = {"epochs": 1, "patience": 1}


@dataclass(frozen=True)
class PaperOptions:
    """What is run.

    Attributes
    ----------
    seeds
        One run for each.
    tiny
        One epoch and few steps of everything that is trained: shows that all of it runs, and measures nothing.
    dtype
        One of :data:`scdmc.options.DTYPE_CHOICES`, what fine-tuning computes in.
    """

    seeds: tuple[int, ...] = (42, 43, 44, 45, 46)
    tiny: bool = False
    dtype: str = "auto"
