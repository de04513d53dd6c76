"""Embedding cells with scDMC, in float32 and in bfloat16, beside transformers' BertModel of the same parameters.

BertModel runs as one would run it: SDPA, batches of cells sorted by length, padded. All sides embed the same cells with
as many threads, in turn; the weights are random, which changes nothing about the time.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.configuration import ScDMCConfig
from scdmc.model.devices import choose_device
from scdmc.model.embeddings import TOKENS_PER_BATCH, cell_embeddings
from scdmc.model.encoder import ScDMCModel
from scdmc.model.packing import batches_by_length
from scdmc.studies.synthetic_cells import VOCAB_SIZE, synthetic_cells
from scdmc.tokens.tokenized_cells import TokenizedCells


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the benchmark; the defaults are those of the README."""
    parser = argument_parser(__doc__)
    parser.add_argument("--hidden_size", type=positive_int, default=128, help="width of the encoders")
    parser.add_argument("--num_hidden_layers", type=positive_int, default=4, help="layers")
    parser.add_argument("--num_attention_heads", type=positive_int, default=4, help="heads")
    parser.add_argument(
        "--intermediate_size",
        type=positive_int,
        default=256,
        help="of scDMC; BERT gets 3/2 of it, for equal parameters",
    )
    parser.add_argument("--shortest", type=positive_int, default=288, help="tokens of the shortest stream")
    parser.add_argument("--longest", type=positive_int, default=512, help="tokens of the longest stream")
    parser.add_argument("--cells", type=positive_int, default=256, help="cells")
    parser.add_argument("--rounds", type=positive_int, default=5, help="rounds, the sides in turn")
    return parser.parse_args(argv)


def new_encoder(arguments: argparse.Namespace, dtype: torch.dtype) -> ScDMCModel:
    """An encoder of ours with random weights."""
    torch.manual_seed(0)
    config = ScDMCConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.num_hidden_layers,
        num_attention_heads=arguments.num_attention_heads,
        intermediate_size=arguments.intermediate_size,
        max_position_embeddings=arguments.longest,
        initializer_range=0.45 / arguments.hidden_size**0.5,
    )
    encoder = ScDMCModel(config).to(choose_device(None), dtype).eval()
    encoder.set_attention("auto")
    return encoder


def new_bert(arguments: argparse.Namespace) -> torch.nn.Module:
    """BERT of transformers, of the same sizes."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.num_hidden_layers,
        num_attention_heads=arguments.num_attention_heads,
        intermediate_size=arguments.intermediate_size * 3 // 2,
        max_position_embeddings=arguments.longest,
    )
    config._attn_implementation = "sdpa"
    return BertModel(config, add_pooling_layer=False).to(choose_device(None)).eval()


@torch.inference_mode()
def bert_embeddings(bert: torch.nn.Module, cells: TokenizedCells) -> np.ndarray:
    """States of ``<cls>`` in the rank stream, shape (n_cells, hidden_size)."""
    ids = torch.from_numpy(cells.rank_ids.astype(np.int64)).split(cells.rank_lengths.tolist())
    embeddings = np.empty((len(cells), bert.config.hidden_size), dtype=np.float32)
    for chosen in batches_by_length(cells.rank_lengths, TOKENS_PER_BATCH):
        padded = torch.nn.utils.rnn.pad_sequence([ids[cell] for cell in chosen], batch_first=True).to(bert.device)
        states = bert(padded, attention_mask=padded.ne(0)).last_hidden_state
        embeddings[chosen] = states[:, 0].float().cpu().numpy()
    return embeddings


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of each row with the same row of the other, shape (n_cells,)."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(axis=1) / norms


@script
def main(argv: list[str] | None = None) -> int:
    """Print cells/s of each side, the ratios of the medians, and how well bfloat16 agrees."""
    arguments = parse_arguments(argv)
    lengths = np.random.default_rng(0).integers(arguments.shortest, arguments.longest + 1, arguments.cells)
    cells = synthetic_cells(lengths)
    bert = new_bert(arguments)
    encoders = {name: new_encoder(arguments, getattr(torch, name)) for name in ("float32", "bfloat16")}
    sides = {"BertModel float32": lambda: bert_embeddings(bert, cells)} | {
        f"scDMC {name}": lambda encoder=encoder: cell_embeddings(encoder, cells, "rank")
        for name, encoder in encoders.items()
    }
    seconds = {name: [] for name in sides}
    embeddings = {name: side() for name, side in sides.items()}  # the first run of each does not count
    for _ in range(arguments.rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    rates = {name: arguments.cells / statistics.median(times) for name, times in seconds.items()}
    print(f"{'':<20}{'cells/s, one stream':>20}{'fastest':>10}{'slowest':>10}")
    for name, times in seconds.items():
        fastest, slowest = arguments.cells / min(times), arguments.cells / max(times)
        print(f"{name:<20}{rates[name]:>20.1f}{fastest:>10.1f}{slowest:>10.1f}")
    agreement = cosines(embeddings["scDMC float32"], embeddings["scDMC bfloat16"])
    print(f"float32: {rates['scDMC float32'] / rates['BertModel float32']:.2f} times BertModel")
    print(f"bfloat16: {rates['scDMC bfloat16'] / rates['scDMC float32']:.2f} times float32; "
          f"cosine to float32 {agreement.mean():.5f}, smallest {agreement.min():.5f}")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
