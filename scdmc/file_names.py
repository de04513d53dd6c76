"""Names of files and folders made of what users call their cell types and data sets."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

LONGEST_NAME = 120  # bytes; file systems take 255, and a suffix and a temporary mark come to it


def file_name_of(text: str) -> str:
    """A text as part of a file name: letters of any script, digits, ``+`` and ``-`` stay, all else becomes ``_``.

    Never empty, hidden, ``..`` or a path. A long name is cut, and ends in ten digits of its SHA-256, so that two long
    names that begin alike differ.
    """
    name = re.sub(r"[^\w+-]+", "_", unicodedata.normalize("NFC", text)) or "_"
    if len(name.encode("utf8")) <= LONGEST_NAME:
        return name
    mark = hashlib.sha256(text.encode("utf8", "surrogateescape")).hexdigest()[:10]
    cut = name.encode("utf8")[: LONGEST_NAME - len(mark) - 1].decode("utf8", "ignore")
    return f"{cut}_{mark}"


def file_names_of(texts: Sequence[str]) -> dict[str, str]:
    """Each text as part of a file name (:func:`file_name_of`); those that would share a name get numbers.

    Some file systems do not tell upper case from lower case, so neither do the names.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for text in texts:
        stem = name = file_name_of(text)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names[text] = name
    return names


def page_beside(path: Path) -> Path:
    """The page of a file of results: ``NAME.report.html`` beside it."""
    return path.with_name(f"{path.stem}.report.html")
