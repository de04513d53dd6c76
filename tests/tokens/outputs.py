"""What a run of the tokenizer left in its folder."""

import re

from scdmc.files import sha256_of_file


def visible(folder):
    """Names of the files in a folder that are not hidden."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []


def fingerprints(folder):
    """Name of a file -> hash of its content; a page without the command that made it, which names the folder."""
    return {path.name: page_of(path) if path.suffix == ".html" else sha256_of_file(path) for path in folder.iterdir()}


def page_of(path):
    """Text of a page without its command."""
    text, n_commands = re.subn(r"(<td[^>]*>command</td>\s*<td[^>]*>)[^<]*", r"\1", path.read_text(encoding="utf8"))
    assert n_commands <= 1
    return text
