"""A Q-Former: learned queries read the states of a cell's genes, and their mean is projected onto texts.

Source: docs/text.md, "The Q-Former".
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from scdmc.model.packing import batches_by_length
from scdmc.progress import progress_bar
from scdmc.text.projectors.states import GeneStates

DROPOUT, INITIAL_RANGE = 0.1, 0.02


# Queries look at the genes in every second layer, the first included.
LAYERS_PER_LOOK = 2


# Tokens that are read at once where nothing is trained.
TOKENS_PER_BATCH = 16_384


@dataclass(frozen=True)
class QFormerShape:
    """Sizes of a Q-Former.

    Attributes
    ----------
    hidden_size, n_layers, n_heads, intermediate_size, n_queries
        Of the queries.
    encoder_size
        Width of the states that they read.
    text_size
        Width of the space of texts.
    max_tokens
        Tokens of a cell that are read, ``<cls>`` and ``<eos>`` included: those of its highest-ranked genes.
    """

    hidden_size: int
    n_layers: int
    n_heads: int
    intermediate_size: int
    n_queries: int
    encoder_size: int
    text_size: int
    max_tokens: int

    def to_dict(self) -> dict[str, int]:
        """For ``config.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, object]) -> "QFormerShape":
        """Of ``config.json``; ``KeyError`` or ``ValueError`` where something lacks or is no size."""
        sizes = {name: content[name] for name in cls.__dataclass_fields__}
        wrong = [name for name, size in sizes.items() if type(size) is not int or size < 1]
        if wrong or sizes["hidden_size"] % sizes["n_heads"]:
            raise ValueError(f"{', '.join(wrong) or 'n_heads'} of the Q-Former is no size")
        return cls(**sizes)


class QFormer(nn.Module):
    """Queries that read a cell.

    Parameters
    ----------
    shape
        Its sizes.
    attention
        ``sdpa`` or ``eager``; both give the same.
    """

    def __init__(self, shape: QFormerShape, attention: str = "sdpa") -> None:
        super().__init__()
        self.shape = shape
        config = Blip2QFormerConfig(
            hidden_size=shape.hidden_size, num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads,
            intermediate_size=shape.intermediate_size, encoder_hidden_size=shape.encoder_size,
            cross_attention_frequency=LAYERS_PER_LOOK, hidden_dropout_prob=DROPOUT,
            attention_probs_dropout_prob=DROPOUT, attn_implementation=attention,
        )  # fmt: skip
        self.normalise = nn.LayerNorm(shape.encoder_size)
        self.queries = nn.Parameter(INITIAL_RANGE * torch.randn(1, shape.n_queries, shape.hidden_size))
        self.layers = Blip2QFormerModel(config)
        self.projection = nn.Linear(shape.hidden_size, shape.text_size, bias=False)

    def forward(self, states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """What the queries found.

        Parameters
        ----------
        states
            Padded states of cells, shape (n_cells, longest, encoder_size).
        lengths
            Tokens of each cell, shape (n_cells,).

        Returns
        -------
        Shape (n_cells, n_queries, hidden_size).
        """
        is_token = torch.arange(states.shape[1], device=states.device) < lengths[:, None]  # (n_cells, longest)
        # Added to the scores. A mask of truth values is not enough: eager attention would read what it hides.
        mask = torch.zeros(is_token.shape, dtype=states.dtype, device=states.device)
        mask = mask.masked_fill(~is_token, torch.finfo(states.dtype).min)[:, None, None, :]
        queries = self.queries.expand(len(states), -1, -1)
        return self.layers(
            query_embeds=queries, encoder_hidden_states=self.normalise(states), encoder_attention_mask=mask
        ).last_hidden_state

    @property
    def matrix(self) -> np.ndarray:
        """What projects the mean of the queries onto texts, shape (hidden_size, text_size), float32."""
        return self.projection.weight.detach().cpu().numpy().T.copy()

    def features(self, states: GeneStates, what: str | None = None) -> np.ndarray:
        """Mean of the queries of each cell, not centred, shape (n_cells, hidden_size), float32.

        Parameters
        ----------
        states
            Of the cells.
        what
            Name of the work, for the progress bar; None for none.
        """
        found = np.empty((len(states), self.shape.hidden_size), dtype=np.float32)
        for rows, outputs in self.read(states, what):
            found[rows] = outputs.mean(dim=1).cpu().numpy()
        return found

    @torch.no_grad()
    def read(self, states: GeneStates, what: str | None = None) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Yield rows of cells and what the queries found in them, (n, n_queries, hidden_size); dropout is off."""
        was_training = self.training
        self.eval()
        with progress_bar(total=len(states), unit=" cells", desc=what, disable=what is None) as progress:
            for rows in batches_by_length(states.lengths, TOKENS_PER_BATCH):
                yield rows, self(*states.padded(rows))
                progress.update(len(rows))
        self.train(was_training)


def weights_of(reader: QFormer) -> dict[str, np.ndarray]:
    """All weights but the projection, name -> float32, for a folder."""
    return {
        name: tensor.detach().cpu().numpy()
        for name, tensor in reader.state_dict().items()
        if not name.startswith("projection.")
    }


def reader_from(shape: QFormerShape, weights: Mapping[str, np.ndarray], projection: np.ndarray) -> QFormer:
    """The Q-Former of a folder.

    Parameters
    ----------
    shape
        Its sizes.
    weights
        Of :func:`weights_of`.
    projection
        Shape (hidden_size, text_size).

    Raises
    ------
    RuntimeError
        If weights lack, are too many, or have other shapes.
    """
    reader = QFormer(shape)
    tensors = {name: torch.from_numpy(np.asarray(values)) for name, values in weights.items()}
    reader.load_state_dict(tensors | {"projection.weight": torch.from_numpy(np.ascontiguousarray(projection.T))})
    return reader.eval()
