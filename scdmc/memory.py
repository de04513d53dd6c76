"""How much memory this process, and those that it started, have taken."""

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")  # Linux alone has it


def peak_memory_of_process() -> int:
    """The largest resident memory that this process has had so far, in bytes.

    ``getrusage`` would not do on Linux: there a new process begins with the peak of the one that started it.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return _peak_of(resource.RUSAGE_SELF)


def peak_memory_of_largest_process() -> int:
    """The same of whichever took most, in bytes: this process, or one that it started and that has ended."""
    return max(peak_memory_of_process(), _peak_of(resource.RUSAGE_CHILDREN))


def _peak_of(who: int) -> int:
    # macOS counts bytes, other systems kibibytes.
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
