"""A pre-training step of scDMC beside the field's usual recipe at the same sizes: time and peak memory of each.

The usual recipe is transformers' BertForMaskedLM (SDPA): padded batches, logits of all positions, and a momentum copy
that runs through its head too. Each side runs in a process of its own, in turn, so that peak memory is its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.configuration import ScDMCConfig
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.studies.synthetic_cells import VOCAB_SIZE, synthetic_cells
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.dual_stream import ScDMCForPretraining
from scdmc.training.masking import masked_batch
from scdmc.training.objectives import contrastive_loss
from scdmc.training.optimization import parameter_groups
from scdmc.training.run_log import PEAK_TFLOPS, peak_memory, training_flops
from scdmc.training.settings import MaskingOptions

SIDES = ("scdmc", "usual")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the benchmark; the defaults are the CPU comparison of the README."""
    parser = argument_parser(__doc__)
    parser.add_argument("--hidden_size", type=positive_int, default=128, help="width of both encoders")
    parser.add_argument("--num_hidden_layers", type=positive_int, default=4, help="layers of both")
    parser.add_argument("--num_attention_heads", type=positive_int, default=4, help="heads of both")
    parser.add_argument(
        "--intermediate_size",
        type=positive_int,
        default=256,
        help="of scDMC; BERT gets 3/2 of it, for equal parameters",
    )
    parser.add_argument("--batch_size", type=positive_int, default=8, help="cells")
    parser.add_argument("--shortest", type=positive_int, default=288, help="tokens of the shortest stream")
    parser.add_argument("--longest", type=positive_int, default=512, help="tokens of the longest stream")
    parser.add_argument("--steps", type=positive_int, default=5, help="timed steps of each round")
    parser.add_argument("--rounds", type=positive_int, default=3, help="rounds, the two sides in turn")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--attention", default="auto", help="attention back end of scDMC")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="which to run")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def random_cells(arguments: argparse.Namespace) -> TokenizedCells:
    """Cells of random genes, lengths spread evenly from the shortest to the longest."""
    return synthetic_cells(np.linspace(arguments.shortest, arguments.longest, arguments.batch_size).astype(int))


def scdmc_step(arguments: argparse.Namespace, device: torch.device) -> tuple[object, ScDMCConfig]:
    """A function that makes one step of scDMC, and the configuration."""
    config = ScDMCConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.num_hidden_layers,
        num_attention_heads=arguments.num_attention_heads,
        intermediate_size=arguments.intermediate_size,
        max_position_embeddings=arguments.longest,
    )
    module = ScDMCForPretraining(ScDMCForMaskedLM(config)).to(device).train()
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    print("attention:", module.model.set_attention(arguments.attention, dtype), file=sys.stderr)
    module.momentum_encoder.set_attention(arguments.attention, dtype)
    optimizer = torch.optim.AdamW(parameter_groups(module.model, 1e-3), lr=5e-5, fused=True)
    cells = random_cells(arguments)
    epoch = 0

    def step() -> None:
        nonlocal epoch
        batch = masked_batch(cells, np.arange(len(cells)), epoch, MaskingOptions()).to(device)
        epoch += 1
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
            loss = module(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        module.update_momentum_encoder(0.995)

    return step, config


def usual_step(arguments: argparse.Namespace, device: torch.device) -> object:
    """A function that makes one step of the usual recipe."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.num_hidden_layers,
        num_attention_heads=arguments.num_attention_heads,
        intermediate_size=arguments.intermediate_size * 3 // 2,
        max_position_embeddings=arguments.longest,
        hidden_dropout_prob=0.02,
        attention_probs_dropout_prob=0.0,
    )
    config._attn_implementation = "sdpa"
    model, momentum = BertForMaskedLM(config).to(device).train(), BertForMaskedLM(config).to(device).eval()
    momentum.requires_grad_(False)
    momentum.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=1e-3)
    cells = random_cells(arguments)
    lengths = cells.rank_lengths.tolist()
    padded = {
        name: torch.nn.utils.rnn.pad_sequence(torch.from_numpy(part).split(lengths), batch_first=True).to(device)
        for name, part in (
            ("rank", cells.rank_ids.astype(np.int64)),
            ("expression", cells.expression_ids.astype(np.int64)),
            ("values", cells.expression_values),
        )
    }
    generator = torch.Generator(device=device).manual_seed(0)

    def stream_loss(ids: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mask = ids.ne(0)
        is_masked = (torch.rand(ids.shape, generator=generator, device=device) < 0.15) & ids.gt(3)
        masked_ids = torch.where(is_masked, 1, ids)
        output = model(masked_ids, attention_mask=mask, output_hidden_states=True)
        labels = torch.where(is_masked, ids, -100)
        losses = F.cross_entropy(output.logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
        loss = (losses * weights.flatten()).sum() / (is_masked * weights).sum()
        with torch.no_grad():
            key = momentum(masked_ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1][:, 0]
        return loss, output.hidden_states[-1][:, 0], key

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
            rank_loss, rank_query, rank_key = stream_loss(padded["rank"], torch.ones_like(padded["values"]))
            expression_loss, query, key = stream_loss(padded["expression"], padded["values"])
            contrast = (contrastive_loss(rank_query, key) + contrastive_loss(query, rank_key)) / 2
        (rank_loss + expression_loss + contrast).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for key_weight, weight in zip(momentum.parameters(), model.parameters(), strict=True):
                key_weight.mul_(0.995).add_(weight, alpha=0.005)

    return step


def time_steps(step: object, n_steps: int, device: torch.device) -> list[float]:
    """Seconds of each step after one that does not count."""
    seconds = []
    for _ in range(n_steps + 1):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def measure_side(arguments: argparse.Namespace) -> dict:
    """Run one side in this process."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = peak_memory(device)
    result = {}
    if arguments.side == "scdmc":
        step, config = scdmc_step(arguments, device)
        lengths = 2 * random_cells(arguments).rank_lengths.tolist()
        result["flops"] = training_flops(config, sum(lengths), sum(length**2 for length in lengths))
    else:
        step = usual_step(arguments, device)
    seconds = time_steps(step, arguments.steps, device)
    return result | {"seconds": seconds, "peak": peak_memory(device), "before": before, "device": device.type}


def run_side(arguments: argparse.Namespace, side: str, argv: list[str]) -> dict:
    """Run one side in a process of its own."""
    command = [sys.executable, str(Path(__file__)), *argv, "--side", side]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


@script
def main(argv: list[str] | None = None) -> int:
    """Print one line per side and the ratios."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse_arguments(argv)
    if arguments.side:
        print(json.dumps(measure_side(arguments)))
        return 0
    rounds = {side: [] for side in arguments.sides}
    for _ in range(arguments.rounds):
        for side in arguments.sides:
            rounds[side].append(run_side(arguments, side, argv))
    medians = {}
    print(f"{'':<8}{'s / step':>10}{'min':>8}{'max':>8}{'cells/s':>10}{'peak GiB':>10}")
    for side, results in rounds.items():
        seconds = [second for result in results for second in result["seconds"]]
        peak = max(result["peak"] for result in results) / 2**30
        medians[side] = (statistics.median(seconds), peak)
        print(f"{side:<8}{medians[side][0]:>10.3f}{min(seconds):>8.3f}{max(seconds):>8.3f}"
              f"{arguments.batch_size / medians[side][0]:>10.1f}{peak:>10.2f}")  # fmt: skip
    if len(medians) == 2:
        times = medians["usual"][0] / medians["scdmc"][0]
        memory = medians["usual"][1] / medians["scdmc"][1]
        print(f"scDMC takes 1/{times:.1f} of the time and 1/{memory:.1f} of the peak memory (whole process)")
    if "scdmc" in rounds and rounds["scdmc"][0]["device"] == "cuda":
        share = rounds["scdmc"][0]["flops"] / medians["scdmc"][0] / (PEAK_TFLOPS * 1e12)
        print(f"scDMC reaches {share:.1%} of {PEAK_TFLOPS:.0f} TFLOP/s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
