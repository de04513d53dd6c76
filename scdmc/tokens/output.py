"""Where tokenized cells go: names of the files of a prefix, and how finished shards become them."""

import errno
import json
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from scdmc.errors import ScDMCError
from scdmc.files import (
    PARTIAL,
    atomic_path,
    partial_path,
    remove,
    remove_leftovers,
    require_absent,
    require_writable_folder,
    write_json,
)
from scdmc.genes.ids import GeneMatch
from scdmc.locks import claim_output
from scdmc.overlap import behind
from scdmc.reading.counts import Counts
from scdmc.reading.options import BLOCK_SIZE
from scdmc.reports.provenance import Provenance
from scdmc.reports.tables import write_csv
from scdmc.tokens.file_report import FileReport, new_report
from scdmc.tokens.options import CELLS_PER_SHARD
from scdmc.tokens.parquet import gene_medians_path, give_place, parquet_table, parquet_writer, token_ids_path
from scdmc.tokens.shard_sets import ShardPlace, finished_shards, marker_path, read_marker
from scdmc.tokens.streams import CellStreams, regroup
from scdmc.tokens.tokenizer import Tokenizer, kept_obs, tokenize_blocks

logger = logging.getLogger(__name__)


# Cells of a row group of the parquet file, whatever the blocks in which the counts were read.
CELLS_PER_ROW_GROUP = 1024


# A full disk, a quota and a limit on the size of a file.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, kw_only=True)
class TokenizedOutput:
    """The files of tokenized cells: shards, reports, vocabulary and medians.

    Attributes
    ----------
    output_directory, output_prefix
        Where to.
    tokenizer
        How the cells are tokenized.
    obs_columns
        Columns of ``obs`` to keep.
    cells_per_shard, block_size
        Most cells of a shard, and cells that are read at a time; neither changes a cell's tokens.
    began
        When the work began, for the page.
    """

    output_directory: Path
    output_prefix: str
    tokenizer: Tokenizer
    obs_columns: Sequence[str] = ()
    cells_per_shard: int = CELLS_PER_SHARD
    block_size: int = BLOCK_SIZE
    began: float = field(default_factory=time.time, compare=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.+-]*", self.output_prefix) or re.search(r"-\d{5}$", self.output_prefix):
            raise ScDMCError(
                f"--output_prefix {self.output_prefix!r}: letters, digits and . _ + - only, no shard number at the end"
            )

    @property
    def made(self) -> Provenance:
        """From what, for the page."""
        return Provenance(began=self.began)

    @property
    def report_path(self) -> Path:
        """``<prefix>.report.json``."""
        return self.output_directory / f"{self.output_prefix}.report.json"

    @property
    def html_report_path(self) -> Path:
        """``<prefix>.report.html``."""
        return self.output_directory / f"{self.output_prefix}.report.html"

    @property
    def unmatched_genes_path(self) -> Path:
        """``<prefix>.unmatched_genes.csv``."""
        return self.output_directory / f"{self.output_prefix}.unmatched_genes.csv"

    @property
    def finished_shards(self) -> Path:
        """Hidden folder where shards wait until all are there; ``--resume`` finds them."""
        return finished_shards(self.output_directory, self.output_prefix)

    @property
    def lock_name(self) -> Path:
        """What another run with this folder and prefix is kept from (:func:`scdmc.locks.output_lock`)."""
        return self.output_directory / self.output_prefix

    def parquet_paths(self, n_shards: int) -> list[Path]:
        """Final names of the shards."""
        if n_shards == 1:
            return [self.output_directory / f"{self.output_prefix}.parquet"]
        return [self.output_directory / f"{self.output_prefix}-{index:05d}.parquet" for index in range(n_shards)]

    def beside(self) -> list[Path]:
        """What is written beside the parquet files."""
        (single,) = self.parquet_paths(1)
        reports = [self.report_path, self.html_report_path, self.unmatched_genes_path]
        return [*reports, token_ids_path(single), gene_medians_path(single)]

    def existing(self) -> list[Path]:
        """Files of this prefix that are there already."""
        # [0-9] five times: another prefix that starts like this one is not ours.
        numbered = self.output_directory.glob(f"{self.output_prefix}-[0-9][0-9][0-9][0-9][0-9].parquet")
        return [path for path in [*sorted(numbered), *self.parquet_paths(1), *self.beside()] if path.exists()]

    def require_new(self, overwrite: bool, resume: bool = False) -> None:
        """Refuse output that is there already, cannot be written or is being written, before the work starts.

        What a run that was killed while it published has published is no such output: ``resume`` goes on.
        """
        require_writable_folder(self.output_directory)
        if claim_output(self.lock_name):
            remove_leftovers(self.lock_name)
        is_half_published = resume and read_marker(self.output_directory, self.output_prefix) is not None
        for path in self.existing():
            require_absent(path, overwrite or is_half_published)

    def take_up(self, keys: Sequence[str], run: str, overwrite: bool) -> None:
        """Go on with an interrupted run: shards that had got their final names already wait with the others again.

        Parameters
        ----------
        keys
            Names of all shards, in order.
        run
            See :class:`scdmc.tokens.shard_sets.ShardPlace`.
        overwrite
            Whether the files of another run may be replaced.

        Raises
        ------
        ScDMCError
            If the run that was publishing had other inputs or settings, and its output must not be replaced.
        """
        remove_partial_files(self.finished_shards)
        marker = read_marker(self.output_directory, self.output_prefix)
        if marker is None:
            return
        if marker != {"run": run, "shards": list(keys)}:
            for path in self.existing():
                require_absent(path, overwrite)
            return
        for key, path in zip(keys, self.parquet_paths(len(keys)), strict=True):
            if self.shard_report_path(key).exists() and not self.shard_path(key).exists() and path.exists():
                path.replace(self.shard_path(key))

    def drop_finished(self, all_but: Collection[str] = ()) -> int:
        """Delete shards that wait, but for those of some names; returns how many went.

        The marker of a publication stays: what is visible is a mixture until this run publishes.
        """
        keys = {path.stem for path in self.finished_shards.glob("*.parquet")}
        keep = {self.shard_path(key) for key in all_but} | {self.shard_report_path(key) for key in all_but}
        keep |= {marker_path(self.output_directory, self.output_prefix)}
        for path in set(self.finished_shards.glob("*")) - keep:
            remove(path)
        return len(keys - set(all_but))

    def remove_finished_folder(self) -> None:
        """Delete the hidden folder of shards, unless it says that the visible ones are a mixture."""
        self.drop_finished()
        if self.finished_shards.is_dir() and not any(self.finished_shards.iterdir()):
            self.finished_shards.rmdir()

    def shard_path(self, key: str) -> Path:
        """Where the shard of this name waits."""
        return self.finished_shards / f"{key}.parquet"

    def shard_report_path(self, key: str) -> Path:
        """The report of the shard of this name, which is written last: a shard with a report is a finished one."""
        return self.finished_shards / f"{key}.json"

    def is_finished(self, key: str) -> bool:
        """True if the shard of this name is there, of this run or of an interrupted one."""
        return self.shard_path(key).exists() and self.shard_report_path(key).exists()

    def shard_report(self, key: str) -> FileReport:
        """What became of the cells of a finished shard."""
        return FileReport(**json.loads(self.shard_report_path(key).read_text(encoding="utf8")))

    def write_shard(
        self,
        key: str,
        cells: tuple[int, int],
        counts: Counts,
        match: GeneMatch,
        schema: pa.Schema,
        progress: Callable[[int], object],
    ) -> None:
        """Tokenize cells into the hidden folder, and write their report.

        Parameters
        ----------
        key
            Name of the shard.
        cells
            The first cell, and the one after the last.
        counts, match
            The data set, and the tokens of its genes.
        schema
            See :func:`scdmc.tokens.parquet.parquet_schema`.
        progress
            Called with the number of cells of the shard that have been read.

        Raises
        ------
        ScDMCError
            If a value is no count, or the disk is full.
        """
        report = new_report(counts, match)
        blocks = tokenize_blocks(counts, self.tokenizer, match, report, *cells, self.block_size)
        with self.no_space_is_an_error_for_people():
            path = self.shard_path(key)
            write_cells(path, blocks, counts, self.obs_columns, schema, lambda _: progress(report.cells_in))
            write_json(self.shard_report_path(key), asdict(report))

    def clean_or_say_what_is_kept(self) -> None:
        """After an interruption: remove what is not finished, and say what ``--resume`` will find."""
        remove_partial_files(self.finished_shards)
        n_finished = len(list(self.finished_shards.glob("*.parquet")))
        if n_finished:
            logger.warning(
                "%d finished shards are kept in %s; --resume takes them up if neither cells nor settings have changed",
                n_finished, self.finished_shards,
            )  # fmt: skip
        else:
            self.remove_finished_folder()

    def require_cells(self, reports: Sequence[FileReport]) -> None:
        """Refuse to publish nothing."""
        if not any(report.cells_out for report in reports):
            self.remove_finished_folder()
            raise ScDMCError("no cell is left to write: " + "; ".join(report.summary() for report in reports))

    def publish(
        self,
        run: str,
        keys: Sequence[str],
        reports: Sequence[FileReport],
        unmatched_genes: Mapping[str, np.ndarray],
        warnings: Sequence[str],
        **more: object,
    ) -> list[Path]:
        """Give finished shards their final names, with reports, vocabulary and medians beside them.

        All is written before the first file gets its name. While files get their names, a marker in the hidden folder
        has readers refuse the mixture; a run that is killed then is taken up by ``--resume``. The report comes last.

        Parameters
        ----------
        run
            See :class:`scdmc.tokens.shard_sets.ShardPlace`.
        keys
            Names of the finished shards, in order.
        reports
            What became of each file.
        unmatched_genes
            File name -> name of each column that belongs to no gene of the vocabulary.
        warnings
            What the user should know beside what the reports say.
        more
            Further entries of the JSON report.

        Returns
        -------
        The parquet files.
        """
        # Only now: the plotting library takes seconds to load, which workers and --help need not wait for.
        from scdmc.tokens import report as tokenization_report

        paths, settings = self.parquet_paths(len(keys)), self.tokenizer.settings
        for report in reports:
            logger.info(report.summary())
        of_reports = tokenization_report.warnings_of(reports)
        for warning in of_reports:
            logger.warning("warning: %s", warning)
        warnings = [*warnings, *of_reports]
        waiting = self.finished_shards / "beside"
        with self.no_space_is_an_error_for_people():
            for number, key in enumerate(keys):
                give_place(self.shard_path(key), ShardPlace(number, len(keys), run))
            self.tokenizer.vocabulary.save(waiting / token_ids_path(paths[0]).name)
            self.tokenizer.medians.save(waiting / gene_medians_path(paths[0]).name)
            missing = tokenization_report.unmatched_genes(reports, unmatched_genes)
            write_csv(waiting / self.unmatched_genes_path.name, missing)
            tokenization_report.write_html_report(
                waiting / self.html_report_path.name,
                self.output_prefix,
                settings,
                reports,
                warnings,
                more.get("folder", ()),
                self.made,
            )
            content = {"settings": settings.to_dict(), "files": [report.to_dict() for report in reports]}
            write_json(waiting / self.report_path.name, {**content, "warnings": warnings, **more})
            marker = marker_path(self.output_directory, self.output_prefix)
            write_json(marker, {"run": run, "shards": list(keys)})
        self._give_final_names(keys, paths, waiting)
        return paths

    def _give_final_names(self, keys: Sequence[str], paths: Sequence[Path], waiting: Path) -> None:
        """Rename shards, and what waits in a folder to stand beside them; older files that are not replaced go."""
        old = self.existing()
        for key, path in zip(keys, paths, strict=True):
            self.shard_path(key).replace(path)
        for path in set(old) - {*paths, *self.beside()}:
            path.unlink()
        for path in reversed(self.beside()):  # the report comes last
            (waiting / path.name).replace(path)
        # The marker and the reports of the shards go at once: a run that is killed has published all, or is taken up.
        done = partial_path(self.lock_name)
        remove(done)
        self.finished_shards.rename(done)
        remove(done)

    @contextmanager
    def no_space_is_an_error_for_people(self) -> Iterator[None]:
        """Turn a full disk into an error that says how to go on."""
        try:
            yield
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            raise ScDMCError(
                f"{self.output_directory}: no space left ({str(error).splitlines()[0]}); "
                "make room and repeat the command with --resume, which keeps the finished shards"
            ) from error


def remove_partial_files(folder: Path) -> None:
    """Delete what a run that was killed, or a worker that was ended, had not finished."""
    for path in folder.glob(f".*{PARTIAL}*"):
        remove(path)


def write_cells(
    path: Path,
    blocks: Iterable[tuple[np.ndarray, CellStreams]],
    counts: Counts,
    obs_columns: Sequence[str],
    schema: pa.Schema,
    progress: Callable[[int], object],
) -> None:
    """Write tokenized blocks with their obs as one parquet file, which appears when it is complete.

    A thread encodes and compresses a row group while the next one is tokenized.

    A function of its own, so that the writer is gone before anything slow follows: Python swallows a Ctrl-C that
    arrives while an object is being deleted.

    Parameters
    ----------
    path
        The file.
    blocks
        Rows of obs and their streams, block by block (:func:`scdmc.tokens.tokenizer.tokenize_blocks`).
    counts, obs_columns
        Whose obs is kept, and which columns of it.
    schema
        See :func:`scdmc.tokens.parquet.parquet_schema`.
    progress
        Called with the number of cells written since the last call.
    """

    def write(rows: np.ndarray, streams: CellStreams) -> None:
        writer.write_table(parquet_table(streams, kept_obs(counts, rows, obs_columns), schema))

    with atomic_path(path) as temporary, parquet_writer(temporary, schema) as writer, behind() as call:
        for rows, streams in regroup(blocks, CELLS_PER_ROW_GROUP):
            call(write, rows, streams)
            progress(len(rows))
