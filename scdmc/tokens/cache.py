"""Tokenized cells of any number as memory-mapped arrays: decoded once, then read cell by cell without loading."""

import hashlib
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scdmc.errors import ScDMCError
from scdmc.files import remove
from scdmc.progress import progress_bar
from scdmc.tokens.parquet import parquet_files, read_row_groups, read_settings
from scdmc.tokens.tokenized_cells import CELL_COLUMNS, TokenizationSettings, TokenizedCells

ARRAYS = {"rank_ids": np.int32, "expression_ids": np.int32, "expression_values": np.float32}


OBS_SCHEMA = pa.schema([(name, pa.string()) for name in CELL_COLUMNS])


def open_cells(dataset_path: Path, cache_dir: Path, model_input_size: int) -> TokenizedCells:
    """Tokenized parquet as memory-mapped arrays; parquet is decoded the first time only.

    A shuffled epoch reads cells one by one, which parquet would answer by decoding a whole row group for each.
    Of several processes on one machine the first decodes and the others wait for it.

    Parameters
    ----------
    dataset_path
        File, folder or glob.
    cache_dir
        Where the arrays are kept: 12 bytes a token. It can be deleted at any time.
    model_input_size
        Context of the model; longer cells are cut (see :meth:`scdmc.tokens.tokenized_cells.TokenizedCells.truncated`).

    Raises
    ------
    ScDMCError
        If there is no data.
    """
    files = parquet_files(dataset_path)
    settings = read_settings(files)
    folder = Path(cache_dir) / f"cells-{_fingerprint(files, model_input_size)[:16]}"
    if not folder.exists():
        if int(os.environ.get("LOCAL_RANK", 0)) == 0:
            _decode(files, settings, model_input_size, folder)
        while not folder.exists():
            time.sleep(0.5)
    return _open(folder, settings, dataset_path)


def _fingerprint(files: Sequence[Path], model_input_size: int) -> str:
    """Changes when a file or the context does."""
    parts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr((parts, model_input_size)).encode("utf8")).hexdigest()


def _decode(files: Sequence[Path], settings: TokenizationSettings | None, model_input_size: int, folder: Path) -> None:
    """Write the arrays under a temporary name and rename the folder when it is complete."""
    temporary = folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}.partial")
    remove(temporary)
    temporary.mkdir(parents=True)
    try:
        _write_arrays(files, settings, model_input_size, temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():  # else another machine was faster on a shared disk
                raise
    finally:
        remove(temporary)


def _write_arrays(
    files: Sequence[Path], settings: TokenizationSettings | None, model_input_size: int, folder: Path
) -> None:
    lengths = {"rank": [np.zeros(1, dtype=np.int64)], "expression": [np.zeros(1, dtype=np.int64)]}
    outputs = {name: (folder / name).open("wb") for name in ARRAYS}
    n_cells = sum(pq.read_metadata(path).num_rows for path in files)
    with (
        pq.ParquetWriter(folder / "obs.parquet", OBS_SCHEMA) as obs,
        progress_bar(total=n_cells, unit=" cells", desc="decode") as progress,
    ):
        for path in files:
            for cells in read_row_groups(path, (), settings, model_input_size):
                for name, output in outputs.items():
                    getattr(cells, name).tofile(output)
                lengths["rank"].append(np.diff(cells.rank_offsets))
                lengths["expression"].append(np.diff(cells.expression_offsets))
                obs.write_table(cells.obs_table.select(CELL_COLUMNS).cast(OBS_SCHEMA))
                progress.update(len(cells))
    for output in outputs.values():
        output.close()
    for stream, parts in lengths.items():
        np.save(folder / f"{stream}_offsets.npy", np.cumsum(np.concatenate(parts)))


def _open(folder: Path, settings: TokenizationSettings | None, dataset_path: Path) -> TokenizedCells:
    rank_offsets, expression_offsets = (np.load(folder / f"{stream}_offsets.npy") for stream in ("rank", "expression"))
    if len(rank_offsets) == 1:
        raise ScDMCError(f"{dataset_path} holds no cells")
    arrays = {name: np.memmap(folder / name, dtype=dtype, mode="r") for name, dtype in ARRAYS.items()}
    return TokenizedCells(
        **arrays,
        rank_offsets=rank_offsets,
        expression_offsets=expression_offsets,
        obs_table=pq.read_table(folder / "obs.parquet", memory_map=True),
        settings=settings,
    )
