"""The integration benchmark: every row embeds the same cells, one after the other, and all are scored alike.

Source: docs/method.md, "Evaluation rules".
"""

import logging
import time
from dataclasses import dataclass, field

import numpy as np

from scdmc.cells.clustering import finite_embedding
from scdmc.errors import ScDMCError
from scdmc.integration.data import IntegrationData
from scdmc.integration.options import IntegrationOptions
from scdmc.integration.row import Place, Row, RowContext
from scdmc.integration.rows import rows_of
from scdmc.integration.scoring import RowScores, score_embedding
from scdmc.model.embeddings import embedding_choice
from scdmc.model.folder import ModelDirectory
from scdmc.model.storage import saw_labels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IntegrationRun:
    """All rows with one seed.

    Attributes
    ----------
    seed
        The seed.
    embeddings
        Row -> embedding of all cells, shape (n_cells, n_dimensions).
    results
        Row -> its scores.
    """

    seed: int
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    results: dict[str, RowScores] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """What was compared on one data set.

    Attributes
    ----------
    rows
        All that were asked for, in the order of the tables.
    runs
        One for each seed.
    failures
        Row that failed -> why, and with which seed if others worked.
    seconds
        Row -> seconds of all seeds, embedding and scores.
    cpu_seconds
        The same of the processors, user and system: a machine that others use does not change it.
    """

    rows: tuple[Row, ...]
    runs: list[IntegrationRun]
    failures: dict[str, str]
    seconds: dict[str, float]
    cpu_seconds: dict[str, float]

    @property
    def embeddings(self) -> dict[str, np.ndarray]:
        """Key of ``obsm`` -> embedding of the first seed with which it worked; not those that a file holds already."""
        return {
            row.obsm_key: next(run.embeddings[row.name] for run in self.runs if row.name in run.embeddings)
            for row in self.rows
            if row.obsm_key is not None and any(row.name in run.embeddings for run in self.runs)
        }


def require_runnable(
    data: IntegrationData, model_directory: ModelDirectory | None, options: IntegrationOptions
) -> list[Row]:
    """The rows, after a check that refuses, before anything is computed, what would fail after hours.

    Raises
    ------
    ScDMCError
        If scVI is asked for without counts, a classifier should be adapted, two rows have one name, or the model has
        no such stream, pooling or layer.
    """
    if model_directory is not None:  # all rows may be own embeddings
        embedding_choice(model_directory.config, options.stream, options.pooling, options.layer)
    if "scvi" in options.methods and data.counts is None:
        raise ScDMCError(f"{data.name}: scVI needs raw counts, and tokenized parquet has none; give the .h5ad")
    if options.adapts and saw_labels(model_directory):
        raise ScDMCError(f"{model_directory.path} is a classifier; adapt a pre-trained model, which saw no labels")
    return rows_of(options, model_directory, data)


def run_benchmark(
    data: IntegrationData, model_directory: ModelDirectory | None, place: Place, options: IntegrationOptions
) -> Benchmark:
    """Embed and score by every row, once for each seed; a row that fails does not take the others with it.

    Parameters
    ----------
    data
        The cells.
    model_directory
        The model of the rows of scDMC.
    place
        Puts a model onto its device, with its attention.
    options
        What is compared.

    Raises
    ------
    ScDMCError
        As :func:`require_runnable`, or if every row failed.
    """
    rows = require_runnable(data, model_directory, options)
    progress = _Progress(len(rows) * len(options.seeds))
    for_all_seeds, failures, runs = {}, {}, []
    for seed in options.seeds:
        context, run = RowContext(data, model_directory, place, options, seed, for_all_seeds), IntegrationRun(seed)
        for row in rows:
            if row.name in failures:
                progress.skip()
                continue
            with progress.of(row.name, seed):
                try:
                    run.embeddings[row.name] = finite_embedding(row.embedding(context))
                except row.errors as error:
                    failures[row.name] = _why(error, seed, bool(runs))
                    logger.warning("warning: %s failed: %s", row.name, failures[row.name])
                    continue
                run.results[row.name] = score_embedding(row, run.embeddings[row.name], context)
        runs.append(run)
    if len(failures) == len(rows) and not any(run.results for run in runs):
        told = "; ".join(f"{name}: {why}" for name, why in failures.items())
        raise ScDMCError(f"{data.name}: no method worked, so there is nothing to compare ({told})")
    return Benchmark(tuple(rows), runs, failures, progress.seconds, progress.cpu_seconds)


def _why(error: Exception, seed: int, has_worked: bool) -> str:
    """The reason of a failure as one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    told = reason if isinstance(error, ScDMCError) else f"{type(error).__name__}: {reason}"
    return f"with seed {seed}: {told}" if has_worked else told


class _Progress:
    """Says which row is computed, how long it took, and about how long the rest takes."""

    def __init__(self, n_steps: int) -> None:
        self.n_steps, self.done, self._runs = n_steps, 0, {}
        self.seconds, self.cpu_seconds = {}, {}

    def of(self, name: str, seed: int) -> "_Step":
        """A block that computes a row."""
        return _Step(self, name, seed)

    def skip(self) -> None:
        """A row that failed before is passed over."""
        self.done += 1

    def add(self, name: str, seconds: float, cpu_seconds: float) -> None:
        """A row was computed."""
        self.done += 1
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + cpu_seconds
        self._runs[name] = self._runs.get(name, 0) + 1

    def left(self) -> float:
        """Seconds that the other steps take if they are as long as those before, on average."""
        n_timed = sum(self._runs.values())
        return (self.n_steps - self.done) * sum(self.seconds.values()) / max(n_timed, 1)


class _Step:
    def __init__(self, progress: _Progress, name: str, seed: int) -> None:
        self.progress, self.name, self.seed = progress, name, seed

    def __enter__(self) -> None:
        logger.info(
            "method %d of %d: %s (seed %d)", self.progress.done + 1, self.progress.n_steps, self.name, self.seed
        )
        self.start, self.cpu_start = time.monotonic(), time.process_time()

    def __exit__(self, kind: type | None, *_: object) -> None:
        seconds = time.monotonic() - self.start
        self.progress.add(self.name, seconds, time.process_time() - self.cpu_start)
        if kind is None:
            logger.info("  took %s; about %s left", _duration(seconds), _duration(self.progress.left()))


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
