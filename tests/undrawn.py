"""Figures that are not drawn: drawing takes most of the time of a script on few cells."""

import base64
from pathlib import Path

ONE_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def save_no_figure(figure: object, file: object, **_: object) -> None:
    """Take the place of ``Figure.savefig``: one pixel, whatever the format."""
    if hasattr(file, "write"):
        file.write(ONE_PIXEL)
    else:
        Path(file).write_bytes(ONE_PIXEL)
