"""Tokenized cells as parquet: schema, metadata, reading and writing."""

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scdmc.errors import COPY_AGAIN, ScDMCError
from scdmc.files import atomic_path
from scdmc.reading.options import is_counts
from scdmc.tokens.shard_sets import ShardPlace, prefix_of, require_published, require_whole_set
from scdmc.tokens.streams import CellStreams

if TYPE_CHECKING:
    import pandas as pd
from scdmc.tokens.tokenized_cells import (
    CELL_COLUMNS,
    STREAM_COLUMNS,
    TokenizationSettings,
    TokenizedCells,
    concatenate_cells,
    obs_table,
)

METADATA_KEY = b"scdmc"


def parquet_schema(
    obs_types: Mapping[str, pa.DataType],
    settings: TokenizationSettings,
    source_file: str,
    place: ShardPlace | None = None,
) -> pa.Schema:
    """Schema of a shard, with the settings, and its place among the shards of the run, in its metadata."""
    fields = [
        pa.field("input_ids_rank", pa.list_(pa.int32())),
        pa.field("input_ids_epe", pa.list_(pa.int32())),
        pa.field("expression_values", pa.list_(pa.float32())),
        pa.field("length", pa.int32()),
        pa.field("cell_id", pa.string()),
        pa.field("source_file", pa.dictionary(pa.int32(), pa.string())),
        *(pa.field(name, data_type) for name, data_type in obs_types.items()),
    ]
    content = {**settings.to_dict(), "source_file": source_file, **(place.to_dict() if place else {})}
    return pa.schema(fields, metadata=_metadata(content))


def _metadata(content: Mapping) -> dict[bytes, str]:
    return {METADATA_KEY: json.dumps(content, sort_keys=True)}


def give_place(path: Path, place: ShardPlace) -> None:
    """Have a finished shard say its place; one of an interrupted run with other files is written again for that."""
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        content = json.loads(schema.metadata[METADATA_KEY])
        if ShardPlace.from_dict(content) == place:
            return
        # What is read calls the entries of a list by another name than what is written.
        fields = [
            pa.field(each.name, pa.list_(each.type.value_type)) if pa.types.is_list(each.type) else each
            for each in schema
        ]
        schema = pa.schema(fields, metadata=_metadata({**content, **place.to_dict()}))
        with atomic_path(path) as temporary, parquet_writer(temporary, schema) as writer:
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group).cast(schema))


def parquet_writer(path: Path, schema: pa.Schema, **changes: object) -> pq.ParquetWriter:
    """Writer of a shard; ``changes`` are other keywords of pyarrow's, to see what they would do.

    Ids that ascend are delta-packed, those of the rank stream and values are byte-split before zstd (docs/speed.md,
    "Tokenizing", has the other ways). A dictionary of tens of thousands of ids costs time and saves nothing.
    """
    keywords = {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": [field.name for field in schema if pa.types.is_dictionary(field.type)],
        "column_encoding": column_encoding("BYTE_STREAM_SPLIT", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"),
        "write_statistics": False,
    }
    return pq.ParquetWriter(path, schema, **{**keywords, **changes})


def column_encoding(rank: str, expression: str, values: str) -> dict[str, str]:
    """Parquet's encoding of the entries of each list."""
    return {
        f"{name}.list.element": encoding
        for name, encoding in zip(STREAM_COLUMNS[:3], (rank, expression, values), strict=True)
    }


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


def parquet_files(dataset_path: Path) -> list[Path]:
    """The parquet files of a file, a folder or a glob, in the order of their names.

    Raises
    ------
    ScDMCError
        If there are none, or a run was killed while it published them.
    """
    path = Path(dataset_path)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
    else:
        files = sorted(Path(name) for name in glob.glob(str(dataset_path)))
    if not files and is_counts(path) and path.is_dir():
        raise ScDMCError(f"{path} is no parquet; raw counts are tokenized by tokenizer_combine.py first")
    if not files:
        raise ScDMCError(f"{dataset_path}: no such parquet file, and no .parquet files there")
    require_published(files)
    return files


def token_ids_path(dataset_path: Path) -> Path:
    """The vocabulary that lies beside tokenized data: ``<prefix>.token_ids.json``."""
    return _beside(dataset_path, "token_ids.json")


def gene_medians_path(dataset_path: Path) -> Path:
    """The gene medians that lie beside tokenized data: ``<prefix>.gene_medians.json``."""
    return _beside(dataset_path, "gene_medians.json")


def _beside(dataset_path: Path, name: str) -> Path:
    return dataset_path.with_name(f"{prefix_of(dataset_path)}.{name}")


def read_settings(files: Sequence[Path]) -> TokenizationSettings | None:
    """Settings that all shards share; None where data of the published tool says nothing.

    Raises
    ------
    ScDMCError
        If a file is no tokenized parquet, two shards were made with different settings, or shards are missing.
    """
    contents = {path: _content_of(path) for path in files}
    require_whole_set({path: ShardPlace.from_dict(content or {}) for path, content in contents.items()})
    settings = {
        path: TokenizationSettings.from_dict(content, str(path)) if content else None
        for path, content in contents.items()
    }
    first = files[0]
    for path in files:
        if settings[path] != settings[first]:
            raise ScDMCError(f"{path} was not tokenized like {first} ({settings[path]} against {settings[first]})")
    return settings[first]


def _content_of(path: Path) -> dict | None:
    """What a shard says of itself; None where it says nothing."""
    if is_counts(path):
        from scdmc.reading.kinds import kind_of  # only now: a training node may lack h5py

        if kind_of(path).name is not None:
            raise ScDMCError(f"{path} is no parquet; raw counts are tokenized by tokenizer_combine.py first")
    if not path.is_file():
        raise ScDMCError(f"{path} is not a readable parquet file (it is no file)")
    with _refusing_damage(path):
        schema = pq.read_schema(path)
    missing = [column for column in STREAM_COLUMNS if column not in schema.names]
    if missing:
        raise ScDMCError(f"{path} is no tokenized data: it lacks the columns {missing}; it has {schema.names}")
    for name in STREAM_COLUMNS:
        if not _holds_numbers(schema.field(name).type, is_list=name != "length"):
            raise ScDMCError(f"{path} is no tokenized data: its column {name} has the type {schema.field(name).type}")
    content = (schema.metadata or {}).get(METADATA_KEY)
    if not content:
        return None
    try:
        settings = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ScDMCError(f"{path} is damaged: its metadata are no JSON ({error})") from error
    if not isinstance(settings, dict):
        raise ScDMCError(f"{path} is damaged: its metadata hold a {type(settings).__name__}, not an object")
    return settings


def _holds_numbers(data_type: pa.DataType, is_list: bool) -> bool:
    if not is_list:
        return pa.types.is_integer(data_type)
    is_variable = pa.types.is_list(data_type) or pa.types.is_large_list(data_type)
    return is_variable and (pa.types.is_integer(data_type.value_type) or pa.types.is_floating(data_type.value_type))


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    """Say which file is damaged where Arrow cannot read it."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ScDMCError(f"{path} is not a readable parquet file ({reason}); {COPY_AGAIN}") from error


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


def kept_columns(dataset_path: Path) -> list[str]:
    """Names of the columns of tokenized parquet; no cell is read.

    Raises
    ------
    ScDMCError
        If there is no data.
    """
    return pq.read_schema(parquet_files(dataset_path)[0]).names


def read_obs_columns(dataset_path: Path, obs_columns: Sequence[str]) -> pa.Table:
    """Kept obs columns of tokenized parquet, one row per cell; no token is read.

    Raises
    ------
    ScDMCError
        If there is no data, or a column is missing.
    """
    files, tables = parquet_files(dataset_path), []
    read_settings(files)
    for path in files:
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
    path: Path,
    obs_columns: Sequence[str] | None,
    settings: TokenizationSettings | None,
    model_input_size: int | None,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[TokenizedCells]:
    """Yield the cells of a shard, or some of them, one row group after the other (see :func:`read_tokenized`).

    Parameters
    ----------
    path, obs_columns, settings
        As there.
    model_input_size
        Longest stream; None for any.
    start, stop
        The first row, and the one after the last; None for the end of the file.
    """
    file = pq.ParquetFile(path)
    wanted = _obs_columns(file) if obs_columns is None else list(obs_columns)
    _require_obs_columns(file, path, wanted)
    cell_columns = [name for name in CELL_COLUMNS if name in file.schema_arrow.names]
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
    stop = ends[-1] if stop is None and len(ends) else stop
    for group, end in enumerate(ends):
        first = end - file.metadata.row_group(group).num_rows
        if end <= start or first >= stop:
            continue
        with _refusing_damage(path):
            table = file.read_row_group(group, columns=[*STREAM_COLUMNS, *cell_columns, *wanted])
        cells = _cells_of_table(table, [*cell_columns, *wanted], path.name, int(first), settings)
        if start > first or stop < end:
            cells = cells.select(np.arange(max(0, start - first), min(stop, end) - first))
        yield cells.truncated(model_input_size) if model_input_size else cells


def _cells_of_table(
    table: pa.Table, obs_names: list[str], file_name: str, first_row: int, settings: TokenizationSettings | None
) -> TokenizedCells:
    (rank_ids, rank_offsets), (expression_ids, expression_offsets), (values, value_offsets) = (
        _flat(table[name], name, dtype, file_name, settings is not None)
        for name, dtype in zip(STREAM_COLUMNS[:3], (np.int32, np.int32, np.float32), strict=True)
    )
    for column, lengths in (
        ("expression_values", np.diff(value_offsets)),
        ("length", table["length"].fill_null(-1).to_numpy()),
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


def _flat(
    column: pa.ChunkedArray, name: str, dtype: type, file_name: str, is_ours: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Values of a list column as one array, and the offsets of the rows.

    Raises
    ------
    ScDMCError
        If a value or a row is missing, a cell has no token, or a value is none that a stream can have.
    """
    array = column.combine_chunks()
    if array.null_count or array.values.null_count:
        raise ScDMCError(f"{file_name}: damaged data: {name} has missing values; tokenize the counts again")
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.to_numpy()[offsets[0] : offsets[-1]]
    if len(offsets) > 1 and not np.diff(offsets).min() > 0:
        raise ScDMCError(f"{file_name}: damaged data: a cell has no token in {name}; tokenize the counts again")
    # NaN lies nowhere. Data of the published tool have it where the counts were none, and values below 0.
    is_checked = dtype == np.int32 or is_ours
    if is_checked and len(values) and not (values.min() >= 0 and values.max() <= np.finfo(np.float32).max):
        raise ScDMCError(f"{file_name}: damaged data: {name} holds what is no token id or no number; tokenize again")
    if dtype == np.int32 and len(values) and values.max() > np.iinfo(np.int32).max:
        raise ScDMCError(f"{file_name}: damaged data: {name} has token ids above 2,147,483,647; tokenize again")
    return values.astype(dtype, copy=False), offsets - offsets[0]
