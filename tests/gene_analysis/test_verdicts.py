"""The verdict of a gene analysis is what its numbers say, beside their baselines."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from scdmc.gene_analysis.attention_analysis import EXPRESSION, SCORES, AttentionResults
from scdmc.gene_analysis.modules import COEXPRESSION, METHOD, ModuleResults
from scdmc.gene_analysis.network_evaluation import RANDOM
from scdmc.gene_analysis.networks import ALL_PAIRS
from scdmc.gene_analysis.options import ATTENTION, BOOSTING, PEARSON, ScreenOptions
from scdmc.gene_analysis.perturbation_results import LABELS
from scdmc.gene_analysis.verdicts import attention_verdict, module_verdict, network_numbers, screen_verdict


@pytest.mark.parametrize(("at_equal", "level"), [(0.7, "good"), (0.56, "caution"), (0.51, "bad")])
def test_attention_counts_beyond_what_expression_says(at_equal, level):
    rows = [
        {"cell_type": name, "method": method, "auroc": 0.8, "auroc_at_equal_expression": value}
        for name in ("alpha", "beta")
        for method, value in ((SCORES["received"], at_equal), (EXPRESSION, 0.52))
    ]
    attributions = SimpleNamespace(correlation=0.41)
    results = AttentionResults(None, None, pd.DataFrame(rows), attributions, [])
    verdict = attention_verdict(results)
    assert verdict.level == level
    assert verdict.numbers[1].value == f"{at_equal:.3f}"
    assert verdict.numbers[1].beside == "0.5 by chance, 0.520 left of expression"
    none = AttentionResults(None, None, pd.DataFrame(), attributions, [])
    assert attention_verdict(none).headline == "Whether attention points at markers was not scored"


@pytest.mark.parametrize(
    ("z", "p", "level"),
    [((9.0, 8.0), (0.001, 0.001), "good"), ((9.0, 1.0), (0.001, 0.5), "caution"), ((0.1, 0.2), (0.4, 0.5), "bad"),
     ((4.0, 4.0), (0.001, 0.001), "caution")],
)  # fmt: skip
def test_modules_are_judged_by_both_tests_and_beside_a_baseline(z, p, level):
    rows = []
    for test, of_test, chance in zip(("pathway consistency", "enriched gene sets"), z, p, strict=True):
        rows.append({"test": test, "method": METHOD, "z": of_test, "p": chance})
        rows.append({"test": test, "method": COEXPRESSION, "z": 5.0, "p": 0.001})
    found = SimpleNamespace(modules=np.array([0, 0, 1]), n_modules=2)
    verdict = module_verdict(ModuleResults(found, pd.DataFrame(index=range(3)), None, None, tests=pd.DataFrame(rows)))
    assert verdict.level == level
    assert verdict.numbers[0].beside == f"5.0 for {COEXPRESSION}"
    untested = module_verdict(ModuleResults(found, pd.DataFrame(index=range(3)), None, None))
    assert untested.headline == "What the modules mean was not tested"


@pytest.mark.parametrize(("ours", "level"), [(3.0, "good"), (1.5, "bad")])
def test_networks_must_be_above_the_best_baseline(ours, level):
    ratios = {ATTENTION: ours, PEARSON: 2.0, BOOSTING: 1.8, RANDOM: 1.0}
    rows = [
        {"cell_type": name, "pairs": ALL_PAIRS, "method": method, "auprc_ratio": ratio}
        for name in ("alpha", "beta")
        for method, ratio in ratios.items()
    ]
    verdict = network_numbers(pd.DataFrame(rows))
    assert verdict.level == level
    assert verdict.numbers[0].beside == f"2.00 for {PEARSON}"
    assert verdict.numbers[1].value == ("2 of 2" if level == "good" else "0 of 2")
    assert network_numbers(pd.DataFrame()).headline == "The networks were not judged"


def test_a_screen_says_how_many_hits_there_are_and_when_there_can_be_none():
    table = pd.DataFrame({"cell_type": ["alpha", "beta"], "perturbed": ["GCG", "INS"], "shift_p": [0.001, 0.5],
                          "shift_fdr": [0.002, 0.5]})  # fmt: skip
    found = screen_verdict(table, ScreenOptions(null_draws=1000), LABELS)
    assert (found.level, found.numbers[0].value) == ("good", "1 of 2")
    assert found.numbers[0].beside == "beyond random genes; first GCG in alpha"
    nothing = screen_verdict(table.assign(shift_fdr=0.5), ScreenOptions(null_draws=1000), LABELS)
    assert (nothing.level, nothing.headline) == ("caution", "No perturbation goes beyond random genes")
    assert screen_verdict(table.assign(shift_fdr=0.5), ScreenOptions(null_draws=5), LABELS).level == "bad"
