"""The verdict of each gene analysis: one finding, and the numbers that matter beside their baselines."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from scdmc.gene_analysis.attention_analysis import CLEARLY, EXPRESSION, SCORES, WEAKLY, AttentionResults
from scdmc.gene_analysis.modules import LARGEST_P, METHOD, ModuleResults
from scdmc.gene_analysis.network_evaluation import RANDOM
from scdmc.gene_analysis.networks import mean_agreement
from scdmc.gene_analysis.options import (
    ASSOCIATION,
    ATTENTION,
    BOOSTING,
    LARGEST_FDR,
    PEARSON,
    PERTURBATION,
    ScreenOptions,
)
from scdmc.gene_analysis.perturbation import rows_needed
from scdmc.reports.page import KeyNumber, Verdict

CONSISTENCY, ENRICHMENT = "pathway consistency", "enriched gene sets"


def attention_verdict(results: AttentionResults) -> Verdict:
    """Whether attention points at the markers of a type beyond what their expression says.

    Parameters
    ----------
    results
        What was found.
    """
    agreement = KeyNumber(
        "Rollout and gradients agree", f"{results.attributions.correlation:.2f}", "Spearman correlation; 1: one order"
    )
    if results.recovery.empty:
        reason = "No type has five markers among the genes that the model reads."
        return Verdict("caution", "Whether attention points at markers was not scored", (reason,), (agreement,))
    means = results.mean_recovery.set_index("method")
    attention, expression = means.loc[SCORES["received"]], means.loc[EXPRESSION]
    at_equal, left = attention["auroc_at_equal_expression"], expression["auroc_at_equal_expression"]
    gain = at_equal - max(0.5, left)
    if gain > WEAKLY:
        how = "clearly" if gain > CLEARLY else "weakly"
        level, headline = "good" if gain > CLEARLY else "caution", f"Attention points at markers {how}"
    else:
        level, headline = "bad", "Attention does not point at markers beyond what expression says"
    by_type = results.recovery.pivot(index="cell_type", columns="method", values="auroc_at_equal_expression")
    n_above = int((by_type[SCORES["received"]] > by_type[EXPRESSION].clip(lower=0.5)).sum())
    reason = f"Among genes of equal expression it is above chance and expression in {n_above} of {len(by_type)} types."
    numbers = (
        KeyNumber("Markers found, AUROC", f"{attention['auroc']:.3f}", f"{expression['auroc']:.3f} by mean expression"),
        KeyNumber("AUROC at equal expression", f"{at_equal:.3f}", f"0.5 by chance, {left:.3f} left of expression"),
        agreement,
    )
    return Verdict(level, headline, (reason,), numbers)


def module_verdict(results: ModuleResults) -> Verdict:
    """Whether modules of genes mean something: their genes are of known sets more often than by chance.

    Parameters
    ----------
    results
        What was found.
    """
    sizes = np.unique(results.found.modules, return_counts=True)[1]
    n_modules = KeyNumber("Modules", f"{results.found.n_modules:,}", f"of {len(results.genes):,} genes")
    if results.tests is None:
        largest = KeyNumber("Genes of the largest module", f"{sizes.max():,}", f"{np.median(sizes):,.0f} in the median")
        reason = "No gene sets were given: name a file of them with --gene_sets."
        return Verdict("caution", "What the modules mean was not tested", (reason,), (n_modules, largest))
    names = {CONSISTENCY: "Genes of known sets lie together", ENRICHMENT: "Known sets are enriched in modules"}
    tests = {test: results.tests[results.tests["test"] == test].set_index("method") for test in names}
    numbers = [_distance(names[test], rows) for test, rows in tests.items()]
    holds = [bool(rows.loc[METHOD, "p"] < LARGEST_P) for rows in tests.values()]
    is_ahead = [rows.loc[METHOD, "z"] > rows["z"].drop(METHOD).max() for rows in tests.values()]
    if all(holds):
        level, headline = "good", "Genes of known sets lie together, and modules hold more of them than chance gives"
    elif any(holds):
        headline = f"{names[list(tests)[holds.index(True)]]} beyond chance, by one of two tests"
        level = "caution"
    else:
        level, headline = "bad", "The modules hold known gene sets no more than random genes would"
    reason = "A baseline is further from random in at least one of the two tests."
    if not all(is_ahead):
        level = "caution" if level == "good" else level
    return Verdict(level, headline, () if all(is_ahead) else (reason,), (*numbers, n_modules))


def _distance(name: str, rows: pd.DataFrame) -> KeyNumber:
    """How far scDMC is from random sets beside the best baseline, in standard deviations."""
    ours, others = rows.loc[METHOD, "z"], rows["z"].drop(METHOD).dropna()
    beside = f"{others.max():.1f} for {others.idxmax()}" if len(others) else "no baseline has a number"
    if np.isnan(ours):
        return KeyNumber(f"{name}, sd above random", "–", f"random sets do not vary; {beside}")
    return KeyNumber(f"{name}, sd above random", f"{ours:.1f}", beside)


def network_numbers(evaluation: pd.DataFrame) -> Verdict:
    """Whether a score of scDMC ranks known pairs of factor and target above the baselines.

    Parameters
    ----------
    evaluation
        A row for each type, kind of pairs and method (:func:`scdmc.gene_analysis.networks.mean_agreement`).
    """
    if evaluation.empty:
        reason = "No cell type has 10 known pairs among its genes."
        return Verdict("caution", "The networks were not judged", (reason,))
    numbers, ahead, n_kinds = [], [], 0
    for pairs, rows in mean_agreement(evaluation).groupby("pairs", sort=False):
        ratio = rows.set_index("method")["auprc_ratio"]
        ours = ratio[[name for name in (ATTENTION, ASSOCIATION, PERTURBATION) if name in ratio]]
        theirs = ratio[[PEARSON, BOOSTING, RANDOM]]
        beside = f"{theirs.max():.2f} for {theirs.idxmax()}"
        numbers.append(KeyNumber(f"AUPRC ratio of {ours.idxmax()}, {pairs}", f"{ours.max():.2f}", beside))
        ahead += [str(pairs)] * bool(ours.max() > theirs.max())
        n_kinds += 1
    by_type = evaluation.pivot_table(index=["pairs", "cell_type"], columns="method", values="auprc_ratio")
    best = by_type.drop(columns=[PEARSON, BOOSTING, RANDOM]).max(axis=1)
    n_above = int((best > by_type[[PEARSON, BOOSTING, RANDOM]].max(axis=1)).sum())
    numbers.append(
        KeyNumber("Types where a score of scDMC is ahead", f"{n_above} of {len(by_type)}", "of all baselines at once")
    )
    if not ahead:
        return Verdict("bad", "No score of scDMC ranks known pairs above the baselines", (), tuple(numbers[:3]))
    headline = f"A score of scDMC ranks known pairs above the baselines: {' and '.join(ahead)}"
    return Verdict("good" if len(ahead) == n_kinds else "caution", headline, (), tuple(numbers[:3]))


def screen_verdict(table: pd.DataFrame, options: ScreenOptions, labels: Mapping[str, str]) -> Verdict:
    """How many perturbations move cells further than random genes of similar frequency do.

    Parameters
    ----------
    table
        From :func:`scdmc.gene_analysis.perturbation.screen_genes`.
    options
        How genes were perturbed.
    labels
        Statistic -> what it is called.
    """
    hits = {name: table[table[f"{name}_fdr"] < LARGEST_FDR] for name in labels if f"{name}_fdr" in table}
    numbers = tuple(
        KeyNumber(labels[name][0].upper() + labels[name][1:], f"{len(rows)} of {len(table)}", _strongest(rows, name))
        for name, rows in hits.items()
    )
    needed, reasons = rows_needed(len(table), options.null_draws), ()
    if needed > len(table):
        reason = f"With {options.null_draws} random genes no FDR can be below {LARGEST_FDR}: raise --null_draws."
        return Verdict("bad", "This screen can show no hit: its random genes are too few", (reason,), numbers[:3])
    if needed > 1:
        reasons = (
            f"With {options.null_draws} random genes a hit needs {needed} rows beyond all of them; --null_draws raises "
            "that number of genes.",
        )
    n_hits = len(set().union(*(rows.index for rows in hits.values())))
    if not n_hits:
        return Verdict("caution", "No perturbation goes beyond random genes", reasons, numbers[:3])
    headline = f"{n_hits} of {len(table)} perturbations go beyond random genes (FDR below {LARGEST_FDR})"
    return Verdict("good", headline, reasons, numbers[:3])


def _strongest(hits: pd.DataFrame, name: str) -> str:
    if hits.empty:
        return "beyond random genes"
    row = hits.sort_values([f"{name}_p", "perturbed"], kind="stable").iloc[0]
    return f"beyond random genes; first {row['perturbed']} in {row['cell_type']}"
