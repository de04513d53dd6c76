"""What a run of the tokenizer left in its folder."""

from scdmc.files import sha256_of_file


def visible(folder):
    """Names of the files in a folder that are not hidden."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []


def fingerprints(folder):
    """Name of a file -> hash of its content."""
    return {path.name: sha256_of_file(path) for path in folder.iterdir()}
