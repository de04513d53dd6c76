"""A Q-Former is trained by the contrast of cells and texts, and can go on where it was broken off.

Source: docs/text.md, "The Q-Former".
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from scdmc.errors import ScDMCError
from scdmc.files import known_sha256
from scdmc.model.weights import weights_file
from scdmc.progress import progress_bar
from scdmc.result_folders import read_manifest
from scdmc.text.features import Centre
from scdmc.text.model import TextSpace
from scdmc.text.objectives import FIRST_SCALE, contrast
from scdmc.text.options import QFORMER_SIZES, TextTrainingOptions
from scdmc.text.projectors.batches import (
    MAX_GRADIENT_NORM,
    STEPS_BETWEEN_CHECKS,
    Batches,
    LabelledSet,
    validation_score,
)
from scdmc.text.projectors.bert import size_of_bert, start_from_bert
from scdmc.text.projectors.qformer import QFormer, QFormerShape
from scdmc.training.checkpoints import (
    checkpoint_to_resume,
    load_optimizer,
    optimizer_tensors,
    random_states,
    read_checkpoint,
    restore_random_states,
    with_prefix,
    without_prefix,
    write_checkpoint,
)
from scdmc.training.distributed import gather_equal, gather_rows, global_sum, n_processes, process_number

# Training cells of a data set whose mean is taken away from its validation cells at a check.
MOST_CELLS_OF_A_MEAN = 500


COLUMNS = ["step", "loss", "validation_macro_f1", "cells_per_second"]


@dataclass(frozen=True)
class Checkpointing:
    """Where the checkpoints of a run lie, and what it must have in common with the run that it goes on with.

    Attributes
    ----------
    folder
        Of the run.
    resume
        ``last``, the folder of a checkpoint, or None for a new run.
    identity
        What the training depends on, by name.
    """

    folder: Path
    resume: str | None
    identity: Mapping[str, object]


def identity_of(options: TextTrainingOptions, corpus: Path, model: Path, space: TextSpace) -> dict[str, object]:
    """What a training depends on, by name: options, and hashes of the corpus and of the encoders of cells and texts.

    Parameters
    ----------
    options
        What is trained, and how.
    corpus, model
        The folders.
    space
        The training texts; a corpus without vectors leaves their encoder to the flags.
    """
    manifest = read_manifest(corpus)
    if manifest is None:  # a user may have deleted it
        files = {path.name: known_sha256(path) for path in corpus.iterdir() if path.is_file()}
    else:
        files = {name: entry.get("sha256") for name, entry in manifest["files"].items()}
    content = [(name, digest) for name, digest in sorted(files.items()) if not name.endswith((".csv", ".html"))]
    return {
        **asdict(options),
        "corpus": hashlib.sha256(repr(content).encode("utf8")).hexdigest(),
        "encoder of cells": known_sha256(weights_file(model)),
        "text encoder": space.encoder_sha256,
    }


def qformer_shape(options: TextTrainingOptions, encoder_size: int, text_size: int) -> QFormerShape:
    """Sizes of the Q-Former that the options ask for.

    Parameters
    ----------
    options
        ``size``, or ``qformer_from`` but for the number of queries.
    encoder_size, text_size
        Widths of the states that it reads and of the vectors of texts.
    """
    size = QFORMER_SIZES[options.size]
    if options.qformer_from is not None:
        size = size_of_bert(Path(options.qformer_from), size.n_queries)
    return QFormerShape(
        size.hidden_size, size.n_layers, size.n_heads, size.intermediate_size, size.n_queries, encoder_size, text_size,
        options.max_tokens,
    )  # fmt: skip


def train_qformer(
    sets: Sequence[LabelledSet],
    space: TextSpace,
    options: TextTrainingOptions,
    steps: int | None = None,
    checkpointing: Checkpointing | None = None,
) -> tuple[QFormer, pd.DataFrame]:
    """Train queries to find what the texts of cells say; the check with the best macro-F1 is kept.

    Several processes share the cells of each batch. All must ask, and all get the same; one writes the checkpoints.

    Parameters
    ----------
    sets
        Data sets with the states of their genes.
    space
        The training texts.
    options
        Sizes, steps, rate.
    steps
        In place of those of the options, without checks but at the end: for trainings that leave a data set out.
    checkpointing
        Where a checkpoint is written at each check; None for none.

    Returns
    -------
    The Q-Former, and the history: step, loss, validation_macro_f1, cells_per_second.

    Raises
    ------
    ScDMCError
        If the checkpoint is of another run, or a batch has fewer cells than there are processes.
    """
    if options.batch_size < n_processes():
        raise ScDMCError(f"--batch_size {options.batch_size}: fewer cells than the {n_processes()} processes share")
    run = _Run(sets, space, options, steps or options.max_steps)
    if checkpointing is not None and checkpointing.resume is not None:
        run.go_on_from(checkpoint_to_resume(checkpointing.folder, checkpointing.resume), checkpointing.identity)
    what = "train" if steps is None else "train without one data set"
    with progress_bar(
        total=run.n_steps * options.batch_size, initial=run.step * options.batch_size, unit=" cells", desc=what,
        disable=process_number() > 0,
    ) as progress:  # fmt: skip
        while run.step < run.n_steps and not run.is_tired:
            run.do_step()
            if run.step == run.n_steps or (steps is None and run.step % STEPS_BETWEEN_CHECKS == 0):
                run.check()
                if checkpointing is not None:
                    run.write(checkpointing)
            progress.update(options.batch_size)
    return run.best_reader(), pd.DataFrame(run.history, columns=COLUMNS)


class _Run:
    """A training and all of its state."""

    def __init__(
        self, sets: Sequence[LabelledSet], space: TextSpace, options: TextTrainingOptions, n_steps: int
    ) -> None:
        self._sets, self._space, self._options, self.n_steps = sets, space, options, n_steps
        torch.manual_seed(options.seed)
        self._draw = np.random.default_rng(options.seed)
        states, _ = sets[0].states.padded(np.array([0]))
        self._device = states.device
        self.reader = QFormer(qformer_shape(options, states.shape[-1], space.vectors.shape[-1]))
        if options.qformer_from is not None:
            start_from_bert(self.reader, Path(options.qformer_from))
        self.reader.to(self._device).train()
        self._log_scale = torch.nn.Parameter(torch.tensor(float(np.log(FIRST_SCALE)), device=self._device))
        self._trained = [*self.reader.parameters(), self._log_scale]
        self._optimizer = torch.optim.AdamW(self._trained, lr=options.learning_rate, weight_decay=options.weight_decay)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self._optimizer, options.learning_rate, n_steps)
        if process_number() > 0:  # the weights are the same in all processes, and each drops other states
            torch.manual_seed(options.seed + process_number())
        self._batches = Batches(sets, space, options.batch_size, self._draw)
        self.step, self.history, self._losses = 0, [], []
        self._best, self._best_score, self._checks_since = self._weights(), -1.0, 0
        self._seconds = 0.0

    @property
    def is_tired(self) -> bool:
        """Whether the validation cells have found their terms no better for so many checks."""
        return self._checks_since >= self._options.patience

    def do_step(self) -> None:
        """One batch of one data set, which all processes draw alike; each reads some of its cells."""
        began, n_parts = time.perf_counter(), n_processes()
        number, rows, texts, terms = self._batches.next()
        own = rows[process_number() :: n_parts]
        outputs = self.reader(*self._sets[number].states.padded(own))  # (n_own, n_queries, hidden_size)
        sizes = tuple(len(range(part, len(rows), n_parts)) for part in range(n_parts))
        cells = gather_rows(self.reader.projection(outputs.mean(dim=1)), sizes)
        loss = contrast(cells, texts.to(self._device), terms.to(self._device), self._log_scale)
        self._optimizer.zero_grad()
        loss.backward()
        self._join_gradients()
        torch.nn.utils.clip_grad_norm_(self._trained, MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._schedule.step()
        self._losses.append(loss.item())
        self.step += 1
        self._seconds += time.perf_counter() - began

    def _join_gradients(self) -> None:
        """Each process has the gradient of its own cells; their sum is that of the batch."""
        for weight in self.reader.parameters():
            if weight.grad is not None:
                weight.grad = global_sum(weight.grad)
        self._log_scale.grad = global_sum(self._log_scale.grad) / n_processes()  # which each has of all cells

    def check(self) -> None:
        """How well validation cells find their terms; what does it best so far is kept."""
        score = validation_score(self.reader.matrix, [self._validation_cells(each) for each in self._sets], self._space)
        # By the last digits of a score one process alone might stop, and the others would wait for it.
        score = gather_equal(torch.tensor(score, dtype=torch.float64, device=self._device))[0].item()
        speed = len(self._losses) * self._options.batch_size / self._seconds
        shown = None if np.isnan(score) else score
        self.history.append([self.step, float(np.mean(self._losses)), shown, speed])
        self._losses, self._seconds = [], 0.0
        self._checks_since += 1
        if not score < self._best_score:  # without validation cells the last step stays
            is_better = score != self._best_score
            self._best, self._best_score = self._weights(), score
            self._checks_since = 0 if is_better else self._checks_since

    def _validation_cells(self, cells: LabelledSet) -> LabelledSet:
        """The validation cells of a data set as they are read now, without the mean of some of its training cells."""
        rows = np.flatnonzero(cells.is_training)
        if len(rows) > MOST_CELLS_OF_A_MEAN:
            rows = np.sort(np.random.default_rng(self._options.seed).choice(rows, MOST_CELLS_OF_A_MEAN, replace=False))
        rows = np.concatenate([rows, np.flatnonzero(~cells.is_training)])
        features, is_training = self.reader.features(cells.states.part(rows)), cells.is_training[rows]
        read = LabelledSet(cells.name, features, cells.terms[rows], is_training, None)
        centre = Centre.of(features[is_training], is_scaled=False, weights=read.weights)
        return replace(read, features=centre.applied(features))

    def best_reader(self) -> QFormer:
        """The Q-Former of the best check."""
        self.reader.load_state_dict(self._best)
        return self.reader.eval()

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.reader.state_dict().items()}

    def write(self, checkpointing: Checkpointing) -> None:
        """Write a checkpoint, which replaces the one before it: all processes must ask, and the main one writes."""
        tensors = with_prefix("reader", self.reader.state_dict()) | with_prefix("best", self._best)
        tensors |= with_prefix("optimizer", optimizer_tensors(self._optimizer))
        tensors |= with_prefix("random", random_states(self._device)) | {"log_scale": self._log_scale.detach()}
        group = self._optimizer.param_groups[0]
        state = {
            "step": self.step,
            "trained_seconds": self._seconds,
            "run": dict(checkpointing.identity),
            "history": self.history,
            "best_score": None if np.isnan(self._best_score) else self._best_score,
            "checks_since": self._checks_since,
            "draw": self._draw.bit_generator.state,
            "rate": [group["lr"], *group["betas"]],
        }
        if process_number() == 0:
            # Tensors that lie in the same memory would be refused.
            apart = {name: each.clone() for name, each in tensors.items()}
            write_checkpoint(checkpointing.folder, self.step, apart, state, keep=1)

    def go_on_from(self, path: Path, identity: Mapping[str, object]) -> None:
        """Take everything from a checkpoint, so that the run goes on as if it had not been broken off."""
        tensors, state = read_checkpoint(path)
        wrong = [name for name, value in identity.items() if state["run"].get(name) != value]
        if wrong:
            raise ScDMCError(
                f"{path} is of a run with another {wrong[0]} ({str(state['run'].get(wrong[0]))[:60]}, and now "
                f"{str(identity[wrong[0]])[:60]}); repeat its flags, or start anew with --overwrite"
            )
        self.reader.load_state_dict(without_prefix("reader", tensors))
        self._best = {name: each.to(self._device) for name, each in without_prefix("best", tensors).items()}
        load_optimizer(self._optimizer, without_prefix("optimizer", tensors))
        with torch.no_grad():
            self._log_scale.copy_(tensors["log_scale"])
        self.step, self.history = state["step"], state["history"]
        self._best_score = float("nan") if state["best_score"] is None else state["best_score"]
        self._checks_since = state["checks_since"]
        self._draw.bit_generator.state = state["draw"]
        self._schedule.last_epoch = self.step
        rate, *betas = state["rate"]
        self._optimizer.param_groups[0] |= {"lr": rate, "betas": tuple(betas)}
        process = process_number()
        # Processes that the broken run did not have draw from a seed of their own.
        new_seed = self._options.seed + 1_000_003 * self.step + process
        restore_random_states(without_prefix(f"random.{process}", tensors), self._device, new_seed)
