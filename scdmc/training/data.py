"""What a pre-training run reads: tokenized cells, their vocabulary and medians, a training and a held-out part."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import Vocabulary, load_vocabulary, require_same_vocabulary
from scdmc.reading.obs_filter import keep_cells, parse_leave_out, require_known_values
from scdmc.tokens.cache import open_cells
from scdmc.tokens.medians import GeneMedians, load_gene_medians
from scdmc.tokens.parquet import (
    gene_medians_path,
    parquet_files,
    read_obs_columns,
    read_settings,
    read_tokenized,
    token_ids_path,
)
from scdmc.tokens.tokenized_cells import TokenizationSettings, TokenizedCells, require_valid_ids
from scdmc.training.loading import TrainingCells
from scdmc.training.settings import CellChoice

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainingData(TrainingCells):
    """Cells for pre-training, as long as the model reads them, and how they were tokenized.

    Attributes
    ----------
    vocabulary, medians
        Those that the cells were tokenized with.
    settings
        What the model folder says of tokenization; its ``model_input_size`` is the model's context.
    """

    vocabulary: Vocabulary
    medians: GeneMedians
    settings: TokenizationSettings

    @property
    def origin(self) -> dict[str, str]:
        """What the token ids and the values mean; name of the flag -> hash."""
        return {"token_dictionary_file": self.vocabulary.sha256, "gene_median_file": self.medians.sha256}


def read_pretraining_data(
    dataset_path: Path,
    cache_dir: Path | None = None,
    max_length: int | None = None,
    choice: CellChoice | None = None,
    token_dictionary_file: Path | None = None,
    gene_median_file: Path | None = None,
) -> PretrainingData:
    """Read tokenized parquet and set held-out cells aside.

    Parameters
    ----------
    dataset_path
        File, folder or glob.
    cache_dir
        Where decoded cells are memory-mapped from (see :func:`scdmc.tokens.cache.open_cells`), which takes data of any
        size; without it the cells are held in memory.
    max_length
        Context of the model; that of the data without it.
    choice
        Which cells are trained on and which are held out.
    token_dictionary_file, gene_median_file
        Vocabulary and medians of the data; looked for beside it. Data of the published tool, which does not say how it
        was made, must be given its vocabulary.

    Raises
    ------
    ScDMCError
        If data, vocabulary and medians do not belong together, or no cells are left.
    """
    first = parquet_files(dataset_path)[0]
    found = read_settings(parquet_files(dataset_path))
    vocabulary = _vocabulary_of(first, found, token_dictionary_file)
    medians = _medians_of(first, found, gene_median_file)
    context = _context(max_length, found)
    if cache_dir is None:
        cells = read_tokenized(dataset_path, obs_columns=(), model_input_size=context)
    else:
        cells = open_cells(dataset_path, cache_dir, context)
    require_valid_ids(cells, len(vocabulary), str(dataset_path))
    training, held_out = _split(cells, dataset_path, choice or CellChoice())
    settings = TokenizationSettings(vocabulary.sha256, medians.sha256, context)
    return PretrainingData(cells, training, held_out, vocabulary, medians, settings)


def _vocabulary_of(first: Path, settings: TokenizationSettings | None, given: Path | None) -> Vocabulary:
    beside = token_ids_path(first)
    if given is None and not beside.exists():
        raise ScDMCError(
            f"{first} has no {beside.name} beside it, and ids mean nothing without their vocabulary; "
            "name it with --token_dictionary_file"
        )
    vocabulary = load_vocabulary(given or beside)
    if settings is not None:
        require_same_vocabulary(vocabulary.sha256, settings.vocabulary_sha256, vocabulary.source, str(first))
    return vocabulary


def _medians_of(first: Path, settings: TokenizationSettings | None, given: Path | None) -> GeneMedians:
    beside = gene_medians_path(first)
    medians = load_gene_medians(given or (beside if beside.exists() else None))
    if settings is not None and medians.sha256 != settings.gene_medians_sha256:
        raise ScDMCError(f"{first} has other gene medians than {medians.source}; name its own with --gene_median_file")
    return medians


def _context(max_length: int | None, settings: TokenizationSettings | None) -> int:
    """Tokens of a stream that the model reads; no more than the tokenizer kept."""
    available = settings.model_input_size if settings else ScDMCConfig().max_position_embeddings
    if max_length is None:
        return available
    if not 3 <= max_length <= available:
        raise ScDMCError(
            f"--max_length {max_length}: take 3 (<cls>, a gene, <eos>) to {available} (where the streams were cut)"
        )
    return max_length


def _split(cells: TokenizedCells, dataset_path: Path, choice: CellChoice) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out cells, as indices."""
    generator = np.random.default_rng(choice.seed)
    kept = ~_named_cells(dataset_path, len(cells), choice.leave_out, "--leave_out")
    if choice.split_file is not None:
        from scdmc.cells.splits import read_split  # needs pandas, which a training node may lack

        split = read_split(choice.split_file, cells.obs)
        is_training, is_held_out = split == "train", split == "validation"
    elif choice.hold_out:
        is_held_out = _named_cells(dataset_path, len(cells), choice.hold_out, "--hold_out")
        is_training = ~is_held_out
    else:
        order = generator.permutation(len(cells))
        n_held_out = min(max(1, round(len(cells) * choice.held_out_fraction)), choice.max_held_out_cells)
        is_held_out = np.isin(np.arange(len(cells)), order[:n_held_out])
        is_training = ~is_held_out
    training, held_out = np.flatnonzero(kept & is_training), np.flatnonzero(kept & is_held_out)
    if len(held_out) > choice.max_held_out_cells:
        logger.info(
            "%s of %s held-out cells are drawn for the evaluations (--max_held_out_cells); none is trained on",
            f"{choice.max_held_out_cells:,}", f"{len(held_out):,}",
        )  # fmt: skip
        held_out = np.sort(generator.choice(held_out, choice.max_held_out_cells, replace=False))
    if not len(training) or not len(held_out):
        raise ScDMCError(f"{len(training)} training cells and {len(held_out)} held-out cells: both must be there")
    if choice.max_training_cells is not None:
        drawn = np.random.default_rng(choice.seed).permutation(len(training))[: choice.max_training_cells]
        training = training[np.sort(drawn)]
    return training, held_out


def _named_cells(dataset_path: Path, n_cells: int, rules: Sequence[str], flag: str) -> np.ndarray:
    """True for the cells that a rule names, shape (n_cells,)."""
    values = parse_leave_out(rules, flag)
    if not values:
        return np.zeros(n_cells, dtype=bool)
    if find_spec("pandas") is None:
        raise ScDMCError(f"{flag} needs pandas, which is not installed: pip install pandas")
    obs = read_obs_columns(dataset_path, list(values)).to_pandas()
    require_known_values(values, {str(dataset_path): obs}, flag)
    return ~keep_cells(obs, values)
