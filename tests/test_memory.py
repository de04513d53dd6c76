"""The peak of memory: of this process, not of the one that started it."""

import subprocess
import sys

import numpy as np

from scdmc.memory import peak_memory_of_largest_process, peak_memory_of_process

MIB = 2**20
PRINT_BOTH = (
    "from scdmc.memory import peak_memory_of_largest_process, peak_memory_of_process; "
    "print(peak_memory_of_process(), peak_memory_of_largest_process())"
)


def test_a_process_does_not_begin_with_the_peak_of_the_one_that_started_it():
    held = np.ones(64 * MIB)  # 512 MiB; Python and an import take a tenth
    printed = subprocess.run([sys.executable, "-c", PRINT_BOTH], capture_output=True, text=True, check=True).stdout
    assert max(map(int, printed.split())) < held.nbytes / 2


def test_the_peak_stays_when_memory_is_given_back():
    before = peak_memory_of_process()
    held = np.ones(before // 8 + 4 * MIB)
    expected = held.nbytes
    del held
    assert peak_memory_of_largest_process() >= peak_memory_of_process() >= expected
