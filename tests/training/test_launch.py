"""Variables of a launch: of torchrun, or left over in the environment."""

import socket
import time

import pytest

from scdmc.errors import ScDMCError
from scdmc.training.launch import let_segments_grow, require_launch

TORCHRUN = {
    "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
    "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "3", "WORLD_SIZE": "4"}, "RANK=3, WORLD_SIZE=4 in the environment, but torchrun did not start this"),
        ({"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1"}, "torchrun did not start"),
        ({"WORLD_SIZE": "4"}, "unset WORLD_SIZE, or start the script with torchrun"),
        ({"RANK": "2"}, "RANK=2 in the environment contradict each other"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "these are no counts of processes"),
        ({"WORLD_SIZE": "two"}, "these are no counts of processes"),
        ({**TORCHRUN, "LOCAL_RANK": "2"}, "contradict each other"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "without MASTER_ADDR and MASTER_PORT"),
        (TORCHRUN, "without MASTER_ADDR and MASTER_PORT"),
        ({**TORCHRUN, "MASTER_PORT": "99999"}, "nobody answers at MASTER_ADDR:MASTER_PORT, 127.0.0.1:99999"),
    ],
)
def test_a_stale_launch_is_refused_at_once(environment, message):
    start = time.monotonic()
    with pytest.raises(ScDMCError, match=message):
        require_launch(environment, seconds=0.2)
    assert time.monotonic() - start < 1


def test_a_launch_whose_leader_answers_is_good_and_one_that_has_gone_is_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        launch = {**TORCHRUN, "MASTER_PORT": str(server.getsockname()[1])}
        require_launch(launch, seconds=5)
    with pytest.raises(ScDMCError, match="nobody answers"):
        require_launch(launch, seconds=0.2)


@pytest.mark.parametrize("environment", [{}, {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, {"RANK": "0"}])
def test_one_process_needs_no_launch(environment):
    require_launch(environment, seconds=0.2)


@pytest.mark.parametrize("own", [{}, {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, {"PYTORCH_CUDA_ALLOC_CONF": ""}])
def test_memory_grows_in_pieces_unless_the_user_chose_otherwise(own):
    environment = {"OTHER": "1", **own}
    let_segments_grow(environment)
    assert environment == {"OTHER": "1", **(own or {"PYTORCH_ALLOC_CONF": "expandable_segments:True"})}
