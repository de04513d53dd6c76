"""How the processes of a run were started, looked at before torch waits for the others.

Only light modules are imported here: a script asks at its start.
"""

import os
import socket
import time
from collections.abc import Mapping, MutableMapping

from scdmc.errors import ScDMCError

# What torchrun sets for every process that it starts.
OWN_MARK = "TORCHELASTIC_RUN_ID"


COUNTS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


SECONDS_TO_ANSWER = 20.0


# Where torch reads how a GPU's memory is handed out; any of them is the user's own choice.
MEMORY_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def require_launch(environment: Mapping[str, str] = os.environ, seconds: float = SECONDS_TO_ANSWER) -> None:
    """Refuse variables of a launch that did not start this process: it would wait for others that never come.

    Parameters
    ----------
    environment
        Variables of the process.
    seconds
        How long the process that leads the run may take to answer.

    Raises
    ------
    ScDMCError
        If RANK, WORLD_SIZE and the like are no counts, contradict each other, were not set by torchrun, or nobody
        answers where the leader should be.
    """
    given = {name: environment[name] for name in COUNTS if name in environment}
    if not given:
        return
    shown = ", ".join(f"{name}={value}" for name, value in given.items())
    advice = f"unset {' '.join(given)}, or start the script with torchrun"
    if not all(value.isdecimal() for value in given.values()):
        raise ScDMCError(f"{shown} in the environment: these are no counts of processes; {advice}")
    rank, size = int(given.get("RANK", 0)), int(given.get("WORLD_SIZE", 1))
    if size == 1 and rank == 0:
        return
    if rank >= size or int(given.get("LOCAL_RANK", 0)) >= int(given.get("LOCAL_WORLD_SIZE", size)):
        raise ScDMCError(f"{shown} in the environment contradict each other; {advice}")
    if OWN_MARK not in environment:
        raise ScDMCError(f"{shown} in the environment, but torchrun did not start this process; {advice}")
    host, port = environment.get("MASTER_ADDR", ""), environment.get("MASTER_PORT", "")
    if not host or not port.isdecimal():
        raise ScDMCError(f"{shown} in the environment without MASTER_ADDR and MASTER_PORT; {advice}")
    # torchrun itself answers there, before it starts the processes; or the process of rank 0 will, later.
    is_led = rank > 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if is_led and not _answers(host, int(port), seconds):
        raise ScDMCError(f"nobody answers at MASTER_ADDR:MASTER_PORT, {host}:{port}, of {shown}; {advice}")


def let_segments_grow(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have torch extend the pieces of a GPU's memory, unless the user has chosen otherwise.

    Every batch has another number of tokens: pieces of one size would leave gaps that no later batch fits into. Torch
    reads the variable when it is imported.

    Parameters
    ----------
    environment
        Variables of the process, changed in place.
    """
    if not any(name in environment for name in MEMORY_VARIABLES):
        environment[MEMORY_VARIABLES[0]] = "expandable_segments:True"


def _answers(host: str, port: int, seconds: float) -> bool:
    """True if a connection comes about within some seconds."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            socket.create_connection((host, port), timeout=left).close()
        except (OSError, OverflowError):
            time.sleep(min(0.5, max(0.0, end - time.monotonic())))
        else:
            return True
    return False


def is_main_process() -> bool:
    """Whether this process writes and prints, of several that torchrun started; known before torch is imported."""
    return int(os.environ.get("RANK", 0)) == 0
