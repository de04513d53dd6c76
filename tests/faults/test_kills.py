"""SIGKILL at every event: nothing false is visible, the same command ends well, and nothing is left over."""

import random

import pytest

from tests.faults.jobs import JOBS
from tests.faults.kills import SEED, Killer, points_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", JOBS)
def test_a_run_that_is_killed_loses_nothing_and_says_nothing_false(name, fork_server, job_inputs, tmp_path):
    killer = Killer(fork_server, job_inputs, tmp_path, name)
    points = killer.points(points_of(name), random.Random(f"{SEED} {name}"))
    failures = []
    for point in points:
        try:
            killer.kill(point)
        except AssertionError as failure:
            failures.append(str(failure))
    assert not failures, f"seed {SEED}, {len(failures)} of {len(points)} points:\n" + "\n\n".join(failures)
