"""In-silico perturbation: what happens to a cell's state and type when genes are removed or raised, against chance.

Chance is the same edit of other genes of the same rank and frequency, each in the cells that have it: the mean over the
cells of one random gene varies as that of the tested gene does, whereas another random gene in each cell would average
out.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from scdmc.annotation.annotators import Annotator, classifier_annotator, reference_annotator
from scdmc.errors import ScDMCError
from scdmc.gene_analysis.data import GeneData, cells_with_gene
from scdmc.gene_analysis.edits import distinct_genes, edit_genes, require_room
from scdmc.gene_analysis.options import EDITS, LARGEST_FDR, ScreenOptions
from scdmc.genes.symbols import tokens_of_genes
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.progress import progress_bar

logger = logging.getLogger(__name__)


MATCHED_GENES = 100  # from which each gene of a random set is drawn ...


MATCHED_PER_GENE = 5  # ... or so many for each gene of a larger set, so that random sets differ


REFERENCE_CELLS = 2_000


STATISTICS = ("shift", "towards_goal", "own_probability", "goal_probability")


class _Reader:
    """Reads cells: embeddings and probabilities of types, and what an edit changes in them."""

    def __init__(self, data: GeneData, options: ScreenOptions, annotator: Annotator) -> None:
        self.data, self.options, self.annotator = data, options, annotator
        self.names = list(annotator.names)
        self.goal_state: np.ndarray | None = None
        if options.goal is not None:
            rows = np.flatnonzero(data.labels == options.goal)[:REFERENCE_CELLS]
            self.goal_state = annotator.annotate(data.cells.select(rows))[1].mean(axis=0)

    def changes(self, rows: np.ndarray, genes: list[np.ndarray], cell_type: str) -> pd.DataFrame:
        """Statistics of each edited cell, n_rows rows; ``rows`` may repeat a cell."""
        before = self.data.cells.select(rows)
        after = edit_genes(before, genes, self.options.edit, self.data.model_directory.context)
        distinct, place = np.unique(rows, return_inverse=True)
        probability_0, state_0 = (of[place] for of in self.annotator.annotate(self.data.cells.select(distinct)))
        probability_1, state_1 = self.annotator.annotate(after)
        norms = np.linalg.norm(state_0, axis=1) * np.linalg.norm(state_1, axis=1)
        found = {"shift": 1 - (state_0 * state_1).sum(axis=1) / np.maximum(norms, 1e-12)}
        if cell_type in self.names:
            own = self.names.index(cell_type)
            found["own_probability"] = probability_1[:, own] - probability_0[:, own]
        if self.goal_state is not None and cell_type != self.options.goal:
            way = self.goal_state - state_0
            found["towards_goal"] = ((state_1 - state_0) * way).sum(axis=1) / np.maximum((way**2).sum(axis=1), 1e-12)
            if self.options.goal in self.names:
                goal = self.names.index(self.options.goal)
                found["goal_probability"] = probability_1[:, goal] - probability_0[:, goal]
        return pd.DataFrame(found).reindex(columns=list(STATISTICS))


def tokens_to_perturb(
    data: GeneData, genes: Sequence[str], gene_sets: Mapping[str, Sequence[str]], source: str
) -> dict[str, np.ndarray]:
    """Name -> tokens of single genes and of sets; genes of a set that the vocabulary lacks are left out.

    Parameters
    ----------
    data
        Model and cells.
    genes
        Symbols or ids, one by one.
    gene_sets
        Name -> symbols or ids that are perturbed together.
    source
        Of the sets, for messages.

    Raises
    ------
    ScDMCError
        If a single gene is not in the vocabulary, a name stands for a gene and for a set, or nothing is left.
    """
    vocabulary = data.model_directory.vocabulary
    tokens = tokens_of_genes(genes, vocabulary, "--genes")
    chosen = {str(symbol): tokens[[place]] for place, symbol in enumerate(data.symbols(tokens))}
    for name, members in gene_sets.items():
        if name in chosen:
            raise ScDMCError(f"{name} is one of --genes and a set of {source}; rename the set")
        known = []
        for gene in members:
            try:
                known += tokens_of_genes([gene], vocabulary, name).tolist()
            except ScDMCError:
                continue
        if len(known) < len(members):
            unknown = len(members) - len(known)
            logger.info("%s: %d of %d genes are not in the model's vocabulary", name, unknown, len(members))
        if known:
            chosen[name] = np.array(known)
    if not chosen:
        raise ScDMCError("nothing to perturb: name --genes, or --gene_sets with genes of the vocabulary")
    return chosen


def screen_genes(
    data: GeneData, sets: Mapping[str, np.ndarray], options: ScreenOptions | None = None, show_progress: bool = True
) -> pd.DataFrame:
    """Perturb genes, or sets of genes at once, in every cell type, and compare with matched random genes.

    Parameters
    ----------
    data
        Model and cells. A classifier says the types itself; for other models the nearest cells of the data do.
    sets
        Name -> tokens; one token for a single gene. A token that is there twice counts once.
    options
        See :class:`ScreenOptions`.
    show_progress
        Whether to show a progress bar.

    Returns
    -------
    A row for each type and set: cell_type, perturbed, genes, cells; ``shift`` (mean 1 - cosine of the embeddings),
    ``own_probability`` and, with a goal, ``towards_goal`` (1: all the way to the goal's mean state) and
    ``goal_probability`` (mean changes), each with _null (mean of the random genes), _z, _p and _fdr (over all rows).
    p: one-sided for the shift, two-sided for the others.

    Raises
    ------
    ScDMCError
        If an option is unknown, a set is too large to be raised, no cell is left to start from, or none has any of the
        genes.
    """
    options = options or ScreenOptions()
    if options.edit not in EDITS:
        raise ScDMCError(f"--perturbation {options.edit}: there are {', '.join(EDITS)}")
    for flag, wanted in (
        ("--goal", [options.goal] if options.goal else []),
        ("--cell_types", options.cell_types or []),
    ):
        unknown = [name for name in wanted if name not in data.types]
        if unknown:
            raise ScDMCError(f"{flag} {unknown[0]}: no such type with enough cells; there are {', '.join(data.types)}")
    sets = {name: distinct_genes(tokens) for name, tokens in sets.items()}
    for name, tokens in sets.items():
        require_room(tokens, options.edit, data.model_directory.context, name)
    reader = _Reader(data, options, _annotator(data, options))
    starts = [name for name in options.cell_types or data.types if name != options.goal]
    if not starts:
        raise ScDMCError(f"all cells are of the type --goal {options.goal}; choose other types to start from")
    rows = []
    with progress_bar(total=len(starts) * len(sets), desc="perturb", disable=not show_progress) as progress:
        for cell_type in starts:
            matcher = _GeneMatcher(data, cell_type)
            for number, (name, tokens) in enumerate(sets.items()):
                generator = np.random.default_rng([options.seed, number])
                rows.append(_screen_one(reader, matcher, cell_type, name, tokens, generator))
                progress.update()
    table = pd.DataFrame([row for row in rows if row is not None])
    if table.empty:
        raise ScDMCError(
            f"no cell that the model reads has any of {', '.join(list(sets)[:5])}, so there is nothing to remove; "
            "--perturbation raise needs no cell that has it"
        )
    needed = rows_needed(len(table), options.null_draws)
    if needed > 1:
        logger.warning(
            "warning: with %d rows and --null_draws %d at least %d rows must have the smallest p before one has an FDR "
            "below %g; raise --null_draws", len(table), options.null_draws, needed, LARGEST_FDR,
        )  # fmt: skip
    for name in STATISTICS:
        p = table[f"{name}_p"].to_numpy()
        table[f"{name}_fdr"] = np.nan
        if np.isfinite(p).any():
            table.loc[np.isfinite(p), f"{name}_fdr"] = false_discovery_control(p[np.isfinite(p)])
    return table.dropna(axis=1, how="all")


def rows_needed(n_rows: int, null_draws: int) -> int:
    """How many of the rows must have the smallest p possible, 1 / (1 + draws), before their FDR is below 0.05.

    Benjamini and Hochberg: the FDR of the k rows at the smallest p is n_rows * p / k. More than there are rows: none
    can ever have it.
    """
    return int(n_rows / (LARGEST_FDR * (1 + null_draws)) + 1e-9) + 1


def _annotator(data: GeneData, options: ScreenOptions) -> Annotator:
    """The classifier; or cells of the data, whose types the nearest of them give to a perturbed cell."""
    if isinstance(data.model, ScDMCForCellClassification):
        return classifier_annotator(data.model, data.model_directory.path)
    generator = np.random.default_rng(options.seed)
    n_cells = min(len(data.cells), REFERENCE_CELLS)
    reference = data.select(np.sort(generator.choice(len(data.cells), n_cells, replace=False)))
    vocabulary = data.model_directory.vocabulary
    return reference_annotator(data.encoder, reference.cells, reference.labels, vocabulary, options.stream, "cls")


class _GeneMatcher:
    """Genes of a cell type by frequency and mean rank, to find others that are like a given one."""

    def __init__(self, data: GeneData, cell_type: str) -> None:
        self.rows = np.flatnonzero(data.labels == cell_type)
        self.cells = data.cells.select(self.rows)
        vocab_size = len(data.model_directory.vocabulary)
        n_cells = cells_with_gene(self.cells, vocab_size)
        self.seen = np.flatnonzero(n_cells)
        place = np.arange(len(self.cells.rank_ids)) - np.repeat(self.cells.rank_offsets[:-1], self.cells.rank_lengths)
        mean_place = np.bincount(self.cells.rank_ids, place, minlength=vocab_size)[self.seen] / n_cells[self.seen]
        features = np.stack([np.log(n_cells[self.seen]), np.log1p(mean_place)], axis=1)
        self.features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)
        self.cell_of_token = np.repeat(np.arange(len(self.cells)), self.cells.rank_lengths)

    def alike(self, token: int, excluded: np.ndarray) -> np.ndarray:
        """The genes most like this one, more for a larger set; like the rarest where the type does not have it."""
        at = np.flatnonzero(self.seen == token)
        features = self.features[at[0]] if len(at) else self.features[self.features[:, 0].argmin()]
        distance = ((self.features - features) ** 2).sum(axis=1)
        distance[np.isin(self.seen, excluded)] = np.inf
        nearest = np.argsort(distance, kind="stable")[: max(MATCHED_GENES, MATCHED_PER_GENE * len(excluded))]
        return self.seen[nearest[np.isfinite(distance[nearest])]]

    def cells_to_edit(self, tokens: np.ndarray, edit: str, n_cells: int, generator: np.random.Generator) -> np.ndarray:
        """Cells (rows of the data) in which the genes can be edited, at most ``n_cells``."""
        having = np.arange(len(self.cells))
        if edit == "remove":
            having = np.unique(self.cell_of_token[np.isin(self.cells.rank_ids, tokens)])
        return self.rows[np.sort(generator.choice(having, min(n_cells, len(having)), replace=False))]


def _screen_one(
    reader: _Reader, matcher: _GeneMatcher, cell_type: str, name: str, tokens: np.ndarray,
    generator: np.random.Generator,
) -> dict[str, object] | None:  # fmt: skip
    """One set in one type; None where no cell has any of its genes."""
    options = reader.options
    edited = matcher.cells_to_edit(tokens, options.edit, options.max_cells, generator)
    if not len(edited):
        logger.info("%s: no cell has %s", cell_type, name)
        return None
    present = tokens if options.edit == "raise" else tokens[np.isin(tokens, matcher.seen)]
    pools = [matcher.alike(int(token), tokens) for token in present]
    if any(len(pool) < len(pools) for pool in pools):
        raise ScDMCError(f"{cell_type}: there are too few other genes to compare {name} with")
    draws = [random_set(pools, generator) for _ in range(options.null_draws)]
    rows, genes, draw_of = [edited], [tokens] * len(edited), [np.full(len(edited), -1)]
    for number, drawn in enumerate(draws):
        its_rows = matcher.cells_to_edit(drawn, options.edit, options.max_cells, generator)
        rows.append(its_rows)
        genes += [drawn] * len(its_rows)
        draw_of.append(np.full(len(its_rows), number))
    changes = reader.changes(np.concatenate(rows), genes, cell_type)
    means = changes.groupby(np.concatenate(draw_of)).mean()
    row = {"cell_type": cell_type, "perturbed": name, "genes": len(tokens), "cells": len(edited)}
    for statistic in STATISTICS:
        row |= against_chance(statistic, float(means.loc[-1, statistic]), means[statistic].drop(-1).to_numpy())
    return row


def random_set(pools: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """One gene of each pool, all different: a set with fewer genes than the tested one would shift cells less.

    Parameters
    ----------
    pools
        Tokens that may stand for each gene; each pool as large as there are pools, or larger.
    generator
        Draws them.

    Returns
    -------
    Shape (n_pools,).
    """
    drawn: list[int] = []
    for pool in pools:
        drawn.append(int(generator.choice(pool[~np.isin(pool, drawn)])))
    return np.array(drawn, dtype=np.int64)


def against_chance(name: str, observed: float, null: np.ndarray) -> dict[str, float]:
    """A number beside those of random genes: itself, _null, _z and _p (one-sided for a shift, else two-sided)."""
    mean, sd = float(null.mean()), float(null.std())
    distances, distance = (null, observed) if name == "shift" else (np.abs(null - mean), abs(observed - mean))
    p = (1 + (distances >= distance - 1e-12).sum()) / (1 + len(null))
    z = (observed - mean) / sd if sd > 0 else np.nan
    return {name: observed, f"{name}_null": mean, f"{name}_z": z, f"{name}_p": p if np.isfinite(observed) else np.nan}
