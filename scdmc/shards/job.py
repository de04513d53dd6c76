"""What is embedded, how, and in which shards.

A shard is a contiguous block of cells of one file. Its embeddings depend on nothing else, so that they are the same
whoever computes them, and a shard that is there need not be computed again.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import torch

from scdmc.cells.data import tokenizer_of_model
from scdmc.errors import ScDMCError
from scdmc.files import known_sha256
from scdmc.model.devices import computing_dtype
from scdmc.model.folder import ModelDirectory, open_model_directory
from scdmc.reading.count_files import files_of_input
from scdmc.reading.counts import open_counts
from scdmc.reading.inputs import survey_folder, taken_files
from scdmc.reading.options import CountOptions, is_counts
from scdmc.shards.options import CELLS_PER_SHARD, holds_counts
from scdmc.tokens.file_report import FileReport, new_report
from scdmc.tokens.parquet import parquet_files, read_settings
from scdmc.tokens.tokenize_folder import Shard
from scdmc.version import __version__

# Which options of counts name a file.
FILES_OF_COUNTS = ("gene_mapping_file", "ortholog_file")
# Of a model folder: weights, also of the published layout, and all that says how cells are tokenized and labelled.
FILES_OF_MODELS = (".safetensors", ".bin", ".json")


@dataclass(frozen=True, kw_only=True)
class EmbeddingJob:
    """Cells to be embedded, by what, and where to.

    Attributes
    ----------
    data_path
        A folder of files of raw counts, one of them, or tokenized parquet.
    output_dir
        The folder of the shards and their index.
    model
        Folder or name of the model.
    token_dictionary_file
        See :func:`scdmc.model.folder.open_model_directory`.
    count_options
        How to read counts.
    embedding
        ``stream``, ``pooling``, ``layer``; None for what the model's ``config.json`` says.
    placement
        Keywords of :func:`scdmc.model.devices.place_model`.
    cells_per_shard
        Most cells of a shard.
    has_labels
        Whether the model is a classifier that labels the cells, too.
    min_probability
        Below which a label becomes Unknown.
    """

    data_path: Path
    output_dir: Path
    model: Path
    token_dictionary_file: Path | None = None
    count_options: CountOptions = field(default_factory=CountOptions)
    embedding: dict[str, object] = field(default_factory=dict)
    placement: dict[str, object] = field(default_factory=dict)
    cells_per_shard: int = CELLS_PER_SHARD
    has_labels: bool = False
    min_probability: float = 0.0

    @property
    def finished_shards(self) -> Path:
        """Hidden folder beside the output, in which shards wait until all are there."""
        # Another name than that of the shards of the tokenizer, whose prefix may be the same. Absolute: a worker on
        # another machine starts in another folder.
        path = self.output_dir.absolute()
        return path.with_name(f".{path.name}.embeddings")

    def shard_path(self, shard: Shard) -> Path:
        """Where a finished shard waits."""
        return self.finished_shards / f"{shard.key}.parquet"

    def open_model(self) -> ModelDirectory:
        """The folder of the model."""
        return open_model_directory(self.model, self.token_dictionary_file)


@dataclass(frozen=True)
class EmbeddingPlan:
    """What there is to do.

    Attributes
    ----------
    shards
        In the order of files and rows.
    n_cells
        File name -> its cells.
    reports
        File name -> what is known of its genes; empty for tokenized cells.
    """

    shards: tuple[Shard, ...]
    n_cells: dict[str, int]
    reports: dict[str, FileReport]


def plan_of(job: EmbeddingJob) -> EmbeddingPlan:
    """Open every file before anything is computed, and divide its cells.

    Raises
    ------
    ScDMCError
        If the input holds no cells, two files have one name, or one of them cannot be read as the model was trained.
    """
    model_directory = job.open_model()
    paths = files_of_job(job)
    repeated = sorted({path.name for path in paths if sum(other.name == path.name for other in paths) > 1})
    if repeated:
        raise ScDMCError(f"{job.data_path}: two files are called {repeated[0]}, and shards name their file; rename one")
    shards, n_cells, reports = [], {}, {}
    settings = _what_decides(job, model_directory)
    for path in paths:
        n_cells[path.name], report = _look_into(path, job, model_directory)
        if report is not None:
            reports[path.name] = report
        shards += _shards_of_file(job, path, n_cells[path.name], settings)
    if not sum(n_cells.values()):
        raise ScDMCError(f"{job.data_path}: there is no cell to embed")
    return EmbeddingPlan(tuple(shards), n_cells, reports)


def files_of_job(job: EmbeddingJob) -> list[Path]:
    """The files of the input, in order: of counts, or of tokenized cells."""
    if is_counts(job.data_path):
        return [job.data_path.absolute()]
    if holds_counts(job.data_path):
        return [path.absolute() for path in taken_files(survey_folder(job.data_path), job.data_path)]
    files = parquet_files(job.data_path)
    read_settings(files)  # refuses a mixture
    return [path.absolute() for path in files]


def _look_into(path: Path, job: EmbeddingJob, model_directory: ModelDirectory) -> tuple[int, FileReport | None]:
    """The number of cells of a file, and of counts what the model knows of its genes."""
    if not is_counts(path):
        return pq.read_metadata(path).num_rows, None
    with open_counts(path, **job.count_options.of_counts()) as counts:
        match = tokenizer_of_model(model_directory, job.count_options).match(counts)
        return counts.n_cells, new_report(counts, match)


def _what_decides(job: EmbeddingJob, model_directory: ModelDirectory) -> list:
    """What decides, beside its cells, what a shard holds; of a file its content, for it may change under its name."""
    files = [path for path in sorted(model_directory.path.iterdir()) if path.suffix in FILES_OF_MODELS]
    model = [(path.name, known_sha256(path)) for path in files]
    counts = [
        known_sha256(value) if name in FILES_OF_COUNTS and value is not None else str(value)
        for name, value in vars(job.count_options).items()
    ]
    how = [job.embedding, {name: str(value) for name, value in job.placement.items()}, _computed_by(job)]
    return [__version__, model, model_directory.vocabulary.sha256, counts, how, job.has_labels, job.min_probability]


def _computed_by(job: EmbeddingJob) -> list[str]:
    """On what and in which type this machine computes: shards of two types would be a mixture."""
    has_gpu = torch.cuda.is_available() and job.placement.get("num_gpus") != 0
    device = torch.device("cuda" if has_gpu else "cpu")
    return [device.type, str(computing_dtype(str(job.placement.get("dtype", "auto")), device))]


def _shards_of_file(job: EmbeddingJob, path: Path, n_cells: int, settings: list) -> list[Shard]:
    """The shards of a file, each with a key that changes with the file, the settings and the cells."""
    files = files_of_input(path) if is_counts(path) else [path]
    state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    shards = []
    for start in range(0, n_cells, job.cells_per_shard):
        stop = min(start + job.cells_per_shard, n_cells)
        content = json.dumps([settings, state, start, stop])
        key = f"{path.name}-{start}-{hashlib.sha256(content.encode('utf8')).hexdigest()[:16]}"
        shards.append(Shard(path, start, stop, key))
    return shards
