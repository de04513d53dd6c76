"""A fork server, and the inputs of all jobs."""

import pytest

from tests.faults.server import Case, ForkServer


@pytest.fixture(scope="session")
def fork_server():
    """A process that forks a child for each case."""
    server = ForkServer()
    yield server
    server.end()


@pytest.fixture(scope="session")
def job_inputs(fork_server, tmp_path_factory):
    """The folder of the inputs of all jobs."""
    folder = tmp_path_factory.mktemp("inputs")
    (outcome,) = fork_server.run(Case("tests.faults.inputs:make_inputs", [str(folder)]))
    assert outcome.result == "made", outcome.tail
    return folder
