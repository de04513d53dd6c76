"""Tokenized cells: the parquet format, written and read without Python loops over tokens.

Source: docs/method.md, "The parquet format".
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import CLS_TOKEN_ID, EOS_TOKEN_ID
from scdmc.labels import label_text
from scdmc.options import MAX_CONTEXT

if TYPE_CHECKING:
    import pandas as pd

# In memory, cells remember their row of obs (cells may be filtered, and cell ids repeated).
ROW_COLUMN = "row_of_obs"


def require_obs_columns(available: Mapping[str, Collection[str]], obs_columns: Sequence[str]) -> None:
    """Refuse an obs column that no file has, and names that the format uses itself.

    Parameters
    ----------
    available
        Name of each file -> its columns of obs (or the table itself).
    obs_columns
        The columns asked for.
    """
    reserved = sorted({*STREAM_COLUMNS, *CELL_COLUMNS, ROW_COLUMN} & set(obs_columns))
    if reserved:
        raise ScDMCError(f"--obs_columns {' '.join(reserved)}: the tokenized data has a column of its own of that name")
    for name in obs_columns:
        if not any(name in columns for columns in available.values()):
            there = sorted({str(column) for columns in available.values() for column in columns})
            raise ScDMCError(f"obs has no column {name!r} in {', '.join(list(available)[:3])}; there are {there}")


FORMAT_VERSION = 1


STREAM_COLUMNS = ("input_ids_rank", "input_ids_epe", "expression_values", "length")


CELL_COLUMNS = ("cell_id", "source_file")


NORMALISATION = "ln(1 + x / n * 10000 / median)"


SETTINGS_TYPES = {"vocabulary_sha256": str, "gene_medians_sha256": str, "model_input_size": int, "normalisation": str}


@dataclass(frozen=True)
class TokenizationSettings:
    """How cells were tokenized; what tells whether data and model belong together.

    Attributes
    ----------
    vocabulary_sha256, gene_medians_sha256
        Hashes of the vocabulary and of the gene medians.
    model_input_size
        L: most tokens of a stream, ``<cls>`` and ``<eos>`` included.
    normalisation
        The formula of the expression values.
    """

    vocabulary_sha256: str
    gene_medians_sha256: str
    model_input_size: int
    normalisation: str = NORMALISATION
    format_version: int = FORMAT_VERSION

    def to_dict(self) -> dict:
        """Plain dictionary, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping, source: str) -> "TokenizationSettings":
        """Read the settings back; ``source`` is named where they are of another version, incomplete or wrong."""
        if content.get("format_version") != FORMAT_VERSION:
            raise ScDMCError(
                f"{source} has format version {content.get('format_version')}, but this scDMC reads {FORMAT_VERSION}"
            )
        wrong = [name for name, kind in SETTINGS_TYPES.items() if type(content.get(name)) is not kind]
        if wrong:
            raise ScDMCError(f"{source}: {wrong[0]} should be {SETTINGS_TYPES[wrong[0]].__name__}, and is not")
        if not 3 <= content["model_input_size"] <= MAX_CONTEXT:
            raise ScDMCError(f"{source}: model_input_size should be an integer from 3 to {MAX_CONTEXT:,}")
        if content["normalisation"] != NORMALISATION:
            raise ScDMCError(f"{source}: the expression values are not {NORMALISATION}, which this scDMC reads")
        return cls(**{name: content[name] for name in cls.__dataclass_fields__})


@dataclass
class TokenizedCells:
    """Both streams of many cells, in memory.

    Attributes
    ----------
    rank_ids
        Shape (total_rank_tokens,), int32.
    expression_ids, expression_values
        Shape (total_expression_tokens,), int32 and float32.
    rank_offsets, expression_offsets
        Shape (n_cells + 1,), int64. The two are equal but for data of the published tool.
    obs_table
        One row per cell: ``cell_id``, ``source_file`` and the kept obs columns. (An Arrow table: a GPU node needs no
        pandas.)
    settings
        How the cells were tokenized; None for data of the published tool, which does not say.
    rows
        Shape (n_cells,), int64: row of each cell in the data as read; what random draws of a cell depend on.
    """

    rank_ids: np.ndarray
    expression_ids: np.ndarray
    expression_values: np.ndarray
    rank_offsets: np.ndarray
    expression_offsets: np.ndarray
    obs_table: pa.Table
    settings: TokenizationSettings | None
    rows: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.rows is None:
            self.rows = np.arange(len(self))

    def __len__(self) -> int:
        return len(self.rank_offsets) - 1

    @cached_property
    def obs(self) -> "pd.DataFrame":
        """:attr:`obs_table` as a DataFrame."""
        return self.obs_table.to_pandas()

    @property
    def rank_lengths(self) -> np.ndarray:
        """Tokens of each cell's rank stream, shape (n_cells,)."""
        return np.diff(self.rank_offsets)

    def truncated(self, model_input_size: int) -> "TokenizedCells":
        """The cells as a model of a shorter context reads them (docs/method.md, "Tokenization", point 6).

        The rank stream keeps its first N - 2 genes, the expression stream exactly those genes.
        """
        if len(self) == 0 or self.rank_lengths.max() <= model_input_size:
            return self
        n_tokens = 1 + max(int(self.rank_ids.max()), int(self.expression_ids.max()))
        is_kept_gene = np.zeros(n_tokens, dtype=bool)
        keep_rank = np.ones(len(self.rank_ids), dtype=bool)
        keep_expression = np.ones(len(self.expression_ids), dtype=bool)
        for cell in np.flatnonzero(self.rank_lengths > model_input_size):
            start, stop = self.rank_offsets[cell : cell + 2]
            cut = start + model_input_size - 1
            keep_rank[cut : stop - 1] = False
            genes = self.rank_ids[start:cut]
            is_kept_gene[genes] = True
            is_kept_gene[EOS_TOKEN_ID] = True
            expression = slice(*self.expression_offsets[cell : cell + 2])
            keep_expression[expression] = is_kept_gene[self.expression_ids[expression]]
            is_kept_gene[genes] = False
        return TokenizedCells(
            self.rank_ids[keep_rank],
            self.expression_ids[keep_expression],
            self.expression_values[keep_expression],
            _offsets_of_kept(keep_rank, self.rank_offsets),
            _offsets_of_kept(keep_expression, self.expression_offsets),
            self.obs_table,
            self.settings,
            self.rows,
        )

    def select(self, cells: np.ndarray) -> "TokenizedCells":
        """The chosen cells, in the given order (indices or a boolean mask of shape (n_cells,))."""
        cells = np.flatnonzero(cells) if np.asarray(cells).dtype == bool else np.asarray(cells)
        rank, rank_offsets = gather_index(self.rank_offsets, cells)
        expression, expression_offsets = gather_index(self.expression_offsets, cells)
        return TokenizedCells(
            self.rank_ids[rank],
            self.expression_ids[expression],
            self.expression_values[expression],
            rank_offsets,
            expression_offsets,
            self.obs_table.take(pa.array(cells)),
            self.settings,
            self.rows[cells],
        )


def gather_index(offsets: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the tokens of the chosen cells, cell after cell, and the offsets of the result.

    Parameters
    ----------
    offsets
        Shape (n_cells + 1,).
    cells
        Shape (n_chosen,), int.

    Returns
    -------
    positions of shape (total_chosen_tokens,) and offsets of shape (n_chosen + 1,).
    """
    lengths = offsets[cells + 1] - offsets[cells]
    new_offsets = np.zeros(len(cells) + 1, dtype=np.int64)
    np.cumsum(lengths, out=new_offsets[1:])
    positions = np.arange(new_offsets[-1]) + np.repeat(offsets[cells] - new_offsets[:-1], lengths)
    return positions, new_offsets


def expression_of_cells(cells: TokenizedCells, chosen: np.ndarray, vocab_size: int) -> scipy.sparse.csr_matrix:
    """Values ln(1 + CP10k / median) of the chosen cells' streams, shape (n_chosen, vocab_size), float32.

    A gene that a stream names twice has two entries.
    """
    positions, offsets = gather_index(cells.expression_offsets, chosen)
    tokens, values = cells.expression_ids[positions], cells.expression_values[positions]
    values = np.where(tokens > EOS_TOKEN_ID, values, np.float32(0))
    matrix = scipy.sparse.csr_matrix((values, tokens.astype(np.int64), offsets), shape=(len(chosen), vocab_size))
    matrix.eliminate_zeros()
    return matrix


def _offsets_of_kept(keep: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    kept_before = np.zeros(len(keep) + 1, dtype=np.int64)
    np.cumsum(keep, out=kept_before[1:])
    return kept_before[offsets]


def obs_table(obs: "pd.DataFrame", schema: pa.Schema) -> pa.Table:
    """The columns of a shard that describe its cells (see :func:`scdmc.tokens.parquet.parquet_table`)."""
    fields = [field for field in schema if field.name not in STREAM_COLUMNS]
    columns = [
        _obs_array(obs[field.name], field.type) if field.name in obs else pa.nulls(len(obs), field.type)
        for field in fields
    ]
    return pa.table(columns, schema=pa.schema(fields))


def _obs_array(values: "pd.Series", data_type: pa.DataType) -> pa.Array:
    """A column of obs; text and categories as dictionary, missing values as null."""
    if pa.types.is_dictionary(data_type) or pa.types.is_string(data_type):
        text = pa.array(_texts(values), type=pa.string(), from_pandas=True)
        return text.dictionary_encode().cast(data_type) if pa.types.is_dictionary(data_type) else text
    return pa.array(values, type=data_type, from_pandas=True)


def _texts(values: "pd.Series") -> "pd.Series":
    """A column of obs with the text of each value; what is text already, as ids are, costs no time."""
    if all(type(value) is str for value in values.array):
        return values
    missing = values.isna()
    return values.astype(object).where(~missing, None).map(lambda value: value if value is None else label_text(value))


def obs_data_type(columns: "Sequence[pd.Series]") -> pa.DataType:
    """The type of an obs column over several files: boolean, integer, float, or text as a dictionary.

    Everything else is text (:func:`scdmc.labels.label_text`): numbers and text, boolean and integer, and integers
    that the type of the column would have to round.
    """
    kinds = {column.dtype.kind for column in columns}
    text = pa.dictionary(pa.int32(), pa.string())
    if kinds == {"b"}:
        return pa.bool_()
    if kinds <= {"i", "u"}:
        return pa.int64() if _integers_are_within(columns, 2**63 - 1) else text
    if kinds <= {"i", "u", "f"}:
        return pa.float64() if _integers_are_within(columns, 2**53) else text
    return text


def _integers_are_within(columns: "Sequence[pd.Series]", limit: int) -> bool:
    integers = [column.dropna() for column in columns if column.dtype.kind in "iu"]
    return all(-limit <= int(column.min()) and int(column.max()) <= limit for column in integers if len(column))


def concatenate_cells(parts: Sequence[TokenizedCells]) -> TokenizedCells:
    """Join blocks of cells, in order."""
    if len(parts) == 1:
        return parts[0]
    return TokenizedCells(
        np.concatenate([part.rank_ids for part in parts]),
        np.concatenate([part.expression_ids for part in parts]),
        np.concatenate([part.expression_values for part in parts]),
        np.cumsum(np.concatenate([[0], *(np.diff(part.rank_offsets) for part in parts)])),
        np.cumsum(np.concatenate([[0], *(np.diff(part.expression_offsets) for part in parts)])),
        pa.concat_tables([part.obs_table for part in parts], promote_options="permissive").unify_dictionaries(),
        parts[0].settings,
    )


def require_valid_ids(cells: TokenizedCells, vocab_size: int, source: str) -> None:
    """Refuse token ids that the vocabulary does not have, and cells that do not start with ``<cls>``."""
    largest = max(int(cells.rank_ids.max()), int(cells.expression_ids.max()))
    if largest >= vocab_size:
        raise ScDMCError(
            f"{source}: token id {largest} is outside of the vocabulary of {vocab_size:,} tokens: the cells were "
            "tokenized with another one; tokenize the counts again with that of the model (its token_ids.json, as "
            "--token_dictionary_file), or name the vocabulary of the cells with --token_dictionary_file"
        )
    if (cells.rank_ids[cells.rank_offsets[:-1]] != CLS_TOKEN_ID).any():
        raise ScDMCError(
            f"{source}: some cells do not start with <cls> (id {CLS_TOKEN_ID}); is this another tool's data?"
        )
