"""Gene modules of a model, what they do, and whether known pathways say that they mean something."""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scdmc.gene_analysis.data import ALL_CELLS, GeneData, mean_expression
from scdmc.gene_analysis.module_detection import (
    GeneModules,
    central_genes,
    enrichment_table,
    expression_profiles,
    find_modules,
    module_activity,
    module_name,
)
from scdmc.gene_analysis.options import LARGEST_FDR, ModuleOptions
from scdmc.gene_analysis.set_consistency import (
    PermutationTest,
    consistency,
    enrichment_test,
    matching_strata,
)
from scdmc.gene_analysis.sets import gene_set_membership, require_known_sets
from scdmc.gene_analysis.states import centred_units, embed_genes

logger = logging.getLogger(__name__)


METHOD, WORDS, COEXPRESSION = "scDMC gene embeddings", "scDMC input embedding, no context", "co-expression (50 PCs)"


LARGEST_P = 0.01


@dataclass(frozen=True)
class ModuleResults:
    """What was found.

    Attributes
    ----------
    found
        The modules.
    genes
        A row for each gene: gene_id, symbol, cells, module, one column for each resolution, UMAP coordinates.
    modules
        A row for each module: genes, most active type, central genes; with gene sets the most enriched one.
    activity
        Modules x cell types: mean of ``scanpy.tl.score_genes``.
    enrichment, consistency, tests
        With gene sets: sets enriched in modules; cosine within each set, by method; the permutation tests.
    """

    found: GeneModules
    genes: pd.DataFrame
    modules: pd.DataFrame
    activity: pd.DataFrame
    enrichment: pd.DataFrame | None = None
    consistency: pd.DataFrame | None = None
    tests: pd.DataFrame | None = None

    @property
    def verdict(self) -> str:
        """What the tests say, in plain words."""
        if self.tests is None:
            return "No gene sets were given, so whether the modules mean something was not tested."
        closer = _verdict(self.tests, "pathway consistency", "Genes of one set lie closer together")
        return f"{closer} {_verdict(self.tests, 'enriched gene sets', 'More gene sets are enriched in modules')}"


def _verdict(tests: pd.DataFrame, test: str, claim: str) -> str:
    rows = tests[tests["test"] == test].set_index("method")
    ours = rows.loc[METHOD]
    holds = "holds" if ours["p"] < LARGEST_P else "does NOT hold"
    compared = "; ".join(_comparison(ours, rows.loc[name], name) for name in rows.index.drop(METHOD))
    return (
        f"'{claim} than for matched random genes' {holds} for scDMC ({ours['observed']:.3g} against "
        f"{ours['null_mean']:.3g} at random, permutation p = {ours['p']:.2g}). How far it is from random, beside each "
        f"baseline: {compared}."
    )


def _comparison(ours: pd.Series, baseline: pd.Series, name: str) -> str:
    """Standard deviations from random of scDMC and of one baseline, in plain words."""
    numbers = f"{baseline['observed']:.3g} against {baseline['null_mean']:.3g}, p = {baseline['p']:.2g}"
    if not np.isfinite([ours["z"], baseline["z"]]).all():
        return f"not comparable with {name} (random sets do not vary; {numbers})"
    compared = "further" if ours["z"] > baseline["z"] else "less far"
    return f"{compared} ({ours['z']:.1f} standard deviations) than {name} ({baseline['z']:.1f}; {numbers})"


def analyse_modules(
    data: GeneData, gene_sets: dict[str, list[str]] | None = None, options: ModuleOptions | None = None,
    source: str = "gene sets",
) -> ModuleResults:  # fmt: skip
    """Find modules of genes, score their activity, and test them against gene sets.

    Parameters
    ----------
    data
        Model and cells.
    gene_sets
        Name -> symbols or Ensembl ids (:func:`scdmc.gene_analysis.sets.read_gene_sets`).
    options
        See :class:`ModuleOptions`.
    source
        Of the gene sets, for messages.

    Raises
    ------
    ScDMCError
        If there are too few cells or genes, or no gene set has enough genes among them.
    """
    options = options or ModuleOptions()
    if gene_sets is not None and 1 / (1 + options.permutations) >= LARGEST_P:
        logger.warning(
            "warning: with --permutations %d no p can be below %g, so no claim can hold; take 100 or more",
            options.permutations, LARGEST_P,
        )  # fmt: skip
    vocabulary = data.model_directory.vocabulary
    if gene_sets is not None:
        require_known_sets(gene_sets, vocabulary, source)
    everything = np.full(len(data.cells), ALL_CELLS)
    embedded = embed_genes(data.encoder, data.cells, everything, vocabulary, options.stream, options.min_cells)
    genes, tokens = embedded.table, embedded.table["token"].to_numpy()
    symbols = genes["symbol"].to_numpy(dtype=object)
    found = find_modules(embedded.means, options.resolutions, options.n_neighbors, options.seed)
    logger.info("%d genes, %d modules at resolution %g", len(tokens), found.n_modules, found.resolution)
    expression = data.expression[:, tokens]
    activity = module_activity(expression, found.modules, data.labels, options.seed)
    results = ModuleResults(found, _gene_table(genes, found), _module_table(found, symbols, activity), activity)
    if gene_sets is None:
        return results
    names, membership = gene_set_membership(gene_sets, symbols, source)
    degree = np.asarray(membership.sum(axis=0)).ravel()
    strata = matching_strata(mean_expression(data.expression, tokens), degree)
    words = data.encoder.get_input_embeddings().weight.detach()[tokens].float().cpu().numpy()
    profiles = expression_profiles(expression, seed=options.seed)
    tests, tables = [], []
    for method, vectors in ((METHOD, embedded.means), (WORDS, words), (COEXPRESSION, profiles)):
        test, table = consistency(centred_units(vectors), membership, names, strata, options.permutations, options.seed)
        tests.append(_test_row("pathway consistency", method, test))
        tables.append(table.assign(method=method))
    coexpressed = find_modules(profiles, options.resolutions, options.n_neighbors, options.seed, found.n_modules)
    for method, its_modules in ((METHOD, found), (COEXPRESSION, coexpressed)):
        test = enrichment_test(membership, its_modules.modules, strata, options.permutations, options.seed)
        tests.append(_test_row("enriched gene sets", method, test) | {"modules": its_modules.n_modules})
    enrichment = enrichment_table(found.modules, symbols, names, membership)
    return ModuleResults(
        found,
        results.genes,
        _with_best_set(results.modules, enrichment),
        activity,
        enrichment,
        pd.concat(tables, ignore_index=True),
        pd.DataFrame(tests),
    )


def _gene_table(genes: pd.DataFrame, found: GeneModules) -> pd.DataFrame:
    table = genes[["gene_id", "symbol", "cells"]].assign(module=[module_name(m) for m in found.modules])
    for resolution, modules in found.by_resolution.items():
        table[f"resolution_{resolution:g}"] = [module_name(m) for m in modules]
    return table.assign(UMAP1=found.coordinates[:, 0], UMAP2=found.coordinates[:, 1])


def _module_table(found: GeneModules, symbols: np.ndarray, activity: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "module": activity.index,
            "genes": np.bincount(found.modules),
            "most_active_type": activity.fillna(-np.inf).idxmax(axis=1).where(activity.notna().any(axis=1)).to_numpy(),
            "central_genes": central_genes(found, symbols),
        }
    )


def _with_best_set(modules: pd.DataFrame, enrichment: pd.DataFrame) -> pd.DataFrame:
    """Modules with the gene set of the lowest p, where its FDR is below 0.05, and how many such sets there are."""
    significant = enrichment[enrichment["fdr"] < LARGEST_FDR]
    best = significant.drop_duplicates("module").set_index("module")
    return modules.assign(
        enriched_sets=modules["module"].map(significant["module"].value_counts()).fillna(0).astype(int),
        best_set=modules["module"].map(best["gene_set"]),
        best_fdr=modules["module"].map(best["fdr"]),
    )


def _test_row(name: str, method: str, test: PermutationTest) -> dict[str, object]:
    return {
        "test": name, "method": method, "observed": test.observed, "null_mean": test.null_mean,
        "null_sd": test.null_sd, "z": test.z, "p": test.p,
    }  # fmt: skip
