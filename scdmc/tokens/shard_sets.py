"""Shards that belong together: each one says its number, how many there are, and of which run it is.

Source: docs/method.md, "The parquet format".
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scdmc.errors import ScDMCError
from scdmc.files import read_json_object

logger = logging.getLogger(__name__)


MARKER_FILE = "publishing.json"


@dataclass(frozen=True)
class ShardPlace:
    """What a shard says of the data set that it is a part of.

    Attributes
    ----------
    shard, shards
        Its number, from 0 on, and how many there are.
    run
        Stands for inputs and settings; the same for all shards of a data set.
    """

    shard: int
    shards: int
    run: str

    def to_dict(self) -> dict:
        """Plain dictionary, for the metadata of the shard."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping) -> "ShardPlace | None":
        """Read it back; None for data that do not say, of earlier versions or another tool."""
        if not all(name in content for name in cls.__dataclass_fields__):
            return None
        return cls(*(content[name] for name in cls.__dataclass_fields__))


def finished_shards(directory: Path, prefix: str) -> Path:
    """Hidden folder in which the shards of a prefix wait until all are there."""
    # Absolute: a worker on another machine starts in another folder.
    return (directory / f".{prefix}.shards").absolute()


def marker_path(directory: Path, prefix: str) -> Path:
    """The file that is there while shards get their final names: what is visible meanwhile is a mixture."""
    return finished_shards(directory, prefix) / MARKER_FILE


def read_marker(directory: Path, prefix: str) -> dict | None:
    """Which run was publishing which shards when it ended; None if none was."""
    path = marker_path(directory, prefix)
    return read_json_object(path, "shards that are published") if path.is_file() else None


def prefix_of(path: Path) -> str:
    """The prefix of a parquet file: its name without the number of the shard."""
    prefix, _, number = path.stem.rpartition("-")
    return prefix if prefix and len(number) == 5 and number.isdigit() else path.stem


def require_published(files: Sequence[Path]) -> None:
    """Refuse files of which some have not got their final name yet.

    Raises
    ------
    ScDMCError
        If a run was killed while it published them, or is at it.
    """
    for folder, prefix in dict.fromkeys((path.parent, prefix_of(path)) for path in files):
        if marker_path(folder, prefix).exists():
            raise ScDMCError(
                f"{folder / prefix}: the run that wrote these shards ended before all had their names, so that they do "
                "not belong together; repeat the tokenizer's command with --resume"
            )


def require_whole_set(places: Mapping[Path, ShardPlace | None]) -> None:
    """Refuse shards of which some are missing, or that are of several runs.

    A part that was chosen is taken: the other shards lie beside it. Data that say nothing of shards are taken.

    Parameters
    ----------
    places
        File -> what it says of itself.

    Raises
    ------
    ScDMCError
        Naming the data set.
    """
    sets: dict[Path, dict[Path, ShardPlace | None]] = {}
    for path, place in places.items():
        sets.setdefault(path.parent / prefix_of(path), {})[path] = place
    for name, of_set in sets.items():
        runs = {place and (place.run, place.shards) for place in of_set.values()}
        if len(runs) > 1:
            raise ScDMCError(
                f"{name}: its {len(of_set)} shards are of {len(runs)} runs of the tokenizer; repeat one with "
                "--overwrite"
            )
        if None not in runs:
            _require_all(name, of_set)


def _require_all(name: Path, places: Mapping[Path, ShardPlace]) -> None:
    ((_, total),) = {(place.run, place.shards) for place in places.values()}
    missing = sorted(set(range(total)) - {place.shard for place in places.values()})
    if not missing:
        return
    there = f"{name}: {total - len(missing)} of {total} shards"
    absent = [number for number in missing if not name.with_name(f"{name.name}-{number:05d}.parquet").exists()]
    if absent:
        raise ScDMCError(
            f"{there}, number {absent[0]:05d} is not there; copy all of them, or run the tokenizer again with --resume"
        )
    logger.warning("warning: %s, as chosen", there)
