"""Pages of the gene analyses from small made-up results, in a second each."""

import numpy as np
import pandas as pd

from scdmc.gene_analysis.attention_analysis import EXPRESSION, SCORES, AttentionResults, CellMap
from scdmc.gene_analysis.attention_results import write_attention_results
from scdmc.gene_analysis.attribution import Attributions
from scdmc.gene_analysis.module_detection import GeneModules
from scdmc.gene_analysis.module_results import write_module_results
from scdmc.gene_analysis.modules import COEXPRESSION, METHOD, ModuleResults
from scdmc.gene_analysis.network_evaluation import RANDOM, TOP_SHARES
from scdmc.gene_analysis.network_results import Collected, write_network_results
from scdmc.gene_analysis.networks import ALL_PAIRS
from scdmc.gene_analysis.options import ATTENTION, BOOSTING, PEARSON, GraphOptions, ModuleOptions
from scdmc.reports.provenance import Provenance

TYPES = ("alpha", "beta", "pancreatic stellate cell")
GENES = np.array(["INS", "GCG", "SST", "PPY", "TTR", "REG1A", "PRSS1", "COL1A1", "CHGA", "HLA-A"])
MADE = Provenance(model="scDMC-small", seed=0)


def modules_page(folder):
    """Three modules of ten genes, tested with two gene sets."""
    rng = np.random.default_rng(0)
    modules = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
    found = GeneModules(rng.normal(size=(10, 4)), {0.5: modules, 1.0: modules}, 0.5, rng.normal(size=(10, 2)))
    names = ["M1", "M2", "M3"]
    table = pd.DataFrame({
        "module": names, "genes": [5, 3, 2], "most_active_in": TYPES, "central_genes": ["INS, GCG", "REG1A", "CHGA"],
        "best_set": ["hormones of the islets", "digestion", None], "best_fdr": [1e-4, 0.002, np.nan],
    })  # fmt: skip
    methods = (METHOD, COEXPRESSION)
    tests = pd.DataFrame([
        {"test": test, "method": method, "observed": 0.2, "null_mean": 0.1, "null_sd": 0.01, "z": 9.0 - number,
         "p": 0.001}
        for test in ("pathway consistency", "enriched gene sets") for number, method in enumerate(methods)
    ])  # fmt: skip
    consistency = pd.DataFrame({"method": np.repeat(methods, 5), "set": list("abcde") * 2, "z": rng.normal(3, 1, 10)})
    enrichment = pd.DataFrame({"module": ["M1"], "set": ["hormones of the islets"], "fdr": [1e-4], "genes": ["INS"]})
    activity = pd.DataFrame(rng.normal(size=(3, 3)), names, TYPES)
    results = ModuleResults(found, pd.DataFrame({"symbol": GENES}), table, activity, enrichment, consistency, tests)
    write_module_results(folder, results, ModuleOptions(), 300, MADE)
    return folder / "report.html"


def networks_page(folder):
    """Networks of three types by one score of ours and three baselines."""
    rng, collected = np.random.default_rng(0), Collected()
    (folder / "graphs").mkdir()
    for name in TYPES:
        edges = pd.DataFrame({"tf": np.repeat(GENES[:3], 3), "target": np.tile(GENES[3:6], 3), "score": rng.random(9),
                              "is_known": rng.random(9) < 0.3})  # fmt: skip
        collected.strongest[name] = edges
        collected.factors.append(pd.DataFrame({"cell_type": name, "tf": GENES[:3], "cells": 20}))
        collected.hubs.append(pd.DataFrame({"tf": GENES[:3], "targets": 3, "known": 1, "mean_score": 0.5,
                                            "cell_type": name}))  # fmt: skip
        collected.topology.append({"cell_type": name, "top": 0.01, "edges": 9, "genes": 6, "clustering": 0.1})
        for number, method in enumerate((ATTENTION, PEARSON, BOOSTING, RANDOM)):
            odds = {f"odds_ratio_top_{100 * top:g}%": 5 - number - top for top in TOP_SHARES}
            collected.evaluation.append({"cell_type": name, "pairs": ALL_PAIRS, "method": method, "n_pairs": 9,
                                         "n_known": 3, "auprc_ratio": 2.5 - number / 2, **odds})  # fmt: skip
    write_network_results(folder, collected, GraphOptions(), "regulons.csv", MADE)
    return folder / "report.html"


def attention_page(folder):
    """Attention in three types, of a model of two layers with two heads, and one cell."""
    rng = np.random.default_rng(0)
    genes = pd.DataFrame([
        {"cell_type": name, "token": number, "symbol": symbol, "cells": 20, "received": rng.random() * 3,
         "is_marker": number < 3}
        for name in TYPES for number, symbol in enumerate(GENES)
    ])  # fmt: skip
    heads = pd.DataFrame([
        {"layer": layer, "head": head, "entropy": 0.7, "to_specials": 0.1, "marker_auroc": 0.5 + layer / 10}
        for layer in (1, 2) for head in (1, 2)
    ])  # fmt: skip
    recovery = pd.DataFrame([
        {"cell_type": name, "method": method, "auroc": 0.8, "auroc_at_equal_expression": 0.7 - number / 10}
        for name in TYPES for number, method in enumerate((SCORES["received"], SCORES["from_cls"], EXPRESSION))
    ])  # fmt: skip
    attributed = genes.assign(rollout=rng.random(len(genes)), integrated_gradients=rng.random(len(genes)))
    cell = CellMap("cell-1 (alpha)", pd.DataFrame(rng.dirichlet(np.ones(10), 10), GENES, GENES))
    results = AttentionResults(genes, heads, recovery, Attributions(attributed, 0.4, 0.02), [cell])
    write_attention_results(folder, results, MADE)
    return folder / "report.html"
