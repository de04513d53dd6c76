"""Tokenized cells: the parquet format (design.md, section 4), written and read without Python loops over tokens."""

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.streams import CellStreams
from scdmc.vocabulary import CLS_TOKEN_ID, EOS_TOKEN_ID

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1
METADATA_KEY = b"scdmc"
STREAM_COLUMNS = ("input_ids_rank", "input_ids_epe", "expression_values", "length")
CELL_COLUMNS = ("cell_id", "source_file")
NORMALISATION = "ln(1 + x / n * 10000 / median)"


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
        """Read the settings back; ``source`` is named where they are of another version."""
        if content.get("format_version") != FORMAT_VERSION:
            raise ScDMCError(
                f"{source} has format version {content.get('format_version')}, but this scDMC reads {FORMAT_VERSION}"
            )
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
        """The cells as a model of a shorter context reads them (design.md, section 4, point 6).

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


def parquet_schema(obs_types: Mapping[str, pa.DataType], settings: TokenizationSettings, source_file: str) -> pa.Schema:
    """Schema of a shard, with the settings in its metadata."""
    fields = [
        pa.field("input_ids_rank", pa.list_(pa.int32())),
        pa.field("input_ids_epe", pa.list_(pa.int32())),
        pa.field("expression_values", pa.list_(pa.float32())),
        pa.field("length", pa.int32()),
        pa.field("cell_id", pa.string()),
        pa.field("source_file", pa.dictionary(pa.int32(), pa.string())),
        *(pa.field(name, data_type) for name, data_type in obs_types.items()),
    ]
    metadata = {METADATA_KEY: json.dumps({**settings.to_dict(), "source_file": source_file}, sort_keys=True)}
    return pa.schema(fields, metadata=metadata)


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Writer of a shard.

    Ids are delta-packed and values byte-split before zstd: a dictionary of tens of thousands of ids costs time and
    saves nothing.
    """
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=[field.name for field in schema if pa.types.is_dictionary(field.type)],
        column_encoding={
            "input_ids_rank.list.element": "DELTA_BINARY_PACKED",
            "input_ids_epe.list.element": "DELTA_BINARY_PACKED",
            "expression_values.list.element": "BYTE_STREAM_SPLIT",
        },
        write_statistics=False,
    )


def parquet_table(streams: CellStreams, obs: "pd.DataFrame", schema: pa.Schema) -> pa.Table:
    """One block of cells as a table.

    Parameters
    ----------
    streams
        The streams of the block.
    obs
        One row per cell with the columns ``cell_id``, ``source_file`` and the kept obs columns that the file has.
    schema
        See :func:`parquet_schema`; a column that ``obs`` lacks is null.
    """
    offsets = pa.array(streams.offsets.astype(np.int32))
    columns = [
        pa.ListArray.from_arrays(offsets, pa.array(streams.input_ids_rank)),
        pa.ListArray.from_arrays(offsets, pa.array(streams.input_ids_epe)),
        pa.ListArray.from_arrays(offsets, pa.array(streams.expression_values)),
        pa.array(np.diff(streams.offsets).astype(np.int32)),
    ]
    return pa.table([*columns, *obs_table(obs, schema).columns], schema=schema)


def obs_table(obs: "pd.DataFrame", schema: pa.Schema) -> pa.Table:
    """The columns of a shard that describe its cells (see :func:`parquet_table`)."""
    fields = [field for field in schema if field.name not in STREAM_COLUMNS]
    columns = [
        _obs_array(obs[field.name], field.type) if field.name in obs else pa.nulls(len(obs), field.type)
        for field in fields
    ]
    return pa.table(columns, schema=pa.schema(fields))


def _obs_array(values: "pd.Series", data_type: pa.DataType) -> pa.Array:
    """A column of obs; text and categories as dictionary, missing values as null."""
    if pa.types.is_dictionary(data_type) or pa.types.is_string(data_type):
        missing = values.isna()
        text = pa.array(
            values.astype(object).where(~missing, None).map(lambda value: value if value is None else str(value))
        )
        text = text.cast(pa.string())
        return text.dictionary_encode().cast(data_type) if pa.types.is_dictionary(data_type) else text
    return pa.array(values, type=data_type, from_pandas=True)


def obs_data_type(columns: "Sequence[pd.Series]") -> pa.DataType:
    """The type of an obs column over several files: boolean, integer, float, or text as a dictionary.

    Everything else is text, as ``str`` writes it: a mixture of numbers and text, of boolean and integer, and integers
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


def parquet_files(dataset_path: Path) -> list[Path]:
    """The parquet files of a file, a folder or a glob, in the order of their names.

    Raises
    ------
    ScDMCError
        If there are none.
    """
    path = Path(dataset_path)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
    else:
        files = sorted(Path(name) for name in glob.glob(str(dataset_path)))
    if not files:
        raise ScDMCError(f"{dataset_path}: no such parquet file, and no .parquet files there")
    return files


def token_ids_path(dataset_path: Path) -> Path:
    """The vocabulary that lies beside tokenized data: ``<prefix>.token_ids.json``."""
    return _beside(dataset_path, "token_ids.json")


def gene_medians_path(dataset_path: Path) -> Path:
    """The gene medians that lie beside tokenized data: ``<prefix>.gene_medians.json``."""
    return _beside(dataset_path, "gene_medians.json")


def _beside(dataset_path: Path, name: str) -> Path:
    stem = dataset_path.stem
    prefix, _, number = stem.rpartition("-")
    prefix = prefix if prefix and len(number) == 5 and number.isdigit() else stem
    return dataset_path.with_name(f"{prefix}.{name}")


def read_settings(files: Sequence[Path]) -> TokenizationSettings | None:
    """Settings that all shards share; None where data of the published tool says nothing.

    Raises
    ------
    ScDMCError
        If a file is no tokenized parquet, or two shards were made with different settings.
    """
    settings: dict[Path, TokenizationSettings | None] = {path: _settings_of(path) for path in files}
    first = files[0]
    for path in files:
        if settings[path] != settings[first]:
            raise ScDMCError(f"{path} was not tokenized like {first} ({settings[path]} against {settings[first]})")
    return settings[first]


def _settings_of(path: Path) -> TokenizationSettings | None:
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ScDMCError(f"{path} is not a readable parquet file ({str(error).splitlines()[0]})") from error
    missing = [column for column in STREAM_COLUMNS if column not in schema.names]
    if missing:
        raise ScDMCError(f"{path} is no tokenized data: it lacks the columns {missing}; it has {schema.names}")
    content = (schema.metadata or {}).get(METADATA_KEY)
    return TokenizationSettings.from_dict(json.loads(content), str(path)) if content else None


def read_tokenized(
    dataset_path: Path, obs_columns: Sequence[str] | None = None, model_input_size: int | None = None
) -> TokenizedCells:
    """Read tokenized parquet: ours, or that of the published tool (int64 / double columns, no metadata).

    Parameters
    ----------
    dataset_path
        File, folder or glob.
    obs_columns
        Kept obs columns to read; all without it.
    model_input_size
        Context of the model, if shorter than that of the data (see :meth:`TokenizedCells.truncated`).

    Raises
    ------
    ScDMCError
        If there is no data, or a column is missing.
    """
    files = parquet_files(dataset_path)
    settings = read_settings(files)
    parts = [part for path in files for part in read_row_groups(path, obs_columns, settings, model_input_size)]
    if not any(len(part) for part in parts):
        raise ScDMCError(f"{dataset_path} holds no cells")
    return concatenate_cells(parts)


def read_obs_columns(dataset_path: Path, obs_columns: Sequence[str]) -> pa.Table:
    """Kept obs columns of tokenized parquet, one row per cell; no token is read.

    Raises
    ------
    ScDMCError
        If there is no data, or a column is missing.
    """
    tables = []
    for path in parquet_files(dataset_path):
        file = pq.ParquetFile(path)
        _require_obs_columns(file, path, obs_columns)
        tables.append(file.read(columns=list(obs_columns)))
    return pa.concat_tables(tables, promote_options="permissive")


def _require_obs_columns(file: pq.ParquetFile, path: Path, obs_columns: Sequence[str]) -> None:
    available = _obs_columns(file)
    missing = [name for name in obs_columns if name not in available]
    if missing:
        raise ScDMCError(
            f"{path}: no column {', '.join(map(repr, missing))}; it keeps {available} "
            "(name others with --obs_columns when tokenizing)"
        )


def _obs_columns(file: pq.ParquetFile) -> list[str]:
    """The obs columns that the user kept."""
    return [name for name in file.schema_arrow.names if name not in (*STREAM_COLUMNS, *CELL_COLUMNS)]


def read_row_groups(
    path: Path, obs_columns: Sequence[str] | None, settings: TokenizationSettings | None, model_input_size: int | None
) -> Iterator[TokenizedCells]:
    """Yield the cells of a shard, one row group after the other (see :func:`read_tokenized`)."""
    file = pq.ParquetFile(path)
    wanted = _obs_columns(file) if obs_columns is None else list(obs_columns)
    _require_obs_columns(file, path, wanted)
    cell_columns = [name for name in CELL_COLUMNS if name in file.schema_arrow.names]
    n_read = 0
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=[*STREAM_COLUMNS, *cell_columns, *wanted])
        cells = _cells_of_table(table, [*cell_columns, *wanted], path.name, n_read, settings)
        n_read += len(cells)
        yield cells.truncated(model_input_size) if model_input_size else cells


def _cells_of_table(
    table: pa.Table, obs_names: list[str], file_name: str, first_row: int, settings: TokenizationSettings | None
) -> TokenizedCells:
    rank_ids, rank_offsets = _flat(table["input_ids_rank"], np.int32)
    expression_ids, expression_offsets = _flat(table["input_ids_epe"], np.int32)
    values, value_offsets = _flat(table["expression_values"], np.float32)
    for column, lengths in (
        ("expression_values", np.diff(value_offsets)),
        ("length", table["length"].to_numpy()),
    ):
        _require_lengths(column, lengths, np.diff(expression_offsets), file_name, first_row)
    obs = table.select(obs_names)
    if "cell_id" not in obs_names:
        obs = obs.append_column("cell_id", pa.array([f"row_{first_row + row}" for row in range(len(table))]))
    if "source_file" not in obs_names:
        obs = obs.append_column("source_file", pa.array([file_name] * len(table), pa.string()))
    return TokenizedCells(rank_ids, expression_ids, values, rank_offsets, expression_offsets, obs, settings)


def _require_lengths(column: str, lengths: np.ndarray, expected: np.ndarray, file_name: str, first_row: int) -> None:
    """Refuse rows whose values would be taken for those of other genes, or of another cell."""
    wrong = np.flatnonzero(lengths != expected)
    if len(wrong):
        row = int(wrong[0])
        says = "is" if column == "length" else "has length"
        raise ScDMCError(
            f"{file_name}: damaged data: in row {first_row + row}, input_ids_epe has length {expected[row]}, "
            f"but {column} {says} {lengths[row]}; tokenize the counts again"
        )


def _flat(column: pa.ChunkedArray, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Values of a list column as one array, and the offsets of the rows."""
    array = column.combine_chunks()
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.to_numpy()[offsets[0] : offsets[-1]]
    return values.astype(dtype, copy=False), offsets - offsets[0]


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
        raise ScDMCError(f"{source}: token id {largest} is outside of the vocabulary of {vocab_size:,} tokens")
    if (cells.rank_ids[cells.rank_offsets[:-1]] != CLS_TOKEN_ID).any():
        raise ScDMCError(
            f"{source}: some cells do not start with <cls> (id {CLS_TOKEN_ID}); is this another tool's data?"
        )
