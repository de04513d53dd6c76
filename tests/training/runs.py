"""Cells, models and runs that are small enough to be trained in a test."""

import numpy as np
import pyarrow as pa
import torch

from scdmc.configuration import ScDMCConfig
from scdmc.genes.vocabulary import CLS_TOKEN_ID, EOS_TOKEN_ID
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.tokens.tokenized_cells import TokenizedCells, concatenate_cells
from scdmc.training.loading import TrainingCells
from scdmc.training.pretraining import Pretraining
from scdmc.training.settings import PretrainingSettings

CPU = torch.device("cpu")

VOCAB_SIZE = 40

SETTINGS = PretrainingSettings(
    batch_size=8, learning_rate=3e-3, max_steps=6, log_every=1, evaluate_every=3, save_every=3, keep_checkpoints=5
)


def random_cells(n_cells=60, vocab_size=400, longest=90, seed=0):
    """Cells whose rank stream is shuffled and whose expression stream ascends; values are distinct per token."""
    generator = np.random.default_rng(seed)
    rank, expression, values, offsets = [], [], [], [0]
    for _ in range(n_cells):
        genes = generator.choice(np.arange(4, vocab_size), generator.integers(1, longest), replace=False)
        rank += [CLS_TOKEN_ID, *genes, EOS_TOKEN_ID]
        expression += [CLS_TOKEN_ID, *np.sort(genes), EOS_TOKEN_ID]
        values += [1.0, *generator.uniform(0.1, 5, len(genes)), 1.0]
        offsets.append(len(rank))
    offsets = np.array(offsets, dtype=np.int64)
    obs = pa.table({"cell_id": [f"cell_{cell}" for cell in range(n_cells)]})
    return TokenizedCells(
        np.array(rank, dtype=np.int32), np.array(expression, dtype=np.int32), np.array(values, dtype=np.float32),
        offsets, offsets, obs, settings=None,
    )  # fmt: skip


def make_cells(n_cells=48, seed=0):
    """Cells of two kinds: genes 4-21 or genes 22-39, the ranks in a noisy common order."""
    generator = np.random.default_rng(seed)
    rank, expression, values, offsets = [], [], [], [0]
    for cell in range(n_cells):
        genes = generator.choice(np.arange(4, 22), generator.integers(5, 16), replace=False) + 18 * (cell % 2)
        genes = genes[np.argsort(genes + generator.normal(0, 2, len(genes)))]
        rank += [2, *genes, 3]
        expression += [2, *np.sort(genes), 3]
        values += [1.0, *generator.uniform(0.5, 3, len(genes)), 1.0]
        offsets.append(len(rank))
    offsets = np.array(offsets, dtype=np.int64)
    return TokenizedCells(
        np.array(rank, np.int32), np.array(expression, np.int32), np.array(values, np.float32), offsets, offsets,
        pa.table({"cell_id": [str(cell) for cell in range(n_cells)]}), settings=None,
    )  # fmt: skip


CELLS, HELD_OUT = make_cells(), make_cells(12, seed=1)


def make_model(dropout=0.1, seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 16, "hidden_dropout_prob": dropout}  # fmt: skip
    return ScDMCForMaskedLM(ScDMCConfig(**{**sizes, **changes}))


def make_run(output_dir, settings=SETTINGS, cells=CELLS, **model):
    everything = concatenate_cells([cells, HELD_OUT])
    training, held_out = np.arange(len(cells)), np.arange(len(cells), len(everything))
    data = TrainingCells(everything, training, held_out)
    return Pretraining(make_model(**model), data, settings, output_dir, CPU)


def state_of(run):
    """Every tensor of a run's state."""
    tensors = {f"module.{name}": tensor for name, tensor in run.module.state_dict().items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def require_equal_states(first, second):
    assert set(first) == set(second)
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different
