"""A pre-training step of scDMC beside the usual recipe of BERT at the same sizes; weights and cells are random."""

import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch.nn import functional as F

from scdmc.configuration import ScDMCConfig
from scdmc.model.devices import autocast, computing_dtype
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.options import EncoderSizes
from scdmc.studies.synthetic_cells import VOCAB_SIZE, synthetic_cells
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.dual_stream import ScDMCForPretraining
from scdmc.training.flops import peak_flops, training_flops
from scdmc.training.masking import masked_batch
from scdmc.training.objectives import contrastive_loss
from scdmc.training.optimization import parameter_groups
from scdmc.training.run_log import peak_memory
from scdmc.training.settings import MaskingOptions


@dataclass(frozen=True)
class StepOptions:
    """What a step computes.

    Attributes
    ----------
    sizes
        Of both encoders.
    batch_size, shortest, longest
        So many cells, whose streams have from ``shortest`` to ``longest`` tokens.
    dtype, attention
        Of the computation; the attention back end is scDMC's.
    vocab_size
        Of both.
    """

    sizes: EncoderSizes
    batch_size: int
    shortest: int
    longest: int
    dtype: str = "auto"
    attention: str = "auto"
    vocab_size: int = VOCAB_SIZE


def random_cells(options: StepOptions) -> TokenizedCells:
    """Cells of random genes, lengths spread evenly from the shortest to the longest."""
    lengths = np.linspace(options.shortest, options.longest, options.batch_size).astype(int)
    return synthetic_cells(lengths, vocab_size=options.vocab_size)


def scdmc_step(options: StepOptions, device: torch.device) -> tuple[object, ScDMCConfig]:
    """A function that makes one step of scDMC, and the configuration."""
    config = ScDMCConfig(
        vocab_size=options.vocab_size,
        max_position_embeddings=options.longest,
        **asdict(options.sizes),
    )
    module = ScDMCForPretraining(ScDMCForMaskedLM(config)).to(device).train()
    dtype = computing_dtype(options.dtype, device)
    print("attention:", module.model.set_attention(options.attention, dtype, for_training=True), file=sys.stderr)
    module.momentum_encoder.set_attention(options.attention, dtype)
    optimizer = torch.optim.AdamW(parameter_groups(module.model, 1e-3), lr=5e-5, fused=True)
    cells = random_cells(options)
    epoch = 0

    def step() -> None:
        nonlocal epoch
        batch = masked_batch(cells, np.arange(len(cells)), epoch, MaskingOptions()).to(device)
        epoch += 1
        with autocast(device, options.dtype):
            loss = module(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        module.update_momentum_encoder(0.995)

    return step, config


def usual_step(options: StepOptions, device: torch.device) -> object:
    """A function that makes one step of the usual recipe."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=options.vocab_size,
        hidden_size=options.sizes.hidden_size,
        num_hidden_layers=options.sizes.num_hidden_layers,
        num_attention_heads=options.sizes.num_attention_heads,
        intermediate_size=options.sizes.intermediate_size * 3 // 2,
        max_position_embeddings=options.longest,
        hidden_dropout_prob=0.02,
        attention_probs_dropout_prob=0.0,
    )
    config._attn_implementation = "sdpa"
    model, momentum = BertForMaskedLM(config).to(device).train(), BertForMaskedLM(config).to(device).eval()
    momentum.requires_grad_(False)
    momentum.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=1e-3)
    cells = random_cells(options)
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
        with autocast(device, options.dtype):
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


def measure_side(side: str, options: StepOptions, n_steps: int) -> dict[str, object]:
    """Run one side in this process.

    Returns
    -------
    ``seconds`` of each step, ``peak`` and ``before`` in bytes of memory, the ``device``; of scDMC also
    ``seconds_at_peak``, which a step would take at the peak of the GPU (None where that is not known).
    """
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = peak_memory(device)
    result = {}
    if side == "scdmc":
        step, config = scdmc_step(options, device)
        lengths = 2 * random_cells(options).rank_lengths.tolist()
        peak = None
        if device.type == "cuda":
            in_bfloat16 = computing_dtype(options.dtype, device) == torch.bfloat16
            peak = peak_flops(torch.cuda.get_device_name(device), in_bfloat16)
        flops = training_flops(config, sum(lengths), sum(length**2 for length in lengths))
        result["seconds_at_peak"] = flops / peak if peak else None
    else:
        step = usual_step(options, device)
    seconds = time_steps(step, n_steps, device)
    return result | {"seconds": seconds, "peak": peak_memory(device), "before": before, "device": device.type}
