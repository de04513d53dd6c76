"""Reading a file of counts whole, or not at all."""

import numpy as np
import pytest

from scdmc.errors import ScDMCError
from scdmc.reading.counts import open_counts


def read_all(path, block_size=7, start=0, stop=None, **options):
    """All rows from start to stop, dense, read block by block."""
    with open_counts(path, **options) as counts:
        return np.concatenate([block.toarray() for _, block in counts.blocks(start, stop, block_size)])


def message_of(path, **options):
    """The one line that says why a file is not read; it names the file."""
    with pytest.raises(ScDMCError) as error:
        read_all(path, **options)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)
    return str(error.value)
