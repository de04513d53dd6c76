"""How fast cells are embedded, beside transformers' BertModel of the same parameters; weights and cells are random."""

import time
from dataclasses import asdict, replace

import numpy as np
import torch

from scdmc.configuration import ScDMCConfig
from scdmc.model.devices import choose_device
from scdmc.model.embeddings import cell_embeddings, tokens_per_batch
from scdmc.model.encoder import ScDMCModel
from scdmc.model.packing import batches_by_length
from scdmc.options import DTYPES, EncoderSizes
from scdmc.studies.synthetic_cells import VOCAB_SIZE, synthetic_cells
from scdmc.tokens.tokenized_cells import TokenizedCells

BERT = "BertModel float32"


def new_encoder(sizes: EncoderSizes, max_length: int, dtype: torch.dtype) -> ScDMCModel:
    """An encoder of ours with random weights."""
    torch.manual_seed(0)
    config = ScDMCConfig(
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=max_length,
        **asdict(replace(sizes, initializer_range=0.45 / sizes.hidden_size**0.5)),
    )
    encoder = ScDMCModel(config).to(choose_device(None), dtype).eval()
    encoder.set_attention("auto")
    return encoder


def new_bert(sizes: EncoderSizes, max_length: int) -> torch.nn.Module:
    """BERT of transformers, of the same sizes."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_hidden_layers,
        num_attention_heads=sizes.num_attention_heads,
        intermediate_size=sizes.intermediate_size * 3 // 2,
        max_position_embeddings=max_length,
    )
    config._attn_implementation = "sdpa"
    return BertModel(config, add_pooling_layer=False).to(choose_device(None)).eval()


@torch.inference_mode()
def bert_embeddings(bert: torch.nn.Module, cells: TokenizedCells) -> np.ndarray:
    """States of ``<cls>`` in the rank stream, shape (n_cells, hidden_size)."""
    ids = torch.from_numpy(cells.rank_ids.astype(np.int64)).split(cells.rank_lengths.tolist())
    embeddings = np.empty((len(cells), bert.config.hidden_size), dtype=np.float32)
    for chosen in batches_by_length(cells.rank_lengths, tokens_per_batch(bert.device)):
        padded = torch.nn.utils.rnn.pad_sequence([ids[cell] for cell in chosen], batch_first=True).to(bert.device)
        states = bert(padded, attention_mask=padded.ne(0)).last_hidden_state
        embeddings[chosen] = states[:, 0].float().cpu().numpy()
    return embeddings


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of each row with the same row of the other, shape (n_cells,)."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(axis=1) / norms


def measure_embedding(
    sizes: EncoderSizes, n_cells: int, shortest: int, longest: int, n_rounds: int
) -> tuple[dict[str, list[float]], np.ndarray]:
    """Embed the same cells by all sides, in turn.

    Parameters
    ----------
    sizes
        Of the encoders.
    n_cells, shortest, longest
        So many cells, whose streams have from ``shortest`` to ``longest`` tokens.
    n_rounds
        How often each side is measured.

    Returns
    -------
    Side -> seconds of each round; and the cosines of bfloat16 to float32, shape (n_cells,).
    """
    cells = synthetic_cells(np.random.default_rng(0).integers(shortest, longest + 1, n_cells))
    bert = new_bert(sizes, longest)
    encoders = {name: new_encoder(sizes, longest, getattr(torch, name)) for name in DTYPES}
    sides = {BERT: lambda: bert_embeddings(bert, cells)} | {
        f"scDMC {name}": lambda encoder=encoder: cell_embeddings(encoder, cells, "rank", "cls")
        for name, encoder in encoders.items()
    }
    seconds = {name: [] for name in sides}
    embeddings = {name: side() for name, side in sides.items()}  # the first run of each does not count
    for _ in range(n_rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    return seconds, cosines(embeddings["scDMC float32"], embeddings["scDMC bfloat16"])
