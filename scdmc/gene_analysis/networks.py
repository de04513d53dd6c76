"""Gene regulatory networks of every cell type: scores of factor -> target, judged by known regulons."""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scdmc.errors import ScDMCError
from scdmc.gene_analysis.data import GeneData, cells_with_gene
from scdmc.gene_analysis.network_evaluation import (
    RANDOM,
    boosting_scores,
    dense_expression,
    evaluation_rows,
    known_pairs,
    pearson_scores,
)
from scdmc.gene_analysis.network_scores import association_scores, attention_scores, perturbation_scores
from scdmc.gene_analysis.options import (
    ASSOCIATION,
    ATTENTION,
    BOOSTING,
    PEARSON,
    PERTURBATION,
    SCORE_COLUMNS,
    NetworkOptions,
)
from scdmc.gene_analysis.states import GeneEmbeddings, embed_genes
from scdmc.genes.ids import load_symbols
from scdmc.model.heads import ScDMCForMaskedLM

logger = logging.getLogger(__name__)


ALL_PAIRS, PERTURBED_PAIRS = "all pairs", "pairs of perturbed factors"


@dataclass(frozen=True)
class TypeNetwork:
    """The network of one cell type.

    Attributes
    ----------
    edges
        A row for each pair: cell_type, tf, target, is_known, and a column for each score (perturbation: NaN where the
        factor was not perturbed).
    factors
        A row for each factor: cell_type, tf, cells, known_targets, cls_shift (of perturbed ones).
    evaluation
        Rows of :func:`scdmc.gene_analysis.network_evaluation.evaluation_rows`.
    """

    edges: pd.DataFrame
    factors: pd.DataFrame
    evaluation: list[dict[str, object]]


def regulons_by_token(regulons: pd.DataFrame, data: GeneData, source: str = "regulons") -> dict[int, set[int]]:
    """Token of a factor -> tokens of its targets, of the pairs that the model's vocabulary has.

    Parameters
    ----------
    regulons
        Columns tf and target, symbols (:func:`scdmc.public_data.regulons.load_regulons`).
    data
        Model and cells.
    source
        Of the regulons, for the message.

    Raises
    ------
    ScDMCError
        If no factor is seen in the cells.
    """
    tokens = data.model_directory.vocabulary.token_ids
    token_of = {symbol: tokens[gene] for symbol, gene in load_symbols().items() if gene in tokens}
    by_token: dict[int, set[int]] = {}
    for factor, target in zip(regulons["tf"].str.upper(), regulons["target"].str.upper(), strict=True):
        if factor in token_of and target in token_of:
            by_token.setdefault(token_of[factor], set()).add(token_of[target])
    seen = cells_with_gene(data.cells, len(tokens))
    if not any(seen[factor] for factor in by_token):
        raise ScDMCError(
            f"none of the {regulons['tf'].nunique()} transcription factors of {source} is among the genes that the "
            "model reads of these cells; are they official human symbols?"
        )
    return by_token


def embed_for_network(data: GeneData, options: NetworkOptions) -> GeneEmbeddings:
    """Gene embeddings of every type, which the association network is made of."""
    vocabulary = data.model_directory.vocabulary
    return embed_genes(data.encoder, data.cells, data.labels, vocabulary, options.stream, options.min_cells)


def type_network(
    data: GeneData, name: str, embedded: GeneEmbeddings, regulons: dict[int, set[int]], options: NetworkOptions
) -> TypeNetwork | None:
    """Scores of one cell type by every method, and how they agree with the known pairs.

    None, with a warning, where no factor is seen in enough cells of the type.

    Parameters
    ----------
    data
        Model and all cells.
    name
        The type.
    embedded
        Gene embeddings of all types (:func:`embed_for_network`).
    regulons
        From :func:`regulons_by_token`.
    options
        See :class:`NetworkOptions`.
    """
    rows = np.flatnonzero(data.labels == name)
    chosen = np.random.default_rng(options.seed).choice(rows, min(len(rows), options.max_cells), replace=False)
    data = data.select(np.sort(chosen))
    n_cells = cells_with_gene(data.cells, len(data.model_directory.vocabulary))
    by_frequency = np.argsort(-n_cells, kind="stable")
    frequent = by_frequency[n_cells[by_frequency] >= options.min_cells]
    factors = frequent[np.isin(frequent, list(regulons))][: options.n_factors]
    if not len(factors):
        logger.warning(
            "warning: %s is left out: no factor is seen in %d of its %d cells", name, options.min_cells, len(data.cells)
        )
        return None
    targets = frequent[: options.n_targets]
    layers, heads = (None if chosen is None else [n - 1 for n in chosen] for chosen in (options.layers, options.heads))
    dense, factor_columns, target_columns = dense_expression(data.expression, factors, targets)
    scores = {
        ATTENTION: attention_scores(data, factors, targets, options.stream, layers, heads),
        ASSOCIATION: association_scores(embedded.of_type(name), factors, targets),
        PEARSON: pearson_scores(dense, factor_columns, target_columns),
        BOOSTING: boosting_scores(dense, factor_columns, target_columns, seed=options.seed),
    }
    is_known = known_pairs(regulons, factors, targets)
    counts = factors[:, None] != targets[None, :]
    evaluation = evaluation_rows(name, ALL_PAIRS, scores, is_known, counts, options.seed)
    effect, shift = np.full(is_known.shape, np.nan), np.full(len(factors), np.nan)
    n_perturbed = min(options.perturbed_factors, len(factors))
    if n_perturbed:
        found = perturbation_scores(
            data, factors[:n_perturbed], targets, options.stream, options.edit, options.perturbed_cells, options.seed
        )
        effect[:n_perturbed], shift[:n_perturbed] = found.effect, found.cls_shift
        told = np.isfinite(found.effect) & counts[:n_perturbed]
        of_perturbed = {method: matrix[:n_perturbed] for method, matrix in scores.items()}
        of_perturbed[PERTURBATION] = np.abs(np.nan_to_num(found.effect))
        evaluation += evaluation_rows(name, PERTURBED_PAIRS, of_perturbed, is_known[:n_perturbed], told, options.seed)
    edges = _edge_table(data, name, factors, targets, is_known, scores | {PERTURBATION: effect})
    table = pd.DataFrame({
        "cell_type": name, "tf": data.symbols(factors), "cells": n_cells[factors],
        "known_targets": is_known.sum(axis=1), "cls_shift": shift,
    })  # fmt: skip
    return TypeNetwork(edges[counts.ravel()].reset_index(drop=True), table, evaluation)


def _edge_table(
    data: GeneData, name: str, factors: np.ndarray, targets: np.ndarray, is_known: np.ndarray,
    scores: dict[str, np.ndarray],
) -> pd.DataFrame:  # fmt: skip
    table = {
        "cell_type": name,
        "tf": np.repeat(data.symbols(factors), len(targets)),
        "target": np.tile(data.symbols(targets), len(factors)),
        "is_known": is_known.ravel(),
    }
    return pd.DataFrame(table | {SCORE_COLUMNS[method]: matrix.ravel() for method, matrix in scores.items()})


def require_networks(n_types: int, options: NetworkOptions) -> None:
    """Refuse to go on where no type has a network."""
    if not n_types:
        raise ScDMCError(
            f"no cell type has a transcription factor in {options.min_cells} of its cells; "
            "lower --min_cells_per_gene or give more cells"
        )


def require_masked_gene_head(data: GeneData, options: NetworkOptions) -> None:
    """Refuse perturbation with a model that cannot predict genes, before hours are spent on the rest."""
    if options.perturbed_factors and not isinstance(data.model, ScDMCForMaskedLM):
        raise ScDMCError(
            f"{data.model_directory.path} cannot predict genes (no masked-gene head), which perturbation needs; "
            "take a pre-trained model or pass --perturbed_factors 0"
        )


def require_layers_and_heads(data: GeneData, options: NetworkOptions) -> None:
    """Refuse layers and heads that the model does not have."""
    config = data.encoder.config
    for name, chosen, there_are in (
        ("network_layers", options.layers, config.num_hidden_layers),
        ("heads", options.heads, config.num_attention_heads),
    ):
        wrong = [number for number in chosen or () if not 1 <= number <= there_are]
        if wrong or chosen == ():
            raise ScDMCError(f"--{name} {wrong[0] if wrong else 'without a number'}: the model has 1 to {there_are}")


def mean_agreement(evaluation: pd.DataFrame) -> pd.DataFrame:
    """Mean over the cell types, a row for each method and kind of pairs."""
    numbers = [name for name in evaluation if name not in ("cell_type", "pairs", "method", "n_pairs", "n_known")]
    return evaluation.groupby(["pairs", "method"], sort=False)[numbers].mean().reset_index()


def network_verdict(evaluation: pd.DataFrame) -> str:
    """What the evaluation says, in plain words."""
    if evaluation.empty:
        return "No cell type has 10 known pairs among its genes, so the networks were not judged."
    means = mean_agreement(evaluation)
    texts = []
    for pairs, rows in means.groupby("pairs", sort=False):
        ratio = rows.set_index("method")["auprc_ratio"].sort_values(ascending=False)
        by_type = evaluation[evaluation["pairs"] == pairs].pivot(
            index="cell_type", columns="method", values="auprc_ratio"
        )
        best_baseline = by_type[[PEARSON, BOOSTING, RANDOM]].max(axis=1)
        listed = ", ".join(f"{method} {value:.2f}" for method, value in ratio.items())
        ours = [method for method in (ATTENTION, ASSOCIATION, PERTURBATION) if method in ratio]
        better = [method for method in ours if ratio[method] > ratio[[PEARSON, BOOSTING, RANDOM]].max()]
        says = f"{' and '.join(better)} above all baselines" if better else "no score of scDMC is above all baselines"
        n_above = ", ".join(f"{method} in {(by_type[method] > best_baseline).sum()}" for method in ours)
        texts.append(
            f"{pairs.capitalize()}: AUPRC ratio, mean of {len(by_type)} types: {listed}; {says}. Above all "
            f"baselines of the type: {n_above} of {len(by_type)}."
        )
    return " ".join(texts)
