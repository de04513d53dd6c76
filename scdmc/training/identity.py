"""What makes a pre-training run what it is: settings, sizes of the model, and every token of its cells."""

import hashlib
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from scdmc.configuration import ScDMCConfig
from scdmc.errors import ScDMCError
from scdmc.training.loading import TrainingCells
from scdmc.training.settings import FREE_SETTINGS, PretrainingSettings

logger = logging.getLogger(__name__)

# What a digest is of -> how a message calls it.
DIGESTS = {
    "rank_ids": "the genes of the rank streams",
    "expression_ids": "the genes of the expression streams",
    "expression_values": "the values of the expression streams",
    "rank_offsets": "the lengths of the rank streams",
    "expression_offsets": "the lengths of the expression streams",
    "rows": "the rows of the cells",
    "training": "the choice of the training cells",
    "held_out": "the choice of the held-out cells",
}
# Checkpoints of version 0.1 knew the cells by this name, and only by their first 100,000 tokens.
EARLIER_DIGEST = "training_cells"
BYTES_AT_ONCE = 2**26


class CellDigests(threading.Thread):
    """SHA-256 of all that a run reads of its cells, computed beside the first steps: 1.5 GB a second.

    Parameters
    ----------
    data
        The cells; arrays on disk are read once, from start to end.
    """

    def __init__(self, data: TrainingCells) -> None:
        super().__init__(name="cell digests", daemon=True)
        self.data = data
        self.digests: dict[str, str] = {}
        self.start()

    def run(self) -> None:
        """Compute the digests; the thread calls this."""
        owners = {name: self.data if name in ("training", "held_out") else self.data.cells for name in DIGESTS}
        self.digests = {name: _digest(getattr(owner, name)) for name, owner in owners.items()}

    def result(self) -> dict[str, str]:
        """Name of :data:`DIGESTS` -> hexadecimal digest, as soon as all are there."""
        self.join()
        if not self.digests:  # the thread has failed: the same error is raised here, where it ends the run
            self.run()
        return self.digests


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256()
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, len(flat), BYTES_AT_ONCE):
        digest.update(flat[start : start + BYTES_AT_ONCE])
    return digest.hexdigest()


def run_identity(
    settings: PretrainingSettings,
    config: ScDMCConfig,
    data: TrainingCells,
    origin: Mapping[str, object],
    digests: Mapping[str, str],
) -> dict[str, object]:
    """What makes a run what it is.

    Parameters
    ----------
    settings, config
        Settings of the run and sizes of its model.
    data
        The cells.
    origin
        What the weights started from, and what the token ids mean; name of the flag -> value.
    digests
        See :class:`CellDigests`.
    """
    sizes = {name: getattr(config, name) for name in ScDMCConfig.__annotations__ if "classifier" not in name}
    return {
        **asdict(settings), **sizes, **origin, "n_training_cells": len(data.training), "cells": dict(digests),
    }  # fmt: skip


def require_same_run(
    found: Mapping[str, object], expected: Mapping[str, object], origin: Mapping[str, object], checkpoint: Path
) -> None:
    """Refuse to resume a run of which anything but :data:`FREE_SETTINGS` has changed.

    A checkpoint of version 0.1 is accepted with a warning, for it does not say all of this.

    Parameters
    ----------
    found, expected
        What :func:`run_identity` said of the interrupted run, and what it says now.
    origin
        The part of ``expected`` that version 0.1 did not keep.
    checkpoint
        Where the interrupted run left off, for the message.

    Raises
    ------
    ScDMCError
        Naming the first change.
    """
    is_earlier = EARLIER_DIGEST in found
    unsaid = {"cells", *origin} if is_earlier else {"cells"}
    changed = [name for name in expected if name not in FREE_SETTINGS | unsaid and found.get(name) != expected[name]]
    if changed:
        name, before, now = changed[0], found.get(changed[0]), expected[changed[0]]
        if name == "bf16":  # which flag gives what the run had; another machine chooses another type by itself
            name, before, now = "--dtype", *("bfloat16" if value else "float32" for value in (before, now))
        raise ScDMCError(f"{checkpoint} was made with {name} {before}, not {now}; a resumed run keeps it")
    if is_earlier:
        logger.warning(
            "warning: %s is of an earlier version, which does not say all of the cells that it was made on%s; "
            "they are taken to be unchanged",
            checkpoint, "".join(f", nor its {name}" for name in origin),
        )  # fmt: skip
        return
    digests = found.get("cells")
    digests = digests if isinstance(digests, dict) else {}
    other = [meaning for name, meaning in DIGESTS.items() if digests.get(name) != expected["cells"][name]]
    if other:
        raise ScDMCError(
            f"{checkpoint} was made on other cells: {' and '.join(other[:2])} have changed; "
            "a resumed run needs the data that it began with"
        )
