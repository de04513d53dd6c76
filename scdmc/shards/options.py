"""What can be chosen in embedding shard by shard. Nothing heavy is imported here, so that ``--help`` is quick."""

from pathlib import Path

from scdmc.reading.options import BLOCK_SIZE, is_counts

# 20 blocks of cells as files are read, so that a shard has the batches that the whole file would have. An interrupted
# run loses minutes.
CELLS_PER_SHARD = 20 * BLOCK_SIZE


def holds_counts(data_path: Path) -> bool:
    """True if a data argument names raw counts, or a folder of files of them, rather than tokenized parquet."""
    path = Path(data_path)
    return is_counts(path) or (path.is_dir() and not any(path.glob("*.parquet")))
