"""States of the genes of cells, as a Q-Former reads them: encoded packed, padded once.

Source: docs/text.md, "The Q-Former".
"""

from pathlib import Path

import numpy as np
import torch

from scdmc.model.embeddings import tokens_per_batch
from scdmc.model.encoder import ScDMCModel
from scdmc.model.packing import batches_by_length, packed_streams
from scdmc.progress import progress_bar
from scdmc.tokens.tokenized_cells import TokenizedCells

STREAM = "expression"


# States are kept in this type: half the memory, and far finer than what a training tells apart.
KEPT_TYPE = np.float16


# Share of the free memory that kept states may take; the rest is for everything else.
SHARE_OF_FREE_MEMORY = 0.25


class GeneStates:
    """States of the genes of cells by a frozen encoder, from memory where they fit, else computed when asked for.

    Parameters
    ----------
    encoder
        On its device. It is not trained, and dropout is off.
    cells
        As long as they are read (:meth:`scdmc.tokens.tokenized_cells.TokenizedCells.truncated`).
    """

    def __init__(self, encoder: ScDMCModel, cells: TokenizedCells) -> None:
        self._encoder, self.cells = encoder.eval(), cells
        self._kept: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each cell, shape (n_cells,)."""
        return np.diff(self.cells.expression_offsets)

    @property
    def n_bytes(self) -> int:
        """What all states take in memory when they are kept."""
        return int(self.lengths.sum()) * self._encoder.config.hidden_size * np.dtype(KEPT_TYPE).itemsize

    @property
    def is_kept(self) -> bool:
        """Whether the states are in memory."""
        return self._kept is not None

    def keep(self, what: str | None = "encode") -> None:
        """Encode all cells once and keep their states.

        Parameters
        ----------
        what
            Name of the work, for the progress bar; None for none.
        """
        kept: list[np.ndarray] = [np.empty(0)] * len(self)
        with progress_bar(total=len(self), unit=" cells", desc=what, disable=what is None) as progress:
            for rows in batches_by_length(self.lengths, tokens_per_batch(self._encoder.device)):
                states = self._packed(rows).cpu().numpy().astype(KEPT_TYPE)  # (total_tokens, hidden_size)
                stops = np.cumsum(self.lengths[rows])
                for row, stop in zip(rows, stops, strict=True):
                    kept[row] = states[stop - self.lengths[row] : stop]
                progress.update(len(rows))
        self._kept = kept

    def part(self, rows: np.ndarray) -> "GeneStates":
        """The chosen cells, kept where these are."""
        part = GeneStates(self._encoder, self.cells.select(rows))
        if self._kept is not None:
            part._kept = [self._kept[row] for row in rows]
        return part

    def padded(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """States of the chosen cells, zero behind their end.

        Parameters
        ----------
        rows
            Which cells, shape (n,).

        Returns
        -------
        States, shape (n, longest, hidden_size), float32, and tokens of each cell, shape (n,), on the device of the
        encoder.
        """
        lengths = torch.from_numpy(self.lengths[rows])
        if self._kept is None:
            parts = self._packed(rows).split(lengths.tolist())
        else:
            parts = [torch.from_numpy(self._kept[row]).to(self._encoder.device).float() for row in rows]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), lengths.to(self._encoder.device)

    @torch.no_grad()  # not inference_mode: what is trained keeps these states for its way back
    def _packed(self, rows: np.ndarray) -> torch.Tensor:
        cells = packed_streams(self.cells, rows, STREAM).to(self._encoder.device)
        return self._encoder.encode(cells).float()


def free_memory() -> int:
    """Bytes of main memory that may still be taken, within the limit of a container; 0 where nobody says."""
    found = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable")]
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if found and limit and used and limit[0].isdecimal():
        found.append(max(0, int(limit[0]) - int(used[0])))
    return min(found, default=0)


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf8").splitlines() if Path(path).is_file() else []
