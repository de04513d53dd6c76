"""Random AnnData at every script that reads cells: results that can be true, or one line of error."""

import os

import pytest

from tests.faults.kills import SEED
from tests.faults.server import Case

pytestmark = pytest.mark.slow

N_FILES = int(os.environ.get("SCDMC_ODD_FILES", "16"))
SCRIPTS = (
    "tokenize", "medians", "split", "embed", "annotate", "annotate with votes", "annotate by a reference",
    "annotate by views", "annotate by an odd reference", "fine-tune", "cluster", "cluster with labels", "integrate",
    "modules", "networks", "perturb", "attention", "pre-train", "corpus",
)  # fmt: skip
SLOW = (
    "annotate by views",
    "annotate by an odd reference",
    "fine-tune",
    "integrate",
    "modules",
    "networks",
    "perturb",
    "attention",
    "pre-train",
)
SECONDS = 120


def seeds_of(script):
    """Seeds of the files that a script gets: fewer for one that takes long."""
    weight = {name: 1 if name in SLOW else 3 for name in SCRIPTS}
    n = max(1, round(N_FILES * weight[script] / sum(weight.values())))
    return [SEED * 1_000_000 + SCRIPTS.index(script) * 10_000 + number for number in range(n)]


def complaint(script, seed, server, inputs, folder):
    """What is wrong with a run on the file of a seed; nothing where it is as it should be."""
    case = Case("tests.faults.odd_runs:try_script", [script, seed, str(inputs), str(folder)], seconds=SECONDS)
    (outcome,) = server.run(case)
    found = outcome.result
    if not isinstance(found, dict):
        return f"seed {seed}: {outcome.tail}"
    is_honest = found["status"] == 0 or (found["status"] == 2 and len(outcome.errors) == 1)
    if found["wrong"] or not is_honest or "Traceback" in outcome.err:
        return (
            f"seed {seed} {found['shape']} {found['traits']}: {found['wrong']} status {found['status']} {outcome.tail}"
        )
    return None


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_odd_file_gives_a_result_that_can_be_true_or_one_line(script, fork_server, job_inputs, tmp_path):
    seeds = seeds_of(script)
    found = [complaint(script, seed, fork_server, job_inputs, tmp_path / str(seed)) for seed in seeds]
    wrong = [text for text in found if text]
    assert not wrong, f"{len(wrong)} of {len(seeds)} files:\n" + "\n\n".join(wrong)
