"""Quick checks of what a script is given, before anything heavy is imported or computed.

They find what is absent, unreadable, or of another kind than it should be; what is wrong inside of a file is found by
those who read it. Outputs are checked by :func:`scdmc.files.require_new_file` and
:func:`scdmc.files.require_new_folder`, which are quick, too.
"""

import argparse
import glob
import shlex
from collections.abc import Sequence
from pathlib import Path

from scdmc.errors import ScDMCError, shown_names
from scdmc.genes.options import FETCH_ORTHOLOGS, ORTHOLOGS_NEEDED
from scdmc.model.names import CONFIG_FILE
from scdmc.model.shipped import model_folder
from scdmc.reading.magic import HDF5_MAGIC, PARQUET_MAGIC
from scdmc.reading.options import is_counts
from scdmc.text.shipped import shipped_text_models

WEIGHTS = ("*.safetensors", "*.bin")


def require_model(model: Path) -> None:
    """Refuse what is neither a model folder nor the name of a shipped model.

    Parameters
    ----------
    model
        The value of ``--model``.

    Raises
    ------
    ScDMCError
        If there is no such folder, or it has no weights or no ``config.json``.
    """
    folder = model_folder(model)
    if not any(path.is_file() for pattern in WEIGHTS for path in folder.glob(pattern)):
        raise ScDMCError(f"{folder} holds no weights; is it a model folder?")
    if not (folder / CONFIG_FILE).is_file():
        raise ScDMCError(f"{folder}/{CONFIG_FILE}: no such file (model configuration); is {folder} a model folder?")


def require_text_model(model: Path) -> None:
    """Refuse what is no folder of a text model.

    Raises
    ------
    ScDMCError
        If there is no such folder, or no configuration in it.
    """
    if not (model / CONFIG_FILE).is_file():
        what = f"no {CONFIG_FILE} in it" if model.is_dir() else "no such folder"
        raise ScDMCError(
            f"--model {model}: {what}; a text model is a folder of text_pretrain.py, or one of those "
            f"that come with scDMC: {', '.join(shipped_text_models()) or 'none'}"
        )


def require_input(path: Path, flag: str) -> None:
    """Refuse cells that are neither counts of a kind that can be read nor tokenized parquet, by their content.

    Parameters
    ----------
    path
        ``.h5ad``, ``.loom``, 10x ``.h5``, ``.zarr`` or 10x folder; or parquet: a file, a folder or a glob.
    flag
        Where the path was given, for the message: ``--data_path``.

    Raises
    ------
    ScDMCError
        If there is no such file, it cannot be read, or it is of another kind.
    """
    if is_counts(Path(path)):
        require_count_file(path, flag)
    else:
        _require_parquet(path, flag, "name one of them, or tokenize all of them")


def require_count_file(path: Path, flag: str) -> None:
    """Refuse what is no single file, store or 10x folder of counts, by its content.

    Raises
    ------
    ScDMCError
        If there is no such file, it cannot be read, or it is of another kind.
    """
    from scdmc.reading.kinds import HDF5_KINDS, kind_of

    path = Path(path)
    _require_there(path, flag)
    if path.is_file():
        _first_bytes(path, flag, 1)
    kind = kind_of(path)
    if kind.name is None:
        raise ScDMCError(f"{flag} {path} is no file of counts that can be read, but {kind.reason}")
    if kind.name in HDF5_KINDS:
        require_hdf5(path, flag)


def require_tokenized(path: Path, flag: str) -> None:
    """Refuse what is no tokenized parquet: a file, a folder or a glob.

    Raises
    ------
    ScDMCError
        If there is no such file, it cannot be read, or it is of another kind.
    """
    from scdmc.reading.kinds import kind_of

    path = Path(path)
    if path.exists() and is_counts(path):
        kind = kind_of(path)
        if kind.name is not None:
            raise ScDMCError(f"{flag} {path} is not tokenized yet: run {_tokenizing(path)}")
        if kind.may_hold_cells:
            raise ScDMCError(f"{flag} {path} is no parquet, but {kind.reason}")
    _require_parquet(path, flag, "tokenize them")


def _require_parquet(path: Path, flag: str, remedy: str) -> None:
    """Refuse what is no parquet; ``remedy`` says what to do with a folder of counts."""
    from scdmc.reading.kinds import inputs_below

    path = Path(path)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
    else:
        files = sorted(Path(name) for name in glob.glob(str(path)) if Path(name).is_file())
    if not files and path.is_dir() and (counts := inputs_below(path)):
        raise ScDMCError(
            f"{flag} {path} is a folder without parquet, but with counts ({shown_names(counts, 3)}): "
            f"{remedy}: {_tokenizing(_folder_of(path, counts))}"
        )
    if not files:
        raise ScDMCError(f"{flag} {path}: no such parquet file, and no .parquet files there")
    for file in files:
        start = _first_bytes(file, flag, len(PARQUET_MAGIC))
        if start != PARQUET_MAGIC:
            raise ScDMCError(f"{flag} {file} is not a readable parquet file (it does not begin with PAR1)")


def _folder_of(path: Path, counts: Sequence[str]) -> Path:
    """The folder in which the tokenizer finds the counts: the one below in which all of them lie, or the path."""
    folders = {(path / name).parent for name in counts}
    return folders.pop() if len(folders) == 1 else path


def _tokenizing(path: Path) -> str:
    """The command that makes parquet of a file of counts, its neighbours included, or of a folder."""
    name = path.resolve().name.partition(".")[0] or "cells"
    folder = shlex.quote(str(path.parent if path.is_file() else path))
    return (
        f"tokenizer_combine.py --data_path {folder} --output_dir tokenized --output_prefix {shlex.quote(name)} "
        "(with --obs_columns for labels and batches), and name tokenized"
    )


def require_hdf5(path: Path, flag: str) -> None:
    """Refuse what is no HDF5 file, which ``.h5ad``, ``.loom`` and 10x ``.h5`` are.

    Raises
    ------
    ScDMCError
        If there is no such file, it cannot be read, or it is no HDF5.
    """
    path = Path(path)
    require_file(path, flag)
    # HDF5 may begin with a block of the user's own, of 512, 1024, 2048, ... bytes.
    with path.open("rb") as file:
        offset, size = 0, path.stat().st_size
        while offset < size:
            file.seek(offset)
            if file.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
                return
            offset = 2 * offset or 512
    raise ScDMCError(f"{flag} {path} is not a readable {path.suffix} file (it is no HDF5)")


def require_counts(path: Path, flag: str) -> None:
    """Refuse what is no folder of files of raw counts (nor a ``.zarr`` store or 10x folder, which are folders, too).

    Raises
    ------
    ScDMCError
        If there is no such folder, or one of its files has the name of an HDF5 file of counts and is none.
    """
    from scdmc.reading.kinds import HDF5_KINDS, kind_of

    path = Path(path)
    if path.is_file():
        raise ScDMCError(f"{flag} {path} is a file; give the folder that it lies in")
    if not path.is_dir():
        raise ScDMCError(f"{flag} {path}: no such folder")
    if kind_of(path).name is not None:
        return
    for file in sorted(path.iterdir()):
        if not file.name.startswith(".") and kind_of(file).name in HDF5_KINDS:
            try:
                require_hdf5(file, flag)
            except ScDMCError as error:
                raise ScDMCError(f"{error}; mend it, or move it out of the folder") from error


def require_file(path: Path, flag: str) -> None:
    """Refuse what is no readable file.

    Raises
    ------
    ScDMCError
        If there is no such file, it is a folder, or it cannot be read.
    """
    path = Path(path)
    _require_there(path, flag)
    if path.is_dir():
        raise ScDMCError(f"{flag} {path} is a folder; name a file")
    _first_bytes(path, flag, 1)


def require_files(**paths: Path | None) -> None:
    """Refuse what is no readable file, for several flags at once; None stands for a flag that was not given.

    ``require_files(split_file=arguments.split_file)`` checks ``--split_file``.
    """
    for name, path in paths.items():
        if path is not None:
            require_file(path, f"--{name}")


def require_gene_files(arguments: argparse.Namespace) -> None:
    """Refuse an absent vocabulary, gene medians, mapping or orthologs; ``default`` stands for the medians of scDMC."""
    species, orthologs = getattr(arguments, "species", None), getattr(arguments, "ortholog_file", None)
    if orthologs is None and species == "mouse":
        raise ScDMCError(f"--species mouse {ORTHOLOGS_NEEDED}")
    if orthologs is not None and not orthologs.exists():
        raise ScDMCError(f"--ortholog_file {orthologs}: no such file; {FETCH_ORTHOLOGS}")
    if orthologs is not None and species != "mouse":
        raise ScDMCError("--ortholog_file has no effect without --species mouse; leave it out")
    for name in ("token_dictionary_file", "gene_median_file", "gene_mapping_file", "ortholog_file"):
        path = getattr(arguments, name, None)
        if not (name == "gene_median_file" and path == Path("default")):
            require_files(**{name: path})


def _require_there(path: Path, flag: str) -> None:
    if not path.exists():
        raise ScDMCError(f"{flag} {path}: no such file or folder")


def _first_bytes(path: Path, flag: str, n_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError as error:
        raise ScDMCError(f"{flag} {path} cannot be read ({error.strerror or error})") from error
