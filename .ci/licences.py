"""Print the licences of the direct dependencies as a Markdown table, from the metadata of the installed packages."""

import re
from importlib.metadata import distribution
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"


def direct_dependencies() -> list[str]:
    """Names in requirements.txt."""
    lines = REQUIREMENTS.read_text(encoding="utf8").splitlines()
    return sorted(line.partition("==")[0] for line in lines if "==" in line)


def licence(name: str) -> str:
    """What a package says of its licence: an SPDX expression, else its classifiers, else the first line of its text."""
    metadata = distribution(name).metadata
    if metadata.get("License-Expression"):
        return metadata["License-Expression"]
    classifiers = [text for text in metadata.get_all("Classifier", []) if text.startswith("License :: ")]
    short = [text.rpartition(" :: ")[2] for text in classifiers if text != "License :: OSI Approved"]
    if short:
        return " and ".join(sorted(short))
    text = (metadata.get("License") or "not said in its metadata").strip()
    return re.sub(r"[|\s]+", " ", text.splitlines()[0])


def main() -> int:
    """Print the table."""
    print("| package | version | licence |\n|---|---|---|")
    for name in direct_dependencies():
        version = distribution(name).version.partition("+")[0]  # a build for the CPU only is the same release
        print(f"| {name} | {version} | {licence(name)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
